"""What the study of 1405.4980 judges."""

from __future__ import annotations

import math

from thalweg.study import Claim, at_least, at_most, between, equals

MNIST = ("mnist-t10k-images", "mnist-t10k-labels")
BELOW_ONE = math.nextafter(1.0, 0.0)

CLAIMS = [
    Claim(
        "the complexity theorems hold along runs",
        "steps of all runs, less three standard errors, that are above the bound",
        "steps_above_bound",
        equals(0),
    ),
    Claim(
        "every theorem of the text",
        "bounds that no run was held against",
        "bounds_without_run",
        equals(0),
    ),
    Claim(
        "what a method certifies is true",
        "runs in which a certified gap or radius is less than the true one: cutting planes, "
        "geometric descent, Frank-Wolfe, interior points",
        "certificates_false",
        equals(0),
    ),
    Claim(
        "negative control: a run that stood still would be found out",
        "bounds that stay above the start of all of their runs",
        "bounds_that_tell_nothing",
        equals(0),
    ),
    Claim(
        "the centre of gravity needs fewest queries",
        "oracle calls to 1e-4, centre of gravity over Vaidya, n = 6",
        "gravity_over_vaidya",
        at_most(BELOW_ONE),
    ),
    Claim(
        "Vaidya's method needs fewer than the ellipsoid",
        "oracle calls to 1e-4, Vaidya over ellipsoid, n = 6",
        "vaidya_over_ellipsoid",
        at_most(0.5),
    ),
    Claim(
        "Vaidya's queries grow as n",
        "oracle calls to 1e-4, n = 6 over n = 2, Vaidya",
        "vaidya_growth",
        at_most(5),
    ),
    Claim(
        "the ellipsoid's queries grow as n²",
        "oracle calls to 1e-4, n = 6 over n = 2, ellipsoid",
        "ellipsoid_growth",
        at_least(6),
    ),
    Claim(
        "geometric descent is as fast as Nesterov's method",
        "larger over smaller number of steps to a gradient of 1e-8, condition 1e4",
        "accelerated_ratio",
        at_most(1.3),
    ),
    Claim(
        "both need the square root of the steps",
        "steps of gradient descent, stopped at 30 000 in the quick run, over theirs, condition 1e4",
        "acceleration",
        at_least(20),
    ),
    Claim(
        "mirror prox solves games at 1/t",
        "duality gap over that of four times the steps",
        "prox_quotients",
        at_least(3),
    ),
    Claim(
        "mirror descent solves games at 1/sqrt(t)",
        "duality gap over that of four times the steps",
        "descent_quotients",
        between(1.4, 2.9),
    ),
    Claim(
        "FISTA is faster than ISTA",
        "steps of the lasso of 442 patients at which FISTA is above ISTA",
        "fista_above_ista",
        equals(0),
    ),
    Claim(
        "and finds the minimum",
        "largest difference of a coefficient from scikit-learn's",
        "lasso_difference",
        at_most(1e-8),
    ),
    Claim(
        "an interior point method takes of the order of sqrt(nu) Newton steps",
        "exponent of the number of short steps in the number of constraints",
        "newton_exponent",
        between(0.4, 0.7),
    ),
    Claim(
        "random hyperplanes cut 0.878 of the relaxation",
        "mean rounded cut over the value of the relaxation, by graph",
        "cut_ratios",
        at_least(0.878),
    ),
    Claim(
        "the relaxation is solved",
        "dual bound minus value, by graph",
        "dual_gaps",
        at_most(1e-6),
    ),
    Claim(
        "random coordinates, drawn by their curvature, need less work than gradients",
        "work to 1e-4 of the start over that of gradient descent, curvatures of 50 "
        "coordinates from 1 to 1000",
        "work_quotients",
        at_most(0.5),
    ),
    Claim(
        "hit-and-run draws evenly from a convex body",
        "largest error of a mean or variance in the simplex, n = 5",
        "moment_errors",
        at_most(4),
        unit="standard errors",
    ),
    Claim(
        "strongly convex subgradient steps: 2 L² / (alpha (t + 1))",
        "largest measured gap over bound, support vector machine on handwritten 3 and 8",
        "svm_ratio",
        at_most(1),
        preset="full",
        data=MNIST,
    ),
    Claim(
        "Frank-Wolfe needs only the top singular pair",
        "largest measured gap over bound, matrix completion over the nuclear ball",
        "completion_ratio",
        at_most(1),
        preset="full",
    ),
]

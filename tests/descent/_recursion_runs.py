"""A quadratic on which every constant is known, and runs on it."""

from __future__ import annotations

import numpy as np

from thalweg.descent import (
    AbsoluteRegression,
    LeastSquares,
    constants,
    nesterov,
)
from thalweg.descent.recursion_instances import recursion_terms

RNG = np.random.default_rng(0)


A = RNG.normal(size=(20, 3)) * [1.0, 0.4, 0.1]


PROBLEM = LeastSquares(A, A @ [1.0, -1.0, 0.5] + RNG.normal(size=20), l2=0.005)


X0 = np.array([2.0, 0.0, -1.0])


C = constants(PROBLEM, X0)


STAR = PROBLEM.minimiser(X0)


ABSOLUTE = AbsoluteRegression(A / np.linalg.norm(A, axis=1, keepdims=True), A @ [1.0, -1.0, 0.5])


K = 60


def descent(step, n=K, problem=PROBLEM):
    points = [X0]
    for _ in range(n):
        points.append(points[-1] - step * problem.gradient(points[-1]))
    return np.array(points)


def accelerated(mu, n=K):
    points = [X0]
    nesterov(
        PROBLEM.value, X0, jac=PROBLEM.gradient, L=C.L, mu=mu, gtol=0.0, maxiter=n,
        callback=points.append,
    )  # fmt: skip
    return np.array(points)


def terms(scheme, points, **more):
    return recursion_terms(
        scheme, points, fun=PROBLEM.value, jac=PROBLEM.gradient, f_star=C.f_star, x_star=STAR,
        L=C.L, mu=C.mu, **more,
    )  # fmt: skip

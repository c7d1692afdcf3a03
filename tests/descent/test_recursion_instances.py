"""Runs of the deterministic methods obey their recursions; runs with wrong steps do not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thalweg.descent import (
    check_recursion,
    constants,
    gradient_descent,
    linear_bound,
    recursion_rate,
    sublinear_bound,
)
from thalweg.descent.recursion_instances import recursion_terms

from ._recursion_runs import (
    ABSOLUTE,
    PROBLEM,
    STAR,
    X0,
    C,
    K,
    accelerated,
    descent,
    terms,
)


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("scheme", ["gd-nonconvex", "gd-convex", "gd-strong"])
def test_gradient_descent_obeys_its_recursions_and_a_longer_step_does_not(scheme, share):
    step = (
        share
        * {"gd-nonconvex": 1.9, "gd-convex": 1.0, "gd-strong": 2 / (1 + C.mu / C.L)}[scheme]
        / C.L
    )
    points = descent(step)
    found = terms(scheme, points, step=step)
    assert check_recursion(*found) <= 1e-12
    assert (found.D >= -1e-12).all()
    assert (found.Delta >= -1e-12).all()
    longer = terms(scheme, descent(2.5 / C.L), step=2.5 / C.L if scheme != "gd-strong" else step)
    claimed = terms(scheme, descent(2.5 / C.L), step=step)
    assert max(check_recursion(*longer), check_recursion(*claimed)) > 1e-3
    # And the bound that follows holds.
    gaps = PROBLEM.value(points) - C.f_star
    k = np.arange(K + 1)
    if scheme == "gd-nonconvex":
        least = np.minimum.accumulate(np.sum(PROBLEM.gradient(points) ** 2, axis=1))
        bounds = recursion_rate(scheme, k, L=C.L, step=step, gap0=C.gap0)
        assert (least <= bounds * (1 + 1e-12)).all()
        np.testing.assert_allclose(
            bounds, sublinear_bound(C.gap0, np.zeros(K + 1)) / (step * (1 - C.L * step / 2))
        )
    elif scheme == "gd-convex":
        bounds = recursion_rate(scheme, k, L=C.L, step=step, dist0_sq=C.dist0_sq)
        assert (gaps[1:] <= bounds[1:]).all()
        assert bounds[0] == math.inf
        assert bounds[7] == pytest.approx(C.dist0_sq / (2 * step * 7))
    else:
        bounds = recursion_rate(scheme, k, L=C.L, mu=C.mu, step=step, dist0_sq=C.dist0_sq)
        assert (np.sum((points - STAR) ** 2, axis=1) <= bounds + 1e-12).all()
        omega = 1 - 2 * step * C.mu * C.L / (C.L + C.mu)
        np.testing.assert_allclose(bounds, linear_bound(C.dist0_sq, omega, n=K))


@pytest.mark.parametrize("scheme", ["nesterov-convex", "nesterov-strong"])
def test_accelerated_steps_obey_their_recursions_and_plain_steps_do_not(scheme):
    points = accelerated(C.mu if scheme.endswith("strong") else 0.0)
    assert check_recursion(*terms(scheme, points)) <= 1e-12
    assert check_recursion(*terms(scheme, descent(1 / C.L))) > 1e-3
    gaps = PROBLEM.value(points) - C.f_star
    more = {"mu": C.mu, "gap0": C.gap0} if scheme.endswith("strong") else {}
    bounds = recursion_rate(scheme, np.arange(K + 1), L=C.L, dist0_sq=C.dist0_sq, **more)
    assert (gaps <= bounds + 1e-12).all()
    if scheme == "nesterov-convex":
        np.testing.assert_allclose(bounds, 2 * C.L * C.dist0_sq / (np.arange(K + 1) + 1) ** 2)
    else:
        start, omega = C.gap0 + C.mu * C.dist0_sq / 2, 1 - math.sqrt(C.mu / C.L)
        np.testing.assert_allclose(bounds, linear_bound(start, omega, n=K))
        assert not (PROBLEM.value(descent(0.1 / C.L)) - C.f_star <= bounds).all()


def test_terms_of_accelerated_steps_are_those_of_the_definition():
    y = accelerated(0.0, 2)
    lam = [0.0, 1.0, (1 + math.sqrt(5)) / 2]
    gaps = PROBLEM.value(y) - C.f_star
    leading = [y[0], y[1], lam[2] * y[2] - (lam[2] - 1) * y[1]]
    expected = [
        lam[k] ** 2 * gaps[k] + C.L / 2 * np.sum((leading[k] - STAR) ** 2) for k in range(3)
    ]
    np.testing.assert_allclose(terms("nesterov-convex", y).D, expected, rtol=1e-12)
    y, root = accelerated(C.mu, 2), math.sqrt(C.mu / C.L)
    gaps = PROBLEM.value(y) - C.f_star
    # v_{k+1} = (1 - root) v_k + root (x_k - ∇F(x_k) / mu), the estimate sequence's minimiser
    x, v = y[0], y[0]
    for k in range(3):
        expected = gaps[k] + C.mu / 2 * np.sum((v - STAR) ** 2)
        assert terms("nesterov-strong", y).D[k] == pytest.approx(expected, rel=1e-10)
        v = (1 - root) * v + root * (x - PROBLEM.gradient(x) / C.mu)
        if k < 2:
            x = (y[k + 1] + root * v) / (1 + root)


def test_subgradient_steps_obey_their_recursion_and_their_bound():
    star = ABSOLUTE.minimiser(X0)
    c = constants(ABSOLUTE, X0)
    step = math.sqrt(c.dist0_sq) / (c.G * math.sqrt(K + 1))
    points = descent(step, problem=ABSOLUTE)
    common = {"fun": ABSOLUTE.value, "f_star": c.f_star, "x_star": star}
    found = recursion_terms("subgradient", points, step=step, lipschitz=c.G, **common)
    assert check_recursion(*found) <= 1e-12
    # On |x| the recursion is an equation: a smaller Lipschitz constant shows at once.
    one = {"fun": lambda x: abs(x[0]), "f_star": 0.0, "x_star": [0.0]}
    walk = [[3.0], [2.0], [1.0], [0.0], [-1.0], [0.0]]
    exact = recursion_terms("subgradient", walk[:4], step=1.0, lipschitz=1.0, **one)
    np.testing.assert_allclose(exact.D[1:], exact.D[:-1] - exact.Delta + exact.E)
    too_small = recursion_terms("subgradient", walk, step=1.0, lipschitz=0.9, **one)
    assert check_recursion(*too_small) == pytest.approx((1 - 0.81) / 9)
    best = np.min(ABSOLUTE.value(points)) - c.f_star
    assert best <= recursion_rate("subgradient", K, lipschitz=c.G, dist0_sq=c.dist0_sq)
    k = np.arange(K + 1)
    own = recursion_rate("subgradient", k, lipschitz=c.G, dist0_sq=c.dist0_sq)
    fixed = recursion_rate("subgradient", k, lipschitz=c.G, dist0_sq=c.dist0_sq, step=step)
    np.testing.assert_allclose(own, math.sqrt(c.dist0_sq) * c.G / np.sqrt(k + 1))
    assert fixed[K] == pytest.approx(own[K])
    assert (fixed[:K] >= own[:K]).all()
    errors = np.full(K + 1, (step * c.G) ** 2)
    np.testing.assert_allclose(fixed, sublinear_bound(c.dist0_sq, errors) / (2 * step))
    assert np.min(ABSOLUTE.value(descent(1e-4, problem=ABSOLUTE))) - c.f_star > own[K]


def test_gradient_descent_of_the_library_is_a_run_of_the_recursion():
    points = [X0]
    gradient_descent(
        PROBLEM.value, X0, jac=PROBLEM.gradient, step=1 / C.L, gtol=0.0, maxiter=K,
        callback=points.append,
    )  # fmt: skip
    assert check_recursion(*terms("gd-strong", points, step=1 / C.L)) <= 1e-12


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: recursion_terms("svrg", [[1.0]], fun=np.sum, f_star=0.0), ValueError, "scheme mu"),
        (lambda: recursion_terms("gd-convex", [[1.0]], fun=np.sum, f_star=0.0, step=1.0),
         ValueError, "x_star must be given"),
        (lambda: recursion_terms("gd-nonconvex", [[1.0]], fun=np.sum, f_star=0.0, step=1.0, L=1.0),
         ValueError, "jac must be given"),
        (lambda: recursion_terms("gd-nonconvex", [[1.0]], fun=np.sum, jac=np.sign, f_star=0.0),
         ValueError, "step must be given"),
    ],
)  # fmt: skip
def test_malformed_arguments_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()

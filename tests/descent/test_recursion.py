from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.descent import (
    LeastSquares,
    Logistic,
    check_recursion,
    constants,
    diminishing_bound,
    linear_bound,
    loopless_svrg,
    recursion_rate,
    saga,
    sarah,
    sgd,
    sublinear_bound,
    svrg,
    unroll,
)
from thalweg.descent.recursion import SCHEMES
from thalweg.descent.stochastic import replicate, running_average

from ._recursion_runs import (
    X0,
    A,
)

numbers = st.floats(0, 10, allow_nan=False)


@settings(deadline=None)
@given(
    st.floats(0, 100),
    st.lists(st.tuples(st.floats(0, 1), numbers, numbers), min_size=1, max_size=30),
)
def test_unrolling_is_the_closed_form_of_the_general_recursion(d0, terms):
    """W_K (D_0 + sum (E_k - Delta_k) / W_{k+1}), without dividing by what may be 0."""
    omega, errors, decrements = np.array(terms).T
    bounds = unroll(d0, omega, errors, decrements)
    assert bounds[0] == d0
    K = len(terms)
    expected = np.prod(omega) * d0 + sum(
        np.prod(omega[k + 1 :]) * (errors[k] - decrements[k]) for k in range(K)
    )
    assert bounds[K] == pytest.approx(expected, abs=1e-10)


@settings(deadline=None)
@given(st.floats(0, 100), st.lists(numbers, min_size=1, max_size=30))
def test_the_sublinear_bound_holds_for_whatever_progress_the_recursion_allows(d0, errors):
    """Spend as much as there is at once, or evenly: the least Delta stays below."""
    bounds = sublinear_bound(d0, errors)
    total = d0 + np.cumsum(errors)
    np.testing.assert_allclose(bounds, total / np.arange(1, len(errors) + 1))
    d = unroll(d0, 1.0, errors, np.append(0.0, np.diff(bounds * 0)))
    assert (d[1:] >= 0).all()
    # Equal progress of this size is attained, so no smaller bound would be true.
    level = bounds[-1]
    assert unroll(d0, 1.0, errors, np.full(len(errors), level))[-1] == pytest.approx(0, abs=1e-9)


@settings(deadline=None)
@given(st.floats(0, 100), st.floats(0, 0.99), numbers, st.integers(0, 60))
def test_the_linear_bound_dominates_the_loop(d0, omega, error, n):
    bounds = linear_bound(d0, omega, error, n=n)
    assert len(bounds) == n + 1
    exact = unroll(d0, np.full(n, omega), error) if n else np.array([d0])
    assert (exact <= bounds * (1 + 1e-12) + 1e-12).all()
    # It is sharp but for the part of the floor that is still to come.
    still = np.power(omega, np.arange(n + 1)) * error / (1 - omega)
    np.testing.assert_allclose(bounds, exact + still, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(st.floats(0, 100), st.floats(1.01, 20), numbers, st.floats(0, 50), st.integers(1, 200))
def test_the_diminishing_bound_dominates_the_loop(d0, c, e, more, n):
    k0 = c + more
    t = np.arange(n) + k0
    exact = unroll(d0, 1 - c / t, e / t**2)
    bounds = diminishing_bound(d0, c, e, k0, n)
    assert (exact <= bounds * (1 + 1e-12)).all()
    assert bounds[0] >= d0 * (1 - 1e-12)
    assert bounds[n] * (n + k0) == pytest.approx(max(k0 * d0, e / (c - 1)))


def test_the_diminishing_bound_is_approached():
    """D_k (k + k0) tends to e / (c - 1)."""
    c, e, k0, n = 2.0, 3.0, 2.0, 100_000
    t = np.arange(n) + k0
    exact = unroll(0.0, 1 - c / t, e / t**2)
    assert exact[-1] / diminishing_bound(0.0, c, e, k0, n)[-1] == pytest.approx(1, abs=1e-3)


def test_violations_are_found_where_they_are():
    omega, E, Delta = np.full(9, 0.9), np.full(9, 0.3), np.full(9, 0.2)
    D = unroll(5.0, omega, E, Delta)
    assert abs(check_recursion(D, Delta, omega, E)) < 1e-15
    for k in range(9):
        more = D.copy()
        more[k + 1] += 0.01
        assert check_recursion(more, Delta, omega, E) == pytest.approx(0.01 / max(more))
    assert check_recursion(D, Delta, 0.9, 0.3 + 0.05) == pytest.approx(-0.05 / 5)
    assert check_recursion(D, 0.2 + 0.05, 0.9, 0.3) == pytest.approx(0.05 / 5)
    assert check_recursion(D, 0.2, 0.9 - 0.1, 0.3) == pytest.approx(0.1)
    assert check_recursion([3.0], 0.0, 1.0, 0.0) == -math.inf
    assert check_recursion([0.0, 0.0], 0.0, 1.0, 0.0) == 0


def test_the_linear_rate_is_attained_where_it_is_sharp():
    """On mu x² / 2 the error shrinks by 1 - step mu a step; at step 2 / (L + mu) the bound does."""
    problem = LeastSquares([[math.sqrt(2.0), 0.0], [0.0, math.sqrt(8.0)]], [0.0, 0.0])
    c = constants(problem, [3.0, 0.0])
    assert (c.mu, c.L) == pytest.approx((1.0, 4.0))
    x, step = np.array([3.0, 0.0]), 2 / 5
    for k in range(5):
        assert x @ x == pytest.approx(
            recursion_rate("gd-strong", k, L=4.0, mu=1.0, step=step, dist0_sq=9.0)
        )
        x = x - step * problem.gradient(x)
    assert recursion_rate("gd-strong", 3, L=2.0, mu=2.0, step=0.5, dist0_sq=9.0) == 0


LOGISTIC = Logistic(
    A / np.linalg.norm(A, axis=1, keepdims=True), np.sign(A @ [1.0, 1, 1] + 0.1), l2=0.05
)
CL = constants(LOGISTIC, X0)
L_STAR = LOGISTIC.minimiser(X0)
AVERAGED = 40


def excess(measured, bounds):
    """Return how far the mean, less three standard errors, is above the bound at worst."""
    mean = measured.mean(axis=0) - 3 * measured.std(axis=0, ddof=1) / math.sqrt(len(measured))
    return float(np.max(mean - bounds * (1 + 1e-9)))


def test_stochastic_bounds_hold_and_fail_for_runs_with_a_wrong_step():
    L = CL.L_max
    sigma_sq = 1.0  # rows of norm 1, slopes of at most 1
    k = np.arange(400)

    def gap(points):
        return LOGISTIC.value(points) - CL.f_star

    def slope(points):
        squares = np.sum(LOGISTIC.gradient(points) ** 2, axis=-1)
        return np.cumsum(squares) / np.arange(1, len(squares) + 1)

    def walk(step, measure):
        def one(rng):
            return measure(
                sgd(LOGISTIC, X0, step=step, n_steps=399, rng=rng, record=True).history["x"]
            )

        return replicate(one, AVERAGED, rng=1)

    def averages(points):
        return gap(running_average(np.concatenate([points, points[-1:]])))[1:]

    step = 1 / (2 * L)
    bounds = recursion_rate(
        "sgd-convex", k, L=L, step=step, dist0_sq=CL.dist0_sq, sigma_sq=sigma_sq
    )
    np.testing.assert_allclose(
        bounds,
        sublinear_bound(CL.dist0_sq, np.full(400, step**2)) / (2 * step * (1 - L * step)),
    )
    assert excess(walk(step, averages), bounds) <= 0
    assert excess(walk(1e-4 * step, averages), bounds - step * sigma_sq) > 0

    bounds = recursion_rate("sgd-nonconvex", k, L=CL.L, step=step, gap0=CL.gap0, sigma_sq=sigma_sq)
    np.testing.assert_allclose(bounds, 2 * CL.gap0 / (step * (k + 1)) + CL.L * step * sigma_sq)
    assert excess(walk(step, slope), bounds) <= 0
    assert excess(walk(1e-4 * step, slope), 2 * CL.gap0 / (step * (k + 1))) > 0


def test_variance_reduced_bounds_hold_and_fail_for_runs_with_a_wrong_step():
    n, L, mu = LOGISTIC.n, CL.L_max, CL.mu

    def mean_of(run, measure, wrong=1.0):
        return replicate(lambda rng: measure(run(rng, wrong).history), AVERAGED, rng=2)

    def gap(history):
        return history["fun"] - CL.f_star

    def distance(history):
        return np.sum((history["x"] - L_STAR) ** 2, axis=1)

    # SVRG, k counts epochs
    step, m = 0.1 / L, 400
    k = np.arange(6)
    bounds = recursion_rate("svrg", k, L=L, mu=mu, step=step, inner_steps=m, gap0=CL.gap0)
    theta = 1 / (mu * step * 0.8 * m) + 0.2 / 0.8
    assert theta < 1
    np.testing.assert_allclose(bounds, theta**k * CL.gap0)
    for option in ("random", "average"):

        def epochs(rng, wrong, option=option):
            return svrg(
                LOGISTIC, X0, step=wrong * step, n_epochs=5, inner_steps=m, option=option,
                rng=rng, record=True,
            )  # fmt: skip

        assert excess(mean_of(epochs, gap), bounds) <= 0
        assert excess(mean_of(epochs, gap, 1e-4), bounds) > 0

    # SAGA
    def table(rng, wrong):
        return saga(LOGISTIC, X0, step=wrong / (3 * L), n_steps=40 * n, rng=rng, record=True)

    k = np.arange(41) * n
    bounds = recursion_rate("saga", k, L=L, mu=mu, n=n, gap0=CL.gap0, dist0_sq=CL.dist0_sq)
    np.testing.assert_allclose(
        bounds,
        (1 - min(1 / (4 * n), mu / (3 * L))) ** k * (CL.dist0_sq + 2 * n / (3 * L) * CL.gap0),
    )
    assert excess(mean_of(table, distance), bounds) <= 0
    assert excess(mean_of(table, distance, 1e-4), bounds) > 0

    # Loopless SVRG; the distance is a part of Phi
    step, prob = 1 / (6 * L), 1 / n
    spread = LOGISTIC.component_gradients(X0) - LOGISTIC.component_gradients(L_STAR)
    phi0 = CL.dist0_sq + 4 * step**2 / prob * np.mean(np.sum(spread**2, axis=1))
    bounds = recursion_rate("lsvrg", k, L=L, mu=mu, step=step, prob=prob, phi0=phi0)
    np.testing.assert_allclose(bounds, phi0 * max(1 - step * mu, 1 - prob / 2) ** k)

    def loopless(rng, wrong):
        return loopless_svrg(LOGISTIC, X0, step=wrong * step, n_steps=40 * n, rng=rng, record=True)

    assert excess(mean_of(loopless, distance), bounds) <= 0
    assert excess(mean_of(loopless, distance, 1e-4), bounds) > 0


def test_the_bound_of_one_epoch_of_sarah_holds_and_fails_for_a_wrong_step():
    m = 100
    step = 2 / (CL.L_max * (1 + math.sqrt(1 + 4 * m)))
    bounds = recursion_rate("sarah-nonconvex", m, L=CL.L_max, step=step, gap0=CL.gap0)
    assert bounds == pytest.approx(2 * CL.gap0 / (step * (m + 1)))

    def one(rng, step=step):
        seed = int(rng.integers(2**31))
        # Steps are seen one by one as runs of ever longer epochs on the same draws.
        points = [X0] + [
            sarah(LOGISTIC, X0, step=step, n_epochs=1, inner_steps=k, rng=seed).x
            for k in range(1, m + 1)
        ]
        return np.array([np.mean(np.sum(LOGISTIC.gradient(np.array(points)) ** 2, axis=1))])

    assert excess(replicate(one, 10, rng=0), bounds) <= 0
    assert excess(replicate(lambda rng: one(rng, 1e-4 * step), 10, rng=0), bounds) > 0


GOOD = {
    "gd-nonconvex": {"L": 2.0, "step": 0.9, "gap0": 1.0},
    "gd-convex": {"L": 2.0, "step": 0.5, "dist0_sq": 1.0},
    "gd-strong": {"L": 2.0, "mu": 0.5, "step": 0.8, "dist0_sq": 1.0},
    "subgradient": {"lipschitz": 2.0, "dist0_sq": 1.0},
    "nesterov-convex": {"L": 2.0, "step": 0.5, "dist0_sq": 1.0},
    "nesterov-strong": {"L": 2.0, "mu": 0.5, "step": 0.5, "gap0": 1.0, "dist0_sq": 1.0},
    "sgd-convex": {"L": 2.0, "step": 0.25, "dist0_sq": 1.0, "sigma_sq": 1.0},
    "sgd-nonconvex": {"L": 2.0, "step": 0.5, "gap0": 1.0, "sigma_sq": 1.0},
    "svrg": {"L": 2.0, "mu": 0.5, "step": 0.12, "inner_steps": 1000, "gap0": 1.0},
    "lsvrg": {"L": 2.0, "mu": 0.5, "step": 1 / 12, "prob": 0.1, "phi0": 1.0},
    "saga": {"L": 2.0, "mu": 0.5, "step": 1 / 6, "n": 10, "gap0": 1.0, "dist0_sq": 1.0},
    "sarah-nonconvex": {"L": 2.0, "step": 2 / (2 * (1 + math.sqrt(1 + 4 * 6))), "gap0": 1.0},
}


@pytest.mark.parametrize("scheme", GOOD)
def test_a_step_beyond_the_condition_is_refused(scheme):
    assert set(GOOD) == set(SCHEMES)
    k = np.arange(7)
    bounds = recursion_rate(scheme, k, **GOOD[scheme])
    assert bounds.shape == (7,)
    assert recursion_rate(scheme, 6, **GOOD[scheme]) == bounds[6]
    assert (np.diff(bounds[1:]) <= 0).all()
    if scheme == "subgradient":
        return
    for factor in (1.15, 10.0):
        longer = GOOD[scheme] | {"step": factor * GOOD[scheme]["step"]}
        with pytest.raises(ValueError, match=f"step must be .* for '{scheme}'"):
            recursion_rate(scheme, k, **longer)
    if scheme == "sarah-nonconvex":
        with pytest.raises(ValueError, match="step must be <="):
            recursion_rate(scheme, 7, **GOOD[scheme])


def test_the_borders_of_the_conditions():
    for scheme, limit in (("gd-nonconvex", 1.0), ("svrg", 0.125)):
        with pytest.raises(ValueError, match="step must be < "):
            recursion_rate(scheme, 3, **(GOOD[scheme] | {"step": limit}))
    for scheme in ("nesterov-convex", "nesterov-strong", "saga"):
        without = {name: value for name, value in GOOD[scheme].items() if name != "step"}
        assert recursion_rate(scheme, 5, **without) == recursion_rate(scheme, 5, **GOOD[scheme])
        with pytest.raises(ValueError, match="step must be = "):
            recursion_rate(scheme, 5, **(without | {"step": 0.1}))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: recursion_rate("adam", 3, L=1.0), ValueError, "scheme must be one of 'gd-non"),
        (lambda: recursion_rate("gd-convex", 3, L=1.0, step=1.0), ValueError, "dist0_sq must be g"),
        (lambda: recursion_rate("gd-convex", 3, **GOOD["gd-convex"], mu=1.0), ValueError,
         "mu is no constant of 'gd-convex'"),
        (lambda: recursion_rate("gd-convex", 3.5, **GOOD["gd-convex"]), TypeError, "k must hold"),
        (lambda: recursion_rate("gd-convex", -1, **GOOD["gd-convex"]), ValueError, "k must be >="),
        (lambda: recursion_rate("gd-strong", 1, **(GOOD["gd-strong"] | {"mu": 3.0})), ValueError,
         "mu must be"),
        (lambda: recursion_rate("lsvrg", 1, **(GOOD["lsvrg"] | {"prob": 1.5})), ValueError, "prob"),
        (lambda: recursion_rate("svrg", 1, **(GOOD["svrg"] | {"step": 0.0})), ValueError, "step"),
        (lambda: recursion_rate("saga", 1, **(GOOD["saga"] | {"n": 0})), ValueError, "n must be"),
        (lambda: unroll(-1.0, 0.5, [1.0]), ValueError, "d0 must be"),
        (lambda: unroll(1.0, 1.5, [1.0]), ValueError, "omega must be between 0 and 1"),
        (lambda: unroll(1.0, 0.5, [1.0], -1.0), ValueError, "decrements must be >= 0"),
        (lambda: unroll(1.0, [0.5, 0.5], [1.0, 1.0, 1.0]), ValueError, "must have one length"),
        (lambda: unroll(1.0, 0.5, 1.0), ValueError, "must be an array of one axis"),
        (lambda: sublinear_bound(1.0, 2.0), ValueError, "errors must have 1 axes"),
        (lambda: linear_bound(1.0, 1.0, n=3), ValueError, "omega must be"),
        (lambda: linear_bound(1.0, 0.5, -1.0, n=3), ValueError, "error must be"),
        (lambda: diminishing_bound(1.0, 1.0, 1.0, 2.0, 3), ValueError, "c must be"),
        (lambda: diminishing_bound(1.0, 3.0, 1.0, 2.0, 3), ValueError, "k0 must be"),
        (lambda: check_recursion([], 0.0, 1.0, 0.0), ValueError, "D must not be empty"),
        (lambda: check_recursion([1.0, 1.0], [0.0, 0.0], 1.0, 0.0), ValueError, "Delta must have"),
    ],
)  # fmt: skip
def test_malformed_arguments_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()

"""The equations of momentum methods: closed forms, order of approximation, manifolds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.special import jv

from thalweg.descent import (
    coefficients,
    continuous_limit,
    inertial_ode,
    passivity_immersion,
    slow_manifold,
    two_step,
)

ROWS = np.array([[2.0, 0.0], [1.0, 1.0]])
MU, L = 0.5, 0.5 + np.linalg.norm(ROWS, 2) ** 2
X0 = np.array([1.5, -1.0])


def fun(x):
    return float(np.log(np.cosh(ROWS @ x)).sum() + 0.25 * x @ x)


def jac(x):
    return ROWS.T @ np.tanh(ROWS @ x) + 0.5 * x


def hessp(x, v):
    return ROWS.T @ (ROWS @ v / np.cosh(ROWS @ x) ** 2) + 0.5 * v


@pytest.mark.parametrize("way", ["hessp", "lifted", "differences"])
def test_agrees_with_the_matrix_exponential_on_a_quadratic(way):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    H = root @ root.T + 0.3 * np.eye(4)
    x0, v0 = rng.normal(size=(2, 4))
    A, B, C = 1.3, 0.4, 1.7
    companion = np.block([[np.zeros((4, 4)), np.eye(4)], [-C * H, -A * np.eye(4) - B * H]])
    times = np.array([0.5, 0.7, 2.0, 5.0])
    x, v = inertial_ode(
        lambda x: H @ x,
        x0,
        times,
        A=A,
        B=(lambda t: B) if way == "differences" else B,
        C=C,
        hessp=(lambda x, v: H @ v) if way == "hessp" else None,
        v0=v0,
    )
    expected = [expm((t - 0.5) * companion) @ np.r_[x0, v0] for t in times]
    np.testing.assert_allclose(np.c_[x, v], expected, atol=1e-7)


def test_coefficients_may_follow_time():
    # X'' + 3/t X' + X = 0 is solved by 2 J_1(t) / t.
    times = np.linspace(1.0, 12.0, 30)
    slope = 2 * (-jv(2, 1.0))
    x, _ = inertial_ode(
        lambda x: x, [2 * jv(1, 1.0)], times, A=lambda t: 3 / t, B=0.0, C=lambda t: 1.0,
        v0=[slope],
    )  # fmt: skip
    np.testing.assert_allclose(x[:, 0], 2 * jv(1, times) / times, atol=1e-8)


def test_every_form_of_the_curvature_term_gives_the_same_path():
    times = np.linspace(0, 4, 9)
    paths = [
        inertial_ode(jac, X0, times, A=1.4, B=B, C=1.3, hessp=product, v0=[0.5, -1.0])
        for B, product in ((0.3, None), (0.3, hessp), (lambda t: 0.3, None), (lambda t: 0.3, hessp))
    ]
    for x, v in paths[1:]:
        np.testing.assert_allclose(x, paths[0][0], atol=1e-8)
        np.testing.assert_allclose(v, paths[0][1], atol=1e-8)


def test_energy_is_kept_without_damping():
    x, v = inertial_ode(jac, X0, np.linspace(0, 20, 50), A=0, B=0, C=2.0)
    energy = [2.0 * fun(p) + 0.5 * w @ w for p, w in zip(x, v, strict=True)]
    np.testing.assert_allclose(energy, energy[0], rtol=1e-8)


def test_a_path_begins_where_it_is_told():
    x, v = inertial_ode(jac, X0, [2.0, 3.0], A=1.0, B=0.5, C=1.0, v0=[1.0, 2.0])
    np.testing.assert_array_equal(x[0], X0)
    np.testing.assert_allclose(v[0], [1.0, 2.0], atol=1e-14)
    x, v = inertial_ode(jac, X0, [2.0], A=1.0, B=0.5, C=1.0)
    np.testing.assert_array_equal((x[0], v[0]), (X0, np.zeros(2)))


def errors(method, levels, start=0.5, plain=False, factors=(1.0, 1.0, 1.0), horizon=4.0):
    """Largest distances of the iterates from the equation, and the steps."""
    steps, found = [], []
    for level in levels:
        alpha, beta, gamma, _ = coefficients(method, L=4.0**level * L, mu=MU)
        limit = continuous_limit(alpha, beta, gamma)
        A, B, C = np.multiply(limit[:3], factors)
        h = limit[3]
        count = int(horizon / h)
        points = two_step(
            fun, X0, jac=jac, alpha=alpha, beta=beta, gamma=gamma, gtol=0, maxiter=count,
            record=True,
        ).trajectory  # fmt: skip
        if plain:
            B, C = 0.0, 1.0
        x, _ = inertial_ode(jac, X0, h * np.arange(count + 1), A=A, B=B, C=C,
                            v0=-start * h * C * jac(X0))  # fmt: skip
        steps.append(h)
        found.append(np.linalg.norm(points - x, axis=1).max())
    return np.polyfit(np.log(steps), np.log(found), 1)[0]


@pytest.mark.parametrize("method", ["nesterov", "heavy-ball", "triple-momentum"])
def test_iterates_follow_the_equation_to_second_order(method):
    assert errors(method, (4, 5, 6)) >= 1.9


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": 0.0},
        {"start": 1.0},
        {"start": -0.5},
        {"plain": True, "start": 0.0},
        {"factors": (1.0, 0.0, 1.0)},
    ],
    ids=["no first velocity", "twice the velocity", "turned velocity", "plain", "no curvature"],
)
def test_a_missing_term_costs_an_order(wrong):
    assert 0.8 <= errors("nesterov", (4, 5, 6), **wrong) <= 1.2


def test_wrong_damping_or_force_is_no_approximation_at_all():
    for factors in ((1.1, 1.0, 1.0), (1.0, 1.0, 1.1)):
        assert errors("nesterov", (4, 5), factors=factors) < 0.3


@pytest.mark.parametrize(("shift", "low", "high"), [(1.5, 1.85, 2.2), (0.0, 0.8, 1.3)])
def test_nesterovs_convex_method_follows_its_equation_at_half_steps(shift, low, high):
    # With t = (k + 3/2) h the damping is 3 / t exactly; with t = k h only to first order.
    steps, found = [], []
    for level in (4, 5, 6):
        h = 1 / math.sqrt(4.0**level * L)
        alpha, share, _, _ = coefficients("nesterov", L=4.0**level * L)
        count, first = int(4 / h), int(1 / h)
        points = two_step(
            fun, X0, jac=jac, alpha=alpha, beta=share, gamma=share, gtol=0, maxiter=count + 1,
            record=True,
        ).trajectory  # fmt: skip
        times = (np.arange(first, count + 1) + shift) * h
        v0 = (points[first + 1] - points[first - 1]) / (2 * h)
        x, _ = inertial_ode(
            jac, points[first], times, A=lambda t: 3 / t, B=h, C=lambda t, h=h: 1 + 1.5 * h / t,
            hessp=hessp, v0=v0,
        )  # fmt: skip
        steps.append(h)
        found.append(np.linalg.norm(points[first : count + 1] - x, axis=1).max())
    assert low <= np.polyfit(np.log(steps), np.log(found), 1)[0] <= high


@pytest.mark.parametrize("product", [hessp, None])
def test_distance_from_the_manifold_dies_out_exponentially(product):
    times = np.linspace(0, 4, 17)
    x, v, psi = passivity_immersion(
        jac, X0, times, kappa=0.8, gamma=1.5, hessp=product, v0=[1.0, 2.0]
    )
    np.testing.assert_allclose(psi[0], [1.0, 2.0] + 0.8 * jac(X0), rtol=1e-12)
    np.testing.assert_allclose(psi, np.exp(-1.5 * times)[:, None] * psi[0], rtol=1e-6)
    np.testing.assert_allclose(psi, v + 0.8 * np.array([jac(p) for p in x]), atol=1e-14)


def test_on_the_manifold_it_is_gradient_flow():
    times = np.linspace(0, 2, 9)
    x, _, psi = passivity_immersion(lambda x: 2 * x, X0, times, kappa=0.7, gamma=3.0, v0=-1.4 * X0)
    np.testing.assert_allclose(x, np.exp(-1.4 * times)[:, None] * X0, atol=1e-9)
    np.testing.assert_allclose(psi, 0, atol=1e-9)


@given(st.floats(0.2, 3.0), st.floats(0.2, 3.0))
@settings(max_examples=15, deadline=None)
def test_modes_of_the_closed_loop_are_the_two_exponentials(kappa, gamma):
    lam = np.array([0.5, 4.0])
    times = np.linspace(0, 1.5, 4)
    x, _, _ = passivity_immersion(
        lambda x: lam * x, [1.0, -2.0], times, kappa=kappa, gamma=gamma, hessp=lambda x, v: lam * v
    )
    # x' = -kappa lam x + psi with psi = exp(-gamma t) kappa lam x0.
    for i, start in enumerate((1.0, -2.0)):
        slow, rate = kappa * lam[i], gamma
        if abs(slow - rate) > 1e-3:
            share = slow / (slow - rate)
            expected = (1 - share) * np.exp(-slow * times) + share * np.exp(-rate * times)
            np.testing.assert_allclose(x[:, i], start * expected, atol=1e-7)


def test_slow_manifold_of_a_quadratic_is_the_expansion_of_its_slow_exponent():
    # v = r x with r² + (A + B lam) r + C lam = 0, by series in 1 / A at fixed C / A and B.
    lam, speed, B = 1.5, 0.8, 0.3
    remainders = []
    for A in (100.0, 200.0):
        C = speed * A
        exact = np.roots([1, A + B * lam, C * lam]).max()
        row = []
        for order in (0, 1):
            v = slow_manifold(lambda x: lam * x, [2.0], A=A, B=B, C=C, order=order)
            row.append(abs(v[0] / 2.0 - exact))
        remainders.append(row)
    ratios = np.divide(*np.array(remainders))
    np.testing.assert_allclose(ratios, [2.0, 4.0], rtol=0.05)


def test_both_orders_agree_where_the_manifold_is_exact():
    v = [slow_manifold(jac, X0, A=2.0, B=0.5, C=1.0, hessp=hessp, order=order) for order in (0, 1)]
    np.testing.assert_array_equal(v[0], v[1])
    np.testing.assert_allclose(v[0], -0.5 * jac(X0))


def test_differences_stand_in_for_the_hessian_on_the_manifold():
    options = {"A": 20.0, "B": 0.1, "C": 15.0, "order": 1}
    np.testing.assert_allclose(
        slow_manifold(jac, X0, **options), slow_manifold(jac, X0, hessp=hessp, **options), atol=1e-9
    )


def test_a_path_that_leaves_the_finite_numbers_is_stopped():
    with pytest.raises(FloatingPointError, match="cannot be followed beyond t"):
        inertial_ode(lambda x: -(x**3), [1.0], [0.0, 10.0], A=0, B=0, C=1)

    def walled(x):
        return np.where(x < 0.5, np.nan, x)

    with pytest.raises(FloatingPointError, match="cannot be followed beyond t"):
        inertial_ode(walled, [1.0], [0.0, 10.0], A=0.1, B=0, C=1)


GOOD = {"A": 1.0, "B": 0.1, "C": 1.0}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: inertial_ode(3, X0, [0, 1], **GOOD), TypeError, "jac must be callable"),
        (lambda: inertial_ode(jac, X0, [0, 1], hessp=1, **GOOD), TypeError, "hessp must be"),
        (lambda: inertial_ode(jac, [[1.0]], [0, 1], **GOOD), ValueError, "x0 must have 1 axes"),
        (lambda: inertial_ode(jac, [], [0, 1], **GOOD), ValueError, "x0 must not be empty"),
        (lambda: inertial_ode(jac, X0, [0, 1], v0=[1.0], **GOOD), ValueError, "v0 must have shape"),
        (lambda: inertial_ode(jac, X0, [0, 0], **GOOD), ValueError, "t_eval must be increasing"),
        (lambda: inertial_ode(jac, X0, [], **GOOD), ValueError, "t_eval must be increasing"),
        (lambda: inertial_ode(jac, X0, [0, 1], **(GOOD | {"A": math.nan})), ValueError, "A must"),
        (
            lambda: inertial_ode(jac, X0, [0, 1], **(GOOD | {"A": lambda t: 3 / t})),
            ValueError,
            r"A must be finite at t_eval\[0\] = 0",
        ),
        (lambda: inertial_ode(jac, X0, [0, 1], rtol=0, **GOOD), ValueError, "rtol must be"),
        (lambda: inertial_ode(jac, X0, [0, 1], atol=0, **GOOD), ValueError, "atol must be"),
        (
            lambda: inertial_ode(lambda x: x[:1], X0, [0, 1], **GOOD),
            ValueError,
            r"jac must return shape \(2,\), got \(1,\)",
        ),
        (
            lambda: inertial_ode(lambda x: x * np.nan, X0, [0, 1], **GOOD),
            ValueError,
            "jac must be finite at x0",
        ),
        (
            lambda: passivity_immersion(jac, X0, [0, 1], kappa=0, gamma=1),
            ValueError,
            "kappa must be a finite number > 0",
        ),
        (
            lambda: passivity_immersion(jac, X0, [0, 1], kappa=1, gamma=-1),
            ValueError,
            "gamma must be",
        ),
        (lambda: slow_manifold(jac, X0, order=2, **GOOD), ValueError, "order must be one of 0, 1"),
        (lambda: slow_manifold(jac, X0, A=0, B=0, C=1), ValueError, "A must be a finite number"),
        (
            lambda: slow_manifold(lambda x: x * np.inf, X0, **GOOD),
            ValueError,
            "jac and hessp must be finite",
        ),
    ],
)
def test_malformed_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()

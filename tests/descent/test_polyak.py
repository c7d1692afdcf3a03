"""Polyak's steps with momentum: what they minimise, what they promise, SciPy's conventions."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import OptimizeResult, minimize

from thalweg.descent import polyak_mag_bound, polyak_momentum, polyak_step

from ._battery import Problem, logistic, quadratic, smooth_problems

VARIANTS = ("hb", "mag")
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def run(problem, **options):
    options = {"gtol": 0, "maxiter": 200, "record": True, "f_star": problem.minimum} | options
    return polyak_momentum(problem.fun, problem.x0, jac=problem.jac, **options)


def lower_of(name, gap, g, L):
    return {"convex": gap, "smooth": gap + g @ g / (2 * L), "quadratic": 2 * gap}[name]


def plain_loop(problem, variant, lower, beta, steps, *, rule=None):
    """The recursions as printed, positions only; `rule(ell, g, d)` may replace mag's length."""
    x = before = problem.x0.copy()
    d = np.zeros_like(x)
    points = [x]
    for _ in range(steps):
        g = problem.jac(x)
        ell = lower_of(lower, problem.fun(x) - problem.minimum, g, problem.L)
        if variant == "mag":
            d = g + beta * d
            eta = ell / (d @ d) if rule is None else rule(ell, g, d)
            following = x - eta * d
        else:
            eta = max(ell + beta * g @ (x - before), 0) / (g @ g)
            following = x - eta * g + beta * (x - before)
        before, x = x, following
        points.append(x)
    return np.array(points)


def violations(problem, points, lower, beta):
    """Steps after which the squared distance is larger than the moving average promises."""
    count, d = 0, np.zeros_like(problem.x0)
    for x, following in pairwise(points):
        g = problem.jac(x)
        ell = lower_of(lower, problem.fun(x) - problem.minimum, g, problem.L)
        d = g + beta * d
        here, there = (float(np.sum((p - problem.solution) ** 2)) for p in (x, following))
        count += there > here - ell**2 / (d @ d) + 1e-10 * here
    return count


@each_variant
@pytest.mark.parametrize("lower", ["convex", "smooth", "quadratic"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.95])
def test_the_points_follow_the_printed_recursion(variant, lower, beta):
    problem = quadratic(10, 30.0)
    L = problem.L if lower == "smooth" else None
    result = run(problem, variant=variant, lower_bound=lower, momentum=beta, L=L, maxiter=25)
    expected = plain_loop(problem, variant, lower, beta, 25)
    np.testing.assert_allclose(result.history["x"], expected, rtol=1e-9, atol=1e-11)


def test_golden_points_of_two_dimensions():
    """f = (x² + 4 y²) / 2 from (2, 1), beta = 1/2, by hand: d_0 = (2, 4), eta_0 = 4/20."""
    a = np.array([1.0, 4.0])
    result = polyak_momentum(
        lambda x: 0.5 * x @ (a * x), [2.0, 1.0], jac=lambda x: a * x, f_star=0.0, variant="mag",
        momentum=0.5, maxiter=2, record=True,
    )  # fmt: skip
    # x_1 = (1.6, 0.2); g = (1.6, 0.8), d = (2.6, 2.8), gap = 1.36, ‖d‖² = 14.6.
    np.testing.assert_allclose(result.history["step"], [0.2, 1.36 / 14.6], rtol=1e-14)
    np.testing.assert_allclose(
        result.history["x"],
        [[2, 1], [1.6, 0.2], [1.6 - 1.36 / 14.6 * 2.6, 0.2 - 1.36 / 14.6 * 2.8]],
        rtol=1e-13,
    )
    result = polyak_momentum(
        lambda x: 0.5 * x @ (a * x), [2.0, 1.0], jac=lambda x: a * x, f_star=0.0, variant="hb",
        momentum=0.5, maxiter=2, record=True,
    )  # fmt: skip
    # s = (-0.4, -0.8), <g, s> = -1.28, ‖g‖² = 3.2: eta = (1.36 - 0.64) / 3.2 = 0.225.
    np.testing.assert_allclose(result.history["step"], [0.2, 0.225], rtol=1e-14)
    np.testing.assert_allclose(result.x, [1.6 - 0.36 - 0.2, 0.2 - 0.18 - 0.4], rtol=1e-13)


@each_variant
def test_without_momentum_it_is_polyaks_method(variant):
    problem = logistic()
    x = problem.x0
    for point in run(problem, variant=variant, momentum=0.0, maxiter=10).history["x"]:
        np.testing.assert_allclose(point, x, rtol=1e-14, atol=1e-14)
        g = problem.jac(x)
        x = x - (problem.fun(x) - problem.minimum) / (g @ g) * g


@each_variant
@pytest.mark.parametrize("a", [1e-6, 3.0, 1e8])
def test_the_exact_bound_of_a_parabola_needs_one_step(variant, a):
    result = polyak_momentum(
        lambda x: 0.5 * a * x @ x, [3.0], jac=lambda x: a * x, f_star=0.0, variant=variant,
        lower_bound="quadratic",
    )  # fmt: skip
    assert result.success
    assert result.nit == 1
    assert abs(result.x[0]) < 1e-15


@given(st.integers(0, 10_000), st.floats(0.0, 0.99))
@settings(max_examples=40, deadline=None)
def test_the_length_minimises_the_bound_it_is_derived_from(seed, beta):
    rng = np.random.default_rng(seed)
    g, s, d = rng.normal(size=(3, 6))
    x, ell = rng.normal(size=6), rng.uniform(0.5, 3)

    def hb(eta):
        # ‖x + beta s - x*‖² - 2 eta (ell + beta <g, s>) + eta² ‖g‖², x* = 0
        base = x + beta * s
        return base @ base - 2 * eta * (ell + beta * g @ s) + eta**2 * g @ g

    def mag(eta):
        return x @ x - 2 * eta * ell + eta**2 * d @ d

    lengths = {
        mag: polyak_step(9.0, g, direction=d, lower=ell),
        hb: polyak_step(9.0, g, displacement=s, momentum=beta, lower=ell),
    }
    for bound, eta in lengths.items():
        assert bound(eta + 1e-3) > bound(eta)
        if eta > 0:
            assert bound(eta - 1e-3) > bound(eta)
    clipped = ell + beta * g @ s < 0
    assert (lengths[hb] == 0) == clipped


def test_a_heavy_ball_that_runs_uphill_gets_no_gradient_step():
    assert polyak_step(0.1, [1.0, 0.0], displacement=[-1.0, 0.0], momentum=0.9) == 0.0
    # From x = 1 to 0.5 by the first step; then gap 0.125, <g, s> = -0.25: beta = 0.9 is clipped.
    result = polyak_momentum(
        lambda x: 0.5 * x @ x, [1.0], jac=lambda x: x, f_star=0.0, momentum=0.9, maxiter=2,
        record=True,
    )  # fmt: skip
    np.testing.assert_allclose(result.history["step"], [0.5, 0.0])
    np.testing.assert_allclose(result.x, [0.5 - 0.45])


def test_nothing_to_step_along_gives_no_step():
    assert polyak_step(1.0, [0.0, 0.0]) == 0.0
    assert polyak_step(1.0, [1.0], direction=[0.0]) == 0.0
    assert polyak_step(0.0, [1.0]) == 0.0
    assert polyak_step(3.0, [1.0, 1.0], lower=1.0) == 0.5


@each_variant
@given(scale=st.floats(1e-6, 1e6), beta=st.floats(0, 0.95))
@settings(max_examples=15, deadline=None)
def test_scaling_the_function_leaves_the_points(variant, scale, beta):
    problem = quadratic(5, 20.0)
    options = {
        "variant": variant, "momentum": beta, "maxiter": 15, "record": True, "gtol": 0,
    }  # fmt: skip
    one, other = (
        polyak_momentum(
            lambda x, c=c: c * (problem.fun(x) + 1), problem.x0,
            jac=lambda x, c=c: c * problem.jac(x), f_star=0.0, **options,
        )
        for c in (1.0, scale)
    )  # fmt: skip
    np.testing.assert_allclose(other.history["x"], one.history["x"], rtol=1e-8, atol=1e-10)


@each_variant
@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_turning_space_turns_the_points(variant, seed):
    problem = logistic()
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 5)))[0]
    straight = run(problem, variant=variant, maxiter=15).history["x"]
    turned = polyak_momentum(
        lambda x: problem.fun(turn.T @ x), turn @ problem.x0,
        jac=lambda x: turn @ problem.jac(turn.T @ x), f_star=problem.minimum, variant=variant,
        gtol=0, maxiter=15, record=True,
    )  # fmt: skip
    np.testing.assert_allclose(turned.history["x"] @ turn, straight, rtol=1e-7, atol=1e-9)


def piecewise(seed):
    """The largest of 20 affine functions, least at a planted point where twelve of them meet."""
    rng = np.random.default_rng(seed)
    A, star = rng.normal(size=(20, 4)), rng.normal(size=4)
    A[:12] -= A[:12].mean(axis=0)
    heights = np.where(np.arange(20) < 12, 0.0, -rng.exponential(size=20))

    def pieces(x):
        return A @ (x - star) + heights

    return Problem(
        f"piecewise {seed}",
        lambda x: float(np.max(pieces(x))),
        lambda x: A[np.argmax(pieces(x))].copy(),
        star + rng.normal(size=4),
        0.0,
        star,
        lipschitz=float(np.linalg.norm(A, axis=1).max()),
    )


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99])
def test_the_distance_falls_as_promised_on_functions_with_kinks(beta):
    for seed in range(50):
        problem = piecewise(seed)
        points = run(problem, variant="mag", momentum=beta, maxiter=60, ftol=1e-5).history["x"]
        assert violations(problem, points, "convex", beta) == 0


@pytest.mark.parametrize("lower", ["convex", "smooth", "quadratic"])
def test_the_distance_falls_as_promised_on_smooth_functions(lower):
    problem = quadratic(20, 100.0) if lower == "quadratic" else logistic()
    L = problem.L if lower == "smooth" else None
    result = run(problem, variant="mag", lower_bound=lower, L=L, ftol=1e-5)
    assert violations(problem, result.history["x"], lower, 0.9) == 0


@pytest.mark.parametrize(
    "rule",
    [
        lambda ell, g, d: ell / (d @ g),
        lambda ell, g, d: ell / (g @ g),
        lambda ell, g, d: 2.5 * ell / (d @ d),
        lambda ell, g, d: 0.5 * ell / (d @ d),
    ],
    ids=["<d, g>", "‖g‖²", "too long", "too short"],
)
def test_the_certificate_of_the_distance_sees_a_wrong_length(rule):
    problem = quadratic(20, 100.0)
    wrong = plain_loop(problem, "mag", "quadratic", 0.9, 30, rule=rule)
    assert violations(problem, wrong, "quadratic", 0.9) > 0


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_the_least_gap_keeps_its_bound(beta):
    K = np.arange(1, 201)
    for seed in range(5):
        problem = piecewise(seed)
        gaps = run(problem, variant="mag", momentum=beta).history["fun"] - problem.minimum
        gaps = np.append(gaps, np.zeros(max(0, 201 - len(gaps))))[:200]
        bound = polyak_mag_bound(K, problem.lipschitz, problem.radius, beta)
        assert (np.minimum.accumulate(gaps) <= bound).all()


def test_the_bound_is_tight_and_short_steps_break_it():
    """On G ‖x‖ the first point has the gap G D; steps of a hundredth stay above the bound."""
    G, D = 2.0, 3.0
    assert polyak_mag_bound(1, G, D, 0.0) == G * D
    x, gaps = np.array([D, 0.0]), []
    for _ in range(50):
        gaps.append(G * np.linalg.norm(x))
        x = x - 0.01 * gaps[-1] / G * x / np.linalg.norm(x)
    assert (np.array(gaps) > polyak_mag_bound(np.arange(1, 51), G, D, 0.0))[1:].all()
    np.testing.assert_allclose(polyak_mag_bound(4, 1.0, 1.0, 0.75), 2.0)


@pytest.mark.parametrize("problem", [quadratic(20, 50.0), logistic()], ids=["quadratic", "log"])
@each_variant
def test_the_distance_falls_at_the_linear_rate_without_momentum(problem, variant):
    points = run(problem, variant=variant, momentum=0.0, ftol=1e-10).history["x"]
    squared = np.sum((points - problem.solution) ** 2, axis=1)
    factors = squared[1:] / squared[:-1]
    assert factors.max() <= 1 - problem.mu / (4 * problem.L) + 1e-6


@each_variant
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.95, 0.99])
def test_values_do_not_swing_up_on_ill_conditioned_quadratics(variant, beta):
    a = np.geomspace(1, 1e-4, 50)
    result = polyak_momentum(
        lambda x: 0.5 * x @ (a * x), np.sqrt(a), jac=lambda x: a * x, f_star=0.0, variant=variant,
        momentum=beta, maxiter=500, record=True,
    )  # fmt: skip
    assert result.history["fun"].max() <= result.history["fun"][0] * (1 + 1e-9)


@each_variant
@pytest.mark.parametrize("problem", smooth_problems(), ids=lambda problem: problem.name)
def test_scipy_solves_smooth_problems(variant, problem):
    peer = minimize(problem.fun, problem.x0, jac=problem.jac, method="L-BFGS-B")
    result = minimize(
        problem.fun, problem.x0, jac=problem.jac, method=polyak_momentum,
        options={"f_star": problem.minimum, "variant": variant},
    )  # fmt: skip
    assert result.success
    assert result.fun <= peer.fun + 1e-9
    np.testing.assert_allclose(result.jac, problem.jac(result.x), atol=1e-15)
    # The gap is known to rounding, 1e-16, and bounds mu ‖x - x*‖² / 2.
    assert np.linalg.norm(result.x - problem.solution) <= 1e-7 / math.sqrt(problem.mu)
    assert result.nfev == result.njev == result.nit + 1


def test_two_tolerances_stop_it_and_the_message_names_them():
    problem = quadratic()
    by_gap = run(problem, ftol=1e-3, record=False)
    assert by_gap.success
    assert "ftol = 0.001" in by_gap.message
    assert by_gap.fun + 1 <= 1e-3
    assert "met" not in by_gap
    assert "history" not in by_gap
    by_gradient = run(problem, gtol=1e-3)
    assert by_gradient.success
    assert "gtol = 0.001" in by_gradient.message
    norms = [np.linalg.norm(problem.jac(x)) for x in by_gradient.history["x"]]
    assert norms[-1] <= 1e-3 < norms[-2]
    late = run(problem, maxiter=by_gap.nit, ftol=1e-3)
    assert late.success
    none = run(problem, maxiter=3)
    assert (none.success, none.status, none.nit) == (False, 1, 3)
    assert "maxiter = 3" in none.message


def test_history_has_a_step_for_each_move():
    result = run(quadratic(), maxiter=7)
    assert {k: v.shape for k, v in result.history.items()} == {
        "fun": (8,), "x": (8, 10), "step": (7,),
    }  # fmt: skip
    np.testing.assert_array_equal(result.history["x"][-1], result.x)
    assert result.history["fun"][-1] == result.fun


@each_variant
def test_the_longest_step_caps_them(variant):
    problem = quadratic()
    steps = run(problem, variant=variant, momentum=0.5, step_max=0.7).history["step"]
    assert steps.max() == 0.7
    assert run(problem, variant=variant, momentum=0.5).history["step"].max() > 0.7


@each_variant
def test_points_may_have_any_shape_and_values_come_with_gradients(variant):
    flat = np.array([1.0, -2.0, 3.0, 0.5])

    def both(x, shift):
        return float(np.sum((x - shift) ** 4)), 4 * (x - shift) ** 3

    plain, square = (
        polyak_momentum(
            both, x0, args=(0.5,), jac=True, f_star=0.0, variant=variant, maxiter=20, record=True
        )
        for x0 in (flat, flat.reshape(2, 2))
    )
    assert square.history["x"].shape == (21, 2, 2)
    np.testing.assert_allclose(square.x.ravel(), plain.x, rtol=1e-12)
    assert plain.nfev == 21


def test_callbacks_of_both_styles():
    problem, points, states = quadratic(), [], []

    def rich(intermediate_result):
        states.append(intermediate_result)
        if len(states) == 4:
            raise StopIteration

    plain = run(problem, maxiter=4, callback=points.append)
    stopped = run(problem, callback=rich)
    np.testing.assert_array_equal(points, plain.history["x"][1:])
    assert all(isinstance(state, OptimizeResult) for state in states)
    assert (stopped.nit, stopped.status) == (4, 99)
    assert len(stopped.history["step"]) == 4


@each_variant
def test_what_is_not_finite_ends_the_run(variant):
    calls = []

    def jac(x):
        calls.append(x)
        return x if len(calls) < 4 else np.full_like(x, np.nan)

    result = polyak_momentum(
        lambda x: 0.5 * x @ x, [1.0, 2.0], jac=jac, f_star=-1.0, variant=variant, record=True
    )
    assert not result.success
    assert "not finite" in result.message
    assert np.isfinite(result.x).all()
    assert len(result.history["x"]) == result.nit + 1
    long = polyak_momentum(
        lambda x: 1e200, [1.0], jac=lambda x: 1e200 * x, f_star=0.0, variant=variant
    )
    assert not long.success
    assert "finite" in long.message


@each_variant
def test_a_gradient_of_zero_stops_it(variant):
    result = polyak_momentum(
        lambda x: 1.0, [1.0, 2.0], jac=lambda x: 0 * x, f_star=0.0, variant=variant, gtol=0
    )
    assert (result.success, result.nit) == (True, 0)


def test_a_bound_above_the_function_is_refused_but_not_rounding():
    def start(f_star):
        return polyak_momentum(lambda x: 5.0, [1.0], jac=lambda x: x, f_star=f_star)

    with pytest.raises(ValueError, match="f_star is not a lower bound"):
        start(5.0 + 1e-11)
    assert start(5.0 + 1e-12).success
    with pytest.raises(ValueError, match="f_star is not a lower bound"):
        polyak_momentum(lambda x: x @ x, [1.0], jac=lambda x: 2 * x, f_star=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, "momentum must be"),
        ({"momentum": -0.1}, "momentum must be"),
        ({"variant": "nesterov"}, "variant must be one of"),
        ({"lower_bound": "strong"}, "lower_bound must be one of"),
        ({"lower_bound": "smooth"}, "L must be given"),
        ({"lower_bound": "smooth", "L": 0.0}, "L must be"),
        ({"L": 2.0}, "L must be left out"),
        ({"step_max": 0.0}, "step_max must be"),
        ({"gtol": -1.0}, "gtol must be"),
        ({"ftol": -1.0}, "ftol must be"),
        ({"maxiter": -1}, "maxiter must be"),
        ({"f_star": math.inf}, "f_star must be"),
        ({"bounds": [(0, 1)]}, "bounds must be left out"),
        ({"hess": lambda x: x}, "hess must be left out"),
    ],
)
def test_bad_input_is_refused_by_name_before_any_call(options, message):
    def untouched(x):
        raise AssertionError

    with pytest.raises(ValueError, match=message):
        polyak_momentum(untouched, [1.0], jac=untouched, **{"f_star": 0.0} | options)


def test_bad_input_of_the_formulas():
    with pytest.raises(TypeError, match="f_star"):
        polyak_momentum(lambda x: 0.0, [1.0])
    with pytest.raises(TypeError, match="momentun"):
        minimize(
            lambda x: x @ x, [1.0], method=polyak_momentum, options={"f_star": 0.0, "momentun": 1}
        )
    with pytest.raises(ValueError, match="gap must be"):
        polyak_step(-1.0, [1.0])
    with pytest.raises(ValueError, match="lower must be"):
        polyak_step(1.0, [1.0], lower=-1.0)
    with pytest.raises(ValueError, match="momentum must be"):
        polyak_step(1.0, [1.0], displacement=[1.0], momentum=1.0)
    with pytest.raises(ValueError, match="must not be given together"):
        polyak_step(1.0, [1.0], direction=[1.0], displacement=[1.0])
    with pytest.raises(ValueError, match="direction must have shape"):
        polyak_step(1.0, [1.0], direction=[1.0, 2.0])
    with pytest.raises(ValueError, match="displacement must have shape"):
        polyak_step(1.0, [1.0], displacement=[1.0, 2.0])
    for options, name in (
        ({"K": 0}, "K"),
        ({"K": 1.5}, "K"),
        ({"G": -1.0}, "G"),
        ({"D": -1.0}, "D"),
        ({"momentum": 1.0}, "momentum"),
    ):
        with pytest.raises(ValueError, match=f"^{name} must"):
            polyak_mag_bound(**{"K": 1, "G": 1.0, "D": 1.0, "momentum": 0.0} | options)

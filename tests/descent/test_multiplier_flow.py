import numpy as np
import pytest
from scipy.optimize import minimize

from thalweg.descent import minimize_differential_multipliers

A = np.array([3.0, 4.0])


def distance(x):
    return ((x - A) ** 2).sum()


def slope(x):
    return 2 * (x - A)


def circle(kind, squared, sign=-1.0, jac=True):
    """|x|² = squared, or sign (|x|² - squared) >= 0."""
    constraint = {"type": kind, "fun": lambda x: sign * (x @ x - squared)}
    return {**constraint, "jac": lambda x: sign * 2 * x} if jac else constraint


def random_problem(seed):
    """A strongly convex quadratic, two linear equalities, three linear and one ball inequality."""
    rng = np.random.default_rng(seed)
    n = 5
    B = rng.normal(size=(n, n))
    H, c = B @ B.T / n + np.eye(n), rng.normal(size=n)
    E, G = (np.linalg.qr(rng.normal(size=(n, k)))[0].T for k in (2, 3))
    e, g = 0.3 * rng.normal(size=2), 0.5 * np.abs(rng.normal(size=3))
    return (
        lambda x: 0.5 * x @ H @ x + c @ x,
        lambda x: H @ x + c,
        [
            {"type": "eq", "fun": lambda x: E @ x - e, "jac": lambda x: E},
            {"type": "ineq", "fun": lambda x: g - G @ x, "jac": lambda x: -G},
            {"type": "ineq", "fun": lambda x: 1.0 - x @ x},
        ],
        np.zeros(n) + 0.1,
    )


@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_slsqp(seed):
    fun, jac, constraints, x0 = random_problem(seed)
    peer = minimize(fun, x0, jac=jac, constraints=constraints, method="SLSQP", tol=1e-12)
    ours = minimize_differential_multipliers(
        fun, x0, jac=jac, constraints=constraints, lr=0.1, maxiter=6000, tol=1e-7
    )
    assert peer.success
    np.testing.assert_allclose(ours.x, peer.x, atol=1e-4)
    assert ours.maxcv < 1e-5
    lagrangian = jac(ours.x) - ours.multipliers @ np.concatenate(
        [constraints[0]["jac"](ours.x), constraints[1]["jac"](ours.x), -2 * ours.x[None]]
    )
    np.testing.assert_allclose(lagrangian, 0, atol=1e-4)
    assert (ours.multipliers[2:] > -1e-4).all()


@pytest.mark.parametrize("jac", [True, False])
def test_nearest_point_of_the_circle_and_its_multiplier(jac):
    result = minimize_differential_multipliers(
        distance, [1.0, 0.0], jac=slope if jac else None, lr=0.05,
        constraints=circle("eq", 4.0, sign=1.0, jac=jac),
    )  # fmt: skip
    assert result.success
    np.testing.assert_allclose(result.x, 2 * A / 5, atol=1e-7)
    np.testing.assert_allclose(result.multipliers, [1 - 5 / 2], atol=1e-6)
    assert result.fun == pytest.approx(9.0)
    np.testing.assert_allclose(result.jac, slope(result.x), atol=1e-6)


def test_multiplier_is_the_derivative_in_the_right_hand_side():
    """For g(x) >= b the optimum's derivative in b, for an active limit."""

    def run(b):
        constraint = {"type": "ineq", "fun": lambda x, b: 4.0 - x @ x - b, "args": (b,)}
        return minimize_differential_multipliers(
            distance, [1.0, 0.0], jac=slope, constraints=[constraint], lr=0.05
        )

    price = (run(0.01).fun - run(-0.01).fun) / 0.02
    assert run(0.0).multipliers[0] == pytest.approx(price, rel=1e-3)
    assert price > 0


@pytest.mark.parametrize("start", [[1.0, 0.0], [8.0, 0.0]])
def test_inactive_limit_leaves_the_free_optimum(start):
    result = minimize_differential_multipliers(
        distance, start, jac=slope, constraints=circle("ineq", 49.0), lr=0.002, maxiter=20_000
    )
    np.testing.assert_allclose(result.x, A, atol=1e-5)
    np.testing.assert_allclose(result.multipliers, 0, atol=1e-4)
    assert result.maxcv == 0


def test_damping_draws_the_spiral_in():
    """With f = 0 under x = 1 nothing but damping stops the rotation."""

    def last(damping):
        return minimize_differential_multipliers(
            lambda x: 0.0, [0.0], jac=lambda x: 0 * x, damping=damping, maxiter=2000, record=True,
            constraints={"type": "eq", "fun": lambda x: x - 1, "jac": lambda x: [[1.0]]},
        ).history["maxcv"][-700:].max()  # fmt: skip

    assert last(0.0) > 0.9
    assert last(1.0) < 1e-2


def test_one_step_is_that_of_the_flow():
    seen = minimize_differential_multipliers(
        distance, [1.0, 2.0], jac=slope, constraints=circle("ineq", 9.0), lr=0.1, maxiter=1,
        damping=0.5, tol=0.0, record=True,
    )  # fmt: skip
    h = 0.0  # the slack starts at sqrt(g)
    np.testing.assert_allclose(seen.x, [1.0, 2.0] - 0.1 * slope(np.array([1.0, 2.0])))
    np.testing.assert_allclose(seen.multipliers, [0.1 * h])
    outside = minimize_differential_multipliers(
        distance, [3.0, 2.0], jac=slope, constraints=circle("ineq", 9.0), lr=0.1, maxiter=2,
        damping=0.5, tol=0.0,
    )  # fmt: skip
    x, s, lam = np.array([3.0, 2.0]), 0.2, 0.0
    for _ in range(2):
        h = s**2 - (9.0 - x @ x)
        pull = lam + 0.5 * h
        x, s, lam = x - 0.1 * (slope(x) + pull * 2 * x), s - 0.2 * pull * s, lam + 0.1 * h
    np.testing.assert_allclose(outside.x, x)
    np.testing.assert_allclose(outside.multipliers, [lam])


def test_without_constraints_it_is_gradient_descent():
    result = minimize_differential_multipliers(distance, [0.0, 0.0], jac=slope, lr=0.1)
    assert result.success
    np.testing.assert_allclose(result.x, A, atol=1e-7)
    assert result.multipliers.shape == (0,)


def test_is_a_method_of_scipy_minimize():
    seen = []
    result = minimize(
        distance, [1.0, 0.0], jac=slope, constraints=circle("ineq", 4.0),
        method=minimize_differential_multipliers, options={"lr": 0.05},
        callback=lambda intermediate_result: seen.append(intermediate_result.multipliers[0]),
    )  # fmt: skip
    assert result.success
    np.testing.assert_allclose(result.x, 2 * A / 5, atol=1e-6)
    assert len(seen) == result.nit
    assert seen[-1] == result.multipliers[0]


def test_steps_that_are_too_long_are_a_failure_that_says_so():
    result = minimize_differential_multipliers(
        distance, [1.0, 0.0], jac=slope, constraints=circle("eq", 4.0), lr=2.0
    )
    assert not result.success
    assert "finite" in result.message
    assert np.isfinite(result.x).all()


def test_too_few_steps_say_how_far_the_run_came():
    result = minimize_differential_multipliers(
        distance, [1.0, 0.0], jac=slope, constraints=circle("eq", 4.0), maxiter=3
    )
    assert not result.success
    assert "velocity" in result.message


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"damping": -1.0}, ValueError, "damping must"),
        ({"lr": 0.0}, ValueError, "lr must"),
        ({"tol": -1.0}, ValueError, "tol must"),
        ({"bounds": [(0, 1)]}, ValueError, "bounds must be left out"),
        ({"x0": [[1.0, 0.0]]}, ValueError, "x0 must have shape"),
        ({"constraints": [3]}, TypeError, "constraints must be dicts"),
        ({"constraints": {"type": "eq"}}, ValueError, "keys 'type' and 'fun'"),
        ({"constraints": {"type": "le", "fun": distance}}, ValueError, r"constraints\['type'\]"),
        ({"constraints": {"type": "eq", "fun": 3}}, TypeError, r"constraints\['fun'\]"),
        ({"constraints": {"type": "eq", "fun": distance, "jac": 3}}, TypeError, r"\['jac'\]"),
        (
            {"constraints": {"type": "eq", "fun": distance, "jac": lambda x: np.zeros(3)}},
            ValueError,
            r"a Jacobian \(1, 2\)",
        ),
        ({"constraints": {"type": "eq", "fun": lambda x: []}}, ValueError, "a number or more"),
    ],
)
def test_bad_input_is_refused_by_name(options, error, match):
    with pytest.raises(error, match=match):
        minimize_differential_multipliers(
            distance, **{"x0": [1.0, 0.0], "jac": slope, "constraints": (), **options}
        )

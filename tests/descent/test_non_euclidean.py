from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from thalweg.descent import L1, Box, SquaredL2, norm_trust_region, primal_norm
from thalweg.descent.norms import NORMS

TARGET = np.random.default_rng(7).normal(size=(4, 3))


def fun(x):
    return 0.5 * float(np.sum((x - TARGET) ** 2))


def jac(x):
    return x - TARGET


def noisy(x, rng):
    return x - TARGET + rng.normal(size=x.shape)


def points(jac=jac, **settings):
    x = [np.zeros_like(TARGET)]
    norm_trust_region(fun, x[0], jac=jac, callback=x.append, **settings)
    return np.array(x)


DIRECTIONS = {
    "l2": lambda m: m / np.linalg.norm(m),
    "linf": np.sign,
    "spectral": lambda m: scipy.linalg.polar(m)[0],
    "row": lambda m: m / np.linalg.norm(m, axis=1, keepdims=True),
}


@pytest.mark.parametrize("norm", DIRECTIONS)
def test_iterates_are_those_of_the_method_written_out(norm):
    alpha, radius, decay = 0.2, 0.03, 0.01
    rng, x, m = np.random.default_rng(3), np.zeros_like(TARGET), None
    expected = [x]
    for _ in range(50):
        g = noisy(x, rng)
        m = g if m is None else (1 - alpha) * m + alpha * g
        x = (1 - decay) * x - radius * DIRECTIONS[norm](m)
        expected.append(x)
    ours = points(
        noisy, norm=norm, radius=radius, alpha=alpha, weight_decay=decay, maxiter=50, rng=3,
        stochastic=True,
    )  # fmt: skip
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_orthogonalising_before_averages_unit_steps():
    alpha, radius = 0.2, 0.03
    rng, x, m = np.random.default_rng(3), np.zeros_like(TARGET), None
    for _ in range(30):
        unit = scipy.linalg.polar(noisy(x, rng))[0]
        m = unit if m is None else (1 - alpha) * m + alpha * unit
        x = x - radius * m
    ours = points(
        noisy, norm="spectral", radius=radius, alpha=alpha, maxiter=30, rng=3, stochastic=True,
        orthogonalise="before",
    )  # fmt: skip
    np.testing.assert_allclose(ours[-1], x, atol=1e-12)


def test_extrapolated_gradients_are_taken_ahead():
    alpha, radius = 0.25, 0.05
    x = previous = np.zeros_like(TARGET)
    m = None
    for _ in range(20):
        g = jac(x + (1 - alpha) / alpha * (x - previous))
        m = g if m is None else (1 - alpha) * m + alpha * g
        previous, x = x, x - radius * m / np.linalg.norm(m)
    ours = points(radius=radius, alpha=alpha, extrapolate=True, maxiter=20)
    np.testing.assert_allclose(ours[-1], x, atol=1e-12)


def test_extrapolated_average_of_a_quadratic_is_its_gradient():
    result = norm_trust_region(
        fun, np.zeros_like(TARGET), jac=jac, radius=0.05, alpha=0.2, extrapolate=True, maxiter=30
    )
    before_last = points(radius=0.05, alpha=0.2, extrapolate=True, maxiter=30)[-2]
    np.testing.assert_allclose(result.jac, jac(before_last), atol=1e-12)


def test_first_average_is_the_first_gradient():
    result = norm_trust_region(fun, np.zeros_like(TARGET), jac=jac, alpha=0.1, maxiter=1)
    np.testing.assert_allclose(result.jac, -TARGET)


def test_alpha_one_forgets_the_past():
    x = points(norm="spectral", alpha=1.0, radius=0.1, maxiter=5)
    result = norm_trust_region(
        fun, x[0], jac=jac, norm="spectral", alpha=1.0, radius=0.1, maxiter=5
    )
    np.testing.assert_allclose(result.jac, jac(x[-2]))


@pytest.mark.parametrize("norm", NORMS)
def test_every_step_stays_in_its_ball_around_the_shrunken_point(norm):
    x = points(norm=norm, radius=0.2, weight_decay=0.1, maxiter=40)
    for before, after in pairwise(x):
        assert primal_norm(after - 0.9 * before, norm) <= 0.2 * (1 + 1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_weight_decay_keeps_points_within_radius_over_decay(norm):
    x = [np.zeros((4, 3))]
    norm_trust_region(
        fun, x[0], jac=lambda x: x - 100 * TARGET, norm=norm, radius=0.2, weight_decay=0.1,
        maxiter=200, callback=x.append,
    )  # fmt: skip
    sizes = [primal_norm(point, norm) for point in x]
    assert max(sizes) <= 2.0 * (1 + 1e-9)
    assert max(sizes) >= 1.8


@pytest.mark.parametrize("norm", NORMS)
def test_shrinking_radius_reaches_the_minimum(norm):
    result = norm_trust_region(
        fun, np.zeros_like(TARGET), jac=jac, norm=norm, alpha=1.0, maxiter=600,
        radius=lambda k: 0.5 * 0.98**k,
    )  # fmt: skip
    np.testing.assert_allclose(result.x, TARGET, atol=1e-3)


@pytest.mark.parametrize(
    ("norm", "regulariser", "solution"),
    [
        ("linf", L1(0.5), np.sign(TARGET) * np.maximum(np.abs(TARGET) - 0.5, 0)),
        ("l2", L1(0.5), np.sign(TARGET) * np.maximum(np.abs(TARGET) - 0.5, 0)),
        ("spectral", SquaredL2(1.0), TARGET / 2),
        ("linf", Box(-0.2, 0.3), np.clip(TARGET, -0.2, 0.3)),
    ],
)
def test_regularised_minimum_is_reached(norm, regulariser, solution):
    result = norm_trust_region(
        fun, np.zeros_like(TARGET), jac=jac, norm=norm, regulariser=regulariser, alpha=1.0,
        radius=lambda k: 0.3 * 0.98**k, maxiter=600,
    )  # fmt: skip
    np.testing.assert_allclose(result.x, solution, atol=1e-3)


def test_works_as_a_method_of_scipy_minimize_on_a_flat_matrix():
    options = {"norm": "spectral", "shape": (4, 3), "radius": 0.05, "alpha": 1.0, "maxiter": 60}
    flat = scipy.optimize.minimize(
        lambda x: fun(x.reshape(4, 3)),
        np.zeros(12),
        jac=lambda x: jac(x.reshape(4, 3)).ravel(),
        method=norm_trust_region,
        options=options,
    )
    matrix = points(norm="spectral", radius=0.05, alpha=1.0, maxiter=60)[-1]
    np.testing.assert_array_equal(flat.x, matrix.ravel())


def test_extra_arguments_reach_both_functions():
    result = norm_trust_region(
        lambda x, a, b: float(a * x @ x + b),
        [3.0],
        (2.0, 1.0),
        jac=lambda x, a, b: 2 * a * x,
        radius=0.5,
        alpha=1.0,
        maxiter=6,
    )
    assert (result.x[0], result.fun) == (0.0, 1.0)


def test_gradient_tolerance_stops_and_counts():
    result = norm_trust_region(
        fun, np.zeros_like(TARGET), jac=jac, norm="spectral", radius=lambda k: 0.4 * 0.95**k,
        alpha=1.0, gtol=0.05, maxiter=500, record=True,
    )  # fmt: skip
    assert result.success
    assert result.njev == result.nit + 1
    assert np.linalg.norm(jac(result.x), "nuc") <= 0.05
    assert np.all(result.history["dual_norm"][:-1] > 0.05)


def test_unreached_tolerance_is_no_success():
    result = norm_trust_region(fun, np.zeros_like(TARGET), jac=jac, gtol=1e-9, maxiter=3)
    assert (result.success, result.status) == (False, 1)


def test_history_holds_values_and_dual_norms():
    x = points(norm="linf", alpha=1.0, maxiter=5)
    history = norm_trust_region(
        fun, x[0], jac=jac, norm="linf", alpha=1.0, maxiter=5, record=True
    ).history
    np.testing.assert_allclose(history["fun"], [fun(point) for point in x])
    np.testing.assert_allclose(history["dual_norm"], [np.abs(jac(p)).sum() for p in x[:-1]])


def test_runs_with_one_seed_are_equal_and_with_another_differ():
    runs = [points(noisy, stochastic=True, rng=seed, maxiter=20)[-1] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-4


def test_callback_gets_an_intermediate_result_and_may_stop():
    seen = []

    def stop(*, intermediate_result):
        seen.append(intermediate_result)
        if intermediate_result.nit == 3:
            raise StopIteration

    result = norm_trust_region(fun, np.zeros_like(TARGET), jac=jac, callback=stop, record=True)
    assert (result.nit, result.success, len(seen)) == (3, False, 3)
    assert seen[-1].fun == fun(result.x)


def test_gradient_that_is_not_finite_ends_without_success_at_the_last_point():
    def broken(x):
        return jac(x) if np.abs(x).sum() < 0.05 else x * np.nan

    result = norm_trust_region(fun, np.zeros_like(TARGET), jac=broken, radius=0.01)
    assert (result.success, result.status) == (False, 2)
    assert "gradient at step" in result.message
    assert np.isfinite(result.x).all()
    assert np.isfinite(result.fun)


def test_box_that_moves_out_of_reach_ends_without_success():
    result = norm_trust_region(
        fun, np.ones_like(TARGET), jac=jac, norm="linf", regulariser=Box(0.9, 1.0),
        weight_decay=0.5, radius=0.1,
    )  # fmt: skip
    assert (result.success, result.status) == (False, 3)
    assert "regulariser" in result.message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radius": 0.0}, "radius must be a finite number > 0"),
        ({"radius": lambda k: -1.0}, r"radius\(0\) must be"),
        ({"alpha": 0.0}, "alpha must be"),
        ({"alpha": 1.5}, "alpha must be"),
        ({"weight_decay": 1.0}, "weight_decay must be"),
        ({"weight_decay": -0.1}, "weight_decay must be"),
        ({"norm": "l3"}, "norm must be one of"),
        ({"norm": "spectral", "shape": (12,)}, "needs a matrix"),
        ({"shape": (5, 3)}, "shape must have 12 entries"),
        ({"orthogonalise": "never"}, "orthogonalise must be one of"),
        ({"orthogonalise": "before", "regulariser": L1(1.0)}, "regulariser must be None"),
        ({"gtol": 0.1, "weight_decay": 0.1}, "gtol must be 0"),
        ({"maxiter": 0}, "maxiter must be"),
        ({"bounds": [(0, 1)]}, "bounds must be None"),
        ({"constraints": [{}]}, "constraints must be empty"),
    ],
)
def test_bad_input_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        norm_trust_region(fun, np.zeros_like(TARGET), jac=jac, **settings)


def test_gradient_is_required():
    with pytest.raises(TypeError, match="jac must be callable"):
        norm_trust_region(fun, np.zeros(3))


def test_gradient_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="must have shape"):
        norm_trust_region(fun, np.zeros(3), jac=lambda x: np.zeros(2))


def test_pair_without_exact_step_is_refused_before_any_work():
    with pytest.raises(NotImplementedError, match="'nuclear' with regulariser L1"):
        norm_trust_region(fun, np.zeros_like(TARGET), jac=jac, norm="nuclear", regulariser=L1(1.0))

"""A metric that follows the position: agreement with a constant one, and invariance."""

import numpy as np
import pytest
from numba import njit
from scipy import stats

from thalweg.inference import sample_hmc, sample_rmhmc, softabs
from thalweg.inference._density import as_python
from thalweg.inference._riemannian_kernels import (
    Point,
    implicit_step,
    new_geometry,
    riemannian_energy,
    set_geometry,
)

MASS = np.array([1.0, 2.0, 4.0])


def normal(x):
    return -0.5 * (x @ x), -x


def constant(x):
    return np.diag(MASS), np.zeros((3, 3, 3))


@njit(cache=True)
def gamma_log(x):
    """Log of a unit exponential variable, in one dimension."""
    return x[0] - np.exp(x[0]), np.array([1.0 - np.exp(x[0])])


@njit(cache=True)
def growing(x):
    """The Fisher-like metric 1 + exp(x)."""
    e = np.exp(x[0])
    return np.array([[1.0 + e]]), np.array([[[e]]])


def bent(x):
    """A metric whose off-diagonal depends on the position."""
    c = 0.5 * np.tanh(x[0])
    derivative = np.zeros((2, 2, 2))
    derivative[0, 0, 1] = derivative[0, 1, 0] = 0.5 / np.cosh(x[0]) ** 2
    derivative[1, 1, 1] = 2 * x[1]
    return np.array([[1.0, c], [c, 1.5 + x[1] ** 2]]), derivative


def curved(x):
    """Second and third derivatives of x0^2 x1 - x1^4."""
    hessian = np.array([[2 * x[1], 2 * x[0]], [2 * x[0], -12 * x[1] ** 2]])
    third = np.zeros((2, 2, 2))
    third[0] = [[0.0, 2.0], [2.0, 0.0]]
    third[1] = [[2.0, 0.0], [0.0, -24 * x[1]]]
    return hessian, third


def follow(q, p, step, n):
    """Steps of the generalised leapfrog in the metric `bent`; the energies too."""
    point = Point(q.copy(), p.copy(), -q)
    here, trial = new_geometry(2), new_geometry(2)
    as_python(set_geometry)(bent, q, here)
    value = normal(q)[0]
    energies = [riemannian_energy(value, point, here)]
    for _ in range(n):
        value, converged = as_python(implicit_step)(
            normal, bent, point, here, trial, step, np.empty(2)
        )
        assert converged
        energies.append(riemannian_energy(value, point, here))
    return point.q, point.p, np.array(energies)


def test_a_constant_metric_is_static_hmc():
    options = {
        "step_size": 0.4,
        "n_leapfrog": 5,
        "n_warmup": 10,
        "n_draws": 100,
        "chains": 2,
        "rng": 3,
    }
    riemannian = sample_rmhmc(normal, constant, np.ones(3), **options)
    static = sample_hmc(normal, np.ones(3), metric=1 / MASS, jitter=0.0, adapt=False, **options)
    np.testing.assert_allclose(riemannian.samples, static.samples, atol=1e-9)


@pytest.mark.parametrize("compiled", [True, False])
def test_draws_follow_the_target(compiled):
    functions = (gamma_log, growing) if compiled else (gamma_log.py_func, growing.py_func)
    n = 20_000 if compiled else 1_000
    result = sample_rmhmc(
        *functions, [0.0], step_size=0.9, n_leapfrog=2, n_warmup=20, n_draws=n, chains=1, rng=1
    )
    assert result.acceptance.mean() < 0.999
    assert stats.kstest(np.exp(result.samples[0, ::10, 0]), stats.expon.cdf).pvalue > 1e-4


def test_compiled_and_python_paths_draw_the_same():
    options = {"step_size": 0.5, "n_leapfrog": 4, "n_warmup": 5, "n_draws": 30, "rng": 2}
    compiled = sample_rmhmc(gamma_log, growing, [0.0], **options)
    plain = sample_rmhmc(gamma_log.py_func, growing.py_func, [0.0], **options)
    np.testing.assert_allclose(plain.samples, compiled.samples, atol=1e-8)


def test_steps_are_reversible():
    q, p = np.array([0.4, -0.7]), np.array([0.5, 0.8])
    there = follow(q, p, 0.1, 10)
    back = follow(there[0], -there[1], 0.1, 10)
    np.testing.assert_allclose(back[0], q, atol=1e-7)
    np.testing.assert_allclose(-back[1], p, atol=1e-7)


def test_energy_error_is_of_second_order():
    q, p = np.array([0.4, -0.7]), np.array([0.5, 0.8])
    errors = [np.ptp(follow(q, p, step, round(1.6 / step))[2]) for step in (0.04, 0.08)]
    assert 1.8 < np.log2(errors[1] / errors[0]) < 2.2


def test_volume_is_preserved():
    z, h = np.array([0.4, -0.7, 0.5, 0.8]), 1e-4
    columns = []
    for e in np.eye(4):
        plus, minus = z + h * e, z - h * e
        ends = [np.concatenate(follow(y[:2], y[2:], 0.3, 1)[:2]) for y in (plus, minus)]
        columns.append((ends[0] - ends[1]) / (2 * h))
    assert np.linalg.det(np.array(columns)) == pytest.approx(1.0, abs=1e-5)


def test_softabs_is_the_absolute_hessian_of_a_sharp_alpha():
    x = np.array([0.8, 0.5])
    metric, _ = softabs(curved, alpha=1e6)(x)
    values, vectors = np.linalg.eigh(curved(x)[0])
    np.testing.assert_allclose(metric, (vectors * np.abs(values)) @ vectors.T, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.3, 5.0])
def test_softabs_derivatives_are_those_of_its_metric(alpha):
    metric, x, h = softabs(curved, alpha), np.array([0.8, 0.5]), 1e-5
    for k, e in enumerate(np.eye(2)):
        slope = (metric(x + h * e)[0] - metric(x - h * e)[0]) / (2 * h)
        np.testing.assert_allclose(metric(x)[1][k], slope, atol=1e-7)


def test_softabs_of_no_curvature_is_one_over_alpha():
    metric, _ = softabs(lambda x: (np.zeros((2, 2)), np.zeros((2, 2, 2))), alpha=4.0)(np.zeros(2))
    np.testing.assert_allclose(metric, 0.25 * np.eye(2))


def test_fixed_points_that_are_not_found_count_as_divergent():
    result = sample_rmhmc(
        gamma_log, growing, [3.0], step_size=1.5, n_leapfrog=5, n_warmup=0, n_draws=200, rng=0
    )
    assert result.diverging.any()
    assert not result.diverging.all()


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda x: (-np.eye(2), np.zeros((2, 2, 2))), "positive definite"),
        (lambda x: (np.eye(2), np.zeros((2, 2))), "shapes"),
        (lambda x: (np.eye(3), np.zeros((3, 3, 3))), "shapes"),
    ],
)
def test_bad_metrics_are_refused(metric, message):
    with pytest.raises(ValueError, match=message):
        sample_rmhmc(normal, metric, np.zeros(2), step_size=0.1, n_leapfrog=2)


@pytest.mark.parametrize("changes", [{"step_size": -1.0}, {"n_leapfrog": 0}, {"n_draws": 0}])
def test_bad_arguments_are_refused_by_name(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        sample_rmhmc(normal, constant, np.zeros(3), **{"step_size": 0.1, "n_leapfrog": 2} | changes)


def test_bad_alpha_is_refused():
    with pytest.raises(ValueError, match="alpha"):
        softabs(curved, alpha=0.0)

import math

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from thalweg.descent import dual_norm, dual_norm_constant, lmo, primal_norm
from thalweg.descent.norms import NORMS, VECTOR_NORMS

torch = pytest.importorskip("torch")

ENTRIES = st.floats(-1e3, 1e3, allow_subnormal=False)
MATRICES = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=ENTRIES)
)
norms = pytest.mark.parametrize("norm", NORMS)


@norms
@given(m=MATRICES, radius=st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_step_decreases_by_radius_times_the_dual_norm(norm, m, radius):
    step = lmo(m, norm, radius)
    promised = radius * dual_norm(m, norm)
    assert np.sum(m * step) == pytest.approx(-promised, rel=1e-9, abs=1e-9)


@norms
@given(m=MATRICES, radius=st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_step_stays_in_the_ball(norm, m, radius):
    assert primal_norm(lmo(m, norm, radius), norm) <= radius * (1 + 1e-9)


@norms
def test_no_random_point_of_the_ball_is_better(norm):
    rng = np.random.default_rng(1)
    m = rng.normal(size=(4, 3))
    best = lmo(m, norm)
    for _ in range(300):
        d = best * rng.integers(0, 2) + 0.3 * rng.normal(size=m.shape)
        assert np.sum(m * d) / primal_norm(d, norm) >= np.sum(m * best)


def test_norms_of_a_known_matrix():
    x = np.array([[3.0, 0.0], [0.0, -4.0]])
    primal = {"l2": 5.0, "linf": 4.0, "l1": 7.0, "spectral": 4.0, "nuclear": 7.0, "row": 4.0}
    dual = {"l2": 5.0, "linf": 7.0, "l1": 4.0, "spectral": 7.0, "nuclear": 4.0, "row": 7.0}
    assert {norm: primal_norm(x, norm) for norm in NORMS} == pytest.approx(primal)
    assert {norm: dual_norm(x, norm) for norm in NORMS} == pytest.approx(dual)


@pytest.mark.parametrize("shape", [(8, 6), (3, 7), (5, 5)])
def test_spectral_step_is_minus_the_polar_factor(shape):
    m = np.random.default_rng(0).normal(size=shape)
    factor = scipy.linalg.polar(m)[0]
    np.testing.assert_allclose(lmo(m, "spectral", 2.0), -2.0 * factor, atol=1e-12)


def test_spectral_step_leaves_the_null_space_alone():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(6, 2)), rng.normal(size=(2, 5))
    values = np.linalg.svd(lmo(left @ right, "spectral"), compute_uv=False)
    np.testing.assert_allclose(values, [1, 1, 0, 0, 0], atol=1e-10)


def test_greedy_step_moves_the_first_of_the_largest_coordinates():
    step = lmo([1.0, -3.0, 3.0], "l1", 0.5)
    np.testing.assert_array_equal(step, [0.0, 0.5, 0.0])


def test_sign_of_zero_is_zero():
    np.testing.assert_array_equal(lmo([2.0, 0.0, -1.0], "linf"), [-1.0, 0.0, 1.0])


@norms
def test_zero_gradient_gives_a_zero_step(norm):
    np.testing.assert_array_equal(lmo(np.zeros((3, 2)), norm), np.zeros((3, 2)))


@norms
@pytest.mark.parametrize("scale", [1e-250, 1e250])
def test_step_does_not_depend_on_the_scale_of_the_gradient(norm, scale):
    m = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose(lmo(m * scale, norm), lmo(m, norm), atol=1e-10)


@pytest.mark.parametrize(
    ("orthogonaliser", "lower", "upper"),
    [("newton-schulz", 0.65, 1.25), ("polar-express", 0.87, 1.13)],
)
@pytest.mark.parametrize("shape", [(32, 32), (40, 16), (16, 40)])
def test_polynomials_take_singular_values_near_one(orthogonaliser, lower, upper, shape):
    rng = np.random.default_rng(0)
    left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    given = np.geomspace(1, 1e-4, min(shape))
    given = np.maximum(given, 0.0015 * np.linalg.norm(given))
    values = np.linalg.svd(
        lmo(left * given @ right, "spectral", 1.0, orthogonaliser), compute_uv=False
    )
    assert values.min() >= lower
    assert values.max() <= upper


@norms
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tensor_and_array_give_the_same(norm, dtype):
    m = np.random.default_rng(0).normal(size=(5, 4)).astype(dtype)
    step = lmo(torch.tensor(m), norm, 0.5)
    assert step.dtype == getattr(torch, dtype)
    np.testing.assert_allclose(step.numpy(), lmo(m, norm, 0.5), atol=1e-5)
    assert dual_norm(torch.tensor(m), norm) == pytest.approx(dual_norm(m, norm), rel=1e-5)


@norms
def test_shape_and_type_are_kept(norm):
    m = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    step = lmo(m, norm)
    assert (step.shape, step.dtype) == (m.shape, m.dtype)
    flat = lmo(m.reshape(4, 6), norm).reshape(m.shape)
    np.testing.assert_array_equal(step, flat)


@norms
@pytest.mark.parametrize("shape", [(7, 4), (2, 9)])
def test_constant_is_the_least_between_the_dual_norm_and_the_length(norm, shape):
    rng = np.random.default_rng(0)
    rho = dual_norm_constant(norm, shape)
    for m in rng.normal(size=(50, *shape)):
        assert dual_norm(m, norm) <= rho * np.linalg.norm(m) * (1 + 1e-12)
    equal = {"linf": np.ones(shape), "row": np.ones(shape), "spectral": np.eye(*shape)}
    attained = equal.get(norm, np.eye(*shape)[:, :1] @ np.eye(1, shape[1]))
    assert dual_norm(attained, norm) == pytest.approx(rho * np.linalg.norm(attained))


@pytest.mark.parametrize("norm", [n for n in NORMS if n not in VECTOR_NORMS])
def test_matrix_norm_of_a_vector_is_refused_by_name(norm):
    with pytest.raises(ValueError, match=f"norm='{norm}' needs a matrix"):
        lmo([1.0, 2.0], norm)


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan, math.inf])
def test_radius_must_be_positive(radius):
    with pytest.raises(ValueError, match="radius must be a finite number > 0"):
        lmo([1.0], "l2", radius)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lmo([1.0], "l3"), "norm must be one of"),
        (lambda: lmo([[1.0]], "spectral", 1.0, "qr"), "orthogonaliser must be one of"),
        (lambda: dual_norm([1.0, np.nan], "l2"), "m must be finite"),
        (lambda: primal_norm(np.zeros((0, 2)), "l2"), "x must not be empty"),
        (lambda: lmo(torch.tensor([1.0, np.inf]), "l2"), "m must be finite"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_integer_tensor_is_refused():
    with pytest.raises(TypeError, match="floating-point"):
        lmo(torch.tensor([1, 2]), "l2")

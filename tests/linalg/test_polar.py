import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.linalg import matrix_sign, named_schedule, polar_express_schedule, polar_factor

torch = pytest.importorskip("torch")


def orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.standard_normal((rows, columns)))[0]


def spread(rng, rows, columns, least=1e-3):
    """A matrix of singular values from `least` to 1, and its polar factor."""
    k = min(rows, columns)
    u, v = orthonormal(rng, rows, k), orthonormal(rng, columns, k)
    return (u * np.geomspace(least, 1, k)) @ v.T, u @ v.T


@pytest.mark.parametrize("shape", [(30, 30), (90, 30), (30, 90), (7, 1)])
@pytest.mark.parametrize("fast", [True, False])
def test_agrees_with_the_singular_value_decomposition(rng, shape, fast):
    a, exact = spread(rng, *shape)
    np.testing.assert_allclose(polar_factor(a, 10, fast=fast), exact, rtol=0, atol=1e-12)


def test_agrees_with_scipy_on_a_random_square_matrix(rng):
    a = rng.standard_normal((12, 12)) + 3 * np.eye(12)
    np.testing.assert_allclose(polar_factor(a, 12), scipy.linalg.polar(a)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["newton-schulz-3", "newton-schulz-5", "jordan", "you"])
def test_named_schedules_act_on_singular_values(rng, name):
    k, schedule = 6, named_schedule(name, 4)
    u, v = orthonormal(rng, 8, k), orthonormal(rng, 8, k)
    values = np.linspace(0.2, 1, k)
    expected = values.copy()
    for row in schedule:
        expected = sum(c * expected ** (2 * i + 1) for i, c in enumerate(row))
    factor = polar_factor((u * values) @ v.T, 4, name, normalize=False)
    np.testing.assert_allclose(factor, (u * expected) @ v.T, rtol=0, atol=1e-13)


@pytest.mark.parametrize("degree", [1, 3, 7, 9])
@pytest.mark.parametrize("fast", [True, False])
def test_polynomials_of_any_degree_act_on_singular_values(rng, degree, fast):
    schedule = polar_express_schedule(4, lower=0.1, degree=degree)
    u, v = orthonormal(rng, 5, 3), orthonormal(rng, 3, 3)
    values = np.array([0.1, 0.5, 1.0])
    expected = values.copy()
    for row in schedule:
        expected = sum(c * expected ** (2 * i + 1) for i, c in enumerate(row))
    factor = polar_factor((u * values) @ v.T, 4, schedule, normalize=False, fast=fast)
    np.testing.assert_allclose(factor, (u * expected) @ v.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_iter", [1, 3, 4, 7])
def test_fast_iteration_is_the_plain_one(rng, n_iter):
    a, _ = spread(rng, 80, 20)
    fast, plain = (polar_factor(a, n_iter, fast=flag) for flag in (True, False))
    np.testing.assert_allclose(fast, plain, rtol=0, atol=1e-10)


def test_batch_is_a_loop(rng):
    a = rng.standard_normal((2, 3, 6, 4))
    batch, info = polar_factor(a, full_output=True)
    assert info["residuals"].shape == (8, 2, 3)
    for i in np.ndindex(2, 3):
        one, one_info = polar_factor(a[i], full_output=True)
        np.testing.assert_allclose(batch[i], one, rtol=0, atol=1e-13)
        np.testing.assert_allclose(info["residuals"][(slice(None), *i)], one_info["residuals"])


def test_transpose_gives_the_transpose(rng):
    a = rng.standard_normal((9, 5))
    np.testing.assert_allclose(polar_factor(a.T), polar_factor(a).T, rtol=0, atol=1e-13)


def test_rotating_both_sides_rotates_the_factor(rng):
    a, _ = spread(rng, 12, 8, least=1e-2)
    q, r = orthonormal(rng, 12, 12), orthonormal(rng, 8, 8)
    rotated = polar_factor(q @ a @ r, 10)
    np.testing.assert_allclose(rotated, q @ polar_factor(a, 10) @ r, rtol=0, atol=1e-12)


@settings(deadline=None)
@given(st.floats(-290, 290))
def test_scale_does_not_matter(exponent):
    a = np.array([[3.0, 1.0], [0.5, 2.0], [1.0, -1.0]])
    scaled = polar_factor(a * 10.0**exponent)
    np.testing.assert_allclose(scaled, polar_factor(a), rtol=0, atol=1e-13)


def test_the_zero_matrix_stays_zero_beside_others(rng):
    a = np.stack([np.zeros((4, 3)), rng.standard_normal((4, 3))])
    factor = polar_factor(a)
    np.testing.assert_array_equal(factor[0], 0)
    np.testing.assert_allclose(factor[1].T @ factor[1], np.eye(3), atol=1e-3)


def test_zero_singular_values_stay_zero(rng):
    u, v = orthonormal(rng, 8, 3), orthonormal(rng, 6, 3)
    factor = polar_factor((u * [1.0, 0.5, 0.1]) @ v.T, 10)
    np.testing.assert_allclose(factor, u @ v.T, rtol=0, atol=1e-11)


@pytest.mark.parametrize("fast", [True, False])
def test_residuals_are_those_of_each_step(rng, fast):
    a, _ = spread(rng, 40, 10, least=0.05)
    residuals = polar_factor(a, 6, fast=fast, full_output=True)[1]["residuals"]
    schedule = polar_express_schedule(6)
    for t in range(1, 7):
        x = polar_factor(a, t, schedule[:t])
        expected = np.linalg.norm(x.T @ x - np.eye(10)) / np.sqrt(10)
        assert residuals[t - 1] == pytest.approx(expected, abs=1e-10)


def test_steps_past_a_table_repeat_its_last_row(rng):
    a, table = rng.standard_normal((5, 5)), polar_express_schedule(3)
    longer = np.concatenate((table, table[[-1, -1]]))
    np.testing.assert_array_equal(polar_factor(a, 5, table), polar_factor(a, 5, longer))


def test_without_normalisation_the_input_is_taken_as_it_is(rng):
    a, _ = spread(rng, 6, 6, least=0.5)
    halved = polar_factor(a / 2, 1, "newton-schulz-3", normalize=False)
    np.testing.assert_allclose(halved, 0.75 * a - a @ a.T @ a / 16, atol=1e-14)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_the_result_has_the_type_of_the_input(rng, kind):
    a, exact = spread(rng, 12, 6, least=0.1)
    factor = polar_factor(a.astype(kind))
    assert factor.dtype == kind
    np.testing.assert_allclose(factor, exact, rtol=0, atol=8 * np.finfo(kind).eps + 1e-5)


def test_computing_in_single_precision_rounds_to_it(rng):
    a, exact = spread(rng, 20, 20, least=0.1)
    factor = polar_factor(a, 10, dtype=np.float32)
    assert factor.dtype == np.float64
    assert 1e-9 < np.abs(factor - exact).max() < 1e-5


def test_integers_are_read_as_double_precision():
    np.testing.assert_allclose(polar_factor([[0, 2], [-2, 0]], 9), [[0, 1], [-1, 0]], atol=1e-12)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_tensors_give_what_arrays_give(rng, kind):
    a = rng.standard_normal((3, 9, 4))
    factor = polar_factor(torch.tensor(a, dtype=kind))
    assert factor.dtype == kind
    np.testing.assert_allclose(factor.numpy(), polar_factor(a), rtol=0, atol=2e-5)


def test_torch_products_give_what_numpy_products_give(rng):
    a = torch.tensor(rng.standard_normal((2, 9, 4)))
    for fast in (True, False):
        with_gradient = polar_factor(a.clone().requires_grad_(), fast=fast)
        assert with_gradient.requires_grad
        torch.testing.assert_close(with_gradient.detach(), polar_factor(a), rtol=0, atol=1e-12)


def test_gradients_pass_through(rng):
    a = torch.tensor(rng.standard_normal((4, 3)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: polar_factor(x, 6), (a,))


def test_bfloat16_reaches_the_sphere_of_orthogonal_matrices(rng):
    a, exact = spread(rng, 64, 64)
    factor = polar_factor(torch.tensor(a, dtype=torch.float32), dtype=torch.bfloat16)
    assert factor.dtype == torch.float32
    values = np.linalg.svd(factor.numpy())[1]
    assert values.max() < 1.03
    assert np.linalg.norm(factor.numpy() - exact) / 8 < 0.15


def test_the_input_is_left_alone(rng):
    a = rng.standard_normal((5, 5))
    tensor, before = torch.tensor(a), a.copy()
    polar_factor(a)
    polar_factor(tensor)
    matrix_sign(a @ a.T)
    np.testing.assert_array_equal(a, before)
    np.testing.assert_array_equal(tensor.numpy(), before)


def test_sign_of_a_symmetric_matrix(rng):
    v = orthonormal(rng, 9, 9)
    values = np.array([-1, -0.5, -0.1, -0.01, 0.02, 0.1, 0.3, 0.7, 1.0])
    a = (v * values) @ v.T
    sign = matrix_sign(a, 10)
    np.testing.assert_allclose(sign, (v * np.sign(values)) @ v.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(sign @ sign, np.eye(9), rtol=0, atol=1e-12)
    np.testing.assert_allclose(sign @ a, a @ sign, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(sign, sign.T)


def test_sign_of_tensors_and_batches(rng):
    b = rng.standard_normal((2, 5, 5))
    a = b + b.swapaxes(-1, -2)
    sign, info = matrix_sign(torch.tensor(a), 12, full_output=True)
    assert info["residuals"].shape == (12, 2)
    np.testing.assert_allclose(sign.numpy(), matrix_sign(a, 12), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: polar_factor(np.ones(3)), ValueError, r"a must be a matrix .* \(3,\)"),
        (lambda: polar_factor(np.ones((0, 3))), ValueError, r"got shape \(0, 3\)"),
        (lambda: polar_factor([[1.0, np.nan]]), ValueError, r"a must be finite, got nan at .*0, 1"),
        (lambda: polar_factor(torch.tensor([[1.0, torch.inf]])), ValueError, "got inf at .*0, 1"),
        (lambda: polar_factor([[1j]]), TypeError, "a must be real, got complex128"),
        (lambda: polar_factor(torch.ones(2, 2) * 1j), TypeError, "a must be real, got torch"),
        (lambda: polar_factor([["x"]]), TypeError, "a must be an array of float64"),
        (lambda: polar_factor(np.eye(2), 0), ValueError, "n_iter must be"),
        (lambda: polar_factor(np.eye(2), 2, "adam"), ValueError, "must be one of 'polar-express'"),
        (lambda: polar_factor(np.eye(2), dtype=np.int64), ValueError, "dtype must be one of"),
        (lambda: polar_factor(torch.eye(2), dtype="bf16"), ValueError, "dtype must be one of"),
        (lambda: polar_factor(np.eye(2), fast="yes"), ValueError, "fast must be one of 'auto'"),
        (lambda: matrix_sign([[1.0, 2.0], [0.0, 1.0]]), ValueError, "a must be symmetric, got"),
        (lambda: matrix_sign(np.ones((2, 3))), ValueError, r"a must be square, got shape \(2, 3\)"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_unchecked_input_passes_nan_on():
    assert np.isnan(polar_factor([[1.0, np.nan]], check_finite=False)).all()


@pytest.fixture
def rng():
    return np.random.default_rng(0)

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.linalg import (
    approximation_error,
    matrix_inv_sqrt,
    matrix_sqrt,
    solve_lyapunov_sign,
    taylor_coefficients,
)

torch = pytest.importorskip("torch")
METHODS = ("pade", "taylor", "newton-schulz", "eigh")
ROOTS = (matrix_sqrt, matrix_inv_sqrt)


def positive(rng, size=6, least=0.1, largest=1.0, batch=()):
    """Matrices of geometrically spaced eigenvalues."""
    v = np.linalg.qr(rng.standard_normal((*batch, size, size)))[0]
    return (v * np.geomspace(least, largest, size)) @ v.swapaxes(-1, -2)


def exact(a, inverse=False):
    root = scipy.linalg.sqrtm(a).real
    return np.linalg.inv(root) if inverse else root


@pytest.mark.parametrize("kind", ["array", "tensor"])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(
    ("method", "degree"),
    [
        ("pade", 1), ("pade", 2), ("pade", 5), ("pade", 8), ("pade", 9), ("pade", 30),
        ("taylor", 1), ("taylor", 2), ("taylor", 10), ("taylor", 13), ("taylor", 40),
        ("newton-schulz", 1), ("newton-schulz", 2), ("newton-schulz", 5),
    ],
)  # fmt: skip
def test_error_of_a_diagonal_matrix_is_the_closed_form(kind, inverse, method, degree):
    values = np.array([0.02, 0.4, 1.0, 7.0])
    a = np.diag(values)
    given = a if kind == "array" else torch.tensor(a)
    y = np.asarray((matrix_inv_sqrt if inverse else matrix_sqrt)(given, method, degree))
    share = values / np.linalg.norm(values)
    expected = approximation_error(share, method, degree, inverse=inverse)
    measured = np.diag(y) / values ** (-0.5 if inverse else 0.5) - 1
    np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("inverse", [False, True])
def test_high_degrees_agree_with_scipy(rng, inverse):
    a = positive(rng)
    y = (matrix_inv_sqrt if inverse else matrix_sqrt)(a, degree=20)
    np.testing.assert_allclose(y, exact(a, inverse), rtol=0, atol=1e-8)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_eigenvalues_give_the_root_to_rounding(rng, inverse, kind):
    a = positive(rng, least=1e-3)
    y = np.asarray((matrix_inv_sqrt if inverse else matrix_sqrt)(kind(a), "eigh"))
    np.testing.assert_allclose(y, exact(a, inverse), rtol=0, atol=1e-11)


@pytest.mark.parametrize("method", METHODS)
def test_default_degrees_are_those_of_the_paper(rng, method):
    a = positive(rng)
    degree = {"taylor": 10}.get(method, 5)
    np.testing.assert_array_equal(matrix_sqrt(a, method), matrix_sqrt(a, method, degree))


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize("degree", [5, 12])
def test_root_and_inverse_root_of_pade_are_inverse_to_each_other(rng, kind, degree):
    a = kind(positive(rng, least=0.01))
    product = np.asarray(matrix_sqrt(a, degree=degree) @ matrix_inv_sqrt(a, degree=degree))
    np.testing.assert_allclose(product, np.eye(6), rtol=0, atol=1e-12)


def test_taylor_polynomial_is_its_sum_of_powers(rng):
    a = positive(rng)
    n = np.linalg.norm(a)
    z = np.eye(6) - a / n
    total = sum(c * np.linalg.matrix_power(z, k) for k, c in enumerate(taylor_coefficients(10)))
    np.testing.assert_allclose(matrix_sqrt(a, "taylor"), np.sqrt(n) * total, rtol=0, atol=1e-14)


@pytest.mark.parametrize("inverse", [False, True])
def test_newton_schulz_is_the_full_coupled_iteration(rng, inverse):
    a = positive(rng)
    n = np.linalg.norm(a)
    y, z = a / n, np.eye(6)
    for _ in range(5):
        t = (3 * np.eye(6) - z @ y) / 2
        y, z = y @ t, t @ z
    ours = (matrix_inv_sqrt if inverse else matrix_sqrt)(a, "newton-schulz")
    expected = z / np.sqrt(n) if inverse else np.sqrt(n) * y
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("f", ROOTS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_batch_of_different_scales_is_a_loop(rng, f, method, kind):
    scales = np.array([1e-6, 1.0, 1e5]).reshape(1, 3, 1, 1)
    a = scales * positive(rng, batch=(2, 3))
    batch = np.asarray(f(kind(a), method))
    for i in np.ndindex(2, 3):
        np.testing.assert_allclose(batch[i], np.asarray(f(kind(a[i]), method)), rtol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.floats(-290, 290), st.sampled_from(METHODS))
def test_scale_comes_out_as_its_root(exponent, method):
    a = np.array([[3.0, 1.0], [1.0, 2.0]])
    scaled = matrix_sqrt(a * 10.0**exponent, method)
    np.testing.assert_allclose(scaled, 10.0 ** (exponent / 2) * matrix_sqrt(a, method), rtol=1e-12)


@pytest.mark.parametrize("f", ROOTS)
@pytest.mark.parametrize("method", METHODS)
def test_rotating_the_matrix_rotates_the_root(rng, f, method):
    a, q = positive(rng), np.linalg.qr(rng.standard_normal((6, 6)))[0]
    rotated = q @ a @ q.T
    rotated = (rotated + rotated.T) / 2
    np.testing.assert_allclose(f(rotated, method), q @ f(a, method) @ q.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("f", ROOTS)
@pytest.mark.parametrize("method", METHODS)
def test_tensors_give_what_arrays_give(rng, f, method):
    a = positive(rng, batch=(4,))
    for kind, bound in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        y = f(torch.tensor(a, dtype=kind), method)
        assert y.dtype == kind
        np.testing.assert_allclose(y.numpy(), f(a, method), rtol=0, atol=bound)
    single = f(a.astype(np.float32), method)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, f(a, method), rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_root_is_symmetric_to_the_last_bit(rng, method):
    for y in (matrix_sqrt(positive(rng), method), matrix_inv_sqrt(positive(rng), method)):
        np.testing.assert_array_equal(y, y.T)


def test_a_singular_matrix_has_a_root(rng):
    x = rng.standard_normal((6, 3))
    a = x @ x.T
    np.testing.assert_allclose(matrix_sqrt(a, "eigh"), exact(a), atol=1e-7)
    assert np.linalg.norm(matrix_sqrt(a) - exact(a)) < 0.2 * np.linalg.norm(exact(a))


def test_an_empty_batch_stays_empty():
    assert matrix_sqrt(np.empty((0, 3, 3))).shape == (0, 3, 3)
    assert solve_lyapunov_sign(torch.empty(0, 3, 3), torch.empty(0, 3, 3)).shape == (0, 3, 3)


def test_the_input_is_left_alone(rng):
    a = positive(rng)
    tensor, before = torch.tensor(a, requires_grad=True), a.copy()
    for f in ROOTS:
        for method in METHODS:
            f(a, method)
            f(tensor, method).sum().backward()
    solve_lyapunov_sign(a, before)
    np.testing.assert_array_equal(a, before)
    np.testing.assert_array_equal(tensor.detach().numpy(), before)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize("symmetric", [True, False])
def test_lyapunov_agrees_with_scipy(rng, kind, symmetric):
    b, c = positive(rng, least=0.01), rng.standard_normal((6, 6))
    c = c + c.T if symmetric else c
    x = np.asarray(solve_lyapunov_sign(kind(b), kind(c), 30))
    expected = scipy.linalg.solve_continuous_lyapunov(b, c)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-9)
    assert np.array_equal(x, x.T) == symmetric


@pytest.mark.parametrize("symmetric", [True, False])
def test_each_lyapunov_step_is_the_one_of_the_paper(rng, symmetric):
    b, c = positive(rng), rng.standard_normal((6, 6))
    c = c + c.T if symmetric else c
    norm, eye = np.linalg.norm(b), np.eye(6)
    u, v = b / norm, c / norm
    for steps in range(1, 5):
        v = (v @ (3 * eye - u @ u) - u @ u @ v + u @ v @ u) / 2
        u = u @ (3 * eye - u @ u) / 2
        np.testing.assert_allclose(solve_lyapunov_sign(b, c, steps), v / 2, rtol=0, atol=1e-13)


def test_lyapunov_stops_where_every_matrix_is_there(rng):
    b = np.stack([np.eye(6), positive(rng, least=0.05)])
    c = np.ones((2, 6, 6))
    u, steps = b / np.linalg.norm(b, axis=(-2, -1), keepdims=True), 0
    while np.linalg.norm(u - np.eye(6), axis=(-2, -1)).max() > 1e-4:
        u, steps = (3 * u - u @ u @ u) / 2, steps + 1
    stopped = solve_lyapunov_sign(b, c, 60, tol=1e-4)
    np.testing.assert_array_equal(stopped, solve_lyapunov_sign(b, c, steps))
    assert (stopped != solve_lyapunov_sign(b, c, steps - 1)).any()


def test_lyapunov_of_a_batch_of_different_scales_is_a_loop(rng):
    scales = np.array([1e-6, 1.0, 1e5]).reshape(3, 1, 1)
    b, c = scales * positive(rng, batch=(3,)), rng.standard_normal((3, 6, 6))
    x = solve_lyapunov_sign(b, c, 20)
    for i in range(3):
        np.testing.assert_allclose(b[i] @ x[i] + x[i] @ b[i], c[i], rtol=0, atol=1e-10)


def smooth(f, method, backward):
    """The root as a function of any square matrix, near enough to be differentiated as a root."""
    degree = 20 if method == "newton-schulz" else 25
    return lambda x: f((x + x.mT) / 2, method, degree, backward, n_lyapunov=30)


@pytest.mark.parametrize("f", ROOTS)
@pytest.mark.parametrize("backward", ["lyapunov", "lyapunov-exact", "autograd"])
@pytest.mark.parametrize("method", ["pade", "newton-schulz", "eigh"])
def test_gradients_are_those_of_the_root(rng, f, backward, method):
    a = torch.tensor(positive(rng, 4), requires_grad=True)
    assert torch.autograd.gradcheck(smooth(f, method, backward), (a,))


@pytest.mark.parametrize("f", ROOTS)
@pytest.mark.parametrize(("method", "backward"), [("pade", "lyapunov"), ("eigh", "lyapunov-exact")])
def test_second_derivatives_are_those_of_the_root(rng, f, method, backward):
    a = torch.tensor(positive(rng, 2), requires_grad=True)
    assert torch.autograd.gradgradcheck(smooth(f, method, backward), (a,))


@pytest.mark.parametrize("method", ["taylor", "pade", "newton-schulz"])
def test_autograd_differentiates_what_was_computed(rng, method):
    """Low degrees are far from the root; the norm that scales is part of the derivative."""
    a = torch.tensor(positive(rng, 4, least=0.01), requires_grad=True)
    for f in ROOTS:
        assert torch.autograd.gradcheck(
            lambda x, f=f: f((x + x.mT) / 2, method, 2, "autograd"), (a,)
        )


@pytest.mark.parametrize("f", ROOTS)
def test_gradient_of_a_batch_of_different_scales_is_a_loop(rng, f):
    scales = np.array([1e-4, 1.0, 1e3]).reshape(3, 1, 1)
    a = torch.tensor(scales * positive(rng, batch=(3,)), requires_grad=True)
    g = torch.tensor(rng.standard_normal((3, 6, 6)))
    batch = torch.autograd.grad(f(a), a, g)[0]
    for i in range(3):
        one = torch.autograd.grad(f(a[i]), a, g[i])[0][i]
        torch.testing.assert_close(batch[i], one, rtol=1e-10, atol=0)


def test_options_of_the_gradient_reach_the_sign_iteration(rng):
    a = torch.tensor(positive(rng), requires_grad=True)
    g = torch.tensor(rng.standard_normal((6, 6)))
    for options in ({"n_lyapunov": 3}, {"n_lyapunov": 40, "tol": 1e-3}):
        y = matrix_sqrt(a, **options)
        got = torch.autograd.grad(y, a, g)[0]
        steps, tol = options["n_lyapunov"], options.get("tol")
        expected = solve_lyapunov_sign(y.detach(), (g + g.T) / 2, steps, tol)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-14)


def test_gradient_by_eigenvectors_of_a_singular_root_is_finite():
    a = torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)).requires_grad_()
    y = matrix_sqrt(a, "eigh", backward="lyapunov-exact")
    y.sum().backward()
    expected = torch.tensor([[0.5, 1, 1], [1, 0, 0], [1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(a.grad, expected)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single_inside_autocast(rng, kind):
    a = torch.tensor(positive(rng), dtype=kind)
    a = (a + a.T) / 2
    with pytest.raises(TypeError, match="a must be float32 or float64"):
        matrix_sqrt(a)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = matrix_sqrt(a)
        single = matrix_sqrt(a.float().requires_grad_())
        (gradient,) = torch.autograd.grad(
            matrix_sqrt(leaf := a.float().requires_grad_()).sum(), leaf
        )
    assert half.dtype == kind
    assert single.dtype == gradient.dtype == torch.float32
    expected = matrix_sqrt(a.float())
    torch.testing.assert_close(single.detach(), expected, rtol=0, atol=0)
    torch.testing.assert_close(half, expected.to(kind), rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("f", ROOTS)
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu_root_and_gradient_are_those_of_the_cpu(rng, f, method):
    a = positive(rng, batch=(5,))
    found = []
    for device in ("cpu", "cuda"):
        x = torch.tensor(a, device=device, requires_grad=True)
        y = f(x, method)
        assert y.device.type == device
        found.append((y.detach().cpu(), torch.autograd.grad(y.sum(), x)[0].cpu()))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_a_negative_eigenvalue_is_found_where_asked(kind):
    a = kind(np.diag([1.0, -0.1]))
    for f in ROOTS:
        with pytest.raises(np.linalg.LinAlgError, match="a must be positive definite: its Chol"):
            f(a, check=True)
        with pytest.raises(np.linalg.LinAlgError, match=r"got an eigenvalue of -0\.0995"):
            f(a, "eigh")
    matrix_sqrt(kind(np.eye(2)), check=True)


def test_a_breakdown_is_named():
    a = torch.diag(torch.tensor([1.0, -1.0]))
    with pytest.raises(np.linalg.LinAlgError, match="a must be positive definite: a solve broke"):
        matrix_sqrt(a, degree=12)
    with pytest.raises(np.linalg.LinAlgError, match="newton-schulz gave non-finite values"):
        matrix_sqrt(np.diag([1.0, -1.0]), "newton-schulz", 40)
    with pytest.raises(np.linalg.LinAlgError, match="got an eigenvalue of 0 of its norm"):
        matrix_inv_sqrt(np.diag([1.0, 0.0]), "eigh")
    with pytest.raises(np.linalg.LinAlgError, match="the solution is not finite"):
        solve_lyapunov_sign(1e-300 * np.eye(2), 1e300 * np.eye(2))


SKEW = np.array([[1.0, 1e-4], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: matrix_sqrt(np.ones(3)), ValueError, r"a must be square .* got shape \(3,\)"),
        (lambda: matrix_sqrt(np.ones((2, 3))), ValueError, r"got shape \(2, 3\)"),
        (lambda: matrix_sqrt(np.ones((0, 0))), ValueError, r"got shape \(0, 0\)"),
        (lambda: matrix_sqrt(SKEW), ValueError, "a must be symmetric to 1e-10 .* of 0.0001"),
        (lambda: matrix_sqrt(torch.tensor(SKEW).float()), ValueError, "symmetric to 1e-05"),
        (lambda: matrix_sqrt([[np.nan, 0.0], [0.0, 1.0]]), ValueError, r"nan at index \(0, 0\)"),
        (lambda: matrix_sqrt(torch.eye(2) * torch.inf), ValueError, "a must be finite, got"),
        (lambda: matrix_sqrt(np.zeros((2, 2))), ValueError, "got the zero matrix$"),
        (
            lambda: matrix_inv_sqrt(np.eye(2) * np.array([1.0, 0.0]).reshape(2, 1, 1)),
            ValueError,
            r"got the zero matrix at index \(1,\)",
        ),
        (lambda: matrix_sqrt([[2, 0], [0, 2]]), TypeError, "a must be float32 or .* got int64"),
        (lambda: matrix_sqrt(np.eye(2, dtype=np.float16)), TypeError, "got float16"),
        (lambda: matrix_sqrt(torch.eye(2) * 1j), TypeError, "got complex64"),
        (lambda: matrix_sqrt(np.eye(2), degree=0), ValueError, "degree must be an integer >= 1"),
        (lambda: matrix_sqrt(np.eye(2), "svd"), ValueError, "method must be one of 'pade'"),
        (lambda: matrix_sqrt(np.eye(2), backward="svd"), ValueError, "backward must be one of"),
        (lambda: matrix_sqrt(np.eye(2), n_lyapunov=0), ValueError, "n_lyapunov must be"),
        (lambda: matrix_sqrt(np.eye(2), tol=0.0), ValueError, "tol must be a finite number > 0"),
        (lambda: solve_lyapunov_sign(np.eye(2), np.eye(3)), ValueError, "c must have the shape"),
        (
            lambda: solve_lyapunov_sign(np.eye(2), np.eye(2, dtype=np.float32)),
            ValueError,
            "float64, got .* float32",
        ),
        (lambda: solve_lyapunov_sign(np.eye(2), torch.eye(2)), TypeError, "c must be a ndarray"),
        (lambda: solve_lyapunov_sign(SKEW, np.eye(2)), ValueError, "b must be symmetric"),
        (lambda: solve_lyapunov_sign(np.eye(2), np.eye(2), 0), ValueError, "n_iter must be"),
        (lambda: solve_lyapunov_sign(np.eye(2), np.nan * SKEW), ValueError, "c must be finite"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_unchecked_input_is_taken_as_it_is():
    assert np.isnan(matrix_sqrt([[np.nan, 0.0], [0.0, 1.0]], "taylor", check_finite=False)).any()
    assert np.isfinite(matrix_sqrt(SKEW, check_finite=False)).all()


@pytest.fixture
def rng():
    return np.random.default_rng(0)

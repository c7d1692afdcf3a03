"""Square root and inverse square root of positive definite matrices, differentiable, in batches.

Whitening and covariance pooling need the root of many small covariances, and its gradient. An
eigendecomposition gives both, but batches poorly on accelerators. Here a Taylor polynomial or a
Padé quotient of the scaled matrix gives the root, and a sign iteration solves the Lyapunov equation
of the gradient: matrix products, and one solve for Padé. On a CPU root and gradient together are
faster by ``method="eigh"`` with ``backward="lyapunov-exact"``, and exact.

Source: "Fast Differentiable Matrix Square Root" (2022), arXiv 2201.08663, Section 3;
"Fast Differentiable Matrix Square Root and Inverse Square Root" (2022), arXiv 2201.12543.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np

from thalweg._validation import check_count, check_option, check_real, is_torch_tensor
from thalweg.linalg._backends import Arrays, Tensors
from thalweg.linalg._root_forward import check_positive_definite, root, scaled, sign_lyapunov
from thalweg.linalg.root_approximants import resolve_degree

Method = Literal["pade", "taylor", "newton-schulz", "eigh"]
Backward = Literal["lyapunov", "lyapunov-exact", "autograd"]
METHODS = ("pade", "taylor", "newton-schulz", "eigh")
BACKWARDS = ("lyapunov", "lyapunov-exact", "autograd")
SYMMETRY_TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-2}


def matrix_sqrt(
    a: Any,
    method: Method = "pade",
    degree: int | None = None,
    backward: Backward = "lyapunov",
    n_lyapunov: int = 8,
    tol: float | None = None,
    *,
    check: bool = False,
    check_finite: bool = True,
) -> Any:
    """Return the square root A^(1/2) of a symmetric positive definite matrix.

    Parameters
    ----------
    a : array_like or torch.Tensor of shape (..., d, d)
        A matrix or a batch of them, float32 or float64; inside `torch.autocast` also float16 and
        bfloat16, which are computed in float32. Each matrix is scaled by its own Frobenius norm.
    method : {"pade", "taylor", "newton-schulz", "eigh"}, default "pade"
        Padé quotient, Taylor polynomial, coupled Newton-Schulz steps, or eigendecomposition. The
        last is exact, and on a CPU the fastest where the gradient is wanted too.
    degree : int, optional
        Degree of quotient (5) or polynomial (10), or number of steps (5). `approximation_error`
        says what it costs at the smallest eigenvalue. "eigh" has none.
    backward : {"lyapunov", "lyapunov-exact", "autograd"}, default "lyapunov"
        How the gradient of a tensor is found: the Lyapunov equation ``Y X + X Y = G`` of the
        computed root Y by the sign iteration of `solve_lyapunov_sign` or by an eigendecomposition,
        or the derivative of each step. "autograd" with "eigh" fails at equal eigenvalues.
    n_lyapunov : int, default 8
        Steps of the sign iteration. Each brings an eigenvalue nearer to one by a factor of 1.5, so
        that a root with eigenvalues down to s of its norm wants ``log(1/s) / log(1.5)`` and two or
        three more.
    tol : float, optional
        Stop the sign iteration where ``||b - I||_F`` is at most this in every matrix.
    check : bool, default False
        Whether to make sure by a Cholesky factorisation that `a` is positive definite. Otherwise a
        negative eigenvalue may go unseen, the result being wrong.
    check_finite : bool, default True
        Whether to look for NaN, infinities, asymmetry and zero matrices, in the result too. On an
        accelerator this waits for the device.

    Returns
    -------
    root : ndarray or torch.Tensor of the shape and type of `a`
        Symmetric. Tensors stay on their device, and gradients pass through.

    Raises
    ------
    TypeError
        If `a` is not float32 or float64, nor half precision inside autocast.
    ValueError
        If `a` is not square, empty, not symmetric (to 1e-5 of its largest entry in float32, 1e-10
        in float64), not finite or zero, or an option is outside its range.
    numpy.linalg.LinAlgError
        If `a` is found not to be positive definite: always with `check`, with "eigh" too, otherwise
        where the computation breaks down.

    See Also
    --------
    matrix_inv_sqrt : the inverse root.
    approximation_error : the error in closed form.

    Notes
    -----
    Polynomials are summed in blocks (Paterson and Stockmeyer): a Taylor polynomial of degree 10
    takes 5 products rather than the 9 of Horner's scheme, to the same value. The solve of Padé is a
    Cholesky one for tensors. Beyond degree 8, where powers cancel, the quotient is summed as
    partial fractions, one solve each: the paper stops at 5. The Lyapunov iteration is scaled by the
    Frobenius norm of the root, as the paper writes it.

    References
    ----------
    arXiv 2201.08663, Section 3: MTP, MPA and the Lyapunov solver. The baselines: coupled
    Newton-Schulz, and the eigendecomposition.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.linalg import matrix_sqrt
    >>> matrix_sqrt(np.array([[5.0, 4.0], [4.0, 5.0]]), degree=12).round(6)
    array([[2., 1.],
           [1., 2.]])
    """
    options = checked_options(method, degree, backward, n_lyapunov, tol)
    return _root(a, False, options, check, check_finite)


def matrix_inv_sqrt(
    a: Any,
    method: Method = "pade",
    degree: int | None = None,
    backward: Backward = "lyapunov",
    n_lyapunov: int = 8,
    tol: float | None = None,
    *,
    check: bool = False,
    check_finite: bool = True,
) -> Any:
    """Return the inverse square root A^(-1/2) of a symmetric positive definite matrix.

    Parameters
    ----------
    a : array_like or torch.Tensor of shape (..., d, d)
        As in `matrix_sqrt`. Eigenvalues near zero are inverted too small: see
        `approximation_error` with ``inverse=True``.
    method, degree, backward, n_lyapunov, tol, check, check_finite
        As in `matrix_sqrt`. The gradient solves ``Y X + X Y = -Y Y G Y Y``, Y the inverse root.

    Returns
    -------
    root : ndarray or torch.Tensor of the shape and type of `a`
        Symmetric. With "pade" it is the inverse of `matrix_sqrt` up to rounding.

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As in `matrix_sqrt`.

    References
    ----------
    arXiv 2201.12543, Section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.linalg import matrix_inv_sqrt
    >>> matrix_inv_sqrt(np.diag([4.0, 1.0]), degree=9).round(6)
    array([[0.5, 0. ],
           [0. , 1. ]])
    """
    options = checked_options(method, degree, backward, n_lyapunov, tol)
    return _root(a, True, options, check, check_finite)


def solve_lyapunov_sign(
    b: Any, c: Any, n_iter: int = 8, tol: float | None = None, *, check_finite: bool = True
) -> Any:
    """Return X with ``B X + X B = C`` for a symmetric positive definite B, by matrix products.

    Parameters
    ----------
    b : array_like or torch.Tensor of shape (..., d, d)
        Symmetric positive definite, float32 or float64.
    c : array_like or torch.Tensor of the shape and type of `b`
        Right-hand side, symmetric or not.
    n_iter : int, default 8
        Steps. Eigenvalues of b over its Frobenius norm grow by at most 1.5 a step; convergence is
        quadratic once all are near one.
    tol : float, optional
        Stop where ``||b - I||_F`` of the scaled iterate is at most this in every matrix.
    check_finite : bool, default True
        Whether to look for NaN, infinities and asymmetry of `b`, and for infinities in the result.

    Returns
    -------
    x : ndarray or torch.Tensor of the shape and type of `b`
        The solution; symmetric where `c` is. The steps are differentiable.

    Raises
    ------
    TypeError
        If `b` or `c` is not float32 or float64, or only one is a tensor.
    ValueError
        If `b` is not square, symmetric, finite and nonzero, or `c` is of another shape, type or
        device.
    numpy.linalg.LinAlgError
        If the solution overflows. A negative eigenvalue of `b` is not seen.

    Notes
    -----
    The sign iteration of ``[[B, C], [0, -B]]``, block by block: four products a step where `c` is
    symmetric, as ``c b = (b c)'`` then, and six otherwise, as the paper writes it. The update of c
    uses the b of the step before.

    References
    ----------
    arXiv 2201.08663, Section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> b, c = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[4.0, 2.0], [2.0, 0.0]])
    >>> x = solve_lyapunov_sign(b, c, 20)
    >>> np.allclose(b @ x + x @ b, c)
    True
    """
    n_iter = check_count("n_iter", n_iter)
    tol = None if tol is None else check_real("tol", tol, above=0)
    if is_torch_tensor(b) != is_torch_tensor(c):
        raise TypeError(f"c must be a {type(b).__name__} as b is, got {type(c).__name__}")
    backend, b_array = _read("b", b, check_finite)
    other, c_array = _read("c", c, check_finite, symmetric=False)
    if (c_array.shape, other.kind) != (b_array.shape, backend.kind):
        raise ValueError(
            f"c must have the shape and type of b, {tuple(b_array.shape)} and {backend.kind}, got "
            f"{tuple(c_array.shape)} and {other.kind}"
        )
    if is_torch_tensor(b) and b.device != c.device:
        raise ValueError(f"c must be on the device of b, {b.device}, got {c.device}")
    stacked, right = (x.reshape(-1, *x.shape[-2:]) for x in (b_array, c_array))
    with _plain_arithmetic(b):
        symmetric = check_finite and bool((right == right.swapaxes(-1, -2)).all())
        x = sign_lyapunov(stacked, right, n_iter, tol, backend, symmetric)
    if check_finite and not _is_finite(x, backend):
        raise np.linalg.LinAlgError("the solution is not finite: b is too small for c")
    return backend.result(x.reshape(b_array.shape))


def checked_options(
    method: str, degree: int | None, backward: str, n_lyapunov: int, tol: float | None
) -> dict[str, Any]:
    """Return the options of a root by name, in range; TypeError or ValueError otherwise."""
    check_option("method", method, METHODS)
    return {
        "method": method,
        "degree": resolve_degree(method, degree),
        "backward": check_option("backward", backward, BACKWARDS),
        "n_lyapunov": check_count("n_lyapunov", n_lyapunov),
        "tol": None if tol is None else check_real("tol", tol, above=0),
    }


def _root(a: Any, inverse: bool, options: dict[str, Any], check: bool, check_finite: bool) -> Any:
    backend, matrix = _read("a", a, check_finite)
    stacked = matrix.reshape(-1, *matrix.shape[-2:])

    def evaluate(x: Any) -> tuple[Any, ...]:
        """The root, and with "eigh" its eigenvalues and eigenvectors."""
        return root(x, options["method"], options["degree"], inverse, backend, check_finite)

    with _plain_arithmetic(a):
        if check:
            check_positive_definite(scaled(stacked, backend)[0], backend)
        if isinstance(backend, Tensors):
            from thalweg.linalg._root_gradient import differentiable_root

            result = differentiable_root(stacked, evaluate, inverse, options, backend)
        else:
            result = evaluate(stacked)[0]
    if check_finite and not _is_finite(result, backend):
        raise np.linalg.LinAlgError(
            f"a must be positive definite: {options['method']} gave non-finite values"
        )
    return backend.result(result.reshape(matrix.shape))


def _read(name: str, x: Any, check_finite: bool, symmetric: bool = True) -> tuple[Any, Any]:
    """Return what computes and the argument as its array, in float32 at least, checked."""
    tensor = is_torch_tensor(x)
    x = x if tensor else np.asarray(x)
    kind = str(x.dtype).removeprefix("torch.")
    if kind not in ("float32", "float64") and not (
        tensor and kind in SYMMETRY_TOLERANCE and _in_autocast(x)
    ):
        raise TypeError(
            f"{name} must be float32 or float64 (inside torch.autocast also float16 and bfloat16), "
            f"got {kind}"
        )
    shape = tuple(x.shape)
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
        raise ValueError(f"{name} must be square matrices of shape (..., d, d), got shape {shape}")
    backend: Any = Tensors(x, None) if tensor else Arrays(x, None)
    array = backend.read(x, False)
    if check_finite:
        _check_entries(name, array, SYMMETRY_TOLERANCE[kind] if symmetric else None, backend)
    return backend, array


def _check_entries(name: str, x: Any, tolerance: float | None, backend: Any) -> None:
    plain = x.detach() if isinstance(backend, Tensors) else x
    size = backend.largest(plain)
    sizes = backend.plain(size)[..., 0, 0]
    if not np.isfinite(sizes).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(backend.plain(plain)))[0])
        raise ValueError(f"{name} must be finite, got {float(plain[where])} at index {where}")
    if tolerance is None:
        return
    if not sizes.all():
        where = tuple(int(i) for i in np.argwhere(sizes == 0)[0])
        raise ValueError(
            f"{name} must be positive definite, got the zero matrix"
            + (f" at index {where}" if where else "")
        )
    gap = backend.largest(plain - plain.swapaxes(-1, -2))
    if (gap > tolerance * size).any():
        worst = (backend.plain(gap) / backend.plain(size)).max()
        raise ValueError(
            f"{name} must be symmetric to {tolerance:g} of its largest entry, got a difference of "
            f"{worst:.3g}"
        )


def _is_finite(x: Any, backend: Any) -> bool:
    return bool(np.isfinite(backend.plain(backend.largest(x))).all())


def _in_autocast(x: Any) -> bool:
    from thalweg._torch import torch

    return torch.is_autocast_enabled(x.device.type)


@contextmanager
def _plain_arithmetic(x: Any) -> Iterator[None]:
    """No half precision from autocast, and no warnings: a result is looked at when it is there."""
    with ExitStack() as stack:
        if not is_torch_tensor(x):
            stack.enter_context(np.errstate(all="ignore"))
        elif _in_autocast(x):
            from thalweg._torch import torch

            stack.enter_context(torch.autocast(x.device.type, enabled=False))
        yield

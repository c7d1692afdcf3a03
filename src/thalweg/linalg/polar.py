"""Nearest orthogonal matrix and matrix sign by matrix products alone.

The singular value decomposition that gives ``polar(U S V') = U V'`` is slow on accelerators and
does not batch. Odd polynomials of a matrix act on its singular values and need products only; a few
well chosen ones (`thalweg.linalg.polar_express_schedule`) take all of them to one, in bfloat16 too.

Source: "The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon
Algorithm" (2025), arXiv 2505.16932, Algorithm 1 and the appendix on rectangular matrices.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_count, check_option, is_torch_tensor
from thalweg.linalg._backends import Arrays, Tensors, TensorsAsArrays
from thalweg.linalg.sign_polynomials import check_schedule, named_schedule

NORM_MARGIN = 1.01
STEPS_BETWEEN_RESTARTS = 3
FAST_ASPECT = 1.5
HALF_PRECISION_SHIFT = 1e-3


def polar_factor(
    a: Any,
    n_iter: int = 8,
    schedule: str | ArrayLike | None = None,
    normalize: bool = True,
    dtype: Any = None,
    fast: bool | Literal["auto"] = "auto",
    full_output: bool = False,
    *,
    check_finite: bool = True,
) -> Any:
    """Return the polar factor U V' of a matrix A = U S V', the nearest with orthonormal columns.

    Parameters
    ----------
    a : array_like or torch.Tensor of shape (..., m, n)
        A matrix or a batch of them. Wide ones get orthonormal rows. Singular values that are zero
        stay zero: the zero matrix gives zeros.
    n_iter : int, default 8
        Number of polynomials. Eight serve singular values down to a thousandth of the Frobenius
        norm; each further one serves values some 3.6 times smaller.
    schedule : str or array_like of shape (steps, q + 1), optional
        A name for `named_schedule`, or coefficients of x, x^3, ... in each row; past its last row
        that row repeats. None is ``"polar-express"``.
    normalize : bool, default True
        Whether to divide by 1.01 times the Frobenius norm first. Without it the largest singular
        value of `a` must be at most one.
    dtype : data type, optional
        What is computed in, such as ``torch.bfloat16``. None is the type of `a` (float32 for NumPy
        half precision, float64 for integers). The result has the type of `a`.
    fast : bool or "auto", default "auto"
        Whether to keep the iteration to square matrices of the shorter side; "auto" does so when
        one side is 1.5 times the other or more, outside half precision.
    full_output : bool, default False
        Whether to return a dict beside the factor.
    check_finite : bool, default True
        Whether to look for NaN and infinities. On an accelerator this waits for the device.

    Returns
    -------
    factor : ndarray or torch.Tensor of the shape of `a`
        The polar factor. Tensors stay on their device, and gradients pass through.
    info : dict
        With `full_output`: ``"residuals"``, an array of shape (n_iter, ...) of
        ``||X'X - I||_F / sqrt(k)`` after each step, k the shorter side.

    Raises
    ------
    TypeError
        If `a` is not real.
    ValueError
        If `a` has fewer than two axes, an empty side or non-finite entries, or an option is not
        one of those named.

    References
    ----------
    "The Polar Express" (2025), arXiv 2505.16932, Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> q = polar_factor([[2.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    >>> np.allclose(q.T @ q, np.eye(2))
    True
    """
    rows = _rows(schedule, n_iter)
    check_option("fast", fast, ("auto", True, False))
    backend = _backend(a, dtype)
    wide = _check_shape(backend.read(a, check_finite))
    shape = wide.shape
    if transposed := shape[-2] > shape[-1]:
        wide = wide.swapaxes(-1, -2)
    wide = wide.reshape(-1, *wide.shape[-2:]) if len(shape) > 3 else wide
    wide = backend.working(_normalized(wide, backend) if normalize else wide)
    small = wide.shape[-2] * FAST_ASPECT <= wide.shape[-1] and not backend.half
    residuals: list[Any] | None = [] if full_output else None
    if small if fast == "auto" else fast:
        factor = _iterate_on_square(wide, rows, backend, residuals)
    else:
        factor = _iterate(wide, rows, backend, residuals)
    factor = factor.swapaxes(-1, -2) if transposed else factor
    factor = backend.result(factor.reshape(shape))
    if residuals is None:
        return factor
    return factor, {"residuals": np.array(residuals).reshape(len(rows), *shape[:-2])}


def matrix_sign(
    a: Any,
    n_iter: int = 8,
    schedule: str | ArrayLike | None = None,
    normalize: bool = True,
    dtype: Any = None,
    full_output: bool = False,
    *,
    check_finite: bool = True,
) -> Any:
    """Return the sign V sign(D) V' of a symmetric matrix A = V D V'.

    Parameters
    ----------
    a : array_like or torch.Tensor of shape (..., n, n)
        A symmetric matrix or a batch of them. Eigenvalues that are zero stay zero.
    n_iter, schedule, normalize, dtype, full_output, check_finite
        As in `polar_factor`; `n_iter` decides how small an eigenvalue may be.

    Returns
    -------
    sign : ndarray or torch.Tensor of the shape of `a`
        Symmetric; its square is the identity and it commutes with `a`.
    info : dict
        With `full_output`, as in `polar_factor`.

    Raises
    ------
    ValueError
        If `a` is not symmetric to half the digits of its type, and as in `polar_factor`.

    Examples
    --------
    >>> matrix_sign([[0.0, 2.0], [2.0, 0.0]]).round(6)
    array([[0., 1.],
           [1., 0.]])
    """
    backend = _backend(a, None)
    matrix = _check_shape(backend.read(a, check_finite))
    transposed = matrix.swapaxes(-1, -2)
    if transposed.shape != matrix.shape:
        raise ValueError(f"a must be square, got shape {tuple(matrix.shape)}")
    gap, size = backend.largest(matrix - transposed), backend.largest(matrix)
    if (gap > math.sqrt(backend.epsilon) * size).any():
        raise ValueError(f"a must be symmetric, got |a - a'| up to {float(gap.max()):.3g}")
    factor = polar_factor(
        backend.result((matrix + transposed) / 2),
        n_iter,
        schedule,
        normalize,
        dtype,
        False,
        full_output,
        check_finite=False,
    )
    sign, info = factor if full_output else (factor, None)
    sign = (sign + sign.swapaxes(-1, -2)) / 2
    return (sign, info) if full_output else sign


def _rows(schedule: str | ArrayLike | None, n_iter: int) -> list[list[float]]:
    n_iter = check_count("n_iter", n_iter)
    if schedule is None or isinstance(schedule, str):
        return named_schedule("polar-express" if schedule is None else schedule, n_iter).tolist()
    table = check_schedule(schedule)
    return table[np.minimum(np.arange(n_iter), len(table) - 1)].tolist()


def _check_shape(x: Any) -> Any:
    if len(x.shape) < 2 or 0 in x.shape[-2:]:
        raise ValueError(f"a must be a matrix or a batch of them, got shape {tuple(x.shape)}")
    return x


def _normalized(x: Any, backend: Any) -> Any:
    """Divide each matrix by 1.01 times its Frobenius norm, whatever its scale; zeros stay."""
    scaled = x / backend.or_one(backend.largest(x))
    return scaled / backend.or_one(NORM_MARGIN * backend.frobenius(scaled))


def _iterate(x: Any, rows: list[list[float]], backend: Any, residuals: list[Any] | None) -> Any:
    for row in rows:
        gram = _gram(x)
        if residuals is not None:
            residuals.append(_residual(gram, backend))
        x = backend.add_product(1.0, _without_constant(gram, row, backend), x, row[0], x)
    return _finish(x, backend, residuals)


def _iterate_on_square(
    x: Any, rows: list[list[float]], backend: Any, residuals: list[Any] | None
) -> Any:
    """The same with the matrices Q of X_t = Q X_0 alone, restarted before X_0 X_0' loses digits.

    Q is a polynomial in X_0 X_0', so that X_t X_t' = Q X_0 X_0' Q'.
    """
    identity = backend.identity(x)
    for start in range(0, len(rows), STEPS_BETWEEN_RESTARTS):
        square = _gram(x)
        if start == 0 and backend.half:
            square = square + HALF_PRECISION_SHIFT * identity
        q = None
        for row in rows[start : start + STEPS_BETWEEN_RESTARTS]:
            gram = square if q is None else q @ (square @ q.swapaxes(-1, -2))
            if residuals is not None:
                residuals.append(_residual(gram, backend))
            step = _without_constant(gram, row, backend)
            if q is None:
                q = step + row[0] * identity
            else:
                q = backend.add_product(1.0, step, q, row[0], q)
        x = q @ x
    return _finish(x, backend, residuals)


def _finish(x: Any, backend: Any, residuals: list[Any] | None) -> Any:
    if residuals is not None:
        residuals.append(_residual(_gram(x), backend))
        del residuals[0]
    return x


def _gram(x: Any) -> Any:
    return x @ x.swapaxes(-1, -2)


def _without_constant(gram: Any, row: list[float], backend: Any) -> Any:
    """``row[1] G + row[2] G^2 + ...``.

    The highest square is written G G', which NumPy computes at half the cost of a product.
    """
    if len(row) == 1:
        return 0.0 * gram
    if len(row) == 2:
        return row[1] * gram
    total = backend.add_product(row[-1], gram, gram.swapaxes(-1, -2), row[-2], gram)
    for coefficient in row[-3:0:-1]:
        total = backend.add_product(1.0, gram, total, coefficient, gram)
    return total


def _residual(gram: Any, backend: Any) -> NDArray[np.float64]:
    distance = backend.frobenius(gram - backend.identity(gram))
    return backend.plain(distance)[..., 0, 0] / math.sqrt(gram.shape[-1])


def _backend(a: Any, dtype: Any) -> Any:
    """What computes: NumPy, also for tensors in main memory that want no gradient; else torch.

    NumPy's BLAS multiplies a matrix by its own transpose at half price; torch does not ask for it.
    """
    if not is_torch_tensor(a):
        return Arrays(a, dtype)
    tensors = Tensors(a, dtype)
    return tensors if tensors.half or not tensors.in_main_memory else TensorsAsArrays(tensors)

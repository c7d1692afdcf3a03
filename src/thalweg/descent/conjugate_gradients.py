"""Minimise a quadratic, or solve a symmetric positive definite system, by conjugate gradients.

Every step minimises over all directions seen so far, so that n steps are enough, and far fewer
where the eigenvalues crowd.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 2.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from thalweg._validation import check_array
from thalweg.descent._oracle import BreakdownError, Oracle, State, drive, inner

Floats = NDArray[np.float64]

ASYMMETRY = 1e-10
"""Largest difference of H and its transpose, relative to its largest entry."""


def conjugate_gradient(
    H: Any,
    b: ArrayLike,
    x0: ArrayLike | None = None,
    *,
    tol: float = 1e-10,
    maxiter: int | None = None,
    record: bool = False,
) -> OptimizeResult:
    r"""Minimise :math:`\tfrac12 x \cdot Hx - b \cdot x`, that is, solve Hx = b.

    Parameters
    ----------
    H : array_like, sparse array or LinearOperator, shape (n, n)
        Symmetric and positive definite.
    b : array_like, shape (n,)
        Right-hand side.
    x0 : array_like, shape (n,), optional
        Start; zeros by default.
    tol : float, default 1e-10
        Stop when ‖b - Hx‖ <= tol ‖b‖, by the residual that the recurrence carries.
    maxiter : int, optional
        Largest number of steps; 10 n by default. Without rounding n are enough.
    record : bool, default False
        Whether ``history`` is kept.

    Returns
    -------
    OptimizeResult
        ``x``, ``fun`` (the quadratic), ``jac`` (Hx - b), ``nit``, ``nfev`` (0), ``njev`` (products
        with H), ``success``, ``status``, ``message``, ``residual`` (‖b - Hx‖ / ‖b‖); with `record`
        ``history`` with ``fun`` and ``residual``. ``success`` is False if a direction shows that H
        is not positive definite.

    Raises
    ------
    TypeError, ValueError
        If shapes disagree, entries are not finite, or `H` is not symmetric.

    See Also
    --------
    rate : "conjugate_gradient", a bound of the error in the norm of H.

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 2.4.

    Examples
    --------
    >>> result = conjugate_gradient([[4.0, 1.0], [1.0, 3.0]], [1.0, 2.0])
    >>> result.x.round(6), result.nit
    (array([0.090909, 0.636364]), 2)
    """
    operator = _operator(H)
    n = operator.shape[0]
    b = check_array("b", b, shape=(n,))
    start = np.zeros(n) if x0 is None else check_array("x0", x0, shape=(n,))
    scale = float(np.linalg.norm(b)) or 1.0
    oracle = Oracle(lambda x: 0.5 * x @ operator.matvec(x) - b @ x, start)

    def product(v: Floats) -> Floats:
        oracle.njev += 1
        return oracle.read("H", operator.matvec(v))

    def states() -> Iterator[State]:
        x = oracle.x0
        r = b - product(x)
        p, size = r, inner(r, r)
        while True:
            residual = float(np.sqrt(size)) / scale
            yield State(
                x,
                fun=-0.5 * inner(b + r, x),
                jac=-r,
                residual=residual,
                trace={"residual": residual},
            )
            Hp = product(p)
            curvature = inner(p, Hp)
            if curvature <= 0:
                raise BreakdownError("H must be positive definite, but p·Hp <= 0 for a direction p")
            length = size / curvature
            x, r = x + length * p, r - length * Hp
            size, previous = inner(r, r), size
            p = r + (size / previous) * p

    return drive(
        oracle,
        states(),
        maxiter=10 * n if maxiter is None else maxiter,
        tol=tol,
        tol_name="tol",
        measure="the relative residual",
        record=record,
    )


def _operator(H: Any) -> LinearOperator:
    if isinstance(H, LinearOperator):
        matrix = None
    elif issparse(H):
        matrix = H.astype(np.float64)
        check_array("H", matrix.data)
    else:
        matrix = H = check_array("H", H, ndim=2)
    if len(H.shape) != 2 or H.shape[0] != H.shape[1] or not H.shape[0]:
        raise ValueError(f"H must be square, got shape {H.shape}")
    if matrix is not None and abs(matrix - matrix.T).max() > ASYMMETRY * abs(matrix).max():
        raise ValueError("H must be symmetric")
    return aslinearoperator(H if matrix is None else matrix)

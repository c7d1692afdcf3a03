r"""Small eigenvalues and singular values to high relative accuracy, and kin, pair by pair.

One loop makes a pair of columns orthogonal by a 2 x 2 matrix S, pair after pair. Rotations give
eigenvalues and singular values (Jacobi), unit triangular matrices Cholesky and QR factors
(elimination, Gram-Schmidt), the inverse root of the 2 x 2 block an orthonormal basis; the class of
S is all that differs. With uniformly random pairs every member converges at the same rate, known
exactly, and the run is stable with a probability that can be computed
(`thalweg.linalg.stability_bound`).

LAPACK is faster where accuracy relative to the largest value is enough; among the orders of pairs,
``"random-sweep"`` usually takes fewer sweeps than ``"random"``, which has the theory.

Source: "A Unified Perspective on Orthogonalization and Diagonalization" (2025), arXiv 2505.02023.
The class ``"symmetric"`` and the orders ``"random-sweep"`` and ``"matching"`` are additions here.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import qr

from thalweg.linalg._pair_runs import Options, run
from thalweg.linalg._pair_states import Columns, Gram, Kind, check_kind
from thalweg.linalg.pair_results import (
    CholeskyResult,
    EigenResult,
    FactorResult,
    OrthogonalResult,
    PairProgress,
    SingularResult,
)
from thalweg.linalg.pivoting_bounds import check_matrix, check_symmetric

Floats = NDArray[np.float64]
Callback = Callable[[PairProgress], Any]


def jacobi_svd(
    a: ArrayLike,
    pivoting: str = "random",
    *,
    tol: float | None = None,
    max_sweeps: int | None = None,
    rng: int | np.random.Generator | None = None,
    callback: Callback | None = None,
    track: bool = False,
    executor: Executor | None = None,
) -> SingularResult:
    """Find all singular values, the smallest too, to high relative accuracy.

    Rotations of pairs of columns (one-sided Jacobi). The relative error of each singular value is
    about the unit roundoff times the condition number of the columns scaled to unit length, however
    badly they are scaled.

    Parameters
    ----------
    a : array_like, shape (m, n)
        Full column rank, m >= n. With more rows than columns the triangular factor of `a`, whose
        Gram matrix is the same, is rotated in its place.
    pivoting : {"random", "random-sweep", "cyclic", "greedy", "matching"}, default "random"
        Which pairs: uniformly random ones with replacement; all in a random order; all row by row;
        the largest cosine (slow: it looks at all pairs in each step); random matchings of disjoint
        pairs.
    tol : float, optional
        Largest cosine between two columns that may be left; by default the unit roundoff times
        the greatest of n, the root of m and 10. It is tested after each sweep, n (n - 1) / 2 pairs.
    max_sweeps : int, optional
        Most sweeps; by default what random pairs need with probability 0.99, and five more.
    rng : None, int or numpy.random.Generator
        Source of randomness.
    callback : callable, optional
        ``callback(progress)`` at the start and after each sweep, with the attributes ``sweep``,
        ``steps``, ``potential``, ``off_diagonal`` and ``condition``. Raising StopIteration ends
        the run.
    track : bool, default False
        Whether to keep these numbers in ``history``. They cost about as much as a sweep.
    executor : concurrent.futures.Executor, optional
        Does the disjoint pairs of a matching at once; needs ``pivoting="matching"``. Worthwhile
        from thousands of columns on.

    Returns
    -------
    SingularResult
        ``u`` (m, n), ``s`` (n,) descending, ``vt`` (n, n); ``steps``, ``sweeps``, ``converged``,
        ``potential`` at the start, ``history``. Where the tolerance is not reached ``converged`` is
        False and scipy.linalg.LinAlgWarning is issued.

    Raises
    ------
    TypeError
        If `a` is not real.
    ValueError
        If `a` has fewer rows than columns, entries that are not finite, or columns that are zero or
        dependent to rounding; if an option is out of range.

    References
    ----------
    "A Unified Perspective on Orthogonalization and Diagonalization" (2025), arXiv 2505.02023.
    J. Demmel and K. Veselić, "Jacobi's method is more accurate than QR", 1992.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.linalg import jacobi_svd
    >>> a = np.array([[1.0, 1e-12], [1.0, -1e-12], [1.0, 3e-12]])
    >>> jacobi_svd(a, rng=0).s
    array([1.73205081e+00, 2.82842712e-12])
    """
    options = Options.check(pivoting, tol, max_sweeps, rng, callback, track, executor)
    tall = _check_tall(a)
    m, n = tall.shape
    q, square = (None, tall) if m == n else qr(tall, mode="economic", check_finite=False)
    columns = Columns(square, "jacobi")
    done = run(columns, options)
    norms = np.sqrt(columns.squares)
    order = np.argsort(-norms)
    u = (columns.rows[order] / norms[order, None]).T
    return SingularResult(
        u=u if q is None else q @ u,
        s=columns.norms()[order],
        vt=columns.acc[order],
        **vars(done),
    )


def jacobi_eigh(
    h: ArrayLike,
    pivoting: str = "random",
    *,
    tol: float | None = None,
    max_sweeps: int | None = None,
    rng: int | np.random.Generator | None = None,
    callback: Callback | None = None,
    track: bool = False,
) -> EigenResult:
    """Find the eigenvalues of a symmetric matrix, of a definite one to high relative accuracy.

    Two-sided Jacobi rotations. For a definite matrix the relative error of each eigenvalue is about
    the unit roundoff times `thalweg.linalg.scaled_condition`, however large the condition number.
    For others it is relative to the largest eigenvalue, as with LAPACK.

    Parameters
    ----------
    h : array_like, shape (n, n)
        Any real symmetric matrix.
    pivoting, max_sweeps, rng, callback, track
        As in `jacobi_svd`. Where `h` is not definite, ``potential`` and ``off_diagonal`` are the
        squared share and the share of the Frobenius norm that is off the diagonal, and the greedy
        order takes the largest entry.
    tol : float, optional
        Largest entry off the diagonal that may be left, scaled to a unit diagonal; where `h` is not
        definite, their share of the Frobenius norm. By default the unit roundoff times n, or times
        10 if n is smaller.

    Returns
    -------
    EigenResult
        ``w`` (n,) ascending, ``v`` (n, n) with the eigenvectors as columns; ``steps``, ``sweeps``,
        ``converged``, ``potential`` at the start (NaN if not definite), ``history``.

    Raises
    ------
    TypeError
        If `h` is not real.
    ValueError
        If `h` is not square, symmetric and finite, or an option is out of range.

    Examples
    --------
    >>> from thalweg.linalg import jacobi_eigh
    >>> jacobi_eigh([[1.0, 1e-9], [1e-9, 3e-18]]).w
    array([2.e-18, 1.e+00])
    """
    options = Options.check(pivoting, tol, max_sweeps, rng, callback, track)
    h = check_symmetric("h", h, ndim=2)
    sign = -1.0 if np.all(np.diagonal(h) < 0) else 1.0
    try:
        gram = Gram(sign * h, "jacobi")
    except np.linalg.LinAlgError:
        gram = Gram(sign * h, "jacobi", definite=False)
    done = run(gram, options)
    w = sign * gram.diagonal()
    order = np.argsort(w)
    return EigenResult(w=w[order], v=gram.acc[order].T, **vars(done))


def pairwise_qr(
    a: ArrayLike,
    pivoting: str = "random",
    *,
    tol: float | None = None,
    max_sweeps: int | None = None,
    rng: int | np.random.Generator | None = None,
    callback: Callback | None = None,
    track: bool = False,
    executor: Executor | None = None,
) -> OrthogonalResult:
    """Factorise a = q r by Gram-Schmidt on pairs of columns, until all are orthogonal.

    Parameters
    ----------
    a : array_like, shape (m, n)
        Full column rank, m >= n.
    pivoting, tol, max_sweeps, rng, callback, track, executor
        As in `jacobi_svd`.

    Returns
    -------
    OrthogonalResult
        ``q`` (m, n), ``r`` (n, n) upper triangular with a positive diagonal; ``steps``, ``sweeps``,
        ``converged``, ``potential`` at the start, ``history``.

    Raises
    ------
    TypeError, ValueError
        As in `jacobi_svd`.

    Examples
    --------
    >>> from thalweg.linalg import pairwise_qr
    >>> pairwise_qr([[3.0, 1.0], [4.0, 3.0]]).r
    array([[5., 3.],
           [0., 1.]])
    """
    options = Options.check(pivoting, tol, max_sweeps, rng, callback, track, executor)
    columns = Columns(_check_tall(a), "triangular", inverse=True)
    done = run(columns, options)
    norms = np.sqrt(columns.squares)
    return OrthogonalResult(
        q=(columns.rows / norms[:, None]).T,
        r=columns.acc * columns.norms()[:, None],
        **vars(done),
    )


def pairwise_cholesky(
    g: ArrayLike,
    pivoting: str = "random",
    *,
    tol: float | None = None,
    max_sweeps: int | None = None,
    rng: int | np.random.Generator | None = None,
    callback: Callback | None = None,
    track: bool = False,
) -> CholeskyResult:
    """Factorise g = l l' by symmetric elimination on pairs, until the matrix is diagonal.

    Parameters
    ----------
    g : array_like, shape (n, n)
        Symmetric positive definite.
    pivoting, tol, max_sweeps, rng, callback, track
        As in `jacobi_eigh`.

    Returns
    -------
    CholeskyResult
        ``l`` (n, n) lower triangular with a positive diagonal; ``steps``, ``sweeps``,
        ``converged``, ``potential`` at the start, ``history``.

    Raises
    ------
    TypeError
        If `g` is not real.
    ValueError
        If `g` is not square, symmetric and finite, or an option is out of range.
    numpy.linalg.LinAlgError
        If `g` is not positive definite; the message names the pivot.

    Examples
    --------
    >>> from thalweg.linalg import pairwise_cholesky
    >>> pairwise_cholesky([[4.0, 2.0], [2.0, 10.0]]).l
    array([[2., 0.],
           [1., 3.]])
    """
    options = Options.check(pivoting, tol, max_sweeps, rng, callback, track)
    gram = Gram(check_symmetric("g", g, ndim=2), "triangular", inverse=True)
    done = run(gram, options)
    return CholeskyResult(l=gram.acc.T * np.sqrt(gram.diagonal()), **vars(done))


def pairwise_factor(
    a: ArrayLike,
    kind: Kind,
    gram: bool = False,
    pivoting: str = "random",
    *,
    tol: float | None = None,
    max_sweeps: int | None = None,
    rng: int | np.random.Generator | None = None,
    callback: Callback | None = None,
    track: bool = False,
    executor: Executor | None = None,
) -> FactorResult:
    """Make columns orthogonal, or a positive definite matrix diagonal, with any class of steps.

    Parameters
    ----------
    a : array_like, shape (m, n)
        Full column rank, m >= n; with `gram` symmetric positive definite (n, n).
    kind : {"jacobi", "triangular", "symmetric"} or callable
        Rotations; unit upper triangular matrices; inverse roots of the 2 x 2 blocks, which give
        orthonormal columns (the last scales even those left alone). A callable gets the floats
        ``(g_ii, g_ij, g_jj)`` and returns a 2 x 2 matrix S with S'BS diagonal.
    gram : bool, default False
        Whether `a` is itself the matrix of inner products.
    pivoting, tol, max_sweeps, rng, callback, track, executor
        As in `jacobi_svd`; `executor` serves named kinds and columns, not ``gram=True``.

    Returns
    -------
    FactorResult
        ``basis = a @ transform``, ``transform`` the product of all S, ``diag`` the squared norms of
        the columns of the basis (with `gram`, the diagonal of ``transform.T @ a @ transform``);
        ``steps``, ``sweeps``, ``converged``, ``potential`` at the start, ``history``.

    Raises
    ------
    TypeError
        If `a` is not real.
    ValueError
        If `a` is malformed as in `jacobi_svd` or `pairwise_cholesky`, an option is out of range, or
        what the callable returns does not make its block diagonal to 1e-8.
    numpy.linalg.LinAlgError
        With `gram`, if `a` is not positive definite.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.linalg import pairwise_factor
    >>> done = pairwise_factor([[1.0, 0.9], [0.0, 0.1], [2.0, 2.0]], "symmetric", rng=0)
    >>> np.allclose(done.basis.T @ done.basis, np.eye(2))
    True
    """
    check_kind(kind)
    options = Options.check(pivoting, tol, max_sweeps, rng, callback, track, executor)
    if executor is not None and (gram or callable(kind)):
        raise ValueError("executor serves named kinds with gram=False only")
    state: Columns | Gram
    if gram:
        state = Gram(check_symmetric("a", a, ndim=2), kind, name="a")
    else:
        state = Columns(_check_tall(a), kind)
    done = run(state, options)
    basis, transform, diag = state.factors()
    return FactorResult(basis=basis, transform=transform, diag=diag, **vars(done))


def _check_tall(a: ArrayLike) -> Floats:
    a = check_matrix("a", a, ndim=2)
    if a.shape[0] < a.shape[1]:
        raise ValueError(
            f"a must have at least as many rows as columns, got shape {a.shape}: use a.T"
        )
    return a

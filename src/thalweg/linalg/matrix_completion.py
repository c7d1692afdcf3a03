"""Fill the gaps of a table that is nearly of low rank: ratings, sensors, scores.

`MatrixCompletion` writes the table as ``U V^T`` with a few columns each and alternates: U fixed,
every column of the table is one small regression on the observed entries; then the other way round.
The one idea: the regressions need not be solved exactly. A few steps of an iterative solver from
the last solution cost about as much as reading the entries, and the alternation converges as if
they were exact, so that an iteration takes time near ``|Omega| k`` in place of ``|Omega| k^2``, for
``|Omega|`` observed entries and rank k.

Chosen here, beyond the source: all entries are used in every step (``split=True`` shares them out,
as the analysis does); conjugate gradients in place of gradient steps; a sketch of 4k rows with two
random signs a column in place of a randomised Hadamard transform, and its triangular factor by
Cholesky; where a step of fixed length is asked for (``solver="gradient"``), the length that
minimises along it, because length one diverges unless the sketch is much larger; a row with fewer
observations than k gets the solution of least norm.

Source: "Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time"
(2023), arXiv 2302.11068.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from thalweg._validation import check_count, check_option, check_real
from thalweg.linalg._alternating_minimization import (
    SOLVERS,
    RowSolver,
    alternate,
    regress,
    scaled,
)
from thalweg.linalg.subspaces import incoherence

Floats = NDArray[np.float64]


class MatrixCompletion(TransformerMixin, BaseEstimator):
    """Low-rank matrix completion by alternating minimisation with inexact regressions.

    Minimises ``sum over observed (i, j) of (X_ij - u_i . v_j)^2``. It finds the table exactly where
    it has rank k, its singular vectors are spread over many rows and columns (`incoherence`) and
    enough entries, in random places, are observed; k (m + n - k) of them is the least.

    Parameters
    ----------
    rank : int, default 5
        Rank k, at most the smaller side of the table.
    solver : {"sketch", "cg", "gradient", "exact"}, default "sketch"
        How each regression is solved. ``"sketch"``: conjugate gradients preconditioned by a random
        sketch, robust where the factors are unevenly spread. ``"cg"``: the same without
        preconditioner, the fastest at ranks above ten. ``"gradient"``: gradient steps with the
        sketch. ``"exact"``: Cholesky, ``|Omega| k^2`` operations, for small ranks.
    n_iter : int, default 50
        Iterations T at most: each updates both factors.
    inner_iter : int, default 3
        Steps of the iterative solvers.
    inner_tol : float, default 0.0
        An update of a row stops when its error, estimated in ``||A (x - x*)||``, is below this part
        of ``||b||``, the norm of the row's observed entries.
    sketch_factor : int, default 4
        Rows of the sketch over k. Rows of the table with fewer entries are solved exactly.
    alpha : float, default 0.0
        Ridge: the factors' squared norm times `alpha` is added to each regression, for noisy data.
        With one factor orthonormal, a share p of the entries observed adds to about p.
    split : bool, default False
        Use each entry once, in one of 2T + 1 random parts, as the analysis of the source does; it
        needs many more entries. All T iterations are done.
    clip : bool or float, default True
        The incoherence mu of the start, whose entries above ``2 mu sqrt(k / m)`` are set to zero;
        True computes mu from the start itself, so that nothing is clipped.
    center : bool, default False
        Subtract the mean of each column, then that of each row; they are added again.
    tol : float, default 1e-9
        Stop when the observed residual changes by less than this part of itself.
    rng : None, int or numpy.random.Generator
        Source of randomness: start, sketches, parts.
    executor : concurrent.futures.Executor, optional
        Runs blocks of rows; threads run them truly in parallel. The result does not depend on it.
    callback : callable, optional
        ``callback(state)`` after each iteration, with ``iteration``, ``n_iter``, ``residual`` and
        the factors ``row_factors`` (m, k) and ``col_factors`` (n, k), orthonormal. Raising
        StopIteration ends the fit.

    Attributes
    ----------
    row_factors_ : ndarray, shape (m, k)
        Left singular vectors of the completed table (less the means) times its singular values.
    col_factors_ : ndarray, shape (n, k)
        Its right singular vectors.
    singular_values_ : ndarray, shape (k,)
        In falling order.
    row_means_, col_means_ : ndarray, shapes (m,) and (n,)
        What `center` subtracted; zeros without it.
    n_iter_ : int
        Iterations done.
    history_ : ndarray, shape ``(n_iter_,)``
        Observed residual after each, over the norm of the observed entries.
    flops_ : ndarray, shape ``(n_iter_,)``
        Floating-point operations of each, counted.
    incoherence_ : float
        The larger incoherence of the two factors.

    References
    ----------
    "Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time" (2023),
    arXiv 2302.11068; the scheme with exact regressions: "Low-rank matrix completion using
    alternating minimization" (2012), arXiv 1212.0467.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> table = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 40))
    >>> gaps = rng.random(table.shape) < 0.5
    >>> model = MatrixCompletion(rank=3, rng=0).fit(np.where(gaps, np.nan, table))
    >>> bool(np.abs(model.reconstruct() - table)[gaps].max() < 1e-6)
    True
    >>> bool(np.allclose(model.predict([0, 5], [1, 7]), table[[0, 5], [1, 7]]))
    True
    """

    def __init__(
        self,
        rank: int = 5,
        *,
        solver: str = "sketch",
        n_iter: int = 50,
        inner_iter: int = 3,
        inner_tol: float = 0.0,
        sketch_factor: int = 4,
        alpha: float = 0.0,
        split: bool = False,
        clip: bool | float = True,
        center: bool = False,
        tol: float = 1e-9,
        rng: Any = None,
        executor: Executor | None = None,
        callback: Callable[[Any], Any] | None = None,
    ) -> None:
        self.rank = rank
        self.solver = solver
        self.n_iter = n_iter
        self.inner_iter = inner_iter
        self.inner_tol = inner_tol
        self.sketch_factor = sketch_factor
        self.alpha = alpha
        self.split = split
        self.clip = clip
        self.center = center
        self.tol = tol
        self.rng = rng
        self.executor = executor
        self.callback = callback

    def fit(self, X: ArrayLike | sparse.sparray, y: None = None) -> MatrixCompletion:
        """Learn the factors of a table with gaps.

        Parameters
        ----------
        X : array_like or scipy.sparse, shape (m, n)
            A table with NaN where nothing was observed, or a sparse one whose stored entries, zeros
            included, are the observed ones; entries stored twice are added up.
        y : None
            Ignored.

        Returns
        -------
        MatrixCompletion

        Raises
        ------
        TypeError
            If `X` or a parameter is of the wrong kind.
        ValueError
            If a parameter is out of bounds, `X` is infinite somewhere or nothing was observed.
        FloatingPointError
            If a regression leaves the range of floating point.

        Warns
        -----
        UserWarning
            If fewer than k (m + n - k) entries were observed: no method can find the table.
        """
        solver = self._row_solver()
        n_iter = check_count("n_iter", self.n_iter)
        tol = check_real("tol", self.tol, at_least=0)
        check_option("split", self.split, [False, True])
        check_option("center", self.center, [False, True])
        clip = None
        if not isinstance(self.clip, (bool, np.bool_)):
            clip = check_real("clip", self.clip, above=0)
        observed = self._observed(X, reset=True)
        m, n = observed.shape
        rank = check_count("rank", self.rank, at_most=min(m, n))
        if observed.nnz == 0:
            raise ValueError("X must have an observed entry, got none")
        needed = rank * (m + n - rank)
        if observed.nnz < needed:
            warnings.warn(
                f"a matrix of shape {m} x {n} and rank {rank} has {needed} degrees of freedom, "
                f"but only {observed.nnz} entries were observed; lower rank or set alpha > 0",
                UserWarning,
                stacklevel=2,
            )
        if self.center:
            self.col_means_ = _means(observed.T.tocsr(), np.zeros(m), float(observed.data.mean()))
            self.row_means_ = _means(observed, self.col_means_)
            observed = self._centered(observed, self.row_means_)
        else:
            self.row_means_, self.col_means_ = np.zeros(m), np.zeros(n)
        found = alternate(
            observed,
            rank,
            solver,
            n_iter=n_iter,
            tol=tol,
            split=self.split,
            clip=clip,
            rng=np.random.default_rng(self.rng),
            executor=self.executor,
            callback=self.callback,
        )
        self.row_factors_, self.col_factors_ = found.row_factors, found.col_factors
        self.singular_values_ = found.singular_values
        self.history_, self.flops_ = found.history, found.flops
        self.n_iter_ = len(found.history)
        self.incoherence_ = max(incoherence(self.row_factors_), incoherence(self.col_factors_))
        return self

    def fit_transform(self, X: ArrayLike | sparse.sparray, y: None = None) -> Floats:
        """Learn the factors and return `X` with its gaps filled, shape (m, n)."""
        self.fit(X)
        return _filled(self.reconstruct(), self._observed(X))

    def transform(self, X: ArrayLike | sparse.sparray) -> Floats:
        """Fill the gaps of rows, new or old: one regression a row against the columns' factors.

        Parameters
        ----------
        X : array_like or scipy.sparse, shape (rows, n)
            As for `fit`.

        Returns
        -------
        ndarray, shape (rows, n)
            Observed entries are kept. A row without any gets the means of the columns with
            ``center=True``, else zeros.

        Warns
        -----
        UserWarning
            If a row has no observed entry, without `center` and without `alpha`.
        """
        check_is_fitted(self)
        rows = self._observed(X)
        empty = np.flatnonzero(np.diff(rows.indptr) == 0)
        if empty.size and not self.center and not self.alpha:
            warnings.warn(
                f"{empty.size} rows, such as number {empty[0]}, have no observed entry; they are "
                "completed by zeros",
                UserWarning,
                stacklevel=2,
            )
        means = np.zeros(rows.shape[0])
        if self.center:
            means = _means(rows, self.col_means_)
        exact = RowSolver(SOLVERS["exact"], 1, 0.0, 1, self.alpha)
        start = np.zeros((rows.shape[0], self.col_factors_.shape[1]))
        centered, unit = scaled(self._centered(rows, means))
        factors, _, _ = regress(centered, self.col_factors_, start, exact, executor=self.executor)
        product = unit * (factors @ self.col_factors_.T)
        return _filled(product + means[:, None] + self.col_means_, rows)

    def predict(self, rows: ArrayLike, cols: ArrayLike) -> Floats:
        """Return the completed table at pairs of a row and a column, shape (len,)."""
        check_is_fitted(self)
        rows = _check_indices("rows", rows, len(self.row_factors_))
        cols = _check_indices("cols", cols, len(self.col_factors_))
        if rows.shape != cols.shape:
            raise ValueError(
                f"rows and cols must have the same length, got {len(rows)} and {len(cols)}"
            )
        product = np.einsum("ij,ij->i", self.row_factors_[rows], self.col_factors_[cols])
        return product + self.row_means_[rows] + self.col_means_[cols]

    def reconstruct(self) -> Floats:
        """Return the whole table, shape (m, n); observed entries are not kept."""
        check_is_fitted(self)
        product = self.row_factors_ @ self.col_factors_.T
        return product + self.row_means_[:, None] + self.col_means_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        return tags

    def __sklearn_clone__(self) -> MatrixCompletion:
        shared = ("executor", "callback")  # not to be copied
        params: dict[str, Any] = {
            key: value if key in shared else clone(value, safe=False)
            for key, value in self.get_params().items()
        }
        return type(self)(**params)

    def _row_solver(self) -> RowSolver:
        return RowSolver(
            SOLVERS[check_option("solver", self.solver, SOLVERS)],
            check_count("inner_iter", self.inner_iter),
            check_real("inner_tol", self.inner_tol, at_least=0),
            check_count("sketch_factor", self.sketch_factor),
            check_real("alpha", self.alpha, at_least=0),
        )

    def _observed(self, X: Any, reset: bool = False) -> sparse.csr_array:
        """Return the observed entries, whose values may be zero, as a canonical CSR array."""
        if not sparse.issparse(X):
            kind = np.asarray(X).dtype.kind
            if kind in "USmM" or (kind == "O" and not _is_numeric(X)):
                raise TypeError("X must be numbers: an argument must be a string or a number")
        X = validate_data(
            self,
            X,
            reset=reset,
            accept_sparse="csr",
            dtype=np.float64,
            ensure_all_finite="allow-nan",
        )
        if sparse.issparse(X):
            observed = sparse.csr_array(X, copy=True)
            observed.sum_duplicates()
            if np.isnan(observed.data).any():
                raise ValueError("X must not store NaN: what a sparse X stores was observed")
            return observed
        rows, cols = np.nonzero(~np.isnan(X))
        return sparse.csr_array((X[rows, cols], (rows, cols)), shape=X.shape)

    def _centered(self, observed: sparse.csr_array, row_means: Floats) -> sparse.csr_array:
        means = np.repeat(row_means, np.diff(observed.indptr)) + self.col_means_[observed.indices]
        data = observed.data - means
        return sparse.csr_array((data, observed.indices, observed.indptr), shape=observed.shape)


def _means(rows: sparse.csr_array, offsets: Floats, default: float = 0.0) -> Floats:
    """Return the mean of each row's entries less the columns' `offsets`."""
    counts = np.diff(rows.indptr)
    place = np.repeat(np.arange(rows.shape[0]), counts)
    sums = np.bincount(place, rows.data - offsets[rows.indices], minlength=rows.shape[0])
    return np.where(counts > 0, sums / np.maximum(counts, 1), default)


def _filled(completed: Floats, observed: sparse.csr_array) -> Floats:
    place = np.repeat(np.arange(observed.shape[0]), np.diff(observed.indptr))
    completed[place, observed.indices] = observed.data
    return completed


def _check_indices(name: str, value: ArrayLike, size: int) -> NDArray[np.intp]:
    indices = np.asarray(value)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise TypeError(f"{name} must be a sequence of integers, got {value!r}")
    if indices.size and not (indices.min() >= 0 and indices.max() < size):
        raise ValueError(f"{name} must be from 0 to {size - 1}, got {value!r}")
    return indices.astype(np.intp)


def _is_numeric(X: Any) -> bool:
    try:
        np.asarray(X).astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True

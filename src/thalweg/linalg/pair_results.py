"""What a pairwise factorisation returns and reports."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairProgress:
    """Where a run stands at the end of a sweep, as its callback gets it.

    Attributes
    ----------
    sweep, steps : int
        Sweeps and pairs done; a sweep is n (n - 1) / 2 pairs.
    potential : float
        `thalweg.linalg.pair_potential` of the current matrix; of a matrix that is not definite, the
        squared share of its Frobenius norm that is off the diagonal.
    off_diagonal : float
        What the tolerance is compared with: the largest cosine between two columns; of a matrix
        that is not definite, the share of its Frobenius norm that is off the diagonal.
    condition : float
        `thalweg.linalg.scaled_condition` of the current matrix; NaN if it is not definite.
    """

    sweep: int
    steps: int
    potential: float
    off_diagonal: float
    condition: float


@dataclass(frozen=True)
class PairHistory:
    """The numbers of `PairProgress` at the start and after every sweep, as arrays."""

    steps: NDArray[np.int64]
    potential: Floats
    off_diagonal: Floats
    condition: Floats


@dataclass(frozen=True, eq=False, kw_only=True)
class PairResult:
    """What every pairwise factorisation reports; each adds its factors.

    Attributes
    ----------
    steps : int
        Pairs visited.
    sweeps : int
        Blocks of n (n - 1) / 2 pairs.
    converged : bool
        Whether the tolerance was reached.
    potential : float
        Potential at the start: with `thalweg.linalg.stability_bound` the certificate of the run.
        NaN if the matrix is not definite, where there is none.
    history : PairHistory or None
        Present with ``track=True`` or a callback.
    """

    steps: int
    sweeps: int
    converged: bool
    potential: float
    history: PairHistory | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class EigenResult(PairResult):
    """Eigenvalues `w`, shape (n,), ascending, and eigenvectors, the columns of `v`."""

    w: Floats
    v: Floats


@dataclass(frozen=True, eq=False)
class SingularResult(PairResult):
    """``a = u @ diag(s) @ vt``: shapes (m, n), (n,) and (n, n); `s` descending."""

    u: Floats
    s: Floats
    vt: Floats


@dataclass(frozen=True, eq=False)
class OrthogonalResult(PairResult):
    """``a = q @ r``: shapes (m, n) and (n, n); `r` upper triangular, its diagonal positive."""

    q: Floats
    r: Floats


@dataclass(frozen=True, eq=False)
class CholeskyResult(PairResult):
    """``g = l @ l.T``, `l` of shape (n, n) lower triangular with a positive diagonal."""

    l: Floats  # noqa: E741


@dataclass(frozen=True, eq=False)
class FactorResult(PairResult):
    """``basis = a @ transform``, where the transform makes the matrix diagonal.

    `basis` has the shape of `a`, `transform` (n, n), `diag` (n,): the diagonal of
    ``transform.T @ g @ transform``, where g is the matrix itself or ``a.T @ a``.
    """

    basis: Floats
    transform: Floats
    diag: Floats

"""Matrix completion: one iteration with inexact regressions against exact ones, and cmfrec.

The time of an iteration is that of a fit of two iterations less that of its start: all entrants of
the first workload begin from given factors and do both half-steps.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from thalweg.linalg import MatrixCompletion
from thalweg.linalg._alternating_minimization import SOLVERS, RowSolver, regress

ROWS, COLUMNS, ENTRIES = 20_000, 10_000, 4_000_000
SMALL = (3000, 2000, 300_000, 10)
EXACT = "exact regressions of this library"


def observed_entries(rows, columns, entries, rank):
    """A table of this rank, in random places, and fresh places with their values."""
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(rows, rank)), rng.normal(size=(columns, rank))
    place = np.unique(rng.integers(rows * columns, size=entries))
    i, j = np.divmod(place, columns)
    values = np.einsum("ij,ij->i", u[i], v[j])
    observed = sparse.csr_array((values, (i, j)), shape=(rows, columns))
    i, j = rng.integers(rows, size=20_000), rng.integers(columns, size=20_000)
    return observed, (i, j, np.einsum("ij,ij->i", u[i], v[j]))


@pytest.mark.parametrize("rank", [10, 20, 40])
@pytest.mark.parametrize("solver", ["cg", "sketch", "exact"])
def test_one_iteration(measure, solver, rank):
    observed, _ = observed_entries(ROWS, COLUMNS, ENTRIES, rank)
    transposed = observed.T.tocsr()
    rng = np.random.default_rng(1)
    start = np.linalg.qr(rng.normal(size=(ROWS, rank)))[0]
    options = RowSolver(SOLVERS[solver], 3, 0.0, 4, 0.0)
    norm = np.linalg.norm(observed.data)

    def iterate():
        v = regress(transposed, start, np.zeros((COLUMNS, rank)), options)[0]
        v, r = np.linalg.qr(v)
        u, _, squares = regress(observed, v, start @ r.T, options)
        np.linalg.qr(u)
        return np.sqrt(squares) / norm

    measure(
        iterate,
        workload=f"one iteration, {ROWS} x {COLUMNS}, {ENTRIES:.0e} entries, rank {rank}",
        entrant=EXACT if solver == "exact" else f"thalweg {solver}, 3 steps",
        accuracy=("observed residual", float),
        target=2.0 if solver == "exact" and rank == 20 else None,
        rounds=3,
    )


@pytest.mark.parametrize("entrant", ["thalweg cg", EXACT, "cmfrec"])
def test_whole_fit(measure, entrant):
    *size, rank = SMALL
    observed, (i, j, values) = observed_entries(*size, rank)

    def fit():
        if entrant == "cmfrec":
            cmfrec = pytest.importorskip("cmfrec")
            model = cmfrec.CMF(
                k=rank, lambda_=1e-6, niter=15, center=False, user_bias=False, item_bias=False,
                nthreads=1, verbose=False,
            )  # fmt: skip
            model.fit(sparse.coo_matrix(observed))
            return np.einsum("ij,ij->i", model.A_[i], model.B_[j])
        solver = "exact" if entrant == EXACT else "cg"
        model = MatrixCompletion(rank, solver=solver, n_iter=15, tol=0.0, rng=0)
        return model.fit(observed).predict(i, j)

    measure(
        fit,
        workload="15 iterations, 3000 x 2000, 3e5 entries, rank 10",
        entrant=entrant,
        accuracy=(
            "relative error on unseen pairs",
            lambda found: np.linalg.norm(found - values) / np.linalg.norm(values),
        ),
        peer="cmfrec" if entrant == "cmfrec" else None,
        rounds=3,
    )

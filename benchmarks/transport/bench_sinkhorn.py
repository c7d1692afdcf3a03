"""Entropic plans between points in the square against POT and OTT-JAX, to the L1 error 1e-9.

Every entrant gets the costs over their median and stops by its own rule at 1e-9; the table shows
the error of the marginals that it leaves, measured in the same way for all.
"""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from thalweg.transport import sinkhorn, sinkhorn_newton_sparse

N, TOL, SWEEPS = 1000, 1e-9, 200_000
TARGETS = {
    0.1: {"POT": 1.0},
    0.01: {"POT": 2.0, "ott-jax": 2.0},
    0.001: {"POT": 20.0, "ott-jax": 40.0},
}


@pytest.fixture(scope="module")
def square():
    rng = np.random.default_rng(0)
    C = cdist(rng.random((N, 2)), rng.random((N, 2)), "sqeuclidean")
    return np.full(N, 1 / N), C / np.median(C)


def solve_newton(a, C, epsilon):
    return lambda: sinkhorn_newton_sparse(a, a, C, epsilon, tol=TOL).plan


def solve_sweeps(a, C, epsilon):
    return lambda: sinkhorn(a, a, C, epsilon, tol=TOL, max_iter=SWEEPS).plan


def solve_pot(a, C, epsilon):
    ot = pytest.importorskip("ot", reason="missing peer: POT (make bench installs it)")
    # POT compares a 2-norm of one marginal: 1e-9 in L1 is at least 1e-9 / sqrt(n) there.
    return lambda: ot.sinkhorn(
        a, a, C, epsilon, stopThr=TOL / np.sqrt(N), numItermax=SWEEPS, warn=False
    )


def solve_ott(a, C, epsilon):
    jax = pytest.importorskip("jax", reason="missing peer: ott-jax (make bench installs it)")
    pytest.importorskip("ott", reason="missing peer: ott-jax (make bench installs it)")
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    jax.config.update("jax_enable_x64", True)
    solver = Sinkhorn(threshold=TOL, max_iterations=SWEEPS, lse_mode=True)
    costs, masses = jax.numpy.asarray(C), jax.numpy.asarray(a)

    @jax.jit
    def plan(costs, masses):
        return solver(
            LinearProblem(Geometry(cost_matrix=costs, epsilon=epsilon), masses, masses)
        ).matrix

    return lambda: np.asarray(plan(costs, masses).block_until_ready())


ENTRANTS = {
    "thalweg sinkhorn_newton_sparse": (solve_newton, None),
    "sinkhorn of this library": (solve_sweeps, None),
    "POT ot.sinkhorn": (solve_pot, "POT"),
    "OTT-JAX Sinkhorn, log domain": (solve_ott, "ott-jax"),
}


@pytest.mark.parametrize("entrant", ENTRANTS)
@pytest.mark.parametrize("epsilon", TARGETS)
def test_plan(measure, square, epsilon, entrant):
    a, C = square
    prepare, peer = ENTRANTS[entrant]
    measure(
        prepare(a, C, epsilon),
        workload=f"entropic plan, {N} points in the square, epsilon {epsilon:g} of the median cost",
        entrant=entrant,
        accuracy=(
            "L1 error",
            lambda P: np.abs(P.sum(axis=1) - a).sum() + np.abs(P.sum(axis=0) - a).sum(),
        ),
        peer=peer,
        target=TARGETS[epsilon].get(peer),
        rounds=1 if peer and epsilon < 0.01 else 3,
    )

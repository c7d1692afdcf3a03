"""FISTA against scikit-learn's lasso, the MAXCUT relaxation against CVXPY, hit-and-run in a loop.

The lasso is reported without a wish: coordinate descent is made for it, FISTA takes any proximal
operator. CVXPY models the relaxation as a semidefinite programme over n x n matrices, with the
solver's own tolerances; the model is built beforehand. The loop of hit-and-run takes the same steps
in NumPy.
"""

from __future__ import annotations

import numpy as np
import pytest

from thalweg.descent import fista, hit_and_run, maxcut_sdp, prox_l1

ROWS, COLUMNS, SHARE = 2_000, 500, 0.05
NODES, DENSITY = 200, 0.1
DIM, CONSTRAINTS, DRAWS = 10, 50, 20_000


def regression():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(ROWS, COLUMNS))
    b = A[:, :20] @ rng.normal(size=20) + rng.normal(size=ROWS)
    return A, b, SHARE * float(np.abs(A.T @ b).max()) / ROWS


def by_fista(A, b, lam):
    # The Lipschitz constant is part of the work.
    L = float(np.linalg.norm(A, 2) ** 2 / ROWS)

    def both(x):
        residual = A @ x - b
        return 0.5 * residual @ residual / ROWS, A.T @ residual / ROWS

    return fista(
        both, np.zeros(COLUMNS), jac=True, prox=lambda v, t: prox_l1(v, lam * t), L=L, gtol=1e-8
    ).x


@pytest.mark.parametrize("entrant", ["thalweg", "scikit-learn"])
def test_lasso(measure, entrant):
    A, b, lam = regression()

    def distance_from_optimal(x):
        """Largest violation of the optimality conditions, relative to the weight."""
        g = A.T @ (A @ x - b) / ROWS
        return np.abs(np.where(x != 0, g + lam * np.sign(x), np.maximum(np.abs(g) - lam, 0))).max()

    if entrant == "thalweg":
        run = lambda: by_fista(A, b, lam)  # noqa: E731
    else:
        from sklearn.linear_model import Lasso

        model = Lasso(alpha=lam, fit_intercept=False, tol=1e-12, max_iter=100_000)
        run = lambda: model.fit(A, b).coef_  # noqa: E731
    measure(
        run,
        workload=f"lasso, {ROWS:,} x {COLUMNS}, weight {SHARE:g} of the largest",
        entrant=entrant,
        accuracy=("violated optimality", distance_from_optimal),
        peer=None if entrant == "thalweg" else "scikit-learn",
    )


def graph():
    rng = np.random.default_rng(0)
    upper = np.triu(rng.random((NODES, NODES)) < DENSITY, 1).astype(float)
    return upper + upper.T


def by_cvxpy(W, solver):
    cvxpy = pytest.importorskip("cvxpy", reason="missing peer: cvxpy")
    X = cvxpy.Variable((NODES, NODES), PSD=True)
    value = 0.25 * cvxpy.sum(cvxpy.multiply(W, 1 - X))
    programme = cvxpy.Problem(cvxpy.Maximize(value), [cvxpy.diag(X) == 1])
    return lambda: programme.solve(solver=solver, warm_start=False)


@pytest.mark.parametrize("entrant", ["thalweg", "SCS"])
def test_maxcut(measure, entrant):
    W = graph()
    bound = maxcut_sdp(W, tol=1e-10, rng=1).upper_bound
    if entrant == "thalweg":
        run = lambda: maxcut_sdp(W, rng=0).value  # noqa: E731
    else:
        run = by_cvxpy(W, entrant)
    measure(
        run,
        workload=f"relaxation of MAXCUT, {NODES} nodes, density {DENSITY:g}",
        entrant="thalweg" if entrant == "thalweg" else f"CVXPY, {entrant}",
        accuracy=("relative distance from the bound", lambda value: abs(value - bound) / bound),
        peer=None if entrant == "thalweg" else entrant.lower(),
        target=None if entrant == "thalweg" else 20.0,
        rounds=5 if entrant == "thalweg" else 1,
    )


def polytope():
    rng = np.random.default_rng(0)
    A = np.vstack([rng.normal(size=(CONSTRAINTS - 2 * DIM, DIM)), np.eye(DIM), -np.eye(DIM)])
    return A, np.ones(CONSTRAINTS)


def loop(A, b, n_samples, rng):
    x, samples = np.zeros(DIM), np.empty((n_samples, DIM))
    for step in range(-50 * DIM, n_samples):
        d = rng.standard_normal(DIM)
        slopes, distances = A @ d, b - A @ x
        ends = distances / slopes
        low, high = ends[slopes < 0].max(), ends[slopes > 0].min()
        x = x + (low + (high - low) * rng.random()) * d
        if step >= 0:
            samples[step] = x
    return samples


@pytest.mark.parametrize("entrant", ["thalweg", "NumPy loop"])
def test_hit_and_run(measure, entrant):
    A, b = polytope()
    if entrant == "thalweg":
        run = lambda: hit_and_run(A, b, np.zeros(DIM), n_samples=DRAWS, rng=0)  # noqa: E731
    else:
        run = lambda: loop(A, b, DRAWS, np.random.default_rng(0))  # noqa: E731
    exact = hit_and_run(A, b, np.zeros(DIM), n_samples=50 * DRAWS, rng=1)
    measure(
        run,
        workload=f"hit-and-run, {CONSTRAINTS} constraints, {DIM} dimensions, {DRAWS:,} draws",
        entrant=entrant,
        accuracy=(
            "largest error of a second moment",
            lambda draws: np.abs(np.cov(draws.T) - np.cov(exact.T)).max(),
        ),
        target=None if entrant == "thalweg" else 10.0,
    )

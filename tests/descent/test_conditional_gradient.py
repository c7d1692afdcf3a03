"""Frank-Wolfe: gap, bound, sparsity, and singular pairs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import minimize

from thalweg.descent import frank_wolfe, lmo, nuclear_ball_lmo, project_l1_ball, rate

steps = pytest.mark.parametrize("step", ["open-loop", "short", "exact"])
DIM, RADIUS = 12, 2.0


def regression(seed=0, dim=DIM):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(20, dim))
    b = A[:, :2] @ [3.0, -2.0] + rng.normal(size=20)

    def fun(x):
        return 0.5 * np.sum((A @ x - b) ** 2) / 20

    def jac(x):
        return A.T @ (A @ x - b) / 20

    return fun, jac, float(np.linalg.norm(A, 2) ** 2 / 20)


def best_of(fun, jac):
    dim = DIM
    peer = minimize(
        lambda z: fun(z[:dim] - z[dim:]),
        np.full(2 * dim, 0.01),
        jac=lambda z: np.r_[jac(z[:dim] - z[dim:]), -jac(z[:dim] - z[dim:])],
        method="SLSQP",
        bounds=[(0, None)] * (2 * dim),
        constraints={"type": "ineq", "fun": lambda z: RADIUS - z.sum()},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return peer.fun


def solve(step, fun, jac, L, **options):
    return frank_wolfe(
        fun,
        np.zeros(DIM),
        jac=jac,
        lmo=lambda g: lmo(g, "l1", RADIUS),
        step=step,
        L=L,
        record=True,
        **options,
    )


@steps
@pytest.mark.parametrize("seed", [0, 1])
def test_stays_below_its_bound_and_its_own_gap(step, seed):
    fun, jac, L = regression(seed)
    best = best_of(fun, jac)
    result = solve(step, fun, jac, L, maxiter=400)
    gaps = result.history["fun"] - best
    t = np.arange(result.nit + 1)
    assert (gaps <= rate("frank_wolfe", t, L=L, diameter=2 * RADIUS) + 1e-9).all()
    assert (gaps <= result.history["gap"] + 1e-9).all()
    assert result.gap == result.history["gap"][-1]
    assert gaps[-1] <= 1e-2


@steps
def test_mixes_no_more_atoms_than_steps(step):
    fun, jac, L = regression()
    sizes = [0]
    solve(step, fun, jac, L, maxiter=8, callback=lambda x: sizes.append(np.count_nonzero(x)))
    assert all(size <= t + 1 for t, size in enumerate(sizes))


@steps
def test_points_stay_in_the_set(step):
    fun, jac, L = regression()
    lengths = []
    solve(step, fun, jac, L, maxiter=50, callback=lambda x: lengths.append(np.abs(x).sum()))
    assert max(lengths) <= RADIUS + 1e-12


def test_open_loop_follows_the_printed_recursion():
    fun, jac, L = regression()
    points = [np.zeros(DIM)]
    solve("open-loop", fun, jac, L, maxiter=6, callback=points.append)
    x = points[0]
    for t in range(1, 7):
        gamma = 2 / (t + 1)
        x = (1 - gamma) * x + gamma * lmo(jac(x), "l1", RADIUS)
        np.testing.assert_allclose(points[t], x, atol=1e-14)


def test_short_step_minimises_the_quadratic_bound():
    fun, jac, L = regression()
    points = [np.zeros(DIM)]
    solve("short", fun, jac, L, maxiter=6, callback=points.append)
    for x, following in pairwise(points):
        d = lmo(jac(x), "l1", RADIUS) - x
        shares = np.linspace(0, 1, 100_001)
        bound = shares * (jac(x) @ d) + 0.5 * L * shares**2 * (d @ d)
        np.testing.assert_allclose(following, x + shares[bound.argmin()] * d, atol=1e-4)


def test_exact_step_is_the_best_of_the_segment():
    fun, jac, L = regression()
    points = [np.zeros(DIM)]
    solve("exact", fun, jac, L, maxiter=6, callback=points.append)
    for x, following in pairwise(points):
        d = lmo(jac(x), "l1", RADIUS) - x
        best = min(fun(x + share * d) for share in np.linspace(0, 1, 1001))
        assert fun(following) <= best + 1e-12


@pytest.mark.parametrize("step", ["short", "exact"])
def test_an_optimum_at_a_vertex_is_reached_exactly(step):
    costs = np.array([3.0, 1.0, 2.0])
    result = frank_wolfe(
        lambda x: costs @ x,
        np.full(3, 1 / 3),
        jac=lambda x: costs,
        lmo=lambda g: np.eye(3)[g.argmin()],
        step=step,
        L=1e-3,
    )
    np.testing.assert_array_equal(result.x, [0, 1, 0])
    assert (result.nit, result.gap, result.success) == (1, 0.0, True)


def test_the_gap_is_the_stop():
    fun, jac, L = regression()
    result = solve("short", fun, jac, L, gap_tol=1e-2)
    assert result.success
    assert result.history["gap"][-1] <= 1e-2 < result.history["gap"][:-1].min()
    assert "gap_tol = 0.01" in result.message


def test_agrees_with_projected_steps():
    fun, jac, L = regression()
    x = np.zeros(DIM)
    for _ in range(5000):
        x = project_l1_ball(x - jac(x) / L, RADIUS)
    assert solve("exact", fun, jac, L, gap_tol=1e-5).fun == pytest.approx(fun(x), abs=1e-5)


@pytest.mark.parametrize("shape", [(5, 3), (40, 60), (60, 25), (1, 4)])
@pytest.mark.parametrize("sparse", [False, True])
def test_nuclear_atom_is_that_of_the_full_decomposition(shape, sparse):
    G = np.random.default_rng(0).normal(size=shape)
    atom = nuclear_ball_lmo(scipy.sparse.csr_array(G) if sparse else G, 3.0)
    left, values, right = np.linalg.svd(G)
    np.testing.assert_allclose(atom, -3 * np.outer(left[:, 0], right[0]), atol=1e-8)
    assert np.sum(G * atom) == pytest.approx(-3 * values[0])


@pytest.mark.parametrize("shape", [(5, 3), (40, 60)])
def test_nuclear_atom_of_zero_is_in_the_ball(shape):
    atom = nuclear_ball_lmo(np.zeros(shape), 2.0)
    assert np.linalg.svd(atom, compute_uv=False).sum() == pytest.approx(2.0)


def test_matrix_completion_by_single_pairs():
    rng = np.random.default_rng(0)
    truth = np.outer(rng.normal(size=25), rng.normal(size=30))
    seen = rng.random(truth.shape) < 0.6
    radius = np.linalg.svd(truth, compute_uv=False).sum()
    result = frank_wolfe(
        lambda X: 0.5 * np.sum((X - truth)[seen] ** 2),
        np.zeros(truth.shape),
        jac=lambda X: np.where(seen, X - truth, 0.0),
        lmo=lambda G: nuclear_ball_lmo(G, radius),
        step="exact",
        gap_tol=1e-2,
    )
    assert result.success
    assert np.linalg.norm(result.x - truth) <= 0.1 * np.linalg.norm(truth)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"step": "short"}, ValueError, "L must be given for step='short'"),
        ({"step": "line"}, ValueError, "step must be one of"),
        ({"L": -1.0}, ValueError, "L must be"),
        ({"lmo": None}, TypeError, "lmo must be callable"),
        ({"lmo": lambda g: [1.0, 2.0]}, ValueError, "lmo must return shape"),
        ({"gap_tol": -1.0}, ValueError, "gap_tol must be"),
    ],
)
def test_malformed_options_are_refused(options, error, message):
    options = {"lmo": lambda g: -np.sign(g), **options}
    with pytest.raises(error, match=message):
        frank_wolfe(lambda x: 0.0, [1.0], jac=lambda x: x, **options)


@pytest.mark.parametrize(
    ("G", "radius", "message"),
    [
        (np.ones(3), 1.0, "G must have 2 axes"),
        (np.ones((0, 3)), 1.0, "G must not be empty"),
        (np.full((2, 2), np.nan), 1.0, "G must be finite"),
        (np.ones((2, 2)), 0.0, "radius must be"),
    ],
)
def test_malformed_gradients_are_refused(G, radius, message):
    with pytest.raises(ValueError, match=message):
        nuclear_ball_lmo(G, radius)

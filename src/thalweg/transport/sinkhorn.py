"""Entropic transport plans: who goes where at least cost, smoothed, to any accuracy you ask for.

Given a cost matrix and two histograms, `sinkhorn` alternates between matching the row sums and
the column sums; with little smoothing that takes tens of thousands of sweeps.
`sinkhorn_newton_sparse` stops the sweeps early and finishes with a few Newton steps: at small
epsilon nearly all entries of the plan are negligible, so the Hessian is sparse and a step costs no
more than a sweep. `entropic_plan` starts from points, `sample_plan` draws pairs from a plan.

Source: "Accelerating Sinkhorn Algorithm with Sparse Newton Iterations" (2024), arXiv 2401.12253,
Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult
from scipy.sparse import coo_array, csr_array, issparse
from scipy.spatial.distance import cdist

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.transport._sinkhorn_problem import Array, Input, Point, Problem
from thalweg.transport._sinkhorn_stages import Progress, Sweeps, newton, remaining_sweeps

Callback = Callable[[OptimizeResult], Any]

SPARSE_PLAN_TOL = 1e-14
PATIENCE, LOOK = 300, 10  # while fewer sweeps are foreseen they are cheaper than Newton steps
LEVEL_TOL, LEVEL_SWEEPS = 1e-2, 5

_METRICS = {
    "sqeuclidean/2": ("sqeuclidean", 0.5),
    "sqeuclidean": ("sqeuclidean", 1.0),
    "euclidean": ("euclidean", 1.0),
    "cityblock": ("cityblock", 1.0),
}


def sinkhorn(
    a: ArrayLike,
    b: ArrayLike,
    C: ArrayLike,
    epsilon: float,
    *,
    f0: ArrayLike | None = None,
    g0: ArrayLike | None = None,
    tol: float = 1e-9,
    max_iter: int = 10_000,
    check_every: int = 10,
    callback: Callback | None = None,
) -> OptimizeResult:
    """Entropic transport plan by Sinkhorn's sweeps, safe at any epsilon.

    Minimises ``sum C P + epsilon sum P (log P - 1)`` over plans P with row sums `a` and column
    sums `b`. Potentials are kept as logarithms; between absorptions a sweep is two products with
    an absorbed plan, which is the same iteration.

    Parameters
    ----------
    a : array_like of shape (n,)
        Mass of the rows, not negative; zeros are allowed (below 1e-200 of the sum is zero).
    b : array_like of shape (m,)
        Mass of the columns, with the same sum.
    C : array_like of shape (n, m)
        Cost of moving one unit from row to column; any finite numbers.
    epsilon : float
        Smoothing, in units of the cost.
    f0, g0 : array_like of shape (n,) and (m,), optional
        Potentials to start from, such as those of an earlier result. A sweep begins with the
        rows, so `g0` decides; given `f0` alone, the columns are matched to it first.
    tol : float, default 1e-9
        Stop at this L1 error of the marginals, relative to the mass.
    max_iter : int, default 10000
        Greatest number of sweeps.
    check_every : int, default 10
        Sweeps between two looks at the error and two calls of `callback`.
    callback : callable, optional
        Called with an OptimizeResult: ``f, g, value, epsilon, marginal_error, nit, stage``.

    Returns
    -------
    OptimizeResult
        - ``f, g`` : potentials, P = exp((f + g - C) / epsilon), with equal sums over the rows and
          columns that carry mass; -inf on the others.
        - ``plan`` : array (n, m); ``sparse_plan`` : its entries >= 1e-14 of the largest, as CSR.
        - ``cost`` : sum C P; ``value`` : the dual potential that the sweeps increase, at the
          solution equal to ``cost + epsilon sum P log P``.
        - ``marginal_error`` : L1 error of both marginals, relative to the mass.
        - ``nit, n_sweeps, n_newton, n_cg, kept`` : sweeps plus Newton steps, either, conjugate
          gradient steps, share of entries kept in the last Hessian (0 without Newton steps).
        - ``history`` : error after every sweep and step.
        - ``success, message``.

    Raises
    ------
    ValueError
        If shapes, signs, sums, or another argument are wrong; the message names it.

    References
    ----------
    "Sinkhorn Distances: Lightspeed Computation of Optimal Transport" (2013), arXiv 1306.0895;
    absorption: "Stabilized Sparse Scaling Algorithms for Entropy Regularized Transport Problems"
    (2019), arXiv 1610.06519.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.transport import sinkhorn
    >>> result = sinkhorn([0.5, 0.5], [0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]], epsilon=0.5)
    >>> result.plan.round(4)
    array([[0.4404, 0.0596],
           [0.0596, 0.4404]])
    """
    tol = check_real("tol", tol, above=0)
    max_iter = check_count("max_iter", max_iter)
    check_every = check_count("check_every", check_every)
    whole = Input(a, b, C)
    problem = whole.problem(check_real("epsilon", epsilon, above=0))
    progress = Progress(callback)
    sweeps = Sweeps(problem, whole.start(problem, f0, g0), progress)
    while progress.error > tol and progress.n_sweeps < max_iter:
        sweeps.run(min(check_every, max_iter - progress.n_sweeps))
    if progress.error <= tol:
        message = f"the marginal error fell below tol = {tol:g}"
    else:
        message = f"max_iter = {max_iter} sweeps left a marginal error of {progress.error:.3g}"
    point = sweeps.point()
    return _result(
        whole, problem, point.f, point.g, progress, success=progress.error <= tol, message=message
    )


def sinkhorn_newton_sparse(
    a: ArrayLike,
    b: ArrayLike,
    C: ArrayLike,
    epsilon: float,
    *,
    n_sinkhorn: int = 20,
    max_newton: int = 100,
    density: float | None = None,
    drop_tol: float = 1e-8,
    annealing: float | Literal["auto"] | None = "auto",
    f0: ArrayLike | None = None,
    g0: ArrayLike | None = None,
    tol: float = 1e-9,
    callback: Callback | None = None,
) -> OptimizeResult:
    """Entropic transport plan at small epsilon: a few sweeps, then sparse Newton steps.

    Solves the problem of `sinkhorn`. Only the Hessian is thinned out, never the plan: the
    solution is the same. Where the sweeps are seen to converge within 300 more, as they do at
    large epsilon, they go on instead.

    Parameters
    ----------
    a, b, C, epsilon
        As for `sinkhorn`.
    n_sinkhorn : int, default 20
        Sweeps before the first Newton step; with annealing, five at every level instead.
    max_newton : int, default 100
        Greatest number of Newton steps in all.
    density : float in (0, 1], optional
        Share of the entries of the plan, the largest, that the Hessian keeps: the paper's rule.
    drop_tol : float in [0, 1], default 1e-8
        Without `density`: the Hessian keeps the entries of at least this share of the largest.
        Nearly exact, so that few Newton steps are needed.
    annealing : float in (0, 1), None or "auto", default "auto"
        Start at the larger of epsilon and a tenth of the median cost (above the least cost) and
        multiply by this factor down to epsilon. "auto" is 0.5 where epsilon is below a fiftieth of
        that median and no start is given, else None.
    f0, g0, tol, callback
        As for `sinkhorn`; the callback comes after every block of sweeps and every Newton step.

    Returns
    -------
    OptimizeResult
        As from `sinkhorn`. ``history`` covers all levels, each at its own epsilon. Where steps no
        longer gain beyond round-off, ``success`` is whether the error is below 100 `tol`.

    Raises
    ------
    ValueError
        If shapes, signs, sums, or another argument are wrong; the message names it.

    Notes
    -----
    Chosen here, where the paper leaves it open: Armijo's rule with halving; conjugate gradients to
    the relative residual 0.01 min(0.1, sqrt(error)); the annealing; the choice of stage.

    References
    ----------
    "Accelerating Sinkhorn Algorithm with Sparse Newton Iterations" (2024), arXiv 2401.12253,
    Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.transport import sinkhorn_newton_sparse
    >>> x = np.linspace(0, 1, 50)
    >>> a, b = np.full(50, 1 / 50), np.full(50, 1 / 50)
    >>> C = (x[:, None] - x**2) ** 2
    >>> result = sinkhorn_newton_sparse(a, b, C, epsilon=1e-3)
    >>> result.success, bool(result.marginal_error < 1e-9), round(result.cost, 4)
    (True, True, 0.0331)
    """
    n_sinkhorn = check_count("n_sinkhorn", n_sinkhorn)
    max_newton = check_count("max_newton", max_newton, at_least=0)
    tol = check_real("tol", tol, above=0)
    drop_tol = check_real("drop_tol", drop_tol, at_least=0, at_most=1)
    if density is not None:
        density = check_real("density", density, above=0, at_most=1)
    if isinstance(annealing, str):
        check_option("annealing", annealing, ["auto"])
    elif annealing is not None:
        annealing = check_real("annealing", annealing, above=0, below=1)
    epsilon = check_real("epsilon", epsilon, above=0)
    whole = Input(a, b, C)
    started = f0 is not None or g0 is not None
    levels = _levels(whole.C, epsilon, annealing, started)
    progress = Progress(callback)
    g = whole.start(whole.problem(levels[0]), f0, g0)

    def descend(level: float, g: Array, count: int, level_tol: float) -> tuple[Point, bool]:
        """Sweeps, then Newton steps at one epsilon."""
        problem = whole.problem(level)
        sweeps = Sweeps(problem, g, progress)
        sweeps.run(count)
        while 0 < remaining_sweeps(progress.history[-count:], level_tol) < PATIENCE:
            sweeps.run(LOOK)
        return newton(
            sweeps.point(),
            problem,
            tol=level_tol,
            max_newton=max_newton,
            density=density,
            drop_tol=drop_tol,
            progress=progress,
        )

    count = n_sinkhorn if len(levels) == 1 else LEVEL_SWEEPS
    for level in levels[:-1]:
        point, _ = descend(level, g, count, max(tol, LEVEL_TOL))
        g = point.g
    point, stuck = descend(epsilon, g, count, tol)
    success = point.error <= (100 * tol if stuck else tol)
    if stuck:
        message = f"steps no longer gain beyond round-off; marginal error {point.error:.3g}"
    elif success:
        message = f"the marginal error fell below tol = {tol:g}"
    else:
        message = f"max_newton = {max_newton} steps left a marginal error of {point.error:.3g}"
    return _result(
        whole, whole.problem(epsilon), point.f, point.g, progress, success=success, message=message
    )


def entropic_plan(
    X: ArrayLike,
    Y: ArrayLike,
    epsilon: float,
    *,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    cost: Literal["sqeuclidean/2", "sqeuclidean", "euclidean", "cityblock"] = "sqeuclidean/2",
    solver: Literal["sns", "sinkhorn"] = "sns",
    **options: Any,
) -> OptimizeResult:
    """Entropic transport plan between two clouds of points.

    Parameters
    ----------
    X : array_like of shape (n, d)
        Points that mass leaves.
    Y : array_like of shape (m, d)
        Points that mass reaches.
    epsilon : float
        Smoothing, in units of the cost. With the default cost this is the variance of the
        Brownian motion whose Schrödinger bridge has these ends.
    a, b : array_like of shape (n,) and (m,), optional
        Mass of the points; uniform with sum 1 if None.
    cost : {"sqeuclidean/2", "sqeuclidean", "euclidean", "cityblock"}
        Cost of a pair; the default is half the squared distance.
    solver : {"sns", "sinkhorn"}
        `sinkhorn_newton_sparse` or `sinkhorn`.
    **options
        Keyword arguments of the solver; it refuses unknown ones.

    Returns
    -------
    OptimizeResult
        As from `sinkhorn`.

    Raises
    ------
    ValueError
        If the dimensions of `X` and `Y` differ, or another argument is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.transport import entropic_plan
    >>> X = np.array([[0.0], [1.0]])
    >>> round(entropic_plan(X, X + 1.0, epsilon=0.01).cost, 6)
    0.5
    """
    X = check_array("X", X, ndim=2)
    Y = check_array("Y", Y, ndim=2)
    if X.shape[1] != Y.shape[1]:
        raise ValueError(f"Y must have {X.shape[1]} columns like X, got shape {Y.shape}")
    for name, points in (("X", X), ("Y", Y)):
        if not len(points):
            raise ValueError(f"{name} must hold at least one point, got shape {points.shape}")
    metric, factor = _METRICS[check_option("cost", cost, _METRICS)]
    solvers: dict[str, Callable[..., OptimizeResult]] = {
        "sns": sinkhorn_newton_sparse,
        "sinkhorn": sinkhorn,
    }
    solve = solvers[check_option("solver", solver, solvers)]
    a = np.full(len(X), 1.0 / len(X)) if a is None else a
    b = np.full(len(Y), 1.0 / len(Y)) if b is None else b
    return solve(a, b, factor * cdist(X, Y, metric), epsilon, **options)


def sample_plan(
    plan: ArrayLike | csr_array, n: int, rng: int | np.random.Generator | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw pairs (i, j) with the probabilities of a plan.

    Parameters
    ----------
    plan : array_like or SciPy sparse array of shape (n_rows, n_columns)
        Not negative; need not sum to 1.
    n : int
        Number of pairs.
    rng : None, int or numpy.random.Generator
        Randomness.

    Returns
    -------
    i, j : arrays of shape (n,)
        Rows and columns.

    Raises
    ------
    ValueError
        If the plan has negative entries or no mass.

    Examples
    --------
    >>> from thalweg.transport import sample_plan
    >>> i, j = sample_plan([[0.0, 1.0], [0.0, 0.0]], 3, rng=0)
    >>> i.tolist(), j.tolist()
    ([0, 0, 0], [1, 1, 1])
    """
    n = check_count("n", n, at_least=0)
    rng = np.random.default_rng(rng)
    if issparse(plan):
        entries = coo_array(plan)
        weights = check_array("plan", entries.data, ndim=1)
    else:
        dense = check_array("plan", plan, ndim=2)
        weights = dense.ravel()
    if not len(weights) or weights.min() < 0 or weights.sum() <= 0:
        raise ValueError("plan must have no negative entry and a positive sum")
    cumulative = np.cumsum(weights)
    drawn = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
    drawn = np.minimum(drawn, np.flatnonzero(weights)[-1])
    if issparse(plan):
        return entries.row[drawn].astype(np.int64), entries.col[drawn].astype(np.int64)
    return drawn // dense.shape[1], drawn % dense.shape[1]


def _levels(C: Array, epsilon: float, annealing: float | str | None, started: bool) -> list[float]:
    """Return the epsilons to solve at, the wanted one last."""
    if annealing is None:
        return [epsilon]
    some_rows = C[:: max(1, len(C) // 100)]
    median = float(np.median(some_rows) - C.min())
    if annealing == "auto":
        if started or epsilon >= 0.02 * median:
            return [epsilon]
        annealing = 0.5
    levels = []
    level = 0.1 * median
    while level > epsilon:
        levels.append(level)
        level *= float(annealing)
    return [*levels, epsilon]


def _result(
    whole: Input,
    problem: Problem,
    f: Array,
    g: Array,
    progress: Progress,
    *,
    success: bool,
    message: str,
) -> OptimizeResult:
    """Put the rows and columns without mass back."""
    shift = (f.sum() - g.sum()) / (len(f) + len(g))
    f, g = f - shift, g + shift
    kept = problem.plan(f, g)
    threshold = math.log(kept.max()) + math.log(SPARSE_PLAN_TOL)
    sparse = problem.entries(f, g, threshold).tocoo()
    error = np.abs(kept.sum(axis=1) - whole.a).sum() + np.abs(kept.sum(axis=0) - whole.b).sum()
    cost = float(np.vdot(problem.C, kept))
    plan = kept
    full_f, full_g = f, g
    if plan.shape != whole.shape:
        rows, columns = np.flatnonzero(whole.rows), np.flatnonzero(whole.columns)
        plan = np.zeros(whole.shape)
        plan[np.ix_(rows, columns)] = kept
        sparse.coords = (rows[sparse.row], columns[sparse.col])
        full_f, full_g = np.full(whole.shape[0], -np.inf), np.full(whole.shape[1], -np.inf)
        full_f[rows], full_g[columns] = f, g
    return OptimizeResult(
        f=full_f,
        g=full_g,
        plan=plan,
        sparse_plan=csr_array((sparse.data, sparse.coords), shape=whole.shape),
        cost=cost,
        value=problem.value(f, g, float(kept.sum())),
        marginal_error=float(error) / problem.mass,
        nit=progress.n_sweeps + progress.n_newton,
        n_sweeps=progress.n_sweeps,
        n_newton=progress.n_newton,
        n_cg=progress.n_cg,
        kept=progress.kept,
        history=np.array(progress.history),
        success=bool(success),
        message=message,
    )

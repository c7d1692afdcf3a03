"""Two laws on a finite set coupled at least divergence from a discrete reference, exactly.

`categorical_bridge` solves for the coupling by Sinkhorn's method. `categorical_dimf` reaches the
same coupling by alternating two projections: onto processes whose bridges are those of the
reference, and onto Markov chains. Only the Schrödinger bridge is both.

Source: "Categorical Schrödinger Bridge Matching" (2025), arXiv 2502.01416.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count, check_real
from thalweg.transport.sinkhorn import sinkhorn_newton_sparse

if TYPE_CHECKING:
    from thalweg.transport.categorical import CategoricalReference

Floats: TypeAlias = NDArray[np.float64]

MARGINAL_TOL = 1e-8
LEAST_REACHABLE = float(np.finfo(np.float64).tiny)
"""Transition probabilities below the least normal number count as zero."""
FORBIDDEN_COST = 200.0
"""Cost, in nats per state above the largest other cost, of a pair that cannot be reached."""


def categorical_dimf(
    p0: ArrayLike,
    p1: ArrayLike,
    reference: CategoricalReference,
    *,
    n_iter: int = 50,
    coupling: ArrayLike | None = None,
    callback: Callable[[Any], Any] | None = None,
) -> list[Floats]:
    """Approach the Schrödinger bridge by discrete-time iterative Markovian fitting (D-IMF).

    Exact, with tables of all states. An iteration joins the ends of the current coupling by
    bridges of the reference, takes the transition probabilities of that mixture at each time, and
    lets the Markov chain that has them run from `p0`. Its ends are the next coupling. The marginals
    stay; the divergence from the bridge falls to zero, faster with more inner times. Without inner
    times an iteration would change nothing, hence ``n_inner >= 1``.

    Parameters
    ----------
    p0, p1 : array_like (S,)
        Laws of both ends, with sum 1.
    reference : CategoricalReference
        A chain whose states are the whole table: one coordinate, or `product_reference`.
    n_iter : int, default 50
        Iterations.
    coupling : array_like (S, S), optional
        Where to start: any coupling of `p0` and `p1`; their product if None.
    callback : callable, optional
        Called as ``callback(state)`` after each iteration with ``state.iteration``,
        ``state.n_iter`` and ``state.coupling``; raising StopIteration ends the work.

    Returns
    -------
    list of array (S, S)
        The start and the coupling after each iteration, ``n_iter + 1`` in all.

    Raises
    ------
    ValueError
        If a law or the start is not as stated, or puts mass on a pair of ends that the reference
        cannot join ("infeasible").
    FloatingPointError
        If transition probabilities are so small that numbers overflow.

    References
    ----------
    "Categorical Schrödinger Bridge Matching" (2025), arXiv 2502.01416:
    discrete-time iterative Markovian fitting (D-IMF).

    Examples
    --------
    >>> from thalweg.transport import CategoricalReference, categorical_bridge, uniform_kernel
    >>> reference = CategoricalReference(uniform_kernel(2, 0.2), n_inner=3)
    >>> couplings = categorical_dimf([0.5, 0.5], [0.8, 0.2], reference, n_iter=30)
    >>> couplings[-1].round(4)
    array([[0.4206, 0.0794],
           [0.3794, 0.1206]])
    >>> categorical_bridge([0.5, 0.5], [0.8, 0.2], reference).round(4)
    array([[0.4206, 0.0794],
           [0.3794, 0.1206]])
    """
    p0, p1 = _laws(p0, p1, reference.n_categories)
    n_iter = check_count("n_iter", n_iter, at_least=0)
    if coupling is None:
        current = np.outer(p0, p1)
    else:
        current = check_array("coupling", coupling, shape=(len(p0), len(p1))).copy()
        error = np.abs(current.sum(1) - p0).sum() + np.abs(current.sum(0) - p1).sum()
        if current.min() < 0 or error > MARGINAL_TOL:
            raise ValueError(
                f"coupling must have no negative entry and the marginals p0 and p1, got the least "
                f"entry {current.min():g} and an error of {error:.3g}"
            )
    reachable = reference.transition >= LEAST_REACHABLE
    unreachable = float(current[~reachable].sum())
    if unreachable > 0:
        raise ValueError(
            f"infeasible: {'p0 x p1' if coupling is None else 'coupling'} puts mass "
            f"{unreachable:.3g} on pairs of ends that the reference cannot join"
        )
    couplings = [current]
    with np.errstate(over="ignore", invalid="ignore"):
        for iteration in range(1, n_iter + 1):
            current = _markov_ends(p0, _per_transition(current, reference, reachable), reference)
            if not np.isfinite(current).all():
                raise FloatingPointError(
                    f"numbers overflowed in iteration {iteration}: the least transition "
                    f"probability is {reference.transition[reachable].min():.3g}"
                )
            couplings.append(current)
            if _stop(callback, iteration, n_iter, current):
                break
    return couplings


def categorical_bridge(
    p0: ArrayLike, p1: ArrayLike, reference: CategoricalReference, *, tol: float = 1e-12
) -> Floats:
    """Couple two laws at least divergence from the reference: the static Schrödinger bridge.

    Minimises ``KL(P || p0(x) A_{N+1}[x, y])`` over the couplings P of `p0` and `p1`, which is
    entropic transport with cost ``-log A_{N+1}`` and epsilon 1.

    Parameters
    ----------
    p0, p1 : array_like (S,)
        Laws of both ends, with sum 1.
    reference : CategoricalReference
        A chain whose states are the whole table: one coordinate, or `product_reference`.
    tol : float, default 1e-12
        L1 error of the marginals to stop at.

    Returns
    -------
    array (S, S)
        The coupling; 0 where the reference has no transition.

    Raises
    ------
    ValueError
        If a law is not as stated, or no coupling is reachable ("infeasible").
    RuntimeError
        If the marginals are not met within 100 `tol`.

    Examples
    --------
    >>> from thalweg.transport import CategoricalReference, gaussian_kernel
    >>> reference = CategoricalReference(gaussian_kernel(5, 0.3), n_inner=4)
    >>> plan = categorical_bridge([0.2] * 5, [0.1, 0.1, 0.2, 0.3, 0.3], reference)
    >>> plan.sum(axis=1).round(6)
    array([0.2, 0.2, 0.2, 0.2, 0.2])
    """
    p0, p1 = _laws(p0, p1, reference.n_categories)
    tol = check_real("tol", tol, above=0)
    A = reference.transition
    reachable = A >= LEAST_REACHABLE
    for name, law, touched in (
        ("p0", p0, reachable[:, p1 > 0].any(1)),
        ("p1", p1, reachable[p0 > 0].any(0)),
    ):
        stranded = np.flatnonzero((law > 0) & ~touched)
        if stranded.size:
            raise ValueError(
                f"infeasible: {name} puts mass on state {stranded[0]}, which the reference cannot "
                "join with the other end"
            )
    cost = np.zeros_like(A)
    np.log(A, out=cost, where=reachable)
    cost = -cost
    cost[~reachable] = cost[reachable].max() + FORBIDDEN_COST * len(A)
    result = sinkhorn_newton_sparse(p0, p1, cost, 1.0, tol=tol)
    plan: Floats = result.plan
    unreachable = float(plan[~reachable].sum())
    if unreachable > MARGINAL_TOL:
        raise ValueError(
            f"infeasible: any coupling puts mass {unreachable:.3g} on pairs of ends that the "
            "reference cannot join"
        )
    plan[~reachable] = 0.0
    if result.marginal_error > 100 * tol:
        raise RuntimeError(f"the bridge was not found: {result.message}")
    return plan


def _per_transition(
    coupling: Floats, reference: CategoricalReference, reachable: NDArray[np.bool_]
) -> Floats:
    W = np.zeros_like(coupling)
    np.divide(coupling, reference.transition, out=W, where=reachable)
    return W


def _markov_ends(p0: Floats, W: Floats, reference: CategoricalReference) -> Floats:
    """Return the ends of the Markov projection of the bridges that `W` weighs."""
    A, N = reference.cumulative, reference.n_inner
    ends = np.diag(p0)
    for n in range(N + 1):
        joint = (A[n].T @ W @ A[N - n].T) * reference.kernel
        mass = joint.sum(axis=1, keepdims=True)
        ends = ends @ np.divide(joint, mass, out=np.zeros_like(joint), where=mass > 0)
    return ends


def _laws(p0: ArrayLike, p1: ArrayLike, n_states: int) -> list[Floats]:
    laws = []
    for name, value in (("p0", p0), ("p1", p1)):
        law = check_array(name, value, shape=(n_states,))
        if law.min() < 0 or abs(law.sum() - 1) > MARGINAL_TOL:
            raise ValueError(
                f"{name} must have no negative entry and sum to 1, got the least entry "
                f"{law.min():g} and the sum {law.sum():.12g}"
            )
        laws.append(law / law.sum())
    return laws


def _stop(
    callback: Callable[[Any], Any] | None, iteration: int, n_iter: int, coupling: Floats
) -> bool:
    if callback is None:
        return False
    try:
        callback(SimpleNamespace(iteration=iteration, n_iter=n_iter, coupling=coupling))
    except StopIteration:
        return True
    return False

"""When an entropic plan is sparse: the bound by the gap between the two best assignments.

At small epsilon nearly all mass of the plan lies on the best assignment; this is why the Newton
steps of `thalweg.transport.sinkhorn_newton_sparse` can leave out the other entries.

Source: "Accelerating Sinkhorn Algorithm with Sparse Newton Iterations" (2024), arXiv 2401.12253.
"""

from __future__ import annotations

import math

from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from thalweg._validation import check_array, check_count, check_real


def plan_sparsity_bound(n: int, eta: float, gap: float) -> float:
    """Bound on the L1 distance between the entropic plan and the best assignment.

    ``6 n^2 exp(-eta gap)``: all but n entries of the plan together weigh no more.

    Parameters
    ----------
    n : int
        Number of rows and columns, each of mass 1/n.
    eta : float
        1 / epsilon.
    gap : float
        Cost by which the second-best assignment exceeds the best, as from `assignment_gap`; inf
        where there is only one.

    Returns
    -------
    float
        The bound. Below eta = (1 + 2 log n) / gap it exceeds 2 and says nothing.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    "Accelerating Sinkhorn Algorithm with Sparse Newton Iterations" (2024), arXiv 2401.12253, from
    "An explicit analysis of the entropic penalty in linear programming" (2018), arXiv 1806.01879.

    Examples
    --------
    >>> from thalweg.transport import plan_sparsity_bound
    >>> round(plan_sparsity_bound(10, eta=100, gap=0.2), 9)
    1.237e-06
    """
    n = check_count("n", n)
    eta = check_real("eta", eta, above=0)
    if gap != math.inf:
        gap = check_real("gap", gap, at_least=0)
    return 6.0 * n**2 * math.exp(-eta * gap)


def assignment_gap(C: ArrayLike) -> float:
    """Cost by which the second-best assignment exceeds the best, at mass 1/n a row.

    The second-best lacks an edge of the best, so n assignments are solved, each with one edge of
    the best forbidden.

    Parameters
    ----------
    C : array_like of shape (n, n)
        Costs.

    Returns
    -------
    float
        The gap divided by n; 0 where the best is not unique, inf for n = 1.

    Raises
    ------
    ValueError
        If `C` is not square or not finite.

    Examples
    --------
    >>> from thalweg.transport import assignment_gap
    >>> assignment_gap([[0.0, 1.0], [1.0, 0.0]])
    1.0
    """
    C = check_array("C", C, ndim=2)
    n = len(C)
    if C.shape != (n, n) or n == 0:
        raise ValueError(f"C must be square and not empty, got shape {C.shape}")
    if n == 1:
        return math.inf
    rows, columns = linear_sum_assignment(C)
    best = C[rows, columns].sum()
    forbidden = C.max() + n * (C.max() - C.min()) + 1.0
    second = math.inf
    for i, j in zip(rows, columns, strict=True):
        without = C.copy()
        without[i, j] = forbidden
        second = min(second, without[linear_sum_assignment(without)].sum())
    return max(0.0, float(second - best) / n)

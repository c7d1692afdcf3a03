"""The noise of a problem's stochastic gradients, and the work that an accuracy costs.

`moment_constants` measures the constants that the bounds of `thalweg.descent.sg_theory` ask for;
`learning_work` weighs stochastic gradients against full ones.

Source: "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, sections
4.1 (Assumption 4.3) and 4.4.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.descent.problems import FiniteSum


class MomentConstants(NamedTuple):
    """Constants of the first two moments of a stochastic gradient."""

    M: float
    M_V: float
    mu: float
    mu_G: float  # noqa: N815

    @property
    def M_G(self) -> float:
        """M_V + mu_G²: steps up to mu / (L M_G) are allowed."""
        return self.M_V + self.mu_G**2


def moment_constants(
    problem: FiniteSum, points: ArrayLike, batch_size: int = 1, *, replace: bool = False
) -> MomentConstants:
    """Return M and M_V with Var g(w) <= M + M_V ‖∇F(w)‖² at some points.

    The exact variances are fitted by M + M_V ‖∇F‖² with non-negative least squares; M is then
    raised until the bound holds at every point.

    Parameters
    ----------
    problem : FiniteSum
        With ``component_gradients``.
    points : array_like, shape (m, dim)
        Where the gradient is asked for, such as the points of a run.
    batch_size : int, default 1
        Components of a batch.
    replace : bool, default False
        Whether a batch may draw a component twice.

    Returns
    -------
    MomentConstants
        ``M``, ``M_V``, ``mu`` and ``mu_G`` (both 1: batches are unbiased), and ``M_G``.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, Assumption
    4.3.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0], [1.0]], [-1.0, 1.0])
    >>> moment_constants(problem, [[0.0], [1.0], [5.0]])
    MomentConstants(M=1.0, M_V=0.0, mu=1.0, mu_G=1.0)
    """
    points = check_array("points", points, shape=(None, problem.dim))
    if not len(points):
        raise ValueError(f"points must not be empty, got shape {points.shape}")
    size = check_count("batch_size", batch_size, at_most=problem.n)
    n = problem.n
    share = 1 / size if replace or n == 1 else (n - size) / (size * (n - 1))
    variances, squares = np.empty(len(points)), np.empty(len(points))
    for at, w in enumerate(points):
        gradients = problem.component_gradients(w)
        mean = gradients.mean(axis=0)
        variances[at] = share * float(np.mean(np.sum((gradients - mean) ** 2, axis=1)))
        squares[at] = float(mean @ mean)
    design = np.column_stack([np.ones_like(squares), squares])
    widths = np.maximum(np.linalg.norm(design, axis=0), np.finfo(float).tiny)
    M, M_V = nnls(design / widths, variances)[0] / widths
    M = float(M) + max(0.0, float(np.max(variances - (M + M_V * squares))))
    return MomentConstants(M, float(M_V), 1.0, 1.0)


def learning_work(
    epsilon: float | ArrayLike,
    n: int | None = None,
    method: Literal["sg", "batch"] = "sg",
    kappa: float = 1.0,
) -> Any:
    """Return the order of the component gradients that a method needs to a gap of epsilon.

    SG needs about kappa² / epsilon, whatever n is; a batch method n kappa log(1 / epsilon). Where
    there are more data than time, the sample is as large as the accuracy deserves, n = 1 / epsilon,
    and the batch method needs kappa log(1 / epsilon) / epsilon: more than SG.

    Parameters
    ----------
    epsilon : float or array_like
        Accuracy of the expected risk, in (0, 1).
    n : int, optional
        Components; None is 1 / epsilon.
    method : {"sg", "batch"}, default "sg"
        Which.
    kappa : float, default 1.0
        Condition number L / c >= 1.

    Returns
    -------
    float or ndarray
        For each epsilon, up to a constant factor.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    References
    ----------
    "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, section 4.4.

    Examples
    --------
    >>> learning_work(0.01), round(learning_work(0.01, method="batch"), 2)
    (100.0, 460.52)
    >>> round(learning_work(0.01, n=50, method="batch"), 2)
    230.26
    """
    check_option("method", method, ("sg", "batch"))
    kappa = check_real("kappa", kappa, at_least=1)
    eps = check_array("epsilon", epsilon)
    if (eps <= 0).any() or (eps >= 1).any():
        raise ValueError(f"epsilon must be > 0 and < 1, got {epsilon!r}")
    if n is not None:
        n = check_count("n", n)
    if method == "sg":
        work = kappa**2 / eps
    else:
        work = (1 / eps if n is None else n) * kappa * np.log(1 / eps)
    return float(work) if np.ndim(work) == 0 else work

"""Minimise one coordinate at a time: cheap partial derivatives, a step length for each.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 6.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_count, check_real
from thalweg.descent._oracle import BreakdownError, Oracle, State, check_callable, drive

Floats = NDArray[np.float64]


def random_coordinate_descent(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    partial: Callable[..., Any],
    L: ArrayLike,
    gamma: float = 1.0,
    maxiter: int = 100_000,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callable[..., Any] | None = None,
) -> OptimizeResult:
    r"""Minimise a smooth convex function by steps along single coordinates drawn at random.

    .. math:: x_i \leftarrow x_i - \partial_i f(x) / L_i, \qquad
              P(i) = L_i^\gamma / \sum_j L_j^\gamma

    Parameters
    ----------
    fun : callable
        ``fun(x, *args) -> float``; called only at the end, with `record`, and for callbacks that
        ask for the value.
    x0 : array_like, shape (n,)
        Start.
    args : tuple, default ()
        Further arguments of `fun` and `partial`.
    partial : callable
        ``partial(x, i, *args) -> float``, the derivative along coordinate i; it must not change x.
    L : float or array_like, shape (n,)
        Lipschitz constants of the partial derivatives along their own coordinates, > 0.
    gamma : float, default 1.0
        0 draws coordinates evenly; 1 in proportion to L, which is least work in theory.
    maxiter : int, default 100000
        Steps, all of which are done.
    rng : None, int or numpy.random.Generator, optional
        Draws the coordinates.
    record : bool, default False
        Whether ``history["fun"]`` is kept, one value a step.
    callback : callable, optional
        As in `gradient_descent`.

    Returns
    -------
    OptimizeResult
        As of `gradient_descent`, without ``jac``; ``njev`` counts partial derivatives: n of them
        are the work of a gradient. ``success`` means that all steps were done.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    See Also
    --------
    rate : "random_coordinate_descent-convex", "random_coordinate_descent-strong".

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 6.4.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.array([1.0, 10.0])
    >>> random_coordinate_descent(lambda x: 0.5 * x @ (a * x) - x.sum(), [0.0, 0.0],
    ...                           partial=lambda x, i: a[i] * x[i] - 1, L=a, maxiter=100, rng=0).x
    array([1. , 0.1])
    """
    check_callable("partial", partial)
    x0 = check_array("x0", x0, ndim=1)
    constants = check_array("L", L)
    if constants.ndim == 0:
        constants = np.full(x0.shape, float(constants))
    constants = check_array("L", constants, shape=x0.shape)
    if (constants <= 0).any():
        raise ValueError(f"L must be > 0, got {float(constants.min())!r}")
    gamma = check_real("gamma", gamma)
    maxiter = check_count("maxiter", maxiter, at_least=0)
    rng = np.random.default_rng(rng)
    oracle = Oracle(fun, x0, args)
    weights = (constants / constants.max()) ** gamma
    order = rng.choice(len(x0), size=maxiter, p=weights / weights.sum()).tolist()
    more = args if isinstance(args, tuple) else (args,)

    def states() -> Iterator[State]:
        x = oracle.x0
        steps = (1 / constants).tolist()
        yield State(x)
        for i in order:
            oracle.njev += 1
            slope = float(partial(x, i, *more))
            moved = x[i] - slope * steps[i]
            if not math.isfinite(moved):
                raise BreakdownError(f"partial returned {slope} for coordinate {i}")
            x[i] = moved
            yield State(x)

    result = drive(
        oracle, states(), maxiter=maxiter, callback=callback, record=record, final_jac=False
    )
    del result["jac"]
    return result

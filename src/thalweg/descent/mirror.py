"""Minimise over a simplex, a spectrahedron or a box with steps that fit the set's geometry.

- `mirror_descent`: kinks, noise and regularisers are allowed; simplices of huge dimension;
- `dual_averaging`: steps from the sum of all gradients;
- `mirror_prox`: smooth functions, twice the gradients a step and 1 / t instead of 1 / sqrt(t).

The geometry is one of `thalweg.descent.mirror_maps`.

Source: "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, chapters 4 and 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_real
from thalweg.descent._oracle import Oracle, State, check_callable, check_unused, drive
from thalweg.descent.mirror_maps import MirrorMap
from thalweg.descent.trust_region_steps import L1, Regulariser, SquaredL2

Floats = NDArray[np.float64]
Step = float | Callable[[int], float]

MAXITER = 1000


def mirror_descent(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    jac: Any = None,
    callback: Callable[..., Any] | None = None,
    record: bool = False,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    mirror: MirrorMap,
    step: Step,
    regulariser: Regulariser | None = None,
    stochastic: bool = False,
    rng: int | np.random.Generator | None = None,
    maxiter: int = MAXITER,
) -> OptimizeResult:
    r"""Minimise a convex function, kinks allowed, in the geometry of a mirror map.

    .. math:: x_{s+1} = \arg\min_x \eta_s (\langle g_s, x \rangle + r(x)) + D_\Phi(x, x_s)

    Parameters
    ----------
    fun, args, callback, record, hess, hessp, bounds, constraints
        As in `gradient_descent`.
    x0 : array_like
        Start, inside the set.
    jac : callable, True or None
        A subgradient, as in `gradient_descent`.
    mirror : MirrorMap
        The geometry: `NegativeEntropy`, `VonNeumann`, `BoxEntropy`, `Euclidean` or an own one.
    step : float or callable
        eta_s > 0; a callable gets s = 1, 2, ... With R² = sup D(x, x0) and G the largest dual norm
        of a subgradient, (R / G) sqrt(2 rho / maxiter) gives the bound.
    regulariser : L1, SquaredL2 or an object with ``prox(v, t)``, optional
        r, kept whole in each step. `Euclidean` without projection takes any, `BoxEntropy` takes
        `L1` and `SquaredL2`, the others `SquaredL2`.
    stochastic : bool, default False
        Whether `jac` is ``jac(x, rng, *args)`` and returns a subgradient in expectation.
    rng : None, int or numpy.random.Generator, optional
        For the noise.
    maxiter : int, default 1000
        Steps, all of which are done.

    Returns
    -------
    OptimizeResult
        As of `gradient_descent`: ``x`` is the average of the points where subgradients were taken,
        ``x_last`` the point after the last step; with noise there is no ``jac``. ``fun`` includes
        r, for an own regulariser if it has ``value(x)``. ``success`` means that all steps were
        done.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, the start is not inside the set, or the regulariser has no
        step in the geometry.

    See Also
    --------
    rate : "mirror_descent", "mirror_descent-stochastic", "mirror_descent-stochastic-smooth".

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, sections 4.2, 5.1
    (composite) and 6.1 (noise).

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.descent.mirror_maps import NegativeEntropy
    >>> costs = np.array([3.0, 1.0, 2.0])
    >>> result = mirror_descent(lambda x: costs @ x, np.full(3, 1 / 3), jac=lambda x: costs,
    ...                         mirror=NegativeEntropy(), step=0.1, maxiter=200)
    >>> result.x_last.round(4), bool(result.fun - 1 < np.log(3) / (0.1 * 200) + 0.05 * 9)
    (array([0., 1., 0.]), True)
    """
    check_unused("mirror_descent", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints)
    if regulariser is not None:
        _check_regulariser(mirror, regulariser)
    steps = _schedule(step)
    oracle = Oracle(fun, x0, args, jac, penalty=_penalty(regulariser))
    gradient = _gradient(oracle, jac, stochastic, rng)
    start = _start(oracle, mirror)

    def states() -> Iterator[State]:
        x = mean = start
        yield State(mean, extra={"x_last": x})
        s = 0
        while True:
            s += 1
            mean = mean + (x - mean) / s
            g, eta = gradient(x), steps(s)
            if regulariser is None:
                x = oracle.read("mirror.step", mirror.step(x, g, eta))
            else:
                moved = mirror.composite_step(x, g, eta, regulariser)  # type: ignore[attr-defined]
                x = oracle.read("mirror.composite_step", moved)
            yield State(mean, extra={"x_last": x})

    return _finish(oracle, states(), maxiter, callback, record, stochastic)


def dual_averaging(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    jac: Any = None,
    callback: Callable[..., Any] | None = None,
    record: bool = False,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    mirror: MirrorMap,
    step: Step,
    stochastic: bool = False,
    rng: int | np.random.Generator | None = None,
    maxiter: int = MAXITER,
) -> OptimizeResult:
    r"""Minimise a convex function by lazy mirror descent: from the sum of all gradients so far.

    .. math:: x_{s+1} = \arg\min_x \eta_s \sum_{r \le s} \langle g_r, x \rangle + \Phi(x)

    Parameters
    ----------
    fun, args, jac, callback, record, hess, hessp, bounds, constraints
        As in `mirror_descent`.
    x0 : array_like
        Gives the shape alone: the first point is the minimiser of Phi.
    mirror, stochastic, rng, maxiter
        As in `mirror_descent`.
    step : float or callable
        As in `mirror_descent`; (R / G) sqrt(rho / (2 maxiter)) gives the bound.

    Returns
    -------
    OptimizeResult
        As of `mirror_descent`.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    See Also
    --------
    rate : "dual_averaging".

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 4.4.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.descent.mirror_maps import NegativeEntropy
    >>> costs = np.array([3.0, 1.0, 2.0])
    >>> dual_averaging(lambda x: costs @ x, np.full(3, 1 / 3), jac=lambda x: costs,
    ...                mirror=NegativeEntropy(), step=0.1, maxiter=200).x_last.round(4)
    array([0., 1., 0.])
    """
    check_unused("dual_averaging", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints)
    _check_mirror(mirror)
    steps = _schedule(step)
    oracle = Oracle(fun, x0, args, jac)
    gradient = _gradient(oracle, jac, stochastic, rng)
    start = oracle.begin("mirror.argmin(0)", mirror.argmin(np.zeros_like(oracle.x0), 1.0))

    def states() -> Iterator[State]:
        x = mean = start
        total = np.zeros_like(start)
        yield State(mean, extra={"x_last": x})
        s = 0
        while True:
            s += 1
            mean = mean + (x - mean) / s
            total = total + gradient(x)
            x = oracle.read("mirror.argmin", mirror.argmin(total, steps(s)))
            yield State(mean, extra={"x_last": x})

    return _finish(oracle, states(), maxiter, callback, record, stochastic)


def mirror_prox(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    jac: Any = None,
    callback: Callable[..., Any] | None = None,
    record: bool = False,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    mirror: MirrorMap,
    L: float,
    maxiter: int = MAXITER,
) -> OptimizeResult:
    r"""Minimise a smooth convex function by mirror steps with the gradient half a step ahead.

    .. math:: y_s = \arg\min_y \eta \langle \nabla f(x_s), y \rangle + D_\Phi(y, x_s), \qquad
              x_{s+1} = \arg\min_x \eta \langle \nabla f(y_s), x \rangle + D_\Phi(x, x_s)

    with eta = rho / L.

    Parameters
    ----------
    fun, x0, args, jac, callback, record, hess, hessp, bounds, constraints, mirror, maxiter
        As in `mirror_descent`; an own mirror map without ``rho`` counts as 1-strongly convex.
    L : float
        Lipschitz constant of the gradient, from the map's norm to its dual.

    Returns
    -------
    OptimizeResult
        As of `mirror_descent`: ``x`` is the average of the y_s, ``x_last`` the last x.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or the start is not inside the set.

    See Also
    --------
    rate : "mirror_prox".

    References
    ----------
    "Convex Optimization: Algorithms and Complexity" (2014), arXiv 1405.4980, section 4.5.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.descent.mirror_maps import NegativeEntropy
    >>> b = np.array([0.2, 0.5, 0.3])
    >>> mirror_prox(lambda x: 0.5 * np.sum((x - b) ** 2), np.full(3, 1 / 3), jac=lambda x: x - b,
    ...             mirror=NegativeEntropy(), L=1.0).x_last.round(4)
    array([0.2, 0.5, 0.3])
    """
    check_unused("mirror_prox", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints)
    _check_mirror(mirror)
    eta = float(getattr(mirror, "rho", 1.0)) / check_real("L", L, above=0)
    oracle = Oracle(fun, x0, args, jac)
    start = _start(oracle, mirror)

    def states() -> Iterator[State]:
        x = mean = start
        yield State(mean, extra={"x_last": x})
        s = 0
        while True:
            s += 1
            y = oracle.read("mirror.step", mirror.step(x, oracle.gradient(x), eta))
            x = oracle.read("mirror.step", mirror.step(x, oracle.gradient(y), eta))
            mean = mean + (y - mean) / s
            yield State(mean, extra={"x_last": x})

    return _finish(oracle, states(), maxiter, callback, record, False)


def _finish(
    oracle: Oracle,
    states: Iterator[State],
    maxiter: int,
    callback: Any,
    record: bool,
    stochastic: bool,
) -> OptimizeResult:
    result = drive(
        oracle,
        states,
        maxiter=maxiter,
        callback=callback,
        record=record,
        final_jac=not stochastic,
    )
    if stochastic:
        del result["jac"]
    return result


def _start(oracle: Oracle, mirror: MirrorMap) -> Floats:
    _check_mirror(mirror)
    if hasattr(mirror, "start"):
        return oracle.begin("mirror.start(x0)", mirror.start(oracle.x0.copy()))
    return oracle.x0


def _gradient(
    oracle: Oracle, jac: Any, stochastic: bool, rng: int | np.random.Generator | None
) -> Callable[[Floats], Floats]:
    if not stochastic:
        return oracle.gradient
    if not callable(jac):
        raise TypeError(f"jac must be callable, jac(x, rng), for stochastic=True, got {jac!r}")
    generator = np.random.default_rng(rng)
    return lambda x: oracle.noisy_gradient(x, generator)


def _schedule(step: Any) -> Callable[[int], float]:
    if callable(step):
        return lambda s: check_real(f"step({s})", step(s), above=0)
    length = check_real("step", step, above=0)
    return lambda s: length


def _check_mirror(mirror: Any) -> None:
    for name in ("step", "argmin", "divergence"):
        if not callable(getattr(mirror, name, None)):
            raise TypeError(f"mirror must have {name}, got {mirror!r}")


def _check_regulariser(mirror: Any, regulariser: Any) -> None:
    _check_mirror(mirror)
    if not callable(getattr(regulariser, "prox", None)):
        raise TypeError(
            f"regulariser must be L1, SquaredL2 or have prox(v, t), got {regulariser!r}"
        )
    if not callable(getattr(mirror, "composite_step", None)):
        raise ValueError(f"regulariser must be None: {type(mirror).__name__} has no composite_step")
    if hasattr(mirror, "check_regulariser"):
        mirror.check_regulariser(regulariser)


def _penalty(regulariser: Any) -> Callable[[Floats], float] | None:
    if isinstance(regulariser, L1):
        return lambda x: regulariser.lam * float(np.abs(x).sum())
    if isinstance(regulariser, SquaredL2):
        return lambda x: 0.5 * regulariser.lam * float(np.sum(x * x))
    value = getattr(regulariser, "value", None)
    check_callable("regulariser.value", value, optional=True)
    return value

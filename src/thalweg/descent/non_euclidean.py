"""Minimise a function of a vector or a matrix by steps of fixed length in a norm of your choice.

Each step averages the gradients seen so far and goes as far downhill, by that average, as a ball of
the norm allows. The norm makes the method: "l2" is normalised gradient descent, "linf" sign
descent, "spectral" Muon. The length of a step does not depend on the size of the gradients, so no
step is thrown by a large one; noise is handled by the averaging alone.

Source: "Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region
Optimization" (2025), arXiv 2503.12645, Algorithms 1 and 2.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.descent.norms import Norm, check_norm, dual_length, steepest
from thalweg.descent.trust_region_steps import (
    Regulariser,
    check_regulariser,
    constrained_minimiser,
)

Schedule = float | Callable[[int], float]


def norm_trust_region(
    fun: Callable[..., float],
    x0: ArrayLike,
    args: Sequence[Any] = (),
    *,
    jac: Callable[..., ArrayLike] | None = None,
    norm: Norm = "l2",
    radius: Schedule = 0.01,
    alpha: Schedule = 0.1,
    weight_decay: float = 0.0,
    extrapolate: bool = False,
    orthogonalise: str = "after",
    regulariser: Regulariser | None = None,
    shape: tuple[int, ...] | None = None,
    rng: int | Generator | None = None,
    stochastic: bool = False,
    gtol: float = 0.0,
    maxiter: int = 1000,
    callback: Callable[..., Any] | None = None,
    record: bool = False,
    hess: None = None,
    hessp: None = None,
    bounds: None = None,
    constraints: tuple[()] = (),
) -> OptimizeResult:
    """Minimise f(x) + R(x) by trust-region steps in a norm, along an average of the gradients.

    With m_1 the first gradient, ``m_{k+1} = (1 - alpha) m_k + alpha g(x_k)``, the next point
    minimises <m_{k+1}, x> + R(x) over the ball ``‖x - (1 - weight_decay) x_k‖ <= radius``. It
    does not look at values of f, and ends within a neighbourhood of a minimiser that shrinks with
    the radius; `nonconvex_parameters` and `star_convex_parameters` suggest both settings.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args) -> float``: f, in which R is not included.
    x0 : array_like
        First point, of any shape; `fun` and `jac` get points of this shape.
    args : tuple, optional
        Passed on to `fun` and `jac`.
    jac : callable
        ``jac(x, *args)``: the gradient, of the shape of `x`; with `stochastic`, an unbiased
        estimate of it, ``jac(x, rng, *args)``.
    norm : {"l2", "linf", "l1", "spectral", "nuclear", "row"}, default "l2"
        Norm of the ball; the last three need a matrix.
    radius : float or callable, default 0.01
        Length of each step, or a function of the number of steps done.
    alpha : float or callable, default 0.1
        Weight of the newest gradient, in (0, 1], or a function of the number of steps done.
    weight_decay : float, default 0.0
        How much the ball's centre is drawn to zero, in [0, 1). All points stay within
        ``radius / weight_decay`` of zero if the first one does.
    extrapolate : bool, default False
        Whether gradients are taken at ``x_k + (1 - alpha) / alpha (x_k - x_{k-1})``, which removes
        the first-order lag of the average; helps where second derivatives vary slowly.
    orthogonalise : {"after", "before"}, default "after"
        "before" averages the unit steps of the single gradients instead of the gradients: for the
        spectral norm Orthogonal-SGDM. Skewed noise can drive it uphill; it is here to compare.
    regulariser : L1, SquaredL2, Box or any object with ``prox(v, t)``, optional
        Convex R; `trust_region_step` says which go with which norm.
    shape : tuple of int, optional
        Shape in which the norm sees `x0`, such as a matrix that SciPy wants flat.
    rng : None, int or numpy.random.Generator, optional
        Source of randomness for a stochastic `jac`.
    stochastic : bool, default False
        Whether `jac` takes the generator as its second argument.
    gtol : float, default 0.0
        Stop when the dual norm of the averaged gradient is at most this; 0 never stops early. With
        a regulariser, weight decay or "before", where it measures nothing, it must be 0.
    maxiter : int, default 1000
        Steps to take.
    callback : callable, optional
        ``callback(x)`` or ``callback(intermediate_result)`` after each step, the result with
        fields `x`, `nit` and, with `record`, `fun`; StopIteration ends the run.
    record : bool, default False
        Whether `history` is kept, at the cost of a value of f a step.
    hess, hessp, bounds, constraints : None or empty
        What `scipy.optimize.minimize` passes; refused if given.

    Returns
    -------
    scipy.optimize.OptimizeResult
        `x`, `fun` (f at x), `jac` (the averaged gradient; for "before" the average of unit
        steps), `nit`, `nfev`, `njev`, `success`, `status`, `message` and, with `record`,
        `history`: ``fun`` (nit + 1) at all points, and ``dual_norm`` of the averaged gradient at
        each gradient evaluated (for "before", of the gradient itself).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.
    NotImplementedError
        If the pair of norm and regulariser has no exact step here.

    References
    ----------
    "Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region
    Optimization" (2025), arXiv 2503.12645, Algorithms 1 and 2.

    Examples
    --------
    >>> target = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> result = norm_trust_region(
    ...     lambda X: 0.5 * np.sum((X - target) ** 2), np.zeros((2, 2)), jac=lambda X: X - target,
    ...     norm="spectral", radius=lambda k: 0.5 * 0.9**k, alpha=1.0, maxiter=100)
    >>> result.success, bool(np.allclose(result.x, target, atol=1e-3))
    (True, True)
    """
    x = check_array("x0", x0)
    view = x.shape if shape is None else _check_shape(shape, x.size)
    check_norm("norm", norm, len(view))
    for name, function in (("fun", fun), ("jac", jac)):
        if not callable(function):
            raise TypeError(f"{name} must be callable, got {function!r}")
    for name, given in (("hess", hess), ("hessp", hessp), ("bounds", bounds)):
        if given is not None:
            raise ValueError(f"{name} must be None: this method makes no use of it")
    if len(constraints) > 0:
        raise ValueError("constraints must be empty; for a box use regulariser=Box(lo, hi)")
    radius_at = _schedule("radius", radius)
    alpha_at = _schedule("alpha", alpha)
    weight_decay = check_real("weight_decay", weight_decay, at_least=0, below=1)
    check_option("orthogonalise", orthogonalise, ("after", "before"))
    before = orthogonalise == "before"
    check_regulariser(regulariser, norm)
    if before and regulariser is not None:
        raise ValueError("regulariser must be None with orthogonalise='before'")
    gtol = check_real("gtol", gtol, at_least=0)
    if gtol > 0 and (before or regulariser is not None or weight_decay > 0):
        raise ValueError(
            f"gtol must be 0 with a regulariser, weight decay or orthogonalise='before', "
            f"where the dual norm does not measure stationarity, got {gtol!r}"
        )
    maxiter = check_count("maxiter", maxiter)
    notify = _notifier(callback)
    generator = np.random.default_rng(rng)
    sampled = (generator, *args) if stochastic else tuple(args)

    values = [float(fun(x, *args))] if record else []
    lengths: list[float] = []
    previous, momentum = x, np.zeros(view)
    nit = njev = 0
    status, message = 0, f"all {maxiter} steps were taken"
    if gtol > 0:
        status, message = 1, f"{message} without reaching gtol"
    for k in range(maxiter):
        step_length, weight = radius_at(k), alpha_at(k)
        at = x + ((1 - weight) / weight) * (x - previous) if extrapolate else x
        gradient = _gradient(jac(at, *sampled), x.shape)  # type: ignore[misc]
        njev += 1
        if not np.isfinite(gradient).all():
            status, message = 2, f"the gradient at step {k} is not finite"
            break
        gradient = gradient.reshape(view)
        sample = steepest(gradient, norm) if before else gradient
        momentum = sample if k == 0 else (1 - weight) * momentum + weight * sample
        if record or gtol > 0:
            lengths.append(float(dual_length(gradient if before else momentum, norm)))
            if gtol > 0 and lengths[-1] <= gtol:
                status, message = 0, f"the dual norm of the averaged gradient is {lengths[-1]:.3g}"
                break
        centre = (1 - weight_decay) * x.reshape(view)
        if before:
            following = centre + step_length * momentum
        else:
            try:
                following = constrained_minimiser(momentum, centre, step_length, norm, regulariser)
            except ValueError as error:
                status, message = 3, str(error)
                break
        previous, x = x, following.reshape(x.shape)
        nit += 1
        if record:
            values.append(float(fun(x, *args)))
        try:
            notify(x, nit, values)
        except StopIteration:
            status, message = 4, "the callback asked to stop"
            break

    value = values[-1] if record else float(fun(x, *args))
    if not math.isfinite(value) and status in (0, 1):
        status, message = 2, f"fun at the last point is {value}"
    result = OptimizeResult(
        x=x,
        fun=value,
        jac=momentum.reshape(x.shape),
        nit=nit,
        nfev=len(values) if record else 1,
        njev=njev,
        success=status == 0,
        status=status,
        message=message,
    )
    if record:
        result.history = {"fun": np.array(values), "dual_norm": np.array(lengths)}
    return result


def _check_shape(shape: Any, size: int) -> tuple[int, ...]:
    try:
        lengths = tuple(check_count("shape", length) for length in shape)
    except TypeError:
        raise TypeError(f"shape must be a tuple of positive integers, got {shape!r}") from None
    if math.prod(lengths) != size:
        raise ValueError(f"shape must have {size} entries in all, got {shape!r}")
    return lengths


def _schedule(name: str, value: Any) -> Callable[[int], float]:
    """Read a number or a function of the step as a checked function of the step."""
    at_most = 1.0 if name == "alpha" else None
    if callable(value):
        return lambda k: check_real(f"{name}({k})", value(k), above=0, at_most=at_most)
    number = check_real(name, value, above=0, at_most=at_most)
    return lambda k: number


def _gradient(value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return check_array("jac(x)", value, shape=shape, finite=False)


def _notifier(callback: Callable[..., Any] | None) -> Callable[..., None]:
    """Call back as SciPy does: by name with an OptimizeResult, or with the point alone."""
    if callback is None:
        return lambda x, nit, values: None
    if not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r}")
    if set(inspect.signature(callback).parameters) != {"intermediate_result"}:
        return lambda x, nit, values: callback(x.copy())

    def notify(x: NDArray[np.float64], nit: int, values: list[float]) -> None:
        state = OptimizeResult(x=x.copy(), nit=nit)
        if values:
            state.fun = values[-1]
        callback(intermediate_result=state)

    return notify

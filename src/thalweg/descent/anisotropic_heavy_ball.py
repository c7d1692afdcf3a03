r"""Fit a finite sum in few steps of large batches: heavy ball with step decay set from the budget.

Momentum needs about the square root of kappa fewer steps than SGD to forget its start, and
amplifies gradient noise; steps that decay in a few stages quench that noise. Both follow from the
condition number and the number of steps. It pays where a step is a round of communication: spread
a batch over machines and T steps are T rounds.

- `stochastic_heavy_ball`: the method;
- `step_decay`: its step lengths, for any other method too;
- `empirical_noise`: how well a problem fits the assumption on its gradient noise.

`expected_risk` and `optimal_stages` (`thalweg.descent.heavy_ball_risk`) tell before a run what it
would reach; `HeavyBall` and `StepDecayLR` do the same for torch.

Source: "Accelerated Convergence of Stochastic Heavy Ball Method under Anisotropic Gradient Noise"
(2023), arXiv 2312.14567.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_array, check_count, check_real
from thalweg.descent._stochastic_runs import Callback, check_schedule, check_start
from thalweg.descent.inertial_coefficients import mode_rate
from thalweg.descent.problems import FiniteSum
from thalweg.descent.stochastic import sgd

Floats = NDArray[np.float64]

FACTOR = 4.0


def stochastic_heavy_ball(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    n_steps: int,
    L: float,
    mu: float,
    factor: float = FACTOR,
    momentum: float | None = None,
    steps: ArrayLike | None = None,
    batch_size: int = 1,
    replace: bool = True,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callback | None = None,
) -> OptimizeResult:
    r"""Minimise a finite sum by stochastic heavy ball with step decay.

    With a batch B of components, w_{-1} = w_0 and kappa = L / mu

    .. math:: w_{t+1} = w_t - \eta_t \nabla f_B(w_t) + \beta (w_t - w_{t-1}), \qquad
              \beta = (1 - 1/\sqrt\kappa)^2

    Parameters
    ----------
    problem : FiniteSum
        What is minimised.
    x0 : array_like, shape (dim,)
        Start.
    n_steps : int
        Steps T, as many as the stages or more.
    L, mu : float
        Largest and smallest curvature, L >= mu > 0; ``problem.curvature()`` knows those of linear
        models.
    factor : float, default 4.0
        C > 1, by which the step is divided from stage to stage.
    momentum : float, optional
        beta in [0, 1); 0 is SGD, with the stages that suit it.
    steps : array_like, shape (n_steps,), optional
        Step lengths > 0 in place of `step_decay`.
    batch_size : int, default 1
        Components a step, 1 to n.
    replace : bool, default True
        Whether one component may be drawn twice in a batch. Without, the batch of all n components
        is the whole sum.
    rng : None, int or numpy.random.Generator, optional
        Draws the batches.
    record : bool, default False
        Whether to keep every point.
    callback : callable, optional
        ``callback(state)`` after each step with ``x`` and ``nit``; StopIteration ends the run.

    Returns
    -------
    OptimizeResult
        As of `sgd`, and ``steps`` (eta_t) and ``momentum`` (beta).

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, before any work.

    Warns
    -----
    RuntimeWarning
        If a step is so long that momentum does not keep a mode of curvature L from growing.

    See Also
    --------
    expected_risk : what such a run reaches on a quadratic, exactly.
    sgd : momentum as torch has it.

    Notes
    -----
    The analysis takes the noise of the gradients as bounded by sigma² H everywhere. That of least
    squares grows with the distance from the minimum, and with small batches a run may diverge
    where SGD does not: take larger batches, shorter steps or less momentum then, and see
    `empirical_noise`.

    Momentum carries the last displacement. In `sgd`, as in torch, it carries a sum of gradients
    that a change of the step rescales at once; that method with momentum
    beta eta_{t-1} / eta_t is this one.

    References
    ----------
    "Accelerated Convergence of Stochastic Heavy Ball Method under Anisotropic Gradient Noise"
    (2023), arXiv 2312.14567.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [1.0, 0.0, -2.0])
    >>> known = problem.curvature()
    >>> result = stochastic_heavy_ball(
    ...     problem, [5.0, 5.0], n_steps=200, L=known["L"], mu=known["mu"], batch_size=2, rng=0
    ... )
    >>> result.x.round(3), round(result.momentum, 3)
    (array([ 1., -1.]), 0.189)
    """
    check_start(problem, x0)
    n_steps = check_count("n_steps", n_steps)
    L = check_real("L", L, above=0)
    mu = check_real("mu", mu, above=0)
    if mu > L:
        raise ValueError(f"mu must be <= L = {L:g}, got {mu!r}")
    kappa = L / mu
    beta = momentum_of(kappa) if momentum is None else momentum
    beta = check_real("momentum", beta, at_least=0, below=1)
    if steps is None:
        steps = step_decay(n_steps, L=L, kappa=kappa, factor=factor, momentum=beta > 0)
    lengths = check_schedule("steps", steps, n_steps, above=0.0)
    warn_unstable(L, lengths, np.full(n_steps, beta))
    carried = np.zeros(n_steps)
    carried[1:] = beta * (lengths[:-1] / lengths[1:])
    result = sgd(
        problem, x0, step=lengths, n_steps=n_steps, batch_size=batch_size, replace=replace,
        momentum=carried, rng=rng, record=record, callback=callback,
    )  # fmt: skip
    del result["x_average"]
    result.update(steps=lengths, momentum=beta)
    return result


def step_decay(
    n_steps: int,
    *,
    L: float,
    kappa: float,
    factor: float = FACTOR,
    n_stages: int | None = None,
    momentum: bool = True,
) -> Floats:
    r"""Return step lengths that fall by a factor from stage to stage: 1/L, 1/(C L), 1/(C² L), ...

    Parameters
    ----------
    n_steps : int
        Steps T, as many as the stages or more.
    L : float
        Largest curvature, > 0.
    kappa : float
        Condition number, >= 1.
    factor : float, default 4.0
        C > 1.
    n_stages : int, optional
        Number of stages. By default :math:`\log_C(T \sqrt\kappa)`, or :math:`\log_C T` without
        momentum, to the nearest integer >= 1.
    momentum : bool, default True
        Whether the steps are for heavy ball; False for plain SGD.

    Returns
    -------
    ndarray, shape (n_steps,)
        The eta_t. Stages are equally long; the last takes the steps that remain.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or there are fewer steps than stages.

    Notes
    -----
    The paper leaves open how the number and the length of stages are rounded.

    References
    ----------
    "Accelerated Convergence of Stochastic Heavy Ball Method under Anisotropic Gradient Noise"
    (2023), arXiv 2312.14567, step decay scheduler.

    Examples
    --------
    >>> step_decay(7, L=1.0, kappa=9.0)
    array([1.  , 1.  , 1.  , 0.25, 0.25, 0.25, 0.25])
    """
    L = check_real("L", L, above=0)
    lengths = stage_lengths(n_steps, kappa, factor, n_stages, momentum)
    return np.repeat(float(factor) ** -np.arange(len(lengths)) / L, lengths)


def empirical_noise(
    problem: Any, w: ArrayLike, *, batch_size: int = 1, replace: bool = True
) -> float:
    r"""Return the least sigma² with Cov(batch gradient) <= sigma² H at a point.

    The gradient noise is anisotropic with this sigma²: in no direction has it more variance than
    sigma² times the curvature. Theory wants one sigma² for all points. That of least squares is
    least near the minimum and grows with the distance from it; evaluate it along a run to see.

    Parameters
    ----------
    problem : FiniteSum
        A problem with ``component_gradients(w)`` and ``hessp(w, v)``, the product of its Hessian H
        with a vector.
    w : array_like, shape (dim,)
        The point.
    batch_size : int, default 1
        Components a batch, 1 to n.
    replace : bool, default True
        Whether batches are drawn with replacement.

    Returns
    -------
    float
        sigma², in units of the objective; inf where the gradient varies in a direction without
        curvature, or the curvature is negative.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed or the problem has no Hessian.

    Notes
    -----
    Forms H: dim products and dim³ operations.

    References
    ----------
    "Accelerated Convergence of Stochastic Heavy Ball Method under Anisotropic Gradient Noise"
    (2023), arXiv 2312.14567, assumption on the noise.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares
    >>> problem = LeastSquares([[1.0], [1.0]], [1.0, -1.0])
    >>> [round(empirical_noise(problem, [0.0], batch_size=size), 6) for size in (1, 2)]
    [1.0, 0.5]
    """
    for name in ("n", "dim", "component_gradients", "hessp"):
        if not hasattr(problem, name):
            raise TypeError(f"problem must have {name}, {type(problem).__name__} has none")
    n, w = problem.n, check_array("w", w, shape=(problem.dim,))
    size = check_count("batch_size", batch_size, at_most=n)
    share = 1 / size if replace else (n - size) / (max(n - 1, 1) * size)
    gradients = check_array("component gradients at w", problem.component_gradients(w))
    hessian = np.array([problem.hessp(w, unit) for unit in np.eye(len(w))])
    curvatures, axes = np.linalg.eigh(check_array("Hessian at w", hessian))
    around = (gradients - gradients.mean(axis=0)) @ axes
    variances = np.mean(around**2, axis=0)
    eps = np.finfo(float).eps
    zero = len(w) * eps * np.abs(curvatures).max(initial=0.0)
    curved = curvatures > zero
    if (curvatures < -zero).any() or variances[~curved].sum() > eps * variances.sum():
        return math.inf
    scaled = around[:, curved] / np.sqrt(curvatures[curved])
    largest = np.linalg.norm(scaled, ord=2) if scaled.size else 0.0
    return float(share * largest**2 / n)


def momentum_of(kappa: float) -> float:
    """Return the paper's momentum (1 - 1/√kappa)² for a condition number."""
    return (1 - 1 / math.sqrt(kappa)) ** 2


def stage_lengths(
    n_steps: Any,
    kappa: Any,
    factor: Any,
    n_stages: Any = None,
    momentum: bool = True,
    name: str = "n_steps",
) -> NDArray[np.int64]:
    """Return how many steps each stage has, once the arguments of a step decay are checked."""
    n_steps = check_count(name, n_steps)
    kappa = check_real("kappa", kappa, at_least=1)
    factor = check_real("factor", factor, above=1)
    if n_stages is None:
        n_stages = max(1, round(log_stages(n_steps, kappa if momentum else 1.0, factor)))
    n_stages = check_count("n_stages", n_stages)
    if n_steps < n_stages:
        raise ValueError(f"{name} must be >= n_stages = {n_stages}, got {n_steps}")
    lengths = np.full(n_stages, n_steps // n_stages)
    lengths[-1] = n_steps - lengths[:-1].sum()
    return lengths


def log_stages(n_steps: int, kappa: float, factor: float) -> float:
    """Return log_C(T √kappa), the number of stages before it is rounded."""
    return (math.log(n_steps) + 0.5 * math.log(kappa)) / math.log(factor)


def warn_unstable(L: float, steps: Floats, momenta: Floats) -> None:
    """Warn where a step makes the mode of the largest curvature grow."""
    reach = steps * L / (2 * (1 + momenta))
    if reach.max(initial=0.0) <= 1:
        return
    t = int(reach.argmax())
    with np.errstate(over="ignore"):
        radius = mode_rate(L, float(steps[t]), float(momenta[t]), 0.0)
    warnings.warn(
        f"steps[{t}] = {steps[t]:.4g} is unstable for the curvature {L:.4g}: the spectral radius "
        f"of its mode is {radius:.4g}; stable are steps up to {2 * (1 + momenta[t]) / L:.4g}",
        RuntimeWarning,
        stacklevel=3,
    )

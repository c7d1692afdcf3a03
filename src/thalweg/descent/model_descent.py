r"""Minimise a smooth function without tuning the step: a trial step, corrected where it fails.

The gradient step is tried; if the function has not fallen enough, `model_building_step` corrects
its length and direction block by block. `thalweg.descent.SMB` does the same on batches.

Source: "Bolstering Stochastic Gradient Descent with Model Building" (2021), arXiv 2111.07058,
Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult

from thalweg._validation import check_count, check_real
from thalweg.descent._oracle import (
    BreakdownError,
    Oracle,
    State,
    check_unused,
    drive,
    inner,
    largest,
)
from thalweg.descent.model_steps import ETA, corrected_step

Floats = NDArray[np.float64]

LR, C = 0.5, 0.1
SCHEDULE_EVERY, GAMMA, BETA, LR_MAX = 500, 0.05, 0.9, 20.0
TINY_GRADIENT = 1e-8
"""Norm of a gradient below which the trial step is taken as it is."""
MOST_HALVINGS = 30
"""How often a trial step is halved for a finite gradient at its end."""
MOST_STALLED = 60
"""Consecutive steps without a fall after which the minimiser gives up."""


def model_building(
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
    lr: float = LR,
    eta: float = ETA,
    c: float = C,
    groups: Sequence[ArrayLike] | None = None,
    auto_schedule: bool = False,
    schedule_every: int = SCHEDULE_EVERY,
    gamma: float = GAMMA,
    beta: float = BETA,
    lr_max: float = LR_MAX,
    gtol: float = 1e-6,
    maxiter: int = 10_000,
) -> OptimizeResult:
    r"""Minimise a smooth function by gradient steps that a model corrects where they fail.

    Each iteration tries :math:`s_t = -\alpha \nabla f(x)`, takes it if

    .. math:: f(x + s_t) \le f(x) - c\, \alpha \|\nabla f(x)\|^2,

    and otherwise takes the `model_building_step` of every block of unknowns, without another test.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args) -> float``; with ``jac=True`` it returns ``(value, gradient)``.
    x0 : array_like
        Start, of any shape; gradients have the same.
    args : tuple, default ()
        Further arguments of `fun` and `jac`.
    jac : callable, True or None
        ``jac(x, *args)``, the gradient; central differences if None.
    callback : callable, optional
        ``callback(xk)`` or ``callback(intermediate_result)`` after each step, as in
        `scipy.optimize.minimize`; StopIteration ends the run.
    record : bool, default False
        Whether ``history`` is kept.
    hess, hessp, bounds, constraints
        Refused unless empty; `scipy.optimize.minimize` passes them.
    lr : float, default 0.5
        Length alpha of the trial steps, > 0.
    eta : float, default 0.99
        Largest length of a model step relative to the trial step, in (0, 1).
    c : float, default 0.1
        Share of the fall predicted by the gradient that a trial must bring, in (0, 1).
    groups : sequence of integer arrays, optional
        Blocks of unknowns with model steps of their own: indices into the flattened point, each of
        which is in one block. None is one block.
    auto_schedule : bool, default False
        Whether `lr` follows the share of model steps: after every `schedule_every` iterations it is
        multiplied by `beta` if more than the share `gamma` of them were model steps, and else
        divided by `beta`, up to `lr_max`.
    schedule_every, gamma, beta, lr_max
        Defaults 500, 0.05, 0.9, 20.0.
    gtol : float, default 1e-6
        Stop when no entry of the gradient is larger. 0 never stops.
    maxiter : int, default 10000
        Largest number of steps.

    Returns
    -------
    OptimizeResult
        ``x``, ``fun``, ``jac``, ``nit``, ``nfev``, ``njev``, ``success``, ``status``, ``message``,
        ``n_model_steps``, ``lr`` (the last); with `record` also ``history`` of ``fun``,
        ``n_model_steps`` and ``lr``, each of shape (nit + 1,). ``success`` is False after `maxiter`
        steps without meeting `gtol`, after 60 consecutive steps without a fall, and if a value is
        not finite; ``x`` is then the last point where all was.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Notes
    -----
    A trial with a value that is not finite has failed. If the gradient at its end is not finite
    either, it is halved until that is, at most 30 times. Where the gradient has a norm below 1e-8
    the trial is taken untested.

    References
    ----------
    "Bolstering Stochastic Gradient Descent with Model Building" (2021), arXiv 2111.07058,
    Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.array([1.0, 30.0])
    >>> result = model_building(lambda x: 0.5 * x @ (a * x), [1.0, 1.0], jac=lambda x: a * x)
    >>> result.success, result.n_model_steps > 0
    (True, True)
    """
    check_unused("model_building", hess=hess, hessp=hessp, bounds=bounds, constraints=constraints)
    alpha = check_real("lr", lr, above=0)
    eta = check_real("eta", eta, above=0, below=1)
    c = check_real("c", c, above=0, below=1)
    gtol = check_real("gtol", gtol, at_least=0)
    schedule = StepSchedule(schedule_every, gamma, beta, lr_max) if auto_schedule else None
    oracle = Oracle(fun, x0, args, jac)
    blocks = _blocks(groups, oracle.x0.size)
    return drive(
        oracle,
        _states(oracle, blocks, alpha, eta, c, schedule),
        maxiter=maxiter,
        tol=gtol,
        callback=callback,
        record=record,
    )


class StepSchedule:
    """Count model steps and adapt the length of trial steps to their share."""

    def __init__(self, every: Any, gamma: Any, beta: Any, lr_max: Any) -> None:
        self.every = check_count("schedule_every", every)
        self.gamma = check_real("gamma", gamma, at_least=0, below=1)
        self.beta = check_real("beta", beta, above=0, below=1)
        self.lr_max = check_real("lr_max", lr_max, above=0)
        self.done = self.models = 0

    def after(self, alpha: float, *, model: bool) -> float:
        """Return the length of the next trial step."""
        self.done += 1
        self.models += model
        if self.done < self.every:
            return alpha
        share = self.models / self.done
        self.done = self.models = 0
        return scheduled(alpha, share, self.gamma, self.beta, self.lr_max)


def scheduled(alpha: float, share: float, gamma: float, beta: float, lr_max: float) -> float:
    """Return a shorter step if model steps were many, else a longer one up to the largest."""
    if share > gamma:
        return alpha * beta
    # A step that was set longer than the largest is left.
    return max(alpha, min(alpha / beta, lr_max))


def _blocks(groups: Sequence[ArrayLike] | None, n: int) -> list[Any]:
    if groups is None:
        return [slice(None)]
    if isinstance(groups, str) or not isinstance(groups, Sequence):
        raise TypeError(f"groups must be a sequence of arrays of integers, got {groups!r}")
    blocks = [np.atleast_1d(np.asarray(group)) for group in groups]
    for i, block in enumerate(blocks):
        if block.ndim != 1 or block.dtype.kind not in "iu":
            raise TypeError(f"groups must hold arrays of integers, got {groups[i]!r} at {i}")
    indices = np.concatenate(blocks) if blocks else np.zeros(0, dtype=int)
    counts = np.zeros(n, dtype=int)
    inside = (indices >= 0) & (indices < n)
    if not inside.all():
        raise ValueError(f"groups must hold indices in [0, {n}), got {indices[~inside][0]}")
    np.add.at(counts, indices, 1)
    if (counts != 1).any():
        odd = int(np.argmax(counts != 1))
        raise ValueError(f"groups must hold every index once, got {odd} {counts[odd]} times")
    return [block for block in blocks if block.size]


def _states(
    oracle: Oracle,
    blocks: list[Any],
    alpha: float,
    eta: float,
    c: float,
    schedule: StepSchedule | None,
) -> Iterator[State]:
    x, f, g = oracle.x0, oracle.value(oracle.x0), oracle.gradient(oracle.x0)
    n_models = stalled = 0
    while True:
        trace = {"n_model_steps": n_models, "lr": alpha}
        yield State(x, f, g, residual=largest(g), trace=trace)
        if stalled >= MOST_STALLED:
            raise BreakdownError(f"no step decreased fun in {MOST_STALLED} consecutive iterations")
        before, squared = f, inner(g, g)
        trial = -alpha * g
        ahead = _value(oracle, x + trial)
        accepted = math.isfinite(ahead) and (
            ahead <= f - c * alpha * squared or math.sqrt(squared) < TINY_GRADIENT
        )
        if accepted:
            x, f = x + trial, ahead
        else:
            trial, g_ahead = _finite_end(oracle, x, trial)
            x = x + _blockwise(g, trial, g_ahead - g, blocks, eta)
            f = oracle.value(x)
            n_models += 1
        g = oracle.gradient(x)
        stalled = 0 if f < before else stalled + 1
        if schedule is not None:
            alpha = schedule.after(alpha, model=not accepted)


def _value(oracle: Oracle, x: Floats) -> float:
    try:
        return oracle.value(x)
    except BreakdownError:
        return math.inf


def _finite_end(oracle: Oracle, x: Floats, trial: Floats) -> tuple[Floats, Floats]:
    """Return the trial step, halved until the gradient at its end is finite, and that gradient."""
    for _ in range(MOST_HALVINGS + 1):
        try:
            return trial, oracle.gradient(x + trial)
        except BreakdownError:
            trial = trial / 2
    raise BreakdownError(f"no finite gradient after {MOST_HALVINGS} halvings of the trial step")


def _blockwise(g: Floats, s: Floats, y: Floats, blocks: list[Any], eta: float) -> Floats:
    step = np.zeros(g.shape)
    flat, *vectors = (v.reshape(-1) for v in (step, g, s, y))
    for block in blocks:
        g_block, s_block, y_block = (v[block] for v in vectors)
        flat[block] = corrected_step(g_block, s_block, y_block, eta)
    return step

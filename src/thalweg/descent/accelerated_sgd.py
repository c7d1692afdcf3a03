r"""Accelerated stochastic gradients for models that fit all of their data exactly.

Where one point fits all components, a stochastic gradient step makes progress like a gradient step,
and Nesterov's acceleration can be put on top of it, or of any other stochastic update that makes as
much: it takes the root of the condition number, and with the whole gradient in its second sequence
the root of the strong growth constant as well.

`thalweg.descent.strong_growth` says beforehand what your data allow.

Source: "Faster Convergence of Stochastic Accelerated Gradient Descent under Interpolation" (2024),
arXiv 2404.02378. Its version 2 withdraws the rate for the scheme with stochastic gradients alone:
what was proved is the semi-stochastic scheme, which is the default here.
"""

from __future__ import annotations

from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult

from thalweg._validation import check_count, check_option, check_real
from thalweg.descent._accelerated_sgd_runs import (
    Batch,
    Preconditioner,
    PrimalUpdate,
    Scheme,
    check_preconditioner,
)
from thalweg.descent._stochastic_runs import Callback, check_schedule, check_start
from thalweg.descent._variance_reduction_runs import Floats, Run, Schedule
from thalweg.descent.problems import FiniteSum
from thalweg.descent.strong_growth import check_growth, check_strong_convexity, shares

VARIANTS = ("semi-stochastic", "stochastic", "momentum")
SHORTEST = 1e-16
"""Share of the first trial at which a line search gives up."""


def stochastic_nesterov(
    problem: FiniteSum,
    x0: ArrayLike,
    *,
    step: Schedule,
    n_steps: int,
    mu: float = 0.0,
    variant: str = "semi-stochastic",
    growth: float = 1.0,
    gamma0: float | None = None,
    primal_update: PrimalUpdate | None = None,
    preconditioner: Preconditioner | None = None,
    batch_size: int = 1,
    rng: int | np.random.Generator | None = None,
    record: bool = False,
    callback: Callback | None = None,
    executor: Executor | None = None,
) -> OptimizeResult:
    r"""Minimise an interpolating finite sum by accelerated stochastic gradient steps.

    With :math:`\alpha_k` the positive root of
    :math:`\alpha^2 = \frac{\eta_k}{\rho} ((1 - \alpha) \gamma_k + \alpha \mu)`,
    :math:`\gamma_{k+1} = (1 - \alpha_k) \gamma_k + \alpha_k \mu` and a batch B of components

    .. math::

        y_k &= \frac{\alpha_k \gamma_k v_k + \gamma_{k+1} w_k}{\gamma_k + \alpha_k \mu}, \qquad
        w_{k+1} = y_k - \eta_k \nabla f_B(y_k) \\
        v_{k+1} &= \frac{(1 - \alpha_k) \gamma_k v_k + \alpha_k \mu y_k - \alpha_k G_k}
                        {\gamma_{k+1}}

    Parameters
    ----------
    problem : FiniteSum
        What is minimised: an object with ``n``, ``dim``, ``value(w, idx=None)`` and
        ``gradient(w, idx=None)``, means over the components `idx` or all of them.
    x0 : array_like, shape (dim,)
        Start of w and v.
    step : float, array_like of shape (n_steps,) or callable
        Step lengths eta_k > 0; a callable gets k = 0, 1, ... The theorem asks for at most
        1 / (rho L) with the constant of the batch size.
    n_steps : int
        Steps.
    mu : float, default 0.0
        Strong convexity of the sum, 0 <= mu <= 1 / step.
    variant : {"semi-stochastic", "stochastic", "momentum"}, default "semi-stochastic"
        G_k: the gradient of the whole sum at y_k, or of the same batch. "momentum" is the usual
        form of the latter, without v: y_{k+1} = w_{k+1} + beta_k (w_{k+1} - w_k) with
        beta_k = alpha_k (1 - alpha_k) / (alpha_k² + alpha_{k+1} eta_k / eta_{k+1}).
    growth : float, default 1.0
        The rho >= 1 of the equation for alpha, for the variant "stochastic" alone: at least the
        strong growth constant makes it converge as the theorem says, with rho in place of its root.
    gamma0 : float, optional
        gamma_0 > 0; mu if that is positive, else 1 / step.
    primal_update : callable, optional
        Makes w_{k+1} in place of the gradient step, not with "momentum":
        ``primal_update(problem, y, idx, eta, gradient)``, with `gradient` that of the components
        `idx` (None: all) at y, returns w and the step eta_used > 0 for which it promises the
        progress eta_used ‖∇F(y)‖² / 2. `armijo_primal_update` is one.
    preconditioner : array_like of shape (dim,) or (dim, dim), or callable, optional
        D: gradients become D^{-1} ∇f in both sequences, and L, mu, rho are constants in the norm
        of D. A positive vector, a positive definite matrix, or ``preconditioner(k, y)``, a positive
        vector none of whose entries may grow from step to step. Not with `primal_update`.
    batch_size : int, default 1
        Components a step, drawn with replacement; with n the whole sum, and nothing is drawn.
    rng : None, int or numpy.random.Generator, optional
        Draws the batches.
    record : bool, default False
        Whether ``history`` is kept, with an entry after each n / batch_size steps.
    callback : callable, optional
        ``callback(state)`` after each step with ``x``, ``nit`` and ``n_grad``; StopIteration ends
        the run.
    executor : concurrent.futures.Executor, optional
        Spreads the gradients of the whole sum over chunks of components. Process pools and Dask
        must be able to pickle the problem, which is sent with each chunk.

    Returns
    -------
    OptimizeResult
        ``x`` (the last w), ``v``, ``fun`` and ``jac`` at x, ``nit``, ``n_grad`` (component
        gradients, ``jac`` included; a step of "semi-stochastic" costs n + batch_size), ``steps``
        (the eta_k) and ``lambda_k`` (products of 1 - alpha_i) of shapes (nit,) and (nit + 1,),
        ``success``, ``status``, ``message`` and ``history``: arrays ``nit``, ``n_grad``, ``fun``
        and ``x``, empty without `record`. Not successful are: a step that leaves the finite
        numbers (the last finite points are returned) and a callback's stop.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, before any work; during it if `primal_update` or
        `preconditioner` returns what it must not.

    See Also
    --------
    accelerated_bound : what the theorem guarantees.
    mean_square_rate : the exact rate of each variant on least squares.
    strong_growth_constant : rho.

    Notes
    -----
    "stochastic" and "momentum" make the same points, up to rounding. Neither has a proof with
    ``growth=1`` that would use sqrt(rho), and on some data with such steps they diverge.

    alpha_k, and with it y_k, depends on the step for which w_{k+1} makes progress, which an update
    with a line search finds only from y_k. Where ``eta_used`` is smaller than what was assumed,
    y_k is formed again for it and the update asked again, until it is not; eta_k is then the step
    that was assumed last, at most `step`. A `step` of more than 1 / L makes the sequence v unstable
    whatever the update promises.

    The paper gives beta_k for a constant step; the quotient of the steps was added so that the
    forms agree for any.

    References
    ----------
    "Faster Convergence of Stochastic Accelerated Gradient Descent under Interpolation" (2024, v2),
    arXiv 2404.02378: the general scheme and the momentum form; the scaled variant is derived.

    Examples
    --------
    >>> from thalweg.descent import LeastSquares, strong_growth_constant
    >>> problem = LeastSquares([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [1.0, 0.0, -2.0])
    >>> curvature = problem.curvature()
    >>> step = 1 / (strong_growth_constant(problem) * curvature["L"])
    >>> result = stochastic_nesterov(
    ...     problem, [5.0, 5.0], step=step, n_steps=100, mu=curvature["mu"], rng=0)
    >>> result.x.round(6), result.n_grad
    (array([ 1., -1.]), 403)
    """
    n_steps = check_count("n_steps", n_steps, at_least=0)
    check_option("variant", variant, VARIANTS)
    growth = check_growth(growth, variant)
    _check_primal_update(primal_update, variant, preconditioner)
    if callable(step) or np.ndim(step):
        step = check_schedule("step", step, n_steps, above=0.0)
        mu = check_strong_convexity(mu, step)
        first = float(step[0]) if n_steps else 1.0
    else:
        first = check_real("step", step, above=0)
        mu = check_strong_convexity(mu, np.array([first]))
    if gamma0 is not None:
        gamma0 = check_real("gamma0", gamma0, above=0)
    start = check_start(problem, x0)
    inverse_at = check_preconditioner(preconditioner, len(start))
    run = Run(problem, start, step, n_steps, batch_size, rng, record, callback)
    scheme = Scheme(
        run,
        n_steps,
        mu,
        gamma0 if gamma0 is not None else mu if mu > 0 else 1 / first,
        growth,
        variant,
        primal_update,
        inverse_at,
        executor,
    )
    scheme.iterate()
    result = run.result("steps")
    result["v"] = scheme.dual_point()
    result["steps"] = scheme.steps[: run.taken]
    result["lambda_k"] = shares(scheme.alphas[: run.taken])
    return result


def armijo_primal_update(
    *, c: float = 0.5, shrink: float = 0.8, eta_max: float = 10.0
) -> PrimalUpdate:
    r"""Return a primal update for `stochastic_nesterov` that searches for its step on the batch.

    It takes the first eta of eta_max, eta_max shrink, ... with

    .. math:: f_B(y - \eta \nabla f_B(y)) \le f_B(y) - c\, \eta \|\nabla f_B(y)\|^2

    Parameters
    ----------
    c : float, default 0.5
        Share of the fall predicted by the gradient that a step must bring, in (0, 1).
    shrink : float, default 0.8
        Factor of the step after each refused trial, in (0, 1).
    eta_max : float, default 10.0
        First trial, > 0.

    Returns
    -------
    callable
        ``update(problem, y, idx, eta, gradient) -> (w, eta_used)``; processes can pickle it. It
        returns y and the last trial if that is 1e-16 of the first.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    References
    ----------
    "Faster Convergence of Stochastic Accelerated Gradient Descent under Interpolation" (2024),
    arXiv 2404.02378: stochastic line searches as primal updates.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.descent import LeastSquares
    >>> problem, y = LeastSquares([[2.0]], [0.0]), np.array([1.0])
    >>> update = armijo_primal_update(shrink=0.5, eta_max=1.0)
    >>> update(problem, y, None, 1.0, problem.gradient(y))
    (array([0.]), 0.25)
    """
    return partial(
        _search,
        c=check_real("c", c, above=0, below=1),
        shrink=check_real("shrink", shrink, above=0, below=1),
        eta_max=check_real("eta_max", eta_max, above=0),
    )


def _search(
    problem: Any,
    y: Floats,
    idx: Batch,
    eta: float,
    gradient: Floats,
    *,
    c: float,
    shrink: float,
    eta_max: float,
) -> tuple[Floats, float]:
    squared, length = float(gradient @ gradient), eta_max
    if squared == 0:
        return y.copy(), max(eta, eta_max)
    before = problem.value(y, idx)
    while True:
        w = y - length * gradient
        if problem.value(w, idx) <= before - c * length * squared:
            return w, length
        if length * shrink < SHORTEST * eta_max:
            return y.copy(), length
        length *= shrink


def _check_primal_update(primal_update: Any, variant: str, preconditioner: Any) -> None:
    if primal_update is None:
        return
    if not callable(primal_update):
        raise TypeError(f"primal_update must be callable or None, got {primal_update!r}")
    if variant == "momentum":
        raise ValueError("primal_update must be None with variant='momentum'")
    if preconditioner is not None:
        raise ValueError("primal_update must be None with a preconditioner")

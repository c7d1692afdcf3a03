"""Inequalities that every run of AdaGrad-Norm obeys, whatever the gradients and the noise were.

`regret_certificate` and `descent_certificate` read a recorded run and return how much room is left,
which is never negative if the steps were AdaGrad-Norm's. `step_certificate` looks at the steps
alone. The sides of each inequality are functions of a few sums (`regret_sides` and the others), for
runs too long to record.

Source: "SGD with AdaGrad Stepsizes: Full Adaptivity with High Probability to Unknown Parameters,
Unbounded Gradients and Affine Variance" (2023), arXiv 2302.08783; the inequalities are derived.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_real
from thalweg.descent.adagrad_norm_method import check_knobs

Floats = NDArray[np.float64]


def regret_certificate(
    history: Mapping[str, ArrayLike], u: ArrayLike, *, eta: float, gamma: float
) -> float:
    r"""Return the room in the regret inequality of a recorded run, >= 0 up to rounding.

    .. math:: \sum_{t \le T} \langle g_t, w_t - u \rangle \le
              \Big(\frac{\max_{t \le T} \|w_t - u\|^2}{2\eta} + \eta\Big) G_T - \eta\gamma

    It holds for every point u and all gradients, random or chosen by an adversary; with a
    projection, for every u in the set.

    Parameters
    ----------
    history : mapping
        ``x`` of shape (T + 1, \*shape) and ``g`` of shape (T, \*shape), as `adagrad_norm` records.
    u : array_like
        The point that the run is compared with, such as a minimiser.
    eta, gamma : float
        Those that the run claims to have used.

    Returns
    -------
    float
        Right side minus left side. Below zero, by more than rounding, the run did not take the
        steps eta / G_t.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "SGD with AdaGrad Stepsizes" (2023), arXiv 2302.08783.

    Examples
    --------
    >>> from thalweg.descent import adagrad_norm
    >>> run = adagrad_norm(lambda x, rng: rng.normal(size=2), [0.0, 0.0], n_steps=100, rng=0,
    ...                    record=True)
    >>> regret_certificate(run.history, [5.0, -5.0], eta=1.0, gamma=1e-2) >= 0
    True
    """
    eta, gamma = check_knobs(eta, gamma)
    x, g = _read(history)
    u = check_array("u", np.atleast_1d(u), shape=x.shape[1:])
    offset = (x[:-1] - u).reshape(len(g), -1)
    flat = g.reshape(len(g), -1)
    linear = float(np.einsum("ti,ti->", flat, offset))
    farthest = float(np.max(np.einsum("ti,ti->t", offset, offset)))
    left, right = regret_sides(linear, farthest, _grad_sums(g, gamma)[-1], eta, gamma)
    return float(right - left)


def descent_certificate(
    history: Mapping[str, ArrayLike],
    true_gradients: ArrayLike,
    f_first: float,
    f_last: float,
    *,
    eta: float,
    gamma: float,
    beta: float,
) -> float:
    r"""Return the room in the descent inequality of a recorded run, >= 0 up to rounding.

    .. math:: \sum_{t \le T} \frac{\eta}{G_t} \langle \nabla f(w_t), g_t \rangle \le
              f(w_1) - f(w_{T+1}) + \frac{\beta\eta^2}{2} \ln\frac{G_T^2}{\gamma^2}

    It holds for every f with a beta-Lipschitz gradient, convex or not, and all g_t, in runs without
    projection.

    Parameters
    ----------
    history : mapping
        ``g`` of shape (T, \*shape) and ``x``, as `adagrad_norm` records.
    true_gradients : array_like, shape (T, \*shape)
        The gradients of f at w_1, ..., w_T.
    f_first, f_last : float
        f(w_1) and f(w_{T+1}).
    eta, gamma : float
        Those that the run claims to have used.
    beta : float
        Lipschitz constant of the gradient, > 0.

    Returns
    -------
    float
        Right side minus left side. Below zero, by more than rounding, beta is too small or the run
        did not take the steps eta / G_t.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "SGD with AdaGrad Stepsizes" (2023), arXiv 2302.08783.

    Examples
    --------
    >>> from thalweg.descent import adagrad_norm
    >>> run = adagrad_norm(lambda x, rng: x, [3.0], n_steps=50, record=True)
    >>> x = run.history["x"]
    >>> descent_certificate(run.history, x[:-1], x[0, 0] ** 2 / 2, x[-1, 0] ** 2 / 2,
    ...                     eta=1.0, gamma=1e-2, beta=1.0) >= 0
    True
    """
    eta, gamma = check_knobs(eta, gamma)
    beta = check_real("beta", beta, above=0)
    f_first, f_last = check_real("f_first", f_first), check_real("f_last", f_last)
    _, g = _read(history)
    true = check_array("true_gradients", true_gradients, shape=g.shape)
    sums = _grad_sums(g, gamma)
    products = np.einsum("ti,ti->t", true.reshape(len(g), -1), g.reshape(len(g), -1))
    progress = float(np.sum(eta / np.sqrt(sums) * products))
    left, right = descent_sides(progress, f_first - f_last, sums[-1], eta, gamma, beta)
    return float(right - left)


def step_certificate(history: Mapping[str, ArrayLike], *, eta: float, gamma: float) -> float:
    r"""Return the least room in two inequalities of recorded steps h_t, >= 0 up to rounding.

    .. math:: \sum_{t \le T} \frac{h_t^2}{\eta^2} \|g_t\|^2 \le \ln\frac{G_T^2}{\gamma^2}, \qquad
              \sum_{t \le T} \frac{h_t}{\eta} \|g_t\|^2 \le 2 (G_T - \gamma)

    Steps that leave out the current gradient break them.

    Parameters
    ----------
    history : mapping
        ``g``, ``x`` and ``step`` of shape (T,), as `adagrad_norm` records.
    eta, gamma : float
        Those that the run claims to have used.

    Returns
    -------
    float
        The lesser difference of right and left side.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "SGD with AdaGrad Stepsizes" (2023), arXiv 2302.08783.

    Examples
    --------
    >>> from thalweg.descent import adagrad_norm
    >>> room = [step_certificate(adagrad_norm(lambda x, rng: x, [3.0], n_steps=9, record=True,
    ...                                       delayed=delayed).history, eta=1.0, gamma=1e-2)
    ...         for delayed in (False, True)]
    >>> room[0] >= 0, room[1] >= 0
    (True, False)
    """
    eta, gamma = check_knobs(eta, gamma)
    _, g = _read(history)
    if "step" not in history:
        raise ValueError("history must hold 'step'; run with record=True")
    scaled = check_array("history['step']", history["step"], shape=(len(g),)) / eta
    squares = np.einsum("ti,ti->t", g.reshape(len(g), -1), g.reshape(len(g), -1))
    grad_sum = gamma**2 + squares.sum()
    pairs = step_sides(np.sum(scaled**2 * squares), np.sum(scaled * squares), grad_sum, gamma)
    return float(min(right - left for left, right in pairs))


def regret_sides(
    linear: Any, farthest: Any, grad_sum: Any, eta: float, gamma: float
) -> tuple[Any, Any]:
    """Return both sides from the sum of <g, w - u>, the largest ‖w - u‖² and G_T²."""
    return linear, (farthest / (2 * eta) + eta) * np.sqrt(grad_sum) - eta * gamma


def descent_sides(
    progress: Any, fall: Any, grad_sum: Any, eta: float, gamma: float, beta: float
) -> tuple[Any, Any]:
    """Return both sides from the sum of eta / G <∇f, g>, f(w_1) - f(w_{T+1}) and G_T²."""
    return progress, fall + 0.5 * beta * eta**2 * np.log(grad_sum / gamma**2)


def step_sides(
    squared: Any, plain: Any, grad_sum: Any, gamma: float
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Return both sides of both, from the sums of (h / eta)² ‖g‖² and of (h / eta) ‖g‖²."""
    return (
        (squared, np.log(grad_sum / gamma**2)),
        (plain, 2 * (np.sqrt(grad_sum) - gamma)),
    )


def _read(history: Mapping[str, ArrayLike]) -> tuple[Floats, Floats]:
    if not isinstance(history, Mapping):
        raise TypeError(f"history must be a mapping, got {type(history).__name__}")
    missing = [name for name in ("x", "g") if name not in history]
    if missing:
        raise ValueError(f"history must hold {missing[0]!r}; run with record=True")
    g = check_array("history['g']", history["g"])
    if g.ndim < 2 or not len(g):
        raise ValueError(f"history['g'] must have shape (steps, ...), got {g.shape}")
    x = check_array("history['x']", history["x"], shape=(len(g) + 1, *g.shape[1:]))
    return x, g


def _grad_sums(g: Floats, gamma: float) -> Floats:
    flat = g.reshape(len(g), -1)
    sums: Floats = gamma**2 + np.cumsum(np.einsum("ti,ti->t", flat, flat))
    return sums

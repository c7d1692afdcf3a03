"""Paths of ordinary and stochastic differential equations, for many points at once.

`odeint` moves every row of an array along a velocity field, `sdeint` adds noise. Both take NumPy
arrays or torch tensors, run forward or backward in time and never leave the device of the state; a
learned field costs one network call an evaluation, so methods differ in evaluations a step.

Source: "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions" (2023), arXiv
2303.08797, for the samplers; Dormand and Prince, "A family of embedded Runge-Kutta formulae"
(1980), for the adaptive method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import RK45

from thalweg._validation import (
    check_array,
    check_count,
    check_option,
    check_real,
    is_torch_tensor,
)
from thalweg.transport.reference import _generator, _normal

Array: TypeAlias = Any
"""A NumPy array or a torch tensor; what comes back is of the kind that went in."""
Field: TypeAlias = Callable[[float, Array], Array]
Floats: TypeAlias = NDArray[np.float64]

SAFETY = 0.9
SHRINK, GROW = 0.2, 10.0
"""Share of the step that the adaptive method expects to pass, and how far one change may go."""
SMALLEST_STEP = 1e-13
"""Smallest step of the adaptive method, as a share of the interval."""
MOST_STEPS = 100_000


@dataclass(frozen=True)
class ODESolution:
    """What `odeint` returns with ``full_output=True``.

    Attributes
    ----------
    x : array (n, d)
        State at the last time.
    path : array (len(times), n, d) or None
        States at `times`, with ``return_path=True``.
    times : array (n_steps + 1,)
        The grid.
    n_eval : int
        Evaluations of the velocity.
    """

    x: Array
    path: Array | None
    times: Floats
    n_eval: int


def odeint(
    velocity: Field,
    x0: Array,
    *,
    t0: float = 0.0,
    t1: float = 1.0,
    n_steps: int = 100,
    times: ArrayLike | None = None,
    method: str = "heun",
    rtol: float = 1e-6,
    atol: float = 1e-8,
    return_path: bool = False,
    full_output: bool = False,
) -> Any:
    """Solve ``dx/dt = velocity(t, x)`` from `t0` to `t1`.

    Parameters
    ----------
    velocity : callable
        ``velocity(t, x) -> array`` of the shape of `x`; `t` is a float.
    x0 : array (n, d)
        State at `t0`; any shape.
    t0, t1 : float
        First and last time; ``t1 < t0`` integrates backward.
    n_steps : int, default 100
        Steps of the uniform grid.
    times : array_like, optional
        A grid that takes the place of `t0`, `t1` and `n_steps`: strictly monotone.
    method : {"euler", "heun", "rk4", "dopri5"}, default "heun"
        Order 1, 2, 4 with 1, 2, 4 evaluations a step of the grid; or order 5 with steps chosen so
        that the root mean square of the local error over all entries stays within the tolerances.
        With ``"dopri5"`` the grid only says where the path is reported.
    rtol, atol : float
        Tolerances of ``"dopri5"``, relative to the state and absolute.
    return_path : bool, default False
        Return the states at all times of the grid, ``(n_steps + 1, n, d)``, instead of the last.
    full_output : bool, default False
        Return an `ODESolution`, which counts the evaluations.

    Returns
    -------
    array (n, d), array (n_steps + 1, n, d) or ODESolution

    Raises
    ------
    ValueError
        If an argument is not as stated, or the velocity has another shape than the state.
    FloatingPointError
        If the state leaves the finite numbers, or no step is small enough; it names the time.
    RuntimeError
        If ``"dopri5"`` needs more than 100 000 steps.

    Examples
    --------
    >>> import numpy as np
    >>> x = odeint(lambda t, x: -x, np.ones((1, 2)), method="rk4", n_steps=20)
    >>> bool(np.allclose(x, np.exp(-1), atol=1e-6))
    True
    >>> odeint(lambda t, x: -x, np.ones((1, 2)), full_output=True).n_eval
    200
    """
    x0, grid = _state(x0), _grid(t0, t1, n_steps, times)
    check_option("method", method, [*STEPS, "dopri5"])
    rtol, atol = check_real("rtol", rtol, above=0), check_real("atol", atol, at_least=0)
    field = _Counted("velocity", velocity, x0)
    with np.errstate(over="ignore", invalid="ignore"):
        if method == "dopri5":
            path = _adaptive(field, x0, grid, rtol, atol, return_path)
        else:
            path = _fixed(STEPS[method], field, x0, grid, return_path)
    if full_output:
        return ODESolution(path[-1], _stack(path) if return_path else None, grid, field.n_eval)
    return _stack(path) if return_path else path[-1]


def sdeint(
    drift: Field,
    x0: Array,
    sigma: float | Callable[[float], Any],
    *,
    t0: float = 0.0,
    t1: float = 1.0,
    n_steps: int = 200,
    times: ArrayLike | None = None,
    method: str = "euler-maruyama",
    rng: Any = None,
    return_path: bool = False,
) -> Array:
    """Draw solutions of ``dX = drift(t, X) dt + sigma dW``, an Ito equation with additive noise.

    Backward (``t1 < t0``) the same equation is read with a Brownian motion that starts at `t0` and
    runs down: a step is ``x - h drift + sigma sqrt(h) N``. The reverse of a forward process with
    score s therefore has the drift ``drift - sigma^2 s``.

    Parameters
    ----------
    drift : callable
        ``drift(t, x) -> array`` of the shape of `x`; `t` is a float.
    x0 : array (n, d)
        State at `t0`; any shape.
    sigma : float or callable
        Noise per root of time, or ``sigma(t)``: a number or what broadcasts against `x0`.
    t0, t1, n_steps, times
        The grid of steps, as in `odeint`.
    method : {"euler-maruyama", "heun", "stochastic-heun"}, default "euler-maruyama"
        ``"euler-maruyama"``: weak order 1, one evaluation a step. ``"heun"``: the whole noise
        first, then Heun's rule with both evaluations at the new time and from the noisy point, the
        step of the interpolants' published code; weak order 1 with a smaller error where the
        field, not the noise, is hard. ``"stochastic-heun"``: the mean of the drifts at the old
        point and at the predicted one; weak order 2, also two evaluations.
    rng : None, int or Generator
        Source of randomness: NumPy's or torch's, as the state is.
    return_path : bool, default False
        Return the states at all times of the grid, ``(n_steps + 1, n, d)``, instead of the last.

    Returns
    -------
    array (n, d) or array (n_steps + 1, n, d)

    Raises
    ------
    ValueError
        If an argument is not as stated, or the drift has another shape than the state.
    FloatingPointError
        If the state leaves the finite numbers; it names the time.

    Examples
    --------
    >>> import numpy as np
    >>> x = sdeint(lambda t, x: -x, np.zeros((4000, 1)), 2**0.5, t1=5.0, rng=0)
    >>> bool(abs(x.var() - 1) < 0.1)
    True
    """
    x0, grid = _state(x0), _grid(t0, t1, n_steps, times)
    check_option("method", method, list(NOISY_STEPS))
    if callable(sigma):
        noise = sigma
    else:
        constant = check_real("sigma", sigma, at_least=0)

        def noise(t: float) -> float:
            return constant

    field, step = _Counted("drift", drift, x0), NOISY_STEPS[method]
    generator = _generator(x0, rng)

    def advance(f: Field, t: float, x: Array, h: float) -> Array:
        return step(f, noise, t, x, h, _normal(x, generator))

    with np.errstate(over="ignore", invalid="ignore"):
        path = _fixed(advance, field, x0, grid, return_path)
    return _stack(path) if return_path else path[-1]


def _euler(f: Field, t: float, x: Array, h: float) -> Array:
    return x + h * f(t, x)


def _heun(f: Field, t: float, x: Array, h: float) -> Array:
    k = f(t, x)
    return x + (h / 2) * (k + f(t + h, x + h * k))


def _rk4(f: Field, t: float, x: Array, h: float) -> Array:
    k1 = f(t, x)
    k2 = f(t + h / 2, x + (h / 2) * k1)
    k3 = f(t + h / 2, x + (h / 2) * k2)
    k4 = f(t + h, x + h * k3)
    return x + (h / 6) * (k1 + 2 * (k2 + k3) + k4)


def _euler_maruyama(f: Field, sigma: Any, t: float, x: Array, h: float, z: Array) -> Array:
    return x + h * f(t, x) + sigma(t) * math.sqrt(abs(h)) * z


def _noise_first_heun(f: Field, sigma: Any, t: float, x: Array, h: float, z: Array) -> Array:
    x = x + sigma(t) * math.sqrt(abs(h)) * z
    k = f(t + h, x)
    return x + (h / 2) * (k + f(t + h, x + h * k))


def _stochastic_heun(f: Field, sigma: Any, t: float, x: Array, h: float, z: Array) -> Array:
    deviation = ((sigma(t) ** 2 + sigma(t + h) ** 2) / 2) ** 0.5
    kick = deviation * math.sqrt(abs(h)) * z
    k = f(t, x)
    return x + (h / 2) * (k + f(t + h, x + h * k + kick)) + kick


STEPS: dict[str, Callable[..., Array]] = {"euler": _euler, "heun": _heun, "rk4": _rk4}
NOISY_STEPS: dict[str, Callable[..., Array]] = {
    "euler-maruyama": _euler_maruyama,
    "heun": _noise_first_heun,
    "stochastic-heun": _stochastic_heun,
}


def _fixed(
    step: Callable[..., Array], field: Field, x: Array, grid: Floats, keep: bool
) -> list[Array]:
    """Return the states at all times of the grid, or the last alone."""
    path, now = [x], float(grid[0])
    for later in grid[1:].tolist():
        x = step(field, now, x, later - now)
        now = later
        _require_finite(x, now)
        if keep:
            path.append(x)
    return path if keep else [x]


def _adaptive(
    field: Field, x: Array, grid: Floats, rtol: float, atol: float, keep: bool
) -> list[Array]:
    """Dormand-Prince 5(4), last stage reused; the path comes from its fourth-order interpolant."""
    t, end = float(grid[0]), float(grid[-1])
    span, way = abs(end - t), math.copysign(1.0, end - t)
    path, waiting = [x], grid[1:-1].tolist() if keep else []
    k = field(t, x)
    _require_finite(k, t, "velocity")
    size, rejected = _first_step(field, t, x, k, way, span, rtol, atol), False
    for _ in range(MOST_STEPS):
        last = size >= abs(end - t) * (1 - 1e-12)
        h = end - t if last else way * size
        stages = [k]
        for c, row in zip(RK45.C[1:], RK45.A[1:], strict=True):
            stages.append(field(t + float(c) * h, x + h * _combine(row, stages)))
        moved = x + h * _combine(RK45.B, stages)
        stages.append(field(t + h, moved))
        error = _rms(h * _combine(RK45.E, stages), x, moved, rtol, atol)
        if error <= 1:
            while waiting and (waiting[0] - t - h) * way <= 0:
                share = (waiting.pop(0) - t) / h
                weights = RK45.P @ share ** np.arange(1, 5)
                path.append(x + h * _combine(weights, stages))
            t, x, k = end if last else t + h, moved, stages[-1]
            if last:
                return [*path, x] if keep else [x]
        factor = SAFETY * error**-0.2 if error > 0 else GROW
        most, rejected = 1.0 if rejected else GROW, not error <= 1
        size = abs(h) * (min(max(factor, SHRINK), most) if math.isfinite(error) else SHRINK)
        if size < SMALLEST_STEP * span:
            _require_finite(x, t)
            raise FloatingPointError(
                f"no step is small enough for rtol={rtol:g}, atol={atol:g} at t = {t:.6g}; the "
                "velocity may be singular there"
            )
    raise RuntimeError(f"dopri5 needed more than {MOST_STEPS} steps; it had reached t = {t:.6g}")


def _first_step(
    field: Field, t: float, x: Array, k: Array, way: float, span: float, rtol: float, atol: float
) -> float:
    """Hairer's guess: a step whose second-order change is about a hundredth of the tolerance."""
    size, slope = _rms(x, x, x, rtol, atol), _rms(k, x, x, rtol, atol)
    guess = min(0.01 * size / slope if min(size, slope) > 1e-5 else 1e-6, span)
    change = field(t + way * guess, x + way * guess * k) - k
    largest = max(slope, _rms(change, x, x, rtol, atol) / guess)
    if not math.isfinite(largest):
        return guess
    better = (0.01 / largest) ** 0.2 if largest > 1e-15 else max(1e-6, guess * 1e-3)
    return min(100 * guess, better, span)


def _combine(weights: Any, stages: Sequence[Array]) -> Array:
    terms = [float(w) * k for w, k in zip(weights, stages, strict=False) if w]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _rms(value: Array, x: Array, y: Array, rtol: float, atol: float) -> float:
    """Return the root mean square of `value` in units of the tolerance at `x` and `y`."""
    if is_torch_tensor(value):
        from thalweg._torch import torch

        scale = atol + rtol * torch.maximum(x.abs(), y.abs())
    else:
        scale = atol + rtol * np.maximum(np.abs(x), np.abs(y))
    return float(((value / scale) ** 2).mean().item() ** 0.5)


class _Counted:
    """A field that counts its evaluations and must keep the shape of the state."""

    def __init__(self, name: str, field: Field, x: Array) -> None:
        if not callable(field):
            raise TypeError(f"{name} must be callable as {name}(t, x), got {field!r}")
        self.name, self.field, self.shape, self.n_eval = name, field, tuple(x.shape), 0

    def __call__(self, t: float, x: Array) -> Array:
        self.n_eval += 1
        value = self.field(t, x)
        if tuple(np.shape(value)) != self.shape:
            raise ValueError(
                f"{self.name}(t, x) must have the shape of x, {self.shape}, got "
                f"{tuple(np.shape(value))}"
            )
        return value


def _state(x0: Array) -> Array:
    if is_torch_tensor(x0):
        if not x0.is_floating_point():
            raise TypeError(f"x0 must be a floating point tensor, got {x0.dtype}")
        if not bool(x0.isfinite().all()):
            raise ValueError("x0 must be finite")
        return x0
    single = getattr(x0, "dtype", None) == np.float32
    return check_array("x0", x0, dtype=np.float32 if single else np.float64)


def _grid(t0: float, t1: float, n_steps: int, times: ArrayLike | None) -> Floats:
    if times is not None:
        grid = check_array("times", times, ndim=1)
        steps = np.diff(grid)
        if len(grid) < 2 or not ((steps > 0).all() or (steps < 0).all()):
            raise ValueError(f"times must be two or more strictly monotone numbers, got {times!r}")
        return grid
    t0, t1 = check_real("t0", t0), check_real("t1", t1)
    if t0 == t1:
        raise ValueError(f"t1 must differ from t0, got {t1!r} for both")
    return np.linspace(t0, t1, check_count("n_steps", n_steps) + 1)


def _require_finite(x: Array, t: float, what: str = "state") -> None:
    # The sum is finite only if all entries are: one pass, one number from the device.
    if not math.isfinite(x.sum().item()):
        raise FloatingPointError(
            f"the {what} is not finite at t = {t:.6g}; take smaller steps, or check the field"
        )


def _stack(path: list[Array]) -> Array:
    if is_torch_tensor(path[0]):
        from thalweg._torch import torch

        return torch.stack(path)
    return np.stack(path)

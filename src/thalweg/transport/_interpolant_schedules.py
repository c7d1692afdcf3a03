"""Schedules of stochastic interpolants with their derivatives, for arrays and tensors alike.

A family returns ``alpha, dalpha, beta, dbeta`` at times t, given gamma there; a gamma returns its
value, its derivative and the product of both, which is finite where the derivative is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from thalweg._validation import is_torch_tensor

Array: TypeAlias = Any
"""A NumPy array or a torch tensor; what comes back is of the kind that went in."""
Schedule: TypeAlias = Callable[[Any], Any]


def _linear(t: Any, *_: Any) -> tuple[Any, Any, Any, Any]:
    return 1 - t, 0 * t - 1, t, 0 * t + 1


def _trig(t: Any, gamma: Any, dgamma: Any, product: Any) -> tuple[Any, Any, Any, Any]:
    rest = (1 - gamma**2).clip(0) ** 0.5
    slope = -product / (rest + (rest == 0)) * (rest > 0)
    rate = math.pi / 2
    cosine, sine = _cos(rate * t), _sin(rate * t)
    return (
        rest * cosine,
        slope * cosine - rate * rest * sine,
        rest * sine,
        slope * sine + rate * rest * cosine,
    )


def _encoding_decoding(t: Any, *_: Any) -> tuple[Any, Any, Any, Any]:
    first, second = t <= 0.5, t > 0.5
    value, slope = _cos(math.pi * t) ** 2, -math.pi * _sin(2 * math.pi * t)
    return value * first, slope * first, value * second, slope * second


def _one_sided_trig(t: Any, *_: Any) -> tuple[Any, Any, Any, Any]:
    return _trig(t, 0 * t, 0 * t, 0 * t)


def _one_sided_sqrt(t: Any, *_: Any) -> tuple[Any, Any, Any, Any]:
    root = (1 - t**2) ** 0.5
    return root, -t / root, t, 0 * t + 1


def _mirror(t: Any, *_: Any) -> tuple[Any, Any, Any, Any]:
    return 0 * t, 0 * t, 0 * t + 1, 0 * t


def _custom(t: Any, *_: Any) -> tuple[Any, Any, Any, Any]:
    raise NotImplementedError("custom schedules are called themselves")


def _brownian(t: Any, a: float) -> tuple[Any, Any, Any]:
    value, product = (a * t * (1 - t)) ** 0.5, a * (0.5 - t)
    return value, product / value, product


def _quadratic(t: Any, a: float) -> tuple[Any, Any, Any]:
    value, slope = a * t * (1 - t), a * (1 - 2 * t)
    return value, slope, value * slope


def _sine_squared(t: Any, a: float) -> tuple[Any, Any, Any]:
    value, slope = a * _sin(math.pi * t) ** 2, a * math.pi * _sin(2 * math.pi * t)
    return value, slope, value * slope


FAMILIES: dict[str, Callable[..., tuple[Any, Any, Any, Any]]] = {
    "linear": _linear,
    "trig": _trig,
    "encoding-decoding": _encoding_decoding,
    "one-sided-linear": _linear,
    "one-sided-trig": _one_sided_trig,
    "one-sided-sqrt": _one_sided_sqrt,
    "mirror": _mirror,
    "custom": _custom,
}
GAMMAS: dict[str, Callable[[Any, float], tuple[Any, Any, Any]]] = {
    "brownian": _brownian,
    "quadratic": _quadratic,
    "sine-squared": _sine_squared,
}


def _sin(t: Any) -> Any:
    return t.sin() if is_torch_tensor(t) else np.sin(t)


def _cos(t: Any) -> Any:
    return t.cos() if is_torch_tensor(t) else np.cos(t)


def callables(values: Any, n: int) -> bool:
    return isinstance(values, (tuple, list)) and len(values) == n and all(map(callable, values))


def in_kind_of(t: Any, schedule: Schedule) -> Any:
    """Return a user's schedule, which sees an array of times, in the kind of `t`."""
    tensor = is_torch_tensor(t)
    times = t.detach().cpu().double().numpy() if tensor else np.asarray(t)
    value = np.broadcast_to(np.asarray(schedule(times), dtype=float), times.shape)
    return t.new_tensor(value.tolist()) if tensor else value


def column(value: Any, like: Array) -> Any:
    """Shape coefficients so that they broadcast against points (n, d), in the points' kind."""
    if is_torch_tensor(like) and not is_torch_tensor(value):
        from thalweg._torch import torch

        value = torch.as_tensor(np.array(value), dtype=like.dtype, device=like.device)
    return value.reshape(-1, 1) if value.ndim else value


def stack(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if is_torch_tensor(parts[0]):
        from thalweg._torch import torch

        return torch.cat(parts)
    return np.concatenate(parts)

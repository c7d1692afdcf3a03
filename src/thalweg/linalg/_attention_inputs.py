"""Queries, keys and values of attention: read, checked, and cut into scales.

Everything here takes NumPy arrays and torch tensors alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thalweg._validation import check_array, check_count, check_real, is_torch_tensor

Span = tuple[int, int, int]


def read_inputs(
    q: Any, k: Any, v: Any, scale: float | None, blocks: Sequence[int] | None
) -> tuple[Any, Any, Any, float, list[Span]]:
    """Return all of them checked, and each scale's first and last query and the keys it sees."""
    if len({is_torch_tensor(x) for x in (q, k, v)}) > 1:
        kinds = ", ".join(type(x).__name__ for x in (q, k, v))
        raise TypeError(f"q, k and v must all be arrays or all be tensors, got {kinds}")
    q, k, v = read_points("q", q), read_points("k", k), read_points("v", v)
    if not is_torch_tensor(q):
        kind = np.result_type(q, k, v, np.float32)
        q, k, v = (x.astype(kind, copy=False) for x in (q, k, v))
    lead, d = tuple(q.shape[:-2]), q.shape[-1]
    if tuple(k.shape[:-2]) != lead or k.shape[-1] != d:
        raise ValueError(f"k must have shape {(*lead, 'L', d)}, got {tuple(k.shape)}")
    if tuple(v.shape[:-1]) != tuple(k.shape[:-1]):
        raise ValueError(f"v must have shape {(*tuple(k.shape[:-1]), 'd_v')}, got {tuple(v.shape)}")
    queries, keys = q.shape[-2], k.shape[-2]
    if blocks is None:
        return q, k, v, check_scale(scale, d), [(0, queries, keys)]
    sizes = [check_count("blocks", size) for size in blocks]
    if not sum(sizes) == queries == keys:
        raise ValueError(
            f"blocks must sum to the number of tokens, got {sum(sizes)} for {queries} queries "
            f"and {keys} keys"
        )
    stops = np.cumsum(sizes).tolist()
    ends = [(stop - size, stop, stop) for stop, size in zip(stops, sizes, strict=True)]
    return q, k, v, check_scale(scale, d), ends


def read_points(name: str, x: Any) -> Any:
    """Return `x` as a floating array or tensor of two axes or more, finite, not empty."""
    if is_torch_tensor(x):
        if x.is_complex():
            raise TypeError(f"{name} must be real, got {x.dtype}")
        x = x if x.is_floating_point() else x.double()
        if not x.isfinite().all():
            index = tuple((~x.isfinite()).nonzero()[0].tolist())
            raise ValueError(f"{name} must be finite, got {x[index].item()} at index {index}")
    else:
        given = np.asarray(x).dtype
        x = check_array(name, x, dtype=given if given.kind == "f" else np.float64)
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(
            f"{name} must have shape (..., tokens, d) without an empty axis, got {tuple(x.shape)}"
        )
    return x


def check_scale(scale: float | None, d: int) -> float:
    """Return the factor of the inner products, 1/d by default."""
    return 1 / d if scale is None else check_real("scale", scale, above=0)


def concatenate(parts: list[Any], axis: int = -2) -> Any:
    """Join arrays or tensors."""
    if len(parts) == 1:
        return parts[0]
    if is_torch_tensor(parts[0]):
        from thalweg._torch import torch

        return torch.cat(parts, dim=axis)
    return np.concatenate(parts, axis=axis)

"""The type in which an optimizer orthogonalises a matrix: bfloat16 where it is faster."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from thalweg._torch import torch

SMALL_SIDE = 128
"""Up to this shorter side a processor's bfloat16 products are not faster than float32's."""

WORK_DTYPES = ("auto", torch.bfloat16, torch.float16, torch.float32, torch.float64)


def work_dtype(parameter: torch.Tensor, dtype: torch.dtype | Literal["auto"]) -> torch.dtype:
    """Return `dtype`, or for "auto" the fastest that suffices for the matrix in `parameter`."""
    if dtype != "auto":
        return dtype
    if parameter.dtype == torch.float64:
        return torch.float64
    device = parameter.device
    rows = parameter.shape[0]
    small = min(rows, parameter.numel() // max(rows, 1)) <= SMALL_SIDE
    if (device.type == "cpu" and small) or not multiplies_bfloat16(device):
        return torch.float32
    return torch.bfloat16


@lru_cache
def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has products of bfloat16; emulated ones are far slower than float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))
    return False

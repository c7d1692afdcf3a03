"""What matrix functions compute with: NumPy arrays or torch tensors, by the same few operations.

A backend is made for an argument; it reads it, computes on stacks of matrices in a working type and
gives the result the argument's type.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg._validation import check_array, check_option


class Arrays:
    """Operations on NumPy arrays, stacked or not."""

    half = False

    def __init__(self, a: Any, dtype: Any) -> None:
        given = np.asarray(a).dtype
        if given.kind == "c":
            raise TypeError(f"a must be real, got {given}")
        self.kind = given if given.kind == "f" and given.itemsize <= 8 else np.dtype(np.float64)
        self.work = np.promote_types(self.kind, np.float32)
        if dtype is not None:
            self.work = np.dtype(check_option("dtype", dtype, (np.float32, np.float64)))
        self.epsilon = float(np.finfo(self.kind).eps)

    def read(self, a: Any, check_finite: bool) -> Any:
        array = check_array("a", a, dtype=self.kind, finite=check_finite)
        return array.astype(np.promote_types(self.kind, np.float32), copy=False)

    def working(self, x: Any) -> Any:
        return x.astype(self.work, copy=False)

    def result(self, x: Any) -> Any:
        return x.astype(self.kind, copy=False)

    def largest(self, x: Any) -> Any:
        return np.abs(x).max(axis=(-2, -1), keepdims=True)

    def frobenius(self, x: Any) -> Any:
        return np.linalg.norm(x, axis=(-2, -1), keepdims=True)

    def or_one(self, x: Any) -> Any:
        return np.where(x > 0, x, x.dtype.type(1))

    def identity(self, x: Any) -> Any:
        return np.eye(x.shape[-2], dtype=x.dtype)

    def add_product(self, alpha: float, a: Any, b: Any, beta: float, c: Any) -> Any:
        """``alpha A B + beta C``."""
        product = a @ b
        if alpha != 1:
            product *= alpha
        product += beta * c
        return product

    def plain(self, x: Any) -> Any:
        return np.asarray(x, dtype=np.float64)


class Tensors:
    """The same on torch tensors; reductions are done in float32 at least."""

    def __init__(self, a: Any, dtype: Any) -> None:
        from thalweg._torch import torch

        if a.is_complex():
            raise TypeError(f"a must be real, got {a.dtype}")
        self.torch = torch
        self.kind = a.dtype if a.is_floating_point() else torch.get_default_dtype()
        kinds = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
        self.work = self.kind if dtype is None else check_option("dtype", dtype, kinds)
        self.half = self.work in (torch.bfloat16, torch.float16)
        self.epsilon = torch.finfo(self.kind).eps
        wants_gradient = a.requires_grad and torch.is_grad_enabled()
        self.in_main_memory = a.device.type == "cpu" and not wants_gradient

    def read(self, a: Any, check_finite: bool) -> Any:
        tensor = a.to(self.torch.promote_types(self.kind, self.torch.float32))
        if check_finite and not tensor.isfinite().all():
            index = tuple((~tensor.isfinite()).nonzero()[0].tolist())
            raise ValueError(f"a must be finite, got {tensor[index].item()} at index {index}")
        return tensor

    def working(self, x: Any) -> Any:
        return x.to(self.work)

    def result(self, x: Any) -> Any:
        return x.to(self.kind)

    def largest(self, x: Any) -> Any:
        return x.detach().abs().amax(dim=(-2, -1), keepdim=True)

    def frobenius(self, x: Any) -> Any:
        wide = self.torch.promote_types(x.dtype, self.torch.float32)
        return self.torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=wide)

    def or_one(self, x: Any) -> Any:
        return self.torch.where(x > 0, x, self.torch.ones_like(x))

    def identity(self, x: Any) -> Any:
        return self.torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)

    def add_product(self, alpha: float, a: Any, b: Any, beta: float, c: Any) -> Any:
        """``alpha A B + beta C``."""
        multiply = self.torch.addmm if c.ndim == 2 else self.torch.baddbmm
        return multiply(c, a, b, beta=beta, alpha=alpha)

    def plain(self, x: Any) -> Any:
        return x.detach().cpu().double().numpy()


class TensorsAsArrays(Arrays):
    """Tensors in main memory, computed by NumPy without a copy."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.work = np.dtype(str(tensors.work).removeprefix("torch."))
        self.epsilon = tensors.epsilon

    def read(self, a: Any, check_finite: bool) -> Any:
        return self.tensors.read(a.detach(), check_finite).numpy()

    def result(self, x: Any) -> Any:
        return self.tensors.result(self.tensors.torch.from_numpy(x))

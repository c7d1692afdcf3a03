"""Tensors that try a step of gradient descent and take, or not, that of a model instead."""

from __future__ import annotations

from typing import Any

from thalweg._torch import torch
from thalweg.descent.model_steps import step_weights


class Part:
    """A tensor, where it began, its gradient there and the norm of that."""

    __slots__ = ("gradient", "group", "norm", "parameter", "start", "tiny")

    def __init__(self, group: dict[str, Any], parameter: Any, gradient: torch.Tensor) -> None:
        self.group, self.parameter, self.gradient = group, parameter, gradient
        self.start = parameter.clone()
        self.norm = 0.0
        self.tiny = False

    def undo(self) -> None:
        self.parameter.copy_(self.start)

    def move(self, scale: float) -> None:
        """Go to the end of the trial step, shortened by the scale."""
        torch.add(self.start, self.gradient, alpha=-scale * self.group["lr"], out=self.parameter)


def take_model_steps(
    parts: list[Part],
    ends: list[torch.Tensor],
    along: list[torch.Tensor | None],
    scale: float,
) -> None:
    """Move every tensor from its start by the model step along a gradient."""
    products = []
    for part, end, p in zip(parts, ends, along, strict=True):
        change = end.sub_(part.gradient)
        products += [norm(change), dot(change, part.gradient)]
        other = None if p is part.gradient else p
        products += [] if other is None else [dot(change, other), dot(part.gradient, other)]
    numbers = iter(numbers_of(products))
    for part, change, p in zip(parts, ends, along, strict=True):
        y_norm, yg = next(numbers), next(numbers)
        yp, gp = yg, part.norm**2
        if p is not None and p is not part.gradient:
            yp, gp = next(numbers), next(numbers)
        alpha = scale * part.group["lr"]
        if part.tiny:
            part.move(1.0)
        elif p is None or part.norm == 0 or alpha == 0:
            part.undo()
        else:
            weight_p, weight_s, weight_y = step_weights(
                alpha * part.norm, y_norm, part.norm, -alpha * yg, yp, -alpha * gp,
                part.group["eta"],
            )  # fmt: skip
            weight_g = -alpha * weight_s
            if p is part.gradient:
                weight_g += weight_p
            torch.add(part.start, part.gradient, alpha=weight_g, out=part.parameter)
            part.parameter.add_(change, alpha=weight_y)
            if p is not part.gradient:
                part.parameter.add_(p, alpha=weight_p)


def norm(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32))


def dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.dot(x.to(wide).reshape(-1), y.to(wide).reshape(-1))


def numbers_of(scalars: list[torch.Tensor]) -> list[float]:
    """Tensors of one entry as numbers, with one transfer where they are on one device."""
    if len({scalar.device for scalar in scalars}) == 1:
        return [float(v) for v in torch.stack(scalars).tolist()]
    return [float(scalar) for scalar in scalars]

"""Simulated and recorded events with their conditions: checked, drawn and shuffled."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch
from thalweg._validation import check_array

Floats: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Simulated events, recorded events, and the conditions of both."""

LEAST_ROWS = 200


class Events:
    """Features and conditions of both samples, drawn row by row together."""

    def __init__(
        self, x: torch.Tensor, y: torch.Tensor, cx: torch.Tensor, cy: torch.Tensor
    ) -> None:
        self.x, self.y, self.cx, self.cy = x, y, cx, cy

    def drawn(self, n: int, generator: torch.Generator) -> Rows:
        """Draw n rows a side."""
        i, j = (
            torch.randint(len(Z), (n,), generator=generator, device=Z.device)
            for Z in (self.x, self.y)
        )
        return self.x[i], self.y[j], self.cx[i], self.cy[j]

    def shuffled(self, generator: torch.Generator) -> Rows:
        """Return all rows in a random order."""
        i, j = (
            torch.randperm(len(Z), generator=generator, device=Z.device) for Z in (self.x, self.y)
        )
        return self.x[i], self.y[j], self.cx[i], self.cy[j]


def or_none(condition: torch.Tensor) -> torch.Tensor | None:
    """Return the condition, None where it has no columns."""
    return condition if condition.shape[1] else None


def checked_samples(
    source: Any, target: Any, source_condition: Any, target_condition: Any
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the four arrays; conditions without columns where there are none."""
    x, y = check_array("source", source, ndim=2), check_array("target", target, ndim=2)
    if (source_condition is None) != (target_condition is None):
        absent = "source_condition" if source_condition is None else "target_condition"
        raise ValueError(f"{absent} must be given, since the other condition is")
    if source_condition is None:
        cx, cy = np.zeros((len(x), 0)), np.zeros((len(y), 0))
    else:
        cx = check_array("source_condition", source_condition, shape=(len(x), None))
        cy = check_array("target_condition", target_condition, shape=(len(y), None))
    for name, Z in (("source", x), ("target", y)):
        if len(Z) < LEAST_ROWS:
            raise ValueError(f"{name} must have at least {LEAST_ROWS} rows, got {len(Z)}")
        if not Z.shape[1]:
            raise ValueError(f"{name} must have a column or more, got shape {Z.shape}")
    for name, A, B in (("target", x, y), ("target_condition", cx, cy)):
        if A.shape[1] != B.shape[1]:
            raise ValueError(
                f"{name} must have {A.shape[1]} columns as the source's, got {B.shape[1]}"
            )
    for name, Z in (("source", x), ("target", y), ("source_condition", cx),
                    ("target_condition", cy)):  # fmt: skip
        constant = np.flatnonzero(np.ptp(Z, axis=0) == 0)
        if constant.size:
            i = int(constant[0])
            raise ValueError(f"{name} must vary in every column, column {i} is always {Z[0, i]:g}")
    return x, y, cx, cy

"""Quadratic models of a smooth function: its Hessian, or what L-BFGS remembers of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg.descent._oracle import BreakdownError

Floats = NDArray[np.float64]

MEMORY = 10
LEAST_CURVATURE = 1e-12


class DenseModel:
    """The user's Hessian as a matrix, checked."""

    def __init__(self, hess: Callable[..., Any], args: Any, dim: int) -> None:
        self.hess, self.dim = hess, dim
        self.args = args if isinstance(args, tuple) else (args,)
        self.none = np.empty((dim, 0))

    def matrix(self, w: Floats) -> Floats:
        H = np.ascontiguousarray(self.hess(w.copy(), *self.args), dtype=np.float64)
        if H.shape != (self.dim, self.dim):
            raise ValueError(f"hess must return shape {(self.dim, self.dim)}, got {H.shape}")
        if not np.isfinite(H).all():
            raise BreakdownError("hess returned a value that is not finite")
        return H

    def parts(self, w: Floats, g: Floats) -> tuple[Floats, float, Floats, Floats]:
        return self.matrix(w), 0.0, self.none, self.none


class MemoryModel:
    """L-BFGS as a multiple of the identity plus left @ right.T, the compact form."""

    def __init__(self, start: Floats) -> None:
        self.pairs: deque[tuple[Floats, Floats]] = deque(maxlen=MEMORY)
        self.last: tuple[Floats, Floats] | None = None
        self.none = np.empty((0, 0))

    def parts(self, w: Floats, g: Floats) -> tuple[Floats, float, Floats, Floats]:
        if self.last is not None:
            s, y = w - self.last[0], g - self.last[1]
            if s @ y > LEAST_CURVATURE * (s @ s):
                self.pairs.append((s, y))
        self.last = (w.copy(), g.copy())
        if not self.pairs:
            return self.none, 1.0, np.zeros((w.size, 0)), np.zeros((w.size, 0))
        S, Y = (np.stack(columns, axis=1) for columns in zip(*self.pairs, strict=True))
        s, y = self.pairs[-1]
        scale = float(y @ y) / float(s @ y)
        SY = S.T @ Y
        lower = np.tril(SY, -1)
        middle = np.block([[scale * S.T @ S, lower], [lower.T, -np.diag(np.diag(SY))]])
        right = np.hstack([scale * S, Y])
        left = -np.linalg.solve(middle, right.T).T
        return self.none, scale, np.ascontiguousarray(left), np.ascontiguousarray(right)

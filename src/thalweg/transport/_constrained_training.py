"""Training of flows under constraints, as `run_steps` of this domain keeps and resumes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from thalweg._torch import torch
from thalweg.descent.differential_multipliers import Constraint, DifferentialMultipliers
from thalweg.transport._training import FUSED_DEVICES

FINAL_SHARE = 0.02
"""Share of the learning rate that the cosine schedule ends with; chosen here."""
GRAD_CLIP = 5.0


class ConstrainedLearner:
    """Networks that Adam trains under constraints, which set in at a later step.

    The multipliers move by plain ascent: batches make the constraints noisy, and the noise then
    averages out.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
        The networks, trained in place.
    constraints : sequence of Constraint
        What is asked of them.
    n_steps : int
        Steps that the schedule spans.
    start : int
        Steps that are taken without the constraints.
    lr, multiplier_lr : float
        Learning rates of the networks, at the start, and of the multipliers.
    """

    def __init__(
        self,
        modules: Sequence[torch.nn.Module],
        constraints: Sequence[Constraint],
        *,
        n_steps: int,
        start: int,
        lr: float,
        multiplier_lr: float,
    ) -> None:
        self.modules = list(modules)
        parameters = [p for module in self.modules for p in module.parameters()]
        self.device = parameters[0].device
        self.n_steps, self.start, self.lr = n_steps, start, lr
        self.optimizer = DifferentialMultipliers(
            parameters,
            constraints,
            lr=lr,
            multiplier_lr=multiplier_lr,
            optimizer=partial(torch.optim.Adam, fused=self.device.type in FUSED_DEVICES),
            multiplier_optimizer=torch.optim.SGD,
            grad_clip=GRAD_CLIP,
        )

    def step(self, loss_fn: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Take a step; return the loss, and value and multiplier of each constraint (0 before)."""
        taken = self.optimizer.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * cosine_factor(taken / self.n_steps)
        seen = self.optimizer.step(loss_fn, constrained=taken >= self.start)
        pairs = zip(seen.values, seen.multipliers, strict=False)
        numbers = [number for pair in pairs for number in pair]
        missing = 2 * len(self.optimizer.constraints) - len(numbers)
        return torch.tensor([seen.loss, *numbers, *[0.0] * missing], dtype=torch.float64)

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint must agree in, as plain values."""
        return {
            "n_steps": self.n_steps,
            "start": self.start,
            "lr": self.lr,
            "constraints": [repr(c) for c in self.optimizer.constraints],
            "parameters": [
                f"{i}.{name} {list(p.shape)}"
                for i, module in enumerate(self.modules)
                for name, p in module.named_parameters()
            ],
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes from step to step."""
        return {
            "modules": [module.state_dict() for module in self.modules],
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state of another run of the same settings."""
        for module, kept in zip(self.modules, state["modules"], strict=True):
            module.load_state_dict(kept)
        self.optimizer.load_state_dict(state["optimizer"])


def cosine_factor(share: float) -> float:
    """Return the factor of the learning rate when this share of the run is over."""
    return FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * share)) / 2

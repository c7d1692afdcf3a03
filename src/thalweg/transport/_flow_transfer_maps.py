"""The flows of a transfer: how rows move, what is asked of them, and their training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch
from thalweg.descent.differential_multipliers import Constraint
from thalweg.transport._constrained_training import ConstrainedLearner
from thalweg.transport._flow_transfer_samples import Events, Rows, or_none
from thalweg.transport._training import run_steps
from thalweg.transport.autoregressive_flow import MaskedAutoregressiveFlow
from thalweg.transport.kernel_discrepancy import mmd2

MMD_ROWS = 256
"""Rows a side of a constraint's estimate."""
MMD_START = 1 / 3
"""Share of the steps before the constraints set in."""
FLOOR_ROWS, FLOOR_SPLITS = 1000, 8


class TransferMaps:
    """The two flows of the mode "transport", or the one of the mode "conditional".

    Parameters
    ----------
    target_flow : MaskedAutoregressiveFlow
        f_D, or f given simulated events too.
    literal : bool
        Whether there is that one flow alone. Otherwise f_S is made with equal weights, so that
        events move where the samples differ.
    """

    def __init__(self, target_flow: MaskedAutoregressiveFlow, literal: bool) -> None:
        self.target_flow = target_flow
        self.source_flow = None if literal else copy.deepcopy(target_flow)

    @property
    def flows(self) -> list[torch.nn.Module]:
        """The flows there are."""
        return [flow for flow in (self.source_flow, self.target_flow) if flow is not None]

    def likelihood_loss(
        self, x: torch.Tensor, y: torch.Tensor, cx: torch.Tensor, cy: torch.Tensor
    ) -> torch.Tensor:
        """Return the primary loss of rows, in nats."""
        if self.source_flow is None:
            return -self.target_flow.log_prob(y, torch.cat([x, cy], 1)).mean()
        return -(
            self.source_flow.log_prob(x, or_none(cx)).mean()
            + self.target_flow.log_prob(y, or_none(cy)).mean()
        )

    def moved(
        self,
        x: torch.Tensor,
        condition: torch.Tensor | None,
        new_condition: torch.Tensor | None,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Return f_D^{-1}(f_S(x; c); c'), or a draw given x and c'."""
        if self.source_flow is None:
            z = torch.randn(x.shape, generator=generator, device=x.device)
            context = x if new_condition is None else torch.cat([x, new_condition], 1)
            return self.target_flow.inverse(z, context)
        return self.target_flow.inverse(self.source_flow(x, condition)[0], new_condition)

    def discrepancy(self, rows: Rows, generator: torch.Generator) -> torch.Tensor:
        """Return the discrepancy of moved events, under conditions of the data, to the data.

        The data's rows are shuffled for the conditions, so that no row meets its own.
        """
        x, y, cx, cy = rows
        n = min(len(x), len(cy))
        other = cy[torch.randperm(len(cy), generator=generator, device=cy.device)[:n]]
        moved = self.moved(x[:n], or_none(cx[:n]), or_none(other), generator)
        value: torch.Tensor = mmd2(torch.cat([moved, other], 1), torch.cat([y, cy], 1))
        return value

    def displacement(
        self, x: torch.Tensor, c: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Return how far events move under their own conditions, squared and on average."""
        moved = self.moved(x, or_none(c), or_none(c), generator)
        return (moved - x).square().sum(1).mean()


def discrepancy_of_halves(events: Events, generator: torch.Generator) -> float:
    """Return the root mean square over splits of the discrepancy of two halves of the data."""
    values = []
    for _ in range(FLOOR_SPLITS):
        _, x, _, c = events.shuffled(generator)
        rows = torch.cat([x, c], 1)[: 2 * FLOOR_ROWS]
        half = len(rows) // 2
        values.append(float(mmd2(rows[:half], rows[half:])))
    return float(np.sqrt(np.mean(np.square(values))))


def discrepancy_at_first(events: Events, generator: torch.Generator) -> float:
    """Return the discrepancy of both samples before events have moved."""
    x, y, cx, cy = (Z[:FLOOR_ROWS] for Z in events.shuffled(generator))
    return float(mmd2(torch.cat([x, cx], 1), torch.cat([y, cy], 1)))


def train_maps(
    maps: TransferMaps,
    events: Events,
    generator: torch.Generator,
    *,
    limits: dict[str, float],
    units: dict[str, float],
    n_steps: int,
    batch_size: int,
    lr: float,
    multiplier_lr: float,
    damping: float,
    mmd_weight: float | None,
    observer: Callable[[Any, dict[str, tuple[float, float]]], Any] | None,
    **keeping: Any,
) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """Train the flows in place; return history and final multipliers, both in plain units.

    A constraint is a projected maximum of the quantity in its `units`, and its multiplier moves by
    plain ascent. `keeping` goes to `run_steps`; `observer` gets its state and the value and
    multiplier of each constraint once they have set in.
    """

    def discrepancy() -> torch.Tensor:
        return maps.discrepancy(events.drawn(MMD_ROWS, generator), generator)

    def displacement() -> torch.Tensor:
        x, _, c, _ = events.drawn(MMD_ROWS, generator)
        return maps.displacement(x, c, generator)

    measured = {"mmd": discrepancy, "displacement": displacement}

    def constraint(name: str) -> Constraint:
        fn, unit = measured[name], units[name]
        value = limits[name] / unit
        return Constraint(lambda: fn() / unit, "max", value, damping=damping, projected=True)

    start = int(MMD_START * n_steps)
    learner = ConstrainedLearner(
        maps.flows,
        [constraint(name) for name in limits],
        n_steps=n_steps,
        start=start,
        lr=lr,
        multiplier_lr=multiplier_lr,
    )

    def loss() -> torch.Tensor:
        total = maps.likelihood_loss(*events.drawn(batch_size, generator))
        if mmd_weight and learner.optimizer.steps >= start:
            total = total + mmd_weight * discrepancy()
        return total

    def in_plain_units(numbers: Any) -> dict[str, tuple[Any, Any]]:
        return {
            name: (numbers[..., 1 + 2 * i] * unit, 0.0 - numbers[..., 2 + 2 * i] / unit)
            for i, (name, unit) in enumerate((name, units[name]) for name in limits)
        }

    def callback(state: Any) -> None:
        numbers = state.loss
        state.loss = float(numbers[0])
        found = in_plain_units(numbers) if state.step > start else {}
        if observer is not None:
            observer(state, {name: (float(v), float(m)) for name, (v, m) in found.items()})

    records = run_steps(
        lambda _: learner.step(loss),
        [learner],  # type: ignore[list-item]
        n_steps=n_steps,
        generator=generator,
        callback=None if observer is None else callback,
        **keeping,
    )
    history: dict[str, NDArray[Any]] = {
        "loss": records[:, 0],
        "step": np.arange(start + 1, len(records) + 1),
    }
    for name, (values, multipliers) in in_plain_units(records[start:]).items():
        history[name], history[f"{name}_multiplier"] = values, multipliers
    pairs = zip(limits, learner.optimizer.multipliers, strict=True)
    return history, {name: 0.0 - multiplier / units[name] for name, multiplier in pairs}

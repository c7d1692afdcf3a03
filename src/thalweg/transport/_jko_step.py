"""One step of Jordan, Kinderlehrer and Otto as a game: a map descends, a witness ascends."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from thalweg._torch import torch
from thalweg._validation import check_array, check_real, is_torch_tensor
from thalweg.transport._flow_networks import ConvexMap, ResidualMap, Witness
from thalweg.transport._training import Learner, run_steps
from thalweg.transport.variational_energies import Draw, Energy, estimate

WEIGHT_DECAY = 1e-7
"""Decay of the weights of both networks; the published value."""


class JKOStep:
    """The objective ``E|T(x) - x|^2 / (2 a) + max_h {E[A(T(x), h)] - E_mu[B(z, h)]}``.

    Parameters
    ----------
    energy : Energy
        The functional.
    witness : Witness
        h, warm from the step before.
    draw : callable
        ``draw(n, generator)`` gives points of the distribution that the step starts from.
    step_size : float
        a.
    batch_size : int
        Points a batch.
    previous : (Energy, Witness), optional
        Those at the end of the step before: A is then the mean of both (Crank-Nicolson).
    """

    def __init__(
        self,
        energy: Energy,
        witness: Witness,
        draw: Draw,
        *,
        step_size: float,
        batch_size: int,
        previous: tuple[Energy, Witness] | None = None,
    ) -> None:
        self.energy, self.witness, self.draw = energy, witness, draw
        self.step_size, self.batch_size, self.previous = step_size, batch_size, previous

    def train(
        self,
        flow_map: ResidualMap | ConvexMap | None,
        *,
        n_steps: int,
        n_inner: int,
        n_outer: int,
        lr: float,
        **options: Any,
    ) -> None:
        """Run `n_steps` rounds of `n_inner` ascents and `n_outer` descents, in place.

        Without a map only the witness is trained. `options` go to `run_steps`.
        """
        ascent = Learner(
            [self.witness], n_steps=n_steps * n_inner, lr=lr, weight_decay=WEIGHT_DECAY
        )
        learners = [ascent]
        if flow_map is not None:
            flow_map.train()
            descent = Learner(
                [flow_map], n_steps=n_steps * n_outer, lr=lr, weight_decay=WEIGHT_DECAY
            )
            learners.append(descent)
        self.witness.train()
        parameters = list(self.witness.parameters())

        def advance(generator: torch.Generator) -> torch.Tensor:
            for _ in range(n_inner):
                value = self._ascend(ascent, flow_map, generator)
            if flow_map is None:
                return value
            for parameter in parameters:
                parameter.requires_grad_(False)
            for _ in range(n_outer):
                moved = self._descend(descent, flow_map, generator)
            for parameter in parameters:
                parameter.requires_grad_(True)
            return value + moved / (2 * self.step_size)

        run_steps(advance, learners, n_steps=n_steps, **options)
        self.witness.eval()
        if flow_map is not None:
            flow_map.eval()
            flow_map.requires_grad_(False)

    def _ascend(
        self,
        learner: Learner,
        flow_map: ResidualMap | ConvexMap | None,
        generator: torch.Generator,
    ) -> torch.Tensor:
        with torch.no_grad():
            y = self.draw(self.batch_size, generator)
            y = y if flow_map is None else flow_map(y)
            z = self.energy.draw(self.batch_size, generator)
        value = estimate(self.energy, self.witness, y, z)
        learner.step(-value)
        return value.detach()

    def _descend(
        self, learner: Learner, flow_map: ResidualMap | ConvexMap, generator: torch.Generator
    ) -> torch.Tensor:
        with torch.no_grad():
            x = self.draw(self.batch_size, generator)
        y = flow_map(x)
        moved = (y - x).square().sum(1).mean()
        gain = self.energy.gain(y, self.witness(y)).mean()
        if self.previous is not None:
            energy, witness = self.previous
            gain = (gain + energy.gain(y, witness(y)).mean()) / 2
        loss = moved / (2 * self.step_size) + gain
        if flow_map.penalty is not None:
            loss = loss + flow_map.penalty
        learner.step(loss)
        flow_map.project()
        return moved.detach()


def with_place(
    callback: Callable[[Any], Any] | None, number: int, n_jko: int
) -> tuple[Callable[[Any], Any] | None, Callable[[], bool]]:
    """Return the callback of one step's training, and whether it has asked to stop."""
    if callback is None:
        return None, lambda: False
    stopped = False

    def call(state: Any) -> None:
        nonlocal stopped
        state.jko_step, state.n_jko = number, n_jko
        try:
            callback(state)
        except StopIteration:
            stopped = True
            raise

    return call, lambda: stopped


def stage_file(checkpoint: str | os.PathLike[str] | None, number: int) -> str | None:
    """Return the checkpoint of one step; 0 is the witness before the first."""
    return None if checkpoint is None else f"{os.fspath(checkpoint)}.{number}"


def step_sizes(
    step_size: float, schedule: Callable[[int], float] | Sequence[float] | None, n_jko: int
) -> list[float]:
    """Return the size of each step; ValueError unless all factors are positive."""
    if schedule is None:
        return [step_size] * n_jko
    if callable(schedule):
        factors = [schedule(k) for k in range(n_jko)]
    else:
        factors = check_array("step_schedule", schedule, shape=(n_jko,)).tolist()
    return [step_size * check_real("step_schedule", float(f), above=0) for f in factors]


def check_log_density(log_density: Any, points: torch.Tensor) -> None:
    """Raise ValueError unless it gives finite (n,) at points (n, d)."""
    with torch.no_grad():
        values = log_density(points)
    if not is_torch_tensor(values) or values.shape != (len(points),):
        got = tuple(values.shape) if is_torch_tensor(values) else type(values).__name__
        raise ValueError(f"log_density must return a tensor ({len(points)},) at X, got {got}")
    if not bool(values.isfinite().all()):
        raise ValueError("log_density must be finite at the rows of X")

"""Markovian projections of a coupling in both directions: by a GAN, or by Gaussian end laws."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch
from thalweg.transport._affine_end_law import AffineEndLaw
from thalweg.transport._couplings import draw_pairs, some_rows
from thalweg.transport._training import Learner, run_steps
from thalweg.transport.adversarial_projection import (
    EndGenerator,
    StepDiscriminator,
    draw_chain,
    markovian_projection_step,
)
from thalweg.transport.reference import BrownianReference

Floats: TypeAlias = NDArray[np.float64]
DIRECTIONS = ("forward", "backward")
LEAST_POOL = 20_000
"""Pairs drawn for a projection where the cloud has fewer rows: rows repeat, with other noise."""


@dataclass
class Chains:
    """Two chains on one grid, each a generator in the clock of its direction.

    Parameters
    ----------
    generators : dict
        Generators by direction.
    times : array (n_steps + 1,)
        The grid in the clock of the forward direction.
    reference : BrownianReference
        In normalised coordinates.
    latent_dim : int
        Columns of the generators' noise.
    """

    generators: dict[str, torch.nn.Module]
    times: Floats
    reference: BrownianReference
    latent_dim: int

    def clock(self, direction: str) -> Floats:
        """Return the grid in the clock of a direction."""
        return self.times if direction == "forward" else 1 - self.times[::-1]

    def path(self, direction: str, start: torch.Tensor, rng: torch.Generator) -> list[torch.Tensor]:
        """Draw the chain from the rows of `start`: its points at all times."""
        return draw_chain(
            self.generators[direction],
            start,
            self.clock(direction),
            self.reference,
            self.latent_dim,
            rng,
        )


def pool_of_rows(Z: torch.Tensor, at_most: int, rng: torch.Generator) -> torch.Tensor:
    """Return the rows that pairs of a projection start from: all of them, repeated where few."""
    n = min(max(len(Z), LEAST_POOL), at_most)
    if len(Z) < n:
        return Z[torch.arange(n, device=Z.device) % len(Z)]
    return some_rows(Z, n, rng)


@dataclass
class GanProjections:
    """A generator and a discriminator, new ones for each projection."""

    model: Any
    chains: Chains

    @property
    def most_pairs(self) -> int:
        """The pairs that a projection looks at."""
        return 2 * self.model.steps_per_projection * self.model.batch_size

    def learn(
        self,
        place: dict[str, Any],
        start: torch.Tensor,
        end: torch.Tensor,
        coupling: str,
        rng: torch.Generator,
        config: dict[str, Any],
    ) -> Floats:
        """Fit one direction to pairs; return the losses of each step."""
        model, direction = self.model, place["direction"]
        generator, discriminator = self._networks(start.shape[1], direction, rng)
        n_steps = model.steps_per_projection // model.d_steps
        judge = Learner(
            [discriminator], n_steps=n_steps * model.d_steps, lr=model.d_lr, betas=model.betas
        )
        maker = Learner([generator], n_steps=n_steps, lr=model.lr, betas=model.betas, ema=model.ema)

        def pairs(rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
            return draw_pairs(start, end, model.batch_size, coupling, rng)

        def advance(rng: torch.Generator) -> torch.Tensor:
            return markovian_projection_step(
                pairs,
                generator,
                discriminator,
                maker.step,
                judge.step,
                times=self.chains.clock(direction),
                epsilon=self.chains.reference.epsilon,
                latent_dim=self.chains.latent_dim,
                r1=model.r1,
                d_steps=model.d_steps,
                rng=rng,
            )

        file = model.checkpoint and f"{os.fspath(model.checkpoint)}.{place['round']}-{direction}"
        losses = run_steps(
            advance,
            [judge, maker],
            n_steps=n_steps,
            generator=rng,
            callback=_with_place(model.callback, place),
            checkpoint=file,
            checkpoint_every=model.checkpoint_every,
            config={**config, **place},
        )
        (self.chains.generators[direction],) = maker.trained()
        return losses

    def _networks(
        self, dim: int, direction: str, rng: torch.Generator
    ) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Return untrained networks: the user's, or the default ones."""
        model, clock = self.model, self.chains.clock(direction)
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        options = {"hidden": model.hidden, "rng": torch.Generator().manual_seed(seed)}
        one, two = copy.deepcopy((model.generator, model.discriminator))
        if one is None:
            one = EndGenerator(dim, self.chains.latent_dim, clock, **options)
        if two is None:
            two = StepDiscriminator(dim, clock, **options)
        return one.to(model.device).train(), two.to(model.device).train()


@dataclass
class GaussianProjections:
    """Gaussian laws of the end, for both directions."""

    model: Any
    chains: Chains
    most_pairs: int = 2**62

    def learn(
        self,
        place: dict[str, Any],
        start: torch.Tensor,
        end: torch.Tensor,
        coupling: str,
        rng: torch.Generator,
        _config: dict[str, Any],
    ) -> Floats:
        """Fit one direction to pairs; return the mean squared error at each time."""
        if coupling != "paired":
            n, size = max(len(start), len(end), LEAST_POOL), self.model.batch_size
            draws = [draw_pairs(start, end, size, coupling, rng) for _ in range(-(-n // size))]
            start, end = (torch.cat(parts) for parts in zip(*draws, strict=True))
        law = AffineEndLaw(start.shape[1], len(self.chains.times) - 1).to(start.device)
        clock = self.chains.clock(place["direction"])
        errors = law.fit(start, end, clock, self.chains.reference, rng)
        if not bool(errors.isfinite().all()):
            raise FloatingPointError(f"the mean squared errors are {errors.tolist()}")
        self.chains.generators[place["direction"]] = law
        callback = _with_place(self.model.callback, place)
        if callback is not None:
            callback(SimpleNamespace(step=1, n_steps=1, loss=float(errors.mean())))
        return np.asarray(errors.cpu().numpy())


def _with_place(
    callback: Callable[[Any], Any] | None, place: dict[str, Any]
) -> Callable[[Any], Any] | None:
    if callback is None:
        return None

    def told(state: Any) -> None:
        vars(state).update(place)
        callback(state)

    return told

"""Markovian projections of a coupling in both directions: by a GAN, or by Gaussian end laws."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch
from thalweg.transport._affine_baseline import (
    CorrectedGenerator,
    WhiteningDiscriminator,
    sensitive,
)
from thalweg.transport._affine_end_law import AffineEndLaw
from thalweg.transport._couplings import draw_pairs, some_rows
from thalweg.transport._training import Learner, placed, run_steps
from thalweg.transport.adversarial_projection import (
    EndGenerator,
    StepDiscriminator,
    draw_chain,
    energy_score,
    markovian_projection_step,
)
from thalweg.transport.reference import BrownianReference, sample_neighbours

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


def pairs_at_hand(
    start: torch.Tensor, end: torch.Tensor, size: int, coupling: str, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pairs themselves, or as many drawn by batches as the larger cloud has rows."""
    if coupling == "paired":
        return start, end
    n = max(len(start), len(end), LEAST_POOL)
    draws = [draw_pairs(start, end, size, coupling, rng) for _ in range(-(-n // size))]
    starts, ends = zip(*draws, strict=True)
    return torch.cat(starts), torch.cat(ends)


@dataclass
class GanProjections:
    """A generator and a discriminator, new ones for each projection.

    The generator learns by the energy score first, then against the discriminator.
    """

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
        clock, reference = self.chains.clock(direction), self.chains.reference
        known = pairs_at_hand(start, end, model.batch_size, coupling, rng)
        if coupling == "minibatch-ot":
            (start, end), coupling = known, "paired"
        law = AffineEndLaw(start.shape[1], len(clock) - 1).to(start.device)
        law.fit(known[0].double(), known[1].double(), clock, reference, rng)
        generator, discriminator = self._networks(law, direction, rng)
        total = model.steps_per_projection // model.d_steps
        n_scored = int(model.score_share * total)
        n_steps = total - n_scored
        judge = Learner(
            [discriminator], n_steps=n_steps * model.d_steps, lr=model.d_lr, betas=model.betas
        )
        maker = Learner([generator], n_steps=n_steps, lr=model.lr, betas=model.betas, ema=model.ema)
        first = Learner([generator], n_steps=max(n_scored, 1), lr=model.score_lr)
        spread = law.spread.float()

        def pairs(rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
            return draw_pairs(start, end, model.batch_size, coupling, rng)

        def advance(rng: torch.Generator) -> torch.Tensor:
            if first.taken < n_scored:
                x, y = pairs(rng)
                index, now, _ = sample_neighbours(x, y, clock, reference.epsilon, rng)
                scale, latent = spread[index], self.chains.latent_dim
                loss = energy_score(generator, now, index, y, scale, latent, rng)
                first.step(loss)
                return torch.stack([torch.zeros_like(loss), loss]).detach()
            return markovian_projection_step(
                pairs,
                generator,
                discriminator,
                maker.step,
                judge.step,
                times=clock,
                epsilon=reference.epsilon,
                latent_dim=self.chains.latent_dim,
                r1=model.r1,
                d_steps=model.d_steps,
                rng=rng,
            )

        file = model.checkpoint and f"{os.fspath(model.checkpoint)}.{place['round']}-{direction}"
        losses = run_steps(
            advance,
            [judge, maker, first],
            n_steps=total,
            generator=rng,
            callback=placed(model.callback, **place),
            checkpoint=file,
            checkpoint_every=model.checkpoint_every,
            config={**config, **place},
        )
        (self.chains.generators[direction],) = maker.trained()
        return losses

    def _networks(
        self, law: AffineEndLaw, direction: str, rng: torch.Generator
    ) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Return untrained networks: the user's, or the default ones."""
        model, clock = self.model, self.chains.clock(direction)
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        options = {"hidden": model.hidden, "rng": torch.Generator().manual_seed(seed)}
        one, two = copy.deepcopy((model.generator, model.discriminator))
        dim = law.b.shape[1]
        if one is None:
            inner = sensitive(EndGenerator(dim, self.chains.latent_dim, clock, **options))
            one = CorrectedGenerator(copy.deepcopy(law), inner).float()
        if two is None:
            judge = StepDiscriminator(dim, clock, **options)
            two = WhiteningDiscriminator(law, judge, clock, self.chains.reference)
            two = copy.deepcopy(two).float()
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
        start, end = pairs_at_hand(start, end, self.model.batch_size, coupling, rng)
        law = AffineEndLaw(start.shape[1], len(self.chains.times) - 1).to(start.device)
        clock = self.chains.clock(place["direction"])
        errors = law.fit(start, end, clock, self.chains.reference, rng)
        if not bool(errors.isfinite().all()):
            raise FloatingPointError(f"the mean squared errors are {errors.tolist()}")
        self.chains.generators[place["direction"]] = law
        callback = placed(self.model.callback, **place)
        if callback is not None:
            callback(SimpleNamespace(step=1, n_steps=1, loss=float(errors.mean())))
        return np.asarray(errors.cpu().numpy())

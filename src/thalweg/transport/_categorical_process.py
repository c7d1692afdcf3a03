"""A discrete reference process seen from one of its ends, and the Markov chains learned on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from thalweg._torch import torch
from thalweg.transport.categorical import LEAST_REACHABLE, CategoricalReference

TINY = float(np.finfo(np.float64).tiny)

Times = int | torch.Tensor
Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class CategoricalProcess:
    """Powers of the kernel as the chain that runs forward sees them, or the one that runs back.

    Running back, time n stands for N + 1 - n and the powers are transposed: bridges and posteriors
    are quotients in which the normalisation of the reversed kernel cancels. Tables are float64,
    for entries of A reach far below what float32 holds.

    Parameters
    ----------
    reference : CategoricalReference
        The process.
    direction : {"forward", "backward"}
        Which end is time 0.
    device : torch.device
        Where the tables are.
    """

    def __init__(
        self, reference: CategoricalReference, direction: str, device: torch.device
    ) -> None:
        powers = torch.from_numpy(np.array(reference.cumulative)).to(device)
        powers[powers < LEAST_REACHABLE] = 0.0
        transposed = powers.transpose(1, 2).contiguous()
        ways = (powers, transposed) if direction == "forward" else (transposed, powers)
        self.from_start, self.to_end = ways
        self.per_reach = torch.where(self.from_start > 0, 1 / self.from_start, 0.0)
        self.all_reachable = bool((powers[1:] > 0).all())
        self.n_inner = reference.n_inner

    def bridge(
        self, start: torch.Tensor, end: torch.Tensor, n: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Draw X_n given both ends, (batch, D) at times (batch,)."""
        n = n[:, None]
        weights = self.from_start[n, start] * self.to_end[self.n_inner + 1 - n, end]
        return draw(weights, generator)

    def posterior(self, x: torch.Tensor, end: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        """Return the law (batch, D, S) of X_{n+1} given X_n = `x` and the end."""
        joint = self.from_start[1][x] * self.to_end[self.n_inner - n[:, None], end]
        return joint / joint.sum(-1, keepdim=True)

    def end_log_probs(self, logits: torch.Tensor, x: torch.Tensor, n: Times) -> torch.Tensor:
        """Return log probabilities of the end, none where it cannot be reached from `x`."""
        logits = logits.double()
        if not self.all_reachable:
            reach = _at(self.from_start, self.n_inner + 1 - n, x)
            logits = logits.masked_fill(reach == 0, -torch.inf)
        return logits.log_softmax(-1)

    def transition(
        self, end_log_probs: torch.Tensor, x: torch.Tensor, n: Times, parametrization: str
    ) -> torch.Tensor:
        """Return the law (batch, D, S) of X_{n+1} given X_n = `x` and a law of the end.

        ``"mixture"`` averages the posterior over the end; ``"d3pm"`` leaves out the division by
        the probability of reaching the end. At the last step it is the law of the end itself.
        """
        p = end_log_probs.exp()
        left = self.n_inner - n
        if isinstance(left, int) and left == 0:
            return p
        weights = p
        if parametrization == "mixture":
            weights = p * _at(self.per_reach, left + 1, x)
        joint = self.from_start[1][x] * (weights @ self.to_end[left])
        inner = joint / joint.sum(-1, keepdim=True).clamp_min(TINY)
        return inner if isinstance(left, int) else torch.where((left == 0)[:, None, None], p, inner)


@dataclass(frozen=True)
class LearnedChain:
    """The Markov chain that a network of the end makes of a process, and its loss.

    `parametrization`, `kl`, `ce`, `mse` and `argmax_last` are those of
    `thalweg.transport.CategoricalBridgeMatching`.
    """

    network: Network
    process: CategoricalProcess
    parametrization: str = "mixture"
    kl: float = 1.0
    ce: float = 1e-3
    mse: float = 0.0
    argmax_last: bool = False

    def step_law(self, x: torch.Tensor, n: int) -> torch.Tensor:
        """Return the law (batch, D, S) of X_{n+1} given X_n = `x`."""
        steps = torch.full((len(x),), n, device=x.device)
        ends = self.process.end_log_probs(self.network(x, steps), x, n)
        return self.process.transition(ends, x, n, self.parametrization)

    @torch.no_grad()
    def sample(self, start: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw the chain from `start`, shape (N+2, batch, D)."""
        path = [start]
        for n in range(self.process.n_inner + 1):
            law = self.step_law(path[-1], n)
            if not bool(torch.isfinite(law).all()):
                raise FloatingPointError(f"the network's logits are not finite at step {n}")
            last = self.argmax_last and n == self.process.n_inner
            path.append(law.argmax(-1) if last else draw(law, generator))
        return torch.stack(path)

    def loss_of_pairs(
        self, start: torch.Tensor, end: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Return the loss on one uniform time and one bridge a pair of ends."""
        n = torch.randint(
            self.process.n_inner + 1, (len(start),), generator=generator, device=start.device
        )
        return self.loss(self.process.bridge(start, end, n, generator), end, n)

    def loss(self, x: torch.Tensor, end: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of the terms at tokens `x` of times `n`, bound for `end`."""
        ends = self.process.end_log_probs(self.network(x, n), x, n)
        total = ends.new_zeros(())
        if self.ce:
            total = total - self.ce * ends.gather(-1, end[..., None]).mean()
        if self.kl or self.mse:
            law = self.process.transition(ends, x, n, self.parametrization)
            posterior = self.process.posterior(x, end, n)
        if self.kl:
            entropy = torch.xlogy(posterior, posterior).sum(-1)
            cross = (posterior * law.clamp_min(TINY).log()).sum(-1)
            total = total + self.kl * (entropy - cross).mean()
        if self.mse:
            total = total + self.mse * (posterior - law).square().sum(-1).mean()
        return total


def _at(tables: torch.Tensor, times: Times, x: torch.Tensor) -> torch.Tensor:
    """Return the rows `x` of the tables of these times, one time or one a row of `x`."""
    return tables[times][x] if isinstance(times, int) else tables[times[:, None], x]


def draw(weights: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw one category along the last axis of weights, which need not sum to 1."""
    cumulated = weights.cumsum(-1)
    total = cumulated[..., -1:]
    u = torch.rand(total.shape, generator=generator, device=total.device, dtype=total.dtype)
    u = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
    return (cumulated <= u).sum(-1)

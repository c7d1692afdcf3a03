"""Markov transitions learned by a discriminator: one step of an adversarial Markovian projection.

Fill pairs of points with Brownian bridges and look at two neighbouring times. A generator guesses
where the path ends from where it is now; a bridge to the guess gives the point at the next time;
a discriminator compares it with the true one. At the optimum the generated transition has the law
of the true one, so that a few such steps carry the first end to the last.

Source: "Adversarial Schrödinger Bridge Matching" (2024), arXiv 2405.14449, section 3, with the
generator of "Tackling the Generative Learning Trilemma with Denoising Diffusion GANs" (2021), arXiv
2112.07804.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from numpy.typing import ArrayLike

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_count, check_real
from thalweg.transport.networks import TimeMLP
from thalweg.transport.reference import BrownianReference, check_grid, sample_neighbours

Pairs: TypeAlias = Callable[[torch.Generator], tuple[torch.Tensor, torch.Tensor]]
Update: TypeAlias = Callable[[torch.Tensor], Any]
ROUND_OFF = 1e-12
"""Added to squared distances, whose roots have no slope at zero."""


def markovian_projection_step(
    pairs: Pairs,
    generator: torch.nn.Module,
    discriminator: torch.nn.Module,
    update_generator: Update,
    update_discriminator: Update,
    *,
    times: ArrayLike,
    epsilon: float,
    latent_dim: int = 1,
    r1: float = 0.01,
    d_steps: int = 1,
    rng: int | torch.Generator | None = None,
) -> torch.Tensor:
    """Move a discriminator, then a generator, toward the transitions of bridges between pairs.

    Each of the steps draws its own pairs, places in the grid and noise.

    Parameters
    ----------
    pairs : callable
        ``pairs(rng) -> (x_start, x_end)``, tensors (n, d) drawn from the coupling.
    generator : torch.nn.Module
        ``generator(x, n, z) -> x_end (n, d)``: an end drawn for points `x` (n, d) at the times with
        index `n` (n,), from noise `z` (n, latent_dim).
    discriminator : torch.nn.Module
        ``discriminator(x_next, n, x) -> logits (n,)`` or (n, 1), high for true transitions.
    update_generator, update_discriminator : callable
        ``update(loss)`` differentiates the loss and moves the parameters of its network, as
        optimisers do.
    times : array_like (N + 2,)
        Times that increase from 0 to 1.
    epsilon : float
        Variance of the Brownian reference at time 1; positive.
    latent_dim : int, default 1
        Columns of `z`.
    r1 : float, default 0.01
        Weight of the penalty on the discriminator's gradient at true points.
    d_steps : int, default 1
        Steps of the discriminator before the one of the generator.
    rng : None, int or torch.Generator
        Source of randomness, on the device of the pairs.

    Returns
    -------
    tensor (2,)
        Loss of the discriminator with its penalty, mean of its steps, and of the generator. Where
        the generator is perfect and the discriminator knows nothing they are ``2 log 2`` and
        ``log 2``.

    Raises
    ------
    ValueError
        If an argument is not as stated.

    References
    ----------
    "Adversarial Schrödinger Bridge Matching" (2024), arXiv 2405.14449, section 3.

    Examples
    --------
    >>> import torch
    >>> from thalweg.transport.adversarial_projection import EndGenerator, StepDiscriminator
    >>> times = [0, 0.5, 1]
    >>> G, D = EndGenerator(2, 1, times, rng=0), StepDiscriminator(2, times, rng=1)
    >>> def by(optimizer):
    ...     def update(loss):
    ...         optimizer.zero_grad()
    ...         loss.backward()
    ...         optimizer.step()
    ...     return update
    >>> def pairs(rng):
    ...     return torch.randn(64, 2, generator=rng), torch.randn(64, 2, generator=rng)
    >>> losses = markovian_projection_step(
    ...     pairs, G, D, by(torch.optim.Adam(G.parameters())), by(torch.optim.Adam(D.parameters())),
    ...     times=times, epsilon=1.0, rng=0)
    >>> losses.shape
    torch.Size([2])
    """
    reference, grid = BrownianReference(epsilon), check_grid(times)
    latent_dim = check_count("latent_dim", latent_dim, at_least=0)
    r1 = check_real("r1", r1, at_least=0)
    d_steps = check_count("d_steps", d_steps)
    source: Any = rng
    of_discriminator = []

    def neighbours() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        nonlocal source
        if not isinstance(source, torch.Generator):
            source = torch_generator(source, next(generator.parameters()).device)
        index, now, later = sample_neighbours(*pairs(source), grid, reference.epsilon, source)
        return index, now, later

    for _ in range(d_steps):
        index, now, later = neighbours()
        with torch.no_grad():
            fake = draw_next(generator, now, index, grid, reference, latent_dim, source)
        loss = discriminator_loss(discriminator, later, fake, index, now, r1)
        update_discriminator(loss)
        of_discriminator.append(loss.detach())
    index, now, _ = neighbours()
    with _frozen(discriminator):
        fake = draw_next(generator, now, index, grid, reference, latent_dim, source)
        loss = generator_loss(discriminator, fake, index, now)
        update_generator(loss)
    return torch.stack([torch.stack(of_discriminator).mean(), loss.detach()])


def discriminator_loss(
    discriminator: torch.nn.Module,
    real: torch.Tensor,
    fake: torch.Tensor,
    index: torch.Tensor,
    now: torch.Tensor,
    r1: float,
) -> torch.Tensor:
    """Return ``softplus(-D(real)) + softplus(D(fake)) + r1/2 |grad D(real)|^2``, averaged.

    The gradient is that in the point at the next time.
    """
    real = real.detach().requires_grad_(r1 > 0)
    logits = discriminator(real, index, now)
    against = torch.nn.functional.softplus(discriminator(fake, index, now)).mean()
    loss = torch.nn.functional.softplus(-logits).mean() + against
    if r1 == 0:
        return loss
    (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return loss + (r1 / 2) * slope.square().sum() / len(real)


def generator_loss(
    discriminator: torch.nn.Module, fake: torch.Tensor, index: torch.Tensor, now: torch.Tensor
) -> torch.Tensor:
    """Return ``softplus(-D(fake))``, averaged."""
    return torch.nn.functional.softplus(-discriminator(fake, index, now)).mean()


def energy_score(
    generator: torch.nn.Module,
    now: torch.Tensor,
    index: torch.Tensor,
    end: torch.Tensor,
    spread: torch.Tensor,
    latent_dim: int,
    rng: torch.Generator,
) -> torch.Tensor:
    """Return ``(|G - end| + |G' - end| - |G - G'|) / 2`` over `spread`, averaged.

    G and G' are two draws from the same point; `spread` (n,) is the unit of each row. The least
    value is that of the true law of the end given the present: the score is strictly proper.
    """
    z = torch.randn(2 * len(now), latent_dim, generator=rng, dtype=now.dtype, device=now.device)
    one, two = generator(now.repeat(2, 1), index.repeat(2), z).chunk(2)
    gaps = torch.stack([one - end, two - end, one - two]).square().sum(2) + ROUND_OFF
    signs = torch.tensor([0.5, 0.5, -0.5], dtype=now.dtype, device=now.device)
    return ((signs @ gaps.sqrt()) / spread).mean()


def draw_next(
    generator: torch.nn.Module,
    now: torch.Tensor,
    index: torch.Tensor,
    times: Any,
    reference: BrownianReference,
    latent_dim: int,
    rng: torch.Generator,
) -> torch.Tensor:
    """Draw points at the next times: bridges from `now` to ends that the generator guesses."""
    grid = torch.as_tensor(times, dtype=now.dtype, device=now.device)
    z = torch.randn(len(now), latent_dim, generator=rng, dtype=now.dtype, device=now.device)
    end = generator(now, index, z)
    return reference.bridge_step(now, end, grid[index], grid[index + 1], rng)


def draw_chain(
    generator: torch.nn.Module,
    start: torch.Tensor,
    times: Any,
    reference: BrownianReference,
    latent_dim: int,
    rng: torch.Generator,
) -> list[torch.Tensor]:
    """Return the points of the learned chain at all times, the start first."""
    path = [start]
    with torch.inference_mode():
        for k in range(len(times) - 1):
            index = torch.full((len(start),), k, device=start.device)
            point = draw_next(generator, path[-1], index, times, reference, latent_dim, rng)
            if not bool(torch.isfinite(point.sum())):
                raise FloatingPointError(f"the chain is not finite at t = {float(times[k + 1]):g}")
            path.append(point)
    return path


class EndGenerator(torch.nn.Module):
    """The default generator: a `TimeMLP` of the time, the point and the noise.

    Parameters
    ----------
    dim, latent_dim : int
        Columns of the points and of the noise.
    times : array_like (N + 2,)
        The grid, in the clock of the direction that is learned.
    hidden : sequence of int
        Widths of the hidden layers.
    rng : None, int or torch.Generator
        Source of the initial weights.
    """

    times: torch.Tensor

    def __init__(
        self,
        dim: int,
        latent_dim: int,
        times: ArrayLike,
        *,
        hidden: Sequence[int] = (128, 128, 128),
        rng: Any = None,
    ) -> None:
        super().__init__()
        self.register_buffer("times", torch.as_tensor(check_grid(times)).float(), persistent=False)
        self.network = TimeMLP(dim, hidden=hidden, cond_dim=latent_dim, rng=rng)

    def forward(self, x: torch.Tensor, n: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Return ends (n, dim) for points at the times with index `n`."""
        value: torch.Tensor = self.network(self.times[n], x, z if z.shape[1] else None)
        return value


class StepDiscriminator(torch.nn.Module):
    """The default discriminator: a `TimeMLP` of the time and of both points of a transition.

    It is piecewise linear (leaky ReLU): the penalty on its slope trains better than with SiLU, and
    no second derivative is needed. The parameters are those of `EndGenerator`.
    """

    times: torch.Tensor

    def __init__(
        self,
        dim: int,
        times: ArrayLike,
        *,
        hidden: Sequence[int] = (128, 128, 128),
        rng: Any = None,
    ) -> None:
        super().__init__()
        self.register_buffer("times", torch.as_tensor(check_grid(times)).float(), persistent=False)
        self.network = TimeMLP(
            dim, 1, hidden=hidden, activation="leaky_relu", cond_dim=dim, rng=rng
        )

    def forward(self, x_next: torch.Tensor, n: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n,)."""
        value: torch.Tensor = self.network(self.times[n], x_next, x)
        return value[:, 0]


@contextmanager
def _frozen(module: torch.nn.Module) -> Iterator[None]:
    """Let gradients pass through a network without computing those of its parameters."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)

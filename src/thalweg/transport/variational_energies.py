"""Divergences and entropies of a distribution from its samples, as a maximum over functions.

A functional that contains the density of P is written as
``F(P) = max_h E_P[A(y, h(y))] - E_mu[B(z, h(z))]`` with a distribution mu that can be sampled. The
best h is a ratio of densities; it is learned by a network from batches of both, so that no density
of P is needed.

Source: "Variational Wasserstein gradient flow" (2021), arXiv 2112.02424, section 3 and its table of
functionals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_count, check_option, check_real
from thalweg.transport._clouds import check_clouds
from thalweg.transport._flow_networks import Frame, Witness
from thalweg.transport._training import Learner, run_steps

ENERGIES = ("kl_density", "kl_samples", "js_samples", "gan_samples", "porous")
POSITIVITY = ("exp", "softplus", "smooth")
LEAST_SOFTPLUS_INPUT = -50.0
"""Where the logarithm of softplus leaves the single-precision numbers."""
BOX_MARGIN = 0.25
"""Margin of the box of the porous energy on each side, as a share of the cloud's extent there."""
TEST_SHARE = 0.25
"""Share of both clouds that `variational_divergence` keeps for its estimate; chosen here."""

Draw = Callable[[int, torch.Generator], torch.Tensor]


class PositiveFunction:
    """A positive h as a function of the network's number u.

    Parameters
    ----------
    kind : {"exp", "softplus", "smooth"}
        ``exp(u)``, ``log(1 + exp(u))`` or ``exp(sigmoid(u)) - 1``; the last is below e - 1, so it
        holds ratios of densities down that are larger.
    """

    def __init__(self, kind: str = "exp") -> None:
        self.kind = check_option("positivity", kind, POSITIVITY)
        self.start = {
            "exp": 0.0,
            "softplus": math.log(math.e - 1),
            "smooth": math.log(math.log(2) / (1 - math.log(2))),
        }[kind]

    def log(self, u: torch.Tensor) -> torch.Tensor:
        """Return log h."""
        if self.kind == "exp":
            return u
        if self.kind == "softplus":
            return torch.nn.functional.softplus(u.clamp(min=LEAST_SOFTPLUS_INPUT)).log()
        return torch.expm1(torch.sigmoid(u.clamp(min=LEAST_SOFTPLUS_INPUT))).log()

    def value(self, u: torch.Tensor) -> torch.Tensor:
        """Return h."""
        if self.kind == "exp":
            return u.exp()
        if self.kind == "softplus":
            return torch.nn.functional.softplus(u)
        return torch.expm1(torch.sigmoid(u))


class GaussianReference:
    """The Gaussian of a frame, as the mu of an energy."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw n points (n, d)."""
        noise = torch.randn(
            n, len(self.frame.mean), generator=generator, device=self.frame.mean.device
        )
        return self.frame.outward(noise)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log-density (n,) at points (n, d)."""
        d = x.shape[1]
        squares = self.frame.inward(x).square().sum(1)
        return -0.5 * squares - self.frame.log_det - 0.5 * d * math.log(2 * math.pi)


class BoxReference:
    """The uniform distribution on a box, as the mu of an energy."""

    def __init__(self, low: torch.Tensor, high: torch.Tensor) -> None:
        self.low, self.high = low, high
        self.log_density = -float((high - low).double().log().sum())

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw n points (n, d)."""
        shares = torch.rand(n, len(self.low), generator=generator, device=self.low.device)
        return torch.lerp(self.low, self.high, shares)


class SampleReference:
    """Rows of a cloud, drawn with repetition, as the mu of an energy."""

    def __init__(self, Y: torch.Tensor) -> None:
        self.Y = Y

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw n points (n, d)."""
        rows = torch.randint(len(self.Y), (n,), generator=generator, device=self.Y.device)
        return self.Y[rows]


class Energy(Protocol):
    """A functional ``max_h value(A(y, u(y)), B(z, u(z)))``; u is the number that gives h."""

    start: float
    exponent: bool

    @property
    def draw(self) -> Draw:
        """Draws n points (n, d) of mu from a generator."""

    def gain(self, y: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Return A (n,) at points y of P where the network says u."""

    def cost(self, u: torch.Tensor) -> torch.Tensor:
        """Return B (n,) at points of mu where the network says u."""

    def value(self, gain: torch.Tensor, cost: torch.Tensor) -> torch.Tensor:
        """Return the functional's estimate from both."""


class KullbackLeibler:
    """``KL(P || Q)``: Q known by its log-density up to a constant, or by samples (mu = Q).

    ``A = log h + log mu - log q`` and ``B = h``, plus 1; the best h is dP/dmu. In the form of
    Donsker and Varadhan ``E[A] - log E[h]``.
    """

    def __init__(
        self,
        reference: GaussianReference | SampleReference,
        log_density: Callable[[torch.Tensor], torch.Tensor] | None,
        positive: PositiveFunction,
        dv: bool = False,
    ) -> None:
        self.reference, self.log_density = reference, log_density
        self.positive, self.dv = positive, dv
        self.draw: Draw = reference.draw
        self.start = positive.start
        self.exponent = positive.kind == "exp"

    def gain(self, y: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Return A."""
        ratio = self.positive.log(u)
        if self.log_density is None or isinstance(self.reference, SampleReference):
            return ratio
        return ratio + self.reference.log_prob(y) - self.log_density(y)

    def cost(self, u: torch.Tensor) -> torch.Tensor:
        """Return B."""
        return self.positive.value(u)

    def value(self, gain: torch.Tensor, cost: torch.Tensor) -> torch.Tensor:
        """Return the estimate."""
        if self.dv:
            return gain.mean() - cost.mean().log()
        return gain.mean() - cost.mean() + 1


class JensenShannon:
    """``KL(P || M) + KL(Q || M)``, M the middle of both: twice the Jensen-Shannon divergence.

    ``A = log(2 - s(u))`` and ``B = -log s(u)`` with ``s(u) = 2 e^-u / (1 + e^-u)``; the form of
    generative adversarial networks, ``log sigmoid(u)`` and ``-log(1 - sigmoid(u))``, is the same
    less 2 log 2. The best u is log dP/dQ.
    """

    start = 0.0
    exponent = False

    def __init__(self, reference: SampleReference, gan: bool = False) -> None:
        self.draw: Draw = reference.draw
        self.shift = 0.0 if gan else math.log(2)

    def gain(self, y: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Return A."""
        return torch.nn.functional.logsigmoid(u) + self.shift

    def cost(self, u: torch.Tensor) -> torch.Tensor:
        """Return B."""
        return -torch.nn.functional.logsigmoid(-u) - self.shift

    def value(self, gain: torch.Tensor, cost: torch.Tensor) -> torch.Tensor:
        """Return the estimate."""
        return gain.mean() - cost.mean()


class GeneralizedEntropy:
    """``int P^m / (m - 1)``, which the porous medium equation descends.

    ``A = m / (m - 1) (q h)^(m - 1)`` and ``B = q^(m - 1) h^m``, q the density of the box; the best
    h is P/q.
    """

    def __init__(self, reference: BoxReference, m: float, positive: PositiveFunction) -> None:
        self.draw: Draw = reference.draw
        self.start = positive.start
        self.m, self.positive = m, positive
        self.weight = math.exp((m - 1) * reference.log_density)
        self.exponent = positive.kind == "exp"

    def gain(self, y: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Return A."""
        m = self.m
        return m / (m - 1) * self.weight * ((m - 1) * self.positive.log(u)).exp()

    def cost(self, u: torch.Tensor) -> torch.Tensor:
        """Return B."""
        return self.weight * (self.m * self.positive.log(u)).exp()

    def value(self, gain: torch.Tensor, cost: torch.Tensor) -> torch.Tensor:
        """Return the estimate."""
        return gain.mean() - cost.mean()


def new_energy(
    kind: str,
    points: torch.Tensor,
    target: Any,
    frame: Frame,
    *,
    log_density: Callable[[torch.Tensor], torch.Tensor] | None,
    m: float,
    positive: PositiveFunction,
    dv: bool,
) -> Energy:
    """Return one of `ENERGIES` with the reference that suits points (n, d) and their frame."""
    if kind == "kl_density":
        return KullbackLeibler(GaussianReference(frame), log_density, positive, dv)
    if kind == "kl_samples":
        return KullbackLeibler(SampleReference(target), None, positive, dv)
    if kind == "porous":
        low, high = points.min(0).values, points.max(0).values
        margin = BOX_MARGIN * (high - low)
        return GeneralizedEntropy(BoxReference(low - margin, high + margin), m, positive)
    return JensenShannon(SampleReference(target), gan=kind == "gan_samples")


def estimate(
    energy: Energy, witness: torch.nn.Module, y: torch.Tensor, z: torch.Tensor
) -> torch.Tensor:
    """Return the functional's estimate from points y of P and z of mu, in one pass."""
    u, v = witness(torch.cat([y, z])).split([len(y), len(z)])
    return energy.value(energy.gain(y, u), energy.cost(v))


def variational_divergence(
    X: ArrayLike,
    Y: ArrayLike,
    kind: str = "kl",
    *,
    n_steps: int = 500,
    hidden: Sequence[int] = (64, 64),
    positivity: str = "exp",
    dv: bool = False,
    batch_size: int = 512,
    lr: float = 2e-3,
    device: Any = "cpu",
    callback: Callable[[Any], Any] | None = None,
    rng: Any = None,
) -> float:
    """Return a divergence of the law of `X` from the law of `Y`, learned from the two samples.

    A network is trained on three quarters of each cloud to make the variational form as large as
    possible; its value on the rest is returned. On average that is at most the divergence.

    Parameters
    ----------
    X, Y : array_like (n, d), (m, d)
        The clouds, at least 4 rows each.
    kind : {"kl", "js"}, default "kl"
        ``KL(P || Q)``, or the Jensen-Shannon divergence, which is at most log 2.
    n_steps : int, default 500
        Steps of Adam.
    hidden : sequence of int, default (64, 64)
        Widths of the network's hidden layers.
    positivity : {"exp", "softplus", "smooth"}, default "exp"
        How the ratio of densities is kept positive; only for ``"kl"``.
    dv : bool, default False
        Use the form of Donsker and Varadhan; only for ``"kl"``.
    batch_size : int, default 512
        Rows of each cloud a step.
    lr : float, default 2e-3
        Learning rate at the start; it falls to a hundredth along a cosine.
    device : torch device, default "cpu"
        Where the network is trained.
    callback : callable, optional
        Called after each step with ``state.step``, ``state.n_steps`` and ``state.loss``;
        StopIteration ends the training.
    rng : None, int or torch.Generator
        Source of the split, the initial weights and the batches.

    Returns
    -------
    float
        In nats.

    Raises
    ------
    ValueError
        If an argument is not as stated.
    FloatingPointError
        If the loss leaves the finite numbers.

    References
    ----------
    "Variational Wasserstein gradient flow" (2021), arXiv 2112.02424, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(1.0, 1.0, size=(4000, 1)), rng.normal(size=(4000, 1))
    >>> abs(variational_divergence(X, Y, n_steps=200, rng=0) - 0.5) < 0.1
    True
    """
    X, Y = check_clouds(X, Y, at_least=4)
    check_option("kind", kind, ["kl", "js"])
    positive = PositiveFunction(positivity)
    batch_size, n_steps = check_count("batch_size", batch_size), check_count("n_steps", n_steps)
    check_real("lr", lr, above=0)
    generator = torch_generator(rng, device)
    initial = child_generator(generator)
    clouds = []
    for Z in (X, Y):
        rows = torch.randperm(len(Z), generator=generator, device=generator.device)
        cut = max(1, round(TEST_SHARE * len(Z)))
        Z_here = torch.from_numpy(Z).to(device, torch.float32)
        clouds += [Z_here[rows[:cut]], Z_here[rows[cut:]]]
    X_test, X_train, Y_test, Y_train = clouds
    references = SampleReference(X_train), SampleReference(Y_train)
    energy: Energy
    if kind == "kl":
        energy = KullbackLeibler(references[1], None, positive, dv)
    else:
        energy = JensenShannon(references[1])
    witness = new_witness(X.shape[1], hidden, energy, initial).to(device)
    witness.frame = pooled_frame(X, Y).to(device)
    learner = Learner([witness], n_steps=n_steps, lr=lr)

    def advance(generator: torch.Generator) -> torch.Tensor:
        y, z = (reference.draw(batch_size, generator) for reference in references)
        loss = -estimate(energy, witness, y, z)
        learner.step(loss)
        return loss

    run_steps(advance, [learner], n_steps=n_steps, generator=generator, callback=callback)
    witness.eval()
    with torch.inference_mode():
        value = float(estimate(energy, witness, X_test, Y_test))
    return value if kind == "kl" else value / 2


def new_witness(
    dim: int, hidden: Sequence[int], energy: Energy, rng: int | torch.Generator | None
) -> Witness:
    """Return a witness that starts at ``h = 1`` everywhere."""
    return Witness(dim, hidden, start=energy.start, exponent=energy.exponent, rng=rng)


def pooled_frame(X: Any, Y: Any) -> Frame:
    """Return the frame of two clouds taken together, each with half the weight."""
    (mean_x, cov_x), (mean_y, cov_y) = moments(X), moments(Y)
    gap = mean_x - mean_y
    return Frame((mean_x + mean_y) / 2, (cov_x + cov_y) / 2 + np.outer(gap, gap) / 4)


def moments(X: Any) -> tuple[Any, Any]:
    """Return mean (d,) and covariance (d, d) of the rows."""
    mean = X.mean(0)
    deviations = X - mean
    return mean, deviations.T @ deviations / len(X)


def child_generator(generator: torch.Generator) -> torch.Generator:
    """Return a generator of the CPU seeded by another, for initial weights."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.Generator().manual_seed(seed)

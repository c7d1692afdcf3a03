"""Generative unfolding that starts from noise: a conditional flow and a conditional diffusion.

Both learn the law of a truth given its measurement, at the same updates, batches and learning rate
as the bridge, and differ from it in where they start: at a standard normal point.
"""

from __future__ import annotations

import numpy as np

from thalweg._torch import torch
from thalweg.transport import Interpolant, MaskedAutoregressiveFlow, TimeMLP
from thalweg.transport._couplings import draw_pairs, stratified_times
from thalweg.transport.integrate import odeint
from thalweg.transport.interpolant_losses import interpolant_losses
from thalweg.transport.networks import train

BATCH, LEARNING_RATE, EMA = 256, 5e-3, 0.999
HIDDEN = (64, 64, 64)
FLOW_BLOCKS, FLOW_HIDDEN, FLOW_CLIP = 4, 64, 5.0
FIRST_TIME = 1e-3


class FromNoise:
    """Columns at mean 0 and deviation 1, training, and draws; the rest is the subclass's."""

    grad_clip: float | None = None

    def __init__(self, n_steps, seed):
        self.n_steps, self.seed = n_steps, seed

    def fit(self, truth, measured):
        """Learn from pairs (n, d)."""
        self.mean0, self.scale0 = truth.mean(0), truth.std(0)
        self.mean1, self.scale1 = measured.mean(0), measured.std(0)
        x0 = torch.from_numpy((truth - self.mean0) / self.scale0).float()
        x1 = torch.from_numpy((measured - self.mean1) / self.scale1).float()
        self.network = self.build(truth.shape[1])
        (self.network,), self.losses = train(
            self.network,
            lambda generator: self.loss(*draw_pairs(x0, x1, BATCH, "paired", generator), generator),
            n_steps=self.n_steps,
            lr=LEARNING_RATE,
            ema=EMA,
            grad_clip=self.grad_clip,
            rng=self.seed,
        )
        return self

    def draw(self, measured, seed):
        """Return truths (n, d) and the mean distance, in deviations, from where they started."""
        cond = torch.from_numpy((measured - self.mean1) / self.scale1).float()
        start = torch.randn(cond.shape, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            end = self.push(start, cond)
        moved = float((end - start).norm(dim=1).mean())
        return self.mean0 + self.scale0 * end.double().numpy(), moved

    def build(self, d):
        """Return the network for d columns."""
        raise NotImplementedError

    def loss(self, x0, x1, generator):
        """Return the loss of a batch of standardised pairs."""
        raise NotImplementedError

    def push(self, start, cond):
        """Return where standard normal points go under these conditions."""
        raise NotImplementedError


class ConditionalFlow(FromNoise):
    """A masked autoregressive flow conditioned on the measurement, by maximum likelihood."""

    grad_clip = FLOW_CLIP

    def build(self, d):
        """Return the flow."""
        return MaskedAutoregressiveFlow(d, d, FLOW_BLOCKS, FLOW_HIDDEN, rng=self.seed)

    def loss(self, x0, x1, generator):
        """Return the mean negative log-likelihood."""
        return -self.network.log_prob(x0, x1).mean()

    def push(self, start, cond):
        """Return the points of normal features."""
        return self.network.inverse(start, cond)


class ConditionalDiffusion(FromNoise):
    """A one-sided interpolant from noise to the truth, its velocity conditioned on the measurement.

    Followed along its ODE by Heun's method with `nfe` network calls.
    """

    path = Interpolant.one_sided("linear")

    def __init__(self, n_steps, seed, nfe):
        super().__init__(n_steps, seed)
        self.nfe = nfe

    def build(self, d):
        """Return the network of the velocity."""
        return TimeMLP(d, hidden=HIDDEN, cond_dim=d, rng=self.seed)

    def loss(self, x0, x1, generator):
        """Return the quadratic objective of the velocity."""
        z = torch.randn(x0.shape, generator=generator)
        t = FIRST_TIME + stratified_times(len(x0), 1 - 2 * FIRST_TIME, generator, x0)
        fields = {"b": lambda t, x: self.network(t, x, x1)}
        return interpolant_losses(self.path, fields, t, None, x0, z, antithetic=False)["b"]

    def push(self, start, cond):
        """Return the ends of the flow."""
        times = np.linspace(FIRST_TIME, 1 - FIRST_TIME, self.nfe // 2 + 1)
        return odeint(lambda t, x: self.network(t, x, cond), start, times=times, method="heun")

"""A network for clear digits that learns from blurred ones, for the study of 2302.03542."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from thalweg.studies.descent._large_scale_network import SETS as SETS
from thalweg.studies.descent._large_scale_network import digits

HIDDEN, CLASSES = 64, 10
TRAIN = 8000
BATCH = 256
"""Large: under more noise the method has no more to gain than the quadratics show."""
INNER, ANCHORS = 20, 4
MOMENTUM = 0.9


def network_case(setup, rng):
    """Losses on held-out clear digits after as many batches of clear digits by each method.

    Blurred digits are free. All are tuned: SGD with momentum over its rate, from the start and
    from weights trained on blurred digits; ours over eta and the inner rate.
    """
    X, labels = digits()
    spread = gaussian_filter(X.reshape(-1, 28, 28), (0, setup.blur, setup.blur))
    blurred = spread.reshape(len(X), -1)
    seeds = [int(seed) for seed in rng.integers(2**31, size=setup.network_seeds)]
    bench = _Bench(X, blurred, labels, setup.network_batches)
    losses = {
        "SGD": bench.tuned(seeds, [(lr,) for lr in (0.1, 0.2, 0.4, 0.8)], bench.sgd),
        "blurred only": bench.tuned(seeds, [(0.05,)], bench.blurred_only),
        "blurred, then SGD": bench.tuned(seeds, [(lr,) for lr in (0.02, 0.05, 0.1)], bench.warm),
        "proxy": bench.tuned(
            seeds, [(eta, lr) for eta in (3.0, 10.0, 30.0) for lr in (0.05, 0.1)], bench.ours
        ),
    }
    return {
        "network_methods": list(losses),
        "network_losses": np.array(list(losses.values())),
        "network_ratio": losses["proxy"] / losses["SGD"],
        "network_warm_ratio": losses["proxy"] / losses["blurred, then SGD"],
    }


class _Bench:
    """The data, and a run of each method from a seed; each returns the held-out loss."""

    def __init__(self, clear, blurred, labels, batches):
        from thalweg._torch import torch

        self.torch, self.batches = torch, batches
        self.clear = torch.tensor(clear, dtype=torch.float32)
        self.blurred = torch.tensor(blurred, dtype=torch.float32)
        self.labels = torch.tensor(labels)

    def tuned(self, seeds, options, method):
        """The best mean over the seeds."""
        means = [np.mean([method(seed, *option) for seed in seeds]) for option in options]
        finite = [float(m) if np.isfinite(m) else np.inf for m in means]
        return min(finite)

    def start(self, seed):
        """A network, and generators of its batches of clear and blurred digits."""
        torch = self.torch
        generator = torch.Generator().manual_seed(seed)
        net = torch.nn.Sequential(
            torch.nn.Linear(784, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, CLASSES)
        )
        with torch.no_grad():
            for p in net.parameters():
                scale = p.shape[1] ** -0.5 if p.ndim == 2 else 0.0
                p.copy_(scale * torch.randn(p.shape, generator=generator))

        def losses(images, size):
            def loss():
                at = torch.randint(TRAIN, (size,), generator=generator)
                return torch.nn.functional.cross_entropy(net(images[at]), self.labels[at])

            return loss

        return net, losses(self.clear, BATCH), losses(self.blurred, BATCH)

    def held_out(self, net):
        with self.torch.no_grad():
            outputs = net(self.clear[TRAIN:])
            return float(self.torch.nn.functional.cross_entropy(outputs, self.labels[TRAIN:]))

    def descend(self, net, loss, lr, batches):
        """SGD with momentum, its rate falling to zero linearly."""
        optimizer = self.torch.optim.SGD(net.parameters(), lr=lr, momentum=MOMENTUM)
        fall = self.torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, batches)
        for _ in range(batches):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
            fall.step()

    def sgd(self, seed, lr):
        net, clear, _ = self.start(seed)
        self.descend(net, clear, lr, self.batches)
        return self.held_out(net)

    def blurred_only(self, seed, lr):
        net, _, blurred = self.start(seed)
        self.descend(net, blurred, lr, self.batches * (INNER + ANCHORS))
        return self.held_out(net)

    def warm(self, seed, lr):
        net, clear, blurred = self.start(seed)
        self.descend(net, blurred, 0.05, self.batches * (INNER + ANCHORS))
        self.descend(net, clear, lr, self.batches)
        return self.held_out(net)

    def ours(self, seed, eta, inner_lr):
        from thalweg.descent import ProxyProx

        net, clear, blurred = self.start(seed)
        optimizer = ProxyProx(
            net.parameters(), eta=eta, inner_steps=INNER, inner_lr=inner_lr, anchor_batches=ANCHORS
        )
        fall = self.torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, self.batches)
        try:
            for _ in range(self.batches):
                optimizer.step(clear, blurred)
                fall.step()
        except RuntimeError:
            return np.inf
        return self.held_out(net)

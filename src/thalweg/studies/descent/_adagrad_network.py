"""A perceptron on handwritten digits, trained by torch optimizers over a grid of step scales."""

from __future__ import annotations

import numpy as np

from thalweg.studies.descent._large_scale_network import SETS as SETS
from thalweg.studies.descent._large_scale_network import digits

HIDDEN, CLASSES, BATCH = 64, 10, 64
OURS = "AdaGrad-Norm"
NAMES = (OURS, "SGD, constant", "SGD, 1/√t", "AdaGrad", "Adam")


def network_case(setup, rng):
    """Train from the same weights and batches by every method and scale; return the losses.

    ``network_losses`` has shape (methods, etas); a run whose loss is not finite counts as infinite.
    """
    X, labels = digits()
    X, labels = X[: setup.network_images], labels[: setup.network_images]
    seed = int(rng.integers(2**31))
    losses = [
        [
            trained_loss(name, eta, X, labels, setup.network_epochs, seed)
            for eta in setup.network_etas
        ]
        for name in NAMES
    ]
    table = np.array(losses)
    spread = table.max(axis=1) / table.min(axis=1)
    return {
        "network_etas": np.array(setup.network_etas),
        "network_losses": table,
        "network_best": table.min(axis=1),
        "network_spread": spread,
    }


def trained_loss(name, eta, X, labels, epochs, seed):
    """Train for some epochs and return the mean loss over all images."""
    from thalweg._torch import torch

    nn, generator = torch.nn, torch.Generator().manual_seed(seed)
    images, targets = torch.tensor(X, dtype=torch.float32), torch.tensor(labels)
    model = nn.Sequential(nn.Linear(images.shape[1], HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
            if parameter.ndim == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
    optimizer = make_optimizer(name, model.parameters(), eta)
    batches = max(len(X) // BATCH, 1)
    step = 0
    for _ in range(epochs):
        order = torch.randperm(len(X), generator=generator)
        for at in range(batches):
            rows = order[at * BATCH : (at + 1) * BATCH]
            step += 1
            if name == "SGD, 1/√t":
                optimizer.param_groups[0]["lr"] = eta / step**0.5
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[rows]), targets[rows])
            if not torch.isfinite(loss):
                return np.inf
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        final = float(nn.functional.cross_entropy(model(images), targets))
    return final if np.isfinite(final) else np.inf


def make_optimizer(name, parameters, eta):
    """Return the torch optimizer of that name with `eta` as its learning rate."""
    from thalweg._torch import torch
    from thalweg.descent import AdaGradNorm

    makers = {
        OURS: AdaGradNorm,
        "SGD, constant": torch.optim.SGD,
        "SGD, 1/√t": torch.optim.SGD,
        "AdaGrad": torch.optim.Adagrad,
        "Adam": torch.optim.Adam,
    }
    return makers[name](parameters, lr=eta)

"""Small networks on MNIST that whiten after the first convolution, or pool covariances at the end.

The images are those of the MNIST test set: the first 8000 are learned from, the last 2000 tested.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg import data
from thalweg._torch import torch
from thalweg.linalg import CovariancePooling, ZCAWhitening

IMAGES, LABELS = "mnist-t10k-images", "mnist-t10k-labels"
TRAINING_IMAGES, TEST_IMAGES = 8000, 2000
CHANNELS, TOKENS = (16, 32, 32), 49
RATE, LAST_RATE, BATCH, POOLING_EPS = 1e-2, 0.02, 64, 1e-3
OPTIONS: dict[str, dict[str, Any]] = {
    "pade": {"method": "pade"},
    "taylor": {"method": "taylor"},
    "newton-schulz": {"method": "newton-schulz"},
    "eigh": {"method": "eigh", "backward": "lyapunov-exact"},
}


def networks(setup: Any, rng: Any, report: Any) -> dict[str, Any]:
    """Mean test accuracy of networks with each method in a whitening layer, and in the pooling."""
    images = torch.from_numpy(data.read_idx(data.fetch(IMAGES, download=False)) / np.float32(255))
    labels = torch.from_numpy(data.read_idx(data.fetch(LABELS, download=False)).astype(np.int64))
    images = (images[:, None] - images.mean()) / images.std()
    seen = slice(setup.training_images)
    held_out = slice(TRAINING_IMAGES, TRAINING_IMAGES + TEST_IMAGES)
    seeds = rng.integers(2**31, size=setup.seeds).tolist()
    results: dict[str, Any] = {}
    runs = [(layer, name) for layer in setup.layers for name in OPTIONS]
    for number, (layer, name) in enumerate(runs):
        report(number / len(runs), f"networks with {layer}: {name}")
        results[f"{layer}_{name}"] = np.array(
            [
                accuracy(
                    network(layer, name, seed),
                    (images[seen], labels[seen]),
                    (images[held_out], labels[held_out]),
                    setup.epochs,
                    seed,
                )
                for seed in seeds
            ]
        )
    for layer in setup.layers:
        means = {name: results[f"{layer}_{name}"].mean() for name in OPTIONS}
        results[f"{layer}_pade_minus_others"] = np.array(
            [means["pade"] - means["eigh"], means["pade"] - means["newton-schulz"]]
        )
        results[f"{layer}_taylor_minus_eigh"] = means["taylor"] - means["eigh"]
    return results


def network(layer: str, name: str, seed: int) -> torch.nn.Sequential:
    """Return a network of three convolutions that whitens after the first, or pools covariances."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second, third = CHANNELS
        nn = torch.nn
        whiten = layer == "whitening"
        return nn.Sequential(
            nn.Conv2d(1, first, 3, 2, 1),
            ZCAWhitening(first, **OPTIONS[name]) if whiten else nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, 2, 1),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.Conv2d(second, third, 3, 1, 1),
            nn.BatchNorm2d(third),
            nn.ReLU(),
            *(
                (nn.Flatten(), nn.Linear(third * TOKENS, 10))
                if whiten
                else (
                    nn.Flatten(2),
                    CovariancePooling(eps=POOLING_EPS, **OPTIONS[name]),
                    nn.Linear(third * (third + 1) // 2, 10),
                )
            ),
        )


def accuracy(model: Any, training: Any, test: Any, epochs: int, seed: int) -> float:
    """Train by Adam with a falling rate; return the share of test images that are named right."""
    images, labels = training
    order = np.random.default_rng(seed)
    steps_an_epoch = len(images) // BATCH
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LAST_RATE, epochs * steps_an_epoch)
    model.train()
    for _ in range(epochs):
        shuffled = order.permutation(len(images))[: steps_an_epoch * BATCH]
        for rows in shuffled.reshape(-1, BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        return float((model(test[0]).argmax(1) == test[1]).double().mean())

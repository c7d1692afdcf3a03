"""A perceptron on handwritten digits as a finite sum with Gauss-Newton products."""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.special import log_softmax, softmax

from thalweg import data
from thalweg.descent import ResidualSum, diagonal_scaling, gauss_newton, natural_gradient, sgd

IMAGES, LABELS = "mnist-t10k-images", "mnist-t10k-labels"
SETS = (IMAGES, LABELS)
HIDDEN, CLASSES = 64, 10
BATCH = 64


class Perceptron(ResidualSum):
    """Cross-entropy of a network with one layer of tanh units; outputs are logits."""

    def __init__(self, X, labels, hidden=HIDDEN):
        self.X, self.labels = X, labels
        self.n, self.hidden = len(X), hidden
        self.cut = (X.shape[1] + 1) * hidden
        self.dim = self.cut + (hidden + 1) * CLASSES

    def start(self, rng):
        """Return weights of variance 1 / inputs, biases zero."""
        first = rng.normal(size=(self.X.shape[1], self.hidden)) / np.sqrt(self.X.shape[1])
        second = rng.normal(size=(self.hidden, CLASSES)) / np.sqrt(self.hidden)
        biases = np.zeros((1, self.hidden)), np.zeros((1, CLASSES))
        return np.concatenate([first.ravel(), biases[0].ravel(), second.ravel(), biases[1].ravel()])

    def residual(self, x, idx=None):
        _, units, _, second = self._forward(x, idx)
        return units @ second[:-1] + second[-1]

    def jvp(self, x, v, idx=None):
        rows, units, _, second = self._forward(x, idx)
        first_v, second_v = self._layers(v)
        moved = (1 - units**2) * (rows @ first_v[:-1] + first_v[-1])
        return moved @ second[:-1] + units @ second_v[:-1] + second_v[-1]

    def vjp(self, x, u, idx=None):
        rows, units, _, second = self._forward(x, idx)
        back = (u @ second[:-1].T) * (1 - units**2)
        parts = (rows.T @ back, back.sum(axis=0), units.T @ u, u.sum(axis=0))
        return np.concatenate([part.ravel() for part in parts]) / len(rows)

    def output_hessp(self, outputs, u, idx=None):
        p = softmax(outputs, axis=1)
        return p * u - p * np.sum(p * u, axis=1, keepdims=True)

    def component_values(self, x, idx=None):
        labels = self.labels[self.indices(idx)]
        logs = log_softmax(self.residual(x, idx), axis=1)
        return -logs[np.arange(len(labels)), labels]

    def gradient(self, x, idx=None):
        labels = self.labels[self.indices(idx)]
        slopes = softmax(self.residual(x, idx), axis=1)
        slopes[np.arange(len(labels)), labels] -= 1.0
        return self.vjp(x, slopes, idx)

    def _layers(self, x):
        return (
            x[: self.cut].reshape(-1, self.hidden),
            x[self.cut :].reshape(-1, CLASSES),
        )

    def _forward(self, x, idx):
        rows = self.X[self.indices(idx)]
        first, second = self._layers(x)
        return rows, np.tanh(rows @ first[:-1] + first[-1]), first, second


def digits():
    """Return 10000 images as rows in [0, 1] and their labels."""
    images = data.read_idx(data.fetch(IMAGES, download=False))
    labels = data.read_idx(data.fetch(LABELS, download=False))
    return images.reshape(len(images), -1) / 255.0, labels.astype(np.int64)


def line_search_loss(problem, x0, passes, rng):
    """Train by the stochastic line search in torch from the same weights; return the loss."""
    from thalweg._torch import torch
    from thalweg.descent import StochasticLineSearch

    X = torch.tensor(problem.X, dtype=torch.float32)
    y = torch.tensor(problem.labels)
    first, second = problem._layers(x0)
    weights = [
        torch.nn.Parameter(torch.tensor(part, dtype=torch.float32))
        for part in (first[:-1], first[-1], second[:-1], second[-1])
    ]

    def loss(rows):
        W, a, V, b = weights
        outputs = torch.tanh(X[rows] @ W + a) @ V + b
        return torch.nn.functional.cross_entropy(outputs, y[rows])

    batches = problem.n // BATCH
    optimizer = StochasticLineSearch(weights, batches=batches)
    for _ in range(passes):
        order = torch.tensor(rng.permutation(problem.n))
        for at in range(batches):
            rows = order[at * BATCH : (at + 1) * BATCH]
            optimizer.step(partial(loss, rows))
    with torch.no_grad():
        return float(loss(slice(None)))


def network_case(setup, rng):
    """Train from the same weights by each method for the same passes; return the losses."""
    X, labels = digits()
    problem = Perceptron(X[: setup.network_images], labels[: setup.network_images])
    x0 = problem.start(rng)
    passes, n = setup.network_passes, problem.n
    steps = passes * n // BATCH
    seed = int(rng.integers(2**31))
    sample = min(1000, n)
    # a Gauss-Newton step costs a gradient on 1000 images and ten products on 250
    newton_steps = max(passes * n // (sample + 10 * sample // 4), 1)
    losses = {
        "SG": sgd(problem, x0, step=0.2, n_steps=steps, batch_size=BATCH, rng=seed).fun,
        "RMSprop": diagonal_scaling(
            problem, x0, rule="rmsprop", step=1e-3, n_steps=steps, batch_size=BATCH, rng=seed
        ).fun,
        "Gauss-Newton": gauss_newton(
            problem, x0, gradient_batch=sample, hessian_batch=sample // 4, n_steps=newton_steps,
            rng=seed,
        ).fun,
        "natural gradient": natural_gradient(
            problem, x0, step=0.5, damping=0.1, n_steps=max(steps // 11, 1), batch_size=BATCH,
            cg_iterations=10, rng=seed,
        ).fun,
        "line search": line_search_loss(problem, x0, passes, rng),
    }  # fmt: skip
    return {
        "network_methods": list(losses),
        "network_losses": np.array([float(v) for v in losses.values()]),
        "network_start": float(problem.value(x0)),
    }

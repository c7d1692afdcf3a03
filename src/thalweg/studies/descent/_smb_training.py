"""Perceptrons trained by SMB and its rivals from the same weights on the same batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from thalweg import data
from thalweg._torch import torch
from thalweg.descent import SMB, StochasticLineSearch

IMAGES, LABELS = "mnist-t10k-images", "mnist-t10k-labels"
SETS = (IMAGES, LABELS)

METHODS: dict[str, Callable[[Any, float, int], Any]] = {
    "SGD": lambda p, lr, _: torch.optim.SGD(p, lr=lr),
    "line search": lambda p, lr, batches: StochasticLineSearch(p, lr=lr, batches=batches),
    "SMB": lambda p, lr, _: SMB(p, lr=lr),
    "SMBi": lambda p, lr, _: SMB(p, lr=lr, independent_batch=True),
    "Adam": lambda p, lr, _: torch.optim.Adam(p, lr=lr),
}
"""By a learning rate and the number of batches of an epoch."""


@dataclass(frozen=True)
class Task:
    """Rows and labels to learn and to test on, the widths of the perceptron, the size of batches.

    Labels are 0, 1, ...
    """

    rows: torch.Tensor
    labels: torch.Tensor
    test_rows: torch.Tensor
    test_labels: torch.Tensor
    widths: tuple[int, ...]
    batch: int

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.rows) // self.batch)


@dataclass(frozen=True)
class Run:
    """What a training gave.

    Attributes
    ----------
    losses, accuracies : ndarray, shape (epochs + 1,)
        On all training rows, infinite where not a number; on the test rows. The first is before
        training.
    ratios : list of float
        For each model step, the largest over the smallest length that a tensor's step has relative
        to its trial step.
    model_share : float
        Share of model steps.
    """

    losses: NDArray[np.float64]
    accuracies: NDArray[np.float64]
    ratios: list[float]
    model_share: float


def split(
    X: NDArray[Any],
    y: NDArray[Any],
    n: int,
    hidden: tuple[int, ...],
    batch: int,
    seed: int | None = None,
) -> Task:
    """Return a task that learns the first n rows, in an order drawn by the seed if there is one."""
    order = np.arange(len(X)) if seed is None else np.random.default_rng(seed).permutation(len(X))
    rows = torch.tensor(X[order], dtype=torch.float32)
    labels = torch.tensor(y[order].astype(np.int64))
    widths = (X.shape[1], *hidden, int(y.max()) + 1)
    return Task(rows[:n], labels[:n], rows[n:], labels[n:], widths, batch)


def digits(seed: int | None = None) -> Task:
    """Return scikit-learn's digits, 1400 to learn and 397, of other writers, to test.

    With a seed the rows are in random order.
    """
    X, y = load_digits(return_X_y=True)
    return split(X / 16, y, 1400, (32,), 128, seed)


def mnist() -> Task:
    """Return the test images of MNIST, 8000 to learn and 2000 to test."""
    images = data.read_idx(data.fetch(IMAGES, download=False))
    labels = data.read_idx(data.fetch(LABELS, download=False))
    return split(images.reshape(len(images), -1) / 255.0, labels, 8000, (128, 64), 128)


def perceptron(widths: tuple[int, ...], generator: torch.Generator) -> Any:
    """Return layers with rectifiers between, weights as torch draws them but by the generator."""
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layer = torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs)
        with torch.no_grad():
            for p in layer.parameters():
                p.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def train(
    task: Task,
    method: str,
    lr: float,
    epochs: int,
    seed: int,
    *,
    report: Callable[[float, str], None] | None = None,
    model: Any = None,
) -> Run:
    """Train a perceptron, made by the seed if none is given."""
    generator = torch.Generator().manual_seed(seed)
    model = perceptron(task.widths, generator) if model is None else model
    optimizer = METHODS[method](model.parameters(), lr, task.batches)
    ratios: list[float] = []
    seen = [_measure(model, task)]
    for epoch in range(epochs):
        for rows in torch.randperm(len(task.rows), generator=generator).split(task.batch):
            loss = partial(_loss, model, task.rows[rows], task.labels[rows])
            ratios += _step(optimizer, loss)
        seen.append(_measure(model, task))
        if report is not None:
            report((epoch + 1) / epochs, f"epoch {epoch + 1} of {epochs}")
    losses, accuracies = np.array(seen).T
    share = getattr(optimizer, "n_model_steps", 0) / max(epochs * task.batches, 1)
    return Run(losses, accuracies, ratios, share)


def worst(losses: NDArray[np.float64]) -> float:
    """Return the largest final loss; `losses` has axes (rate, seed, epoch)."""
    return float(losses[..., -1].max())


def epochs_to(loss: float, losses: NDArray[np.float64], otherwise: float) -> float:
    """Return the first epoch at which a curve is as low as that, or else what is given."""
    found = np.flatnonzero(losses <= loss)
    return float(found[0]) if found.size else otherwise


def _loss(model: Any, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(X), y)


def _step(optimizer: Any, closure: Callable[[], torch.Tensor]) -> list[float]:
    """Take a step; return the ratio of a model step in a list, which is empty for others."""
    if isinstance(optimizer, SMB):
        return _model_ratio(optimizer, closure)
    if isinstance(optimizer, StochasticLineSearch):
        optimizer.step(closure)
        return []
    optimizer.zero_grad()
    closure().backward()
    optimizer.step()
    return []


def _model_ratio(optimizer: SMB, closure: Callable[[], torch.Tensor]) -> list[float]:
    (group,) = optimizer.param_groups
    before = [p.detach().clone() for p in group["params"]]
    models, lr = optimizer.n_model_steps, group["lr"]
    optimizer.step(closure)
    if optimizer.n_model_steps == models:
        return []
    lengths = [
        float((p.detach() - start).norm() / (lr * p.grad.norm()))
        for p, start in zip(group["params"], before, strict=True)
        if p.grad.norm() > 0
    ]
    return [max(lengths) / min(lengths)]


def _measure(model: Any, task: Task) -> tuple[float, float]:
    with torch.no_grad():
        loss = float(_loss(model, task.rows, task.labels))
        hits = model(task.test_rows).argmax(1) == task.test_labels
    return loss if math.isfinite(loss) else math.inf, float(hits.double().mean())

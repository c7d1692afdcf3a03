"""Supervised tasks of the study of target surrogates, and the methods that learn them.

Models are linear with a column of ones. Every method sees the same batches of a seed, and pays one
call for the gradient of a batch's loss in the model's outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits

from thalweg import data
from thalweg._torch import torch
from thalweg.descent import SSO, FiniteSum, StochasticLineSearch, svrg

IMAGES, LABELS = "mnist-t10k-images", "mnist-t10k-labels"
F = torch.nn.functional

SGD_RATES = (0.03, 0.1, 0.3, 0.5, 0.7, 1.0, 2.0, 4.0)
RATES: dict[str, tuple[float, ...]] = {
    "SGD": SGD_RATES,
    "Adam": (0.003, 0.01, 0.03, 0.1, 0.3),
    "AdaGrad": (0.01, 0.03, 0.1, 0.3, 1.0),
    "line search": (1.0,),
    "SVRG": (0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 4.0),
}
TARGET_STEPS = {
    "sgd": 2.0,
    "line-search": 2.0,
    "adagrad": 16.0,
    "adagrad-diag": 3.0,
    "newton": 1.0,
    "mirror": 0.3,
}
"""The best of a few, each three or four times the one before, on digits with ten inner steps."""


@dataclass(frozen=True)
class Task:
    """Rows with a column of ones, labels, and the loss of outputs."""

    X: torch.Tensor
    y: torch.Tensor
    kind: str

    @property
    def outputs(self) -> tuple[int, ...]:
        """Shape of the outputs of one row: classes, or none for one margin."""
        return () if self.kind == "logistic" else (int(self.y.max()) + 1,)

    def start(self) -> torch.nn.Parameter:
        """Return weights of zero."""
        return torch.nn.Parameter(torch.zeros(self.X.shape[1], *self.outputs, dtype=self.X.dtype))

    def loss(self, z: torch.Tensor, rows: Any = slice(None)) -> torch.Tensor:
        """Return the mean loss of the outputs of some rows."""
        y = self.y[rows]
        if self.kind == "logistic":
            return F.softplus((1 - 2 * y) * z).mean()
        if self.kind == "squared":
            wanted = F.one_hot(y, z.shape[1]).to(z.dtype)
            return 0.5 * (z - wanted).square().sum() / len(z)
        return F.cross_entropy(z, y)

    def likelihood(self, p: torch.Tensor, rows: Any = slice(None)) -> torch.Tensor:
        """Return the mean loss of probabilities of some rows."""
        return F.nll_loss(p.log(), self.y[rows])

    def value(self, weight: torch.Tensor) -> float:
        """Return the mean loss of all rows."""
        with torch.no_grad():
            return float(self.loss(self.X @ weight))

    def batches(self, size: int, seed: int) -> Iterator[torch.Tensor]:
        """Yield batches without end, of a new order each pass."""
        generator = torch.Generator().manual_seed(seed)
        n = len(self.X)
        size = min(size, n)
        while True:
            yield from torch.randperm(n, generator=generator)[: n - n % size].split(size)


def task_of(rows: NDArray[Any], labels: NDArray[Any], kind: str) -> Task:
    """Return a task; labels are numbered in their order."""
    numbers = np.unique(labels, return_inverse=True)[1]
    X = torch.tensor(np.column_stack([rows, np.ones(len(rows))]), dtype=torch.float64)
    return Task(X, torch.tensor(numbers), kind)


def digits(kind: str = "cross-entropy") -> Task:
    """Return scikit-learn's digits, pixels in [0, 1]."""
    images, labels = load_digits(return_X_y=True)
    return task_of(images / 16, labels, kind)


def tumours() -> Task:
    """Return scikit-learn's tumours, features standardised, by the logistic loss."""
    rows, labels = load_breast_cancer(return_X_y=True)
    return task_of((rows - rows.mean(axis=0)) / rows.std(axis=0), labels, "logistic")


def mnist(kind: str = "cross-entropy") -> Task:
    """Return MNIST's test images, pixels in [0, 1]."""
    images = data.read_idx(data.fetch(IMAGES, download=False))
    labels = data.read_idx(data.fetch(LABELS, download=False))
    return task_of(images.reshape(len(images), -1) / 255.0, labels.astype(np.int64), kind)


def surrogate_curve(
    task: Task, calls: int, batch: int, seed: int, every: int = 1, **options: Any
) -> NDArray[np.float64]:
    """Train by `SSO`; return the loss of all rows at the start and after each `every` calls."""
    weight = task.start()
    if options.get("variant") == "newton":
        options = {"curvature": task.kind, **options}
    optimizer = SSO([weight], **options)
    loss = task.likelihood if options.get("variant") == "mirror" else task.loss
    losses = [task.value(weight)]
    for call, rows in zip(range(calls), task.batches(batch, seed), strict=False):
        inputs = task.X[rows]
        optimizer.step(partial(torch.matmul, inputs, weight), partial(loss, rows=rows), index=rows)
        if (call + 1) % every == 0:
            losses.append(task.value(weight))
    return np.array(losses)


def baseline_curve(
    task: Task, name: str, rate: float, calls: int, batch: int, seed: int, every: int = 1
) -> NDArray[np.float64]:
    """Train by a method of one update a call; the same curve."""
    weight = task.start()
    optimizer = {
        "SGD": lambda: torch.optim.SGD([weight], lr=rate),
        "Adam": lambda: torch.optim.Adam([weight], lr=rate),
        "AdaGrad": lambda: torch.optim.Adagrad([weight], lr=rate),
        "line search": lambda: StochasticLineSearch(
            [weight], lr=rate, batches=max(len(task.X) // batch, 1)
        ),
    }[name]()
    losses = [task.value(weight)]
    for call, rows in zip(range(calls), task.batches(batch, seed), strict=False):
        if isinstance(optimizer, StochasticLineSearch):
            optimizer.step(partial(batch_loss, task, weight, rows))
        else:
            optimizer.zero_grad()
            batch_loss(task, weight, rows).backward()
            optimizer.step()
        if (call + 1) % every == 0:
            losses.append(task.value(weight))
    return np.array(losses)


def batch_loss(task: Task, weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of some rows at the weights."""
    return task.loss(task.X[rows] @ weight, rows)


class TaskSum(FiniteSum):
    """A task as a finite sum of a flat vector of weights."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.n, self.dim = len(task.X), task.start().numel()

    def component_values(self, x: NDArray[Any], idx: Any = None) -> NDArray[Any]:
        rows = np.arange(self.n)[self.indices(idx)]
        W = self._weight(x)
        return np.array([float(self.task.loss(self.task.X[[i]] @ W, [i])) for i in rows])

    def component_gradients(self, x: NDArray[Any], idx: Any = None) -> NDArray[Any]:
        rows = np.arange(self.n)[self.indices(idx)]
        return np.array([self.gradient(x, np.array([i])) for i in rows])

    def value(self, x: NDArray[Any], idx: Any = None) -> float:
        rows = self._rows(idx)
        return float(self.task.loss(self.task.X[rows] @ self._weight(x), rows))

    def gradient(self, x: NDArray[Any], idx: Any = None) -> NDArray[Any]:
        rows = self._rows(idx)
        W = self._weight(x).requires_grad_()
        loss = self.task.loss(self.task.X[rows] @ W, rows)
        return torch.autograd.grad(loss, W)[0].reshape(-1).numpy()

    def _rows(self, idx: Any) -> Any:
        return slice(None) if idx is None else torch.as_tensor(np.atleast_1d(idx))

    def _weight(self, x: NDArray[Any]) -> torch.Tensor:
        return torch.tensor(x).reshape(-1, *self.task.outputs)


def svrg_loss(task: Task, rate: float, calls: int, batch: int, seed: int) -> float:
    """Train by SVRG for the same component gradients; return the loss.

    An epoch spends about half of them at its snapshot and half on its steps. There is one at
    least, which on many rows is more than the others may spend.
    """
    problem = TaskSum(task)
    inner = max(problem.n // (2 * batch), 1)
    epochs = max(calls * batch // (problem.n + 2 * batch * inner), 1)
    found = svrg(
        problem, np.zeros(problem.dim), step=rate, n_epochs=epochs, inner_steps=inner,
        batch_size=min(batch, problem.n), rng=seed,
    )  # fmt: skip
    return float(found.fun)


def best_baselines(
    task: Task, names: tuple[str, ...], calls: int, batch: int, seeds: range, every: int = 1
) -> dict[str, NDArray[np.float64]]:
    """Return each method's curve, a mean over seeds, at the rate with the least last loss."""
    curves = {}
    for name in names:
        tried = []
        for rate in RATES[name]:
            if name == "SVRG":
                runs = [[svrg_loss(task, rate, calls, batch, seed)] for seed in seeds]
            else:
                runs = [
                    list(baseline_curve(task, name, rate, calls, batch, seed, every))
                    for seed in seeds
                ]
            tried.append(np.mean(runs, axis=0))
        curves[name] = min(tried, key=lambda curve: float(np.nan_to_num(curve[-1], nan=np.inf)))
    return curves


def mean_curve(task: Task, seeds: range, calls: int, batch: int, **options: Any) -> Any:
    """Return the mean over seeds of `surrogate_curve`."""
    runs = [surrogate_curve(task, calls, batch, seed, **options) for seed in seeds]
    return np.mean(runs, axis=0)


def calls_to_reach(curve: NDArray[np.float64], level: float) -> float:
    """Return the calls at which a curve first lies at or under a level; infinity if never."""
    below = np.flatnonzero(curve <= level)
    return float(below[0]) if len(below) else float("inf")

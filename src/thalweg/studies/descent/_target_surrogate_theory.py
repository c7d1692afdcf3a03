"""What is proven of target surrogates, on problems whose constants are known."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch
from thalweg.descent import SSO, majorisation_bound, smoothness, surrogate_value
from thalweg.studies.descent._target_surrogate_learning import Task, digits, tumours

ROWS = 100
NOISE = 2.0
NOISY_ROWS, NOISY_COLUMNS = 500, 20
TOO_SHORT, CONTROL_STEPS = 1e-4, 160
"""The negative control makes inner steps so much shorter than the bound asks for."""


def random_gaps(task: Task, eta: float, points: int, rng: np.random.Generator) -> Any:
    """Return the surrogate less the loss at random weights, around other random weights."""
    shape = (task.X.shape[1], *task.outputs)
    gaps = []
    for scale in 10.0 ** rng.uniform(-2, 0, size=points):
        here, there = (torch.tensor(rng.normal(size=shape)) * 0.1 for _ in range(2))
        z, f = task.X @ here, task.X @ (here + scale * there)
        leaf = z.clone().requires_grad_()
        loss = task.loss(leaf)
        (slope,) = torch.autograd.grad(loss, leaf)
        S = loss.detach() + surrogate_value(f, z, slope * len(z), eta)
        gaps.append(float(S - task.loss(f)))
    return np.array(gaps)


def upper_bound(points: int, rng: np.random.Generator) -> dict[str, Any]:
    """Compare the surrogate with the loss for the safe step, half of it, and ten times it."""
    safe, violations = [], []
    each = -(-points // 6)
    for task in (digits("squared"), digits(), tumours()):
        part = Task(task.X[:ROWS], task.y[:ROWS], task.kind)
        step = 1 / smoothness(task.kind)
        for share in (1.0, 0.5):
            safe.append(float(random_gaps(part, share * step, each, rng).min()))
        violations.append(-float(random_gaps(part, 10 * step, each, rng).min()))
    return {"upper_bound_gap": min(safe), "bound_violations": np.array(violations)}


def descent_run(length: float, steps: int, inner_steps: int) -> tuple[Any, Any, Any]:
    """Full-batch steps on digits, with inner gradient steps of `length` over the smoothness.

    Returns the losses, the least squared gradient norms so far, and the bounds on them (with zero
    for the infimum of the loss, which it is not below).
    """
    task = digits()
    eta = 1 / smoothness(task.kind)
    beta = float(torch.linalg.matrix_norm(task.X, 2)) ** 2 / (len(task.X) * eta)
    weight = task.start()
    optimizer = SSO(
        [weight], target_step=eta, inner_steps=inner_steps,
        inner=partial(torch.optim.SGD, lr=length / beta),
    )  # fmt: skip
    losses, squares = [], []
    for _ in range(steps):
        loss = task.loss(task.X @ weight)
        squares.append(float(torch.autograd.grad(loss, weight)[0].square().sum()))
        losses.append(float(optimizer.step(lambda: task.X @ weight, task.loss)))
    bounds = [majorisation_bound(beta, losses[0], t + 1) for t in range(steps)]
    return np.array(losses), np.minimum.accumulate(squares), np.array(bounds)


def majorisation(steps: int) -> dict[str, Any]:
    """Full-batch descent under its bound, and a run that breaks it."""
    losses, least, bounds = descent_run(1.0, steps, 3)
    _, wrong, wrong_bounds = descent_run(TOO_SHORT, CONTROL_STEPS, 1)
    return {
        "largest_rise": float(np.diff(losses).max()),
        "majorisation_ratio": float(np.max(least / bounds)),
        "majorisation_control": float(np.max(wrong / wrong_bounds)),
    }


def noisy_gap(schedule: str, calls: int, batch: int, seed: int) -> NDArray[np.float64]:
    """Gaps of a regression whose batches have no common solution."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    X = normal(NOISY_ROWS, NOISY_COLUMNS)
    y = X @ normal(NOISY_COLUMNS) + NOISE * normal(NOISY_ROWS)

    def loss(z: torch.Tensor, rows: Any = slice(None)) -> torch.Tensor:
        return 0.5 * (z - y[rows]).square().mean()

    best = float(loss(X @ torch.linalg.lstsq(X, y[:, None]).solution[:, 0]))
    weight = torch.nn.Parameter(torch.zeros(NOISY_COLUMNS, dtype=torch.float64))
    optimizer = SSO([weight], target_step=1.0, inner_steps=10, schedule=schedule, inner_init=2.0)
    gaps = []
    for _ in range(calls):
        gaps.append(float(loss(X @ weight.detach())) - best)
        rows = torch.randint(NOISY_ROWS, (batch,), generator=generator)
        optimizer.step(partial(torch.matmul, X[rows], weight), partial(loss, rows=rows))
    return np.array(gaps)


def decaying(calls: int, seeds: range) -> dict[str, Any]:
    """Mean gaps with constant and decaying target steps."""
    curves = {
        schedule: np.mean([noisy_gap(schedule, calls, 50, seed) for seed in seeds], axis=0)
        for schedule in ("constant", "sqrt")
    }
    final = {name: float(np.mean(curve[-10:])) for name, curve in curves.items()}
    return {
        "noisy_constant": curves["constant"],
        "noisy_sqrt": curves["sqrt"],
        "decay_ratio": final["sqrt"] / final["constant"],
    }

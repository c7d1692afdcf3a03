"""How a surrogate is built from one target gradient: step, metric, and what it remembers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from thalweg._torch import torch
from thalweg._validation import check_option
from thalweg.descent._surrogate_inner import averaged
from thalweg.descent._surrogate_inputs import check_finite

TargetLoss = Callable[[torch.Tensor], torch.Tensor]

SHORTEST_TARGET_STEP, LONGEST_TARGET_STEP = 1e-4, 1e4
TARGET_SHRINK = 0.9
MOST_TRIALS = 100
LEAST_SQUARE, LARGEST_SQUARE = 1e-5, 1e5
LEAST_CURVATURE = 1e-5
SMOOTHNESS = {"squared": 1.0, "logistic": 0.25, "cross-entropy": 0.5}


@dataclass(frozen=True)
class Surrogate:
    """A model of the loss around targets: linear, and a distance over the target step.

    `metric` weighs the squares of each output; None is one. With `logs` the targets are
    probabilities, whose logarithms these are, and the distance is the divergence from them.
    """

    targets: torch.Tensor
    gradient: torch.Tensor
    eta: float
    metric: torch.Tensor | None = None
    logs: torch.Tensor | None = None

    def __call__(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the surrogate at the model's outputs, less the loss at the targets."""
        outputs = outputs.to(self.targets.dtype)
        if self.logs is None:
            return quadratic(outputs, self.targets, self.gradient, self.eta, self.metric)
        logs = torch.log_softmax(outputs, dim=-1)
        p = logs.exp()
        divergence = (p * (logs - self.logs)).sum()
        return ((self.gradient * (p - self.targets)).sum() + divergence / self.eta) / len(p)


def quadratic(
    outputs: torch.Tensor,
    z: torch.Tensor,
    G: torch.Tensor,
    eta: float,
    metric: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean over samples of <G, f - z> + (f - z)² metric / (2 eta)."""
    move = outputs - z
    weighed = move if metric is None else move * metric
    return (torch.add(G, weighed, alpha=1 / (2 * eta)) * move).sum() / len(z)


def construct(
    outputs: torch.Tensor,
    target_loss: TargetLoss,
    rows: torch.Tensor | None,
    number: int,
    options: dict[str, Any],
    curvature: Callable[[torch.Tensor], torch.Tensor] | None,
    seen: dict[str, Any],
) -> tuple[Surrogate, torch.Tensor, dict[str, Any]]:
    """Return the surrogate, the loss, and what to remember of it in `seen`.

    The calls of the loss are counted in `seen` at once.
    """
    variant = options["variant"]
    # a copy, since outputs may be a view of the parameters
    z = outputs.detach().clone().to(torch.promote_types(outputs.dtype, torch.float32))
    check_finite("the outputs", z, number)
    logs = torch.log_softmax(z, dim=-1) if variant == "mirror" else None
    targets = z if logs is None else logs.exp()
    loss, G = target_gradient(target_loss, targets, number, seen)
    square = float(averaged(G.square().sum() / len(G)))
    eta, metric = options["target_step"], None
    news: dict[str, Any] = {}
    if variant == "line-search" and square > 0:
        start = options["target_expand"] * (seen["searched_step"] or eta)
        eta = news["searched_step"] = target_search(
            target_loss, targets, G, loss, square, start, options["target_c"], seen
        )
    elif variant == "adagrad":
        total = news["sum_of_squares"] = seen["sum_of_squares"] + square
        eta = eta / math.sqrt(total) if total > 0 else eta
    elif variant == "adagrad-diag" and rows is not None:
        news["table"] = accumulated(seen["table"], rows, G)
        metric = news["table"][rows].sqrt()
    elif variant == "newton" and curvature is not None:
        with torch.no_grad():
            metric = checked_metric(curvature(z), z)
    eta *= scheduled(options["schedule"], number, options["total_steps"])
    return Surrogate(targets, G, eta, metric, logs), loss, news | {"last_target_step": eta}


def target_gradient(
    target_loss: TargetLoss, targets: torch.Tensor, number: int, seen: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss, and b times its gradient: of each sample's own loss."""
    leaf = targets.clone().requires_grad_()
    with torch.enable_grad():
        loss = target_loss(leaf)
        if not isinstance(loss, torch.Tensor):
            raise TypeError(f"target_loss must return a tensor, got {type(loss).__name__}")
        if loss.numel() != 1 or not loss.requires_grad:
            raise ValueError("target_loss must return one number that depends on the outputs")
        seen["n_target_grad"] += 1
        (slope,) = torch.autograd.grad(loss, leaf)
    check_finite("the loss", loss.detach(), number)
    check_finite("the target gradient", slope, number)
    return loss.detach(), slope * len(leaf)


def scheduled(schedule: str, step: int, total: int | None) -> float:
    """Return the factor of the target step at outer step 1, 2, ...

    Examples
    --------
    >>> scheduled("sqrt", 4, None), scheduled("exponential", 5, 10)
    (0.5, 0.31622776601683794)
    """
    if schedule == "sqrt":
        return 1 / math.sqrt(step)
    if schedule == "exponential" and total is not None:
        return float((1 / total) ** (step / total))
    return 1.0


def target_search(
    target_loss: TargetLoss,
    z: torch.Tensor,
    G: torch.Tensor,
    loss: torch.Tensor,
    square: float,
    start: float,
    c: float,
    seen: dict[str, Any],
) -> float:
    """Return the first target step, from `start` down, that lowers the loss of the targets enough.

    The shortest that is tried is returned where none of them does.
    """
    before = float(averaged(loss))
    eta = min(max(start, SHORTEST_TARGET_STEP), LONGEST_TARGET_STEP)
    for _ in range(MOST_TRIALS):
        with torch.no_grad():
            ahead = float(averaged(target_loss(z - eta * G)))
        seen["n_target_value"] += 1
        accepted = math.isfinite(ahead) and ahead <= before - c * eta * square
        if accepted or eta == SHORTEST_TARGET_STEP:
            break
        eta = max(eta * TARGET_SHRINK, SHORTEST_TARGET_STEP)
    return eta


def accumulated(
    table: torch.Tensor | None, index: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """Return the table of the squares of each row's gradients, with those of `index` added.

    It grows with the rows that are seen. A row that the batch holds twice is added once.
    """
    rows = int(index.max()) + 1
    old = 0 if table is None else len(table)
    if table is not None and table.shape[1:] != gradient.shape[1:]:
        raise ValueError(
            f"outputs must have the shape {tuple(table.shape[1:])} a sample, as before, "
            f"got {tuple(gradient.shape[1:])}"
        )
    fresh = gradient.new_full((max(rows, old), *gradient.shape[1:]), 0.0)
    if table is not None:
        fresh[:old] = table
    fresh[index] = (fresh[index] + gradient.square()).clamp(LEAST_SQUARE, LARGEST_SQUARE)
    return fresh


def curvature_of(name: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return the curvature of a named loss, a callable as it is; ValueError otherwise."""
    if name is None:
        return None
    if callable(name):
        given: Callable[[torch.Tensor], torch.Tensor] = name
        return given
    named: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "squared": torch.ones_like,
        "logistic": _logistic,
        "cross-entropy": _softmax,
    }
    return named[check_option("curvature", name, SMOOTHNESS)]


def checked_metric(metric: Any, z: torch.Tensor) -> torch.Tensor:
    """Return a curvature as positive weights of the outputs' shape; ValueError otherwise."""
    if not isinstance(metric, torch.Tensor) or metric.shape != z.shape:
        found = tuple(metric.shape) if isinstance(metric, torch.Tensor) else repr(metric)
        raise ValueError(f"curvature must return a tensor of shape {tuple(z.shape)}, got {found}")
    metric = metric.detach().to(z.dtype)
    if not bool(((metric > 0) & metric.isfinite()).all()):
        raise ValueError("curvature must be positive and finite in every entry")
    return metric


def _logistic(z: torch.Tensor) -> torch.Tensor:
    p = torch.sigmoid(z)
    return p * (1 - p) + LEAST_CURVATURE


def _softmax(z: torch.Tensor) -> torch.Tensor:
    p = torch.softmax(z, dim=-1)
    return p * (1 - p) + LEAST_CURVATURE

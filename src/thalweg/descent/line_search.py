"""Train a torch network by SGD whose step length is found by a line search on each batch.

`StochasticLineSearch` needs no schedule of learning rates: it tries a step along the batch's
gradient, shortens it until the loss of the *same* batch has fallen enough (Armijo's condition),
and lets the next search begin a little longer. Where every batch can be fitted it converges like
gradient descent.

Source: "Optimization Methods for Large-Scale Machine Learning" (2016), arXiv 1606.04838, section
5.2 (line searches on samples); the rule for the start of each search is that of "Painless
Stochastic Gradient: Interpolation, Line-Search, and Convergence Rates" (2019), arXiv 1905.09997,
Algorithms 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from thalweg._torch import torch
from thalweg._validation import check_count, check_option, check_real
from thalweg.descent._torch_steps import (
    CheckedOptimizer,
    refuse_sparse,
    undifferentiated,
)

KEEP, GROW, RESTART = RESETS = (0, 1, 2)
MOST_TRIALS = 100


class StochasticLineSearch(CheckedOptimizer):
    r"""SGD with an Armijo line search on each batch.

    With the batch's loss f, its gradient g and one search for all groups, `step` takes the first
    :math:`\eta` of start, start * shrink, start * shrink^2, ... with

    .. math:: f(w - \eta g) \le f(w) - c\, \eta \|g\|^2.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups; a group may have its own value of every option. The groups
        are searched together: each moves by its own step length, and the fall that is asked for is
        the sum of theirs.
    lr : float, default 1.0
        Step length of the first search, > 0.
    c : float, default 0.1
        Share of the fall predicted by the gradient that a step must bring, in (0, 1).
    shrink : float, default 0.9
        Factor of the step after each refused trial, in (0, 1).
    expand : float, default 2.0
        How much longer the starts become over an epoch without refused trials, >= 1.
    reset : {0, 1, 2}, default 1
        Where a search starts: 0, at the last accepted step; 1, at that times
        ``expand ** (1 / batches)``; 2, at `lr` each time.
    batches : int, default 1
        Batches of an epoch.

    Raises
    ------
    TypeError, ValueError
        If an option is out of range or a parameter is not real.

    Notes
    -----
    `step` needs a closure, and the closure does **not** call ``backward``: it computes the loss of
    the batch at the parameters as they are and returns it, the same whenever it is called at the
    same parameters (draw dropout masks outside it). `step` differentiates it once, and calls it
    again without gradients for every trial. Old gradients are cleared.

    With `reset` 0 and 1 the accepted step is written to ``group["lr"]``, so a scheduler scales the
    start of the next search. Every group also has ``group["step_size"]``, the last accepted step,
    and ``group["evaluations"]``, the calls of the closure in the last step. A trial whose loss is
    not finite is refused. If 100 trials are refused the parameters stay, ``step_size`` is 0, and
    the next search goes on from the shortest one.

    References
    ----------
    "Painless Stochastic Gradient" (2019), arXiv 1905.09997, Algorithms 1 and 2.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.tensor([4.0]))
    >>> optimizer = StochasticLineSearch([weight], lr=8.0, c=0.5, shrink=0.5, reset=0)
    >>> optimizer.step(lambda: (weight**2).sum() / 2).item()
    8.0
    >>> weight.data, optimizer.param_groups[0]["lr"]
    (tensor([0.]), 1.0)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        c: float = 0.1,
        shrink: float = 0.9,
        expand: float = 2.0,
        reset: int = GROW,
        batches: int = 1,
    ) -> None:
        options = {"lr": lr, "c": c, "shrink": shrink, "expand": expand}
        super().__init__(params, {**options, "reset": reset, "batches": batches})

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "lr": check_real("lr", options["lr"], above=0),
            "c": check_real("c", options["c"], above=0, below=1),
            "shrink": check_real("shrink", options["shrink"], above=0, below=1),
            "expand": check_real("expand", options["expand"], at_least=1),
            "reset": check_option("reset", options["reset"], RESETS),
            "batches": check_count("batches", options["batches"]),
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Search along the gradient of the closure's loss and move.

        Parameters
        ----------
        closure : callable
            Returns the loss of the batch, without calling ``backward``.

        Returns
        -------
        tensor
            The loss before the step.

        Raises
        ------
        TypeError
            If there is no closure, or it calls ``backward``.
        ValueError
            If its loss does not depend on the parameters, or a gradient is sparse.
        RuntimeError
            If the loss or its gradient is not finite at the parameters, which then stay.
        """
        loss = self._differentiated(closure)
        moving = [
            (group, [p for p in group["params"] if p.grad is not None])
            for group in self.param_groups
        ]
        squares = [sum(_squared(p.grad) for p in parameters) for _, parameters in moving]
        before = float(loss)
        if not math.isfinite(before) or not math.isfinite(sum(squares)):
            raise RuntimeError(f"loss and gradient must be finite, got a loss of {before:g}")
        for group in self.param_groups:
            group.update(step_size=0.0, evaluations=1)
        if sum(squares) == 0:
            return loss
        start = [[p.clone() for p in parameters] for _, parameters in moving]
        steps = [_start(group) for group in self.param_groups]
        accepted = False
        try:
            for trial in range(MOST_TRIALS):
                lengths = [
                    first * group["shrink"] ** trial
                    for first, group in zip(steps, self.param_groups, strict=True)
                ]
                _move(moving, start, lengths)
                fall = sum(
                    group["c"] * length * square
                    for (group, _), length, square in zip(moving, lengths, squares, strict=True)
                )
                ahead = float(closure())  # type: ignore[misc]
                accepted = math.isfinite(ahead) and ahead <= before - fall
                if accepted:
                    break
        finally:
            if not accepted:
                _move(moving, start, [0.0] * len(moving))
        for group, length in zip(self.param_groups, lengths, strict=True):
            group["evaluations"] = trial + 2
            group["step_size"] = length if accepted else 0.0
            if group["reset"] != RESTART:
                group["lr"] = length
        return loss

    def _differentiated(self, closure: Callable[[], Any] | None) -> torch.Tensor:
        """The closure's loss, its gradients left in the parameters."""
        loss: torch.Tensor = undifferentiated(self, closure)
        with torch.enable_grad():
            loss.backward()
        refuse_sparse(self.param_groups)
        return loss


def _start(group: dict[str, Any]) -> float:
    growth = group["expand"] ** (1.0 / group["batches"]) if group["reset"] == GROW else 1.0
    return float(group["lr"]) * growth


def _move(
    moving: list[tuple[dict[str, Any], list[Any]]], start: list[list[Any]], lengths: list[float]
) -> None:
    for (_, parameters), origins, length in zip(moving, start, lengths, strict=True):
        for parameter, origin in zip(parameters, origins, strict=True):
            parameter.copy_(origin)
            if length:
                parameter.sub_(parameter.grad, alpha=length)


def _squared(gradient: torch.Tensor) -> float:
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return float(torch.linalg.vector_norm(gradient, dtype=wide)) ** 2

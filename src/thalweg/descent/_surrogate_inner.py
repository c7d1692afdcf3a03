"""How a surrogate is lowered: the inner minimisers of `thalweg.descent.SSO`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from thalweg._torch import torch
from thalweg.descent._torch_steps import refuse_sparse

MOST_TRIALS = 100
SHORTEST_STEP = 1e-10
LBFGS_EVALUATIONS = 25
"""Evaluations that one iteration of L-BFGS may take on the average."""


class ParameterModel:
    """A surrogate as a function of the parameters.

    The graph of the last evaluation is kept for `differentiate`, so that a point is evaluated once.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        forward: Callable[[], torch.Tensor],
        surrogate: Callable[[torch.Tensor], torch.Tensor],
        outputs: torch.Tensor,
    ) -> None:
        self.parameters = trained(groups)
        self.n_forward = 1
        self._groups = groups
        self._forward = forward
        self._surrogate = surrogate
        with torch.enable_grad():
            self._value = surrogate(outputs)

    @property
    def value(self) -> float:
        """The surrogate at the last evaluation, averaged over the processes."""
        return float(averaged(self._value.detach()))

    def evaluate(self) -> float:
        """Return the surrogate at the parameters as they are."""
        self.n_forward += 1
        with torch.enable_grad():
            self._value = self._surrogate(self._forward())
        return self.value

    def differentiate(self) -> float:
        """Leave the gradient of the last evaluation in the parameters; return its squared norm."""
        found = torch.autograd.grad(self._value, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, found, strict=True):
            parameter.grad = gradient
        refuse_sparse(self._groups)
        total = 0.0
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad = averaged(parameter.grad)
                total += squared(parameter.grad)
        return total

    def move(self, start: list[torch.Tensor], length: float) -> None:
        """Go from `start` along minus the gradient."""
        with torch.no_grad():
            for parameter, origin in zip(self.parameters, start, strict=True):
                if parameter.grad is not None:
                    torch.sub(origin, parameter.grad, alpha=length, out=parameter)


def armijo(
    model: ParameterModel, check: Callable[[float], None], options: dict[str, Any], last: float
) -> tuple[int, float]:
    """Take gradient steps with backtracking; return how many, and the last length."""
    taken, value = 0, model.value
    for _ in range(options["inner_steps"]):
        square = model.differentiate()
        check(square)
        if math.sqrt(square) <= options["inner_tol"] or last < SHORTEST_STEP:
            break
        start, accepted = copies(model.parameters), False
        length = options["expand"] * last
        for _ in range(MOST_TRIALS):
            model.move(start, length)
            ahead = model.evaluate()
            fall = options["inner_c"] * length * square
            accepted = math.isfinite(ahead) and ahead <= value - fall
            if accepted:
                taken, value = taken + 1, ahead
                break
            length *= options["inner_shrink"]
            if length < SHORTEST_STEP:
                break
        if not accepted:
            restore(model.parameters, start)
            value = model.evaluate()
        last = length
    return taken, last


def lbfgs(model: ParameterModel, check: Callable[[float], None], options: dict[str, Any]) -> int:
    """Run L-BFGS with a strong Wolfe search; return its iterations."""
    square = model.differentiate()
    check(square)
    if math.sqrt(square) <= options["inner_tol"]:
        return 0
    inner = torch.optim.LBFGS(
        model.parameters,
        max_iter=options["inner_steps"],
        max_eval=LBFGS_EVALUATIONS * options["inner_steps"],
        tolerance_grad=options["inner_tol"] / math.sqrt(sum(p.numel() for p in model.parameters)),
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    first = True

    def closure() -> float:
        nonlocal first
        if not first:
            model.evaluate()
            model.differentiate()
        first = False
        return model.value

    inner.step(closure)
    check(sum(map(squared, model.parameters)))
    return int(inner.state[model.parameters[0]]["n_iter"])


def stepped(
    model: ParameterModel,
    check: Callable[[float], None],
    options: dict[str, Any],
    factory: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
) -> int:
    """Take the steps of an optimizer made for this surrogate; return how many."""
    inner = factory(model.parameters)
    for taken in range(options["inner_steps"]):
        if taken:
            check(model.evaluate())
        square = model.differentiate()
        check(square)
        if math.sqrt(square) <= options["inner_tol"]:
            return taken
        inner.step()
    check(sum(map(squared, model.parameters)))
    return int(options["inner_steps"])


def trained(groups: list[dict[str, Any]]) -> list[torch.nn.Parameter]:
    """Return the parameters of all groups that need a gradient."""
    return [p for group in groups for p in group["params"] if p.requires_grad]


def copies(parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    """Return the values of the parameters, to go back to."""
    return [parameter.detach().clone() for parameter in parameters]


def restore(parameters: list[torch.nn.Parameter], start: list[torch.Tensor]) -> None:
    """Put the parameters back."""
    with torch.no_grad():
        for parameter, origin in zip(parameters, start, strict=True):
            parameter.copy_(origin)


def squared(tensor: torch.Tensor) -> float:
    """Return the squared norm, in single precision or better."""
    tensor = tensor.detach()
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return float(torch.linalg.vector_norm(tensor, dtype=wide)) ** 2


def averaged(tensor: torch.Tensor) -> torch.Tensor:
    """Return the mean over the processes of the default group; the tensor itself without one."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return tensor
    processes = distributed.get_world_size()
    if processes == 1:
        return tensor
    total = tensor.detach().clone()
    distributed.all_reduce(total)
    return total / processes

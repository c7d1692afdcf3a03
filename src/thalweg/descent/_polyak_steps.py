"""What the torch optimizers with Polyak's steps share: losses, norms over all groups, memories."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

from thalweg._torch import torch
from thalweg.descent._torch_steps import CheckedOptimizer, evaluated, processes, refuse_sparse
from thalweg.descent._trial_steps import numbers_of
from thalweg.descent.polyak import is_below

MEMORY = "momentum_buffer"


class PolyakOptimizer(CheckedOptimizer):
    """Reads the loss, finds the length from one transfer of numbers, moves all groups by it."""

    common: tuple[str, ...] = ()
    """Options that must agree in all groups."""
    _warned = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with its own options or the defaults.

        Raises
        ------
        TypeError, ValueError
            If an option is out of range or differs where all groups must agree, or a parameter is
            not real; the group is not added then.
        """
        if isinstance(param_group, dict):
            param_group = dict(param_group)
            if "lr_max" in param_group:
                if "lr" in param_group:
                    raise ValueError("lr_max and lr are one option, got both")
                param_group["lr"] = param_group.pop("lr_max")
            for name in self.common if self.param_groups else ():
                first = self.param_groups[0][name]
                if param_group.get(name, first) != first:
                    raise ValueError(
                        f"{name} must be {first!r} in every group, as in the first, "
                        f"got {param_group[name]!r}"
                    )
        super().add_param_group(param_group)
        self.param_groups[-1]["last_step"] = 0.0

    @property
    def last_step(self) -> float:
        """The longest step that a group took last; 0.0 before the first."""
        return max(float(group["last_step"]) for group in self.param_groups)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, loss: Any = None) -> Any:
        """Take one step with the gradients of the loss.

        Parameters
        ----------
        closure : callable
            Clears the gradients, computes the loss, **calls** ``backward`` on it and returns it, as
            torch's own optimizers have it.
        loss : tensor or float
            In place of the closure: the loss whose gradients the parameters have.

        Returns
        -------
        tensor or float
            The loss, as it was given.

        Raises
        ------
        TypeError
            If not just one of `closure` and `loss` is given, or the loss is no number.
        ValueError
            If the loss has more than one entry, or a gradient is sparse.
        RuntimeError
            If the loss or a gradient is not finite. Parameters and momentum stay then.
        """
        if (closure is None) == (loss is None):
            raise TypeError("step needs just one of closure and loss")
        given = loss if closure is None else evaluated(closure)
        value = _scalar(given)
        refuse_sparse(self.param_groups)
        parts = [Part(self, group) for group in self.param_groups]
        parts = [part for part in parts if part.parameters]
        for group in self.param_groups:
            group["last_step"] = 0.0
        if parts:
            self._advance(parts, value)
        return given

    def _advance(self, parts: list[Part], loss: Any) -> None:
        raise NotImplementedError

    def numbers(self, loss: Any, *lists: list[torch.Tensor]) -> tuple[float, list[list[float]]]:
        """Return the gap of the loss and lists of scalars as numbers, by one transfer."""
        scalars = [scalar for several in lists for scalar in several]
        if isinstance(loss, torch.Tensor):
            loss, *read = numbers_of([_whole(scalar) for scalar in [loss, *scalars]])
        else:
            read = numbers_of([_whole(scalar) for scalar in scalars])
        if not all(map(math.isfinite, [loss, *read])):
            raise RuntimeError(f"loss and gradients must be finite, got a loss of {loss:g}")
        numbers = iter(read)
        f_star = self.param_groups[0]["f_star"]
        gap = loss - f_star
        if is_below(gap, f_star) and not self._warned:
            self._warned = True
            warnings.warn(
                f"f_star is not a lower bound: a loss was {loss:g}, f_star is {f_star:g}; "
                "such batches count as fitted",
                RuntimeWarning,
                stacklevel=6,
            )
        return max(gap, 0.0), [[next(numbers) for _ in several] for several in lists]


class Part:
    """The parameters of a group that have gradients, beside these."""

    def __init__(self, optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
        self.group = group
        self.parameters = [p for p in group["params"] if p.grad is not None]
        self.gradients = [p.grad for p in self.parameters]
        self._state = optimizer.state

    def memories(self) -> list[torch.Tensor]:
        """What is remembered of each parameter, zeros at first."""
        states = [self._state.get(p, {}) for p in self.parameters]
        return [
            state[MEMORY] if MEMORY in state else torch.zeros_like(p)
            for state, p in zip(states, self.parameters, strict=True)
        ]

    def averages(self) -> list[torch.Tensor]:
        """The gradients plus a share of what is remembered, as new tensors."""
        return list(
            torch._foreach_add(self.gradients, self.memories(), alpha=self.group["momentum"])
        )

    def keep(self, memories: Iterable[torch.Tensor]) -> None:
        for parameter, memory in zip(self.parameters, memories, strict=True):
            self._state[parameter][MEMORY] = memory


def _scalar(loss: Any) -> Any:
    """Return the loss as a detached tensor of one entry, or as a float."""
    if isinstance(loss, torch.Tensor):
        if loss.numel() != 1 or loss.is_complex():
            raise ValueError(f"loss must be one real number, got shape {tuple(loss.shape)}")
        value = loss.detach().reshape(())
        size = processes()
        if size > 1:
            value = value.to(torch.promote_types(value.dtype, torch.float32)).clone()
            torch.distributed.all_reduce(value)
            value /= size
        return value
    if isinstance(loss, bool) or not isinstance(loss, Real):
        raise TypeError(f"loss must be a number or a tensor of one, got {loss!r}")
    if processes() > 1:
        return _scalar(torch.tensor(float(loss), dtype=torch.float64))
    return float(loss)


def norms_of(lists: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """Norm of each tensor, in float32 or wider."""
    kinds: dict[torch.dtype, list[torch.Tensor]] = {}
    for several in lists:
        for tensor in several:
            kinds.setdefault(tensor.dtype, []).append(tensor)
    found: list[torch.Tensor] = []
    for dtype, alike in kinds.items():
        found += torch._foreach_norm(alike, 2, dtype=torch.promote_types(dtype, torch.float32))
    return found


def _whole(scalar: torch.Tensor) -> torch.Tensor:
    """Reduce a scalar that is spread over processes."""
    return scalar.full_tensor() if hasattr(scalar, "full_tensor") else scalar

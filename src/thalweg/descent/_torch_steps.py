"""What the torch optimizers of this domain share: checked groups, closures, dense gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from thalweg._torch import torch


class CheckedOptimizer(torch.optim.Optimizer):
    """An optimizer that checks the options of every parameter group before it takes it.

    A child names its options in `_checked`, gives its defaults through the constructor, and reads
    each option from the group at every step, so that schedulers work.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        super().__init__(params, self._checked(defaults))

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options a group may have, checked; raise ValueError or TypeError by name."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with its own options or the defaults.

        Raises
        ------
        TypeError, ValueError
            If an option is out of range or a parameter is not real; the group is not added then.
        """
        super().add_param_group(param_group)
        try:
            for name, parameter in named(param_group):
                if not parameter.is_floating_point():
                    raise TypeError(
                        f"params must be real floating point, got {parameter.dtype} ({name})"
                    )
            param_group.update(self._checked(param_group))
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise


def named(group: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Pairs of name and parameter of a group, by number and shape where it has no names."""
    parameters = group["params"]
    numbered = (f"number {i} of shape {tuple(p.shape)}" for i, p in enumerate(parameters))
    return zip(group.get("param_names", numbered), parameters, strict=True)


def evaluated(closure: Callable[[], Any] | None) -> Any:
    """The value of a closure, called with gradients on; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def undifferentiated(optimizer: torch.optim.Optimizer, closure: Callable[[], Any] | None) -> Any:
    """Return the loss of a closure that does not call backward, with its graph; clear gradients.

    Raises TypeError where there is no closure or it calls backward, ValueError where its loss does
    not depend on the parameters.
    """
    if closure is None:
        raise TypeError("closure must be a callable that returns the loss, got None")
    optimizer.zero_grad(set_to_none=True)
    loss = evaluated(closure)
    if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
        raise TypeError("closure must return the loss without calling backward, it called it")
    if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
        raise ValueError("closure must return a tensor that depends on the parameters")
    return loss


def refuse_sparse(groups: list[dict[str, Any]]) -> None:
    """Raise ValueError naming the first parameter whose gradient is sparse."""
    for group in groups:
        for place, parameter in enumerate(group["params"]):
            if parameter.grad is not None and parameter.grad.layout != torch.strided:
                name, _ = list(named(group))[place]
                raise ValueError(f"gradients must be dense, got a sparse one for parameter {name}")


def processes() -> int:
    """How many processes train together: 1 where torch.distributed is not initialised."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size())
    return 1

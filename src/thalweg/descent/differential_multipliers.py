r"""Train under constraints on other losses, whose weights are found on the way, not tuned.

Gradient descent in the parameters and ascent in one multiplier a constraint, both at once, spirals
around the constrained optimum; a quadratic damping term draws the spiral in. A multiplier ends as
the price of its constraint: how much the optimum changes when the constraint's value does.

`thalweg.descent.minimize_differential_multipliers` is the same for functions of NumPy arrays.

Source: "Constrained Differential Optimization" (1988), Platt and Barr; "Transforming Simulation to
Data Without Pairing" (2025), arXiv 2504.12343.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from thalweg._torch import torch
from thalweg._validation import check_real
from thalweg.descent._scalar_constraints import Constraint
from thalweg.descent._torch_steps import CheckedOptimizer, evaluated, refuse_sparse

__all__ = ["Constraint", "DifferentialMultipliers", "MultiplierStep"]


@dataclass(frozen=True)
class MultiplierStep:
    """What `DifferentialMultipliers.step` saw, before it moved.

    Attributes
    ----------
    loss : float
        The primary loss.
    values, infeasibilities, multipliers : tuple of float
        g, h and lambda of each constraint.
    """

    loss: float
    values: tuple[float, ...]
    infeasibilities: tuple[float, ...]
    multipliers: tuple[float, ...]


class DifferentialMultipliers(CheckedOptimizer):
    r"""Minimise a loss under constraints: the modified differential multiplier method (MDMM).

    Descent in the parameters and slacks, ascent in the multipliers, by one evaluation a step, of

    .. math:: f + \sum_i c_i (\lambda_i h_i + d_i h_i^2 / 2)

    with the scales c, dampings d and infeasibilities h of the constraints.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups; a group may set `lr` and the options of `optimizer`.
    constraints : sequence of Constraint
        The constraints.
    lr : float, default 1e-3
        Learning rate of the parameters; that of the slacks is the first group's.
    multiplier_lr : float, optional
        Learning rate of the multipliers; None is the first group's `lr`, as it is at each step.
    optimizer : callable, default torch.optim.Adam
        ``optimizer(groups, lr=lr)``: a `torch.optim` class, which moves the parameters.
    multiplier_optimizer : callable, optional
        The same for slacks and multipliers, without weight decay; None is `optimizer`. Where
        constraints are noisy, `torch.optim.SGD` lets the noise average out; Adam takes steps of
        nearly one length, whatever the signal is.
    grad_clip : float, optional
        Largest norm of the gradient of the parameters.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as stated; in `step`, if a gradient is sparse.

    Notes
    -----
    Multipliers, slacks and their optimizer are part of `state_dict`. With a process group, reduce
    the gradients in the backward pass as DistributedDataParallel does; every rank then follows the
    multiplier of its own value of the constraint.

    Deviations from the common form: h has the sign of "allowed minus value" for "min" too, so that
    ``scale * multiplier`` is the derivative of the optimum in the constraint's value throughout;
    and a slack starts away from 0, where it would never leave and hold an inequality as an
    equality.

    References
    ----------
    Platt and Barr, "Constrained Differential Optimization" (1988), eqs. (4) to (8). "Transforming
    Simulation to Data Without Pairing" (2025), arXiv 2504.12343.

    Examples
    --------
    The point of the unit circle nearest to (3, 4); its distance falls by 2 (5 - 1) / 2 for each
    unit of the squared radius.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.tensor([1.0, 0.0]))
    >>> circle = Constraint(lambda: x.square().sum(), "eq", 1.0)
    >>> optimizer = DifferentialMultipliers(
    ...     [x], [circle], lr=0.05, multiplier_lr=0.5, optimizer=torch.optim.SGD
    ... )
    >>> target = torch.tensor([3.0, 4.0])
    >>> for _ in range(200):
    ...     record = optimizer.step(lambda: (x - target).square().sum())
    >>> x.data, round(optimizer.multipliers[0], 3)
    (tensor([0.6000, 0.8000]), -4.0)
    """

    def __init__(
        self,
        params: Iterable[Any],
        constraints: Sequence[Constraint],
        *,
        lr: float = 1e-3,
        multiplier_lr: float | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        multiplier_optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        grad_clip: float | None = None,
    ) -> None:
        self.constraints = list(constraints)
        for constraint in self.constraints:
            if not isinstance(constraint, Constraint):
                raise TypeError(f"constraints must be of type Constraint, got {constraint!r}")
        dual_factory = optimizer if multiplier_optimizer is None else multiplier_optimizer
        for name, value in (("optimizer", optimizer), ("multiplier_optimizer", dual_factory)):
            if not callable(value):
                raise TypeError(f"{name} must be a torch.optim class, got {value!r}")
        self.multiplier_lr = (
            None
            if multiplier_lr is None
            else check_real("multiplier_lr", multiplier_lr, at_least=0)
        )
        self.grad_clip = None if grad_clip is None else check_real("grad_clip", grad_clip, above=0)
        self.steps = 0
        self._factory = optimizer
        self._inner: torch.optim.Optimizer | None = None
        super().__init__(params, {"lr": lr})
        like = self.param_groups[0]["params"][0]
        dtype = torch.promote_types(like.dtype, torch.float32)
        self._multipliers = [
            torch.zeros((), dtype=dtype, device=like.device, requires_grad=True)
            for _ in self.constraints
        ]
        self._slacks = [
            torch.full((), math.nan, dtype=dtype, device=like.device, requires_grad=True)
            for constraint in self.constraints
            if constraint.has_slack
        ]
        self._dual = self._dual_optimizer(dual_factory)

    @property
    def multipliers(self) -> list[float]:
        """The multiplier of each constraint now."""
        return [multiplier.item() for multiplier in self._multipliers]

    @property
    def slacks(self) -> list[float | None]:
        """The slack of each constraint now: None where it has none, NaN before the first step."""
        return [None if slack is None else slack.item() for slack in self._paired_slacks()]

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"lr": check_real("lr", options["lr"], at_least=0)}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with its own `lr` and options of `optimizer`."""
        super().add_param_group(param_group)
        try:
            if self._inner is None:
                self._inner = self._factory([param_group], lr=param_group["lr"])
                self._inner.state = self.state
            else:
                self._inner.add_param_group(param_group)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def step(  # type: ignore[override]
        self, closure: Callable[[], torch.Tensor], *, constrained: bool = True
    ) -> MultiplierStep:
        """Evaluate the loss and the constraints once, and move everything.

        Parameters
        ----------
        closure : callable
            Returns the primary loss, a tensor of one entry with its graph. It calls neither
            `backward` nor `zero_grad`.
        constrained : bool, default True
            False leaves the constraints out of this step and unevaluated, as to warm up.

        Returns
        -------
        MultiplierStep

        Raises
        ------
        FloatingPointError
            If the loss, a constraint or a gradient is not finite: it names the step, and nothing
            has moved.
        """
        number = self.steps + 1
        constraints = self.constraints if constrained else []
        self.zero_grad()
        self._dual.zero_grad()
        loss = _scalar("the closure", evaluated(closure))
        values = [
            _scalar(f"fn of constraint {i}", evaluated(constraint.fn))
            for i, constraint in enumerate(constraints)
        ]
        seen = [_finite("the loss", loss, number)]
        seen += [_finite(f"constraint {i}", g, number) for i, g in enumerate(values)]
        if constrained:
            self._begin_slacks(seen[1:])
        with torch.enable_grad():
            total, infeasibilities = loss, []
            for constraint, g, multiplier, slack in zip(
                constraints, values, self._multipliers, self._paired_slacks(), strict=constrained
            ):
                h = constraint.infeasibility(g, slack)
                total = total + constraint.term(h, multiplier)
                infeasibilities.append(h.item())
            if not total.requires_grad:
                raise ValueError("the closure must return a tensor with its graph, got none")
            total.backward()
        record = MultiplierStep(seen[0], tuple(seen[1:]), tuple(infeasibilities),
                                tuple(self.multipliers))  # fmt: skip
        refuse_sparse(self.param_groups)
        self._check_gradients(number)
        self._move()
        self.steps = number
        return record

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes: as of any optimizer, and multipliers and slacks."""
        return {
            **super().state_dict(),
            "constraints": {
                "steps": self.steps,
                "multipliers": [m.detach().clone() for m in self._multipliers],
                "slacks": [s.detach().clone() for s in self._slacks],
                "optimizer": self._dual.state_dict(),
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` of one with the same parameters and constraints returned."""
        kept = state_dict.get("constraints")
        ours = (len(self._multipliers), len(self._slacks))
        theirs = None if kept is None else (len(kept["multipliers"]), len(kept["slacks"]))
        if kept is None or theirs != ours:
            raise ValueError(
                f"state_dict must have (multipliers, slacks) of the number {ours}, got {theirs}"
            )
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "constraints"})
        with torch.no_grad():
            for name, tensors in (("multipliers", self._multipliers), ("slacks", self._slacks)):
                for tensor, value in zip(tensors, kept[name], strict=True):
                    tensor.copy_(value)
        self._dual.load_state_dict(kept["optimizer"])
        self.steps = kept["steps"]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{k: self.__dict__[k] for k in _OWN}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._inner is not None:
            self._inner.param_groups = self.param_groups
            self._inner.state = self.state

    def _dual_optimizer(self, factory: Callable[..., torch.optim.Optimizer]) -> Any:
        groups = [
            {"params": tensors, "weight_decay": 0.0}
            for tensors in (self._slacks, self._multipliers)
            if tensors
        ]
        return factory(groups, lr=1.0) if groups else _Nothing()

    def _paired_slacks(self) -> list[torch.Tensor | None]:
        slacks = iter(self._slacks)
        return [next(slacks) if c.has_slack else None for c in self.constraints]

    def _begin_slacks(self, values: list[float]) -> None:
        for constraint, g, slack in zip(
            self.constraints, values, self._paired_slacks(), strict=True
        ):
            if slack is not None and bool(slack.isnan()):
                with torch.no_grad():
                    slack.fill_(constraint.initial_slack(g))

    def _check_gradients(self, number: int) -> None:
        found = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        if found and not bool(torch.stack([g.isfinite().all() for g in found]).all()):
            raise FloatingPointError(f"a gradient is not finite at step {number}")

    @torch.no_grad()
    def _move(self) -> None:
        parameters = [p for g in self.param_groups for p in g["params"] if p.grad is not None]
        if self.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.grad_clip)
        lr = self.param_groups[0]["lr"]
        rates = {id(s): lr for s in self._slacks}
        rates |= {
            id(m): lr if self.multiplier_lr is None else self.multiplier_lr
            for m in self._multipliers
        }
        for group in self._dual.param_groups:
            group["lr"] = rates[id(group["params"][0])]
        for multiplier in self._multipliers:
            if multiplier.grad is not None:
                multiplier.grad.neg_()
        if self._inner is not None:
            self._inner.step()
        self._dual.step()
        for constraint, multiplier in zip(self.constraints, self._multipliers, strict=True):
            constraint.project(multiplier)


_OWN = ("constraints", "multiplier_lr", "grad_clip", "steps", "_factory", "_inner",
        "_multipliers", "_slacks", "_dual")  # fmt: skip


class _Nothing:
    """The optimizer of no slacks and no multipliers."""

    param_groups: tuple[dict[str, Any], ...] = ()

    def step(self) -> None: ...

    def zero_grad(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def _scalar(name: str, value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        shape = getattr(value, "shape", None)
        found = repr(value) if shape is None else f"shape {tuple(shape)}"
        raise TypeError(f"{name} must return a tensor of one entry, got {found}")
    return value.reshape(())


def _finite(name: str, value: torch.Tensor, number: int) -> float:
    seen = float(value.detach())
    if not math.isfinite(seen):
        raise FloatingPointError(f"{name} is {seen} at step {number}; lower the learning rate")
    return seen

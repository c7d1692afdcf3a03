"""Train a torch network without tuning the learning rate, by steps that a model corrects.

`SMB` tries the step of SGD and looks at the loss of the *same* batch. Where that has not fallen
enough, the gradient at the trial point shows how the loss curves along the step, and every tensor
gets a step of its own from a small model: shorter, and turned away from the steep directions.

`thalweg.descent.model_building` is the same for functions of NumPy arrays.

Source: "Bolstering Stochastic Gradient Descent with Model Building" (2021), arXiv 2111.07058,
Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from thalweg._torch import torch
from thalweg._validation import check_count, check_real
from thalweg.descent._torch_steps import (
    CheckedOptimizer,
    processes,
    refuse_sparse,
    undifferentiated,
)
from thalweg.descent._trial_steps import Part, norm, numbers_of, take_model_steps
from thalweg.descent.model_descent import (
    BETA,
    GAMMA,
    LR,
    LR_MAX,
    MOST_HALVINGS,
    SCHEDULE_EVERY,
    TINY_GRADIENT,
    C,
    scheduled,
)
from thalweg.descent.model_steps import ETA

COUNTERS = {"n_steps": 0, "n_model_steps": 0, "waiting": False, "seen": 0, "seen_models": 0}
"""Kept in the groups, so that state_dict and copies have them."""
PREVIOUS = "previous_gradient"


class SMB(CheckedOptimizer):
    r"""Stochastic gradient descent with model building.

    With the batch's loss f and its gradient g, the trial step :math:`s_t = -\alpha g` is taken if

    .. math:: f(w + s_t) \le f(w) - c\, \alpha \|g\|^2,

    and otherwise each tensor takes the `thalweg.descent.model_building_step` of its own part,
    without another test.

    **The closure must not call** ``backward``: see the notes.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups; a group may have its own value of every option but
        `independent_batch`. The trial is one of all groups, each with its own length, and the fall
        that is asked for is the sum of theirs.
    lr : float, default 0.5
        Length alpha of the trial steps, > 0.
    eta : float, default 0.99
        Largest length of a model step relative to the trial step, in (0, 1).
    c : float, default 0.1
        Share of the fall predicted by the gradient that a trial must bring, in (0, 1).
    independent_batch : bool, default False
        Whether a failed trial is undone and the model built on the *next* batch, so that the
        gradient that is stepped along is independent of the curvature (the variant SMBi).
    auto_schedule : bool, default False
        Whether `lr` follows the share of model steps: after every `n_batches_per_epoch` steps it is
        multiplied by `beta` if that share was over `gamma` (half of it with `independent_batch`),
        and else divided by `beta`, up to `lr_max`.
    n_batches_per_epoch : int, default 500
        Steps between changes of `lr`.
    gamma : float, default 0.05
        Tolerated share of model steps, in [0, 1).
    beta : float, default 0.9
        Factor of `lr`, in (0, 1).
    lr_max : float, default 20.0
        The schedule does not lengthen `lr` beyond it, > 0.

    Attributes
    ----------
    n_steps : int
        Steps so far.
    n_model_steps : int
        Those of them that a model made.

    Raises
    ------
    TypeError, ValueError
        If an option is out of range or a parameter is not real.

    Notes
    -----
    `step` needs a closure that computes the loss of the batch at the parameters as they are and
    returns it, **without calling** ``backward`` and without clearing gradients; `step` does both.
    It calls the closure twice, and differentiates the second loss only where the trial failed: an
    accepted step costs two forward passes and one backward pass, a model step two of each. The loss
    must be the same whenever it is called at the same parameters (draw dropout masks outside it);
    running statistics of normalisation layers see each batch twice. After `step` the parameters
    have the gradient at the point that was left.

    A trial with a loss that is not finite has failed; if its gradient is not finite either, the
    trial is halved until that is, at most 30 times, with a call of the closure each. A group whose
    gradient has a norm below 1e-8 takes its trial step.

    Under DistributedDataParallel every process passes the loss of its own part of the batch:
    gradients are averaged in the backward pass, and `step` averages the two losses that it
    compares over the default process group, so that all take the same decision. Without it, use a
    loss and gradients that are reduced alike on every process.

    References
    ----------
    "Bolstering Stochastic Gradient Descent with Model Building" (2021), arXiv 2111.07058,
    Algorithm 1.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.tensor([4.0, 4.0]))
    >>> optimizer = SMB([weight])
    >>> curvature = torch.tensor([1.0, 20.0])
    >>> for _ in range(100):
    ...     loss = optimizer.step(lambda: (curvature * weight**2).sum() / 2)
    >>> bool(loss < 1e-6), optimizer.n_model_steps > 0
    (True, True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = LR,
        *,
        eta: float = ETA,
        c: float = C,
        independent_batch: bool = False,
        auto_schedule: bool = False,
        n_batches_per_epoch: int = SCHEDULE_EVERY,
        gamma: float = GAMMA,
        beta: float = BETA,
        lr_max: float = LR_MAX,
    ) -> None:
        options = {
            "lr": lr,
            "eta": eta,
            "c": c,
            "independent_batch": independent_batch,
            "auto_schedule": auto_schedule,
            "n_batches_per_epoch": n_batches_per_epoch,
            "gamma": gamma,
            "beta": beta,
            "lr_max": lr_max,
        }
        super().__init__(params, options)

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        for name in ("independent_batch", "auto_schedule"):
            if not isinstance(options[name], bool):
                raise TypeError(f"{name} must be True or False, got {options[name]!r}")
        return {
            "lr": check_real("lr", options["lr"], above=0),
            "eta": check_real("eta", options["eta"], above=0, below=1),
            "c": check_real("c", options["c"], above=0, below=1),
            "independent_batch": options["independent_batch"],
            "auto_schedule": options["auto_schedule"],
            "n_batches_per_epoch": check_count(
                "n_batches_per_epoch", options["n_batches_per_epoch"]
            ),
            "gamma": check_real("gamma", options["gamma"], at_least=0, below=1),
            "beta": check_real("beta", options["beta"], above=0, below=1),
            "lr_max": check_real("lr_max", options["lr_max"], above=0),
        }

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with its own options or the defaults.

        Raises
        ------
        TypeError, ValueError
            If an option is out of range, `independent_batch` is not that of the other groups, or a
            parameter is not real; the group is not added then.
        """
        super().add_param_group(param_group)
        common = self.param_groups[0]["independent_batch"]
        if param_group["independent_batch"] != common:
            self.param_groups.pop()
            raise ValueError(f"independent_batch must be {common} in every group, as in the first")
        param_group.update(COUNTERS)

    @property
    def n_steps(self) -> int:
        """Steps so far."""
        return int(self.param_groups[0]["n_steps"])

    @property
    def n_model_steps(self) -> int:
        """Steps so far that a model made."""
        return int(self.param_groups[0]["n_model_steps"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take the trial step, or the step of the model.

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
            If the loss or its gradient is not finite at the parameters, or the gradient is not
            after 30 halvings of the trial step. The parameters stay then.
        """
        loss = undifferentiated(self, closure)
        before = _shared(loss)
        self._differentiate(loss)
        # DistributedDataParallel may hand out views of buckets, which the next backward overwrites.
        keep = torch.clone if processes() > 1 else torch.detach
        parts = [
            Part(group, p, keep(p.grad))
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        norms = numbers_of([norm(part.gradient) for part in parts])
        if not math.isfinite(before) or not all(map(math.isfinite, norms)):
            raise RuntimeError(f"loss and gradient must be finite, got a loss of {before:g}")
        for part, length in zip(parts, norms, strict=True):
            part.norm = length
        model = False
        kept = False
        try:
            for part in parts:
                part.move(1.0)
            if self._testable(parts):
                model = self._test(closure, before, parts)
            kept = True
        finally:
            self.zero_grad(set_to_none=True)
            for part in parts:
                if not kept:
                    part.undo()
                part.parameter.grad = part.gradient
        self._count(model)
        return loss

    def _differentiate(self, loss: torch.Tensor) -> None:
        with torch.enable_grad():
            loss.backward()
        refuse_sparse(self.param_groups)

    def _testable(self, parts: list[Part]) -> bool:
        """Whether a group has a gradient worth a test; mark the parts of those that have not."""
        worth = False
        for group in self.param_groups:
            own = [part for part in parts if part.group is group]
            tiny = math.hypot(*(part.norm for part in own)) < TINY_GRADIENT
            for part in own:
                part.tiny = tiny
            worth |= not tiny
        return worth

    def _test(self, closure: Callable[[], Any] | None, before: float, parts: list[Part]) -> bool:
        """Keep the trial step, undo it for the next batch, or take the model's: then True."""
        independent = self.param_groups[0]["independent_batch"]
        waiting = self.param_groups[0]["waiting"]
        ahead = undifferentiated(self, closure)
        if not waiting:
            after = _shared(ahead)
            fall = sum(part.group["c"] * part.group["lr"] * part.norm**2 for part in parts)
            if math.isfinite(after) and after <= before - fall:
                return False
            if independent:
                self._wait(parts)
                return False
        scale, ends = self._finite_end(closure, ahead, parts)
        if waiting:
            previous = [self.state[part.parameter].pop(PREVIOUS, None) for part in parts]
        else:
            previous = [part.gradient for part in parts]
        take_model_steps(parts, ends, previous, scale)
        self._set("waiting", False)
        return True

    def _wait(self, parts: list[Part]) -> None:
        for part in parts:
            part.undo()
            self.state[part.parameter][PREVIOUS] = part.gradient.clone()
        self._set("waiting", True)

    def _finite_end(
        self, closure: Callable[[], Any] | None, ahead: torch.Tensor, parts: list[Part]
    ) -> tuple[float, list[torch.Tensor]]:
        """Gradients at the end of the trial step, halved until they are finite, and its scale."""
        scale = 1.0
        for halving in range(MOST_HALVINGS + 1):
            if halving:
                scale /= 2
                for part in parts:
                    part.move(scale)
                ahead = undifferentiated(self, closure)
            self._differentiate(ahead)
            ends = [
                torch.zeros_like(part.gradient) if part.parameter.grad is None
                else part.parameter.grad
                for part in parts
            ]  # fmt: skip
            if all(map(math.isfinite, numbers_of([norm(end) for end in ends]))):
                return scale, ends
        raise RuntimeError(
            f"the gradient must be finite after {MOST_HALVINGS} halvings of the trial step"
        )

    def _count(self, model: bool) -> None:
        for group in self.param_groups:
            group["n_steps"] += 1
            group["n_model_steps"] += model
            group["seen"] += 1
            group["seen_models"] += model
            if group["seen"] < group["n_batches_per_epoch"]:
                continue
            if group["auto_schedule"]:
                limit = group["gamma"] / (2 if group["independent_batch"] else 1)
                share = group["seen_models"] / group["seen"]
                group["lr"] = scheduled(group["lr"], share, limit, group["beta"], group["lr_max"])
            group.update(seen=0, seen_models=0)

    def _set(self, name: str, value: Any) -> None:
        for group in self.param_groups:
            group[name] = value


def _shared(loss: torch.Tensor) -> float:
    """The loss as a number, averaged over the processes where there are several."""
    if loss.numel() != 1:
        raise ValueError(f"closure must return one number, got shape {tuple(loss.shape)}")
    size = processes()
    if size == 1:
        return float(loss)
    value = loss.detach().to(torch.promote_types(loss.dtype, torch.float32)).clone()
    torch.distributed.all_reduce(value)
    return float(value) / size

"""Train a torch network by heavy ball with step decay: momentum that a falling rate does not cut.

torch.optim.SGD keeps a sum of gradients and multiplies it by the learning rate of the moment, so
that a rate divided by four divides the momentum of all past steps by four. Here momentum carries
the displacement itself, as in the method's analysis; at a constant rate both are the same.

Source: "Accelerated Convergence of Stochastic Heavy Ball Method under Anisotropic Gradient Noise"
(2023), arXiv 2312.14567.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from thalweg._torch import torch
from thalweg._validation import check_real
from thalweg.descent._torch_steps import CheckedOptimizer, evaluated, refuse_sparse
from thalweg.descent.anisotropic_heavy_ball import FACTOR, stage_lengths


class HeavyBall(CheckedOptimizer):
    r"""Heavy ball in displacement form: ``w' = w - lr g + momentum (w - w_before)``.

    Gradients may come from many machines: each averages them (`DistributedDataParallel`) and takes
    the same step, so that rounds of communication are steps.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups; a group may set each of the following for itself.
    lr : float, default 1e-3
        Learning rate, >= 0; about 1 / L for the largest curvature L.
    momentum : float, default 0.9
        beta in [0, 1); :math:`(1 - 1/\sqrt\kappa)^2` for the condition number kappa.

    Raises
    ------
    TypeError, ValueError
        If an option is out of range or a parameter is not real.

    See Also
    --------
    StepDecayLR : the schedule that goes with it.

    Notes
    -----
    A step has no branch that depends on values, so that `torch.compile` can take it.

    References
    ----------
    "Accelerated Convergence of Stochastic Heavy Ball Method under Anisotropic Gradient Noise"
    (2023), arXiv 2312.14567.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> optimizer = HeavyBall([weight], lr=0.5, momentum=0.5)
    >>> scheduler = StepDecayLR(optimizer, total_steps=40, kappa=4.0)
    >>> for _ in range(40):
    ...     optimizer.zero_grad()
    ...     (0.5 * weight.square().sum()).backward()
    ...     optimizer.step()
    ...     scheduler.step()
    >>> bool(weight.abs().max() < 1e-3)
    True
    """

    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "lr": check_real("lr", options["lr"], at_least=0),
            "momentum": check_real("momentum", options["momentum"], at_least=0, below=1),
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with the gradients at hand.

        Parameters
        ----------
        closure : callable, optional
            Clears the gradients, computes them anew and returns the loss.

        Returns
        -------
        object
            What `closure` returned; None without one.

        Raises
        ------
        ValueError
            If a gradient is sparse; nothing has moved.
        """
        loss = evaluated(closure)
        refuse_sparse(self.param_groups)
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if not moved:
                continue
            for p in moved:
                if "displacement" not in self.state[p]:
                    self.state[p]["displacement"] = torch.zeros_like(
                        p, memory_format=torch.preserve_format
                    )
            displacements = [self.state[p]["displacement"] for p in moved]
            torch._foreach_mul_(displacements, group["momentum"])
            torch._foreach_add_(displacements, [p.grad for p in moved], alpha=-group["lr"])
            torch._foreach_add_(moved, displacements)
        return loss


class StepDecayLR(torch.optim.lr_scheduler.LRScheduler):
    r"""Learning rates that fall by a factor from stage to stage, stages set from the budget.

    The rates of `thalweg.descent.step_decay`, begun from each group's own instead of 1 / L. Call
    ``step()`` once after each step of the optimizer.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Whose learning rates are set.
    total_steps : int
        Steps T of the whole training; later ones keep the last rate.
    kappa : float
        Condition number, >= 1.
    factor : float, default 4.0
        C > 1, by which rates are divided.
    n_stages : int, optional
        Number of stages; :math:`\log_C(T \sqrt\kappa)` to the nearest integer by default.
    last_epoch : int, default -1
        Steps taken before, for a training that goes on; -1 at its start.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or there are fewer steps than stages.

    References
    ----------
    "Accelerated Convergence of Stochastic Heavy Ball Method under Anisotropic Gradient Noise"
    (2023), arXiv 2312.14567, step decay scheduler.

    Examples
    --------
    >>> optimizer = HeavyBall([torch.nn.Parameter(torch.ones(2))], lr=0.8)
    >>> scheduler = StepDecayLR(optimizer, total_steps=7, kappa=9.0)
    >>> rates = []
    >>> for _ in range(7):
    ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
    ...     optimizer.step()
    ...     scheduler.step()
    >>> rates
    [0.8, 0.8, 0.8, 0.2, 0.2, 0.2, 0.2]
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        total_steps: int,
        kappa: float,
        factor: float = FACTOR,
        n_stages: int | None = None,
        last_epoch: int = -1,
    ) -> None:
        lengths = stage_lengths(total_steps, kappa, factor, n_stages, name="total_steps")
        self.factor = float(factor)
        self.starts = np.cumsum(lengths)[:-1].tolist()
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the rate of each group at this step."""
        return self._get_closed_form_lr()

    def _get_closed_form_lr(self) -> list[float]:
        stage = sum(self.last_epoch >= start for start in self.starts)
        return [rate * self.factor**-stage for rate in self.base_lrs]

"""Train a torch network by SGD with one step length that tunes itself: AdaGrad-Norm.

Source: "SGD with AdaGrad Stepsizes: Full Adaptivity with High Probability to Unknown Parameters,
Unbounded Gradients and Affine Variance" (2023), arXiv 2302.08783.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from thalweg._torch import torch
from thalweg._validation import check_real
from thalweg.descent._oracle import check_callable
from thalweg.descent._torch_steps import CheckedOptimizer, evaluated, refuse_sparse
from thalweg.descent.adagrad_norm_method import ETA, GAMMA, check_gamma


class AdaGradNorm(CheckedOptimizer):
    r"""SGD whose step is `lr` over the root of all squared gradient norms so far.

    .. math:: S_t = S_{t-1} + \|g_t\|^2, \qquad
              w_{t+1} = w_t - \frac{\mathrm{lr}}{\sqrt{\gamma^2 + S_t}}\, g_t

    g_t is the gradient by all parameters of all groups together: there is one S.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups; a group may have its own value of every option.
    lr : float, default 1.0
        eta, > 0 (0 is allowed, for schedulers): the longest step, in units of the parameters.
    gamma : float, default 1e-2
        Start of the root, > 0, in units of gradients.
    weight_decay : float, default 0.0
        Weight of half the squared norm of the parameters, >= 0, added to the gradient as
        `torch.optim.SGD` does; S counts it.
    reduce : callable, optional
        Where gradients are shards and each rank holds some: takes this rank's ‖g_t‖², a float,
        and returns that of all ranks. With `torch.distributed`, all-reduce a float64 tensor that
        holds it. Gradients that are the same on all ranks need none.

    Raises
    ------
    TypeError, ValueError
        If an option is out of range or a parameter is not real.

    Notes
    -----
    S is kept in ``param_groups[0]["grad_sum"]`` and so in the state dict. A step waits for the
    device once, to read ‖g_t‖².

    References
    ----------
    "SGD with AdaGrad Stepsizes: Full Adaptivity with High Probability to Unknown Parameters,
    Unbounded Gradients and Affine Variance" (2023), arXiv 2302.08783, AdaSGD.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    >>> optimizer = AdaGradNorm([weight], lr=10.0, gamma=12.0)
    >>> (weight**2).sum().mul(0.5).backward()
    >>> optimizer.step()
    >>> [round(w, 12) for w in (weight * 13).tolist()]
    [9.0, 12.0]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = ETA,
        *,
        gamma: float = GAMMA,
        weight_decay: float = 0.0,
        reduce: Callable[[float], float] | None = None,
    ) -> None:
        check_callable("reduce", reduce, optional=True)
        super().__init__(params, {"lr": lr, "gamma": gamma, "weight_decay": weight_decay})
        self.reduce = reduce
        self.param_groups[0].setdefault("grad_sum", 0.0)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "reduce": self.reduce}

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "lr": check_real("lr", options["lr"], at_least=0),
            "gamma": check_gamma(options["gamma"]),
            "weight_decay": check_real("weight_decay", options["weight_decay"], at_least=0),
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
        RuntimeError
            If the gradient is not finite; nothing has moved.
        """
        loss = evaluated(closure)
        refuse_sparse(self.param_groups)
        moving = [
            (group, parameter, _penalised(parameter, group["weight_decay"]))
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        square = _squared_norm([gradient for _, _, gradient in moving])
        if self.reduce is not None:
            square = float(self.reduce(square))
        grad_sum = float(self.param_groups[0]["grad_sum"]) + square
        if not math.isfinite(grad_sum):
            raise RuntimeError(f"the gradient must be finite, got a squared norm of {square:g}")
        self.param_groups[0]["grad_sum"] = grad_sum
        for group, parameter, gradient in moving:
            length = float(group["lr"]) / math.sqrt(group["gamma"] ** 2 + grad_sum)
            parameter.add_(gradient, alpha=-length)
        return loss


def _penalised(parameter: torch.Tensor, weight_decay: float) -> torch.Tensor:
    assert parameter.grad is not None
    if weight_decay == 0:
        return parameter.grad
    return parameter.grad.add(parameter, alpha=weight_decay)


def _squared_norm(gradients: list[torch.Tensor]) -> float:
    """The squared norm of all together, read from the device at once."""
    if not gradients:
        return 0.0
    device = gradients[0].device
    squares = [_square(gradient).to(device) for gradient in gradients]
    values = [squares[0].item()] if len(squares) == 1 else torch.stack(squares).tolist()
    return float(sum(values))


def _square(gradient: torch.Tensor) -> torch.Tensor:
    wide = gradient.dtype in (torch.float32, torch.float64)
    if wide and type(gradient) is torch.Tensor and gradient.is_contiguous():
        flat = gradient.view(-1)  # a dot product is faster than a norm, and no less accurate
        return torch.dot(flat, flat)
    wider = torch.promote_types(gradient.dtype, torch.float32)
    return torch.linalg.vector_norm(gradient, dtype=wider).square()

"""Train a torch network by steps of fixed length in the spectral or another norm: Muon's family.

The gradients of each parameter are averaged, and the parameter moves a fixed length in the norm's
steepest direction. The norm makes the method:

- ``norm="spectral"``: Muon, without its scale factors (`thalweg.descent.Muon` has them);
- ``norm="linf"``: signSGD with momentum;
- ``norm="l2"``: normalised SGD with momentum, each parameter on its own;
- ``norm="spectral", orthogonalise="before"``: Orthogonal-SGDM, which skewed noise can drive uphill.

Source: "Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region
Optimization" (2025), arXiv 2503.12645, Algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from thalweg._torch import torch
from thalweg._validation import check_option, check_real
from thalweg.descent._work_dtype import WORK_DTYPES, work_dtype
from thalweg.descent.norms import (
    NORMS,
    ORTHOGONALISERS,
    VECTOR_NORMS,
    Norm,
    Orthogonaliser,
    steepest,
)


class NormTrustRegion(torch.optim.Optimizer):
    """Momentum, then a step of length `lr` in the steepest direction of a norm.

    ``m = (1 - alpha) m + alpha g`` (the first m is the first g), then
    ``p = (1 - weight_decay) p + lr * lmo(m)`` for each parameter on its own.

    On many machines the method needs the averaged gradient only: let `DistributedDataParallel`
    reduce it and each rank takes the same step. To share the cost of orthogonalising, give rank r
    the matrices r, r + world size, ... and broadcast each from its rank after the step.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups; a group may set each of the following for itself.
    lr : float, default 0.02
        Length of the step in the norm (radius of the trust region).
    norm : {"spectral", "l2", "linf", "l1", "nuclear", "row"}, default "spectral"
        Norm for parameters of two or more axes, read as matrices (first, rest).
    alpha : float, default 0.05
        Weight of the newest gradient, in (0, 1]: one minus the usual momentum.
    weight_decay : float, default 0.0
        Shrinkage of a parameter per step, in [0, 1), not multiplied by `lr`. It keeps parameters
        within ``lr / weight_decay`` of zero in the norm.
    extrapolate : bool, default False
        Whether gradients are taken ahead of the iterate, at
        ``x_k + (1 - alpha) / alpha (x_k - x_{k-1})``. The parameters then lie at that point during
        training; call `eval` before you evaluate or save the network, and `train` before you go on.
    orthogonaliser : {"newton-schulz", "polar-express", "svd"}, default "newton-schulz"
        How the spectral step is computed: five matrix polynomials, whose singular values lie near
        one, or exactly.
    orthogonalise : {"after", "before"}, default "after"
        "before" averages steepest directions instead of gradients.
    vector_norm : {"linf", "l2", "l1"}, default "linf"
        Norm for parameters of fewer than two axes.
    dtype : torch.dtype or "auto", default "auto"
        Type in which the polynomials work. "auto" is bfloat16 for matrices large enough to gain
        where the hardware multiplies it, float64 for such parameters and float32 elsewhere.

    Raises
    ------
    TypeError, ValueError
        If a setting is not one of those above, or a parameter is not real.

    References
    ----------
    "Understanding Gradient Orthogonalization for Deep Learning via Non-Euclidean Trust-Region
    Optimization" (2025), arXiv 2503.12645, Algorithms 1 and 2.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
    >>> optimizer = NormTrustRegion([weight], lr=0.5, orthogonaliser="svd")
    >>> weight.grad = torch.tensor([[0.0, 3.0], [1.0, 0.0]])
    >>> optimizer.step()
    >>> weight.data.round(decimals=6) + 0.0
    tensor([[ 0.0000, -0.5000],
            [-0.5000,  0.0000]])
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        *,
        norm: Norm = "spectral",
        alpha: float = 0.05,
        weight_decay: float = 0.0,
        extrapolate: bool = False,
        orthogonaliser: Orthogonaliser = "newton-schulz",
        orthogonalise: str = "after",
        vector_norm: Norm = "linf",
        dtype: torch.dtype | Literal["auto"] = "auto",
    ) -> None:
        defaults = {
            "lr": lr,
            "norm": norm,
            "alpha": alpha,
            "weight_decay": weight_decay,
            "extrapolate": extrapolate,
            "orthogonaliser": orthogonaliser,
            "orthogonalise": orthogonalise,
            "vector_norm": vector_norm,
            "dtype": dtype,
            "evaluating": False,
        }
        _check_settings(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with settings of their own where `param_group` has them.

        Raises
        ------
        TypeError, ValueError
            If a setting is out of range or a parameter is not real.
        """
        _check_settings({**self.defaults, **param_group})
        super().add_param_group(param_group)
        odd = [p.dtype for p in self.param_groups[-1]["params"] if not p.is_floating_point()]
        if odd:
            self.param_groups.pop()
            raise TypeError(f"params must be real floating-point tensors, got {odd[0]}")

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
        RuntimeError
            If a gradient is sparse or not finite, or `eval` was called last; nothing has moved.
        """
        if any(group["evaluating"] for group in self.param_groups):
            raise RuntimeError("step needs the training point: call train() after eval()")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                _check_gradient(parameter)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def eval(self) -> None:
        """Put the iterates into the parameters, which ``extrapolate=True`` had moved ahead."""
        self._switch(evaluating=True)

    def train(self) -> None:
        """Undo `eval`: put the points at which gradients are taken into the parameters."""
        self._switch(evaluating=False)

    @torch.no_grad()
    def _switch(self, evaluating: bool) -> None:
        for group in self.param_groups:
            if group["evaluating"] == evaluating:
                continue
            group["evaluating"] = evaluating
            for parameter in group["params"]:
                if "point" in self.state[parameter]:
                    other = self.state[parameter]["point"]
                    kept = parameter.clone()
                    parameter.copy_(other)
                    other.copy_(kept)

    def _move(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        norm = group["norm"] if parameter.ndim >= 2 else group["vector_norm"]
        before = group["orthogonalise"] == "before"
        alpha = group["alpha"]
        dtype = work_dtype(parameter, group["dtype"])
        state = self.state[parameter]

        def direction(m: torch.Tensor) -> torch.Tensor:
            return steepest(m, norm, group["orthogonaliser"], dtype)

        assert parameter.grad is not None
        sample = direction(parameter.grad) if before else parameter.grad
        if "momentum" in state:
            state["momentum"].lerp_(sample, alpha)
        else:
            state["momentum"] = sample.clone()
        move = state["momentum"] if before else direction(state["momentum"])
        if not group["extrapolate"]:
            parameter.mul_(1 - group["weight_decay"]).add_(move, alpha=group["lr"])
            return
        if "point" not in state:
            state["point"] = parameter.clone()
        point = state["point"]
        following = (1 - group["weight_decay"]) * point + group["lr"] * move
        parameter.copy_(following + ((1 - alpha) / alpha) * (following - point))
        point.copy_(following)


def _check_settings(settings: dict[str, Any]) -> None:
    check_real("lr", settings["lr"], above=0)
    check_real("alpha", settings["alpha"], above=0, at_most=1)
    check_real("weight_decay", settings["weight_decay"], at_least=0, below=1)
    check_option("norm", settings["norm"], NORMS)
    check_option("vector_norm", settings["vector_norm"], VECTOR_NORMS)
    check_option("orthogonaliser", settings["orthogonaliser"], ORTHOGONALISERS)
    check_option("orthogonalise", settings["orthogonalise"], ("after", "before"))
    check_option("dtype", settings["dtype"], WORK_DTYPES)


def _check_gradient(parameter: torch.Tensor) -> None:
    gradient = parameter.grad
    if gradient is None:
        return
    if gradient.is_sparse:
        raise RuntimeError(
            "NormTrustRegion does not take sparse gradients: "
            f"a parameter of shape {tuple(parameter.shape)} has one"
        )
    if not bool(gradient.isfinite().all()):
        raise RuntimeError(
            f"the gradient of a parameter of shape {tuple(parameter.shape)} is not finite"
        )

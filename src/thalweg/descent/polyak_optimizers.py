"""Train a torch network with momentum and no tuned learning rate: step lengths from the loss.

A batch whose loss is far over what it could be gets a long step, and one that is nearly fitted a
short one; a bound of the batch losses, usually 0, takes the place of a learning rate schedule.

- `PolyakMomentum`: steps made for momentum, which depend little on how much of it there is;
- `PolyakSGD`: the earlier rules without (SPS_max) or with Nesterov's momentum (ALI-G).

`thalweg.descent.polyak_momentum` is the same for functions of NumPy arrays.

Source: "Generalized Polyak Step Size for First Order Optimization with Momentum" (2023), arXiv
2305.12939.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from thalweg._torch import torch
from thalweg._validation import check_option, check_real
from thalweg.descent._polyak_steps import Part, PolyakOptimizer, norms_of
from thalweg.descent._trial_steps import dot
from thalweg.descent.polyak import MOMENTUM, VARIANTS, length

LR_MAX = 1.0
C = 1.0
RULES = ("sps", "ali-g")
SPS_C = 0.5
ALIG_MOMENTUM = 0.9
ALIG_DELTA = 1e-5
"""What ALI-G adds to the squared norm of the gradient."""


class PolyakMomentum(PolyakOptimizer):
    r"""Momentum with Polyak's steps: the stochastic moving average (ALR-SMAG) or heavy ball.

    With the batch's loss f, its gradient g, the bound f* and beta the momentum, "mag" takes

    .. math:: d \leftarrow g + \beta d, \qquad
              \eta = \min\Big(\frac{f - f^*}{c \|d\|^2}, \eta_{\max}\Big), \qquad
              w \leftarrow (1 - \lambda \eta) w - \eta d

    and "hb", with s the last move,

    .. math:: \eta = \min\Big(\frac{\big((f - f^*) / c + \beta \langle g, s\rangle\big)_+}{\|g\|^2},
              \eta_{\max}\Big), \qquad
              s \leftarrow \beta s - \eta g, \qquad w \leftarrow (1 - \lambda \eta) w + s.

    **The closure calls** ``backward``, as torch's own optimizers have it (that of
    `thalweg.descent.SMB` must not).

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups. Norms and products are over all groups together, so that
        one length serves all; a group may have its own `lr_max`, `momentum` and `weight_decay`.
    lr_max : float, default 1.0
        Longest step, > 0. Groups keep it as ``lr``, which torch's schedulers change.
    momentum : float, default 0.9
        beta in [0, 1).
    variant : {"mag", "hb"}, default "mag"
        Moving average or heavy ball.
    c : float, default 1.0
        Divides the gap, > 0; smaller values make longer steps.
    f_star : float, default 0.0
        Lower bound of the losses of batches.
    weight_decay : float, default 0.0
        Decoupled decay lambda >= 0, times the step length. The heavy ball does not repeat it.

    Attributes
    ----------
    last_step : float
        Length of the last step, the longest over the groups; 0.0 before the first.

    Raises
    ------
    TypeError, ValueError
        If an option is out of range or a parameter is not real.

    Warns
    -----
    RuntimeWarning
        Once, if a loss lies under `f_star`; its gap counts as 0.

    Notes
    -----
    Where all gradients are zero the step is left out: parameters and momentum stay. The clipping of
    the heavy ball's length to [0, lr_max] is a choice made here.

    Where several processes are initialised, the loss is averaged over them, as
    `DistributedDataParallel` averages the gradients; norms of sharded parameters (``DTensor``) are
    those of the whole.

    References
    ----------
    "Generalized Polyak Step Size for First Order Optimization with Momentum" (2023), arXiv
    2305.12939, the stochastic ALR-MAG and ALR-HB.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.tensor([4.0, 4.0]))
    >>> optimizer = PolyakMomentum([weight], momentum=0.5)
    >>> curvature = torch.tensor([1.0, 20.0])
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (curvature * weight**2).sum() / 2
    ...     loss.backward()
    ...     return loss
    >>> for _ in range(100):
    ...     loss = optimizer.step(closure)
    >>> bool(loss < 1e-4)
    True
    """

    common = ("variant", "c", "f_star")

    def __init__(
        self,
        params: Iterable[Any],
        lr_max: float = LR_MAX,
        *,
        momentum: float = MOMENTUM,
        variant: str = "mag",
        c: float = C,
        f_star: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        options = {
            "lr": lr_max,
            "momentum": momentum,
            "variant": variant,
            "c": c,
            "f_star": f_star,
            "weight_decay": weight_decay,
        }
        super().__init__(params, options)

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "lr": check_real("lr_max", options["lr"], above=0),
            "momentum": check_real("momentum", options["momentum"], at_least=0, below=1),
            "variant": check_option("variant", options["variant"], VARIANTS),
            "c": check_real("c", options["c"], above=0),
            "f_star": check_real("f_star", options["f_star"]),
            "weight_decay": check_real("weight_decay", options["weight_decay"], at_least=0),
        }

    def _advance(self, parts: list[Part], loss: Any) -> None:
        first = parts[0].group
        slopes = norms_of([part.gradients for part in parts])
        if first["variant"] == "mag":
            directions = [part.averages() for part in parts]
            gap, (sizes, norms) = self.numbers(loss, slopes, norms_of(directions))
            step = length(gap / first["c"], math.hypot(*norms) ** 2)
        else:
            memories = [part.memories() for part in parts]
            products = [
                part.group["momentum"] * dot(g, s)
                for part, several in zip(parts, memories, strict=True)
                for g, s in zip(part.gradients, several, strict=True)
            ]
            gap, (sizes, along) = self.numbers(loss, slopes, products)
            step = length(gap / first["c"] + math.fsum(along), math.hypot(*sizes) ** 2)
        if not any(sizes):
            return
        for number, part in enumerate(parts):
            eta = part.group["last_step"] = min(step, part.group["lr"])
            if part.group["weight_decay"]:
                torch._foreach_mul_(part.parameters, 1 - part.group["weight_decay"] * eta)
            if first["variant"] == "mag":
                part.keep(directions[number])
                torch._foreach_add_(part.parameters, directions[number], alpha=-eta)
            else:
                moves = memories[number]
                torch._foreach_mul_(moves, part.group["momentum"])
                torch._foreach_add_(moves, part.gradients, alpha=-eta)
                part.keep(moves)
                torch._foreach_add_(part.parameters, moves)


class PolyakSGD(PolyakOptimizer):
    r"""Earlier Polyak steps for batches: SPS_max, or ALI-G with Nesterov's momentum.

    With the batch's loss f, its gradient g and the bound f*, ``rule="sps"`` takes

    .. math:: \eta = \min\Big(\frac{f - f^*}{c \|g\|^2}, \eta_{\max}\Big), \qquad
              w \leftarrow w - \eta g

    and ``rule="ali-g"``

    .. math:: \eta = \min\Big(\frac{f - f^*}{\|g\|^2 + 10^{-5}}, \eta_{\max}\Big), \qquad
              v \leftarrow \beta v - \eta g, \qquad w \leftarrow w + \beta v - \eta g.

    **The closure calls** ``backward``, as torch's own optimizers have it.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups. Norms are over all groups together; a group may have its own
        `lr_max` and `momentum`.
    lr_max : float, default 1.0
        Longest step, > 0. Groups keep it as ``lr``, which torch's schedulers change.
    rule : {"sps", "ali-g"}, default "sps"
        Which of the two.
    c : float, optional
        Divides the gap of "sps", > 0; 0.5 if None. "ali-g" has none.
    momentum : float, optional
        beta in [0, 1) of "ali-g"; 0.9 if None. "sps" has none.
    f_star : float, default 0.0
        Lower bound of the losses of batches.

    Attributes
    ----------
    last_step : float
        Length of the last step, the longest over the groups; 0.0 before the first.

    Raises
    ------
    TypeError, ValueError
        If an option is out of range or none of the rule, or a parameter is not real.

    Warns
    -----
    RuntimeWarning
        Once, if a loss lies under `f_star`; its gap counts as 0.

    Notes
    -----
    Where all gradients are zero the step is left out: parameters and momentum stay.

    References
    ----------
    "Generalized Polyak Step Size for First Order Optimization with Momentum" (2023), arXiv
    2305.12939, where they are compared with; "Stochastic Polyak Step-size for SGD" (2020), arXiv
    2002.10542; "Training Neural Networks for and by Interpolation" (2019), arXiv 1906.05661.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.tensor([3.0]))
    >>> optimizer = PolyakSGD([weight])
    >>> loss = (weight**2).sum()
    >>> loss.backward()
    >>> _ = optimizer.step(loss=loss)
    >>> weight.item(), optimizer.last_step
    (0.0, 0.5)
    """

    common = ("rule", "c", "f_star")

    def __init__(
        self,
        params: Iterable[Any],
        lr_max: float = LR_MAX,
        *,
        rule: str = "sps",
        c: float | None = None,
        momentum: float | None = None,
        f_star: float = 0.0,
    ) -> None:
        options = {"lr": lr_max, "rule": rule, "c": c, "momentum": momentum, "f_star": f_star}
        super().__init__(params, options)

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        rule = check_option("rule", options["rule"], RULES)
        c, momentum = options["c"], options["momentum"]
        if rule == "sps":
            c = check_real("c", SPS_C if c is None else c, above=0)
            if momentum:
                raise ValueError(
                    f"momentum must be left out for rule='sps', got {momentum!r}; "
                    "PolyakMomentum has steps made for it"
                )
            momentum = 0.0
        else:
            if c is not None:
                raise ValueError(f"c must be left out for rule='ali-g', got {c!r}")
            momentum = ALIG_MOMENTUM if momentum is None else momentum
            momentum = check_real("momentum", momentum, at_least=0, below=1)
        return {
            "lr": check_real("lr_max", options["lr"], above=0),
            "rule": rule,
            "c": c,
            "momentum": momentum,
            "f_star": check_real("f_star", options["f_star"]),
        }

    def _advance(self, parts: list[Part], loss: Any) -> None:
        gap, (norms,) = self.numbers(loss, norms_of([part.gradients for part in parts]))
        if not any(norms):
            return
        squared = math.hypot(*norms) ** 2
        first = parts[0].group
        if first["rule"] == "sps":
            step = length(gap / first["c"], squared)
        else:
            step = length(gap, squared + ALIG_DELTA)
        for part in parts:
            eta = part.group["last_step"] = min(step, part.group["lr"])
            torch._foreach_add_(part.parameters, part.gradients, alpha=-eta)
            momentum = part.group["momentum"]
            if momentum:
                speeds = part.memories()
                torch._foreach_mul_(speeds, momentum)
                torch._foreach_add_(speeds, part.gradients, alpha=-eta)
                part.keep(speeds)
                torch._foreach_add_(part.parameters, speeds, alpha=momentum)

r"""Train a torch network on few batches of an expensive loss by many of a cheap one like it.

A step takes one gradient of the expensive loss (labelled, private or finely simulated data) and
then follows the cheap loss (augmented, public or coarse data), corrected by that gradient and held
near the start. On private data, the one gradient is all that leaves them.

Source: "Two Losses Are Better Than One: Faster Optimization Using a Cheaper Proxy" (2023), arXiv
2302.03542.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from thalweg._torch import torch
from thalweg._validation import check_count, check_real
from thalweg.descent._torch_steps import CheckedOptimizer, evaluated, refuse_sparse

INNER_STEPS = 10
MOMENTUM = 0.9
SHARED = ("inner_steps", "anchor_batches")
"""Kept in the groups, so that state_dict and copies have them, but one for all."""


class ProxyProx(CheckedOptimizer):
    r"""Proximal-point steps on a proxy loss, each corrected by one gradient of the target loss.

    With the target's gradient g at the parameters x, `step` takes `inner_steps` steps of SGD with
    momentum from x on

    .. math:: \phi(y) = \hat f(y) + \langle g - \nabla \hat f(x), y \rangle
              + \frac{\|y - x\|^2}{2 \eta},

    every one with a new batch of the proxy loss :math:`\hat f`.

    **The closures must not call** ``backward``: see the notes.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups; a group may have its own value of every option but
        `inner_steps` and `anchor_batches`.
    eta : float
        Step, > 0: about 1 / (2 delta) for a difference of the losses of smoothness delta, less with
        noise. It is ``group["lr"]``, so that schedulers act on it.
    inner_steps : int, default 10
        Batches of the proxy a step.
    inner_lr : float, optional
        Learning rate of those steps, > 0; ``eta / inner_steps`` by default. It must suit the
        curvature of the proxy.
    momentum : float, default 0.9
        Momentum of those steps, 0 <= momentum < 1, from zero at every step.
    anchor_batches : int, default 1
        Batches of the proxy over which its gradient at x is averaged; the noise of that mean adds
        to the target's.

    Raises
    ------
    TypeError, ValueError
        If an option is out of range or a parameter is not real.

    Notes
    -----
    Both closures compute a loss at the parameters as they are and return it, **without calling**
    ``backward``; the proxy's draws a new batch whenever it is called. `step` clears gradients,
    differentiates the target loss once, and leaves that gradient in the parameters. Under
    DistributedDataParallel it is averaged over the processes; so are the proxy's gradients if its
    loss is computed by the wrapped module, which a proxy that all processes share does not need.

    Parameters without a gradient of the target loss stay; where the proxy has none, its gradient is
    zero. The moves are summed in float32 or wider.

    References
    ----------
    "Two Losses Are Better Than One: Faster Optimization Using a Cheaper Proxy" (2023), arXiv
    2302.03542, the method PROXYPROX; SGD as the inner solver is our choice.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.tensor([4.0, 4.0]))
    >>> optimizer = ProxyProx([weight], eta=1.0, inner_lr=0.02)
    >>> curvature, cheap = torch.tensor([1.0, 20.0]), torch.tensor([1.2, 20.0])
    >>> for _ in range(40):
    ...     loss = optimizer.step(
    ...         lambda: (curvature * weight**2).sum() / 2, lambda: (cheap * weight**2).sum() / 2)
    >>> bool(loss < 1e-3)
    True
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        eta: float,
        inner_steps: int = INNER_STEPS,
        inner_lr: float | None = None,
        momentum: float = MOMENTUM,
        anchor_batches: int = 1,
    ) -> None:
        options = {"lr": eta, "inner_lr": inner_lr, "momentum": momentum}
        shared = {"inner_steps": inner_steps, "anchor_batches": anchor_batches}
        super().__init__(params, options | shared)

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        inner_lr = options["inner_lr"]
        return {
            "lr": check_real("eta", options["lr"], above=0),
            "inner_lr": None if inner_lr is None else check_real("inner_lr", inner_lr, above=0),
            "momentum": check_real("momentum", options["momentum"], at_least=0, below=1),
            "inner_steps": check_count("inner_steps", options["inner_steps"]),
            "anchor_batches": check_count("anchor_batches", options["anchor_batches"]),
        }

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with its own ``eta``, or ``lr``, and options or the defaults.

        Raises
        ------
        TypeError, ValueError
            If an option is out of range or a parameter is not real; the group is not added then.
        """
        if "eta" in param_group:
            param_group["lr"] = param_group.pop("eta")
        for name in SHARED if self.param_groups else ():
            common = self.param_groups[0][name]
            if param_group.setdefault(name, common) != common:
                raise ValueError(f"{name} must be {common} in all groups, got {param_group[name]}")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, target_closure: Callable[[], Any], proxy_closure: Callable[[], Any]
    ) -> Any:
        """Take one gradient of the target loss and follow the proxy, corrected by it.

        Parameters
        ----------
        target_closure : callable
            Returns the target loss, without calling ``backward``.
        proxy_closure : callable
            Returns the proxy loss on a new batch, without calling ``backward``.

        Returns
        -------
        tensor
            The target loss before the step.

        Raises
        ------
        TypeError
            If a closure is none, or calls ``backward``.
        ValueError
            If a loss does not depend on the parameters, or a gradient is sparse.
        RuntimeError
            If a loss or gradient is not finite; the parameters are as before the step then.
        """
        loss, targets = self._gradients("target_closure", target_closure)
        moves = [
            _Move(group, p, targets[p])
            for group in self.param_groups
            for p in group["params"]
            if targets[p] is not None
        ]
        inner_steps, anchors = (self.param_groups[0][name] for name in SHARED)
        for _ in range(anchors):
            self._proxy(proxy_closure, moves)
            for move in moves:
                move.shift.sub_(move.slope, alpha=1 / anchors)
        try:
            for _ in range(inner_steps):
                self._proxy(proxy_closure, moves)
                for move in moves:
                    move.take(inner_steps)
        except BaseException:
            for move in moves:
                move.parameter.copy_(move.start)
            raise
        finally:
            for parameter, gradient in targets.items():
                parameter.grad = gradient
        return loss

    def _proxy(self, closure: Callable[[], Any], moves: list[_Move]) -> None:
        """Put the gradients of a batch of the proxy into the moves."""
        _, gradients = self._gradients("proxy_closure", closure)
        for move in moves:
            slope = gradients[move.parameter]
            move.slope = torch.zeros_like(move.shift) if slope is None else slope.to(move.dtype)

    def _gradients(self, name: str, closure: Callable[[], Any]) -> tuple[Any, dict[Any, Any]]:
        """Return the loss of a closure and its gradients by parameter; the latter are cleared."""
        if not callable(closure):
            raise TypeError(f"{name} must be a callable that returns the loss, got {closure!r}")
        self.zero_grad(set_to_none=True)
        loss = evaluated(closure)
        parameters = [p for group in self.param_groups for p in group["params"]]
        if any(p.grad is not None for p in parameters):
            raise TypeError(f"{name} must return the loss without calling backward, it called it")
        if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
            raise ValueError(f"{name} must return a tensor that depends on the parameters")
        with torch.enable_grad():
            loss.backward()
        refuse_sparse(self.param_groups)
        gradients = {p: p.grad for p in parameters}
        finite = [loss.detach().isfinite().all()]
        finite += [g.isfinite().all() for g in gradients.values() if g is not None]
        if not all(map(bool, finite)):
            raise RuntimeError(
                f"loss and gradient of {name} must be finite, got a loss of {float(loss):g}"
            )
        self.zero_grad(set_to_none=True)
        return loss, gradients


class _Move:
    """A parameter on its way: where it began, how far it went, and its part of the shift."""

    def __init__(self, group: dict[str, Any], parameter: Any, gradient: Any) -> None:
        self.group, self.parameter, self.start = group, parameter, parameter.clone()
        self.dtype = torch.promote_types(parameter.dtype, torch.float32)
        self.origin = self.start.to(self.dtype)
        self.shift = gradient.to(self.dtype).clone()
        self.slope = self.gone = torch.zeros_like(self.shift)
        self.velocity = torch.zeros_like(self.shift)

    def take(self, inner_steps: int) -> None:
        """Take an inner step along the gradient of phi."""
        eta = self.group["lr"]
        rate = self.group["inner_lr"]
        rate = eta / inner_steps if rate is None else rate
        self.velocity.mul_(self.group["momentum"]).add_(self.slope + self.shift)
        self.velocity.add_(self.gone, alpha=1 / eta)
        self.gone = self.gone - rate * self.velocity
        self.parameter.copy_(self.origin + self.gone)

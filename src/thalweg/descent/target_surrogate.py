r"""Train a torch model when the gradient of its loss is costly: many updates for each.

The loss of a simulator, a renderer or an expert is differentiated once, with respect to the
model's outputs (the "targets"). That gradient builds a surrogate which bounds the loss from above
and costs only the model, and `SSO` makes many updates of the parameters on it before it asks for
the next gradient. In the space of outputs this is projected stochastic gradient descent.

Source: "Target-based Surrogates for Stochastic Optimization" (2023), arXiv 2302.02607, Algorithms
1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from thalweg._torch import torch
from thalweg.descent import _surrogate_inner as inner_minimisers
from thalweg.descent._surrogate_construction import TargetLoss, construct, curvature_of
from thalweg.descent._surrogate_inner import ParameterModel
from thalweg.descent._surrogate_inputs import MADE, check_options, check_outputs, check_rows
from thalweg.descent._torch_steps import CheckedOptimizer


class SSO(CheckedOptimizer):
    r"""Surrogate optimisation: one target gradient a step, many updates of the parameters.

    With the outputs :math:`z = f(\theta_t)` of a batch of b samples, the gradients
    :math:`G_i = \nabla l_i(z_i)` and the target step :math:`\eta_t`, `step` lowers

    .. math:: S_t(\theta) = l(z) + \frac1b \sum_i \left[ \langle G_i, f_i(\theta) - z_i \rangle
              + \frac{1}{2 \eta_t} \|f_i(\theta) - z_i\|^2 \right]

    from :math:`\theta_t` by `inner_steps` steps of an inner minimiser. For
    :math:`\eta_t \le 1 / L`, with the `smoothness` L of the :math:`l_i`, it is an upper bound.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups. They all share one surrogate, so every group has the same
        options.
    target_step : float
        Step eta_0 in the space of outputs, > 0, for the mean of the :math:`l_i` of a batch of any
        size.
    inner_steps : int, default 10
        Updates m of the parameters for each target gradient.
    variant : str, default "sgd"
        What builds the surrogate:

        - "sgd": :math:`\eta_t = \eta_0`;
        - "line-search": the longest of `target_expand` times the last step (at first eta_0), 0.9
          times that, ... for which :math:`l(z - \eta G) \le l(z) - c \eta \|G\|^2 / b`, within
          1e-4 and 1e4;
        - "adagrad": :math:`\eta_0 / (\sum_{s \le t} \|G_s\|^2 / b)^{1/2}`;
        - "adagrad-diag": the squares are weighed by the roots of the sums of G² that each row of
          the data and each output have met, kept in a table that `index` addresses;
        - "newton": the squares are weighed by the loss's `curvature` in the outputs;
        - "mirror": for classification. The targets are the probabilities
          :math:`\pi = \mathrm{softmax}(f)`, of which the loss is a function, and the distance is
          :math:`KL(\pi \| \pi_t) / \eta_t`.
    schedule : {"constant", "sqrt", "exponential"}, default "constant"
        Factor of the step of any variant at t = 1, 2, ...: 1, t^-1/2, or T^(-t/T).
    total_steps : int, optional
        The T of "exponential".
    inner : {"armijo", "lbfgs"} or callable, default "armijo"
        The inner minimiser: gradient descent with backtracking, L-BFGS with a strong Wolfe search,
        or ``inner(params) -> torch.optim.Optimizer``, called for each surrogate (nothing is carried
        from one to the next), whose ``step()`` must need no closure.
    inner_c : float, default 0.5
        Share of the predicted fall that an Armijo step must bring, in (0, 1).
    inner_shrink : float, default 0.9
        Factor of an Armijo step after each refused trial, in (0, 1). There are at most 100.
    inner_init : float, default 10.0
        Length before the first Armijo step, > 0.
    inner_tol : float, default 1e-6
        The inner minimiser stops where the surrogate's gradient has no larger norm.
    expand : float, default 1.0
        A search begins at this multiple of the last length, >= 1.
    target_c, target_expand : float, default 0.5, 1.8
        Share of the fall in (0, 1), and factor of the last step >= 1, of "line-search".
    curvature : {"squared", "logistic", "cross-entropy"} or callable, optional
        For "newton": of which loss the diagonal of the Hessian is taken, or ``curvature(z)``, its
        positive entries in the shape of z, for one sample's loss each.
    reset : bool, default True
        Whether the first search on each surrogate begins at `inner_init` again.

    Attributes
    ----------
    n_target_grad : int
        Target gradients so far: one a step.
    n_target_value : int
        Losses of targets that "line-search" asked for besides, without a gradient.
    n_inner : int
        Updates of the parameters.
    n_forward : int
        Calls of the model.
    last_target_step : float or None
        The last :math:`\eta_t`.

    Raises
    ------
    TypeError, ValueError
        If an option is out of range, not that of the other groups, or a parameter is not real.

    Notes
    -----
    The outputs' first axis is the batch. The model must return the same outputs whenever it is
    called at the same parameters, so draw dropout masks outside it; running statistics of
    normalisation layers see the batch at every call. A loss that knows only its own gradient
    (a simulator) becomes a `torch.autograd.Function`.

    A search that refuses all trials leaves the parameters, and the next goes on from the shortest;
    below 1e-10 the inner minimiser stops. Old gradients are cleared, and the last gradient of the
    surrogate is left in the parameters.

    Where there is a default process group, every process passes its part of the batch, of the same
    length, and a model that is not wrapped: losses and gradients are averaged.

    Deviations: :math:`\eta` is the step for the mean loss, without the factor two of the common
    code; the squares of "adagrad" are means over the batch, so that a step does not depend on its
    length; "cross-entropy" has the diagonal p (1 - p) of the Hessian, which alone is no upper
    bound (twice it is), so take `target_step` <= 1/2 for one.

    References
    ----------
    "Target-based Surrogates for Stochastic Optimization" (2023), arXiv 2302.02607, Algorithms 1
    and 2.

    Examples
    --------
    >>> import torch
    >>> X = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> y = torch.tensor([1.0, 3.0, 5.0])
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = SSO([weight], target_step=1.0, inner_steps=20, inner="lbfgs")
    >>> def loss(z):
    ...     return 0.5 * (z - y).square().mean()
    >>> for _ in range(2):
    ...     value = optimizer.step(lambda: X @ weight, loss)
    >>> weight.data.round(decimals=3), optimizer.n_target_grad
    (tensor([1., 2.]), 2)
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        target_step: float,
        inner_steps: int = 10,
        variant: str = "sgd",
        schedule: str = "constant",
        total_steps: int | None = None,
        inner: str | Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer] = "armijo",
        inner_c: float = 0.5,
        inner_shrink: float = 0.9,
        inner_init: float = 10.0,
        inner_tol: float = 1e-6,
        expand: float = 1.0,
        target_c: float = 0.5,
        target_expand: float = 1.8,
        curvature: str | Callable[[torch.Tensor], torch.Tensor] | None = None,
        reset: bool = True,
    ) -> None:
        self._curvature = curvature_of(curvature)
        self._factory = inner if callable(inner) else None
        self._seen: dict[str, Any] = {
            "n_target_grad": 0,
            "n_target_value": 0,
            "n_inner": 0,
            "n_forward": 0,
            "last_target_step": None,
            "searched_step": None,
            "inner_length": None,
            "sum_of_squares": 0.0,
            "table": None,
        }
        options = {
            "target_step": target_step,
            "inner_steps": inner_steps,
            "variant": variant,
            "schedule": schedule,
            "total_steps": total_steps,
            "inner": MADE if callable(inner) else inner,
            "inner_c": inner_c,
            "inner_shrink": inner_shrink,
            "inner_init": inner_init,
            "inner_tol": inner_tol,
            "expand": expand,
            "target_c": target_c,
            "target_expand": target_expand,
            "reset": reset,
        }
        super().__init__(params, options)

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        if options["variant"] == "newton" and self._curvature is None:
            raise ValueError("curvature must be given for variant 'newton', got None")
        return check_options(options, made=self._factory is not None)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with the options of the others.

        Raises
        ------
        TypeError, ValueError
            If an option is out of range or not that of the other groups, or a parameter is not
            real; the group is not added then.
        """
        super().add_param_group(param_group)
        for name, value in self._checked(self.param_groups[0]).items():
            if param_group[name] != value:
                self.param_groups.pop()
                raise ValueError(
                    f"{name} must be {value!r} in every group, got {param_group[name]!r}"
                )

    n_target_grad = property(lambda self: self._seen["n_target_grad"])
    n_target_value = property(lambda self: self._seen["n_target_value"])
    n_inner = property(lambda self: self._seen["n_inner"])
    n_forward = property(lambda self: self._seen["n_forward"])
    last_target_step = property(lambda self: self._seen["last_target_step"])

    def step(  # type: ignore[override]
        self,
        forward: Callable[[], torch.Tensor],
        target_loss: TargetLoss,
        index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Differentiate the loss of the outputs once, and lower the surrogate.

        Parameters
        ----------
        forward : callable
            Returns the outputs of the batch with their graph, shape (b, ...); ``(b, classes)`` for
            "mirror".
        target_loss : callable
            ``target_loss(z)``, the *mean* loss over the b samples of outputs z; of probabilities
            for "mirror". It is differentiated once.
        index : tensor of shape (b,), optional
            Numbers of the batch's rows in the data, >= 0; needed by "adagrad-diag".

        Returns
        -------
        tensor
            The loss at the outputs before the step, without a graph.

        Raises
        ------
        TypeError
            If `forward` or `target_loss` is not callable or returns no tensor.
        ValueError
            If outputs, loss or index are not as stated, or a gradient is sparse.
        RuntimeError
            If outputs, loss or a gradient are not finite: it names the step, and the parameters
            are as before.
        """
        options = self.param_groups[0]
        for name, function in (("forward", forward), ("target_loss", target_loss)):
            if not callable(function):
                raise TypeError(f"{name} must be callable, got {function!r}")
        with torch.enable_grad():
            outputs = forward()
        check_outputs(outputs, probabilities=options["variant"] == "mirror")
        rows = check_rows(index, outputs, needed=options["variant"] == "adagrad-diag")
        number = self.n_target_grad + 1
        surrogate, loss, seen = construct(
            outputs, target_loss, rows, number, options, self._curvature, self._seen
        )
        self.zero_grad(set_to_none=True)
        model = ParameterModel(self.param_groups, forward, surrogate, outputs)
        start = inner_minimisers.copies(model.parameters)
        try:
            seen |= self._minimise(model, number)
        except BaseException:
            inner_minimisers.restore(model.parameters, start)
            raise
        self._seen |= seen
        self._seen["n_forward"] += model.n_forward
        return loss

    def _minimise(self, model: ParameterModel, number: int) -> dict[str, Any]:
        options = self.param_groups[0]

        def check(square: float) -> None:
            if not math.isfinite(square):
                raise RuntimeError(
                    f"the surrogate and its gradient must be finite at step {number}, got {square}"
                )

        length = self._seen["inner_length"]
        if options["inner"] == "armijo":
            last = options["inner_init"] if options["reset"] or length is None else length
            taken, length = inner_minimisers.armijo(model, check, options, last)
        elif options["inner"] == "lbfgs":
            taken = inner_minimisers.lbfgs(model, check, options)
        elif self._factory is not None:
            taken = inner_minimisers.stepped(model, check, options, self._factory)
        else:
            raise ValueError("inner must be the callable that the loaded state was made with")
        return {"n_inner": self.n_inner + taken, "inner_length": length}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes: as of any optimizer, counters and what is accumulated."""
        return {**super().state_dict(), "surrogate": dict(self._seen)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` of one with the same parameters returned."""
        kept = state_dict.get("surrogate")
        if kept is None or set(kept) != set(self._seen):
            raise ValueError("state_dict must be that of an SSO, with the entry 'surrogate'")
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "surrogate"})
        table = kept["table"]
        if table is not None:
            table = table.to(self.param_groups[0]["params"][0].device).clone()
        self._seen = {**kept, "table": table}

    def __getstate__(self) -> dict[str, Any]:
        own = ("_curvature", "_factory", "_seen")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}

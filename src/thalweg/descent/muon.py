"""Muon: momentum whose direction is made orthogonal, for the matrices of a network.

`MuonWithAdamW` trains a whole model: Muon takes the matrices, AdamW the embeddings, the output
head, norms and biases. `Muon` alone is for those who split the parameters themselves
(`split_parameters` helps). The one idea: a step of the same length along every singular direction
of the gradient, which is steepest descent in the spectral norm. The direction is
`thalweg.linalg.polar_factor` of the momentum, by matrix products alone.

Source: "The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon
Algorithm" (2025), arXiv 2505.16932, Section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._torch import torch
from thalweg._validation import check_count, check_option, check_real
from thalweg.descent._torch_steps import evaluated, named, refuse_sparse
from thalweg.descent._work_dtype import WORK_DTYPES, work_dtype
from thalweg.descent.matrix_parameters import Head, split_named_parameters
from thalweg.linalg.polar import NORM_MARGIN, polar_factor
from thalweg.linalg.sign_polynomials import SCHEDULE_NAMES, check_schedule, named_schedule

nn, dist = torch.nn, torch.distributed

TABLE_ROWS = 8
NORM_FLOOR = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon for matrices: ``W <- (1 - lr wd) W - lr scale polar(momentum)``.

    Kernels with more than two axes are taken as matrices of shape (out, -1). Embeddings, output
    heads and vectors belong to another optimizer: see `MuonWithAdamW`.

    Parameters
    ----------
    params : iterable
        Parameters of two axes or more, pairs of name and parameter, or parameter groups. A group
        may have its own value of every option but `group`.
    lr : float, default 0.02
        Learning rate: the spectral norm of a step, before `adjust`.
    momentum : float, default 0.95
        In ``M <- momentum M + gradient``.
    nesterov : bool, default True
        Whether the direction is ``gradient + momentum M`` rather than M.
    weight_decay : float, default 0
        Decoupled.
    schedule : str or array_like of shape (steps, q + 1), default "polar-express"
        Polynomials of the polar factor: a name of `thalweg.linalg.named_schedule`, or coefficients.
    n_iter : int, default 5
        How many of them are applied.
    adjust : {"original", "match_rms_adamw"}, default "original"
        Scale of a step by its matrix: ``max(1, rows / columns)^0.5``, or ``0.2 max(rows,
        columns)^0.5``, which suits learning rates tuned for AdamW.
    dtype : torch.dtype or "auto", default "auto"
        What the polar factor is computed in. "auto" is bfloat16 for matrices large enough to gain
        where the hardware multiplies it, float64 for such parameters and float32 elsewhere.
    group : ProcessGroup or False, optional
        When `torch.distributed` is initialised, each rank of this group (None: all ranks) computes
        the polar factors of its share of the parameters and gathers the others. All ranks must hold
        the same parameters and gradients, as DistributedDataParallel leaves them. False computes
        everything everywhere.

    Raises
    ------
    TypeError, ValueError
        If an option is outside its range, or a parameter is complex or has fewer than two axes;
        in `step`, if a gradient is sparse.

    Notes
    -----
    The first `n_iter` of eight polynomials are used, as in the paper's listing, so that all of five
    take the safety factor. A gradient whose Frobenius norm is far below 1e-7 gives a short step.
    Parameters without gradient are left as they are, their weights undecayed.

    References
    ----------
    "The Polar Express" (2025), arXiv 2505.16932, Section 4 and Algorithm 1.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.zeros(2, 3))
    >>> optimizer = Muon([weight], lr=0.1, momentum=0.0, n_iter=8)
    >>> (weight[0] * torch.tensor([3.0, 0.0, 4.0])).sum().backward()
    >>> optimizer.step()
    >>> weight.data
    tensor([[-0.0600, 0.0000, -0.0800],
            [ 0.0000, 0.0000, 0.0000]])
    """

    _process_group: Any = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        schedule: str | ArrayLike = "polar-express",
        n_iter: int = 5,
        adjust: Literal["original", "match_rms_adamw"] = "original",
        dtype: torch.dtype | Literal["auto"] = "auto",
        group: Any = None,
    ) -> None:
        self._process_group = group
        options = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "schedule": schedule,
            "n_iter": n_iter,
            "adjust": adjust,
            "dtype": dtype,
        }
        super().__init__(params, _checked_options(options))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with its own options or the defaults."""
        super().add_param_group(param_group)
        try:
            for name, parameter in named(param_group):
                _check_parameter(name, parameter)
            param_group.update(_checked_options(param_group))
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; a closure that recomputes the loss is called first, its value returned."""
        loss = evaluated(closure)
        refuse_sparse(self.param_groups)
        moving = [(p, g) for g in self.param_groups for p in g["params"] if p.grad is not None]
        for parameter, options in moving:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter.grad)
            state["momentum_buffer"].mul_(options["momentum"]).add_(parameter.grad)
        for (parameter, options), factor in zip(moving, self._factors(moving), strict=True):
            rate = float(options["lr"])
            parameter.mul_(1 - rate * options["weight_decay"])
            parameter.add_(
                factor.view_as(parameter), alpha=-rate * _scale(factor, options["adjust"])
            )
        return loss

    def __getstate__(self) -> dict[str, Any]:
        shards = False if self._process_group is False else None
        return {**super().__getstate__(), "_process_group": shards}

    def _factors(self, moving: list[tuple[Any, dict[str, Any]]]) -> Iterable[torch.Tensor]:
        group = self._process_group
        ready = group is not False and dist.is_available() and dist.is_initialized()
        if not moving or not ready or dist.get_world_size(group) == 1:
            return (self._factor(parameter, options) for parameter, options in moving)
        return self._gathered_factors(moving, group)

    def _factor(self, parameter: Any, options: dict[str, Any]) -> torch.Tensor:
        direction = self.state[parameter]["momentum_buffer"]
        if options["nesterov"]:
            direction = parameter.grad.add(direction, alpha=options["momentum"])
        matrix = direction.flatten(1)
        norm = torch.linalg.vector_norm(matrix, dtype=_at_least_float32(matrix.dtype))
        return polar_factor(
            matrix / (NORM_MARGIN * norm + NORM_FLOOR),
            options["n_iter"],
            _table(options["schedule"]),
            normalize=False,
            dtype=work_dtype(parameter, options["dtype"]),
            check_finite=False,
        )

    def _gathered_factors(
        self, moving: list[tuple[Any, dict[str, Any]]], group: Any
    ) -> list[torch.Tensor]:
        """Deal the matrices out, largest first, compute this rank's, and gather all in one call."""
        size, rank = dist.get_world_size(group), dist.get_rank(group)
        order = sorted(range(len(moving)), key=lambda i: -moving[i][0].numel())
        shares = [[moving[i] for i in order[r::size]] for r in range(size)]
        dtype = reduce(torch.promote_types, (work_dtype(p, g["dtype"]) for p, g in moving))
        length = max(sum(p.numel() for p, _ in share) for share in shares)
        mine = torch.zeros(length, dtype=dtype, device=moving[0][0].device)
        offset = 0
        for parameter, options in shares[rank]:
            mine[offset : offset + parameter.numel()] = self._factor(parameter, options).flatten()
            offset += parameter.numel()
        everyone = [torch.empty_like(mine) for _ in shares]
        dist.all_gather(everyone, mine, group=group)
        factors: list[Any] = [None] * len(moving)
        for r, buffer in enumerate(everyone):
            offset = 0
            for i in order[r::size]:
                parameter = moving[i][0]
                part = buffer[offset : offset + parameter.numel()]
                factors[i] = part.to(parameter.dtype).view(parameter.shape[0], -1)
                offset += parameter.numel()
        return factors


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for a model's matrices and AdamW for the rest, as one optimizer.

    Learning-rate schedulers, `state_dict`, `param_groups`, closures and `zero_grad` work as for any
    optimizer. Each group says in ``group["algorithm"]`` who steps it, ``"muon"`` or ``"adamw"`` (a
    key that `add_param_group` asks for), and in ``group["param_names"]`` what it holds.

    Parameters
    ----------
    model : torch.nn.Module
        Its trainable parameters are dealt out by `split_parameters`.
    lr : float, default 0.02
        Learning rate of Muon.
    adamw_lr : float, default 3e-4
        Learning rate of AdamW.
    head : str, sequence of str, callable or None
        What counts as the output head: see `split_parameters`.
    momentum, nesterov, weight_decay, schedule, n_iter, adjust, dtype, group
        Options of `Muon`.
    adamw_betas, adamw_eps, adamw_weight_decay
        Options of `torch.optim.AdamW`; no decay by default.

    Raises
    ------
    ValueError
        If the model has no matrix for Muon, or an option is outside its range.

    Examples
    --------
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.Linear(8, 2)
    ... )
    >>> optimizer = MuonWithAdamW(model, lr=0.02, adamw_lr=1e-3)
    >>> for group in optimizer.param_groups:
    ...     print(group["algorithm"], group["lr"], group["param_names"])
    muon 0.02 ['0.weight', '2.weight']
    adamw 0.001 ['0.bias', '2.bias', '3.weight', '3.bias']
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.02,
        adamw_lr: float = 3e-4,
        *,
        head: Head = None,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        schedule: str | ArrayLike = "polar-express",
        n_iter: int = 5,
        adjust: Literal["original", "match_rms_adamw"] = "original",
        dtype: torch.dtype | Literal["auto"] = "auto",
        group: Any = None,
        adamw_betas: tuple[float, float] = (0.9, 0.999),
        adamw_eps: float = 1e-8,
        adamw_weight_decay: float = 0.0,
    ) -> None:
        matrices, rest = split_named_parameters(model, head)
        if not matrices:
            raise ValueError(
                f"model must have a matrix for Muon besides embeddings and head, got "
                f"{[name for name, _ in rest]}"
            )
        self._inner: dict[str, torch.optim.Optimizer] = {}
        self._options: dict[str, dict[str, Any]] = {
            "muon": {
                "lr": lr,
                "momentum": momentum,
                "nesterov": nesterov,
                "weight_decay": weight_decay,
                "schedule": schedule,
                "n_iter": n_iter,
                "adjust": adjust,
                "dtype": dtype,
            },
            "adamw": {
                "lr": check_real("adamw_lr", adamw_lr, at_least=0),
                "betas": adamw_betas,
                "eps": adamw_eps,
                "weight_decay": adamw_weight_decay,
            },
        }
        self._process_group = group
        groups = [{"params": matrices, "algorithm": "muon"}, {"params": rest, "algorithm": "adamw"}]
        super().__init__([g for g in groups if g["params"]], {})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; its key ``"algorithm"`` is ``"muon"`` or ``"adamw"``."""
        algorithm = check_option(
            'param_group["algorithm"]', param_group.get("algorithm"), tuple(self._options)
        )
        super().add_param_group(param_group)
        try:
            if algorithm in self._inner:
                self._inner[algorithm].add_param_group(param_group)
            elif algorithm == "muon":
                self._inner[algorithm] = Muon(
                    [param_group], **self._options["muon"], group=self._process_group
                )
            else:
                self._inner[algorithm] = torch.optim.AdamW([param_group], **self._options["adamw"])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._inner[algorithm].state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; a closure that recomputes the loss is called first, its value returned."""
        loss = evaluated(closure)
        refuse_sparse(self.param_groups)
        for optimizer in self._inner.values():
            optimizer.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` of such an optimizer for the same model returned."""
        saved = [group.get("algorithm") for group in state_dict["param_groups"]]
        ours = [group["algorithm"] for group in self.param_groups]
        if saved != ours:
            raise ValueError(f"state_dict must have groups for {ours}, got {saved}")
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        own = {"_inner": self._inner, "_options": self._options, "_process_group": None}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for algorithm, optimizer in self._inner.items():
            groups = [group for group in self.param_groups if group["algorithm"] == algorithm]
            optimizer.param_groups = groups
            optimizer.state = self.state


def _checked_options(options: dict[str, Any]) -> dict[str, Any]:
    schedule = options["schedule"]
    if isinstance(schedule, str):
        check_option("schedule", schedule, SCHEDULE_NAMES)
    else:
        schedule = tuple(map(tuple, check_schedule(schedule).tolist()))
    return {
        "lr": check_real("lr", options["lr"], at_least=0),
        "momentum": check_real("momentum", options["momentum"], at_least=0, below=1),
        "nesterov": bool(options["nesterov"]),
        "weight_decay": check_real("weight_decay", options["weight_decay"], at_least=0),
        "schedule": schedule,
        "n_iter": check_count("n_iter", options["n_iter"]),
        "adjust": check_option("adjust", options["adjust"], ("original", "match_rms_adamw")),
        "dtype": check_option("dtype", options["dtype"], WORK_DTYPES),
    }


def _check_parameter(name: str, parameter: torch.Tensor) -> None:
    if parameter.ndim < 2:
        raise ValueError(
            f"params must have two axes or more, got shape {tuple(parameter.shape)} ({name}); "
            "MuonWithAdamW gives vectors to AdamW"
        )
    if not parameter.is_floating_point():
        raise TypeError(f"params must be real floating point, got {parameter.dtype} ({name})")


def _scale(matrix: torch.Tensor, adjust: str) -> float:
    rows, columns = matrix.shape
    if adjust == "original":
        return max(1.0, rows / columns) ** 0.5
    return 0.2 * max(rows, columns) ** 0.5


@lru_cache
def _table(schedule: str | tuple[tuple[float, ...], ...]) -> NDArray[np.float64]:
    if isinstance(schedule, str):
        return named_schedule(schedule, TABLE_ROWS)
    return np.array(schedule)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)

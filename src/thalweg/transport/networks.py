"""Small networks of time and place, how they are trained, and the divergence of what they give.

`TimeMLP` is a drift, velocity, score or denoiser to be learned; `train` fits any networks to any
loss with a plain Adam loop that can be interrupted and goes on from a file; `divergence` is what
likelihoods along a flow need.

Source: "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions" (2023), arXiv
2303.08797, for the objectives that these networks are trained on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_count, check_option
from thalweg.transport._training import Learner, Schedule, run_steps

ACTIVATIONS: dict[str, type[torch.nn.Module]] = {
    "silu": torch.nn.SiLU,
    "relu": torch.nn.ReLU,
    "leaky_relu": torch.nn.LeakyReLU,
    "gelu": torch.nn.GELU,
    "tanh": torch.nn.Tanh,
    "softplus": torch.nn.Softplus,
}
FREQUENCIES = (1.0, 30.0)
"""Lowest and highest angular frequency of the time features, per unit of time."""
EXACT_DIM = 16
"""Dimensions up to which `divergence` is exact by default."""


class TimeMLP(torch.nn.Module):
    """Multilayer perceptron of a time, a point and, if wanted, a condition.

    The time enters as itself and as sines and cosines of geometric frequencies from 1 to 30, so
    that fields that change fast near the ends can be learned.

    Parameters
    ----------
    dim : int
        Columns d of the points.
    out_dim : int, optional
        Columns of the result; None is `dim`.
    hidden : sequence of int, default (128, 128, 128)
        Widths of the hidden layers; empty gives an affine map of the features.
    activation : {"silu", "relu", "leaky_relu", "gelu", "tanh", "softplus"}, default "silu"
        Nonlinearity.
    time_features : int, default 16
        Sines and cosines together; even, 0 leaves the time alone.
    cond_dim : int, default 0
        Columns of the condition.
    zero_init : bool, default False
        Start with a last layer of zeros, so that the field starts as zero.
    rng : None, int or torch.Generator
        Source of the initial weights, a generator of the CPU; no global state is touched. The
        weights have PyTorch's default law.

    References
    ----------
    "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions" (2023), arXiv
    2303.08797.

    Examples
    --------
    >>> import torch
    >>> net = TimeMLP(2, cond_dim=3, rng=0)
    >>> x, cond = torch.zeros(5, 2), torch.zeros(5, 3)
    >>> net(0.5, x, cond).shape, net(torch.linspace(0, 1, 5), x, cond).shape
    (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    frequencies: torch.Tensor
    phases: torch.Tensor

    def __init__(
        self,
        dim: int,
        out_dim: int | None = None,
        *,
        hidden: Sequence[int] = (128, 128, 128),
        activation: str = "silu",
        time_features: int = 16,
        cond_dim: int = 0,
        zero_init: bool = False,
        rng: int | torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.dim = check_count("dim", dim)
        self.out_dim = self.dim if out_dim is None else check_count("out_dim", out_dim)
        self.cond_dim = check_count("cond_dim", cond_dim, at_least=0)
        if check_count("time_features", time_features, at_least=0) % 2:
            raise ValueError(f"time_features must be even, got {time_features!r}")
        nonlinearity = ACTIVATIONS[check_option("activation", activation, ACTIVATIONS)]
        half = time_features // 2
        self.register_buffer(
            "frequencies",
            torch.from_numpy(np.geomspace(*FREQUENCIES, half)).float().repeat(2),
            persistent=False,
        )
        self.register_buffer(
            "phases", (torch.arange(2 * half) >= half) * (math.pi / 2), persistent=False
        )
        widths = [
            self.dim + self.cond_dim + 1 + time_features,
            *(check_count("hidden", width) for width in hidden),
            self.out_dim,
        ]
        generator = torch_generator(rng)
        layers = [_linear(m, n, generator) for m, n in pairwise(widths)]
        if zero_init:
            torch.nn.init.zeros_(layers[-1].weight)
            torch.nn.init.zeros_(layers[-1].bias)
        self.first = layers[0]
        rest = [part for layer in layers[1:] for part in (nonlinearity(), layer)]
        self.rest = torch.nn.Sequential(*rest)

    def forward(
        self, t: float | torch.Tensor, x: torch.Tensor, cond: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the field at the points.

        Parameters
        ----------
        t : float or tensor () or (n,)
            Times.
        x : tensor (n, dim)
            Points.
        cond : tensor (n, cond_dim), optional
            Conditions, where the network has them.

        Returns
        -------
        tensor (n, out_dim)
        """
        if (cond is None) != (self.cond_dim == 0):
            raise ValueError(
                f"cond must be a tensor (n, {self.cond_dim})"
                if cond is None
                else "cond must be None for a network with cond_dim=0"
            )
        if not isinstance(t, torch.Tensor) or t.ndim == 0:
            return self.rest(self._first_at_one_time(t, x, cond))
        column = t.to(x.dtype).reshape(-1, 1)
        waves = torch.addcmul(self.phases, column, self.frequencies).sin_()
        parts = [x, column, waves] if cond is None else [x, cond, column, waves]
        return self.rest(self.first(torch.cat(parts, 1)))

    def _first_at_one_time(
        self, t: float | torch.Tensor, x: torch.Tensor, cond: torch.Tensor | None
    ) -> torch.Tensor:
        """Apply the first layer where all rows share the time: its part is one vector."""
        clock = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        waves = torch.addcmul(self.phases, clock, self.frequencies).sin_()
        place, time = self.first.weight.split([self.dim + self.cond_dim, 1 + len(waves)], dim=1)
        shift = torch.addmv(self.first.bias, time, torch.cat([clock.reshape(1), waves]))
        return torch.nn.functional.linear(
            x if cond is None else torch.cat([x, cond], 1), place, shift
        )


def train(
    modules: torch.nn.Module | Sequence[torch.nn.Module],
    loss_fn: Callable[[torch.Generator], torch.Tensor],
    *,
    n_steps: int,
    lr: float = 2e-3,
    schedule: Schedule = "cosine",
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    ema: float | None = None,
    grad_clip: float | None = None,
    callback: Callable[[Any], Any] | None = None,
    rng: int | torch.Generator | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    config: dict[str, Any] | None = None,
) -> tuple[list[torch.nn.Module], NDArray[np.float64]]:
    """Lower a loss by Adam, and go on from a file where an earlier run was interrupted.

    Parameters
    ----------
    modules : torch.nn.Module or sequence of them
        The networks, trained in place.
    loss_fn : callable
        ``loss_fn(generator) -> scalar tensor``: draws its batch from `generator` and from nothing
        else. Where it has ``state_dict()`` and ``load_state_dict(state)``, as a module has, what
        they give is kept in the checkpoint: a cache of simulated points, for example.
    n_steps : int
        Steps of the whole run, those before an interruption included.
    lr : float, default 2e-3
        Learning rate at the start.
    schedule : {"cosine", "constant"} or callable, default "cosine"
        Cosine ends at a hundredth of `lr`; a callable maps the share of the run that is over, in
        [0, 1), to a factor.
    betas : (float, float), default (0.9, 0.999)
        Decay of Adam's averages.
    weight_decay : float, default 0.0
        Decoupled decay, as in AdamW.
    ema : float, optional
        Decay of the moving average of the parameters; the returned networks are then copies that
        hold the average. After t steps ``min(ema, (1+t)/(10+t))`` is used, so that the start is
        forgotten in short runs too.
    grad_clip : float, optional
        Largest norm of the gradient.
    callback : callable, optional
        Called after each step with ``state.step`` (from 1), ``state.n_steps`` and ``state.loss``;
        StopIteration ends the run.
    rng : None, int or torch.Generator
        Source of the batches, on the device of the networks.
    checkpoint : path, optional
        File that the run is kept in. It is replaced as a whole every `checkpoint_every` steps, at
        the end, when `callback` raises and, once the step in progress is done, when the keyboard
        interrupts. If it exists the run goes on from it and gives, bit by bit, what it would have
        given uninterrupted; a finished one gives its result at once.
    checkpoint_every : int, default 500
        Steps between two writes.
    config : dict, optional
        Further plain values (numbers, strings, None, lists, dicts) that a checkpoint must agree in,
        such as the parameters of an estimator and the `fingerprint` of its data.

    Returns
    -------
    modules : list of torch.nn.Module
        The trained networks, or copies with averaged parameters; in evaluation mode.
    losses : array (steps,)

    Raises
    ------
    ValueError
        If an argument is not as stated; if the checkpoint is of another configuration (the message
        says in what) or cannot be read.
    FloatingPointError
        If the loss leaves the finite numbers; it names the step.

    Examples
    --------
    >>> import torch
    >>> net = TimeMLP(1, hidden=(16,), rng=0)
    >>> def loss(generator):
    ...     x = torch.randn(64, 1, generator=generator)
    ...     return ((net(0.5, x) - x) ** 2).mean()
    >>> (net,), losses = train(net, loss, n_steps=200, lr=1e-2, rng=0)
    >>> bool(losses[-1] < 0.01 * losses[0])
    True
    """
    modules = [modules] if isinstance(modules, torch.nn.Module) else list(modules)
    learner = Learner(
        modules,
        n_steps=n_steps,
        lr=lr,
        schedule=schedule,
        betas=betas,
        weight_decay=weight_decay,
        ema=ema,
        grad_clip=grad_clip,
    )
    for module in modules:
        module.train()

    def advance(generator: torch.Generator) -> torch.Tensor:
        loss = loss_fn(generator)
        learner.step(loss)
        return loss

    losses = run_steps(
        advance,
        [learner],
        n_steps=n_steps,
        generator=torch_generator(rng, learner.device),
        callback=callback,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        config={**(config or {}), "seed": rng if isinstance(rng, int) else None},
        extra=loss_fn if hasattr(loss_fn, "load_state_dict") else None,
    )
    return learner.trained(), losses


def divergence(
    field: Callable[[Any, torch.Tensor], torch.Tensor],
    t: Any,
    x: torch.Tensor,
    *,
    exact: bool | None = None,
    rng: int | torch.Generator | None = None,
    return_field: bool = False,
) -> Any:
    """Return the divergence of a field at each point: the trace of its Jacobian.

    Parameters
    ----------
    field : callable
        ``field(t, x) -> tensor (n, d)``; a row of the result depends on its own row of `x` alone.
    t : float or tensor (n,)
        Times, handed on to `field`.
    x : tensor (n, d)
        Points.
    exact : bool, optional
        True: one backward pass a dimension. False: Hutchinson's estimate ``e' J e`` with one random
        vector of signs a row, one backward pass in all, unbiased. None is exact up to d = 16.
    rng : None, int or torch.Generator
        Source of the signs. The same int gives the same signs at each call, which keeps the
        estimate smooth in time along a path.
    return_field : bool, default False
        Return the field at the points too, which has been computed anyway.

    Returns
    -------
    tensor (n,), or a pair with tensor (n, d)
        Gradients pass through where they are enabled; under ``torch.no_grad()`` or
        ``torch.inference_mode()`` the result has none, and costs less.

    Examples
    --------
    >>> import torch
    >>> with torch.no_grad():
    ...     divergence(lambda t, x: t * x**2, 0.5, torch.tensor([[1.0, 2.0]]))
    tensor([3.])
    """
    if x.ndim != 2:
        raise ValueError(f"x must have shape (n, d), got {tuple(x.shape)}")
    differentiable = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        if isinstance(t, torch.Tensor) and t.is_inference():
            t = t.clone()
        if not (differentiable and x.requires_grad):
            x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        value = field(t, x)
        if value.shape != x.shape:
            raise ValueError(
                f"field(t, x) must have the shape of x, {tuple(x.shape)}, got {tuple(value.shape)}"
            )
        if x.shape[1] <= EXACT_DIM if exact is None else exact:
            total = _trace(value, x, differentiable)
        else:
            generator = torch_generator(rng, x.device)
            signs = torch.randint(0, 2, x.shape, generator=generator, device=x.device)
            signs = 2 * signs.to(x.dtype) - 1
            total = (_pullback(value, x, signs, differentiable, last=True) * signs).sum(1)
    if not differentiable:
        value, total = value.detach(), total.detach()
    return (total, value) if return_field else total


def _trace(value: torch.Tensor, x: torch.Tensor, differentiable: bool) -> torch.Tensor:
    d = x.shape[1]
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for i in range(d):
        direction = torch.zeros_like(value)
        direction[:, i] = 1.0
        total = total + _pullback(value, x, direction, differentiable, last=i == d - 1)[:, i]
    return total


def _pullback(
    value: torch.Tensor,
    x: torch.Tensor,
    direction: torch.Tensor,
    differentiable: bool,
    last: bool,
) -> torch.Tensor:
    if not value.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(
        value,
        x,
        direction,
        retain_graph=differentiable or not last,
        create_graph=differentiable,
        allow_unused=True,
    )
    return torch.zeros_like(x) if gradient is None else gradient


def _linear(m: int, n: int, generator: torch.Generator) -> torch.nn.Linear:
    """Return a layer with PyTorch's default weights, drawn from this generator alone."""
    layer = torch.nn.utils.skip_init(torch.nn.Linear, m, n)
    bound = 1 / math.sqrt(m)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer

"""Samples of an autoregressive model in fewer calls of its network, bit for bit the same.

With the noise drawn beforehand each entry is a function of the earlier ones, and one call of the
network gives the distributions of all entries at once. Jacobi iteration
(`thalweg.linalg.solve_feedforward`) then needs a call an iteration, instead of a call an entry.

Source: "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving" (2021), arXiv
2002.03629, autoregressive sampling; the network of "MADE: Masked Autoencoder for Distribution
Estimation" (2015), arXiv 1502.03509.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

from scipy.optimize import OptimizeResult

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_count, check_option
from thalweg.linalg.fixed_point import solve_feedforward

nn, F = torch.nn, torch.nn.functional

KINDS = ("bernoulli", "categorical", "gaussian")


def sample_autoregressive(
    logits_fn: Callable[[torch.Tensor], torch.Tensor],
    n: int,
    length: int,
    *,
    kind: str = "bernoulli",
    method: str = "jacobi",
    rng: int | torch.Generator | None = None,
    block_size: int | None = None,
    tol: float = 0.0,
    max_iter: int | None = None,
    callback: Callable[[OptimizeResult], Any] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> tuple[torch.Tensor, OptimizeResult]:
    """Draw from an autoregressive model by parallel fixed-point iteration.

    Parameters
    ----------
    logits_fn : callable
        From a float tensor (n, length) to what the distribution of each entry given the entries
        before it is made of. Bernoulli: log-odds, shape (n, length). Categorical: logits, shape (n,
        length, classes). Gaussian: mean and logarithm of the standard deviation, shape (n, length,
        2).
    n, length : int
        Number of samples, and of entries of each.
    kind : {"bernoulli", "categorical", "gaussian"}, default "bernoulli"
        Distribution of an entry. Categories are the numbers 0, 1, ...
    method, block_size, tol, max_iter, callback
        As in `thalweg.linalg.solve_feedforward`; its state t is entry t of all samples. Jacobi
        calls `logits_fn` once an iteration, ``"gauss-seidel"`` `length` times.
    rng : None, int or torch.Generator
        Draws the noise; the same noise gives the same samples by every method.
    dtype : torch.dtype, optional
        Floating type of the samples, by default torch's own.
    device : torch.device or str, default "cpu"
        Where the samples are made.

    Returns
    -------
    samples : torch.Tensor of shape (n, length)
        The draws.
    result : scipy.optimize.OptimizeResult
        Of `solve_feedforward`, whose ``x`` has shape (length, n). Look at ``success`` where
        `max_iter` or `callback` may end the run; a NaN of the network ends it too.

    Raises
    ------
    TypeError
        If `logits_fn` is not callable or `dtype` is not a floating type.
    ValueError
        If an option is out of range or `logits_fn` returns another shape.

    References
    ----------
    "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving" (2021), arXiv
    2002.03629: autoregressive sampling.

    Examples
    --------
    Bits that usually repeat the one before:

    >>> import torch
    >>> from thalweg.language import sample_autoregressive
    >>> def log_odds(x):
    ...     return torch.nn.functional.pad(4 * x[:, :-1] - 2, (1, 0))
    >>> bits, run = sample_autoregressive(log_odds, 3, 100, rng=0)
    >>> same, plain = sample_autoregressive(log_odds, 3, 100, rng=0, method="gauss-seidel")
    >>> torch.equal(bits, same), plain.nit, run.nit < 50
    (True, 100, True)
    """
    if not callable(logits_fn):
        raise TypeError(f"logits_fn must be callable, got {type(logits_fn).__name__}")
    n, length = check_count("n", n), check_count("length", length)
    check_option("kind", kind, KINDS)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating type of torch, got {dtype!r}")
    draw = _Draw(kind, torch_generator(rng, device))

    def entries(states: torch.Tensor, idx: Any) -> torch.Tensor:
        return draw(_called(logits_fn, states.T.contiguous(), kind), idx).to(states.dtype).T

    start = torch.zeros(n, length, dtype=dtype, device=device).T  # a sample lies in one piece
    result = solve_feedforward(
        entries,
        start,
        method=method,
        block_size=block_size,
        tol=tol,
        max_iter=max_iter,
        callback=callback,
    )
    return result.x.T.contiguous(), result


class MADE(nn.Module):
    """An autoregressive model of bits: a perceptron whose masks hide what comes later.

    Parameters
    ----------
    n_features : int
        Bits of an example.
    hidden : sequence of int, default (512,)
        Units of the hidden layers.
    residual : bool, default True
        Whether each log-odds also has a linear part in the earlier bits, a masked direct link.
    rng : None, int or torch.Generator, default 0
        Draws the initial weights.

    Attributes
    ----------
    layers : nn.ModuleList
        Masked linear maps, the last one to the log-odds.
    direct : nn.Module or None
        The direct link.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer.

    References
    ----------
    "MADE: Masked Autoencoder for Distribution Estimation" (2015), arXiv 1502.03509.

    Examples
    --------
    >>> import torch
    >>> from thalweg.language import MADE
    >>> model = MADE(6, hidden=(32,))
    >>> bits = model.sample(5, rng=1)
    >>> bits.shape
    torch.Size([5, 6])
    >>> torch.equal(bits, model.sample(5, rng=1, method="gauss-seidel"))
    True
    """

    def __init__(
        self,
        n_features: int,
        hidden: Sequence[int] = (512,),
        residual: bool = True,
        rng: int | torch.Generator | None = 0,
    ) -> None:
        super().__init__()
        self.n_features = check_count("n_features", n_features)
        if isinstance(hidden, int):
            raise TypeError(f"hidden must be a sequence of integers, got {hidden!r}")
        widths = [check_count("hidden", width) for width in hidden]
        generator = torch_generator(rng)
        inputs = torch.arange(1, self.n_features + 1)
        degrees = [inputs, *(_degrees(width, self.n_features) for width in widths)]
        self.layers = nn.ModuleList(
            _MaskedLinear(high[:, None] >= low[None, :], generator)
            for low, high in pairwise(degrees)
        )
        self.layers.append(_MaskedLinear(inputs[:, None] > degrees[-1][None, :], generator))
        self.direct = (
            _MaskedLinear(inputs[:, None] > inputs[None, :], generator, bias=False)
            if residual and widths
            else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log-odds of each bit given the earlier ones, for `x` of shape (..., D)."""
        if x.ndim < 1 or x.shape[-1] != self.n_features:
            raise ValueError(f"x must have shape (..., {self.n_features}), got {tuple(x.shape)}")
        return self._log_odds(x, self._weights())

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log-probability, in nats, of bits of shape (..., D); shape (...)."""
        losses = F.binary_cross_entropy_with_logits(self(x), x, reduction="none")
        return -losses.sum(dim=-1)

    def sample(
        self,
        n: int,
        method: str = "jacobi",
        rng: int | torch.Generator | None = None,
        block_size: int | None = None,
        full_output: bool = False,
    ) -> Any:
        """Draw examples.

        Parameters
        ----------
        n : int
            How many.
        method, rng, block_size
            As in `sample_autoregressive`.
        full_output : bool, default False
            Whether to return the result of the solver too.

        Returns
        -------
        samples : torch.Tensor of shape (n, D)
            Zeros and ones in the type of the weights.
        result : scipy.optimize.OptimizeResult
            With `full_output`.

        Raises
        ------
        FloatingPointError
            If the network gives NaN.
        """
        with torch.no_grad():
            weights = self._weights()
        samples, result = sample_autoregressive(
            lambda x: self._log_odds(x, weights),
            n,
            self.n_features,
            method=method,
            rng=rng,
            block_size=block_size,
            dtype=weights[0].dtype,
            device=weights[0].device,
        )
        if not result.success:
            raise FloatingPointError(result.message)
        return (samples, result) if full_output else samples

    def _weights(self) -> list[torch.Tensor]:
        layers: list[Any] = [*self.layers, *([] if self.direct is None else [self.direct])]
        return [layer.weight * layer.mask for layer in layers]

    def _log_odds(self, x: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        units, layers = x, cast("list[_MaskedLinear]", list(self.layers))
        for layer, weight in zip(layers[:-1], weights, strict=False):
            units = F.relu(F.linear(units, weight, layer.bias))
        log_odds = F.linear(units, weights[len(layers) - 1], layers[-1].bias)
        return log_odds if self.direct is None else log_odds + F.linear(x, weights[-1])


class _Draw:
    """From parameters of the distributions to draws, by noise drawn once."""

    def __init__(self, kind: str, generator: torch.Generator) -> None:
        self.kind, self.generator = kind, generator
        self.noise: torch.Tensor | None = None

    def __call__(self, given: torch.Tensor, idx: Any) -> torch.Tensor:
        """Return the entries `idx`, shape (n, len(idx)); NaN where a parameter is NaN."""
        if self.noise is None:
            self.noise = self._draw_noise(given)
        columns = slice(int(idx[0]), int(idx[-1]) + 1)
        given, noise = given[:, columns], self.noise[:, columns]
        if self.kind == "gaussian":
            return given[..., 0] + given[..., 1].exp() * noise
        if self.kind == "bernoulli":
            drawn, sound = (noise < given).to(given.dtype), given
        else:
            drawn, sound = (given + noise).argmax(dim=-1).to(given.dtype), given.sum(dim=-1)
        if sound.sum().isnan():
            missing = given.isnan() if self.kind == "bernoulli" else given.isnan().any(dim=-1)
            drawn = drawn.masked_fill(missing, torch.nan)
        return drawn

    def _draw_noise(self, given: torch.Tensor) -> torch.Tensor:
        """Normal deviates; Gumbel ones; or log-odds of uniforms: u < p where these are less."""
        shape = given.shape[:2] if self.kind == "gaussian" else given.shape
        options: dict[str, Any] = {
            "generator": self.generator, "dtype": given.dtype, "device": given.device,
        }  # fmt: skip
        if self.kind == "gaussian":
            return torch.randn(shape, **options)
        uniform = torch.rand(shape, **options)
        if self.kind == "bernoulli":
            return uniform.logit()
        return -(-uniform.clamp_min(torch.finfo(given.dtype).tiny).log()).log()


def _called(
    logits_fn: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, kind: str
) -> torch.Tensor:
    with torch.no_grad():
        given = logits_fn(x)
    trailing = {"bernoulli": 0, "categorical": 1, "gaussian": 1}[kind]
    shape = tuple(given.shape)
    fits = len(shape) == 2 + trailing and shape[:2] == tuple(x.shape) and 0 not in shape
    if not fits or (kind == "gaussian" and shape[2] != 2):
        last = {"bernoulli": "", "categorical": ", classes", "gaussian": ", 2"}[kind]
        raise ValueError(
            f"logits_fn must return shape ({x.shape[0]}, {x.shape[1]}{last}) for {kind!r}, "
            f"got {shape}"
        )
    return given


class _MaskedLinear(nn.Linear):
    """A linear map with entries that stay zero."""

    mask: torch.Tensor

    def __init__(self, mask: torch.Tensor, generator: torch.Generator, bias: bool = True) -> None:
        super().__init__(mask.shape[1], mask.shape[0], bias=bias)
        self.register_buffer("mask", mask)
        bound = mask.shape[1] ** -0.5
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


def _degrees(width: int, n_features: int) -> torch.Tensor:
    """Degrees of hidden units: how many leading bits each sees, spread evenly over 1 to D - 1."""
    most = max(n_features - 1, 1)
    return 1 + torch.arange(width) * most // width

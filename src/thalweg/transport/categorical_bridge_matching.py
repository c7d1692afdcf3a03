"""Translate between two unpaired collections of token sequences, changing as little as need be.

`CategoricalBridgeMatching` learns the Schrödinger bridge on sequences of categories: a Markov chain
from the law of `X` to the law of `Y`, closest to a reference that changes each token by itself, and
the chain that runs back. The one idea: a network says where a sequence will end; the reference then
knows the next step. Fit on bridges between the ends of the current coupling, such a chain has the
right end but another coupling, closer to that of the Schrödinger bridge; so repeat, back and forth.

Chosen here, where the published code does otherwise: the step is the exact mixture of posteriors
(``parametrization="d3pm"`` is the published one), the inputs are one-hot, an end that cannot be
reached has no probability, the learning rate falls along a cosine in every projection, and an
iteration is a forward projection followed by a backward one.

Source: "Categorical Schrödinger Bridge Matching" (2025), arXiv 2502.01416, Algorithm 1.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_count, check_option, check_real
from thalweg.transport._categorical_process import TINY, CategoricalProcess, LearnedChain
from thalweg.transport._training import fingerprint
from thalweg.transport.categorical import (
    CategoricalReference,
    Floats,
    Tokens,
    check_ends,
    check_tokens,
)
from thalweg.transport.categorical_networks import TokenMLP
from thalweg.transport.networks import train

DIRECTIONS = ("forward", "backward")
SAMPLE_ENTRIES = 2**21
"""Entries of the logits, at most, that one call of a network makes while sampling."""

Networks = dict[str, torch.nn.Module]
Pairs = Callable[[torch.Generator], tuple[torch.Tensor, torch.Tensor]]


class CategoricalBridgeMatching(BaseEstimator):
    """Schrödinger bridge between two laws of token sequences, learned from unpaired samples.

    Parameters
    ----------
    reference : CategoricalReference
        The chain to stay close to: its kernel says which changes are cheap, its steps how many
        network calls a translation takes.
    network : torch.nn.Module, optional
        ``network(x, n)`` returns logits (batch, D, S) of the end, for tokens (batch, D) and steps
        (batch,) in 0..N. It is copied for each direction, never changed. None is `TokenMLP`.
    n_iter : int, default 4
        Iterations, each of a forward and a backward projection. 1 is plain bridge matching.
    steps_per_projection : int, default 400
        Steps of Adam in a projection.
    hidden : sequence of int, default (128, 128, 128)
        Widths of the default network.
    parametrization : {"mixture", "d3pm"}, default "mixture"
        How a step follows from the law of the end: the mixture of the reference's posteriors, or
        ``Q[x, .] (A_{N-n} p)`` normalised, as published.
    kl, ce, mse : float, default 1.0, 1e-3, 0.0
        Weights of the terms of the loss: the divergence from the posterior to the step, the cross
        entropy of the end, the squared distance of posterior and step.
    batch_size : int, default 256
        Pairs a step.
    lr : float, default 2e-3
        Learning rate at the start of a projection.
    betas : (float, float), default (0.9, 0.99)
        Decay of Adam's averages.
    ema : float, default 0.99
        Decay of the average of the weights, which samples are drawn with.
    initial_coupling : {"independent", "minibatch-ot"}, default "independent"
        Pairs of the first projection: any with any, or matched within each batch at least
        ``-log A_{N+1}``.
    argmax_last : bool, default False
        Take the likeliest token at the last step instead of drawing it.
    device : str or torch.device, default "cpu"
        Where training and sampling run; it must have float64.
    checkpoint : path, optional
        Start of the names of files, one a projection, from which an interrupted fit goes on; the
        same data and parameters are then required.
    callback : callable, optional
        Called after each step with ``state.step``, ``state.n_steps`` (of the projection),
        ``state.loss``, ``state.iteration`` (from 1), ``state.n_iter``, ``state.direction`` and
        ``state.estimator``, whose networks are those of the projections that are over;
        StopIteration ends the fit.
    rng : None, int or torch.Generator, default None
        Source of weights, batches and, where a method gets no `rng`, of its draws; a generator of
        the CPU.

    Attributes
    ----------
    forward_, backward_ : torch.nn.Module
        Networks with averaged weights.
    loss_curves_ : list of array (steps,)
        The loss in each projection, in the order of training.
    n_features_in_ : int
        Tokens D of a sequence.

    References
    ----------
    "Categorical Schrödinger Bridge Matching" (2025), arXiv 2502.01416, Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.transport import CategoricalReference, uniform_kernel
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.integers(0, 3, size=(500, 2)), rng.integers(2, 5, size=(400, 2))
    >>> reference = CategoricalReference(uniform_kernel(5, 0.2), n_inner=3)
    >>> model = CategoricalBridgeMatching(
    ...     reference, n_iter=1, steps_per_projection=100, hidden=(32,), rng=0
    ... )
    >>> Z = model.fit(X, Y).transform(X)
    >>> Z.shape, bool((Z >= 2).mean() > 0.95), model.sample_path(X[:7]).shape
    ((500, 2), True, (5, 7, 2))
    """

    _COUNTS: tuple[str, ...] = ("n_iter", "steps_per_projection", "batch_size")

    def __init__(
        self,
        reference: CategoricalReference,
        *,
        network: torch.nn.Module | None = None,
        n_iter: int = 4,
        steps_per_projection: int = 400,
        hidden: Sequence[int] = (128, 128, 128),
        parametrization: str = "mixture",
        kl: float = 1.0,
        ce: float = 1e-3,
        mse: float = 0.0,
        batch_size: int = 256,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        ema: float = 0.99,
        initial_coupling: str = "independent",
        argmax_last: bool = False,
        device: str | torch.device = "cpu",
        checkpoint: str | os.PathLike[str] | None = None,
        callback: Callable[[Any], Any] | None = None,
        rng: int | torch.Generator | None = None,
    ) -> None:
        self.reference = reference
        self.network = network
        self.n_iter = n_iter
        self.steps_per_projection = steps_per_projection
        self.hidden = hidden
        self.parametrization = parametrization
        self.kl = kl
        self.ce = ce
        self.mse = mse
        self.batch_size = batch_size
        self.lr = lr
        self.betas = betas
        self.ema = ema
        self.initial_coupling = initial_coupling
        self.argmax_last = argmax_last
        self.device = device
        self.checkpoint = checkpoint
        self.callback = callback
        self.rng = rng

    def fit(self, X: ArrayLike, Y: ArrayLike) -> CategoricalBridgeMatching:
        """Learn the bridge from the law of `X` to the law of `Y`, and the way back.

        Parameters
        ----------
        X : array_like of int (n, D)
            Source sequences, with tokens in 0..S-1.
        Y : array_like of int (m, D)
            Target sequences, not paired with those of `X`.

        Returns
        -------
        CategoricalBridgeMatching

        Raises
        ------
        ValueError
            If a parameter or an array is not as stated, or a token of `Y` cannot be reached from
            one of `X` at the same place ("infeasible").
        FloatingPointError
            If the loss leaves the finite numbers.
        """
        self._check_parameters()
        networks, data, generator, config = self._start(X, Y)
        self.loss_curves_: list[Floats] = []
        for iteration in range(1, self.n_iter + 1):
            for direction, other in zip(DIRECTIONS, DIRECTIONS[::-1], strict=True):
                chain = self._chain(direction, networks[direction])
                if iteration == 1 and direction == "forward":
                    pairs = self._first_pairs(data)
                else:
                    pairs = self._simulated_pairs(self._chain(other), data[other])
                watch = _Watch(self, iteration, direction)
                trained, losses = train(
                    networks[direction],
                    _projection_loss(chain, pairs),
                    n_steps=self.steps_per_projection,
                    lr=self.lr,
                    betas=self.betas,
                    ema=self.ema,
                    rng=generator,
                    callback=None if self.callback is None else watch,
                    checkpoint=(
                        self.checkpoint and f"{os.fspath(self.checkpoint)}.{direction}-{iteration}"
                    ),
                    config=config,
                )
                setattr(self, f"{direction}_", trained[0])
                self.loss_curves_.append(losses)
                if watch.stopped:
                    return self
        return self

    def transform(self, X: ArrayLike, rng: int | torch.Generator | None = None) -> Tokens:
        """Draw one target sequence given each row of `X`, shape (n, D).

        Without `rng` the draw comes from the estimator's own, so an estimator made with an int
        gives the same draw each time.
        """
        return self._run("forward", "X", X, rng)[-1]

    def inverse_transform(self, Y: ArrayLike, rng: int | torch.Generator | None = None) -> Tokens:
        """Draw one source sequence given each row of `Y`, shape (n, D)."""
        return self._run("backward", "Y", Y, rng)[-1]

    def sample_path(self, X: ArrayLike, rng: int | torch.Generator | None = None) -> Tokens:
        """Draw the chain from the rows of `X` at times 0, 1, ..., N+1, shape (N+2, n, D)."""
        return self._run("forward", "X", X, rng)

    def transition_probs(self, x: ArrayLike, n: int, direction: str = "forward") -> Floats:
        """Return the law of the next token at each place, given the sequence now.

        Parameters
        ----------
        x : array_like of int (batch, D)
            Sequences.
        n : int
            Steps made so far, 0..N, counted from the end that the direction starts in.
        direction : {"forward", "backward"}, default "forward"
            Towards `Y` or towards `X`.

        Returns
        -------
        array (batch, D, S)
        """
        chain = self._chain(direction)
        tokens = self._tokens("x", x)
        n = check_count("n", n, at_least=0, at_most=self.reference.n_inner)
        with torch.no_grad():
            rows = [chain.step_law(part, n).cpu() for part in self._parts(tokens)]
        return np.asarray(torch.cat(rows).numpy())

    def _run(
        self, direction: str, name: str, x: ArrayLike, rng: int | torch.Generator | None
    ) -> Tokens:
        chain = self._chain(direction)
        tokens = self._tokens(name, x)
        generator = _on_device(torch_generator(self.rng if rng is None else rng), tokens.device)
        paths = [chain.sample(part, generator).cpu() for part in self._parts(tokens)]
        return np.asarray(torch.cat(paths, dim=1).numpy())

    def _chain(self, direction: str, network: torch.nn.Module | None = None) -> LearnedChain:
        """The chain of a direction, of the averaged weights unless a network is given."""
        check_option("direction", direction, DIRECTIONS)
        if network is None:
            check_is_fitted(self, f"{direction}_")
            network = getattr(self, f"{direction}_")
        return LearnedChain(
            network,
            CategoricalProcess(self.reference, direction, torch.device(self.device)),
            parametrization=self.parametrization,
            kl=self.kl,
            ce=self.ce,
            mse=self.mse,
            argmax_last=self.argmax_last,
        )

    def _start(
        self, X: ArrayLike, Y: ArrayLike
    ) -> tuple[Networks, dict[str, torch.Tensor], torch.Generator, dict[str, Any]]:
        """Check the data and forget an earlier fit; return what a fit works with."""
        X, Y = check_ends(self.reference, X, Y)
        device = torch.device(self.device)
        source = torch_generator(self.rng)
        networks = {d: self._new_network(X.shape[1], source) for d in DIRECTIONS}
        generator = _on_device(source, device)
        data = {d: torch.from_numpy(Z).to(device) for d, Z in zip(DIRECTIONS, (X, Y), strict=True)}
        self.n_features_in_ = X.shape[1]
        for name in ("forward_", "backward_"):
            self.__dict__.pop(name, None)
        return networks, data, generator, self._config(X, Y)

    def _first_pairs(self, data: dict[str, torch.Tensor]) -> Pairs:
        X, Y = data["forward"], data["backward"]
        cost = -torch.from_numpy(np.log(np.maximum(self.reference.transition, TINY)))

        def pairs(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
            x, y = _rows(X, self.batch_size, generator), _rows(Y, self.batch_size, generator)
            if self.initial_coupling == "minibatch-ot":
                costs = sum(cost[x[:, d].cpu()[:, None], y[:, d].cpu()] for d in range(x.shape[1]))
                y = y[torch.from_numpy(linear_sum_assignment(costs)[1]).to(y.device)]
            return x, y

        return pairs

    def _simulated_pairs(
        self, other: LearnedChain, ends: torch.Tensor, n: int | None = None
    ) -> Pairs:
        """Data as the end, and where the chain of the other direction takes it as the start."""

        def pairs(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
            end = _rows(ends, self.batch_size if n is None else n, generator)
            return other.sample(end, generator)[-1], end

        return pairs

    def _config(self, X: Tokens, Y: Tokens) -> dict[str, Any]:
        """What a checkpoint must agree in, beside what `train` sees."""
        names = ("parametrization", "kl", "ce", "mse", "batch_size", "argmax_last")
        return {
            "reference": fingerprint(self.reference.kernel, np.array(self.reference.n_inner)),
            "data": fingerprint(X, Y),
            "initial_coupling": self.initial_coupling,
            **{name: getattr(self, name) for name in names},
        }

    def _new_network(self, n_tokens: int, source: torch.Generator) -> torch.nn.Module:
        S, N = self.reference.n_categories, self.reference.n_inner
        if self.network is None:
            network: torch.nn.Module = TokenMLP(n_tokens, S, N, hidden=self.hidden, rng=source)
            return network.to(self.device)
        network = copy.deepcopy(self.network).to(self.device)
        probe = torch.zeros((2, n_tokens), dtype=torch.long, device=self.device)
        with torch.no_grad():
            shape = tuple(network(probe, probe[:, 0]).shape)
        if shape != (2, n_tokens, S):
            raise ValueError(
                f"network must return logits (batch, {n_tokens}, {S}), got {shape} for a batch of 2"
            )
        return network

    def _check_parameters(self) -> None:
        if not isinstance(self.reference, CategoricalReference):
            raise TypeError(f"reference must be a CategoricalReference, got {self.reference!r}")
        if self.network is not None and not isinstance(self.network, torch.nn.Module):
            raise TypeError(f"network must be None or a torch.nn.Module, got {self.network!r}")
        for name in self._COUNTS:
            check_count(name, getattr(self, name))
        for name in ("kl", "ce", "mse"):
            check_real(name, getattr(self, name), at_least=0)
        if not self.kl + self.ce + self.mse > 0:
            raise ValueError("kl, ce and mse must not all be 0")
        check_real("lr", self.lr, above=0)
        check_real("ema", self.ema, at_least=0, below=1)
        check_option("parametrization", self.parametrization, ["mixture", "d3pm"])
        check_option("initial_coupling", self.initial_coupling, ["independent", "minibatch-ot"])

    def _tokens(self, name: str, value: ArrayLike) -> torch.Tensor:
        S = self.reference.n_categories
        tokens = check_tokens(name, value, S, n_tokens=self.n_features_in_)
        return torch.from_numpy(tokens).to(self.device)

    def _parts(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = max(1, SAMPLE_ENTRIES // (tokens.shape[1] * self.reference.n_categories))
        return tokens.split(rows)


class _Watch:
    """Tells the user's callback where in the whole fit a step is."""

    def __init__(
        self, estimator: CategoricalBridgeMatching, iteration: int, direction: str
    ) -> None:
        self.estimator, self.iteration, self.direction = estimator, iteration, direction
        self.stopped = False

    def __call__(self, state: Any) -> None:
        state.iteration, state.n_iter = self.iteration, self.estimator.n_iter
        state.direction, state.estimator = self.direction, self.estimator
        callback = self.estimator.callback
        assert callback is not None
        try:
            callback(state)
        except StopIteration:
            self.stopped = True
            raise


def _projection_loss(
    chain: LearnedChain, pairs: Pairs
) -> Callable[[torch.Generator], torch.Tensor]:
    return lambda generator: chain.loss_of_pairs(*pairs(generator), generator)


def _rows(tokens: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    return tokens[torch.randint(len(tokens), (n,), generator=generator, device=tokens.device)]


def _on_device(source: torch.Generator, device: torch.device) -> torch.Generator:
    """Return `source` on the CPU; elsewhere a generator of that device, seeded from it."""
    if source.device.type == device.type:
        return source
    seed = int(torch.randint(2**62, (), generator=source))
    return torch.Generator(device=device).manual_seed(seed)

"""Translate token sequences both ways, with both directions of the bridge trained in one run.

`CategoricalBridgeMatching` trains one direction to the end, then the other, and again. Here every
step improves both: half a batch teaches the forward chain on pairs that the backward chain makes,
the other half the backward chain on pairs that the forward chain makes. A first phase on the
initial coupling gives both something to start from. There is one stage, one schedule, and no
choice of how long a projection lasts.

Chosen here: as in `CategoricalBridgeMatching`, and a learning rate that falls along a cosine.

Source: "Entering the Era of Discrete Diffusion Models" (2025), arXiv 2509.23348: alpha-CSBM.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import ArrayLike

from thalweg._torch import torch
from thalweg._validation import check_count
from thalweg.transport._categorical_process import LearnedChain
from thalweg.transport._training import Learner, run_steps
from thalweg.transport.categorical import CategoricalReference, Floats
from thalweg.transport.categorical_bridge_matching import (
    DIRECTIONS,
    CategoricalBridgeMatching,
    Networks,
    Pairs,
)


class OnlineCategoricalBridgeMatching(CategoricalBridgeMatching):
    """Schrödinger bridge between two laws of token sequences, both directions learned at once.

    Parameters
    ----------
    reference : CategoricalReference
        The chain to stay close to.
    n_steps : int, default 4000
        Steps of Adam in all; each changes both networks.
    warmup_steps : int, default 1000
        The first of them, on the initial coupling; at most `n_steps`.
    network, hidden, parametrization, kl, ce, mse, initial_coupling, argmax_last, device :
        As for `CategoricalBridgeMatching`.
    batch_size : int, default 256
        Pairs a step, at least 2: half for each direction.
    lr : float, default 1e-3
        Learning rate at the start.
    betas : (float, float), default (0.9, 0.999)
        Decay of Adam's averages.
    ema : float, default 0.999
        Decay of the average of the weights, which samples are drawn with, also those that the
        other direction learns from.
    checkpoint : path, optional
        File from which an interrupted fit goes on; the same data and parameters are required.
    callback : callable, optional
        Called after each step with ``state.step``, ``state.n_steps``, ``state.loss`` (of both
        directions) and ``state.estimator``, whose networks are the averages so far;
        StopIteration ends the fit.
    rng : None, int or torch.Generator, default None
        Source of weights, batches and, where a method gets no `rng`, of its draws; a generator of
        the CPU.

    Attributes
    ----------
    forward_, backward_ : torch.nn.Module
        Networks with averaged weights.
    loss_curve_ : array (steps, 2)
        The losses of the forward and the backward half of each step.
    n_features_in_ : int
        Tokens D of a sequence.

    References
    ----------
    "Entering the Era of Discrete Diffusion Models" (2025), arXiv 2509.23348: alpha-CSBM.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.transport import CategoricalReference, uniform_kernel
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.integers(0, 3, size=(500, 2)), rng.integers(2, 5, size=(400, 2))
    >>> reference = CategoricalReference(uniform_kernel(5, 0.2), n_inner=3)
    >>> model = OnlineCategoricalBridgeMatching(
    ...     reference, n_steps=150, warmup_steps=50, hidden=(32,), lr=5e-3, ema=0.9, rng=0
    ... )
    >>> Z = model.fit(X, Y).transform(X)
    >>> Z.shape, bool((Z >= 2).mean() > 0.95), model.inverse_transform(Y).shape
    ((500, 2), True, (400, 2))
    """

    _COUNTS = ("n_steps",)

    def __init__(
        self,
        reference: CategoricalReference,
        *,
        n_steps: int = 4000,
        warmup_steps: int = 1000,
        network: torch.nn.Module | None = None,
        hidden: Sequence[int] = (128, 128, 128),
        parametrization: str = "mixture",
        kl: float = 1.0,
        ce: float = 1e-3,
        mse: float = 0.0,
        batch_size: int = 256,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        ema: float = 0.999,
        initial_coupling: str = "independent",
        argmax_last: bool = False,
        device: str | torch.device = "cpu",
        checkpoint: str | os.PathLike[str] | None = None,
        callback: Callable[[Any], Any] | None = None,
        rng: int | torch.Generator | None = None,
    ) -> None:
        self.reference = reference
        self.n_steps = n_steps
        self.warmup_steps = warmup_steps
        self.network = network
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

    def fit(self, X: ArrayLike, Y: ArrayLike) -> OnlineCategoricalBridgeMatching:
        """Learn the bridge from the law of `X` to the law of `Y`, and the way back.

        Parameters
        ----------
        X : array_like of int (n, D)
            Source sequences, with tokens in 0..S-1.
        Y : array_like of int (m, D)
            Target sequences, not paired with those of `X`.

        Returns
        -------
        OnlineCategoricalBridgeMatching

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
        learner = Learner(
            list(networks.values()),
            n_steps=self.n_steps,
            lr=self.lr,
            betas=self.betas,
            ema=self.ema,
        )
        averaged = _averaged(networks, learner)
        step = _Step(self, networks, averaged, data, learner)
        self.loss_curve_: Floats = run_steps(
            step,
            [learner],
            n_steps=self.n_steps,
            generator=generator,
            callback=None if self.callback is None else self._watch(averaged),
            checkpoint=self.checkpoint,
            config={**config, "warmup_steps": self.warmup_steps},
        )
        self._keep(dict(zip(DIRECTIONS, learner.trained(), strict=True)))
        return self

    def _keep(self, networks: Networks) -> None:
        self.forward_, self.backward_ = (networks[d] for d in DIRECTIONS)

    def _watch(self, averaged: Networks) -> Callable[[Any], None]:
        def watch(state: Any) -> None:
            self._keep(averaged)
            state.estimator, state.loss = self, float(state.loss.sum())
            assert self.callback is not None
            self.callback(state)

        return watch

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_count("batch_size", self.batch_size, at_least=2)
        check_count("warmup_steps", self.warmup_steps, at_least=0, at_most=self.n_steps)


class _Step:
    """One step of both networks; it counts by the learner, which a checkpoint restores."""

    def __init__(
        self,
        estimator: OnlineCategoricalBridgeMatching,
        networks: Networks,
        averaged: Networks,
        data: dict[str, torch.Tensor],
        learner: Learner,
    ) -> None:
        self.warmup_steps, self.learner = estimator.warmup_steps, learner
        self.halves = dict(
            zip(
                DIRECTIONS,
                (estimator.batch_size // 2, (estimator.batch_size + 1) // 2),
                strict=True,
            )
        )
        self.chains: dict[str, LearnedChain] = {
            d: estimator._chain(d, networks[d]) for d in DIRECTIONS
        }
        self.first = estimator._first_pairs(data)
        self.simulated: dict[str, Pairs] = {
            d: estimator._simulated_pairs(
                estimator._chain(other, averaged[other]), data[other], self.halves[d]
            )
            for d, other in zip(DIRECTIONS, DIRECTIONS[::-1], strict=True)
        }

    def __call__(self, generator: torch.Generator) -> torch.Tensor:
        if self.learner.taken < self.warmup_steps:
            x, y = self.first(generator)
            n = self.halves["forward"]
            pairs = {"forward": (x[:n], y[:n]), "backward": (y[n:], x[n:])}
        else:
            pairs = {d: simulated(generator) for d, simulated in self.simulated.items()}
        losses = torch.stack(
            [self.chains[d].loss_of_pairs(*pairs[d], generator) for d in DIRECTIONS]
        )
        self.learner.step(losses.sum())
        return losses


def _averaged(networks: Networks, learner: Learner) -> Networks:
    """Return copies of the networks whose parameters are the learner's averages themselves."""
    copies = copy.deepcopy(networks)
    assert learner.averages is not None
    theirs = [p for d in DIRECTIONS for p in copies[d].parameters() if p.requires_grad]
    for parameter, average in zip(theirs, learner.averages, strict=True):
        parameter.data = average
    for network in copies.values():
        network.eval().requires_grad_(False)
    return copies

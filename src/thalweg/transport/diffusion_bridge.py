"""Schrödinger bridge of two clouds by alternating half-bridges, started from a given model or not.

Each half fits the steps of one direction to trajectories of the other (iterative proportional
fitting). The regression on the point that a trajectory came from needs one network call where the
classical loss needs three, and makes the first half the training of a diffusion model: so a
diffusion or flow model that exists already takes its place.

Chosen here: both clouds are centred at their means and divided by their common spread, which maps
bridges to bridges and makes the fit equivariant; networks give the rate of a step (or what is
missing to the end), so that they start near the identity; indices of a batch are stratified. A
model given as `init` is not trained on: networks that start at zero learn what is to be added to
its drifts, so that it may be of any kind.

Source: "Simplified Diffusion Schrödinger Bridge" (2024), arXiv 2403.14623.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.transport._clouds import check_clouds, common_spread
from thalweg.transport._couplings import some_rows
from thalweg.transport._diffusion_chain_start import (
    GivenModel,
    check_chain,
    check_model,
    is_model,
    start_fingerprint,
    starting_networks,
)
from thalweg.transport._diffusion_chain_training import (
    Chain,
    ChainField,
    ChainLoss,
    Reference,
    Stepper,
    opposite_of,
    simulate,
)
from thalweg.transport._training import fingerprint, placed
from thalweg.transport.diffusion_chain import DIRECTIONS
from thalweg.transport.metrics import energy_distance
from thalweg.transport.networks import train

Floats: TypeAlias = NDArray[np.float64]
JUDGED_ROWS = 1000
"""Rows at most of each cloud in the energy distances of `history_`."""


class DiffusionSchrodingerBridge(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Diffusion in both directions between two clouds of points, with few or no wasted rounds.

    Approaches the Schrödinger bridge relative to a chain of `n_times` steps with variance
    ``epsilon gamma``; `X` is the law of ``x_0``, `Y` that of ``x_N``.

    Parameters
    ----------
    epsilon : float, default 2.0
        Variance of the reference over the whole chain, in squared units of the data. The paper's
        scale is 2 for clouds of unit spread.
    n_times : int, default 20
        Steps N of the chain, at least 2; ignored where `gammas` are given.
    gammas : {"uniform", "symmetric"} or array_like (N,), default "uniform"
        Step sizes; positive, of sum one. ``"symmetric"`` is `symmetric_gammas`.
    parametrization : {"transition", "terminal", "flow"}, default "flow"
        What is regressed: the next point of the chain, its end, or the direction to the end per
        unit of time. The last two step by the law of Brownian motion given the end, which the
        learned bridge is taken to have.
    loss : {"simplified", "original"}, default "simplified"
        Target of the next point, as in `half_bridge_target`; ``"original"`` only for transitions.
    n_epochs : int, default 5
        Rounds, each of a backward and a forward half.
    n_steps : int, default 400
        Steps of Adam a half.
    refresh : int, default 100
        Steps after which the cached trajectories are made anew.
    n_cache : int, default 4000
        Trajectories in the cache.
    hidden : sequence of int, default (64, 64)
        Widths of the hidden layers of each direction's `TimeMLP`.
    batch_size : int, default 256
        Pairs of neighbouring points a step.
    lr : float, default 2e-3
        Learning rate; it falls to a hundredth along a cosine in each half.
    reference_rate : float, default 0.0
        Rate a of the reference's drift ``-a x`` in the time of the chain, in which it has length
        one; positive only for transitions.
    init : object or pair of modules, optional
        A trained model between the same clouds: any object with ``velocity(t, x)`` and
        ``score(t, x)`` in the data's coordinates, time 0 being `X` (`StochasticInterpolant`,
        `BridgeMatching`), or with velocity, ``denoiser(t, x)`` and an `Interpolant` as
        ``interpolant``; or backward and forward module of an earlier fit of the same
        parametrisation, the second possibly None. It takes the place of the first backward half and
        is where the first forward half starts.
    networks : pair of modules, optional
        Backward and forward network to train in place of the `TimeMLP`: ``module(t, x)`` in
        normalised coordinates. They are copied.
    ema : float or None, default 0.99
        Decay of the moving average of parameters that is used to simulate.
    device : str or torch.device, default "cpu"
        Where the networks live.
    callback : callable, optional
        Called after each step as ``callback(state)`` with ``state.epoch`` (from 1),
        ``state.direction``, ``state.step``, ``state.n_steps`` and ``state.loss``; StopIteration
        ends that half.
    checkpoint : path, optional
        Start of the names of files, one a half, that an interrupted `fit` goes on from: the same
        call again gives bit by bit what it would have given. A larger `n_epochs` goes on from a
        finished fit.
    checkpoint_every : int, default 500
        Steps between two writes.
    rng : None, int or torch.Generator, default None
        Source of everything random; also of the draws of methods that get no `rng`.

    Attributes
    ----------
    backward_network_, forward_network_ : torch.nn.Module
        The networks, of time and point in normalised coordinates; where `init` is a model, what
        they add to its drifts.
    gammas_ : array (N,)
        Step sizes.
    centres_ : array (N + 1, d)
        What the chain is centred at: the reference's mean path between the means of the clouds.
    scale_ : float
        Common spread of the clouds.
    history_ : list of dict
        For each half ``"epoch"``, ``"direction"``, ``"losses"`` of each step, their mean over the
        last tenth as ``"loss"`` (NaN where `init` took its place), and ``"energy_distance_end"`` of
        what the direction then makes to the cloud that it should make, in the unit of the data.
    n_features_in_ : int
        Columns d of `X` and `Y`.

    References
    ----------
    "Simplified Diffusion Schrödinger Bridge" (2024), arXiv 2403.14623.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(500, 2)), rng.normal(3.0, 0.5, size=(400, 2))
    >>> model = DiffusionSchrodingerBridge(epsilon=0.5, n_epochs=1, n_steps=100, rng=0).fit(X, Y)
    >>> model.transform(X).shape, model.sample_path(X).shape
    ((500, 2), (21, 500, 2))
    >>> bool(np.allclose(model.transform(X).mean(axis=0), 3.0, atol=0.3))
    True
    """

    def __init__(
        self,
        epsilon: float = 2.0,
        *,
        n_times: int = 20,
        gammas: Any = "uniform",
        parametrization: str = "flow",
        loss: str = "simplified",
        n_epochs: int = 5,
        n_steps: int = 400,
        refresh: int = 100,
        n_cache: int = 4000,
        hidden: Sequence[int] = (64, 64),
        batch_size: int = 256,
        lr: float = 2e-3,
        reference_rate: float = 0.0,
        init: Any = None,
        networks: Any = None,
        ema: float | None = 0.99,
        device: Any = "cpu",
        callback: Callable[[Any], Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 500,
        rng: Any = None,
    ) -> None:
        self.epsilon = epsilon
        self.n_times = n_times
        self.gammas = gammas
        self.parametrization = parametrization
        self.loss = loss
        self.n_epochs = n_epochs
        self.n_steps = n_steps
        self.refresh = refresh
        self.n_cache = n_cache
        self.hidden = hidden
        self.batch_size = batch_size
        self.lr = lr
        self.reference_rate = reference_rate
        self.init = init
        self.networks = networks
        self.ema = ema
        self.device = device
        self.callback = callback
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.rng = rng

    def fit(self, X: ArrayLike, Y: ArrayLike) -> DiffusionSchrodingerBridge:
        """Learn the bridge between the law of `X` and the law of `Y`, in both directions.

        Parameters
        ----------
        X : array_like (n, d)
            Points at the start of the chain.
        Y : array_like (m, d)
            Points at its end.

        Returns
        -------
        DiffusionSchrodingerBridge

        Raises
        ------
        ValueError
            If a parameter or an array is not as stated, or a checkpoint is of another
            configuration or of other data.
        TypeError
            If `init` lacks methods (the message names them) or a network is no module.
        FloatingPointError
            If the loss or a simulated point leaves the finite numbers.
        """
        X, Y = check_clouds(X, Y)
        n_epochs = check_count("n_epochs", self.n_epochs)
        for name in ("refresh", "n_cache", "batch_size"):
            check_count(name, getattr(self, name))
        gammas, rate = check_chain(
            self.parametrization, self.loss, self.n_times, self.gammas, self.reference_rate
        )
        d, scale = X.shape[1], common_spread(X, Y)
        chain = Chain(gammas, check_real("epsilon", self.epsilon, above=0) / scale**2, rate)
        if is_model(self.init):
            check_model(self.init, X)
        generator = torch_generator(self.rng, self.device)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        networks = {
            name: network.to(self.device)
            for name, network in starting_networks(
                self.init, self.networks, d, self.hidden, torch.Generator().manual_seed(seed)
            ).items()
        }
        self.model_ = self.init if is_model(self.init) else None
        self.gammas_, self.scale_, self.n_features_in_ = gammas, scale, d
        self.centres_ = chain.centres(X.mean(0), Y.mean(0))
        config = self._config(X, Y)
        starts = {"forward": self._inward(X, 0), "backward": self._inward(Y, -1)}
        steppers: dict[str, Stepper] = {"forward": Reference(chain)}
        trained = {name: copy.deepcopy(network).eval() for name, network in networks.items()}
        self.history_: list[dict[str, Any]] = []
        for epoch in range(1, n_epochs + 1):
            for direction in DIRECTIONS:
                losses = np.empty(0)
                if self.init is None or (epoch, direction) != (1, "backward"):
                    opposite = opposite_of(direction)
                    loss = ChainLoss(
                        self._field(chain, direction, networks[direction]),
                        steppers[opposite],
                        starts[opposite],
                        self.loss,
                        self.batch_size,
                        self.n_cache,
                        self.refresh,
                    )
                    (trained[direction],), losses = train(
                        networks[direction],
                        loss,
                        n_steps=self.n_steps,
                        lr=self.lr,
                        ema=self.ema,
                        callback=placed(self.callback, epoch=epoch, direction=direction),
                        rng=generator,
                        checkpoint=self.checkpoint
                        and f"{os.fspath(self.checkpoint)}.{epoch}-{direction}",
                        checkpoint_every=self.checkpoint_every,
                        config={**config, "epoch": epoch, "direction": direction},
                    )
                steppers[direction] = self._field(chain, direction, trained[direction])
                some = some_rows(starts[direction], JUDGED_ROWS, generator)
                ends = simulate(steppers[direction], some, generator)
                goal = Y if direction == "forward" else X
                self._record(epoch, direction, losses, ends, goal)
        self.backward_network_, self.forward_network_ = trained["backward"], trained["forward"]
        return self

    def transform(self, X: ArrayLike, *, rng: Any = None) -> Floats:
        """Carry each row of `X` to the law of `Y`, along a random chain.

        Parameters
        ----------
        X : array_like (n, d)
            Points at the start of the chain.
        rng : None, int or torch.Generator
            Source of randomness; None is the estimator's own, so that an estimator made with an int
            gives the same draw each time.

        Returns
        -------
        array (n, d)
        """
        return self._run("X", X, "forward", rng, keep=False)

    def inverse_transform(self, Y: ArrayLike, *, rng: Any = None) -> Floats:
        """Carry each row of `Y` to the law of `X`, along a random chain; as `transform`."""
        return self._run("Y", Y, "backward", rng, keep=False)

    def sample_path(self, X: ArrayLike, *, direction: str = "forward", rng: Any = None) -> Floats:
        """Simulate the chain from the rows of `X`.

        Parameters
        ----------
        X : array_like (n, d)
            Points at the start of the chain, or at its end with ``direction="backward"``.
        direction : {"forward", "backward"}, default "forward"
            Which way to go.
        rng : None, int or torch.Generator
            Source of randomness; None is the estimator's own.

        Returns
        -------
        array (N + 1, n, d)
            States in the order in which they were passed.
        """
        check_option("direction", direction, DIRECTIONS)
        return self._run("X", X, direction, rng, keep=True)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _run(self, name: str, Z: ArrayLike, direction: str, rng: Any, keep: bool) -> Floats:
        check_is_fitted(self, "forward_network_")
        Z = check_array(name, Z, shape=(None, self.n_features_in_))
        chain = Chain(self.gammas_, self.epsilon / self.scale_**2, self.reference_rate)
        forward = direction == "forward"
        network = self.forward_network_ if forward else self.backward_network_
        states = simulate(
            self._field(chain, direction, network),
            self._inward(Z, 0 if forward else -1),
            torch_generator(self.rng if rng is None else rng, self.device),
            keep,
        )
        centres = self.centres_ if forward else self.centres_[::-1]
        return self._outward(states, centres[:, None] if keep else centres[-1])

    def _field(self, chain: Chain, direction: str, network: torch.nn.Module) -> ChainField:
        base = None
        if self.model_ is not None:
            base = GivenModel(self.model_, chain, direction, self.centres_, self.scale_)
        return ChainField(chain, direction, self.parametrization, network, base)

    def _record(
        self, epoch: int, direction: str, losses: Floats, ends: torch.Tensor, goal: Floats
    ) -> None:
        made = self._outward(ends, self.centres_[-1 if direction == "forward" else 0])
        last = losses[-max(1, len(losses) // 10) :]
        entry = {"epoch": epoch, "direction": direction, "losses": losses}
        entry["loss"] = float(last.mean()) if len(losses) else float("nan")
        entry["energy_distance_end"] = energy_distance(
            made, goal[:JUDGED_ROWS], unbiased=min(len(made), len(goal)) > 1
        )
        self.history_.append(entry)

    def _outward(self, x: torch.Tensor, centres: Floats) -> Floats:
        return np.asarray(self.scale_ * x.cpu().double().numpy() + centres)

    def _inward(self, Z: Floats, index: int) -> torch.Tensor:
        inside = torch.from_numpy((Z - self.centres_[index]) / self.scale_)
        return inside.to(self.device, torch.float32)

    def _config(self, X: Floats, Y: Floats) -> dict[str, Any]:
        if self.checkpoint is None:
            return {}
        numbers = ("epsilon", "refresh", "n_cache", "batch_size", "reference_rate")
        return {
            "estimator": type(self).__name__,
            **{name: float(getattr(self, name)) for name in numbers},
            "gammas": self.gammas_.tolist(),
            "parametrization": self.parametrization,
            "loss": self.loss,
            "start": start_fingerprint(self.init, self.networks, X),
            "rng": self.rng if isinstance(self.rng, int) else None,
            "data": fingerprint(X, Y),
        }

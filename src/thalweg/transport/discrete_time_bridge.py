"""Schrödinger bridges with a few steps: transitions learned by a GAN, in discrete time.

A diffusion needs hundreds of network calls because it knows its drift alone. A chain of four steps
suffices if each step's whole law is learned, which a generator with a discriminator does. Turns of
direction, each on pairs that the other one made (discrete-time iterative Markovian fitting, D-IMF),
lead to the Schrödinger bridge.

Chosen here, beside the small sizes: both clouds are centred at their means and divided by their
common spread, which maps Brownian bridges to Brownian bridges and makes the fit equivariant; pairs
of a projection are drawn once, not for each batch; each projection trains new networks, which
measured better than to go on with those of the one before; discriminators have a higher learning
rate than generators, and all rates fall along a cosine; the noise of a generator has as many
columns as the points, since one column can give no more than a curve. The default networks learn
what an affine Gaussian law of the end, fitted by least squares in each projection, leaves over: the
generator adds to a draw of that law, the discriminator sees deviations from it. Each projection
starts with steps on the energy score of the generated end, four fifths of them by default, which
need no discriminator and cost less; adversarial steps as in the paper follow. With 500 steps a
projection, on a mixture of Gaussians, adversarial steps alone learned little beyond the affine law,
and a score without them was a little behind both.

Source: "Adversarial Schrödinger Bridge Matching" (2024), arXiv 2405.14449.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.transport._chain_projections import (
    DIRECTIONS,
    Chains,
    GanProjections,
    GaussianProjections,
    pool_of_rows,
)
from thalweg.transport._clouds import check_clouds, common_spread
from thalweg.transport._couplings import COUPLINGS, some_rows
from thalweg.transport._training import fingerprint
from thalweg.transport.metrics import energy_distance
from thalweg.transport.reference import BrownianReference, check_grid

Floats: TypeAlias = NDArray[np.float64]
TRANSITIONS = ("gan", "gaussian")
JUDGED_ROWS = 1000
"""Rows of each cloud that the energy distance in the history is computed from, at most."""


class AdversarialBridge(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Schrödinger bridge between two clouds of points, as a chain of a few learned transitions.

    Relative to ``dX = sqrt(epsilon) dW`` on [0, 1]: the coupling of the clouds that solves entropic
    optimal transport with cost ``|x-y|^2 / 2`` and entropy weight `epsilon`.

    Parameters
    ----------
    epsilon : float, default 1.0
        Variance of the reference at time 1, in squared units of the data.
    n_steps : int, default 4
        Steps of the chain, and network calls a sample; at least 2 for the fit to leave the initial
        coupling.
    times : array_like (n_steps + 1,), optional
        Increasing times from 0 to 1 that take the place of `n_steps`; None is uniform.
    n_iter : int, default 5
        D-IMF iterations, each of a forward and a backward projection.
    steps_per_projection : int, default 1500
        Steps a projection, counted as the discriminator's; the generator makes one for `d_steps`.
    hidden : sequence of int, default (128, 128, 128)
        Widths of the hidden layers of generators and discriminators.
    latent_dim : int, optional
        Columns of the generators' noise; None is d.
    batch_size : int, default 256
        Pairs a step.
    lr : float, default 1e-4
        Learning rate of the generators in adversarial steps; it falls to a hundredth along a cosine
        in each projection.
    d_lr : float, default 2e-3
        Learning rate of the discriminators, likewise.
    score_share : float, default 0.8
        Share, below 1, of the generator's steps in each projection that lower the energy score
        before the adversarial ones; 0 leaves the start to the adversary.
    score_lr : float, default 5e-3
        Learning rate of those steps, likewise.
    betas : (float, float), default (0.5, 0.9)
        Decay of Adam's averages.
    r1 : float, default 0.01
        Weight of the penalty on the discriminator's gradient at true transitions.
    d_steps : int, default 1
        Steps of the discriminator for one of the generator.
    ema : float or None, default 0.995
        Decay of the moving average of the generator's parameters that is used to draw.
    transition : {"gan", "gaussian"}, default "gan"
        ``"gaussian"`` takes the law of the end given the present point as a Gaussian with affine
        mean, fitted by least squares: exact for Gaussian clouds, and much faster. The options of
        networks and steps then mean nothing.
    initial_coupling : {"independent", "minibatch-ot", "paired"}, default "independent"
        How rows of `X` and `Y` are paired at first: at random, by optimal assignment inside each
        batch, or row by row as given.
    generator : torch.nn.Module, optional
        Network in place of the default one: ``G(x, n, z) -> ends (n, d)``, `n` the indices (n,) of
        the times of the rows, `z` noise (n, latent_dim). It works in normalised coordinates (zero
        mean at all times, unit spread); each projection starts from a copy.
    discriminator : torch.nn.Module, optional
        Network in place of the default one: ``D(x_next, n, x) -> logits``, likewise.
    device : str or torch.device, default "cpu"
        Where the networks live.
    callback : callable, optional
        Called after each step of a generator as ``callback(state)`` with ``state.round`` (from 1),
        ``state.direction``, ``state.step``, ``state.n_steps`` and ``state.loss`` (of discriminator
        and generator); StopIteration ends that projection.
    checkpoint : path, optional
        Start of the names of files, one a projection, that an interrupted `fit` goes on from: the
        same call again gives bit by bit what it would have given. A larger `n_iter` goes on from a
        finished fit. Not used with ``transition="gaussian"``.
    checkpoint_every : int, default 500
        Steps between two writes.
    rng : None, int or torch.Generator, default None
        Source of everything random; also of the draws of methods that get no `rng`.

    Attributes
    ----------
    generator_, backward_generator_ : torch.nn.Module
        Averaged generators in normalised coordinates, each in the clock of its own direction.
    times_ : array (n_steps + 1,)
        The grid.
    mean0_, mean1_ : array (d,)
        Means of the clouds.
    scale_ : float
        Their common spread.
    history_ : list of dict
        For each projection ``"round"``, ``"direction"``, ``"losses"`` (of discriminator and
        generator at each step, 0 and the energy score where that is lowered; with ``"gaussian"``
        the mean squared error at each time) and ``"energy_distance"`` between the end that it
        reaches and the cloud there, in units of the data, from at most 1000 rows.
    n_features_in_ : int
        Columns d of `X` and `Y`.

    References
    ----------
    "Adversarial Schrödinger Bridge Matching" (2024), arXiv 2405.14449, D-IMF and its DD-GAN.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(500, 2)), rng.normal(3.0, 0.5, size=(400, 2))
    >>> model = AdversarialBridge(0.5, transition="gaussian", rng=0).fit(X, Y)
    >>> model.transform(X).shape, model.sample_path(X).shape
    ((500, 2), (5, 500, 2))
    >>> bool(np.allclose(model.transform(X).mean(axis=0), 3.0, atol=0.1))
    True
    """

    def __init__(
        self,
        epsilon: float = 1.0,
        n_steps: int = 4,
        *,
        times: ArrayLike | None = None,
        n_iter: int = 5,
        steps_per_projection: int = 1500,
        hidden: Sequence[int] = (128, 128, 128),
        latent_dim: int | None = None,
        batch_size: int = 256,
        lr: float = 1e-4,
        d_lr: float = 2e-3,
        score_share: float = 0.8,
        score_lr: float = 5e-3,
        betas: tuple[float, float] = (0.5, 0.9),
        r1: float = 0.01,
        d_steps: int = 1,
        ema: float | None = 0.995,
        transition: str = "gan",
        initial_coupling: str = "independent",
        generator: torch.nn.Module | None = None,
        discriminator: torch.nn.Module | None = None,
        device: Any = "cpu",
        callback: Callable[[Any], Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 500,
        rng: Any = None,
    ) -> None:
        self.epsilon = epsilon
        self.n_steps = n_steps
        self.times = times
        self.n_iter = n_iter
        self.steps_per_projection = steps_per_projection
        self.hidden = hidden
        self.latent_dim = latent_dim
        self.batch_size = batch_size
        self.lr = lr
        self.d_lr = d_lr
        self.score_share = score_share
        self.score_lr = score_lr
        self.betas = betas
        self.r1 = r1
        self.d_steps = d_steps
        self.ema = ema
        self.transition = transition
        self.initial_coupling = initial_coupling
        self.generator = generator
        self.discriminator = discriminator
        self.device = device
        self.callback = callback
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.rng = rng

    def fit(self, X: ArrayLike, Y: ArrayLike) -> AdversarialBridge:
        """Learn the chains between the law of `X` and the law of `Y`, in both directions.

        Parameters
        ----------
        X : array_like (n, d)
            Points at time 0.
        Y : array_like (m, d)
            Points at time 1; paired with those of `X` only if ``initial_coupling="paired"``.

        Returns
        -------
        AdversarialBridge

        Raises
        ------
        ValueError
            If a parameter or an array is not as stated, or a checkpoint is of another
            configuration or of other data.
        FloatingPointError
            If a loss or a drawn point leaves the finite numbers; it names projection and step.
        """
        X, Y = check_clouds(X, Y, at_least=2)
        n_iter, self.times_ = self._check(X, Y)
        rng = torch_generator(self.rng, self.device)
        self.n_features_in_, self.scale_ = X.shape[1], common_spread(X, Y)
        self.mean0_, self.mean1_ = X.mean(0), Y.mean(0)
        reference = BrownianReference(self.epsilon / self.scale_**2)
        chains = Chains({}, self.times_, reference, self._latent_dim())
        projections: Any = (
            GanProjections(self, chains)
            if self.transition == "gan"
            else GaussianProjections(self, chains)
        )
        config = self._config(X, Y)
        clouds = {"forward": self._inward(X, 0.0), "backward": self._inward(Y, 1.0)}
        coupling, pairs = self.initial_coupling, (clouds["forward"], clouds["backward"])
        self.history_ = []
        for number in range(1, n_iter + 1):
            for direction, opposite in (DIRECTIONS, DIRECTIONS[::-1]):
                place = {"round": number, "direction": direction}
                try:
                    if chains.generators:
                        some = pool_of_rows(clouds[opposite], projections.most_pairs, rng)
                        pairs, coupling = (chains.path(opposite, some, rng)[-1], some), "paired"
                    losses = projections.learn(place, *pairs, coupling, rng, config)
                    few = some_rows(clouds[direction], JUDGED_ROWS, rng)
                    reached = chains.path(direction, few, rng)[-1]
                except FloatingPointError as error:
                    raise FloatingPointError(
                        f"{direction} projection of iteration {number}: {error}"
                    ) from None
                wanted = some_rows(clouds[opposite], JUDGED_ROWS, rng)
                gap = energy_distance(reached.cpu().numpy(), wanted.cpu().numpy())
                found = {"losses": losses, "energy_distance": self.scale_ * gap}
                self.history_.append(place | found)
        self.generator_ = chains.generators["forward"]
        self.backward_generator_ = chains.generators["backward"]
        return self

    def transform(self, X: ArrayLike, *, rng: Any = None) -> Floats:
        """Carry each row of `X` from time 0 to time 1, along a random path.

        Parameters
        ----------
        X : array_like (n, d)
            Points at time 0.
        rng : None, int or torch.Generator
            Source of randomness; None is the estimator's own, so that an estimator made with an int
            gives the same draw each time.

        Returns
        -------
        array (n, d)
        """
        return self._run("X", X, "forward", rng)[-1]

    def inverse_transform(self, Y: ArrayLike, *, rng: Any = None) -> Floats:
        """Carry each row of `Y` from time 1 to time 0, along a random path; as `transform`."""
        return self._run("Y", Y, "backward", rng)[-1]

    def sample_path(self, X: ArrayLike, *, direction: str = "forward", rng: Any = None) -> Floats:
        """Draw the chain from the rows of `X`.

        Parameters
        ----------
        X : array_like (n, d)
            Points at time 0, or at time 1 with ``direction="backward"``.
        direction : {"forward", "backward"}, default "forward"
            Which way to go.
        rng : None, int or torch.Generator
            Source of randomness; None is the estimator's own.

        Returns
        -------
        array (n_steps + 1, n, d)
            Points at `times_`, in the order in which they were passed.
        """
        check_option("direction", direction, DIRECTIONS)
        return np.stack(self._run("X", X, direction, rng))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _run(self, name: str, Z: ArrayLike, direction: str, rng: Any) -> list[Floats]:
        check_is_fitted(self, "generator_")
        Z = check_array(name, Z, shape=(None, self.n_features_in_))
        chains = Chains(
            {"forward": self.generator_, "backward": self.backward_generator_},
            self.times_,
            BrownianReference(self.epsilon / self.scale_**2),
            self._latent_dim(),
        )
        clock = self.times_ if direction == "forward" else self.times_[::-1]
        path = chains.path(
            direction,
            self._inward(Z, float(clock[0])),
            torch_generator(self.rng if rng is None else rng, self.device),
        )
        return [
            self.scale_ * x.cpu().double().numpy() + self._centre(t)
            for x, t in zip(path, clock, strict=True)
        ]

    def _latent_dim(self) -> int:
        if self.latent_dim is None or self.transition == "gaussian":
            return int(self.n_features_in_)
        return int(self.latent_dim)

    def _centre(self, t: float) -> Floats:
        return np.asarray((1 - t) * self.mean0_ + t * self.mean1_)

    def _inward(self, Z: Floats, t: float) -> torch.Tensor:
        inside = torch.from_numpy((Z - self._centre(t)) / self.scale_)
        return inside.to(self.device, torch.float32 if self.transition == "gan" else torch.float64)

    def _check(self, X: Floats, Y: Floats) -> tuple[int, Floats]:
        """Return `n_iter` and the grid; raise where a parameter is not as stated."""
        check_real("epsilon", self.epsilon, above=0)
        check_option("transition", self.transition, TRANSITIONS)
        if check_option("initial_coupling", self.initial_coupling, COUPLINGS) == "paired" and len(
            X
        ) != len(Y):
            raise ValueError(
                f"X and Y must have the same number of rows when paired, got {len(X)} and {len(Y)}"
            )
        n_steps = check_count("n_steps", self.n_steps)
        times = np.linspace(0, 1, n_steps + 1) if self.times is None else check_grid(self.times)
        if self.latent_dim is not None:
            check_count("latent_dim", self.latent_dim, at_least=0)
        check_real("lr", self.lr, above=0)
        check_real("d_lr", self.d_lr, above=0)
        check_real("score_share", self.score_share, at_least=0, below=1)
        check_real("score_lr", self.score_lr, above=0)
        check_count("batch_size", self.batch_size)
        check_count("checkpoint_every", self.checkpoint_every)
        d_steps = check_count("d_steps", self.d_steps)
        check_count("steps_per_projection", self.steps_per_projection, at_least=d_steps)
        check_real("r1", self.r1, at_least=0)
        for name in ("generator", "discriminator"):
            module = getattr(self, name)
            if module is not None and not isinstance(module, torch.nn.Module):
                raise TypeError(f"{name} must be None or a torch.nn.Module, got {module!r}")
        return check_count("n_iter", self.n_iter), times

    def _config(self, X: Floats, Y: Floats) -> dict[str, Any]:
        if self.checkpoint is None:
            return {}
        return {
            "estimator": type(self).__name__,
            "epsilon": float(self.epsilon),
            "times": self.times_.tolist(),
            "latent_dim": self._latent_dim(),
            "batch_size": int(self.batch_size),
            "r1": float(self.r1),
            "d_steps": int(self.d_steps),
            "initial_coupling": self.initial_coupling,
            "rng": self.rng if isinstance(self.rng, int) else None,
            "data": fingerprint(X, Y),
        }

"""The Schrödinger bridge by optimising the interpolant.

Among all random paths between two laws the one whose diffusion spends the least energy is the
Schrödinger bridge. The energy is itself a minimum over drifts, so that path and drift are learned
against each other: max over I of min over u of
``int E[|u|^2 / 2 - (dI + (gamma' - epsilon / gamma) z).u] dt``.

Chosen here: ``gamma = sqrt(2 epsilon t (1-t))``, the noise of the reference's bridges; ``I = (1-t)
x0 + t x1 + t (1-t) f(t, x0, x1)``; a denoiser is learned along, which gives score, velocity and the
way back; networks see normalised coordinates, as in `StochasticInterpolant`.

Source: "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions" (2023), arXiv
2303.08797, section 3 on Schrödinger bridges.
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
from thalweg.transport._clouds import check_clouds, common_spread
from thalweg.transport._gaussian_path import GaussianPath, least_energy_path
from thalweg.transport._path_game import PathGame
from thalweg.transport._training import Learner, fingerprint, run_steps
from thalweg.transport.gaussian import _covariances
from thalweg.transport.integrate import sdeint
from thalweg.transport.networks import TimeMLP

Floats: TypeAlias = NDArray[np.float64]
T_MIN = 1e-3
ENERGY_ROWS = 16_384
"""Points that the energy of learned drifts is averaged over."""


class BridgeInterpolant(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Schrödinger bridge relative to ``dX = sqrt(2 epsilon) dW``, by optimising the interpolant.

    Note the factor: it is the bridge that other solvers of this domain give with twice the
    `epsilon`, which for them is the variance of the reference at time 1.

    Parameters
    ----------
    epsilon : float, default 1.0
        Diffusion coefficient, in squared units of the data.
    kind : {"network", "gaussian"}, default "network"
        Networks for path and fields; or matrix schedules between the Gaussians with the clouds'
        moments, which are exact up to the polynomials.
    n_steps : int, default 2000
        Rounds of the game, each of `inner_steps` of the fields and one of the path; iterations of
        L-BFGS at most for ``"gaussian"``.
    inner_steps : int, default 2
        Steps of the fields a round.
    hidden : sequence of int, default (128, 128, 128)
        Widths of the hidden layers of path, drift and denoiser.
    n_basis : int, default 8
        Polynomials of each schedule, for ``"gaussian"``.
    batch_size : int, default 256
        Pairs a step.
    lr : float, default 1e-3
        Learning rate of the fields and of the path; it falls to a hundredth along a cosine.
    ema : float or None, default 0.99
        Decay of the moving average of parameters that is used afterwards.
    device : str or torch.device, default "cpu"
        Where the networks live.
    callback : callable, optional
        Called after each round as ``callback(state)`` with ``state.step``, ``state.n_steps`` and
        ``state.loss``, an array of the value of the game and the loss of the denoiser;
        StopIteration ends the fit. Not called for ``"gaussian"``.
    checkpoint : path, optional
        File that an interrupted `fit` goes on from.
    checkpoint_every : int, default 500
        Rounds between two writes.
    rng : None, int or torch.Generator, default None
        Source of everything random; also of the draws of methods that get no `rng`.

    Attributes
    ----------
    energy_ : float
        ``int E|u|^2 / 2 dt``, in squared units of the data.
    losses_ : array (rounds, 2) or (iterations,)
        Value of the game, minus the energy in normalised units, and loss of the denoiser; or the
        energies of the iterations.
    path_ : GaussianPath or PathGame
        What was learned.
    mean0_, mean1_ : array (d,)
        Means of the clouds.
    n_features_in_ : int
        Columns d of `X` and `Y`.

    References
    ----------
    "Stochastic Interpolants" (2023), arXiv 2303.08797, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(4000, 1)), rng.normal(2.0, 0.5, size=(4000, 1))
    >>> model = BridgeInterpolant(0.5, kind="gaussian", rng=0).fit(X, Y)
    >>> bool(abs(model.transform(X).mean() - 2.0) < 0.1)
    True
    """

    def __init__(
        self,
        epsilon: float = 1.0,
        *,
        kind: str = "network",
        n_steps: int = 2000,
        inner_steps: int = 2,
        hidden: Sequence[int] = (128, 128, 128),
        n_basis: int = 8,
        batch_size: int = 256,
        lr: float = 1e-3,
        ema: float | None = 0.99,
        device: Any = "cpu",
        callback: Callable[[Any], Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 500,
        rng: Any = None,
    ) -> None:
        self.epsilon = epsilon
        self.kind = kind
        self.n_steps = n_steps
        self.inner_steps = inner_steps
        self.hidden = hidden
        self.n_basis = n_basis
        self.batch_size = batch_size
        self.lr = lr
        self.ema = ema
        self.device = device
        self.callback = callback
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.rng = rng

    def fit(self, X: ArrayLike, Y: ArrayLike) -> BridgeInterpolant:
        """Learn the bridge from the law of `X` to the law of `Y`.

        Parameters
        ----------
        X, Y : array_like (n, d), (m, d)
            Points at times 0 and 1, not paired.

        Returns
        -------
        BridgeInterpolant

        Raises
        ------
        TypeError
            If `Y` is missing.
        ValueError
            If a parameter or an array is not as stated; for ``"gaussian"`` if a covariance is
            singular; if a checkpoint is of another configuration or of other data.
        FloatingPointError
            If the loss leaves the finite numbers.
        """
        if Y is None:
            raise TypeError("Y must be the target points, got None")
        kind = check_option("kind", self.kind, ["network", "gaussian"])
        X, Y = check_clouds(X, Y, at_least=2)
        epsilon = check_real("epsilon", self.epsilon, above=0)
        for name in ("n_steps", "inner_steps", "n_basis", "batch_size"):
            check_count(name, getattr(self, name))
        self.mean0_, self.mean1_, self.n_features_in_ = X.mean(0), Y.mean(0), X.shape[1]
        if kind == "gaussian":
            cov0, cov1 = _covariances(
                **{"cov(X)": np.atleast_2d(np.cov(X.T)), "cov(Y)": np.atleast_2d(np.cov(Y.T))}
            )
            self.path_: GaussianPath | PathGame
            self.path_, self.losses_ = least_energy_path(
                self.mean0_,
                cov0,
                self.mean1_,
                cov1,
                epsilon,
                n_basis=self.n_basis,
                max_iter=self.n_steps,
            )
            self.energy_ = self.path_.energy()
        else:
            self._fit_network(X, Y, epsilon)
        return self

    def transform(self, X: ArrayLike, *, n_steps: int = 100, rng: Any = None) -> Floats:
        """Carry each row of `X` from time 0 to time 1, along a random path.

        Parameters
        ----------
        X : array_like (n, d)
            Points at time 0.
        n_steps : int, default 100
            Euler-Maruyama steps.
        rng : None, int or Generator
            Source of randomness (NumPy's for ``"gaussian"``, torch's for ``"network"``); None is
            the estimator's own.

        Returns
        -------
        array (n, d)
        """
        return self.sample_path(X, n_steps, rng=rng)[-1]

    def inverse_transform(self, Y: ArrayLike, *, n_steps: int = 100, rng: Any = None) -> Floats:
        """Carry each row of `Y` from time 1 to time 0, along a random path; as `transform`."""
        return self.sample_path(Y, n_steps, direction="backward", rng=rng)[-1]

    def sample_path(
        self,
        X: ArrayLike,
        n_steps: int = 100,
        *,
        direction: str = "forward",
        rng: Any = None,
    ) -> Floats:
        """Simulate the bridge from the rows of `X`, points at the start of the direction.

        Returns
        -------
        array (n_steps + 1, n, d)
            States in the order in which they were passed.
        """
        check_is_fitted(self)
        X = check_array("X", X, shape=(None, self.n_features_in_))
        forward = check_option("direction", direction, ["forward", "backward"]) == "forward"

        def drift(t: float, x: Any) -> Any:
            u, score = self.path_.fields(np.array([t]), np.asarray(x))
            return u if forward else u - 2 * self.epsilon * score

        rng = self.rng if rng is None else rng
        if isinstance(rng, torch.Generator):
            rng = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        return np.asarray(
            sdeint(
                drift,
                X,
                (2 * self.epsilon) ** 0.5,
                t0=0.0 if forward else 1.0,
                t1=1.0 if forward else 0.0,
                n_steps=n_steps,
                rng=rng,
                return_path=True,
            )
        )

    def sample(self, t: float, X: ArrayLike, Y: ArrayLike, *, rng: Any = None) -> Floats:
        """Draw the optimised path ``I(t, x0, x1) + gamma(t) z`` between rows of `X` and `Y`.

        Parameters
        ----------
        t : float
            Time in [0, 1].
        X, Y : array_like (n, d)
            The ends; independent draws of both laws give draws of the bridge at time t.
        rng : None, int or Generator
            Source of the noise, as in `transform`.

        Returns
        -------
        array (n, d)
        """
        check_is_fitted(self)
        t = check_real("t", t, at_least=0, at_most=1)
        X = check_array("X", X, shape=(None, self.n_features_in_))
        Y = check_array("Y", Y, shape=X.shape)
        rng = self.rng if rng is None else rng
        if isinstance(rng, torch.Generator):
            rng = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        noise = np.random.default_rng(rng).standard_normal(X.shape)
        if isinstance(self.path_, GaussianPath):
            A, B, _, _ = self.path_.schedules(np.array([t]))
            middle = (1 - t) * self.mean0_ + t * self.mean1_
            middle = middle + (X - self.mean0_) @ A[0].T + (Y - self.mean1_) @ B[0].T
        else:
            middle = self.path_.middle(t, X, Y)
        return np.asarray(middle + (2 * self.epsilon * t * (1 - t)) ** 0.5 * noise)

    def drift(self, t: ArrayLike, x: ArrayLike) -> Floats:
        """Return the forward drift u of the bridge, ``dX = u dt + sqrt(2 epsilon) dW``.

        Parameters
        ----------
        t : float or array_like (n,)
            Times in [0, 1]; networks are asked no closer than 0.001 to the ends.
        x : array_like (n, d)
            Points.

        Returns
        -------
        array (n, d)
            Displacement per unit of time.
        """
        return self._fields(t, x)[0]

    def score(self, t: ArrayLike, x: ArrayLike) -> Floats:
        """Return the gradient of the log-density of the bridge at time t; as `drift`."""
        return self._fields(t, x)[1]

    def velocity(self, t: ArrayLike, x: ArrayLike) -> Floats:
        """Return ``b = u - epsilon s``, the velocity of the flow with the same laws; as `drift`."""
        u, score = self._fields(t, x)
        return u - self.epsilon * score

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _fields(self, t: ArrayLike, x: ArrayLike) -> tuple[Floats, Floats]:
        check_is_fitted(self)
        x = check_array("x", x, shape=(None, self.n_features_in_))
        times = np.atleast_1d(check_array("t", t))
        if times.shape not in ((1,), (len(x),)):
            raise ValueError(f"t must be a number or have shape ({len(x)},), got {np.shape(t)}")
        if times.size:
            check_real("t", float(times.min()), at_least=0)
            check_real("t", float(times.max()), at_most=1)
        fields: tuple[Floats, Floats] = self.path_.fields(times, x)
        return fields

    def _fit_network(self, X: Floats, Y: Floats, epsilon: float) -> None:
        generator = torch_generator(self.rng, self.device)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        initial, d = torch.Generator().manual_seed(seed), X.shape[1]
        scale = common_spread(X, Y)
        path, drift, denoiser = (
            TimeMLP(d, hidden=self.hidden, cond_dim=cond, zero_init=zero, rng=initial).to(
                self.device
            )
            for cond, zero in ((d, True), (0, False), (0, False))
        )
        game = PathGame(path, drift, denoiser, self.mean0_, self.mean1_, scale, epsilon, T_MIN)
        x0, x1 = game.inward(X, 0.0), game.inward(Y, 1.0)
        options: dict[str, Any] = {"lr": self.lr, "ema": self.ema}
        fields = Learner([drift, denoiser], n_steps=self.n_steps * self.inner_steps, **options)
        paths = Learner([path], n_steps=self.n_steps, **options)

        def advance(generator: torch.Generator) -> torch.Tensor:
            for _ in range(self.inner_steps):
                value, denoising = game.values(x0, x1, self.batch_size, generator, fixed_path=True)
                fields.step(value + denoising)
            value, denoising = game.values(x0, x1, self.batch_size, generator)
            paths.step(-value)
            return torch.stack([value.detach(), denoising.detach()])

        self.losses_ = run_steps(
            advance,
            [fields, paths],
            n_steps=self.n_steps,
            generator=generator,
            callback=self.callback,
            checkpoint=self.checkpoint,
            checkpoint_every=self.checkpoint_every,
            config=self._config(X, Y),
        )
        game.drift, game.denoiser = fields.trained()
        (game.path,) = paths.trained()
        self.path_ = game
        self.energy_ = game.energy(x0, x1, ENERGY_ROWS, generator)

    def _config(self, X: Floats, Y: Floats) -> dict[str, Any]:
        if self.checkpoint is None:
            return {}
        return {
            "estimator": type(self).__name__,
            "epsilon": float(self.epsilon),
            "inner_steps": int(self.inner_steps),
            "batch_size": int(self.batch_size),
            "rng": self.rng if isinstance(self.rng, int) else None,
            "data": fingerprint(X, Y),
        }

"""A generative model along a Gaussian path of your choice, or along the one that suits the data.

`GaussianPathFlow` learns by flow matching the velocity that carries normal noise to the law of the
data through the marginals of a `GaussianPath`. Which path is taken decides how simple the
trajectories are, hence how few steps sampling needs; ``path="ko"`` takes the one of least kinetic
energy for these data.

Chosen here: data is centred and scaled by one number; times of a batch are stratified, from 65 536
midpoints of [0, 1 - 1e-4]; the error weighs inversely to the variance of its target,
``a'^2 + m'^2``, which has the same minimiser and lets a path start fast.

Source: "On Kinetic Optimal Probability Paths for Generative Models" (2023), arXiv 2306.06626;
"Flow Matching for Generative Modeling" (2022), arXiv 2210.02747, for the training.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from thalweg._torch import torch, torch_generator
from thalweg._validation import (
    check_array,
    check_count,
    check_option,
    is_torch_tensor,
)
from thalweg.transport._couplings import stratified_times
from thalweg.transport._training import fingerprint
from thalweg.transport.data_separation import DataSeparation, normalize_data
from thalweg.transport.integrate import odeint
from thalweg.transport.kinetic_paths import GaussianPath
from thalweg.transport.networks import TimeMLP, divergence, train

Floats: TypeAlias = NDArray[np.float64]

LAST_TIME = 1 - 1e-4
"""Latest time of training; later ones count as that."""
TABLE_SIZE = 65_536
SEPARATION_ROWS = 10_000
"""Rows, at most, that the separation of ``path="ko"`` is estimated from; chosen here."""
PATHS: dict[str, Callable[[], GaussianPath]] = {
    "cond-ot": GaussianPath.cond_ot,
    "vp-cosine": GaussianPath.vp_cosine,
    "vp-linear": GaussianPath.vp_linear,
    "ve": GaussianPath.ve,
}


class GaussianPathFlow(BaseEstimator):
    """Flow from normal noise to the law of the data along a Gaussian path.

    Parameters
    ----------
    path : {"ko", "cond-ot", "vp-cosine", "vp-linear", "ve"} or GaussianPath, default "ko"
        The probability path; ``"ko"`` estimates the data separation function from `X` and takes the
        kinetic optimal one.
    n_steps : int, default 1500
        Steps of Adam.
    hidden : sequence of int, default (128, 128, 128)
        Widths of the hidden layers of the `TimeMLP`.
    batch_size : int, default 256
        Rows a step.
    lr : float, default 2e-3
        Learning rate; it falls to a hundredth along a cosine.
    ema : float or None, default 0.999
        Decay of the moving average of parameters that is used to sample.
    device : str or torch.device, default "cpu"
        Where the network lives.
    callback : callable, optional
        Called after each step as ``callback(state)`` with ``state.step``, ``state.n_steps`` and
        ``state.loss``; StopIteration ends the fit.
    checkpoint : path, optional
        File that an interrupted `fit` goes on from: the same call again gives bit by bit what it
        would have given.
    checkpoint_every : int, default 500
        Steps between two writes.
    rng : None, int or torch.Generator, default None
        Source of everything random; also of the draws of methods that get no `rng`.

    Attributes
    ----------
    path_ : GaussianPath
        The path, in the coordinates of normalised data.
    separation_ : DataSeparation or None
        What was learned of the data with ``path="ko"``.
    network_ : TimeMLP
        The velocity in those coordinates.
    mean_ : array (d,)
    scale_ : float
        Data is ``mean_ + scale_`` times normalised data.
    losses_ : array (steps,)
        The weighted loss of each step.
    n_features_in_ : int
        Columns d of `X`.

    References
    ----------
    "On Kinetic Optimal Probability Paths for Generative Models" (2023), arXiv 2306.06626; "Flow
    Matching for Generative Modeling" (2022), arXiv 2210.02747, conditional flow matching.

    Examples
    --------
    >>> import numpy as np
    >>> X = 5 + np.random.default_rng(0).choice([-1.0, 1.0], size=(500, 1)) * [1.0, 2.0]
    >>> model = GaussianPathFlow(n_steps=100, hidden=(32,), lr=1e-2, ema=None, rng=0).fit(X)
    >>> model.sample(200, n_steps=8).shape
    (200, 2)
    >>> bool(np.allclose(model.sample(2000, n_steps=8).mean(axis=0), 5, atol=0.5))
    True
    """

    def __init__(
        self,
        path: str | GaussianPath = "ko",
        *,
        n_steps: int = 1500,
        hidden: Sequence[int] = (128, 128, 128),
        batch_size: int = 256,
        lr: float = 2e-3,
        ema: float | None = 0.999,
        device: Any = "cpu",
        callback: Callable[[Any], Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 500,
        rng: Any = None,
    ) -> None:
        self.path = path
        self.n_steps = n_steps
        self.hidden = hidden
        self.batch_size = batch_size
        self.lr = lr
        self.ema = ema
        self.device = device
        self.callback = callback
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.rng = rng

    def fit(self, X: ArrayLike, y: Any = None) -> GaussianPathFlow:
        """Learn the velocity.

        Parameters
        ----------
        X : array_like (n, d)
            Rows of data, at least two that differ.
        y : ignored

        Returns
        -------
        GaussianPathFlow

        Raises
        ------
        ValueError
            If a parameter or `X` is not as stated, or the checkpoint is of another configuration.
        FloatingPointError
            If the loss leaves the finite numbers.
        """
        normalised, mean, scale = normalize_data(X)
        if not isinstance(self.path, GaussianPath):
            check_option("path", self.path, ["ko", *PATHS])
        check_count("batch_size", self.batch_size)
        generator = torch_generator(self.rng, self.device)
        seeds = torch.randint(2**62, (2,), generator=generator, device=generator.device).tolist()
        network = TimeMLP(
            normalised.shape[1], hidden=self.hidden, rng=torch.Generator().manual_seed(seeds[0])
        ).to(self.device)
        path, separation = self._path(normalised, np.random.default_rng(seeds[1]))
        loss = VelocityLoss(
            network,
            torch.from_numpy(normalised).to(self.device, torch.float32),
            path,
            self.batch_size,
        )
        (trained,), losses = train(
            network,
            loss,
            n_steps=self.n_steps,
            lr=self.lr,
            ema=self.ema,
            callback=self.callback,
            rng=generator,
            checkpoint=self.checkpoint,
            checkpoint_every=self.checkpoint_every,
            config=self._config(normalised, mean, scale),
        )
        self.mean_, self.scale_, self.n_features_in_ = mean, scale, len(mean)
        self.path_, self.separation_ = path, separation
        self.network_, self.losses_ = trained, losses
        return self

    def sample(self, n: int, *, n_steps: int = 50, method: str = "heun", rng: Any = None) -> Floats:
        """Draw points of the learned law.

        Parameters
        ----------
        n : int
            How many.
        n_steps : int, default 50
            Steps of the integrator.
        method : {"euler", "heun", "rk4", "dopri5"}, default "heun"
            One of `odeint`'s, with 1, 2, 4 network calls a step; ``"dopri5"`` adapts its steps.
        rng : None, int or torch.Generator
            Source of the noise; None is the estimator's own, so that an estimator made with an int
            gives the same draw each time.

        Returns
        -------
        array (n, d)
        """
        check_is_fitted(self, "network_")
        shape = check_count("n", n), self.n_features_in_
        generator = torch_generator(self.rng if rng is None else rng, self.device)
        z = torch.randn(shape, generator=generator, device=self.device)
        with torch.inference_mode():
            x = odeint(self._field, z, n_steps=n_steps, method=method)
        return np.asarray(self.mean_ + self.scale_ * x.cpu().double().numpy())

    def log_prob(self, X: ArrayLike, n_steps: int = 100, *, rng: Any = None) -> Floats:
        """Return the log-density of the learned law at each row.

        Parameters
        ----------
        X : array_like (n, d)
            Points.
        n_steps : int, default 100
            Steps of Heun's rule from the data back to the noise.
        rng : None, int or torch.Generator
            Source of the signs that estimate the divergence where d > 16; up to 16 it is exact.

        Returns
        -------
        array (n,)
            In nats, for the unit of the data.
        """
        inside = self._inward("X", X)
        d = inside.shape[1]
        generator = torch_generator(self.rng if rng is None else rng, "cpu")
        signs = int(torch.randint(2**62, (), generator=generator))

        def field(t: float, state: torch.Tensor) -> torch.Tensor:
            total, velocity = divergence(self._field, t, state[:, :d], rng=signs, return_field=True)
            return torch.cat([velocity, total[:, None]], 1)

        with torch.no_grad():
            start = torch.cat([inside, torch.zeros_like(inside[:, :1])], 1)
            end = odeint(field, start, t0=1.0, t1=0.0, n_steps=n_steps).cpu().double().numpy()
        # Backward, the last column is minus the integral of the divergence.
        normal = -0.5 * (end[:, :d] ** 2).sum(1) - 0.5 * d * math.log(2 * math.pi)
        return np.asarray(normal + end[:, d] - d * math.log(self.scale_))

    def velocity(self, t: Any, x: Any) -> Any:
        """Return the velocity of the flow in the unit of the data.

        Parameters
        ----------
        t : float or array (n,)
            Times in [0, 1]; later ones than 0.9999 count as that.
        x : array_like or tensor (n, d)
            Points; noise stands at ``mean_ + scale_ z`` at time 0.

        Returns
        -------
        array or tensor (n, d)
        """
        check_is_fitted(self, "network_")
        tensor = is_torch_tensor(x)
        if not tensor:
            x = torch.from_numpy(check_array("x", x, shape=(None, self.n_features_in_)))
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        if not bool(((t >= 0) & (t <= 1)).all()):
            raise ValueError(f"t must lie in [0, 1], got {t}")
        mean = torch.from_numpy(self.mean_).to(x)
        inside = ((x - mean) / self.scale_).to(self.device, torch.float32)
        clock = t.clamp(max=LAST_TIME).to(self.device, torch.float32)
        with torch.set_grad_enabled(tensor and torch.is_grad_enabled()):
            value = self.scale_ * self.network_(clock, inside).to(x)
        return value if tensor else value.numpy()

    def _field(self, t: float, x: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.network_(min(t, LAST_TIME), x)
        return value

    def _inward(self, name: str, X: ArrayLike) -> torch.Tensor:
        check_is_fitted(self, "network_")
        X = check_array(name, X, shape=(None, self.n_features_in_))
        inside = torch.from_numpy((X - self.mean_) / self.scale_)
        return inside.to(self.device, torch.float32)

    def _path(
        self, X: Floats, rng: np.random.Generator
    ) -> tuple[GaussianPath, DataSeparation | None]:
        if isinstance(self.path, GaussianPath):
            return self.path, None
        if self.path != "ko":
            return PATHS[self.path](), None
        some = X
        if len(X) > SEPARATION_ROWS:
            rows = rng.choice(len(X), SEPARATION_ROWS, replace=False)
            some, _, _ = normalize_data(X[rows])
        separation = DataSeparation.from_data(some, rng=rng)
        return GaussianPath.kinetic_optimal(separation), separation

    def _config(self, X: Floats, mean: Floats, scale: float) -> dict[str, Any]:
        if self.checkpoint is None:
            return {}
        custom = isinstance(self.path, GaussianPath)
        return {
            "estimator": type(self).__name__,
            "path": fingerprint(np.array(self.path.a(PROBES))) if custom else self.path,  # type: ignore[union-attr]
            "batch_size": int(self.batch_size),
            "rng": self.rng if isinstance(self.rng, int) else None,
            "data": fingerprint(X, mean, np.array([scale])),
        }


PROBES = np.linspace(0, 1, 65)


class VelocityLoss:
    """Mean squared error of a network against the conditional velocity, in units of its variance.

    Parameters
    ----------
    network : torch.nn.Module
        ``network(t, x)``.
    X : tensor (n, d)
        Normalised data.
    path : GaussianPath
        The path, tabulated at the midpoints of 65 536 intervals.
    batch_size : int
        Rows a step.
    """

    def __init__(
        self, network: torch.nn.Module, X: torch.Tensor, path: GaussianPath, batch_size: int
    ) -> None:
        self.network, self.X, self.batch_size = network, X, batch_size
        times = LAST_TIME * (np.arange(TABLE_SIZE) + 0.5) / TABLE_SIZE
        a, m, da, dm = path.coefficients(times)
        speed = np.sqrt(da**2 + dm**2)
        if not (np.isfinite(speed) & (speed > 0)).all():
            raise ValueError("path must have finite, non-zero derivatives at times in (0, 1)")
        columns = np.stack([times, a, m, da / speed, dm / speed, 1 / speed], axis=1)
        self.table = torch.from_numpy(columns).to(X)

    def __call__(self, generator: torch.Generator) -> torch.Tensor:
        """Return the mean over a batch drawn from `generator`."""
        n = self.batch_size
        rows = torch.randint(len(self.X), (n,), generator=generator, device=self.X.device)
        cells = stratified_times(n, float(TABLE_SIZE), generator, self.X).long()
        t, a, m, da, dm, inverse = self.table[cells.clamp(max=TABLE_SIZE - 1)].split(1, dim=1)
        x1 = self.X[rows]
        z = torch.randn(x1.shape, generator=generator, device=x1.device, dtype=x1.dtype)
        value = self.network(t[:, 0], a * x1 + m * z)
        return (inverse * value - da * x1 - dm * z).square().mean()

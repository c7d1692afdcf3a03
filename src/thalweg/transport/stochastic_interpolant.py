"""One model between two clouds of points, sampled with as much noise as is wanted afterwards.

Velocity and denoiser of a stochastic interpolant are regressed once; the ODE along the velocity is
a deterministic map with likelihoods, and adding the score with any diffusion coefficient gives
stochastic samplers with the same laws, which forgive errors of the fields.

Chosen here: the networks see the path centred at its mean and divided by the clouds' common spread,
which changes no field; times of a batch are stratified on [t_min, 1 - t_min]; fields outside of it
are those at its ends, where the score would be singular.

Source: "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions" (2023), arXiv
2303.08797, sections 2 and 6.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_array, check_count, check_option, check_real
from thalweg.transport._clouds import check_clouds, common_spread
from thalweg.transport._couplings import COUPLINGS, draw_pairs, stratified_times
from thalweg.transport._interpolant_fields import InterpolantFields, check_learn
from thalweg.transport._interpolant_sampler import InterpolantSampler
from thalweg.transport._training import fingerprint
from thalweg.transport.interpolant_losses import interpolant_losses
from thalweg.transport.interpolants import FAMILIES, Interpolant
from thalweg.transport.networks import TimeMLP, train

Floats: TypeAlias = NDArray[np.float64]
NAMED = ("rectified", *(family for family in FAMILIES if family != "custom"))
PLAIN_GAMMA = ("linear", "trig", "mirror")
MOMENT_TOLERANCE = 0.1
"""How far moments of x0 may be from the standard normal's, beyond 5 standard errors."""


class StochasticInterpolant(
    InterpolantSampler, OneToOneFeatureMixin, TransformerMixin, BaseEstimator
):
    """Generator and translator between two clouds, deterministic or stochastic at will.

    Parameters
    ----------
    interpolant : str or Interpolant, default "linear"
        The path: ``"linear"``, ``"trig"``, ``"encoding-decoding"``, ``"mirror"``, ``"rectified"``,
        ``"one-sided-linear"``, ``"one-sided-trig"``, ``"one-sided-sqrt"``, or your own. The
        one-sided ones need a standard normal `X`, in whose place fresh noise is drawn.
    gamma : default "brownian"
        Noise of the named linear, trig and mirror paths, as in `Interpolant`, in the unit of the
        data: scale the clouds to spreads of about one. None makes the flow deterministic.
    learn : sequence of str, default ("b", "eta")
        Fields to regress: velocity ``"b"``, velocity without noise ``"v"``, denoiser ``"eta"``,
        score ``"s"``. With ``("b",)`` or ``("v",)`` alone there is no score, unless x0 is the
        noise, where any one of b, eta and s gives the others.
    n_steps : int, default 1500
        Steps of Adam.
    hidden : sequence of int, default (128, 128, 128)
        Widths of the hidden layers of each field's `TimeMLP`.
    batch_size : int, default 256
        Pairs a step.
    lr : float, default 2e-3
        Learning rate; it falls to a hundredth along a cosine.
    antithetic : bool, default True
        Use z and -z for each pair: finite variance near the ends for twice the work.
    ema : float, optional
        Decay of the moving average of parameters that is used afterwards.
    t_min : float, default 1e-3
        Fields are learned and followed on [t_min, 1 - t_min].
    coupling : {"independent", "minibatch-ot", "paired"}, default "independent"
        How rows of `X` and `Y` are paired.
    device : str or torch.device, default "cpu"
        Where the networks live.
    callback : callable, optional
        Called after each step as ``callback(state)`` with ``state.step``, ``state.n_steps`` and
        ``state.loss``; StopIteration ends the fit.
    checkpoint : path, optional
        File that an interrupted `fit` goes on from.
    checkpoint_every : int, default 500
        Steps between two writes.
    rng : None, int or torch.Generator, default None
        Source of everything random; also of the draws of methods that get no `rng`.

    Attributes
    ----------
    networks_ : dict of TimeMLP
        One for each learned field, in normalised coordinates.
    mean0_, mean1_ : array (d,)
        Means of the clouds.
    scale_ : float
        Their common spread.
    losses_ : array (steps,)
        Sum of the objectives on each batch.
    n_features_in_ : int
        Columns d of `X` and `Y`.

    References
    ----------
    "Stochastic Interpolants" (2023), arXiv 2303.08797, sections 2 and 6.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(500, 2)), rng.normal(3.0, 0.5, size=(400, 2))
    >>> model = StochasticInterpolant(n_steps=150, hidden=(32,), lr=1e-2, rng=0).fit(X, Y)
    >>> flowed, diffused = model.transform(X), model.transform(X, epsilon=0.5)
    >>> bool(np.allclose([flowed.mean(0), diffused.mean(0)], 3.0, atol=0.3))
    True
    """

    def __init__(
        self,
        interpolant: str | Interpolant = "linear",
        gamma: Any = "brownian",
        *,
        learn: Sequence[str] = ("b", "eta"),
        n_steps: int = 1500,
        hidden: Sequence[int] = (128, 128, 128),
        batch_size: int = 256,
        lr: float = 2e-3,
        antithetic: bool = True,
        ema: float | None = None,
        t_min: float = 1e-3,
        coupling: str = "independent",
        device: Any = "cpu",
        callback: Callable[[Any], Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 500,
        rng: Any = None,
    ) -> None:
        self.interpolant = interpolant
        self.gamma = gamma
        self.learn = learn
        self.n_steps = n_steps
        self.hidden = hidden
        self.batch_size = batch_size
        self.lr = lr
        self.antithetic = antithetic
        self.ema = ema
        self.t_min = t_min
        self.coupling = coupling
        self.device = device
        self.callback = callback
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.rng = rng

    def fit(self, X: ArrayLike, Y: ArrayLike) -> StochasticInterpolant:
        """Learn the fields of the path from the law of `X` to the law of `Y`.

        Parameters
        ----------
        X : array_like (n, d)
            Points at time 0; the mirror path does not read them.
        Y : array_like (m, d)
            Points at time 1; paired with those of `X` only if ``coupling="paired"``.

        Returns
        -------
        StochasticInterpolant

        Warns
        -----
        UserWarning
            If x0 is the noise and `X` does not look standard normal.

        Raises
        ------
        TypeError
            If `Y` is missing.
        ValueError
            If a parameter or an array is not as stated, or a checkpoint is of another
            configuration or of other data.
        FloatingPointError
            If the loss leaves the finite numbers.
        """
        if Y is None:
            raise TypeError("Y must be the target points, got None")
        X, Y = check_clouds(X, Y)
        path = self._interpolant()
        learn = check_learn(path, self.learn)
        batch = check_count("batch_size", self.batch_size)
        t_min = check_real("t_min", self.t_min, above=0, below=0.5)
        coupling = check_option("coupling", self.coupling, COUPLINGS)
        if coupling == "paired" and len(X) != len(Y):
            raise ValueError(
                f"X and Y must have the same number of rows when paired, got {len(X)} and {len(Y)}"
            )
        if path.starts_from_noise and coupling != "independent":
            raise ValueError(f"coupling must be 'independent' where x0 is noise, got {coupling!r}")
        if path.starts_from_noise and not looks_standard_normal(X):
            warnings.warn(
                f"X should be standard normal for {path.family!r}, which puts fresh noise in its "
                "place, and is not",
                UserWarning,
                stacklevel=2,
            )
        generator = torch_generator(self.rng, self.device)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        initial, d = torch.Generator().manual_seed(seed), X.shape[1]
        networks = {
            name: TimeMLP(d, hidden=self.hidden, rng=initial).to(self.device) for name in learn
        }
        mean0 = 0 * Y.mean(0) if path.starts_from_noise else X.mean(0)
        start = Y if path.family == "mirror" else X
        scale = common_spread(start, Y)
        fields = InterpolantFields(path, networks, mean0, Y.mean(0), scale, t_min)
        x0, x1 = (
            torch.from_numpy((Z - mean) / scale).to(self.device, torch.float32)
            for Z, mean in ((X, fields.mean0), (Y, fields.mean1))
        )

        def loss(generator: torch.Generator) -> torch.Tensor:
            if path.family == "mirror":
                start, end = draw_pairs(x1, x1, batch, "paired", generator)
            else:
                start, end = draw_pairs(x0, x1, batch, coupling, generator)
            z = torch.randn(end.shape, generator=generator, device=end.device)
            t = t_min + stratified_times(batch, 1 - 2 * t_min, generator, end)
            found = interpolant_losses(
                path,
                networks,
                t,
                start,
                end,
                z,
                antithetic=self.antithetic,
                noise_scale=1 / scale,
            )
            total: torch.Tensor = torch.stack(list(found.values())).sum()
            return total

        trained, self.losses_ = train(
            list(networks.values()),
            loss,
            n_steps=self.n_steps,
            lr=self.lr,
            ema=self.ema,
            callback=self.callback,
            rng=generator,
            checkpoint=self.checkpoint,
            checkpoint_every=self.checkpoint_every,
            config=self._config(X, Y, path),
        )
        self.networks_ = dict(zip(learn, trained, strict=True))
        self.mean0_, self.mean1_, self.scale_ = fields.mean0, fields.mean1, scale
        self.n_features_in_ = d
        return self

    def validation_losses(self, X: ArrayLike, Y: ArrayLike, *, rng: Any = None) -> dict[str, float]:
        """Return the objective of each learned field on other points, each row of `Y` used once.

        Parameters
        ----------
        X, Y : array_like (n, d), (m, d)
            Points at times 0 and 1.
        rng : None, int or torch.Generator
            Source of the pairs, the times and the noise; None is the estimator's own.

        Returns
        -------
        dict
            ``"b"``, ``"v"`` in squared units of the data, ``"eta"`` in none, ``"s"`` in inverse
            squared units; less the values of the exact fields they are half the squared errors.
        """
        self._fields()
        X, Y = check_clouds(X, Y)
        check_array("X", X, shape=(None, self.n_features_in_))
        path = self._interpolant()
        generator = torch_generator(self.rng if rng is None else rng, "cpu")
        x0, x1 = torch.from_numpy(X), torch.from_numpy(Y)
        if self.coupling != "paired":
            rows = torch.randint(len(X), (len(Y),), generator=generator)
            x0 = x1 if path.family == "mirror" else x0[rows]
        z = torch.randn(x1.shape, generator=generator, dtype=x1.dtype)
        t = self.t_min + stratified_times(len(Y), 1 - 2 * self.t_min, generator, x1)
        t = t[torch.randperm(len(t), generator=generator)]
        named = {"b": "velocity", "v": "plain_velocity", "eta": "denoiser", "s": "score"}
        fields = {
            name: lambda t, x, kind=named[name]: self._evaluate(kind, t, x)
            for name in self.networks_
        }
        with torch.no_grad():
            found = interpolant_losses(path, fields, t, x0, x1, z)
        return {name: float(value) for name, value in found.items()}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _interpolant(self) -> Interpolant:
        if isinstance(self.interpolant, Interpolant):
            return self.interpolant
        check_option("interpolant", self.interpolant, NAMED)
        if self.interpolant in PLAIN_GAMMA:
            return Interpolant(self.interpolant, self.gamma)
        if self.interpolant == "rectified":
            return Interpolant.rectified()
        if self.interpolant == "encoding-decoding":
            return Interpolant.encoding_decoding()
        return Interpolant(self.interpolant, None)

    def _fields(self) -> InterpolantFields:
        check_is_fitted(self)
        return InterpolantFields(
            self._interpolant(), self.networks_, self.mean0_, self.mean1_, self.scale_, self.t_min
        )

    def _config(self, X: Floats, Y: Floats, path: Interpolant) -> dict[str, Any]:
        if self.checkpoint is None:
            return {}
        return {
            "estimator": type(self).__name__,
            "interpolant": f"{path.family} {path.gamma if path.schedules is None else ''} {path.a}",
            "learn": list(self.learn),
            "batch_size": int(self.batch_size),
            "antithetic": bool(self.antithetic),
            "t_min": float(self.t_min),
            "coupling": self.coupling,
            "rng": self.rng if isinstance(self.rng, int) else None,
            "data": fingerprint(X, Y),
        }


def looks_standard_normal(X: Floats) -> bool:
    """Whether means and covariances of the rows are those of a standard normal, within noise."""
    tolerance = MOMENT_TOLERANCE + 5 / len(X) ** 0.5
    gram = X.T @ X / len(X)
    return bool(
        np.abs(X.mean(0)).max() <= tolerance
        and np.abs(gram - np.eye(X.shape[1])).max() <= 1.5 * tolerance
    )

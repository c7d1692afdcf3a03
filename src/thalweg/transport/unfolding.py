"""Undo what an instrument does to events, one by one: `BridgeUnfolder`.

From simulated pairs of a truth and its measurement a bridge of small variance is learned; run back
from a measured event, it draws a truth that belongs to it. Starting at the measurement, not at
noise, only a correction has to be learned.

Source: "Improving Generative Model-based Unfolding with Schrödinger Bridges" (2023), arXiv
2308.12351, section III; "I2SB: Image-to-Image Schrödinger Bridge" (2023), arXiv 2302.05872,
algorithms 1 and 2.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_array, check_count
from thalweg.transport._training import Schedule as LearningSchedule
from thalweg.transport._training import fingerprint, placed
from thalweg.transport._unfolding_process import BridgeLoss, follow_back
from thalweg.transport.networks import TimeMLP, train
from thalweg.transport.reweighting import check_simulation, check_weights, density_ratio
from thalweg.transport.unfolding_bridge import BETA_MAX, bridge_schedule
from thalweg.transport.unfolding_scores import check_varying

Floats: TypeAlias = NDArray[np.float64]
BLOCK = 16_384
"""Events followed at a time, with random numbers of their own."""


class BridgeUnfolder(BaseEstimator):
    """Draw truths of measured events, having seen simulated pairs.

    Parameters
    ----------
    n_times : int, default 1000
        Points of the bridge's grid, at least 2.
    beta_max : float, default 0.3
        Largest rate of noise times `n_times`; the total deviation is 0.22 standard deviations of
        the events by default.
    cond : bool, default True
        Let the network see the measured event all along the bridge. Then the result is a draw from
        the simulation's law of the truth given the measurement. Without it only the law of all
        truths is kept.
    ode : bool, default False
        Leave the noise of the bridge out, in training and sampling: each measured event then has
        one truth, the mean.
    n_steps : int, default 2000
        Steps of Adam each iteration.
    hidden : sequence of int, default (64, 64, 64)
        Widths of the hidden layers of the `TimeMLP`.
    batch_size : int, default 256
        Pairs a step.
    lr : float, default 2e-3
        Learning rate at the start.
    schedule : {"cosine", "constant"} or callable, default "cosine"
        Course of the learning rate, as in `thalweg.transport.networks.train`.
    nfe : int, default 50
        Network calls of a draw.
    n_iterations : int, default 1
        Fits. Before each but the first, simulated pairs are weighted so that their truths look like
        what was unfolded from the data, which removes the simulation's own prior step by step
        (expectation-maximisation).
    ema : float or None, default 0.999
        Decay of the moving average of parameters that is used to draw.
    standardize : bool, default True
        Shift and scale each column of the truths and of the measurements to mean 0 and deviation 1.
    device : str or torch.device, default "cpu"
        Where the network lives.
    callback : callable, optional
        Called after each step as ``callback(state)`` with ``state.iteration`` (from 1),
        ``state.step``, ``state.n_steps`` and ``state.loss``; StopIteration ends that fit.
    checkpoint : path, optional
        Start of the names of files, one an iteration, that an interrupted `fit` goes on from.
    checkpoint_every : int, default 500
        Steps between two writes.
    rng : None, int or torch.Generator, default None
        Source of everything random; also of the draws of methods that get no `rng`.

    Attributes
    ----------
    network_ : TimeMLP
        Estimate of ``(x_k - x_0) / sigma_forward(k)``, in standardised columns.
    weights_ : array (n,)
        Weights of the simulated pairs in the last iteration, with mean one.
    loss_curve_ : array (steps,)
        Mean squared error on each batch of the last iteration.
    mean0_, scale0_, mean1_, scale1_ : array (d,)
        Means and deviations of truths (0) and measurements (1).
    n_features_in_ : int
        Columns d.

    Notes
    -----
    The published configuration is ``hidden=(32,) * 9`` with residual blocks, ``batch_size=128``,
    ``lr=1e-3``, 250 000 steps and ``nfe=999``. Here layers have no shortcuts. Indices of a batch
    are stratified, which leaves each of them uniform. On the jets of the study a learning rate of
    5e-3 was better than the default, for 800 to 8000 steps.

    The simulation's prior stays in the result of one iteration, as it does for any method that
    learns the truth given the measurement: see `gaussian_unfolding`.

    References
    ----------
    "Improving Generative Model-based Unfolding with Schrödinger Bridges" (2023), arXiv 2308.12351,
    section III.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(size=(2000, 1))
    >>> measured = truth + 1.0 + 0.3 * rng.normal(size=(2000, 1))
    >>> model = BridgeUnfolder(n_steps=200, hidden=(32,), lr=1e-2, rng=0).fit(truth, measured)
    >>> unfolded = model.transform(measured)
    >>> bool(abs(unfolded.mean()) < 0.1 and abs(unfolded.std() - 1) < 0.1)
    True
    """

    def __init__(
        self,
        n_times: int = 1000,
        beta_max: float = BETA_MAX,
        *,
        cond: bool = True,
        ode: bool = False,
        n_steps: int = 2000,
        hidden: Sequence[int] = (64, 64, 64),
        batch_size: int = 256,
        lr: float = 2e-3,
        schedule: LearningSchedule = "cosine",
        nfe: int = 50,
        n_iterations: int = 1,
        ema: float | None = 0.999,
        standardize: bool = True,
        device: Any = "cpu",
        callback: Callable[[Any], Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 500,
        rng: Any = None,
    ) -> None:
        self.n_times = n_times
        self.beta_max = beta_max
        self.cond = cond
        self.ode = ode
        self.n_steps = n_steps
        self.hidden = hidden
        self.batch_size = batch_size
        self.lr = lr
        self.schedule = schedule
        self.nfe = nfe
        self.n_iterations = n_iterations
        self.ema = ema
        self.standardize = standardize
        self.device = device
        self.callback = callback
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.rng = rng

    def fit(
        self,
        truth: ArrayLike,
        measured: ArrayLike,
        *,
        data: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> BridgeUnfolder:
        """Learn from simulated pairs.

        Parameters
        ----------
        truth, measured : array_like (n, d)
            Simulated events, row by row as they are and as they are measured.
        data : array_like (m, d), optional
            Measured data; needed where `n_iterations` is more than 1 and not read otherwise.
        sample_weight : array_like (n,), optional
            Weights of the pairs, at least 0; None is one each.

        Returns
        -------
        BridgeUnfolder

        Raises
        ------
        ValueError
            If a parameter or an array is not as stated, a column is constant, `data` is missing, or
            a checkpoint is of another configuration or of other data.
        FloatingPointError
            If the loss or a drawn event leaves the finite numbers.
        """
        n_iterations = check_count("n_iterations", self.n_iterations)
        schedule = bridge_schedule(self.n_times, self.beta_max)
        check_count("nfe", self.nfe, at_most=self.n_times - 1)
        check_count("batch_size", self.batch_size)
        truth, measured, data = self._check_events(truth, measured, data)
        given = check_weights("sample_weight", sample_weight, len(truth))
        spreads = check_varying("truth", truth, given), check_varying("measured", measured, given)
        d = truth.shape[1]
        if self.standardize:
            self.mean0_, self.mean1_ = (
                np.average(events, axis=0, weights=given) for events in (truth, measured)
            )
            self.scale0_, self.scale1_ = spreads
        else:
            self.mean0_, self.mean1_ = np.zeros(d), np.zeros(d)
            self.scale0_, self.scale1_ = np.ones(d), np.ones(d)
        self.n_features_in_ = d
        self._schedule = schedule
        generator = torch_generator(self.rng, self.device)
        x0 = self._tensor((truth - self.mean0_) / self.scale0_)
        x1 = self._tensor((measured - self.mean1_) / self.scale1_)
        config = self._config(truth, measured, data, given)
        weights = given
        for iteration in range(1, n_iterations + 1):
            if iteration > 1:
                unfolded = self.transform(data, rng=generator)
                seed = _seed(generator, 2**31)
                weights = given * density_ratio(unfolded, truth, denominator_weight=given, rng=seed)
                weights = weights / weights.mean()
            network = TimeMLP(
                d,
                hidden=self.hidden,
                cond_dim=d if self.cond else 0,
                rng=torch.Generator().manual_seed(_seed(generator)),
            ).to(self.device)
            loss = BridgeLoss(
                network, x0, x1, schedule, self.batch_size, self.cond, self.ode, weights
            )
            (self.network_,), self.loss_curve_ = train(
                network,
                loss,
                n_steps=self.n_steps,
                lr=self.lr,
                schedule=self.schedule,
                ema=self.ema,
                callback=placed(self.callback, iteration=iteration),
                rng=generator,
                checkpoint=self.checkpoint and f"{os.fspath(self.checkpoint)}.{iteration}",
                checkpoint_every=self.checkpoint_every,
                config={**config, "iteration": iteration},
            )
        self.weights_ = weights
        return self

    def transform(
        self,
        measured: ArrayLike,
        *,
        nfe: int | None = None,
        rng: Any = None,
        executor: Executor | None = None,
    ) -> Floats:
        """Draw one truth for each measured event.

        Parameters
        ----------
        measured : array_like (n, d)
            Measured events.
        nfe : int, optional
            Network calls, from 1 to ``n_times - 1``; None is the estimator's own.
        rng : None, int or torch.Generator
            Source of randomness; None is the estimator's own, so that an estimator made with an int
            gives the same draw each time.
        executor : concurrent.futures.Executor, optional
            Follows blocks of events in parallel, with the same result.

        Returns
        -------
        array (n, d)

        Raises
        ------
        ValueError
            If an argument is not as stated.
        FloatingPointError
            If an event leaves the finite numbers; it names the index of the bridge.
        """
        return self.sample(measured, 1, nfe=nfe, rng=rng, executor=executor)[0]

    def sample(
        self,
        measured: ArrayLike,
        n_samples: int = 1,
        rng: Any = None,
        *,
        nfe: int | None = None,
        executor: Executor | None = None,
    ) -> Floats:
        """Draw several truths for each measured event; the arguments are those of `transform`.

        Returns
        -------
        array (n_samples, n, d)
        """
        check_is_fitted(self, "network_")
        measured = check_array("measured", measured, shape=(None, self.n_features_in_))
        n_samples = check_count("n_samples", n_samples)
        last = len(self._schedule[0]) - 1
        nfe = check_count("nfe", self.nfe if nfe is None else nfe, at_most=last)
        generator = torch_generator(self.rng if rng is None else rng, self.device)
        starts = np.tile((measured - self.mean1_) / self.scale1_, (n_samples, 1))
        blocks = np.array_split(starts, max(1, -(-len(starts) // BLOCK)))
        seeds = [_seed(generator) for _ in blocks]
        follow = partial(
            follow_back, self.network_, self._schedule, nfe, self.cond, self.ode, self.device
        )
        ends: Iterable[Floats] = (map if executor is None else executor.map)(follow, blocks, seeds)
        unfolded = self.mean0_ + self.scale0_ * np.concatenate(list(ends))
        return np.asarray(unfolded.reshape(n_samples, *measured.shape))

    def _check_events(
        self, truth: ArrayLike, measured: ArrayLike, data: ArrayLike | None
    ) -> tuple[Floats, Floats, Floats]:
        if data is None and self.n_iterations > 1:
            raise ValueError("data must be given where n_iterations is more than 1, got None")
        truth, measured = (
            check_array(name, events, ndim=2)
            for name, events in (("truth", truth), ("measured", measured))
        )
        if truth.shape != measured.shape:
            raise ValueError(
                "truth and measured must be pairs with the same columns, got shapes "
                f"{truth.shape} and {measured.shape}"
            )
        return check_simulation(truth, measured, measured if data is None else data)

    def _tensor(self, events: Floats) -> torch.Tensor:
        return torch.from_numpy(events).to(self.device, torch.float32)

    def _config(self, *data: Floats) -> dict[str, Any]:
        if self.checkpoint is None:
            return {}
        return {
            "estimator": type(self).__name__,
            "n_times": int(self.n_times),
            "beta_max": float(self.beta_max),
            "cond": bool(self.cond),
            "ode": bool(self.ode),
            "batch_size": int(self.batch_size),
            "nfe": int(self.nfe),
            "standardize": bool(self.standardize),
            "rng": self.rng if isinstance(self.rng, int) else None,
            "data": fingerprint(*data),
        }


def _seed(generator: torch.Generator, below: int = 2**62) -> int:
    return int(torch.randint(below, (), generator=generator, device=generator.device))

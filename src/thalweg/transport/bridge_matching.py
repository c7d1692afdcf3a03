"""Schrödinger bridges learned by regression: bridge matching and iterative Markovian fitting.

Join the points of two clouds by Brownian bridges and regress the bridges' drift on place and time:
the learned diffusion carries one cloud into the other, whatever the pairs were. Pairs simulated
from it are closer to the Schrödinger bridge, so that fitting again, in turns of direction, leads
there (IMF).

Chosen here: both clouds are centred at their means and divided by their common spread, which maps
Brownian bridges to Brownian bridges and makes the fit equivariant; times of a batch are stratified
and weigh inversely to the deviation of the target, which has the same minimiser; the first round
fits both directions on the initial coupling.

Source: "Diffusion Schrödinger Bridge Matching" (2023), arXiv 2303.16852, Algorithm 1; "Stochastic
Interpolants: A Unifying Framework for Flows and Diffusions" (2023), arXiv 2303.08797.
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
from thalweg._validation import (
    check_array,
    check_count,
    check_option,
    check_real,
    is_torch_tensor,
)
from thalweg.transport._bridge_regression import LAST_TIME, DriftLoss, simulate
from thalweg.transport._clouds import check_clouds, common_spread
from thalweg.transport._couplings import COUPLINGS, some_rows
from thalweg.transport._training import fingerprint, placed
from thalweg.transport.networks import TimeMLP, train
from thalweg.transport.reference import BrownianReference

Floats: TypeAlias = NDArray[np.float64]
DIRECTIONS = ("backward", "forward")


class BridgeMatching(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Diffusion from one cloud of points to another, by matching Brownian bridges.

    With ``n_iter=1`` it keeps what the initial coupling says of the pairs and matches the marginals
    (bridge matching); with more rounds it approaches the Schrödinger bridge relative to
    ``dX = sqrt(epsilon) dW`` on [0, 1] (iterative Markovian fitting).

    Parameters
    ----------
    epsilon : float, default 1.0
        Variance of the reference at time 1, in squared units of the data.
    n_iter : int, default 1
        Rounds, each of a backward and a forward fit. From the second on the backward one learns
        from pairs that the forward process made, and the other way round.
    n_steps : int, default 1500
        Steps of Adam a fit.
    hidden : sequence of int, default (128, 128, 128)
        Widths of the hidden layers of each direction's `TimeMLP`.
    batch_size : int, default 256
        Pairs a step.
    lr : float, default 2e-3
        Learning rate; it falls to a hundredth along a cosine in each fit.
    n_sde_steps : int, default 100
        Euler-Maruyama steps from end to end, for new pairs and for what users draw.
    n_pairs : int, default 10_000
        Pairs simulated for a fit, at most; no more than the rows of the cloud they start from.
    initial_coupling : {"independent", "minibatch-ot", "paired"}, default "independent"
        How rows of `X` and `Y` are paired at first: at random, by optimal assignment inside each
        batch, or row by row as given.
    ema : float or None, default 0.999
        Decay of the moving average of parameters that is used to simulate.
    device : str or torch.device, default "cpu"
        Where the networks live.
    callback : callable, optional
        Called after each step as ``callback(state)`` with ``state.round`` (from 1),
        ``state.direction``, ``state.step``, ``state.n_steps`` and ``state.loss``; StopIteration
        ends the fit of that direction and round.
    checkpoint : path, optional
        Start of the names of files, one a round and direction, that an interrupted `fit` goes on
        from: the same call again gives bit by bit what it would have given. A larger `n_iter` goes
        on from a finished fit.
    checkpoint_every : int, default 500
        Steps between two writes.
    rng : None, int or torch.Generator, default None
        Source of everything random; also of the draws of methods that get no `rng`.

    Attributes
    ----------
    forward_network_, backward_network_ : TimeMLP
        Drifts in normalised coordinates, each in the clock of its own direction.
    mean0_, mean1_ : array (d,)
        Means of the clouds.
    scale_ : float
        Their common spread.
    history_ : list of dict
        For each fit ``"round"``, ``"direction"`` and ``"losses"``, the loss of each step.
    n_features_in_ : int
        Columns d of `X` and `Y`.

    References
    ----------
    "Diffusion Schrödinger Bridge Matching" (2023), arXiv 2303.16852, Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(500, 2)), rng.normal(3.0, 0.5, size=(400, 2))
    >>> model = BridgeMatching(epsilon=0.5, n_steps=100, hidden=(32,), rng=0).fit(X, Y)
    >>> model.transform(X).shape, model.sample_path(X, 10).shape
    ((500, 2), (11, 500, 2))
    >>> bool(np.allclose(model.transform(X).mean(axis=0), 3.0, atol=0.3))
    True
    """

    def __init__(
        self,
        epsilon: float = 1.0,
        *,
        n_iter: int = 1,
        n_steps: int = 1500,
        hidden: Sequence[int] = (128, 128, 128),
        batch_size: int = 256,
        lr: float = 2e-3,
        n_sde_steps: int = 100,
        n_pairs: int = 10_000,
        initial_coupling: str = "independent",
        ema: float | None = 0.999,
        device: Any = "cpu",
        callback: Callable[[Any], Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 500,
        rng: Any = None,
    ) -> None:
        self.epsilon = epsilon
        self.n_iter = n_iter
        self.n_steps = n_steps
        self.hidden = hidden
        self.batch_size = batch_size
        self.lr = lr
        self.n_sde_steps = n_sde_steps
        self.n_pairs = n_pairs
        self.initial_coupling = initial_coupling
        self.ema = ema
        self.device = device
        self.callback = callback
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.rng = rng

    def fit(self, X: ArrayLike, Y: ArrayLike) -> BridgeMatching:
        """Learn the processes between the law of `X` and the law of `Y`, in both directions.

        Parameters
        ----------
        X : array_like (n, d)
            Points at time 0.
        Y : array_like (m, d)
            Points at time 1; paired with those of `X` only if ``initial_coupling="paired"``.

        Returns
        -------
        BridgeMatching

        Raises
        ------
        ValueError
            If a parameter or an array is not as stated, or a checkpoint is of another
            configuration or of other data.
        FloatingPointError
            If the loss or a simulated point leaves the finite numbers.
        """
        X, Y = check_clouds(X, Y)
        if check_option("initial_coupling", self.initial_coupling, COUPLINGS) == "paired" and len(
            X
        ) != len(Y):
            raise ValueError(
                f"X and Y must have the same number of rows when paired, got {len(X)} and {len(Y)}"
            )
        epsilon = check_real("epsilon", self.epsilon, above=0)
        n_iter = check_count("n_iter", self.n_iter)
        check_count("batch_size", self.batch_size)
        check_count("n_sde_steps", self.n_sde_steps)
        n_pairs = check_count("n_pairs", self.n_pairs)
        generator = torch_generator(self.rng, self.device)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        initial = torch.Generator().manual_seed(seed)
        d = X.shape[1]
        learning = {
            direction: TimeMLP(d, hidden=self.hidden, rng=initial).to(self.device)
            for direction in DIRECTIONS
        }
        self.mean0_, self.mean1_, self.scale_ = X.mean(0), Y.mean(0), common_spread(X, Y)
        self.n_features_in_ = d
        config = self._config(X, Y)
        ends = {"forward": self._inward(X, 0.0), "backward": self._inward(Y, 1.0)}
        reference = BrownianReference(epsilon / self.scale_**2)
        coupling: str = self.initial_coupling
        trained: dict[str, Any] = {}
        pairs, self.history_ = (ends["forward"], ends["backward"]), []
        for number in range(1, n_iter + 1):
            for direction in DIRECTIONS:
                opposite = DIRECTIONS[1 - DIRECTIONS.index(direction)]
                if number > 1:
                    some = some_rows(ends[opposite], n_pairs, generator)
                    others = simulate(
                        trained[opposite], some, reference.epsilon, self.n_sde_steps, generator
                    )
                    coupling = "paired"
                    pairs = (others, some) if direction == "forward" else (some, others)
                start_end = pairs if direction == "forward" else pairs[::-1]
                loss = DriftLoss(
                    learning[direction], *start_end, reference, coupling, self.batch_size
                )
                (trained[direction],), losses = train(
                    learning[direction],
                    loss,
                    n_steps=self.n_steps,
                    lr=self.lr,
                    ema=self.ema,
                    callback=placed(self.callback, round=number, direction=direction),
                    rng=generator,
                    checkpoint=self.checkpoint
                    and f"{os.fspath(self.checkpoint)}.{number}-{direction}",
                    checkpoint_every=self.checkpoint_every,
                    config={**config, "round": number, "direction": direction},
                )
                self.history_.append({"round": number, "direction": direction, "losses": losses})
        self.forward_network_, self.backward_network_ = trained["forward"], trained["backward"]
        return self

    def transform(self, X: ArrayLike, *, n_steps: int | None = None, rng: Any = None) -> Floats:
        """Carry each row of `X` from time 0 to time 1, along a random path.

        Parameters
        ----------
        X : array_like (n, d)
            Points at time 0.
        n_steps : int, optional
            Network calls; None is `n_sde_steps`.
        rng : None, int or torch.Generator
            Source of randomness; None is the estimator's own, so that an estimator made with an int
            gives the same draw each time.

        Returns
        -------
        array (n, d)
        """
        return self._run("X", X, "forward", n_steps, rng, keep=False)

    def inverse_transform(
        self, Y: ArrayLike, *, n_steps: int | None = None, rng: Any = None
    ) -> Floats:
        """Carry each row of `Y` from time 1 to time 0, along a random path; as `transform`."""
        return self._run("Y", Y, "backward", n_steps, rng, keep=False)

    def sample_path(
        self,
        X: ArrayLike,
        n_steps: int | None = None,
        *,
        direction: str = "forward",
        rng: Any = None,
    ) -> Floats:
        """Simulate the process from the rows of `X` by Euler-Maruyama on a uniform grid.

        Parameters
        ----------
        X : array_like (n, d)
            Points at time 0, or at time 1 with ``direction="backward"``.
        n_steps : int, optional
            Steps; None is `n_sde_steps`.
        direction : {"forward", "backward"}, default "forward"
            Which way to go.
        rng : None, int or torch.Generator
            Source of randomness; None is the estimator's own.

        Returns
        -------
        array (n_steps + 1, n, d)
            States in the order in which they were passed.
        """
        check_option("direction", direction, DIRECTIONS)
        return self._run("X", X, direction, n_steps, rng, keep=True)

    def drift(self, t: Any, x: Any) -> Any:
        """Return the drift of the forward process, ``E[(x1 - x) / (1 - t)]`` given ``X_t = x``.

        Parameters
        ----------
        t : float or array (n,)
            Times in [0, 1]; later ones than 0.999 count as that.
        x : array_like or tensor (n, d)
            Points.

        Returns
        -------
        array or tensor (n, d)
            Displacement per unit of time; a tensor where `x` is one.
        """
        return self._drift("forward", t, x)

    def backward_drift(self, t: Any, x: Any) -> Any:
        """Return ``E[(x - x0) / t]`` given ``X_t = x``, the drift of the process run down in time.

        It is what `sdeint` takes with ``t0=1, t1=0``; the arguments are those of `drift`, and times
        before 0.001 count as that.
        """
        return self._drift("backward", t, x)

    def velocity(self, t: Any, x: Any) -> Any:
        """Return the velocity of the flow with the same marginals, the mean of both drifts."""
        return (self.drift(t, x) + self.backward_drift(t, x)) / 2

    def score(self, t: Any, x: Any) -> Any:
        """Return the gradient of the log-density at time `t`, the drifts' difference over epsilon.

        Both directions must describe one process, as they do for the pairs that both learn from.
        """
        return (self.drift(t, x) - self.backward_drift(t, x)) / self.epsilon

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _run(
        self,
        name: str,
        Z: ArrayLike,
        direction: str,
        n_steps: int | None,
        rng: Any,
        keep: bool,
    ) -> Floats:
        check_is_fitted(self, "forward_network_")
        Z = check_array(name, Z, shape=(None, self.n_features_in_))
        n_steps = check_count("n_steps", self.n_sde_steps if n_steps is None else n_steps)
        forward = direction == "forward"
        path = simulate(
            self.forward_network_ if forward else self.backward_network_,
            self._inward(Z, 0.0 if forward else 1.0),
            self.epsilon / self.scale_**2,
            n_steps,
            torch_generator(self.rng if rng is None else rng, self.device),
            keep,
        )
        times = np.linspace(0, 1, n_steps + 1)[:, None, None] if keep else 1.0
        return self.scale_ * path.cpu().double().numpy() + self._centre(
            times if forward else 1 - times
        )

    def _drift(self, direction: str, t: Any, x: Any) -> Any:
        check_is_fitted(self, "forward_network_")
        tensor = is_torch_tensor(x)
        if not tensor:
            x = torch.from_numpy(check_array("x", x, shape=(None, self.n_features_in_)))
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        if bool((t < 0).any()) or bool((t > 1).any()):
            raise ValueError(f"t must lie in [0, 1], got {t}")
        forward = direction == "forward"
        network = self.forward_network_ if forward else self.backward_network_
        clock = (t if forward else 1 - t).clamp(max=LAST_TIME)
        mean0, mean1 = (torch.from_numpy(m).to(x) for m in (self.mean0_, self.mean1_))
        column = t.reshape(-1, 1)
        inside = (x - (1 - column) * mean0 - column * mean1) / self.scale_
        with torch.set_grad_enabled(tensor and torch.is_grad_enabled()):
            value = network(clock.to(self.device).float(), inside.to(self.device).float()).to(x)
        value = mean1 - mean0 + (self.scale_ if forward else -self.scale_) * value
        return value if tensor else value.numpy()

    def _centre(self, t: Any) -> Floats:
        return np.asarray((1 - t) * self.mean0_ + t * self.mean1_)

    def _inward(self, Z: Floats, t: float) -> torch.Tensor:
        inside = torch.from_numpy((Z - self._centre(t)) / self.scale_)
        return inside.to(self.device, torch.float32)

    def _config(self, X: Floats, Y: Floats) -> dict[str, Any]:
        if self.checkpoint is None:
            return {}
        return {
            "estimator": type(self).__name__,
            "epsilon": float(self.epsilon),
            "batch_size": int(self.batch_size),
            "n_sde_steps": int(self.n_sde_steps),
            "n_pairs": int(self.n_pairs),
            "initial_coupling": self.initial_coupling,
            "rng": self.rng if isinstance(self.rng, int) else None,
            "data": fingerprint(X, Y),
        }

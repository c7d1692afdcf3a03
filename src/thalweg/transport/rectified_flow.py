"""Transport of one cloud of points to another at least cost, by flows made straight in turns.

Join points of both clouds by straight lines and regress the lines' velocity on place and time: the
flow along it has the same law at every time, whatever the pairs were, and moves no farther. With a
velocity that is the gradient of a potential, seen through the conjugate of a convex cost, the pairs
that the flow makes get cheaper until they are optimal for that cost, and the loss of each fit says
how much the cost falls at least.

Chosen here: both clouds are centred at their means and divided by their common spread; the network
is added to the potential of that translation; times of a batch are stratified; rows held out from
the fit measure costs and losses.

Source: "Rectified Flow: A Marginal Preserving Approach to Optimal Transport" (2022), arXiv
2209.14577, sections 3 and 4.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from thalweg._torch import torch, torch_generator
from thalweg._validation import (
    check_array,
    check_count,
    check_option,
    check_real,
    is_torch_tensor,
)
from thalweg.transport._clouds import check_clouds, common_spread
from thalweg.transport._couplings import draw_pairs, some_rows
from thalweg.transport._rectified_fields import (
    Field,
    FreeField,
    MatchingLoss,
    PotentialField,
    carry,
    departure_from_lines,
    matching_excess,
)
from thalweg.transport._training import fingerprint, placed
from thalweg.transport.convex_costs import ConvexCost, NormCost, PowerCost, convex_cost
from thalweg.transport.convex_costs import QuadraticCost as QuadraticCost
from thalweg.transport.networks import TimeMLP, train

Floats: TypeAlias = NDArray[np.float64]

METHODS = ("euler", "heun", "rk4")
"""Fixed steps alone: for costs above the square the velocity has infinite slopes."""
MOST_HELD_OUT = 2000
LOSS_TIMES = 20
"""Times at which the matching loss of held-out rows is taken."""
SPREAD_PAIRS = 4096


class RectifiedFlow(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Map from one cloud to another that keeps the laws and lowers the cost of moving.

    Each iteration fits ``f`` on pairs (X0, X1), with ``X_t = (1-t) X0 + t X1``, to the least
    ``int_0^1 E[c*(grad f(X_t, t)) - (X1-X0).grad f(X_t, t) + c(X1-X0)] dt`` and replaces X1 by the
    end of ``Z' = grad c*(grad f(Z, t))``, ``Z_0 = X0``. That least value, the matching loss, is
    zero for optimal pairs, and the cost falls by at least as much.

    Parameters
    ----------
    cost : None, str, tuple or object, optional
        Cost of a displacement, as `convex_cost` takes it: ``"sqeuclidean"``, ``("power", p)``,
        ``("norm", p)``, ``("quadratic", A)`` or an object. None is the plain rectified flow, whose
        velocity is the mean ``E[X1 - X0 | X_t]``: it lowers all convex costs and is optimal for
        none; its costs and losses are those of ``|x|^2 / 2``.
    n_iter : int, default 1
        Iterations: fits, each on the pairs that the one before made.
    n_steps : int, default 500
        Steps of Adam a fit.
    hidden : sequence of int, default (64, 64)
        Widths of the hidden layers.
    batch_size : int, default 512
        Pairs a step.
    lr : float, default 5e-3
        Learning rate at the start of a fit.
    schedule : {"cosine", "constant"} or callable, default "cosine"
        Course of the learning rate, as in `thalweg.transport.networks.train`.
    n_pairs : int or None, default 10_000
        Rows of `X` carried along the flow to make the next pairs, at most. None carries new ones
        for each batch, which costs `n_ode_steps` evaluations a step.
    n_ode_steps : int, default 50
        Steps of the flow from end to end.
    method : {"heun", "euler", "rk4"}, default "heun"
        Rule of a step.
    warm_start_potential : bool, default True
        Whether a fit starts from the weights of the one before.
    validation_fraction : float, default 0.1
        Share of the rows held out from the fits to measure costs and losses, 2000 at most.
    device : str or torch.device, default "cpu"
        Where the network lives.
    callback : callable, optional
        Called after each step as ``callback(state)`` with ``state.round`` (the iteration, from 1),
        ``state.step``, ``state.n_steps`` and ``state.loss``; StopIteration ends the fit of that
        iteration.
    checkpoint : path, optional
        Start of the names of files, one an iteration, that an interrupted `fit` goes on from: the
        same call again gives bit by bit what it would have given. A larger `n_iter` goes on from a
        finished fit.
    checkpoint_every : int, default 500
        Steps between two writes.
    rng : None, int or torch.Generator, default None
        Source of everything random.

    Attributes
    ----------
    network_ : TimeMLP
        Of the last flow, in normalised coordinates: potential (one column) or velocity.
    costs_ : array (n_iter + 1,)
        Mean cost of the pairs at the start and after each iteration, on held-out rows.
    cost_errors_ : array (n_iter + 1,)
        Their standard errors.
    losses_ : array (n_iter,)
        Matching loss of each fit on held-out rows of the pairs that it was fitted to: how far from
        optimal these pairs were at least, up to the error of the fit.
    straightness_ : array (n_iter,)
        ``E int |Z_1 - Z_0 - v(Z_t, t)|^2 dt`` of each flow, in squared units of the data; 0 where
        points move straight at constant speed.
    couplings_ : tuple of array (m, d)
        Held-out rows of `X` and where the last flow carries them.
    history_ : list of array (n_steps,)
        Training loss of each step, for each iteration, in units of the normalised data.
    mean0_, mean1_ : array (d,)
        Means of the clouds.
    scale_ : float
        Their common spread.
    n_features_in_ : int
        Columns d of `X` and `Y`.

    References
    ----------
    "Rectified Flow: A Marginal Preserving Approach to Optimal Transport" (2022), arXiv 2209.14577,
    sections 3 and 4.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(1000, 2)), rng.normal(3.0, 0.5, size=(800, 2))
    >>> model = RectifiedFlow("sqeuclidean", n_steps=100, n_ode_steps=10, rng=0).fit(X, Y)
    >>> model.transform(X).shape, bool(model.costs_[1] < model.costs_[0])
    ((1000, 2), True)
    >>> bool(np.allclose(model.transform([[1.0, 0.0]]), [[3.5, 3.0]], atol=0.2))
    True
    """

    def __init__(
        self,
        cost: Any = None,
        *,
        n_iter: int = 1,
        n_steps: int = 500,
        hidden: Sequence[int] = (64, 64),
        batch_size: int = 512,
        lr: float = 5e-3,
        schedule: Any = "cosine",
        n_pairs: int | None = 10_000,
        n_ode_steps: int = 50,
        method: str = "heun",
        warm_start_potential: bool = True,
        validation_fraction: float = 0.1,
        device: Any = "cpu",
        callback: Callable[[Any], Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 500,
        rng: Any = None,
    ) -> None:
        self.cost = cost
        self.n_iter = n_iter
        self.n_steps = n_steps
        self.hidden = hidden
        self.batch_size = batch_size
        self.lr = lr
        self.schedule = schedule
        self.n_pairs = n_pairs
        self.n_ode_steps = n_ode_steps
        self.method = method
        self.warm_start_potential = warm_start_potential
        self.validation_fraction = validation_fraction
        self.device = device
        self.callback = callback
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.rng = rng

    def fit(self, X: ArrayLike, Y: ArrayLike, *, paired: bool = False) -> RectifiedFlow:
        """Learn the flow from the law of `X` to the law of `Y`.

        Parameters
        ----------
        X : array_like (n, d)
            Points at time 0.
        Y : array_like (m, d)
            Points at time 1.
        paired : bool, default False
            Whether row i of `X` and row i of `Y` are a pair of the coupling to start from; else it
            is the independent one.

        Returns
        -------
        RectifiedFlow

        Raises
        ------
        TypeError, ValueError
            If a parameter or an array is not as stated, or a checkpoint is of another
            configuration or of other data.
        FloatingPointError
            If the loss leaves the finite numbers, or a carried point, then with the iteration and
            the time.
        """
        X, Y = check_clouds(X, Y)
        if paired and len(X) != len(Y):
            raise ValueError(
                f"X and Y must have the same number of rows when paired, got {len(X)} and {len(Y)}"
            )
        d = X.shape[1]
        cost = None if self.cost is None else convex_cost(self.cost, d)
        n_iter = check_count("n_iter", self.n_iter)
        check_count("batch_size", self.batch_size)
        if self.n_pairs is not None:
            check_count("n_pairs", self.n_pairs)
        check_count("n_ode_steps", self.n_ode_steps)
        check_option("method", self.method, METHODS)
        check_real("validation_fraction", self.validation_fraction, above=0, below=1)
        generator = torch_generator(self.rng, self.device)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        initial = torch.Generator().manual_seed(seed)
        network = self._new_network(d, cost, initial)
        self.mean0_, self.mean1_ = X.mean(0), Y.mean(0)
        self.scale_ = common_spread(X, Y)
        self.n_features_in_ = d
        config = self._config(X, Y, cost, paired)
        (start, end), held = self._split(
            self._inward(X, 0.0), self._inward(Y, 1.0), paired, initial
        )
        coupling = "paired" if paired else "independent"
        u0, u1 = draw_pairs(start, end, SPREAD_PAIRS, coupling, generator)
        field = self._field(network, cost, u1 - u0)
        some, carry_over = start, None
        made: torch.Tensor | None = end
        measure = convex_cost("sqeuclidean") if cost is None else cost
        costs, losses, straightness = [self._cost(measure, *held)], [], []
        self.history_ = []
        for number in range(1, n_iter + 1):
            if number > 1 and not self.warm_start_potential:
                field.network = self._new_network(d, cost, initial)
            _, training_losses = train(
                field.network,
                MatchingLoss(field, some, made, coupling, self.batch_size, carry_over),
                n_steps=self.n_steps,
                lr=self.lr,
                schedule=self.schedule,
                callback=placed(self.callback, round=number),
                rng=generator,
                checkpoint=self.checkpoint and f"{os.fspath(self.checkpoint)}.{number}",
                checkpoint_every=self.checkpoint_every,
                config={**config, "round": number},
            )
            self.history_.append(training_losses)
            losses.append(matching_excess(field, *held, LOSS_TIMES))
            path = self._carried(field, number, held[0], keep=True)
            straightness.append(departure_from_lines(field, path))
            held = (held[0], path[-1])
            costs.append(self._cost(measure, *held))
            if number < n_iter:
                coupling = "paired"
                if self.n_pairs is None:
                    carry_over = self._carrier(copy.deepcopy(field), number)
                    made = None
                else:
                    some = some_rows(start, self.n_pairs, generator)
                    made = self._carried(field, number, some)
        self._field_, self.network_ = field, field.network
        self.costs_, self.cost_errors_ = (np.array(values) for values in zip(*costs, strict=True))
        self.losses_, self.straightness_ = np.array(losses), np.array(straightness)
        self.couplings_ = (self._outward(held[0], 0.0), self._outward(held[1], 1.0))
        return self

    def transform(self, X: ArrayLike, *, n_steps: int | None = None) -> Floats:
        """Carry each row of `X` from time 0 to time 1.

        Parameters
        ----------
        X : array_like (n, d)
            Points at time 0.
        n_steps : int, optional
            Steps of the flow; None is `n_ode_steps`.

        Returns
        -------
        array (n, d)
        """
        return self._run("X", X, n_steps)

    def inverse_transform(self, Y: ArrayLike, *, n_steps: int | None = None) -> Floats:
        """Carry each row of `Y` from time 1 to time 0; as `transform`."""
        return self._run("Y", Y, n_steps, backward=True)

    def sample_path(
        self, X: ArrayLike, n_steps: int | None = None, *, direction: str = "forward"
    ) -> Floats:
        """Return the way of each row along the flow, at the times of a uniform grid.

        Parameters
        ----------
        X : array_like (n, d)
            Points at time 0, or at time 1 with ``direction="backward"``.
        n_steps : int, optional
            Steps; None is `n_ode_steps`.
        direction : {"forward", "backward"}, default "forward"
            Which way to go.

        Returns
        -------
        array (n_steps + 1, n, d)
            Places in the order in which they are passed.
        """
        check_option("direction", direction, ["forward", "backward"])
        return self._run("X", X, n_steps, backward=direction == "backward", keep=True)

    def one_step(self, X: ArrayLike) -> Floats:
        """Carry each row of `X` by one evaluation: ``X + velocity(0, X)``.

        It is the map itself where the flow is straight, as `straightness_` tells.
        """
        check_is_fitted(self, "network_")
        X = check_array("X", X, shape=(None, self.n_features_in_))
        return np.asarray(X + self.velocity(0.0, X))

    def velocity(self, t: Any, x: Any) -> Any:
        """Return the velocity of the flow: ``grad c*(grad f(x, t))``, or the learned mean.

        Parameters
        ----------
        t : float or array (n,)
            Times in [0, 1].
        x : array_like or tensor (n, d)
            Points.

        Returns
        -------
        array or tensor (n, d)
            Displacement per unit of time; a tensor where `x` is one, with gradients where enabled.
        """
        check_is_fitted(self, "network_")

        def moving(clock: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
            return self._field_.velocity(clock, inside) * self.scale_ + self._shift(inside)

        return self._evaluate(moving, t, x)

    @available_if(lambda self: self.cost is not None)
    def potential(self, t: Any, x: Any) -> Any:
        """Return the potential f, up to a function of time alone, as (n,).

        The arguments are those of `velocity`. Only with a cost.
        """
        check_is_fitted(self, "network_")
        field = cast(PotentialField, self._field_)
        return self._evaluate(field.potential, t, x)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _new_network(
        self, d: int, cost: ConvexCost | None, generator: torch.Generator
    ) -> torch.nn.Module:
        columns = d if cost is None else 1
        network = TimeMLP(d, columns, hidden=self.hidden, zero_init=True, rng=generator)
        return network.to(self.device)

    def _field(
        self, network: torch.nn.Module, cost: ConvexCost | None, moves: torch.Tensor
    ) -> Field:
        if cost is None:
            return FreeField(network, self.scale_)
        return PotentialField(network, cost, self._shift(moves), self.scale_, moves)

    def _split(
        self, u0: torch.Tensor, u1: torch.Tensor, paired: bool, generator: torch.Generator
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """Return rows to learn from and as many pairs held out; a single row serves as both."""
        share = self.validation_fraction
        m = min(max(1, round(share * len(u))) for u in (u0, u1))
        m = min(m, MOST_HELD_OUT)
        order0 = torch.randperm(len(u0), generator=generator).to(u0.device)
        order1 = order0 if paired else torch.randperm(len(u1), generator=generator).to(u1.device)
        learnt = tuple(u[order[m:] if len(u) > m else order]
                       for u, order in ((u0, order0), (u1, order1)))  # fmt: skip
        return (learnt[0], learnt[1]), (u0[order0[:m]], u1[order1[:m]])

    def _cost(self, cost: ConvexCost, u0: torch.Tensor, u1: torch.Tensor) -> tuple[float, float]:
        """Return the mean cost of pairs and its standard error."""
        moved = self._shift(u0).double() + self.scale_ * (u1.double() - u0.double())
        values = cost.cost(moved)
        return float(values.mean()), float(values.std(correction=0)) / len(values) ** 0.5

    def _carried(
        self, field: Field, number: int, u: torch.Tensor, keep: bool = False
    ) -> torch.Tensor:
        try:
            return carry(field, u, self.method, self.n_ode_steps, keep=keep)
        except FloatingPointError as error:
            raise FloatingPointError(f"iteration {number}: {error}") from error

    def _carrier(self, field: Field, number: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda u: self._carried(field, number, u)

    def _run(
        self,
        name: str,
        Z: ArrayLike,
        n_steps: int | None,
        backward: bool = False,
        keep: bool = False,
    ) -> Floats:
        check_is_fitted(self, "network_")
        Z = check_array(name, Z, shape=(None, self.n_features_in_))
        n_steps = check_count("n_steps", self.n_ode_steps if n_steps is None else n_steps)
        inside = self._inward(Z, 1.0 if backward else 0.0)
        moved = carry(self._field_, inside, self.method, n_steps, backward=backward, keep=keep)
        times = np.linspace(0, 1, n_steps + 1)[:, None, None] if keep else 1.0
        return self._outward(moved, 1 - times if backward else times)

    def _evaluate(self, function: Callable[..., torch.Tensor], t: Any, x: Any) -> Any:
        tensor = is_torch_tensor(x)
        if not tensor:
            x = torch.from_numpy(check_array("x", x, shape=(None, self.n_features_in_)))
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        if not bool(((t >= 0) & (t <= 1)).all()):
            raise ValueError(f"t must lie in [0, 1], got {t}")
        mean0, mean1 = (torch.from_numpy(m).to(x) for m in (self.mean0_, self.mean1_))
        inside = (x - torch.lerp(mean0, mean1, t.reshape(-1, 1))) / self.scale_
        with torch.set_grad_enabled(tensor and torch.is_grad_enabled()):
            value = function(t.to(self.device).float(), inside.to(self.device).float()).to(x)
        return value if tensor else value.detach().numpy()

    def _shift(self, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.mean1_ - self.mean0_).to(like)

    def _inward(self, Z: Floats, t: float) -> torch.Tensor:
        inside = torch.from_numpy((Z - self._centre(t)) / self.scale_)
        return inside.to(self.device, torch.float32)

    def _outward(self, u: torch.Tensor, t: Any) -> Floats:
        return np.asarray(self.scale_ * u.cpu().double().numpy() + self._centre(t))

    def _centre(self, t: Any) -> Floats:
        return np.asarray((1 - t) * self.mean0_ + t * self.mean1_)

    def _config(
        self, X: Floats, Y: Floats, cost: ConvexCost | None, paired: bool
    ) -> dict[str, Any]:
        if self.checkpoint is None:
            return {}
        shipped = cost is None or isinstance(cost, (PowerCost, NormCost, QuadraticCost))
        return {
            "estimator": type(self).__name__,
            "cost": repr(cost) if shipped else type(self.cost).__qualname__,
            "paired": bool(paired),
            "batch_size": int(self.batch_size),
            "n_pairs": self.n_pairs,
            "n_ode_steps": int(self.n_ode_steps),
            "method": self.method,
            "warm_start_potential": bool(self.warm_start_potential),
            "validation_fraction": float(self.validation_fraction),
            "rng": self.rng if isinstance(self.rng, int) else None,
            "data": fingerprint(X, Y),
        }


def optimality_gap_bound(initial_cost: float, K: int) -> float:
    """Return the bound ``E c(X1 - X0) / K`` on the least matching loss of K iterations.

    Each iteration lowers the cost by at least its loss and no cost is negative, so the smallest of
    K losses is at most a K-th of the cost at the start.

    Parameters
    ----------
    initial_cost : float
        Mean cost of the pairs that the first iteration starts from.
    K : int
        Iterations.

    Returns
    -------
    float

    References
    ----------
    "Rectified Flow: A Marginal Preserving Approach to Optimal Transport" (2022), arXiv 2209.14577,
    section 4.

    Examples
    --------
    >>> optimality_gap_bound(2.0, 8)
    0.25
    """
    return check_real("initial_cost", initial_cost, at_least=0) / check_count("K", K)

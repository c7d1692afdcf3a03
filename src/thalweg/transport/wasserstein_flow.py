"""Steepest descent of a functional of a distribution, by maps that apply to new points too.

Give particles and what to lower: the divergence from an unnormalised density (sampling), the
divergence from a second sample (noise to data) or an entropy (a diffusion equation). Each step of
Jordan, Kinderlehrer and Otto (JKO) is a transport map. Functionals of the density are written as a
maximum over functions, so that mini-batches of particles are all a step needs: its cost does not
depend on how many there are.

Chosen here: both networks see points in the coordinates of the current cloud (mean 0, unit
covariance), have a linear (the map) or quadratic (the witness) part beside the perceptron, and use
SiLU instead of PReLU; learning rates start at 2e-3 and fall to a hundredth within each step; the
convex map has a trainable quadratic part and starts at the identity, so that it is not pretrained.

Source: "Variational Wasserstein gradient flow" (2021), arXiv 2112.02424, Algorithm 1.
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
from thalweg._validation import (
    check_array,
    check_count,
    check_option,
    check_real,
    is_torch_tensor,
)
from thalweg.transport._clouds import check_clouds
from thalweg.transport._flow_networks import CONVEXITY, MAPS, ConvexMap, Frame, ResidualMap
from thalweg.transport._jko_step import (
    JKOStep,
    check_log_density,
    stage_file,
    step_sizes,
    with_place,
)
from thalweg.transport._training import fingerprint
from thalweg.transport.variational_energies import (
    ENERGIES,
    Draw,
    Energy,
    PositiveFunction,
    SampleReference,
    child_generator,
    estimate,
    moments,
    new_energy,
    new_witness,
    pooled_frame,
)

Floats: TypeAlias = NDArray[np.float64]
ENERGY_ROWS = 10_000
"""Points of either distribution, at most, that an entry of `energies_` is estimated from."""
BLOCK = 65_536
"""Rows that pass a map at once."""


class WassersteinGradientFlow(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Gradient flow of a functional F of distributions, in JKO steps learned from samples.

    Step k takes the law P_k of the particles to ``T_k # P_k``, where T_k minimises
    ``E|T(x) - x|^2 / (2 step_size) + F(T # P_k)``. As `step_size` falls this becomes the flow in
    time, of which `n_jko` steps cover ``n_jko * step_size``.

    Parameters
    ----------
    energy : str, default "kl_density"
        F. ``"kl_density"``: Kullback-Leibler divergence from the law with density proportional to
        ``exp(log_density)``, up to a constant; its flow is that of Langevin diffusion.
        ``"kl_samples"``: Kullback-Leibler divergence from the law of `Y`. ``"js_samples"``: twice
        the Jensen-Shannon divergence from the law of `Y`; ``"gan_samples"``: that less 2 log 2.
        ``"porous"``: ``int P^m / (m - 1)``; its flow is the porous medium equation.
    log_density : callable, optional
        For ``"kl_density"``: maps a float32 tensor (n, d) to (n,), differentiable by torch.
    m : float, default 2.0
        Exponent of ``"porous"``, above 1.
    step_size : float, default 0.1
        a, in units of time of the flow (squared units of the data over units of F).
    n_jko : int, default 20
        JKO steps.
    n_steps : int, default 60
        Rounds of training in each; 0 leaves the identity.
    n_inner, n_outer : int, default 3 and 2
        Updates of the witness h, then of the map T, in a round.
    hidden : sequence of int, default (64, 64)
        Widths of the hidden layers of both networks.
    map : {"residual", "icnn"}, default "residual"
        Form of T: identity plus a network, or the gradient of an input-convex network.
    convexity : {"projection", "penalty"}, default "projection"
        How the weights of ``"icnn"`` are kept non-negative.
    positivity : {"exp", "softplus", "smooth"}, default "exp"
        How h is kept positive, for the ``"kl_*"`` and ``"porous"`` energies: exp(u), softplus(u)
        or exp(sigmoid(u)) - 1. The last is at most e - 1, so it understates larger ratios.
    dv : bool, default False
        Use the form of Donsker and Varadhan; only for the ``"kl_*"`` energies.
    crank_nicolson : bool, default False
        Weight the first variation of F at the step's end and at its start half each.
    base_sampler : callable, optional
        ``base_sampler(n, generator)`` gives n fresh points of P_0 as a tensor (n, d). Batches are
        then new points pushed through the maps so far, instead of rows of the particles, which are
        still needed for their moments.
    batch_size : int, default 512
        Points a batch.
    lr : float, default 2e-3
        Learning rate of both networks at the start of a step.
    step_schedule : callable or sequence of float, optional
        Factors of `step_size`: of step k (from 0) ``step_schedule(k)`` or its entry k.
    device : torch device, default "cpu"
        Where the networks are trained and run.
    callback : callable, optional
        Called as ``callback(state)`` after each round, with ``state.jko_step`` (0 while the witness
        is trained before the first step), ``state.n_jko``, ``state.step``, ``state.n_steps`` and
        ``state.loss``; raising StopIteration ends the fit after the map in progress.
    checkpoint : path, optional
        Stem of the files that the stages are kept in (``<checkpoint>.0``, ``.1``, ...); a fit that
        was interrupted goes on from them.
    checkpoint_every : int, default 500
        Rounds between two writes.
    rng : None, int or torch.Generator, default None
        Source of the initial weights and the batches.

    Attributes
    ----------
    maps_ : list of torch.nn.Module
        T_0, T_1, ...
    particles_ : array (n, d)
        `X` pushed through all of them.
    energies_ : array (n_jko + 1,)
        Estimates of F(P_k), by the witness as it stood after step k. For ``"kl_density"`` they hold
        up to the log of the density's normaliser.
    w2_ : array (n_jko,)
        ``E|T_k(x) - x|^2`` over the particles, the squared distance that step k went.
    step_sizes_ : array (n_jko,)
        Step size of each.
    n_clamped_ : int
        Outputs of the witness that were cut at 15 during training, for ``positivity="exp"``.
    n_features_in_ : int
        Columns d of `X`.

    References
    ----------
    "Variational Wasserstein gradient flow" (2021), arXiv 2112.02424, Algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(2000, 1))
    >>> flow = WassersteinGradientFlow(
    ...     log_density=lambda y: -((y[:, 0] - 2) ** 2) / 2, step_size=0.5, n_jko=1, rng=0
    ... ).fit(X)
    >>> bool(abs(flow.particles_.mean() - 2 / 3) < 0.1)  # (0 / 0.5 + 2) / (1 / 0.5 + 1)
    True
    >>> flow.transform(X[:5]).shape, flow.path(X[:5]).shape
    ((5, 1), (2, 5, 1))
    """

    def __init__(
        self,
        energy: str = "kl_density",
        *,
        log_density: Callable[[torch.Tensor], torch.Tensor] | None = None,
        m: float = 2.0,
        step_size: float = 0.1,
        n_jko: int = 20,
        n_steps: int = 60,
        n_inner: int = 3,
        n_outer: int = 2,
        hidden: Sequence[int] = (64, 64),
        map: str = "residual",
        convexity: str = "projection",
        positivity: str = "exp",
        dv: bool = False,
        crank_nicolson: bool = False,
        base_sampler: Draw | None = None,
        batch_size: int = 512,
        lr: float = 2e-3,
        step_schedule: Callable[[int], float] | Sequence[float] | None = None,
        device: Any = "cpu",
        callback: Callable[[Any], Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 500,
        rng: Any = None,
    ) -> None:
        self.energy = energy
        self.log_density = log_density
        self.m = m
        self.step_size = step_size
        self.n_jko = n_jko
        self.n_steps = n_steps
        self.n_inner = n_inner
        self.n_outer = n_outer
        self.hidden = hidden
        self.map = map
        self.convexity = convexity
        self.positivity = positivity
        self.dv = dv
        self.crank_nicolson = crank_nicolson
        self.base_sampler = base_sampler
        self.batch_size = batch_size
        self.lr = lr
        self.step_schedule = step_schedule
        self.device = device
        self.callback = callback
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.rng = rng

    def fit(self, X: ArrayLike, Y: ArrayLike | None = None) -> WassersteinGradientFlow:
        """Learn the maps of the flow that starts from the law of `X`.

        Parameters
        ----------
        X : array_like (n, d)
            Particles of P_0, at least two distinct ones.
        Y : array_like (m, d), optional
            Sample of the target, for the ``"*_samples"`` energies.

        Returns
        -------
        WassersteinGradientFlow

        Raises
        ------
        TypeError, ValueError
            If a parameter or an array is not as stated, `log_density` does not give finite (n,) at
            `X`, or a checkpoint is of another configuration.
        FloatingPointError
            If the objective leaves the finite numbers; it names the JKO step.
        """
        X, target = self._check_clouds(X, Y)
        sizes = self._check_parameters()
        config = self._config(X, target)
        generator = torch_generator(self.rng, self.device)
        initial = child_generator(generator)
        points = self._tensor(X)
        if self.energy == "kl_density":
            check_log_density(self.log_density, points)
        self.n_features_in_ = X.shape[1]
        self.maps_: list[Any] = []
        energies, moved = [], []
        frame, energy = self._frame_and_energy(points, target)
        witness = new_witness(X.shape[1], self.hidden, energy, initial).to(self.device)
        previous: tuple[Energy, Any] | None = None
        for number in range(self.n_jko + 1):
            if number:
                previous = (energy, copy.deepcopy(witness)) if self.crank_nicolson else None
                frame, energy = self._frame_and_energy(points, target)
            witness.frame = frame if target is None else self._pooled_frame(points, target)
            game = JKOStep(
                energy,
                witness,
                self._draw_from(points),
                step_size=sizes[max(number - 1, 0)],
                batch_size=self.batch_size,
                previous=previous,
            )
            flow_map = self._new_map(frame, initial) if number else None
            stopped = self._train(game, flow_map, number, generator, config)
            if flow_map is not None:
                self.maps_.append(flow_map.eval().requires_grad_(False))
                pushed = _push(flow_map, points)
                moved.append(float((pushed - points).double().square().sum(1).mean()))
                points = pushed
            energies.append(self._estimate(energy, witness, points, generator))
            if stopped():
                break
        self.witness_ = witness
        self.particles_ = points.cpu().double().numpy()
        self.energies_, self.w2_ = np.array(energies), np.array(moved)
        self.step_sizes_ = np.array(sizes[: len(moved)])
        self.n_clamped_ = int(witness.n_clamped)
        return self

    def transform(self, X: ArrayLike, n_jko: int | None = None) -> Floats:
        """Push points (n, d) through the first `n_jko` maps, all of them for None."""
        return self._push_through(X, n_jko)[-1]

    def path(self, X: ArrayLike) -> Floats:
        """Return points before and after each map, shape (n_jko + 1, n, d)."""
        return np.stack(self._push_through(X, None))

    def density_ratio(self, x: Any) -> Any:
        """Return the last h at points (n, d), as (n,): a tensor where `x` is one.

        After the last step k it approximates the ratio of the density of the particles to that of
        the energy's reference: to the Gaussian of the moments of P_(k-1) (``"kl_density"``), to the
        law of `Y` (the ``"*_samples"`` energies), to the uniform law on a box (``"porous"``).
        """
        check_is_fitted(self, "maps_")
        tensor = is_torch_tensor(x)
        points = x if tensor else torch.from_numpy(self._points("x", x))
        positive = PositiveFunction(
            self.positivity if self.energy not in ("js_samples", "gan_samples") else "exp"
        )
        with torch.inference_mode(not tensor):
            u = self.witness_(points.to(self.device, torch.float32))
            ratio = positive.value(u).to(points)
        return ratio if tensor else ratio.numpy()

    def _train(
        self,
        game: JKOStep,
        flow_map: ResidualMap | ConvexMap | None,
        number: int,
        generator: torch.Generator,
        config: dict[str, Any],
    ) -> Callable[[], bool]:
        callback, stopped = with_place(self.callback, number, self.n_jko)
        if self.n_steps == 0:
            return stopped
        try:
            game.train(
                flow_map,
                n_steps=self.n_steps,
                n_inner=self.n_inner,
                n_outer=self.n_outer,
                lr=self.lr,
                generator=generator,
                callback=callback,
                checkpoint=stage_file(self.checkpoint, number),
                checkpoint_every=self.checkpoint_every,
                config=config,
            )
        except FloatingPointError as error:
            where = f"JKO step {number}" if number else "the witness before JKO step 1"
            raise FloatingPointError(f"{where}: {error}") from error
        return stopped

    def _frame_and_energy(self, points: torch.Tensor, target: Any) -> tuple[Frame, Energy]:
        """Return the coordinates of the current cloud, and the energy with its reference."""
        frame = Frame(*moments(points.cpu().double().numpy())).to(self.device)
        energy = new_energy(
            self.energy,
            points,
            target,
            frame,
            log_density=self.log_density,
            m=self.m,
            positive=PositiveFunction(self.positivity),
            dv=self.dv,
        )
        return frame, energy

    def _pooled_frame(self, points: torch.Tensor, target: torch.Tensor) -> Frame:
        clouds = (Z.cpu().double().numpy() for Z in (points, target))
        return pooled_frame(*clouds).to(self.device)

    def _new_map(self, frame: Frame, rng: torch.Generator) -> Any:
        if self.map == "icnn":
            return ConvexMap(frame, self.hidden, self.convexity, rng).to(self.device)
        return ResidualMap(frame, self.hidden, rng).to(self.device)

    def _draw_from(self, points: torch.Tensor) -> Draw:
        sampler, maps = self.base_sampler, list(self.maps_)
        if sampler is None:
            return SampleReference(points).draw

        def draw(n: int, generator: torch.Generator) -> torch.Tensor:
            x = sampler(n, generator).to(points)
            for flow_map in maps:
                x = flow_map(x)
            return x

        return draw

    def _estimate(
        self, energy: Energy, witness: Any, points: torch.Tensor, generator: torch.Generator
    ) -> float:
        rows = torch.arange(len(points), device=points.device)
        if len(points) > ENERGY_ROWS:
            rows = torch.randperm(len(points), generator=generator, device=points.device)
        witness.eval()
        with torch.inference_mode():
            z = energy.draw(ENERGY_ROWS, generator)
            return float(estimate(energy, witness, points[rows[:ENERGY_ROWS]], z))

    def _push_through(self, X: ArrayLike, n_jko: int | None) -> list[Floats]:
        check_is_fitted(self, "maps_")
        X = self._points("X", X)
        last = len(self.maps_)
        if n_jko is not None:
            last = check_count("n_jko", n_jko, at_least=0, at_most=last)
        states, points = [X], self._tensor(X)
        for flow_map in self.maps_[:last]:
            points = _push(flow_map, points)
            states.append(points.cpu().double().numpy())
        return states

    def _check_clouds(self, X: ArrayLike, Y: ArrayLike | None) -> tuple[Floats, Any]:
        check_option("energy", self.energy, ENERGIES)
        if not self.energy.endswith("_samples"):
            X = check_array("X", X, ndim=2)
            if len(X) < 2 or not X.shape[1]:
                raise ValueError(f"X must have shape (n, d), n at least 2, got {X.shape}")
            return X, None
        if Y is None:
            raise ValueError(f"Y must be a sample of the target for {self.energy!r}, got None")
        X, Y = check_clouds(X, Y, at_least=2)
        return X, self._tensor(Y)

    def _check_parameters(self) -> list[float]:
        """Check all but the clouds; return the step size of each JKO step."""
        if self.energy == "kl_density" and not callable(self.log_density):
            raise ValueError(
                f"log_density must be a callable for 'kl_density', got {self.log_density!r}"
            )
        check_real("m", self.m, above=1)
        step_size = check_real("step_size", self.step_size, above=0)
        for name in ("n_jko", "n_inner", "n_outer", "batch_size", "checkpoint_every"):
            check_count(name, getattr(self, name))
        check_count("n_steps", self.n_steps, at_least=0)
        check_real("lr", self.lr, above=0)
        check_option("map", self.map, MAPS)
        check_option("convexity", self.convexity, CONVEXITY)
        PositiveFunction(self.positivity)
        for width in self.hidden:
            check_count("hidden", width)
        return step_sizes(step_size, self.step_schedule, self.n_jko)

    def _config(self, X: Floats, target: Any) -> dict[str, Any]:
        """Return what the checkpoints must agree in."""
        if self.checkpoint is None:
            return {}
        names = (
            "energy m step_size n_jko n_steps n_inner n_outer map convexity positivity dv "
            "crank_nicolson batch_size"
        )
        kept = {name: getattr(self, name) for name in names.split()}
        kept["rng"] = self.rng if isinstance(self.rng, int) else None
        return {**kept, "data": fingerprint(X, *([] if target is None else [target]))}

    def _tensor(self, Z: Floats) -> torch.Tensor:
        return torch.from_numpy(Z).to(self.device, torch.float32)

    def _points(self, name: str, Z: ArrayLike) -> Floats:
        return check_array(name, Z, shape=(None, self.n_features_in_))


def _push(flow_map: Any, points: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([flow_map(rows) for rows in points.split(BLOCK)])

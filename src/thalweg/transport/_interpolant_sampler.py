"""What a fitted stochastic interpolant can do: follow its ODE or SDE, and give its fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._torch import torch, torch_generator
from thalweg._validation import (
    check_array,
    check_count,
    check_option,
    check_real,
    is_torch_tensor,
)
from thalweg.transport._interpolant_fields import InterpolantFields
from thalweg.transport.flow_likelihood import backward_with_volume
from thalweg.transport.integrate import odeint, sdeint

Floats: TypeAlias = NDArray[np.float64]
DIRECTIONS = ("forward", "backward")


class InterpolantSampler:
    """Methods that need a fit, for an estimator that gives `_fields` and these parameters."""

    device: Any
    t_min: float
    rng: Any
    scale_: float
    n_features_in_: int

    def transform(
        self,
        X: ArrayLike,
        *,
        epsilon: float | Callable[[float], float] = 0.0,
        n_steps: int = 100,
        method: str | None = None,
        rng: Any = None,
    ) -> Floats:
        """Carry each row of `X` from time 0 to time 1.

        Parameters
        ----------
        X : array_like (n, d)
            Points at time 0.
        epsilon : float or callable, default 0.0
            Diffusion coefficient, or a function of time: 0 follows the ODE, positive values the SDE
            ``dX = (b + epsilon s) dt + sqrt(2 epsilon) dW`` with the same marginals.
        n_steps : int, default 100
            Steps of a uniform grid on [t_min, 1 - t_min].
        method : str, optional
            A method of `odeint` where `epsilon` is 0, of `sdeint` elsewhere. None is ``"heun"`` for
            the ODE and ``"stochastic-heun"`` for the SDE, which at the same cost is of a higher
            order than the published code's ``"heun"``.
        rng : None, int or torch.Generator
            Source of randomness; None is the estimator's own, so that an estimator made with an int
            gives the same draw each time.

        Returns
        -------
        array (n, d)

        Raises
        ------
        ValueError
            If an argument is not as stated, or `epsilon` is positive and no score was learned.
        FloatingPointError
            If a point leaves the finite numbers; it names the time.
        """
        return self._run("X", X, "forward", epsilon, n_steps, method, rng, keep=False)

    def inverse_transform(
        self,
        Y: ArrayLike,
        *,
        epsilon: float | Callable[[float], float] = 0.0,
        n_steps: int = 100,
        method: str | None = None,
        rng: Any = None,
    ) -> Floats:
        """Carry each row of `Y` from time 1 to time 0; as `transform`.

        The backward SDE has the drift ``b - epsilon s``.
        """
        return self._run("Y", Y, "backward", epsilon, n_steps, method, rng, keep=False)

    def sample_path(
        self,
        X: ArrayLike,
        n_steps: int = 100,
        *,
        epsilon: float | Callable[[float], float] = 0.0,
        direction: str = "forward",
        method: str | None = None,
        rng: Any = None,
    ) -> Floats:
        """Follow the rows of `X`, points at the start of the direction; as `transform`.

        Returns
        -------
        array (n_steps + 1, n, d)
            States in the order in which they were passed.
        """
        check_option("direction", direction, DIRECTIONS)
        return self._run("X", X, direction, epsilon, n_steps, method, rng, keep=True)

    def velocity(self, t: Any, x: Any) -> Any:
        """Return the velocity b of the probability flow.

        Parameters
        ----------
        t : float or array (n,)
            Times in [0, 1]; those outside of [t_min, 1 - t_min] count as its ends.
        x : array_like or tensor (n, d)
            Points.

        Returns
        -------
        array or tensor (n, d)
            Displacement per unit of time; a tensor where `x` is one.
        """
        return self._evaluate("velocity", t, x)

    def score(self, t: Any, x: Any) -> Any:
        """Return the gradient of the log-density at time `t`; as `velocity`.

        Raises
        ------
        ValueError
            If no score was learned.
        """
        return self._evaluate("score", t, x)

    def denoiser(self, t: Any, x: Any) -> Any:
        """Return ``E[z | x_t = x]``, or of x0 where that is the noise; as `score`."""
        return self._evaluate("denoiser", t, x)

    def log_prob(
        self,
        Y: ArrayLike,
        base_log_prob: Callable[[Floats], ArrayLike],
        *,
        epsilon: float = 0.0,
        n_steps: int = 100,
        n_paths: int = 64,
        rng: Any = None,
    ) -> Floats:
        """Return the log-density of the generated law at the rows of `Y`.

        The law of the ODE by default. With a positive `epsilon` that of the SDE, whose density is
        the mean of ``rho_0(Y_0) exp(-int div b_F dt)`` over paths ``dY = b_F dt + sqrt(2 epsilon)
        dW`` run backward from each row: unbiased for the density, noisy where `b_F` contracts.

        Parameters
        ----------
        Y : array_like (n, d)
            Points at time 1.
        base_log_prob : callable
            From points (n, d) at time 0 to their log-density (n,).
        epsilon : float, default 0.0
            Diffusion coefficient.
        n_steps : int, default 100
            Heun steps.
        n_paths : int, default 64
            Paths a row, for the SDE.
        rng : None, int or torch.Generator
            Source of the paths, and of the signs of the trace estimate, which is exact up to
            d = 16; None is the estimator's own.

        Returns
        -------
        array (n,)
        """
        fields = self._fields()
        Y = check_array("Y", Y, shape=(None, self.n_features_in_))
        epsilon = check_real("epsilon", epsilon, at_least=0)
        n_steps, n_paths = check_count("n_steps", n_steps), check_count("n_paths", n_paths)
        generator = torch_generator(self.rng if rng is None else rng, self.device)
        inside = fields.inward(Y, 1.0, self.device)
        if epsilon:
            fields.require_score()
            inside = inside.repeat(n_paths, 1)

        def field(t: float, x: torch.Tensor) -> torch.Tensor:
            return fields.drift(t, x, epsilon / self.scale_**2)

        start, log_volume = backward_with_volume(
            field,
            inside,
            (2 * epsilon) ** 0.5 / self.scale_,
            times=np.linspace(1 - self.t_min, self.t_min, n_steps + 1),
            rng=generator,
        )
        ends = fields.outward(start, 0.0)
        base = check_array("base_log_prob(X)", base_log_prob(ends), shape=(len(ends),))
        total = (base + log_volume.cpu().double().numpy()).reshape(-1, len(Y))
        return np.asarray(np.logaddexp.reduce(total, axis=0) - np.log(len(total)))

    def _fields(self) -> InterpolantFields:
        raise NotImplementedError

    def _run(
        self,
        name: str,
        Z: ArrayLike,
        direction: str,
        epsilon: float | Callable[[float], float],
        n_steps: int,
        method: str | None,
        rng: Any,
        keep: bool,
    ) -> Floats:
        fields = self._fields()
        Z = check_array(name, Z, shape=(None, self.n_features_in_))
        noisy = callable(epsilon) or check_real("epsilon", epsilon, at_least=0) > 0
        if noisy:
            fields.require_score()
        forward = direction == "forward"
        grid = np.linspace(self.t_min, 1 - self.t_min, check_count("n_steps", n_steps) + 1)
        grid = grid if forward else grid[::-1]
        x = fields.inward(Z, 0.0 if forward else 1.0, self.device)
        options: dict[str, Any] = {
            "times": grid,
            "method": method or ("stochastic-heun" if noisy else "heun"),
            "return_path": keep,
        }

        def level(t: float) -> float:
            value = epsilon(t) if callable(epsilon) else epsilon
            return check_real("epsilon(t)", value, at_least=0) / self.scale_**2

        with torch.inference_mode():
            if noisy:
                sign = 1 if forward else -1
                path = sdeint(
                    lambda t, x: fields.drift(t, x, sign * level(t)),
                    x,
                    lambda t: (2 * level(t)) ** 0.5,
                    rng=torch_generator(self.rng if rng is None else rng, self.device),
                    **options,
                )
            else:
                path = odeint(fields.drift, x, **options)
        if not keep:
            return fields.outward(path, 1.0 if forward else 0.0)
        ends = np.round(grid[[0, -1]])
        times = np.concatenate([ends[:1], grid[1:-1], ends[1:]])
        return np.stack([fields.outward(x, t) for x, t in zip(path, times, strict=True)])

    def _evaluate(self, kind: str, t: Any, x: Any) -> Any:
        fields, tensor = self._fields(), is_torch_tensor(x)
        if not tensor:
            x = torch.from_numpy(check_array("x", x, shape=(None, self.n_features_in_)))
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        if bool((t < 0).any()) or bool((t > 1).any()):
            raise ValueError(f"t must lie in [0, 1], got {t}")
        with torch.set_grad_enabled(tensor and torch.is_grad_enabled()):
            value = getattr(fields, kind)(t, x, self.device)
        return value if tensor else value.numpy()

"""Densities of what a flow or a diffusion makes, by following its points back to the start.

Source: "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions" (2023), arXiv
2303.08797, section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch, torch_generator
from thalweg._validation import check_count
from thalweg.transport.integrate import odeint, sdeint
from thalweg.transport.networks import EXACT_DIM, divergence


def flow_log_prob(
    velocity: Callable[[Any, torch.Tensor], torch.Tensor],
    Y: torch.Tensor,
    base_log_prob: Callable[[torch.Tensor], torch.Tensor],
    *,
    t0: float = 0.0,
    t1: float = 1.0,
    n_steps: int = 100,
    method: str = "heun",
    exact: bool | None = None,
    rng: int | torch.Generator | None = None,
) -> torch.Tensor:
    """Return the log-density that a flow gives the points it ends in.

    ``log rho_1(y) = log rho_0(x(t0)) - int div b dt`` along the path that ends in y.

    Parameters
    ----------
    velocity : callable
        ``velocity(t, x) -> tensor (n, d)``, differentiable; t is a float.
    Y : tensor (n, d)
        Points at time `t1`.
    base_log_prob : callable
        From points (n, d) at time `t0` to their log-density (n,).
    t0, t1 : float
        First and last time.
    n_steps : int, default 100
        Steps.
    method : str, default "heun"
        As in `odeint`.
    exact : bool, optional
        As in `divergence`: whether the trace is exact, by default up to d = 16.
    rng : None, int or torch.Generator
        Source of the signs of the trace estimate; they are the same all along the path.

    Returns
    -------
    tensor (n,)

    Examples
    --------
    >>> import math, torch
    >>> normal = torch.distributions.Normal(0.0, 1.0)
    >>> y = torch.tensor([[0.3]])
    >>> found = flow_log_prob(lambda t, x: x, y, lambda x: normal.log_prob(x).sum(1))
    >>> scaled = torch.distributions.Normal(0.0, math.e)  # the flow multiplies by e
    >>> bool(torch.allclose(found, scaled.log_prob(y).sum(1), atol=1e-4))
    True
    """
    times = np.linspace(t1, t0, check_count("n_steps", n_steps) + 1)
    start, log_volume = backward_with_volume(
        velocity, Y, 0.0, times=times, method=method, exact=exact, rng=torch_generator(rng)
    )
    return base_log_prob(start) + log_volume


def backward_with_volume(
    field: Callable[[Any, torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    sigma: float,
    *,
    times: NDArray[np.float64],
    method: str = "heun",
    exact: bool | None = None,
    rng: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Follow points along decreasing times; return them and minus the integral of div field."""
    exact = x.shape[1] <= EXACT_DIM if exact is None else exact
    signs = int(torch.randint(2**62, (), generator=rng, device=rng.device))

    def augmented(t: float, state: torch.Tensor) -> torch.Tensor:
        volume, value = divergence(
            field, t, state[:, :-1], exact=exact, rng=signs, return_field=True
        )
        return torch.cat([value, volume[:, None]], 1)

    state = torch.cat([x, torch.zeros_like(x[:, :1])], 1)
    options: dict[str, Any] = {"times": times, "method": method}
    with torch.no_grad():
        if sigma:
            noise = torch.full_like(state[0], sigma)
            noise[-1] = 0
            state = sdeint(augmented, state, lambda t: noise, rng=rng, **options)
        else:
            state = odeint(augmented, state, **options)
    return state[:, :-1], state[:, -1]

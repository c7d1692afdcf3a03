"""What the fields of a stochastic interpolant minimise, and what their errors bound.

Source: "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions" (2023), arXiv
2303.08797, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from thalweg._validation import check_option, check_real, is_torch_tensor
from thalweg.transport._interpolant_schedules import Array, column, stack
from thalweg.transport.interpolants import Interpolant


def interpolant_losses(
    interpolant: Interpolant,
    fields: Mapping[str, Callable[[Any, Array], Array]],
    t: Array,
    x0: Array | None,
    x1: Array,
    z: Array,
    *,
    antithetic: bool = True,
    noise_scale: float = 1.0,
) -> dict[str, Any]:
    """Return the quadratic objectives whose minimisers are the fields of an interpolant.

    ``L_b = E[|b|^2 / 2 - (dI + gamma' z).b]``, ``L_v = E[|v|^2 / 2 - dI.v]``,
    ``L_eta = E[|eta|^2 / 2 - z.eta]`` and ``L_s = E[|s|^2 / 2 + z.s / gamma]``; less its least
    value each is half the mean squared error of the field.

    Parameters
    ----------
    interpolant : Interpolant
        The path.
    fields : dict
        Callables ``(t, x) -> (n, d)`` under any of ``"b"`` (velocity), ``"v"`` (velocity without
        noise), ``"eta"`` (denoiser) and ``"s"`` (score).
    t : array or tensor (n,)
        Times inside (0, 1).
    x0, x1, z : array or tensor (n, d)
        Ends and standard normal noise. `x0` is not read where it is the noise, which is `z` then.
    antithetic : bool, default True
        Average over z and -z, which keeps the variance of L_b and L_s finite near the ends.
    noise_scale : float, default 1.0
        Factor of gamma, or of x0 where x0 is the noise.

    Returns
    -------
    dict
        A number, or a tensor that can be differentiated, for each field.

    References
    ----------
    "Stochastic Interpolants" (2023), arXiv 2303.08797, section 2; antithetic pairs, section 6.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x0, x1, z = rng.normal(size=(3, 4000, 1))
    >>> zero = {"b": lambda t, x: 0 * x}
    >>> interpolant_losses(Interpolant.linear(), zero, rng.random(4000), x0, x1, z)
    {'b': 0.0}
    """
    for name in fields:
        check_option("fields", name, ["b", "v", "eta", "s"])
    c = interpolant._noise_at(interpolant._at(t))
    c = {name: column(value, x1) for name, value in c.items()}
    middle, slope = c["beta"] * x1, c["dbeta"] * x1
    if x0 is not None and not interpolant.starts_from_noise:
        middle, slope = middle + c["alpha"] * x0, slope + c["dalpha"] * x0
    signs = (1.0, -1.0) if antithetic else (1.0,)
    noise, dnoise = noise_scale * c["noise"], noise_scale * c["dnoise"]
    times = stack([t] * len(signs))
    points = stack([middle + sign * noise * z for sign in signs])
    losses = {}
    for name, field in fields.items():
        if name == "b":
            targets = [slope + sign * dnoise * z for sign in signs]
        elif name == "v":
            targets = [slope] * len(signs)
        elif name == "eta":
            targets = [sign * z for sign in signs]
        else:
            targets = [-sign * z / noise for sign in signs]
        value = field(times, points)
        rows = (value * (0.5 * value - stack(targets))).sum(1)
        losses[name] = rows.mean() if is_torch_tensor(rows) else float(rows.mean())
    return losses


def sde_kl_bound(drift_error_sq: float, epsilon: float) -> float:
    """Return the bound of the divergence of the generated law from the target, for the SDE.

    ``KL(rho_1 || rho^_1) <= E|b^_F - b_F|^2 / (4 epsilon)`` for ``dX = b_F dt + sqrt(2 epsilon)
    dW`` with ``b_F = b + epsilon s``, by Girsanov's theorem.

    Parameters
    ----------
    drift_error_sq : float
        Squared error of the forward drift, averaged over the exact law of the path and over time.
    epsilon : float
        Diffusion coefficient; positive. There is no such bound for the ODE.

    Returns
    -------
    float
        In nats.

    References
    ----------
    "Stochastic Interpolants" (2023), arXiv 2303.08797, section 2, by Girsanov's theorem.

    Examples
    --------
    >>> sde_kl_bound(0.4, epsilon=0.5)
    0.2
    """
    error = check_real("drift_error_sq", drift_error_sq, at_least=0)
    return error / (4 * check_real("epsilon", epsilon, above=0))


def optimal_epsilon(velocity_error_sq: float, score_error_sq: float) -> float:
    """Return the diffusion coefficient with the least bound, ``sqrt(E|db|^2 / E|ds|^2)``.

    It minimises ``E|db|^2 / (2 epsilon) + epsilon E|ds|^2 / 2``, which bounds `sde_kl_bound`; the
    least value is the root of the product of both errors.

    Parameters
    ----------
    velocity_error_sq, score_error_sq : float
        Mean squared errors of the velocity b and of the score s; the second is positive.

    Returns
    -------
    float

    References
    ----------
    "Stochastic Interpolants" (2023), arXiv 2303.08797, section 2.

    Examples
    --------
    >>> optimal_epsilon(0.09, 0.01)
    3.0
    """
    velocity = check_real("velocity_error_sq", velocity_error_sq, at_least=0)
    return math.sqrt(velocity / check_real("score_error_sq", score_error_sq, above=0))

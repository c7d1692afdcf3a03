"""Divergences of the laws that an SDE and an ODE make with a known error in their fields."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from thalweg.transport import (
    MixtureInterpolant,
    odeint,
    sde_kl_bound,
    sdeint,
)

MODE_RADIUS, MODE_VARIANCE = 2.0, 0.2


ERRORS = {"gradient": slice(None), "rotation": slice(None, None, -1)}
"""Columns that the waves of an error run along: their own, or the other one, without divergence."""


ERROR_FREQUENCY, FREQUENCIES = 2.0, (4.0, 8.0, 16.0)


ODE_ERROR = 0.2


KERNEL_VARIANCE = 0.02


HALF_WIDTH, CELLS = 5.0, 200


def four_modes(interpolant=None):
    """A standard normal law to four round modes in the plane."""
    corners = MODE_RADIUS / 2**0.5 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    covs = np.tile(MODE_VARIANCE * np.eye(2), (4, 1, 1))
    return MixtureInterpolant(
        [1.0], np.zeros((1, 2)), np.eye(2)[None], np.full(4, 0.25), corners, covs, interpolant
    )


def waves(kind, frequency, x):
    """An error of the velocity with mean square about 1: waves along or across the axes."""
    return np.sin(frequency * x[:, ERRORS[kind]] + np.array([0.3, 1.1]))


def waves_divergence(kind, frequency, x):
    """The divergence of `waves`."""
    if kind == "rotation":
        return np.zeros(len(x))
    return (frequency * np.cos(frequency * x + np.array([0.3, 1.1]))).sum(1)


def mean_square(mixture, kind, frequency, n, rng):
    """Squared size of the error, averaged over the exact path and over time."""
    times = (np.arange(40) + 0.5) / 40
    return float(
        np.mean(
            [
                (waves(kind, frequency, mixture.sample(t, n // 40, rng=rng)) ** 2).sum(1).mean()
                for t in times
            ]
        )
    )


def sde_divergence(mixture, epsilon, cases, n, n_steps, rng):
    """Divergence of the target from the law of the SDE with each error, (kind, frequency, delta).

    All cases run side by side.
    """
    last = KERNEL_VARIANCE / (2 * epsilon)
    rows = [slice(i * n, (i + 1) * n) for i in range(len(cases))]

    def drift(t, x):
        velocity, score = mixture.fields(t, x)
        total = velocity + epsilon * score
        for (kind, frequency, delta), at in zip(cases, rows, strict=True):
            total[at] += delta * waves(kind, frequency, x[at])
        return total

    x = mixture.sample(0.0, n * len(cases), rng=rng)
    x = sdeint(
        drift,
        x,
        (2 * epsilon) ** 0.5,
        t1=1 - last,
        n_steps=n_steps,
        method="stochastic-heun",
        rng=rng,
    )
    x = x + last * drift(1 - last, x)
    return np.array([grid_divergence(mixture, x[at]) for at in rows])


def grid_divergence(mixture, centres):
    """Divergence of the law at time 1 from the kernel density around `centres`, on a grid."""
    edges = np.linspace(-HALF_WIDTH, HALF_WIDTH, CELLS + 1)
    middle, cell = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    grid = np.stack(np.meshgrid(middle, middle, indexing="ij"), axis=-1).reshape(-1, 2)
    density = mixture.density(1.0, grid).reshape(CELLS, CELLS)
    counts, _ = np.histogramdd(centres, bins=[edges, edges])
    made = gaussian_filter(counts, KERNEL_VARIANCE**0.5 / cell, mode="constant", truncate=6)
    made /= len(centres) * cell**2
    kept = density > 1e-12
    ratio = np.log(density[kept] / np.maximum(made[kept], 1e-300))
    return float((density[kept] * ratio).sum() * cell**2)


def ode_divergence(mixture, kind, frequency, delta, n, n_steps, rng):
    """Divergence of the target from the law of the ODE with an error, by following points back."""
    y = mixture.sample(1.0, n, rng=rng)

    def field(t, state):
        x = state[:, :-1]
        velocity = mixture.velocity(t, x) + delta * waves(kind, frequency, x)
        volume = mixture.divergence(t, x) + delta * waves_divergence(kind, frequency, x)
        return np.concatenate([velocity, volume[:, None]], axis=1)

    start = np.concatenate([y, np.zeros((n, 1))], axis=1)
    state = odeint(field, start, t0=1.0, t1=0.0, n_steps=n_steps, method="rk4")
    log_made = mixture.log_density(0.0, state[:, :-1]) + state[:, -1]
    return float((mixture.log_density(1.0, y) - log_made).mean())


def divergences(setup, rng):
    """Divergence over bound for the SDE; divergence over squared error for the ODE."""
    mixture = four_modes()
    cases = [(kind, ERROR_FREQUENCY, delta) for kind in ERRORS for delta in setup.deltas]
    squares = {kind: mean_square(mixture, kind, ERROR_FREQUENCY, 20_000, rng) for kind in ERRORS}
    found = np.stack(
        [
            sde_divergence(
                mixture,
                epsilon,
                [*cases, ("gradient", 1.0, 0.0)],
                setup.kl_points,
                setup.kl_steps,
                rng,
            )
            for epsilon in setup.kl_epsilons
        ]
    )
    bounds = np.array(
        [
            [sde_kl_bound(delta**2 * squares[kind], epsilon) for kind, _, delta in cases]
            for epsilon in setup.kl_epsilons
        ]
    )
    ode, fine = [], []
    for frequency in FREQUENCIES:
        size = mean_square(mixture, "gradient", frequency, 20_000, rng)
        measured = ode_divergence(
            mixture, "gradient", frequency, ODE_ERROR, setup.ode_points, setup.ode_steps, rng
        )
        ode.append(measured / (ODE_ERROR**2 * size))
        fine.append(size)
    wave_cases = [("gradient", frequency, 1.0) for frequency in FREQUENCIES]
    sde = sde_divergence(mixture, 1.0, wave_cases, setup.kl_points, setup.kl_steps, rng)
    fine_bounds = np.array([sde_kl_bound(size, 1.0) for size in fine])
    return {
        "kl_epsilons": np.array(setup.kl_epsilons),
        "kl_measured": found[:, :-1].reshape(len(found), len(ERRORS), -1),
        "kl_floor": found[:, -1],
        "kl_bounds": bounds.reshape(len(found), len(ERRORS), -1),
        "kl_deltas": np.array(setup.deltas),
        "kl_over_bound": (found[:, :-1] / bounds).ravel(),
        "ode_kl_over_error": np.array(ode),
        "ode_growth": ode[-1] / ode[0],
        "fine_kl_over_bound": sde / fine_bounds,
        "fine_kl_over_error": sde / np.array(fine),
    }

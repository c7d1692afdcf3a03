"""Energies of paths: formula against samples, perturbed paths, and many dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from thalweg.transport import (
    DataSeparation,
    GaussianPath,
    denoising_error,
    kinetic_energy,
    minimal_kinetic_energy,
    monte_carlo_kinetic_energy,
    normalize_data,
    separation_bound,
)
from thalweg.transport.kinetic_paths import LEAST_G

LIMIT_ROWS, LIMIT_DIMENSIONS = 10, (16, 64, 256, 1024, 4096)


SIGNALS = np.geomspace(0.02, 20, 20)


PERTURBATIONS = 50


PATHS = {
    "ko": ("kinetic optimal", "tab:blue"),
    "cond-ot": ("Cond-OT", "tab:orange"),
    "vp-cosine": ("VP cosine", "tab:green"),
}


def paths_for(separation):
    """The three paths that are compared."""
    return {
        "ko": GaussianPath.kinetic_optimal(separation),
        "cond-ot": GaussianPath.cond_ot(),
        "vp-cosine": GaussianPath.vp_cosine(),
    }


def disagreement(X, separation, n, rng):
    """Largest difference of both energies, in units of 3 standard errors or 2 %, if greater."""
    worst = 0.0
    for path in paths_for(separation).values():
        value, error = monte_carlo_kinetic_energy(path, X, n=n, rng=rng)
        difference = abs(kinetic_energy(path, separation) - value)
        worst = max(worst, difference / max(3 * error, 0.02 * value))
    return worst


def optimality(separations, rng):
    """What other paths cost above the optimal one, and whether that is where it should be."""
    advantages, gaps, differences, found = [], [], [], {}
    for name, separation in separations.items():
        paths = paths_for(separation)
        energies = {key: kinetic_energy(path, separation) for key, path in paths.items()}
        found[f"energies_{name}"] = list(energies.values())
        others = [energies["cond-ot"], energies["vp-cosine"]]
        for _ in range(PERTURBATIONS):
            radial, warp = rng.uniform(-0.3, 0.3, size=(2, 3)) * rng.uniform(0.1, 1)
            others.append(kinetic_energy(perturbed(paths["ko"], radial, warp), separation))
        advantages.append(min(others) - energies["ko"])
        gaps.append(abs(energies["ko"] - minimal_kinetic_energy(separation)))
        differences.append(ode_difference(paths["ko"], separation))
    return found | {
        "least_advantage": min(advantages),
        "optimum_gap": max(gaps),
        "ode_difference": max(differences),
    }


def perturbed(path, radial, warp):
    """Return the path with its radius scaled and its time warped by three sine waves each."""
    k = np.pi * np.arange(1, 4)

    def schedule(t):
        waves, slopes = np.sin(np.multiply.outer(t, k)), np.cos(np.multiply.outer(t, k))
        a, m, da, dm = path.coefficients(np.clip(t + waves @ (warp / k), 0, 1))
        factor, pace = np.exp(waves @ radial), 1 + slopes @ warp
        growth = slopes @ (radial * k)
        return (
            factor * a,
            factor * m,
            factor * (growth * a + pace * da),
            factor * (growth * m + pace * dm),
        )

    return GaussianPath(schedule)


def ode_difference(path, separation):
    """Largest difference of the path's angle from a solution of its differential equation.

    ``theta' = sin(Phi) / (r^2 g(theta))`` from ``theta(0) = 0``, with g as raised for the path.
    """
    angles = np.linspace(0, np.pi / 2, 2001)
    g = np.maximum(separation.g(angles), LEAST_G)
    Phi = np.trapezoid(g, angles)

    def speed(t, theta):
        r2 = 1 - 2 * t * (1 - t) * (1 - np.cos(Phi))
        return np.sin(Phi) / (r2 * np.interp(theta, angles, g))

    times = np.linspace(0, 1, 201)
    solution = solve_ivp(speed, (0, 1), [0.0], "LSODA", times, rtol=1e-8, atol=1e-10)
    a, m, _, _ = path.coefficients(times)
    return float(np.abs(solution.y[0] - np.arctan2(a, m)).max())


def high_dimension(setup, rng):
    """Energies of normal samples of n rows in d dimensions, and the gap of Cond-OT for ten rows."""
    table = [
        [n, d, *np.mean([sample_energies(n, d, rng) for _ in range(setup.repeats)], axis=0)]
        for n in setup.rows
        for d in setup.dimensions
    ]
    limit = [
        np.mean([sample_energies(LIMIT_ROWS, d, rng) for _ in range(setup.repeats)], axis=0)
        for d in LIMIT_DIMENSIONS
    ]
    gaps = np.array([cond_ot / optimal - 1 for _, optimal, cond_ot, _ in limit])
    return {
        "table": np.array(table),
        "limit_gaps": gaps,
        "limit_changes": np.diff(gaps),
        "last_gap": gaps[-1],
    }


def sample_energies(n, d, rng):
    """Phi and the three energies of n normal rows in d dimensions."""
    X, _, _ = normalize_data(rng.standard_normal((n, d)))
    separation = DataSeparation.from_data(X, rng=rng)
    energies = [kinetic_energy(path, separation) for path in paths_for(separation).values()]
    return [separation.total_angle_, *energies]


def certificate_excess(X, rng):
    """Largest excess of the measured 1 - lambda over its bound, in standard errors."""
    X, _, _ = normalize_data(X)
    error, deviation = denoising_error(X, SIGNALS, rng=rng)
    excess = error - separation_bound(X, SIGNALS)
    return float((excess / np.maximum(deviation, 1e-300)).max())


def curves(separations):
    """What is drawn: lambda and g over s, and the paths."""
    s, t = np.geomspace(0.02, 50, 150), np.linspace(0, 1, 101)
    found: dict[str, Any] = {"curve_s": s}
    for name, separation in separations.items():
        path = GaussianPath.kinetic_optimal(separation)
        found[f"curve_lambda_{name}"] = separation(s)
        found[f"curve_path_{name}"] = np.stack([path.a(t), path.m(t)])
    return found

"""Synthetic jets of two event generators, as they are and as a detector sees them.

A stand-in for simulated Z+jets events: six observables of a jet with the correlations, tails,
edges and counts that make unfolding hard, and a detector that biases and smears them. It is made
up here; it is not a physics simulation.

Source: "Improving Generative Model-based Unfolding with Schrödinger Bridges" (2023), arXiv
2308.12351, section IV, for the observables.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from thalweg._validation import check_count, check_option

Floats: TypeAlias = NDArray[np.float64]
GENERATORS = {
    "A": {"multiplicity": 1.0, "mass": 1.0, "asymmetry": 2.5},
    "B": {"multiplicity": 1.12, "mass": 1.08, "asymmetry": 2.1},
}
NAMES = ("mass", "width", "multiplicity", "ln rho", "z_g", "tau_21")


def make_jets(
    n: int, generator: str = "A", *, rng: Any = None
) -> tuple[Floats, Floats, tuple[str, ...]]:
    """Draw jets and their measurements.

    Parameters
    ----------
    n : int
        Jets.
    generator : {"A", "B"}, default "A"
        Their law: B has more constituents, is heavier and splits more evenly.
    rng : None, int or Generator
        Source of randomness.

    Returns
    -------
    truth : array (n, 6)
        Mass (GeV), width, number of constituents, log of the groomed mass ratio, momentum sharing,
        and ratio of two- to one-prongedness; no units but the first.
    measured : array (n, 6)
        The same jets as a detector sees them.
    names : tuple of str

    Raises
    ------
    ValueError
        If `n` is not positive or `generator` is unknown.

    References
    ----------
    "Improving Generative Model-based Unfolding with Schrödinger Bridges" (2023), arXiv 2308.12351,
    section IV; the laws are chosen here.

    Examples
    --------
    >>> truth, measured, names = make_jets(1000, "B", rng=0)
    >>> truth.shape, measured.shape, names[2]
    ((1000, 6), (1000, 6), 'multiplicity')
    >>> bool((measured[:, 2] <= truth[:, 2]).all())
    True
    """
    n = check_count("n", n)
    law = GENERATORS[check_option("generator", generator, GENERATORS)]
    rng = np.random.default_rng(rng)

    def normal() -> Floats:
        return rng.standard_normal(n)

    log_p = 0.35 * normal()
    p, two = np.exp(log_p), rng.random(n) < 0.3
    count = 4 + rng.poisson(12 * np.sqrt(p) * (1 + 0.6 * two) * law["multiplicity"])
    width = 0.6 * expit(-1.6 + 0.9 * two - 0.3 * log_p + 0.5 * normal())
    mass = 8 * law["mass"] * p * (width / 0.15) ** 0.7 * np.exp(0.15 * normal())
    ln_rho = np.clip(-7 + 2.2 * np.log(mass / 10) + 1.2 * normal(), -14, -2)
    z_g = 0.1 + 0.4 * np.where(two, rng.beta(2, 2, n), rng.beta(1, law["asymmetry"], n))
    tau_21 = 0.1 + np.where(two, rng.beta(2.5, 4, n), rng.beta(5, 4, n))
    truth = np.stack([mass, width, count, ln_rho, z_g, tau_21], axis=1)
    measured = np.stack(
        [
            mass * (1 + 0.05 * normal()) * (1 + 0.10 * normal()),
            width * (1 + 0.12 * normal()) + 0.005,
            rng.binomial(count, 0.9),
            ln_rho + 0.1 + 0.5 * normal(),
            np.clip(z_g + 0.04 * normal(), 0, 0.5),
            tau_21 + 0.03 + 0.07 * normal(),
        ],
        axis=1,
    )
    return truth, measured, NAMES

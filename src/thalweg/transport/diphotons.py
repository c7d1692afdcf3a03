"""Pairs of photons as a simulation and as a detector would give them, for transfers to be tried on.

A stand-in, since the samples of experiments are not public: spectra that fall, angles, isolation
that depends on pileup, shower widths, and four ways in which data differ from simulation.

Source: "Transforming Simulation to Data Without Pairing" (2025), arXiv 2504.12343; the laws are
chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg._validation import check_array, check_count, check_option

Floats = NDArray[np.float64]

LEAST_PT = 25.0
LARGEST_ETA = 2.5
END_CAP_ETA = 1.5
ENERGY_SCALE = 1.01
END_CAP_RESOLUTION = 1.2
BARREL_SPREAD, END_CAP_SPREAD = 0.015, 0.03
ISOLATION_SHIFT = 0.4
PILEUP_SLOPE, EXTRA_PILEUP_SLOPE = 0.03, 0.03
"""Mean isolation per collision, in GeV, and what data add to it."""
RATIO_ETA_SLOPE = 1.0
"""How the logit of the softer photon's share of energy changes with |eta1|, in data alone."""
MEAN_PILEUP = 32.0
MASS_COLUMNS = ("pt1", "pt2", "eta1", "eta2", "dphi")


def make_diphotons(n: int, kind: str = "simulation", rng: Any = None) -> dict[str, Floats]:
    """Draw events of two photons.

    Parameters
    ----------
    n : int
        Events.
    kind : {"simulation", "data"}, default "simulation"
        In data the energy scale is 1 % higher, the energy resolution at ``|eta| > 1.5`` 20 % worse,
        the isolation higher and steeper in pileup, and pt2 / pt1 rises with ``|eta1|``.
    rng : None, int or Generator
        Source of the events.

    Returns
    -------
    dict of array (n,)
        ``pt1 > pt2 > 25`` transverse momenta in GeV; ``eta1``, ``eta2`` pseudorapidities within
        2.5; ``dphi`` azimuth between the photons in [0, pi]; ``converted1`` 1.0 where the first
        photon converted; ``iso1``, ``iso2`` isolation in GeV; ``width1`` shower width, no unit;
        ``pileup`` mean number of collisions at once, with the same law in both kinds.

    Examples
    --------
    >>> table = make_diphotons(1000, "data", rng=0)
    >>> bool((table["pt1"] >= table["pt2"]).all() and (table["pt2"] >= 25).all())
    True
    """
    n = check_count("n", n)
    data = check_option("kind", kind, ("simulation", "data")) == "data"
    rng = np.random.default_rng(rng)
    parts: list[dict[str, Floats]] = []
    found = 0
    while found < n:
        events = _draw(max(64, 2 * (n - found)), data, rng)
        seen = (events["pt2"] >= LEAST_PT) & (events["pt1"] >= events["pt2"])
        parts.append({name: column[seen] for name, column in events.items()})
        found += int(seen.sum())
    return {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}


def diphoton_mass(table: Mapping[str, Any]) -> Floats:
    """Return the invariant mass of each pair, ``sqrt(2 pt1 pt2 (cosh(eta1-eta2) - cos dphi))``.

    Parameters
    ----------
    table : mapping
        With columns ``pt1``, ``pt2``, ``eta1``, ``eta2`` and ``dphi``, each (n,).

    Returns
    -------
    array (n,)
        In the unit of the transverse momenta.

    Examples
    --------
    >>> diphoton_mass({"pt1": [50.0], "pt2": [50.0], "eta1": [0], "eta2": [0], "dphi": [np.pi]})
    array([100.])
    """
    missing = [name for name in MASS_COLUMNS if name not in table]
    if missing:
        raise ValueError(f"table must have the columns {', '.join(MASS_COLUMNS)}, lacks {missing}")
    pt1 = check_array("pt1", table["pt1"], ndim=1)
    pt2, eta1, eta2, dphi = (
        check_array(name, table[name], shape=pt1.shape) for name in MASS_COLUMNS[1:]
    )
    if pt1.min(initial=0.0) < 0 or pt2.min(initial=0.0) < 0:
        raise ValueError("pt1 and pt2 must not be negative")
    square = 2 * pt1 * pt2 * (np.cosh(eta1 - eta2) - np.cos(dphi))
    return np.sqrt(np.maximum(square, 0.0))


def _draw(n: int, data: bool, rng: np.random.Generator) -> dict[str, Floats]:
    """Draw events before the cuts on transverse momentum."""
    pileup = rng.gamma(16.0, MEAN_PILEUP / 16.0, size=n)
    common, *own = rng.standard_normal((3, n))
    eta1, eta2 = (LARGEST_ETA * np.tanh(0.35 * common + 0.5 * z) for z in own)
    logit = 0.6 * rng.standard_normal(n) - 0.2
    if data:
        logit += RATIO_ETA_SLOPE * np.abs(eta1)
    pt1 = LEAST_PT + rng.gamma(2.5, 17.0, size=n)
    pt2 = LEAST_PT + (pt1 - LEAST_PT) / (1 + np.exp(-logit))
    for pt, eta in ((pt1, eta1), (pt2, eta2)):
        end_cap = np.abs(eta) > END_CAP_ETA
        spread = np.where(end_cap, END_CAP_SPREAD, BARREL_SPREAD)
        if data:
            spread = np.where(end_cap, END_CAP_RESOLUTION * spread, spread)
            pt *= ENERGY_SCALE
        pt *= 1 + spread * rng.standard_normal(n)
    slope = PILEUP_SLOPE + (EXTRA_PILEUP_SLOPE if data else 0.0)
    centre = 1.5 + slope * (pileup - MEAN_PILEUP) + (ISOLATION_SHIFT if data else 0.0)
    converted = (rng.random(n) < 0.2 + 0.1 * np.abs(eta1)).astype(float)
    width = 0.010 + 0.002 * np.abs(eta1) + 0.0008 * converted
    return {
        "pt1": pt1,
        "pt2": pt2,
        "eta1": eta1,
        "eta2": eta2,
        "dphi": np.pi / (1 + np.exp(-2.2 - rng.standard_normal(n))),
        "converted1": converted,
        "iso1": centre + 0.8 * rng.standard_normal(n),
        "iso2": centre + 0.8 * rng.standard_normal(n),
        "width1": width * (1 + 0.06 * rng.standard_normal(n)),
        "pileup": pileup,
    }

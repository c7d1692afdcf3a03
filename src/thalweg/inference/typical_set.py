"""Where the mass of a high-dimensional normal distribution lies: neither near its mode nor far out.

Density falls with the radius, volume grows with it; their product concentrates near sqrt(d).

Source: "A Conceptual Introduction to Hamiltonian Monte Carlo" (2017), arXiv 1701.02434, section
1.2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln
from scipy.stats import chi

from thalweg._validation import check_array, check_count

Floats = NDArray[np.float64]


class Concentration(NamedTuple):
    """Density, volume and mass of N(0, I_d) against the radius.

    Attributes
    ----------
    radius : ndarray
        Distance from the mode.
    log_density : ndarray
        Log density at a point that far out.
    log_volume : ndarray
        Log area of the sphere of that radius: volume per unit of radius.
    mass : ndarray
        Their product, the density of the radius (chi with d degrees of freedom).
    """

    radius: Floats
    log_density: Floats
    log_volume: Floats
    mass: Floats


def concentration(d: int, radius: ArrayLike | None = None) -> Concentration:
    """Return density, volume and their product against the radius for N(0, I_d).

    Parameters
    ----------
    d : int
        Dimension.
    radius : array_like, optional
        Radii, > 0; 200 of them up to ``sqrt(d) + 4`` if None.

    Returns
    -------
    Concentration
        Named arrays of the shape of `radius`.

    Raises
    ------
    ValueError
        If d < 1 or a radius is not positive.

    References
    ----------
    .. [1] "A Conceptual Introduction to Hamiltonian Monte Carlo" (2017), arXiv 1701.02434,
       section 1.2.

    Examples
    --------
    >>> c = concentration(100)
    >>> round(float(c.radius[c.mass.argmax()]))
    10
    """
    d = check_count("d", d)
    if radius is None:
        r = np.linspace(0.0, d**0.5 + 4.0, 201)[1:]
    else:
        r = check_array("radius", radius)
        if (r <= 0).any():
            raise ValueError(f"radius must be positive, got {r.min()}")
    log_density = -0.5 * r**2 - 0.5 * d * np.log(2 * np.pi)
    log_volume = np.log(2) + 0.5 * d * np.log(np.pi) - gammaln(d / 2) + (d - 1) * np.log(r)
    return Concentration(r, log_density, log_volume, chi.pdf(r, d))

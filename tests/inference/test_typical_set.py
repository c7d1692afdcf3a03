"""Density times volume of a normal distribution concentrates near sqrt(d)."""

import numpy as np
import pytest

from thalweg.inference import concentration


@pytest.mark.parametrize("d", [1, 2, 10, 300])
def test_mass_is_density_times_volume(d):
    c = concentration(d)
    seen = c.mass > 1e-300
    product = (c.log_density + c.log_volume)[seen]
    np.testing.assert_allclose(np.log(c.mass[seen]), product, atol=1e-9)


@pytest.mark.parametrize("d", [2, 10, 300])
def test_mass_peaks_at_the_root_of_d_minus_one_and_adds_up(d):
    c = concentration(d, np.linspace(1e-3, d**0.5 + 8, 20_001))
    assert c.radius[c.mass.argmax()] == pytest.approx(np.sqrt(d - 1), abs=1e-2)
    assert np.trapezoid(c.mass, c.radius) == pytest.approx(1.0, abs=1e-3)


def test_radii_that_are_not_positive_are_refused():
    with pytest.raises(ValueError, match="radius"):
        concentration(3, [0.0, 1.0])
    with pytest.raises(ValueError, match="d must"):
        concentration(0)

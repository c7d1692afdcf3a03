import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gamma
from scipy.stats import kstest

from thalweg.transport import barenblatt, barenblatt_sample, barenblatt_variance

CASES = [(1, 2.0), (2, 2.0), (3, 1.5), (1, 4.0), (5, 3.0)]


def edge(d, t, m):
    """Radius of the support."""
    return brentq_edge(lambda r: float(barenblatt([r] + [0.0] * (d - 1), t, m)))


def brentq_edge(density):
    low, high = 0.0, 1.0
    while density(high) > 0:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if density(middle) > 0 else (low, middle)
    return high


def radial(function, d, t, m):
    sphere = 2 * np.pi ** (d / 2) / gamma(d / 2)
    return quad(
        lambda r: sphere * r ** (d - 1) * function(r) * barenblatt([r] + [0.0] * (d - 1), t, m),
        0,
        edge(d, t, m),
        epsabs=1e-11,
        limit=200,
    )[0]


@pytest.mark.parametrize(("d", "m"), CASES)
@pytest.mark.parametrize("t", [0.3, 1.0, 7.0])
def test_mass_is_one_and_the_variance_is_that_of_the_density(d, m, t):
    assert radial(lambda r: 1.0, d, t, m) == pytest.approx(1, abs=1e-6)
    variance = radial(lambda r: r**2, d, t, m) / d
    assert barenblatt_variance(d, t, m) == pytest.approx(variance, rel=1e-6)


@pytest.mark.parametrize(("d", "m"), CASES)
def test_density_solves_the_porous_medium_equation(d, m):
    """Central differences of order 4: their error is far below 1e-5 of the rate of change."""
    t, h = 1.3, 1e-3
    x = 0.4 * edge(d, t, m) * np.ones(d) / np.sqrt(d)

    def rho(point, time):
        return float(barenblatt(point, time, m))

    weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    rate = sum(w * rho(x, t + k * h) for k, w in weights.items()) / h
    second = {-2: -1 / 12, -1: 4 / 3, 0: -5 / 2, 1: 4 / 3, 2: -1 / 12}
    laplacian = sum(
        w * rho(x + k * h * axis, t) ** m / h**2 for axis in np.eye(d) for k, w in second.items()
    )
    assert rate == pytest.approx(laplacian, rel=1e-5)


@pytest.mark.parametrize(("d", "m"), CASES)
def test_sample_has_the_density(d, m):
    t = 2.0
    X = barenblatt_sample(20_000, d, t, m, rng=0)
    radii = np.linalg.norm(X, axis=1)
    assert radii.max() <= edge(d, t, m) * (1 + 1e-9)
    np.testing.assert_allclose(X.var(0), barenblatt_variance(d, t, m), rtol=0.05)
    np.testing.assert_allclose(X.mean(0), 0, atol=0.05)
    sphere = 2 * np.pi ** (d / 2) / gamma(d / 2)
    grid = np.linspace(0, edge(d, t, m), 4001)
    points = np.zeros((len(grid), d))
    points[:, 0] = grid
    density = sphere * grid ** (d - 1) * barenblatt(points, t, m)
    cdf = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))])
    assert kstest(radii, lambda r: np.interp(r, grid, cdf)).pvalue > 1e-3


def test_leading_axes_are_kept():
    assert barenblatt(np.zeros((2, 3, 4)), 1.0).shape == (2, 3)
    assert barenblatt([0.0, 0.0], 1.0).shape == ()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: barenblatt([[0.0]], 0.0), "t must be a finite number > 0"),
        (lambda: barenblatt([[0.0]], 1.0, 1.0), "m must be a finite number > 1"),
        (lambda: barenblatt(0.0, 1.0), "x must have shape"),
        (lambda: barenblatt([[np.inf]], 1.0), "x must be finite"),
        (lambda: barenblatt_sample(0, 1, 1.0), "n must be an integer >= 1"),
        (lambda: barenblatt_sample(1, 1, -1.0), "t must be a finite number > 0"),
        (lambda: barenblatt_variance(1, 1.0, 0.5), "m must be a finite number > 1"),
        (lambda: barenblatt_variance(0, 1.0), "d must be an integer >= 1"),
    ],
)
def test_bad_input_is_refused_by_name(call, match):
    with pytest.raises(ValueError, match=match):
        call()

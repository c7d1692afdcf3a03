import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.descent import L1, Box, SquaredL2, lmo, primal_norm, trust_region_step

VALUE = {
    L1: lambda r, x: r.lam * np.abs(x).sum(),
    SquaredL2: lambda r, x: r.lam * np.sum(x * x) / 2,
    Box: lambda r, x: 0.0,
}


def objective(m, regulariser, x):
    return float(np.sum(m * x) + VALUE[type(regulariser)](regulariser, x))


def brute_force(m, centre, radius, norm, regulariser):
    """Minimise with SLSQP over x = p - q, p, q >= 0, in which |x| is smooth."""
    d = len(m)
    split = lambda z: z[:d] - z[d:]  # noqa: E731

    def value(z):
        extra = (
            regulariser.lam * z.sum()
            if isinstance(regulariser, L1)
            else VALUE[type(regulariser)](regulariser, split(z))
        )
        return m @ split(z) + extra

    ball = (
        [lambda z: radius**2 - np.sum((split(z) - centre) ** 2)]
        if norm == "l2"
        else [lambda z: radius - (split(z) - centre), lambda z: radius + (split(z) - centre)]
    )
    if isinstance(regulariser, Box):
        ball += [lambda z: split(z) - regulariser.lo, lambda z: regulariser.hi - split(z)]
    best = np.inf
    for start in (centre, centre - 0.1 * radius * m / np.linalg.norm(m)):
        z = np.concatenate([np.maximum(start, 0), np.maximum(-start, 0)])
        found = scipy.optimize.minimize(
            value,
            z,
            bounds=[(0, None)] * (2 * d),
            constraints=[{"type": "ineq", "fun": f} for f in ball],
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 1000},
        )
        if min(np.min(f(found.x)) for f in ball) > -1e-8:
            best = min(best, found.fun)
    return best


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("regulariser", [L1(0.7), SquaredL2(1.3), Box(-0.4, 0.9)])
@pytest.mark.parametrize("seed", range(6))
def test_step_agrees_with_brute_force(norm, regulariser, seed):
    rng = np.random.default_rng(seed)
    m, centre = rng.normal(size=3), rng.uniform(-0.4, 0.9, size=3)
    radius = [0.2, 0.5, 2.0][seed % 3]
    x = trust_region_step(m, centre, radius, norm, regulariser)
    assert primal_norm(x - centre, norm) <= radius * (1 + 1e-9)
    expected = brute_force(m, centre, radius, norm, regulariser)
    assert objective(m, regulariser, x) == pytest.approx(expected, abs=1e-6)


@given(seed=st.integers(0, 10_000), radius=st.floats(0.05, 3))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize(
    ("norm", "regulariser"),
    [
        ("l2", L1(0.5)),
        ("l2", SquaredL2(2.0)),
        ("l2", Box(-1.0, 1.0)),
        ("linf", L1(0.5)),
        ("linf", SquaredL2(2.0)),
        ("linf", Box(-1.0, 1.0)),
        ("spectral", SquaredL2(2.0)),
    ],
)
def test_no_feasible_point_nearby_is_better(norm, regulariser, seed, radius):
    rng = np.random.default_rng(seed)
    m, centre = rng.normal(size=(3, 2)), rng.uniform(-1, 1, size=(3, 2))
    x = trust_region_step(m, centre, radius, norm, regulariser)
    value = objective(m, regulariser, x)
    for scale in (1e-3, 1e-1, 1.0):
        for noise in rng.normal(size=(20, 3, 2)):
            other = x + scale * noise
            if isinstance(regulariser, Box):
                other = np.clip(other, -1, 1)
            away = other - centre
            other = centre + away * min(1, radius / primal_norm(away, norm))
            assert objective(m, regulariser, other) >= value - 1e-9


def test_without_regulariser_it_is_the_centre_plus_the_oracle():
    m, centre = np.array([[1.0, -2.0], [0.5, 3.0]]), np.full((2, 2), 0.3)
    x = trust_region_step(m, centre, 0.2, "spectral")
    np.testing.assert_allclose(x, centre + lmo(m, "spectral", 0.2))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_wide_region_gives_the_unconstrained_minimiser(norm):
    m, centre = np.array([0.4, -1.0]), np.array([2.0, 1.0])
    x = trust_region_step(m, centre, 100.0, norm, SquaredL2(2.0))
    np.testing.assert_allclose(x, -m / 2.0, rtol=1e-9)


def test_l2_step_ends_on_the_border_to_1e12():
    x = trust_region_step([3.0, -1.0, 0.2], [1.0, 1.0, 1.0], 0.3, "l2", L1(0.5))
    assert np.linalg.norm(x - 1.0) == pytest.approx(0.3, rel=1e-11)


def test_own_proximal_operator_works_with_l2():
    class NonNegative:
        def prox(self, v, t):
            return np.maximum(v, 0.0)

    m, centre = np.array([1.0, 1.0]), np.array([0.1, 5.0])
    x = trust_region_step(m, centre, 1.0, "l2", NonNegative())
    np.testing.assert_allclose(x, [0.0, 5.0 - np.sqrt(1 - 0.01)], atol=1e-9)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_box_out_of_reach_is_refused(norm):
    with pytest.raises(ValueError, match="regulariser must be finite somewhere"):
        trust_region_step([1.0], [0.0], 0.5, norm, Box(2.0, 3.0))


@pytest.mark.parametrize(
    ("norm", "regulariser"),
    [("l1", L1(1.0)), ("nuclear", SquaredL2(1.0)), ("spectral", L1(1.0)), ("row", Box(0, 1))],
)
def test_pair_without_exact_step_is_refused_by_name(norm, regulariser):
    pattern = f"norm='{norm}' with regulariser {type(regulariser).__name__}"
    with pytest.raises(NotImplementedError, match=pattern):
        trust_region_step(np.eye(2), np.eye(2), 1.0, norm, regulariser)


def test_object_without_prox_is_refused():
    with pytest.raises(TypeError, match="prox"):
        trust_region_step([1.0], [1.0], 1.0, "l2", "L1")


def test_proximal_operator_that_fails_is_reported():
    class Broken:
        def prox(self, v, t):
            return v * np.nan

    with pytest.raises(ValueError, match=r"regulariser\.prox must return finite numbers"):
        trust_region_step([1.0], [1.0], 1.0, "l2", Broken())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: L1(0.0), "lam must be"),
        (lambda: SquaredL2(-1.0), "lam must be"),
        (lambda: Box(1.0, 0.0), "lo must be <= hi"),
        (lambda: trust_region_step([1.0], [1.0, 2.0], 1.0, "l2"), "centre must have shape"),
        (lambda: trust_region_step([1.0], [1.0], 0.0, "l2"), "radius must be"),
        (lambda: trust_region_step([np.nan], [1.0], 1.0, "l2"), "m must be finite"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()

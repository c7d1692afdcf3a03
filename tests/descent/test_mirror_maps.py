"""Mirror maps: steps against SciPy's minimisers of what defines them, and their geometry."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from thalweg.descent import (
    L1,
    BoxEntropy,
    Euclidean,
    NegativeEntropy,
    SquaredL2,
    VonNeumann,
    project_simplex,
)
from thalweg.descent import Box as BoxTerm

LO, HI = np.array([-1.0, 0.0, 0.5, -3.0]), np.array([2.0, 1.0, 4.0, -1.0])
ETA = 0.7


def simplex_point(rng, n=4):
    return rng.dirichlet(np.ones(n) * 2)


def spectral_point(rng, n=3):
    A = rng.normal(size=(n, n))
    X = A @ A.T + 0.1 * np.eye(n)
    return X / np.trace(X)


MAPS = {
    "euclidean": (Euclidean(), lambda rng: rng.normal(size=4), lambda x: 0.5 * np.sum(x * x)),
    "simplex": (NegativeEntropy(), simplex_point, lambda x: np.sum(x * np.log(x))),
    "spectrahedron": (
        VonNeumann(),
        spectral_point,
        lambda X: np.trace(X @ scipy.linalg.logm(X)).real,
    ),
    "box": (
        BoxEntropy(LO, HI),
        lambda rng: LO + (HI - LO) * rng.uniform(0.05, 0.95, size=4),
        lambda x: np.sum((x - LO) * np.log(x - LO) + (HI - x) * np.log(HI - x)),
    ),
}
maps = pytest.mark.parametrize("name", MAPS)


def slope(name, x):
    """∇Phi, up to what is constant on the set."""
    return {
        "euclidean": lambda: x,
        "simplex": lambda: np.log(x),
        "spectrahedron": lambda: scipy.linalg.logm(x).real,
        "box": lambda: np.log((x - LO) / (HI - x)),
    }[name]()


def gradient_for(x, rng):
    g = rng.normal(size=x.shape)
    return g + g.T if x.ndim == 2 else g


@maps
@pytest.mark.parametrize("seed", range(4))
def test_step_and_argmin_are_stationary(name, seed):
    rng = np.random.default_rng(seed)
    mirror, point, _ = MAPS[name]
    x = point(rng)
    g = gradient_for(x, rng)
    for new, old in ((mirror.step(x, g, ETA), slope(name, x)), (mirror.argmin(g, ETA), 0.0)):
        residual = ETA * g + slope(name, new) - old
        if name == "simplex":
            residual = residual - residual.mean()
            assert new.sum() == pytest.approx(1)
        if name == "spectrahedron":
            residual = residual - np.trace(residual) / 3 * np.eye(3)
            assert np.trace(new) == pytest.approx(1)
            np.testing.assert_array_equal(new, new.T)
        np.testing.assert_allclose(residual, 0, atol=1e-9)


@maps
@pytest.mark.parametrize("seed", range(4))
def test_divergence_is_that_of_the_map(name, seed):
    rng = np.random.default_rng(seed)
    mirror, point, phi = MAPS[name]
    x, y = point(rng), point(rng)
    defined = phi(x) - phi(y) - np.sum(slope(name, y) * (x - y))
    assert mirror.divergence(x, y) == pytest.approx(defined, rel=1e-8)
    assert mirror.divergence(x, x) == pytest.approx(0, abs=1e-12)


@maps
@pytest.mark.parametrize("seed", range(6))
def test_maps_are_as_convex_as_they_say(name, seed):
    rng = np.random.default_rng(seed)
    mirror, point, _ = MAPS[name]
    x, y = point(rng), point(rng)
    length = {
        "simplex": lambda d: np.abs(d).sum(),
        "spectrahedron": lambda d: np.abs(np.linalg.eigvalsh(d)).sum(),
    }.get(name, np.linalg.norm)(x - y)
    assert mirror.divergence(x, y) >= 0.5 * mirror.rho * length**2 - 1e-12


@maps
def test_no_point_nearby_is_better_than_the_step(name):
    rng = np.random.default_rng(5)
    mirror, point, _ = MAPS[name]
    x = point(rng)
    g = gradient_for(x, rng)
    new = mirror.step(x, g, ETA)

    def objective(y):
        return ETA * np.sum(g * y) + mirror.divergence(y, x)

    for _ in range(50):
        other = new + 0.3 * (point(rng) - new)
        assert objective(other) >= objective(new)


def test_simplex_step_multiplies_the_weights():
    rng = np.random.default_rng(0)
    x, g = simplex_point(rng), rng.normal(size=4)
    expected = x * np.exp(-ETA * g)
    np.testing.assert_allclose(NegativeEntropy().step(x, g, ETA), expected / expected.sum())
    np.testing.assert_allclose(
        NegativeEntropy().argmin(g, ETA), np.exp(-ETA * g) / np.exp(-ETA * g).sum()
    )


def test_huge_gradients_overflow_nowhere():
    with np.errstate(all="raise", under="ignore"):
        x = NegativeEntropy().step(np.full(3, 1 / 3), np.array([1e6, -1e6, 0.0]), 1.0)
        np.testing.assert_array_equal(x, [0, 1, 0])
        back = NegativeEntropy().step(x, np.array([-1e6, 1e6, 0.0]), 1.0)
        np.testing.assert_array_equal(back, [1, 0, 0])
        corner = BoxEntropy(0.0, 1.0).step(np.array([0.5]), np.array([1e6]), 1.0)
        assert 0 <= corner[0] <= 1e-12
        assert BoxEntropy(0.0, 1.0).step(corner, np.array([-1e6]), 1.0)[0] == 1.0
        X = VonNeumann().step(np.eye(2) / 2, np.diag([1e3, -1e3]), 1.0)
        np.testing.assert_array_equal(X, np.diag([0, 1]))


def test_spectral_step_of_diagonal_matrices_is_that_of_the_simplex():
    rng = np.random.default_rng(1)
    x, g = simplex_point(rng), rng.normal(size=4)
    X = VonNeumann().step(np.diag(x), np.diag(g), ETA)
    np.testing.assert_allclose(X, np.diag(NegativeEntropy().step(x, g, ETA)), atol=1e-14)


def test_gradients_count_by_their_symmetric_part():
    rng = np.random.default_rng(1)
    X, G = spectral_point(rng), rng.normal(size=(3, 3))
    for call in (lambda G: VonNeumann().step(X, G, ETA), lambda G: VonNeumann().argmin(G, ETA)):
        np.testing.assert_allclose(call(G), call(G.T), atol=1e-14)


def test_euclidean_steps_are_projected():
    mirror = Euclidean(project_simplex)
    x, g = np.array([0.2, 0.8]), np.array([3.0, -1.0])
    np.testing.assert_array_equal(mirror.step(x, g, 0.5), project_simplex(x - 0.5 * g))
    np.testing.assert_array_equal(mirror.argmin(g, 0.5), project_simplex(-0.5 * g))
    np.testing.assert_array_equal(mirror.start(np.array([2.0, 2.0])), [0.5, 0.5])


COMPOSITE = [
    ("euclidean", L1(0.8)),
    ("euclidean", SquaredL2(0.8)),
    ("simplex", SquaredL2(0.8)),
    ("simplex", SquaredL2(500.0)),
    ("spectrahedron", SquaredL2(2.0)),
    ("box", L1(0.8)),
    ("box", SquaredL2(0.8)),
    ("box", SquaredL2(50.0)),
]


@pytest.mark.parametrize(("name", "term"), COMPOSITE, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("seed", range(3))
def test_composite_step_is_the_minimiser(name, term, seed):
    rng = np.random.default_rng(seed)
    mirror, point, _ = MAPS[name]
    x = point(rng)
    g = gradient_for(x, rng)
    new = mirror.composite_step(x, g, ETA, term)

    def objective(y):
        r = np.abs(y).sum() if isinstance(term, L1) else 0.5 * np.sum(y * y)
        return ETA * (np.sum(g * y) + term.lam * r) + mirror.divergence(y, x)

    for scale in (1e-4, 1e-2, 0.5):
        for _ in range(30):
            other = new + scale * (point(rng) - new)
            assert objective(other) >= objective(new) - 1e-12


def test_composite_step_on_the_simplex_agrees_with_scipy():
    rng = np.random.default_rng(0)
    x, g = simplex_point(rng), rng.normal(size=4)
    mirror, term = NegativeEntropy(), SquaredL2(3.0)
    peer = minimize(
        lambda y: ETA * (g @ y + 1.5 * y @ y) + mirror.divergence(y, x),
        x,
        method="SLSQP",
        bounds=[(1e-9, 1)] * 4,
        constraints={"type": "eq", "fun": lambda y: y.sum() - 1},
        options={"ftol": 1e-15},
    )
    np.testing.assert_allclose(mirror.composite_step(x, g, ETA, term), peer.x, atol=1e-6)


@given(st.floats(1e-8, 1e4), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_composite_step_on_the_simplex_sums_to_one_at_any_weight(lam, seed):
    rng = np.random.default_rng(seed)
    x = simplex_point(rng, 6)
    new = NegativeEntropy().composite_step(x, rng.normal(size=6), 1.0, SquaredL2(lam))
    assert new.min() > 0
    assert new.sum() == pytest.approx(1, abs=1e-12)
    if lam > 1e3:
        np.testing.assert_allclose(new, np.full(6, 1 / 6), atol=0.02)


@pytest.mark.parametrize(
    ("mirror", "start", "message"),
    [
        (NegativeEntropy(), [0.5, 0.6], "x0 must be positive with sum 1"),
        (NegativeEntropy(), [1.0, 0.0], "x0 must be positive with sum 1"),
        (NegativeEntropy(), [1.5, -0.5], "x0 must be positive with sum 1"),
        (BoxEntropy(0, 1), [1.0], "x0 must be strictly between lo and hi"),
        (BoxEntropy(0, 1), [0.0], "x0 must be strictly between lo and hi"),
        (VonNeumann(), [1.0], "x0 must be a square matrix"),
        (VonNeumann(), [[0.5, 0.1], [0.0, 0.5]], "x0 must be symmetric"),
        (VonNeumann(), [[0.5, 0.0], [0.0, 0.6]], "with trace 1"),
        (VonNeumann(), [[1.5, 0.0], [0.0, -0.5]], "positive definite"),
    ],
)
def test_starts_outside_the_set_are_refused(mirror, start, message):
    with pytest.raises(ValueError, match=message):
        mirror.start(np.array(start))


@pytest.mark.parametrize(
    ("mirror", "term", "message"),
    [
        (NegativeEntropy(), L1(1.0), "regulariser must not be L1 on the simplex"),
        (NegativeEntropy(), BoxTerm(0, 1), "regulariser must be SquaredL2 for NegativeEntropy"),
        (VonNeumann(), L1(1.0), "regulariser must be SquaredL2 for VonNeumann"),
        (BoxEntropy(0, 1), BoxTerm(0, 1), "regulariser must be L1 or SquaredL2 for BoxEntropy"),
        (Euclidean(project_simplex), L1(1.0), "regulariser must be None for Euclidean with"),
    ],
)
def test_regularisers_without_a_step_are_refused(mirror, term, message):
    with pytest.raises(ValueError, match=message):
        mirror.check_regulariser(term)


def test_malformed_maps_are_refused():
    with pytest.raises(ValueError, match="lo must be < hi"):
        BoxEntropy([0.0, 1.0], 1.0)
    with pytest.raises(ValueError, match="hi must be finite"):
        BoxEntropy(0.0, np.inf)
    with pytest.raises(TypeError, match="projection must be callable"):
        Euclidean(3)

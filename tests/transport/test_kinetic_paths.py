import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

from thalweg.transport import (
    DataSeparation,
    GaussianPath,
    kinetic_energy,
    minimal_kinetic_energy,
    monte_carlo_kinetic_energy,
    normalize_data,
    odeint,
)

SIGNS = np.array([[-1.0], [1.0]])
SMOOTH = DataSeparation.from_function(lambda s: (s**2 + s**4 / (1 + s**4)) / (1 + s**2))
PATHS = {
    "cond_ot": GaussianPath.cond_ot(),
    "vp_cosine": GaussianPath.vp_cosine(),
    "vp_linear": GaussianPath.vp_linear(),
    "ve": GaussianPath.ve(),
    "ko": GaussianPath.kinetic_optimal(SMOOTH),
}
each_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def energy_by_identity(path, separation):
    """int a'^2 + m'^2 - (1 - lambda(a/m)) (a' - a m'/m)^2 dt, from derivatives, by quadrature."""

    def integrand(t):
        a, m, da, dm = path.coefficients(t)
        return da**2 + dm**2 - (1 - separation(a / m)) * (da - a * dm / m) ** 2

    return sum(
        quad(integrand, low, high, limit=400)[0]
        for low, high in ((1e-9, 0.01), (0.01, 0.99), (0.99, 1 - 1e-9))
    )


@each_path
def test_ends_are_noise_and_data(path):
    a, m, _, _ = path.coefficients([0.0, 1.0])
    np.testing.assert_allclose(a, [0, 1], atol=1e-9)
    np.testing.assert_allclose(m, [1, 0], atol=1e-9)


@each_path
def test_derivatives_are_those_of_the_factors(path):
    t, h = np.linspace(0.02, 0.98, 49), 1e-6
    for factor, slope in ((path.a, path.da), (path.m, path.dm)):
        np.testing.assert_allclose(
            (factor(t + h) - factor(t - h)) / (2 * h), slope(t), rtol=1e-4, atol=1e-5
        )


@each_path
def test_signal_rises_and_noise_falls(path):
    a, m, _, _ = path.coefficients(np.linspace(0, 1, 300))
    assert (np.diff(np.arctan2(a, m)) > 0).all()
    assert (np.hypot(a, m) <= 1 + 1e-12).all()


@each_path
@pytest.mark.parametrize("last", [0.5, 0.95])
def test_conditional_velocity_leads_noise_to_the_point(path, last):
    z, x1 = np.random.default_rng(0).normal(size=(2, 5, 3))
    first = 1e-3
    start = path.a(first) * x1 + path.m(first) * z
    end = odeint(
        lambda t, x: path.conditional_velocity(t, x, x1), start, t0=first, t1=last,
        method="dopri5", rtol=1e-8, atol=1e-9,
    )  # fmt: skip
    np.testing.assert_allclose(end, path.a(last) * x1 + path.m(last) * z, atol=1e-6)


def test_known_paths_have_their_factors():
    t = np.array([0.0, 0.25, 0.5, 1.0])
    np.testing.assert_allclose(PATHS["cond_ot"].coefficients(t)[:2], [t, 1 - t])
    np.testing.assert_allclose(PATHS["vp_cosine"].a(0.5), np.sqrt(0.5))
    total = 0.4 * 0.1 + 0.5 * 19.9 * 0.4**2
    np.testing.assert_allclose(PATHS["vp_linear"].a(0.6), np.exp(-total / 2), atol=0.005)
    sigma = 100 * 1e-4**0.4
    np.testing.assert_allclose(GaussianPath.ve().a(0.4) / GaussianPath.ve().m(0.4), 1 / sigma, 0.02)
    for name in ("vp_linear", "ve"):
        a, m, _, _ = PATHS[name].coefficients(np.linspace(0, 1, 20))
        np.testing.assert_allclose(a**2 + m**2, 1)


def test_conditional_velocity_takes_a_time_a_row_and_tensors():
    path = PATHS["ko"]
    x, x1 = np.random.default_rng(0).normal(size=(2, 3, 2))
    times = np.array([0.1, 0.5, 0.9])
    rows = path.conditional_velocity(times, x, x1)
    for t, row, point, end in zip(times, rows, x, x1, strict=True):
        np.testing.assert_allclose(path.conditional_velocity(t, point[None], end[None])[0], row)
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(v) for v in (times, x, x1)]
    np.testing.assert_allclose(path.conditional_velocity(*tensors).numpy(), rows)


def test_separate_points_make_straight_lines_optimal():
    perfect = DataSeparation.perfect()
    path, t = GaussianPath.kinetic_optimal(perfect), np.linspace(0, 1, 200)
    np.testing.assert_allclose(path.coefficients(t), PATHS["cond_ot"].coefficients(t), atol=1e-6)
    assert minimal_kinetic_energy(perfect) == pytest.approx(2)
    assert kinetic_energy(path, perfect) == pytest.approx(2, abs=1e-9)
    assert kinetic_energy(PATHS["vp_cosine"], perfect) == pytest.approx(np.pi**2 / 4, abs=1e-6)


def test_normal_data_moves_for_free():
    gaussian = DataSeparation.gaussian()
    assert minimal_kinetic_energy(gaussian) == 0
    path = GaussianPath.kinetic_optimal(gaussian)
    for one in (path, PATHS["vp_cosine"], PATHS["ve"]):
        assert kinetic_energy(one, gaussian) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(path.a(0.3), np.sin(0.15 * np.pi))
    bend = quad(lambda t: (2 * t - 1) ** 2 / (t**2 + (1 - t) ** 2), 0, 1)[0]
    assert kinetic_energy(PATHS["cond_ot"], gaussian) == pytest.approx(bend, abs=1e-6)


@pytest.mark.parametrize("name", ["cond_ot", "vp_cosine", "ko"])
def test_energy_is_that_of_the_identity(name):
    found = kinetic_energy(PATHS[name], SMOOTH)
    assert found == pytest.approx(energy_by_identity(PATHS[name], SMOOTH), abs=2e-4)


def test_energy_converges_from_below():
    coarse, fine = (kinetic_energy(PATHS["vp_cosine"], SMOOTH, n_quad=n) for n in (500, 5000))
    assert coarse <= fine
    assert fine == pytest.approx(coarse, abs=1e-4)


def test_optimal_energy_is_that_of_the_chord():
    least = minimal_kinetic_energy(SMOOTH)
    assert least == pytest.approx(2 - 2 * np.cos(SMOOTH.total_angle_))
    assert kinetic_energy(PATHS["ko"], SMOOTH) == pytest.approx(least, abs=1e-5)
    for path in PATHS.values():
        assert kinetic_energy(path, SMOOTH) >= least - 1e-12


def test_optimal_path_moves_at_constant_speed_in_the_flat_plane():
    a, m, _, _ = PATHS["ko"].coefficients(np.linspace(0, 1, 101))
    flat = SMOOTH.flat_angle(np.arctan2(a, m))
    plane = np.stack([np.hypot(a, m) * np.cos(flat), np.hypot(a, m) * np.sin(flat)], axis=1)
    np.testing.assert_allclose(np.diff(plane, n=2, axis=0), 0, atol=1e-4)


def test_angle_solves_the_differential_equation():
    Phi = SMOOTH.total_angle_

    def speed(t, theta):
        return np.sin(Phi) / ((1 - 2 * t * (1 - t) * (1 - np.cos(Phi))) * SMOOTH.g(theta))

    times = np.linspace(0.05, 1, 40)
    a, m, _, _ = PATHS["ko"].coefficients(times)
    theta = np.arctan2(a, m)
    found = solve_ivp(
        speed, (0.05, 1), [theta[0]], "LSODA", np.minimum(times, 1 - 1e-9), rtol=1e-9, atol=1e-11
    )
    np.testing.assert_allclose(found.y[0], theta, atol=1e-4)


def test_optimal_path_is_stationary():
    """Gradient of a discretised energy, from the metric alone, in the inner nodes of the path."""
    n = 400
    a, m, _, _ = PATHS["ko"].coefficients(np.linspace(0, 1, n + 1))
    nodes = np.stack([np.hypot(a, m), np.arctan2(a, m)])

    def energy(nodes):
        r, theta = nodes
        middle = SMOOTH.g((theta[1:] + theta[:-1]) / 2) * (r[1:] + r[:-1]) / 2
        return n * (np.diff(r) ** 2 + (middle * np.diff(theta)) ** 2).sum()

    waves = np.sin(np.pi * np.outer(np.arange(1, 5), np.linspace(0, 1, n + 1)))
    h = 1e-4
    for wave in waves:
        for direction in (np.stack([wave, 0 * wave]), np.stack([0 * wave, wave])):
            slope = (energy(nodes + h * direction) - energy(nodes - h * direction)) / (2 * h)
            assert abs(slope) < 1e-3


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.02, 1), min_size=4, max_size=4),
    st.lists(st.floats(-0.3, 0.3), min_size=4, max_size=4),
)
def test_no_path_beats_the_optimal_one(g, waves):
    separation = DataSeparation(np.linspace(0, np.pi / 2, 4), g)
    best = GaussianPath.kinetic_optimal(separation)
    energy = kinetic_energy(best, separation)
    assert energy == pytest.approx(minimal_kinetic_energy(separation), abs=1e-5)

    def schedule(t):
        warp = waves[0] * np.sin(np.pi * t) / 4 + waves[1] * np.sin(2 * np.pi * t) / 8
        factor = np.exp(waves[2] * np.sin(np.pi * t) + waves[3] * np.sin(2 * np.pi * t))
        a, m, da, dm = best.coefficients(np.clip(t + warp, 0, 1))
        return factor * a, factor * m, da, dm

    assert kinetic_energy(GaussianPath(schedule), separation) >= energy - 1e-5


@pytest.mark.parametrize("name", ["cond_ot", "vp_cosine", "ko"])
@pytest.mark.parametrize(("n", "d"), [(2, 1), (20, 5), (4, 12)])
def test_energy_is_that_of_the_velocity(name, n, d):
    X = SIGNS if d == 1 else normalize_data(np.random.default_rng(0).normal(size=(n, d)))[0]
    separation = DataSeparation.from_data(X, n_draws=6000, rng=0)
    path = GaussianPath.kinetic_optimal(separation) if name == "ko" else PATHS[name]
    value, error = monte_carlo_kinetic_energy(path, X, n=6000, rng=1)
    assert error < 0.03 * value
    assert abs(kinetic_energy(path, separation) - value) < max(4 * error, 0.01 * value)


def test_standard_error_is_the_spread_of_estimates():
    found = [
        monte_carlo_kinetic_energy(PATHS["vp_cosine"], SIGNS, n=64, n_times=8, rng=seed)
        for seed in range(150)
    ]
    values, errors = np.array(found).T
    assert 0.75 < values.std() / np.sqrt((errors**2).mean()) < 1.3


def test_measured_energy_does_not_depend_on_rotation_or_sign():
    X = normalize_data(np.random.default_rng(0).normal(size=(6, 15)))[0]
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(15, 15)))[0]
    value, error = monte_carlo_kinetic_energy(PATHS["cond_ot"], X, n=4000, rng=0)
    for other in (-X, X @ turn):
        found, other_error = monte_carlo_kinetic_energy(PATHS["cond_ot"], other, n=4000, rng=1)
        assert abs(found - value) < 4 * np.hypot(error, other_error)


def test_paths_can_be_pickled():
    for path in PATHS.values():
        copy = pickle.loads(pickle.dumps(path))
        np.testing.assert_array_equal(copy.coefficients(0.3), path.coefficients(0.3))


def test_a_path_that_stands_still_at_an_angle_is_passed_quickly():
    """Where g = 0 the angle jumps for free; it still takes some time, and costs next to nothing."""
    separation = DataSeparation([0, 0.5, 0.51, np.pi / 2], [0, 0, 1, 1])
    path = GaussianPath.kinetic_optimal(separation)
    gap = kinetic_energy(path, separation) - minimal_kinetic_energy(separation)
    assert 0 <= gap < 1e-3
    assert np.isfinite(path.coefficients(np.linspace(0, 1, 1000))).all()


def off(a0=0.0, m1=0.0):
    def schedule(t):
        return a0 + (1 - a0) * t, 1 - t + m1 * t, np.ones_like(t), -np.ones_like(t)

    return schedule


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: GaussianPath(off(a0=2e-6)), "schedule must have a = 0 at time 0"),
        (lambda: GaussianPath(off(m1=0.01)), "schedule must have m = 1 at time 0 and 0"),
        (lambda: GaussianPath.vp_linear(beta_min=0), "beta_min must be"),
        (lambda: GaussianPath.vp_linear(beta_max=-1), "beta_max must be"),
        (lambda: GaussianPath.ve(0.001), "sigma_max must be"),
        (lambda: GaussianPath.kinetic_optimal(SMOOTH, n_grid=0), "n_grid must be"),
        (lambda: PATHS["ko"].a(1.1), r"t must lie in \[0, 1\]"),
        (lambda: PATHS["ko"].conditional_velocity(1.0, SIGNS, SIGNS), "t must be a number"),
        (lambda: PATHS["ko"].conditional_velocity([0.1] * 3, SIGNS, SIGNS), "t must be a number"),
        (lambda: PATHS["ko"].conditional_velocity(0.1, SIGNS, SIGNS[:1]), "x1 must have the shape"),
        (lambda: kinetic_energy(PATHS["ko"], SMOOTH, n_quad=0), "n_quad must be"),
        (lambda: monte_carlo_kinetic_energy(PATHS["ko"], 3 * SIGNS), "X must be normalised"),
        (lambda: monte_carlo_kinetic_energy(PATHS["ko"], SIGNS, n=0), "n must be"),
    ],
)
def test_bad_input_is_refused_by_name(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: GaussianPath("ko"), "schedule must be callable"),
        (lambda: GaussianPath.kinetic_optimal(1.0), "separation must be a DataSeparation"),
        (lambda: kinetic_energy("ko", SMOOTH), "path must be a GaussianPath"),
        (lambda: minimal_kinetic_energy(1.0), "separation must be a DataSeparation"),
    ],
)
def test_other_types_are_refused_by_name(call, match):
    with pytest.raises(TypeError, match=match):
        call()


def test_a_path_through_negative_factors_has_no_energy():
    def schedule(t):
        return t - np.sin(np.pi * t), 1 - t, 1 - np.pi * np.cos(np.pi * t), -np.ones_like(t)

    with pytest.raises(ValueError, match="path must keep a >= 0"):
        kinetic_energy(GaussianPath(schedule), SMOOTH)

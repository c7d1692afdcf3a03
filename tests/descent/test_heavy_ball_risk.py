"""Expected risk of heavy ball: closed forms, matrix powers, simulation, and the theorem's bound."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.descent import expected_risk, optimal_stages, step_decay, step_decay_bound
from thalweg.descent.anisotropic_heavy_ball import momentum_of

SPECTRUM = np.array([1.0, 0.3, 0.02])
ERROR = np.array([1.0, -2.0, 0.5])


def dense_risk(lam, error, steps, betas, variances):
    """Bias and variance from the 2d x 2d iteration of means and covariances, dense."""
    d = len(lam)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    H = rotation @ np.diag(lam) @ rotation.T
    S = rotation @ np.diag(variances) @ rotation.T
    mean = np.concatenate([rotation @ error] * 2)
    cov = np.zeros((2 * d, 2 * d))
    for eta, beta in zip(steps, betas, strict=True):
        eye = np.eye(d)
        M = np.block([[(1 + beta) * eye - eta * H, -beta * eye], [eye, 0 * eye]])
        mean, cov = M @ mean, M @ cov @ M.T
        cov[:d, :d] += eta**2 * S
    return 0.5 * mean[:d] @ H @ mean[:d], 0.5 * np.trace(H @ cov[:d, :d])


def test_one_and_two_steps_by_hand():
    lam, beta, eta, next_eta, sigma2 = 0.4, 0.6, 0.5, 0.2, 0.03
    s = sigma2 * lam
    one = 1 - eta * lam
    two = (1 + beta - next_eta * lam) * one - beta
    bias, variance = expected_risk(
        [lam], [3.0], [eta, next_eta], momentum=beta, noise=sigma2, full=True
    )
    np.testing.assert_allclose(bias, 0.5 * lam * 9 * np.array([1, one**2, two**2]), rtol=1e-14)
    a = 1 + beta - next_eta * lam
    noise = np.array([0, eta**2 * s, (a * eta) ** 2 * s + next_eta**2 * s])
    np.testing.assert_allclose(variance, 0.5 * lam * noise, rtol=1e-14)
    assert expected_risk([lam], [3.0], [], momentum=beta, noise=1.0) == (0.5 * lam * 9, 0.0)


def test_the_third_step_by_hand():
    """The first one whose variance holds the covariance of two errors, q."""
    beta, sigma2 = 0.5, 1.0
    # With lambda = eta = s = 1: w_{t+1} = n_t + beta (w_t - w_{t-1}).
    _, variance = expected_risk([1.0], [0.0], [1.0] * 3, momentum=beta, noise=sigma2)
    weights = np.array([beta**2 - beta, beta, 1.0])
    assert variance == pytest.approx(0.5 * np.sum(weights**2), rel=1e-14)


def test_without_momentum_modes_shrink_and_noise_is_a_geometric_sum():
    eta, T, sigma2 = 0.7, 25, 0.01
    bias, variance = expected_risk(SPECTRUM, ERROR, [eta] * T, momentum=0.0, noise=sigma2)
    keep = (1 - eta * SPECTRUM) ** 2
    assert bias == pytest.approx(0.5 * np.sum(SPECTRUM * ERROR**2 * keep**T), rel=1e-12)
    sums = (1 - keep**T) / (1 - keep)
    expected = 0.5 * np.sum(SPECTRUM * eta**2 * sigma2 * SPECTRUM * sums)
    assert variance == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("T", [1, 2, 3, 50])
def test_agrees_with_dense_matrices(T):
    rng = np.random.default_rng(T)
    steps, betas = rng.uniform(0.1, 1.0, T), rng.uniform(0.0, 0.9, T)
    variances = rng.uniform(0.1, 1.0, 3)
    found = expected_risk(SPECTRUM, ERROR, steps, momentum=betas, noise=variances)
    assert found == pytest.approx(dense_risk(SPECTRUM, ERROR, steps, betas, variances), rel=1e-11)


def test_agrees_with_a_matrix_power_at_constant_steps():
    beta, eta, T = 0.6, 0.8, 40
    bias, _ = expected_risk(SPECTRUM, ERROR, [eta] * T, momentum=beta, noise=0.0)
    total = 0.0
    for lam, e in zip(SPECTRUM, ERROR, strict=True):
        M = np.array([[1 + beta - eta * lam, -beta], [1.0, 0.0]])
        total += 0.5 * lam * (np.linalg.matrix_power(M, T) @ [e, e])[0] ** 2
    assert bias == pytest.approx(total, rel=1e-12)


def test_agrees_with_simulated_runs():
    rng = np.random.default_rng(0)
    steps, beta, sigma2, runs = step_decay(60, L=1.0, kappa=50.0), 0.7, 0.05, 20_000
    bias, variance = expected_risk(SPECTRUM, ERROR, steps, momentum=beta, noise=sigma2, full=True)
    w = before = np.tile(ERROR, (runs, 1))
    for t, eta in enumerate(steps):
        noisy = SPECTRUM * w - np.sqrt(sigma2 * SPECTRUM) * rng.normal(size=w.shape)
        w, before = w - eta * noisy + beta * (w - before), w
        if t in (0, 1, 5, 20, 59):
            risks = 0.5 * np.sum(SPECTRUM * w**2, axis=1)
            error = risks.std() / math.sqrt(runs)
            assert risks.mean() == pytest.approx(bias[t + 1] + variance[t + 1], abs=4 * error)


def test_the_course_ends_where_the_last_step_does_on_many_modes():
    rng = np.random.default_rng(2)
    lam, error = rng.uniform(0.01, 1.0, 300), rng.normal(size=300)
    steps = step_decay(70, L=1.0, kappa=100.0)
    course = expected_risk(lam, error, steps, momentum=0.8, noise=0.1, full=True)
    last = expected_risk(lam, error, steps, momentum=0.8, noise=0.1)
    assert [len(part) for part in course] == [71, 71]
    assert [part[-1] for part in course] == pytest.approx(last, rel=1e-12)
    assert course[0][0] == pytest.approx(0.5 * np.sum(lam * error**2))
    assert course[1][0] == 0.0
    parts = [
        expected_risk(lam[i : i + 1], error[i : i + 1], steps, momentum=0.8, noise=0.1)
        for i in range(300)
    ]
    assert np.sum(parts, axis=0) == pytest.approx(last, rel=1e-11)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=5),
    st.integers(1, 60),
    st.floats(0.0, 0.95),
    st.integers(0, 2**20),
)
def test_risk_is_linear_in_noise_and_quadratic_in_the_start(lam, T, beta, seed):
    rng = np.random.default_rng(seed)
    error, steps = rng.normal(size=len(lam)), rng.uniform(0.01, 1.0, T)
    bias, variance = expected_risk(lam, error, steps, momentum=beta, noise=0.3)
    again = expected_risk(lam, 2 * error, steps, momentum=beta, noise=0.9)
    assert again == pytest.approx((4 * bias, 3 * variance), rel=1e-9)
    as_array = expected_risk(lam, error, steps, momentum=[beta] * T, noise=0.3 * np.array(lam))
    assert as_array == pytest.approx((bias, variance), rel=1e-12)
    assert bias >= 0
    assert variance > 0


def test_an_unstable_mode_is_named_with_its_radius():
    beta, eta = 0.5, 3.3
    trace = 1 + beta - eta
    radius = (abs(trace) + math.sqrt(trace**2 - 4 * beta)) / 2
    with pytest.warns(
        RuntimeWarning, match=rf"steps\[1\] = 3.3 .* radius of its mode is {radius:.4g}"
    ):
        bias, _ = expected_risk([1.0, 0.1], [1.0, 1.0], [0.1, eta, 0.1], momentum=beta, noise=0.0)
    assert math.isfinite(bias)
    with pytest.warns(RuntimeWarning):
        assert expected_risk([1.0], [1.0], [9.0] * 999, momentum=0.5, noise=1.0) == (
            math.inf, math.inf,
        )  # fmt: skip


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_the_longest_stable_step_is_not_warned_of(beta, recwarn):
    longest = 2 * (1 + beta)
    bias, _ = expected_risk([1.0], [1.0], [longest] * 500, momentum=beta, noise=0.0, full=True)
    assert bias[-1] == pytest.approx(bias[-100])
    assert not recwarn
    with pytest.warns(RuntimeWarning, match="unstable"):
        expected_risk([1.0], [1.0], [1.0001 * longest], momentum=beta, noise=0.0)


@pytest.mark.parametrize(
    ("changes", "error", "name"),
    [
        ({"eigenvalues": [1.0, 0.0]}, ValueError, "eigenvalues"),
        ({"eigenvalues": []}, ValueError, "eigenvalues"),
        ({"eigenvalues": [1.0, math.nan]}, ValueError, "eigenvalues"),
        ({"x0_error": [1.0]}, ValueError, "x0_error"),
        ({"steps": [0.1, -0.1]}, ValueError, "steps"),
        ({"steps": 0.1}, ValueError, "steps"),
        ({"steps": "many"}, TypeError, "steps"),
        ({"momentum": 1.0}, ValueError, "momentum"),
        ({"momentum": -0.1}, ValueError, "momentum"),
        ({"momentum": [0.1, 1.0]}, ValueError, "momentum"),
        ({"momentum": [0.1]}, ValueError, "momentum"),
        ({"noise": -1.0}, ValueError, "noise"),
        ({"noise": [1.0]}, ValueError, "noise"),
        ({"noise": [1.0, -1.0]}, ValueError, "noise"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, error, name):
    options = {
        "eigenvalues": [1.0, 0.5], "x0_error": [1.0, 1.0], "steps": [0.1, 0.1], "momentum": 0.5,
        "noise": 0.1,
    } | changes  # fmt: skip
    with pytest.raises(error, match=name):
        expected_risk(**options)


@pytest.mark.parametrize(
    ("kappa", "T", "noise"), [(100.0, 300, 1e-3), (100.0, 60, 1e-4), (1e4, 5000, 1.0)]
)
def test_optimal_stages_beat_every_other_number(kappa, T, noise):
    lam, error = np.logspace(0, -math.log10(kappa), 8), np.ones(8)
    best = optimal_stages(lam, error, T, noise)
    beta = momentum_of(kappa)
    assert best["momentum"] == pytest.approx(beta)
    table = {}
    for factor in (2.0, 4.0, 8.0):
        for n in range(1, 40):
            steps = step_decay(T, L=1.0, kappa=kappa, factor=factor, n_stages=n)
            table[factor, n] = sum(expected_risk(lam, error, steps, momentum=beta, noise=noise))
    assert best["risk"] == pytest.approx(min(table.values()), rel=1e-9)
    assert table[best["factor"], best["n_stages"]] == pytest.approx(best["risk"], rel=1e-9)
    assert best["risk"] == pytest.approx(best["bias"] + best["variance"])
    assert expected_risk(lam, error, best["steps"], momentum=beta, noise=noise) == pytest.approx(
        (best["bias"], best["variance"])
    )


def test_without_noise_one_stage_is_best():
    lam = np.logspace(0, -2, 5)
    assert optimal_stages(lam, np.ones(5), 200, 0.0)["n_stages"] == 1
    noisy = optimal_stages(lam, np.zeros(5), 200, 1.0, factors=[4.0], momentum=0.0)
    assert noisy["n_stages"] > 1
    assert noisy["momentum"] == 0.0
    assert optimal_stages(lam, np.ones(5), 3, 1.0, factors=[1.1])["n_stages"] <= 3


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"n_steps": 0}, "n_steps"),
        ({"eigenvalues": [1.0, -1.0]}, "eigenvalues"),
        ({"eigenvalues": []}, "eigenvalues"),
        ({"factors": [1.0]}, "factors"),
        ({"factors": []}, "factors"),
        ({"momentum": 1.0}, "momentum"),
        ({"noise": -1.0}, "noise"),
        ({"x0_error": [1.0]}, "x0_error"),
    ],
)
def test_bad_searches_are_refused_by_name(changes, name):
    options = {
        "eigenvalues": [1.0, 0.5], "x0_error": [1.0, 1.0], "n_steps": 20, "noise": 0.1
    } | changes  # fmt: skip
    with pytest.raises(ValueError, match=name):
        optimal_stages(**options)


@pytest.mark.filterwarnings("ignore:n_steps = 300 are too few")
def test_the_bound_by_hand():
    T, gap, kappa, d, sigma2, C = 300, 3.0, 9.0, 7, 1e-3, 2.0
    stages = math.log2(T * 3)
    bias = gap * 2**15 * T**2 * kappa**2 * math.exp(-2 * T / (3 * stages))
    variance = 4096 * C**2 * d * sigma2 / T * math.log(2**6 * T**4) ** 2 * stages**2
    options = {"kappa": kappa, "dim": d, "sigma2": sigma2, "factor": C}
    assert step_decay_bound(T, gap=gap, **options) == pytest.approx(bias + variance, rel=1e-12)
    assert step_decay_bound(T, gap=0.0, **options) == pytest.approx(variance, rel=1e-12)
    assert step_decay_bound(T, gap=gap, **options | {"sigma2": 0.0}) == pytest.approx(
        bias, rel=1e-10
    )


@pytest.mark.parametrize(
    "steps_of",
    [
        lambda T, L: 4.0**-12 * step_decay(T, L=L, kappa=16.0),
        lambda T, L: np.full(T, 2.0001 * (1 + momentum_of(16.0)) / L),
    ],
    ids=["far too short", "unstable"],
)
def test_the_bound_holds_for_the_method_and_not_for_wrong_steps(steps_of):
    kappa, T, sigma2 = 16.0, 40_000, 1e-10
    lam, error = np.logspace(0, -math.log10(kappa), 10), np.ones(10)
    beta = momentum_of(kappa)
    gap = 0.5 * lam.sum()
    bound = step_decay_bound(T, gap=gap, kappa=kappa, dim=10, sigma2=sigma2)
    steps = step_decay(T, L=1.0, kappa=kappa)
    assert sum(expected_risk(lam, error, steps, momentum=beta, noise=sigma2)) <= bound < 1e-2 * gap
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        wrong = expected_risk(lam, error, steps_of(T, 1.0), momentum=beta, noise=sigma2)
    assert sum(wrong) > bound


def test_too_few_steps_are_warned_of_and_the_formula_overflows_to_infinity():
    options = {"gap": 1.0, "kappa": 100.0, "dim": 5, "sigma2": 1.0}
    limit = next(
        T for T in range(10_000, 200_000, 10)
        if T / math.log(2.0**14 * T**8.0) >= 2 * 4 * 10 * math.log(10 * T, 4)
    )  # fmt: skip
    with pytest.warns(UserWarning, match="too few"):
        step_decay_bound(limit - 20, **options)
    step_decay_bound(limit, **options)
    with pytest.warns(UserWarning, match="too few"):
        huge = step_decay_bound(10, **options | {"kappa": 1e300, "factor": 1e3})
    assert huge == math.inf


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"n_steps": 0}, "n_steps"),
        ({"gap": -1.0}, "gap"),
        ({"kappa": 3.9}, "kappa"),
        ({"dim": 0}, "dim"),
        ({"sigma2": -1.0}, "sigma2"),
        ({"factor": 1.0}, "factor"),
        ({"factor": 201.0}, "factor"),
    ],
)
def test_bad_bounds_are_refused_by_name(changes, name):
    options = {"n_steps": 100, "gap": 1.0, "kappa": 4.0, "dim": 2, "sigma2": 1.0} | changes
    with pytest.raises(ValueError, match=name):
        step_decay_bound(options.pop("n_steps"), **options)

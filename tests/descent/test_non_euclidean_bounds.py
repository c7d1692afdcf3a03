import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.descent import (
    dual_norm,
    dual_norm_constant,
    nonconvex_bound,
    nonconvex_parameters,
    norm_trust_region,
    primal_norm,
    star_convex_bound,
    star_convex_parameters,
)

CONSTANTS = {"gap": 3.0, "L": 2.0, "sigma": 1.5, "rho": 1.2}


def test_nonconvex_bound_is_the_sum_of_the_recursion():
    """Sum e_{k+1} <= (1-alpha) e_k + ..., the decrease of each step, instead of the closed form."""
    K, radius, alpha = 400, 0.03, 0.2
    noise = CONSTANTS["rho"] * CONSTANTS["sigma"]
    fading, lag, error_sum = noise, 0.0, 0.0
    for k in range(K):
        averaged = noise * np.sqrt(alpha) if k else 0.0
        error_sum += fading + averaged + lag
        fading *= 1 - alpha
        lag = (1 - alpha) * (lag + CONSTANTS["L"] * radius)
    recursion = CONSTANTS["gap"] / (radius * K) + 2 * error_sum / K + CONSTANTS["L"] * radius / 2
    bound = nonconvex_bound(K, **CONSTANTS, radius=radius, alpha=alpha)
    assert recursion <= bound <= 1.02 * recursion


def test_extrapolated_bound_is_the_sum_of_the_recursion():
    K, radius, alpha, H = 2000, 0.05, 0.1, 4.0
    noise = CONSTANTS["rho"] * CONSTANTS["sigma"]
    fading, lag, error_sum = noise, 0.0, 0.0
    remainder = H / 2 * ((1 - alpha) * radius**2 + alpha * ((1 - alpha) / alpha * radius) ** 2)
    for k in range(K):
        error_sum += fading + lag + (noise * np.sqrt(alpha) if k else 0.0)
        fading *= 1 - alpha
        lag = (1 - alpha) * lag + remainder
    recursion = CONSTANTS["gap"] / (radius * K) + 2 * error_sum / K + CONSTANTS["L"] * radius / 2
    bound = nonconvex_bound(K, **CONSTANTS, radius=radius, alpha=alpha, hessian_lipschitz=H)
    assert recursion <= bound <= 1.02 * recursion


def test_star_convex_bound_is_the_fixed_point_of_the_recursion():
    K, D, alpha, beta = 300, 1.5, 0.1, 0.02
    noise = CONSTANTS["rho"] * CONSTANTS["sigma"]
    gap, fading, lag = CONSTANTS["gap"], noise, 0.0
    for k in range(K):
        error = fading + lag + (noise * np.sqrt(alpha) if k else 0.0)
        gap = (1 - beta) * gap + 2 * beta * D * error + 2 * CONSTANTS["L"] * (beta * D) ** 2
        fading *= 1 - alpha
        lag = (1 - alpha) * (lag + CONSTANTS["L"] * 2 * beta * D)
    bound = star_convex_bound(K, **CONSTANTS, D=D, alpha=alpha, beta=beta)
    assert gap <= bound <= 1.05 * gap


def test_first_noise_that_never_fades_counts_in_every_step():
    """With alpha near 0 and L = 0 the error of the average stays that of the first gradient."""
    gap, beta, D = 0.0, 0.05, 1.5
    for _ in range(50):
        gap = (1 - beta) * gap + 2 * beta * D * 1.2 * 1.5
    bound = star_convex_bound(50, gap=0.0, L=0.0, sigma=1.5, rho=1.2, D=D, alpha=1e-8, beta=beta)
    assert bound == pytest.approx(gap, rel=1e-3)


@given(
    seed=st.integers(0, 1000),
    radius=st.floats(0.005, 0.3),
    alpha=st.floats(0.05, 1.0),
    norm=st.sampled_from(["l2", "linf", "l1"]),
)
@settings(max_examples=25, deadline=None)
def test_noiseless_gradients_obey_the_nonconvex_bound(seed, radius, alpha, norm):
    """cos(x) + x²/4: second derivatives in [-1/2, 3/2] in each coordinate."""
    start = np.random.default_rng(seed).normal(size=2) * 3
    L = {"l2": 1.5, "linf": 3.0, "l1": 1.5}[norm]
    x = [start]
    norm_trust_region(
        lambda x: 0.0,
        start,
        jac=lambda x: -np.sin(x) + 0.5 * x,
        norm=norm,
        radius=radius,
        alpha=alpha,
        maxiter=100,
        callback=x.append,
    )
    grid = np.linspace(-4, 4, 100_001)
    least = 2 * np.min(np.cos(grid) + grid**2 / 4)
    gap = float(np.sum(np.cos(start) + start**2 / 4)) - least
    measured = np.mean([dual_norm(-np.sin(p) + 0.5 * p, norm) for p in x[:-1]])
    bound = nonconvex_bound(100, gap=gap, L=L, sigma=0.0, rho=1.0, radius=radius, alpha=alpha)
    assert measured <= bound


@pytest.mark.parametrize("norm", ["l2", "linf", "spectral", "row"])
def test_noisy_gap_obeys_the_star_convex_bound_and_the_ball(norm):
    target = 0.3 * np.random.default_rng(5).normal(size=(3, 2))
    D = 1.2 * primal_norm(target, norm)
    L = {"l2": 1.0, "linf": 6.0, "spectral": 2.0, "row": 3.0}[norm]
    parameters = star_convex_parameters(1000, D)
    gaps, largest = [], 0.0
    for seed in range(2):
        x = [np.zeros((3, 2))]
        norm_trust_region(
            lambda x: 0.0, x[0], jac=lambda x, rng: x - target + 0.1 * rng.normal(size=x.shape),
            norm=norm, stochastic=True, rng=seed, maxiter=1000, callback=x.append, **parameters,
        )  # fmt: skip
        gaps.append(0.5 * np.sum((x[-1] - target) ** 2))
        largest = max(largest, *(primal_norm(p, norm) for p in x))
    bound = star_convex_bound(
        1000, gap=0.5 * np.sum(target**2), L=L, sigma=0.1 * np.sqrt(6), D=D,
        rho=dual_norm_constant(norm, (3, 2)), alpha=parameters["alpha"],
        beta=parameters["weight_decay"],
    )  # fmt: skip
    assert np.mean(gaps) <= bound
    assert largest <= D * (1 + 1e-12)


@pytest.mark.parametrize(("extrapolate", "order"), [(False, -1 / 4), (True, -2 / 7)])
def test_suggested_parameters_give_the_stated_order(extrapolate, order):
    steps = np.array([1e8, 1e12])
    H = 1.0 if extrapolate else None
    bounds = [
        nonconvex_bound(
            int(K), **CONSTANTS, hessian_lipschitz=H,
            **nonconvex_parameters(int(K), extrapolate=extrapolate),
        )
        for K in steps
    ]  # fmt: skip
    slope = np.diff(np.log(bounds))[0] / np.diff(np.log(steps))[0]
    assert slope == pytest.approx(order, abs=0.01)


def test_star_convex_parameters_keep_the_ball_of_radius_D():
    parameters = star_convex_parameters(5000, 3.0)
    assert parameters["radius"] / parameters["weight_decay"] == pytest.approx(3.0)
    assert parameters["alpha"] == pytest.approx(5000 ** (-2 / 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nonconvex_bound(0, **CONSTANTS, radius=1, alpha=1), "K must be"),
        (lambda: nonconvex_bound(1, **CONSTANTS, radius=0, alpha=1), "radius must be"),
        (lambda: nonconvex_bound(1, **CONSTANTS, radius=1, alpha=0), "alpha must be"),
        (
            lambda: nonconvex_bound(1, **CONSTANTS, radius=1, alpha=1, hessian_lipschitz=-1),
            "hessian_lipschitz must be",
        ),
        (lambda: star_convex_bound(1, **CONSTANTS, D=0, alpha=1, beta=0.5), "D must be"),
        (lambda: star_convex_bound(1, **CONSTANTS, D=1, alpha=1, beta=1), "beta must be"),
        (lambda: star_convex_parameters(1, 1.0), "K must be"),
        (lambda: nonconvex_parameters(10, radius=-1.0), "radius must be"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""What the study of adversarial bridges measures, case by case."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from sklearn.datasets import make_swiss_roll
from sklearn.decomposition import PCA

from thalweg import data
from thalweg.transport import (
    AdversarialBridge,
    BridgeMatching,
    conditional_bw2_uvp,
    dimf_kl,
    energy_distance,
    gaussian_dimf,
    gaussian_eot,
    gaussian_mixture_pair,
)

DIMENSIONS, EPSILONS, INNER = (2, 16), (0.1, 1.0, 3.0, 10.0), (1, 2, 5, 10, 50)
ITERATIONS, CONDITION = 60, 16.0
RATE_RANGE = (1e-8, 1e-2)
PAIR_COVS = (np.array([[1.0, 0.4], [0.4, 0.6]]), np.array([[0.5, -0.3], [-0.3, 1.5]]))
PAIR_ITERATIONS = 4
ROLL_SCALE, ROLL_NOISE, ROLL_START = 7.5, 0.8, "minibatch-ot"
POINTS, BASELINE_CALLS = 20_000, 100
MIXTURE_EPSILON, MIXTURE_POINTS, DRAWS = 1.0, 200, 500
IMAGES, LABELS = "mnist-t10k-images", "mnist-t10k-labels"
COMPONENTS, DIGITS = 16, (2, 3)


def seed(rng):
    """Return an int for methods that take no NumPy generator."""
    return int(rng.integers(2**31))


def closed_form(rng):
    """Divergences from the bridge of exact D-IMF between Gaussians, and what the claims ask."""
    kl = np.empty((len(DIMENSIONS), len(EPSILONS), len(INNER), ITERATIONS + 1))
    for i, d in enumerate(DIMENSIONS):
        S0, S1 = covariance(d, rng), covariance(d, rng)
        for j, epsilon in enumerate(EPSILONS):
            C, _, _ = gaussian_eot(np.zeros(d), S0, np.zeros(d), S1, epsilon)
            for k, n in enumerate(INNER):
                path = gaussian_dimf(S0, S1, epsilon, n_inner=n, n_iter=ITERATIONS)
                kl[i, j, k] = [dimf_kl(S0, S1, each, C) for each in path]
    fits = [fit for path in kl.reshape(-1, ITERATIONS + 1) if (fit := rate(path)) is not None]
    strong, several = np.array(EPSILONS) >= 1, np.array(INNER) >= 2
    return {
        "kl": kl,
        "largest_rise": np.diff(kl, axis=-1).max(),
        "kl_at_end": kl[:, strong][:, :, several, -1].max(),
        "least_r2": min(r2 for _, r2 in fits),
        "rates": np.array([slope for slope, _ in fits]),
        "one_inner_kl": kl[DIMENSIONS.index(16), EPSILONS.index(1.0), INNER.index(1), -1],
    }


def covariance(d, rng):
    """Return a covariance of the chosen condition number, eigenvalues around 1, random axes."""
    axes, _ = np.linalg.qr(rng.standard_normal((d, d)))
    return (axes * np.geomspace(CONDITION**-0.5, CONDITION**0.5, d)) @ axes.T


def rate(path):
    """Return slope and R^2 of log divergence against iteration inside the range; None if short."""
    iterations = np.flatnonzero((path > RATE_RANGE[0]) & (path < RATE_RANGE[1]))
    if len(iterations) < 4:
        return None
    logs = np.log(path[iterations])
    fit = np.polynomial.Polynomial.fit(iterations, logs, 1)
    rest = logs - fit(iterations)
    return float(fit.deriv()(0.0)), float(1 - rest.var() / logs.var())


def gaussian_pair(epsilon, rng, **options):
    """Relative error of Cov(x0, x1) of a fitted bridge of two Gaussians."""
    zero = np.zeros(2)
    X, Y, test = (rng.multivariate_normal(zero, PAIR_COVS[k], size=POINTS) for k in (0, 1, 0))
    C, _, _ = gaussian_eot(zero, PAIR_COVS[0], zero, PAIR_COVS[1], epsilon)
    model = AdversarialBridge(epsilon, n_iter=PAIR_ITERATIONS, rng=seed(rng), **options).fit(X, Y)
    found = np.cov(test.T, model.transform(test).T)[:2, 2:]
    return np.linalg.norm(found - C) / np.linalg.norm(C)


def swiss_roll(n, rng):
    """Return points (n, 2) of a rolled strip with unit spread or so."""
    points, _ = make_swiss_roll(n, noise=ROLL_NOISE, random_state=seed(rng))
    return points[:, [0, 2]] / ROLL_SCALE


def roll(setup, rng, report):
    """Normal law to swiss roll: distances of both methods to the target, paths, and both models."""
    X, Y = rng.standard_normal((POINTS, 2)), swiss_roll(POINTS, rng)
    start, wanted = rng.standard_normal((setup.test_points, 2)), swiss_roll(setup.test_points, rng)
    rows: list[list[float]] = []
    for k, epsilon in enumerate(setup.roll_epsilons):

        def tell(state, k=k, epsilon=epsilon):
            share = (2 * state.round - 2 + (state.direction == "backward")) * state.n_steps
            done = (share + state.step) / (2 * setup.roll_iterations * state.n_steps)
            report((k + done) / len(setup.roll_epsilons), f"swiss roll, epsilon {epsilon:g}")

        hidden = (setup.width,) * 3
        ours = AdversarialBridge(
            epsilon,
            n_iter=setup.roll_iterations,
            steps_per_projection=setup.roll_steps,
            initial_coupling=ROLL_START,
            hidden=hidden,
            callback=tell,
            rng=seed(rng),
        ).fit(X, Y)
        theirs = BridgeMatching(
            epsilon,
            n_iter=setup.roll_iterations,
            n_steps=setup.baseline_steps,
            initial_coupling=ROLL_START,
            hidden=hidden,
            n_sde_steps=BASELINE_CALLS,
            rng=seed(rng),
        ).fit(X, Y)
        clouds = [ours.transform(start), theirs.transform(start)]
        clouds.append(theirs.transform(start, n_steps=ours.n_steps))
        rows.append([energy_distance(cloud, wanted) for cloud in clouds])
        if k == 0:
            paths, reached, models = ours.sample_path(start), clouds[0], (ours, theirs)
    distances = np.array(rows)
    few, many, same = distances.T
    return {
        "roll_distances": distances,
        "roll_floor": energy_distance(swiss_roll(setup.test_points, rng), wanted),
        "roll_excess": few - 2 * many,
        "roll_over_same_calls": few / same,
        "roll_paths": paths[:, :40],
        "roll_reached": reached,
        "roll_wanted": wanted,
        "models": models,
    }


def time_ratio(ours, theirs, rng):
    """Median time of translating 10 000 points, the baseline's over ours."""
    X = rng.standard_normal((10_000, 2))
    seconds = []
    for model in (theirs, ours):
        model.transform(X)
        found = []
        for _ in range(3):
            begin = time.perf_counter()
            model.transform(X)
            found.append(time.perf_counter() - begin)
        seconds.append(np.median(found))
    return seconds[0] / seconds[1]


def mixture_error(dim, rng, **options):
    """Error of the conditional laws, in percent, on a pair with a known plan."""
    pair = gaussian_mixture_pair(dim, MIXTURE_EPSILON, rng=rng)
    X, Y = pair.sample_source(POINTS, rng), pair.sample_target(POINTS, rng)
    model = AdversarialBridge(MIXTURE_EPSILON, rng=seed(rng), **options).fit(X, Y)
    test = pair.sample_source(MIXTURE_POINTS, rng)
    draws = model.transform(np.repeat(test, DRAWS, axis=0)).reshape(MIXTURE_POINTS, DRAWS, dim)
    mean = draws.mean(axis=1)
    rest = draws - mean[:, None]
    cov = rest.swapaxes(1, 2) @ rest / DRAWS
    truth = pair.conditional_moments(test)
    return conditional_bw2_uvp(mean, cov, truth[0], truth[1], pair.target_cov_)


def digits(rng, **options):
    """Energy distance of translated twos to threes held out, over that of the twos themselves."""
    read = partial(data.fetch, download=False)
    images = data.read_idx(read(IMAGES)).reshape(-1, 784) / 255.0
    labels = data.read_idx(read(LABELS))
    kept = np.isin(labels, DIGITS)
    codes = PCA(COMPONENTS, random_state=seed(rng)).fit_transform(images[kept])
    codes /= codes.std(axis=0).mean()
    (X, source), (Y, target) = (
        np.array_split(rng.permutation(codes[labels[kept] == digit]), 2) for digit in DIGITS
    )
    model = AdversarialBridge(1.0, rng=seed(rng), **options).fit(X, Y)
    moved = model.transform(source)
    found: dict[str, Any] = {
        "digits_ratio": energy_distance(moved, target) / energy_distance(source, target),
        "digits_distance": np.linalg.norm(moved - source, axis=1).mean(),
    }
    return found

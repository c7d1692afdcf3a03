"""Flows of distributions learned from mini-batches of particles follow the exact ones.

Five flows are run and compared with what is known of them: from Gaussian to Gaussian with the JKO
iterates in closed form; to a mixture of ten Gaussians with true samples; the porous medium equation
with Barenblatt's solution; the posterior of a logistic regression with its mode; and a Gaussian
cloud that becomes handwritten digits with a test that tells both apart. Langevin diffusion and
Stein variational gradient descent stand beside the mixture.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from matplotlib.ticker import NullFormatter
from sklearn.decomposition import PCA

from thalweg import data
from thalweg.studies.transport._wasserstein_flow_targets import (
    GaussianTarget,
    LogisticPosterior,
    MixtureTarget,
    langevin,
    stein_descent,
)
from thalweg.studies.transport.light_sb import read_clouds
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, reported
from thalweg.transport import (
    WassersteinGradientFlow,
    barenblatt,
    barenblatt_sample,
    barenblatt_variance,
    classifier_two_sample,
    energy_distance,
    gaussian_flow,
    gaussian_jko_step,
    gaussian_kl,
    variational_divergence,
)

GAUSSIAN_STEP, POROUS_STEP = 0.2, 0.1
LANGEVIN_STEP, STEIN_STEPS, STEIN_POINTS = 0.01, 300, 500
JUDGED_POINTS = 2000
DIGIT_COMPONENTS, DIGIT_TEST, DIGIT_STEP = 8, 2000, 2.0
DIGITS = "mnist-t10k-images"


def run(setup, rng, report):
    """Run the flows of the preset; return errors against what is known of each."""
    results: dict[str, Any] = {"gaussian_dims": list(setup.gaussian_dims)}
    for i, dim in enumerate(setup.gaussian_dims):
        report(0.02 + 0.1 * i, f"Gaussian to Gaussian, {dim} dimensions")
        results |= gaussian_to_gaussian(dim, setup, rng)
    for name in ("mean_error", "cov_error", "kl_share"):
        results[f"{name}s"] = [results[f"{name}_{dim}"] for dim in setup.gaussian_dims]
    report(0.25, "porous medium")
    found = [porous_medium(dim, setup, rng) for dim in setup.porous_dims]
    results |= found[0] | {"porous_errors": [f["porous_error"] for f in found]}
    results["mixture_dims"] = list(setup.mixture_dims)
    for i, dim in enumerate(setup.mixture_dims):
        report(0.35 + 0.1 * i, f"mixture of Gaussians, {dim} dimensions")
        results |= mixture(dim, setup, rng)
    if setup.mixture_dims:
        results["mixture_ratios"] = [results[f"mixture_ratio_{d}"] for d in (2, 4)]
    if setup.splits:
        report(0.7, "Bayesian regression")
        results |= regression(setup, rng)
    if setup.many_particles:
        report(0.85, "cost of a step")
        results["seconds_ratio"] = seconds_ratio(setup, rng)
    if setup.digit_steps and data.available(DIGITS):
        report(0.9, "digits")
        results |= digits(setup, rng)
    return results


def flow(setup, rng, energy="kl_density", **options):
    """Return the estimator with the settings of the preset."""
    seed = int(rng.integers(2**31))
    return WassersteinGradientFlow(energy, n_steps=setup.rounds, rng=seed, **options)


def gaussian_to_gaussian(dim, setup, rng):
    """Follow the flow from a unit normal cloud; compare moments and energy with exact iterates."""
    target, n_jko = GaussianTarget(dim), setup.gaussian_steps
    X = rng.standard_normal((setup.particles, dim))
    model = flow(
        setup, rng, log_density=target.log_density, step_size=GAUSSIAN_STEP, n_jko=n_jko
    ).fit(X)
    path = model.path(X)
    mean, cov = np.zeros(dim), np.eye(dim)
    exact = [(mean, cov)]
    for _ in range(n_jko):
        exact.append(gaussian_jko_step(*exact[-1], target.mean, target.cov, GAUSSIAN_STEP))
    kl = np.array([gaussian_kl(m, C, target.mean, target.cov) for m, C in exact])
    gaps = [np.cov(cloud.T) - C for cloud, (_, C) in zip(path, exact, strict=True)]
    norms = [np.linalg.norm(C) for _, C in exact]
    times = GAUSSIAN_STEP * np.linspace(0, n_jko, 101)
    flowed = [gaussian_flow(mean, cov, target.mean, target.cov, t) for t in times]
    found = {
        "mean_error": max(
            np.linalg.norm(cloud.mean(0) - m) for cloud, (m, _) in zip(path, exact, strict=True)
        ),
        "cov_error": max(np.linalg.norm(gap) for gap in gaps),
        "cov_relative": max(np.linalg.norm(g) / n for g, n in zip(gaps, norms, strict=True)),
        "kl_share": np.max(np.abs(model.energies_ - kl) / (0.05 + 0.1 * kl)),
        "energies": model.energies_,
        "exact_energies": kl,
        "flow_energies": [gaussian_kl(m, C, target.mean, target.cov) for m, C in flowed],
    }
    found = {f"{name}_{dim}": value for name, value in found.items()}
    if dim == 2:
        found["gaussian_path"] = path[:, :600]
        found["gaussian_means"] = path.mean(1)
        found["exact_means"] = [m for m, _ in exact]
        found["jko_error_2"] = [found["mean_error_2"], found["cov_error_2"]]
    return found


def porous_medium(dim, setup, rng):
    """Spread Barenblatt's solution from time 1; compare the variance."""
    X = barenblatt_sample(setup.particles, dim, 1.0, rng=rng)
    model = flow(setup, rng, "porous", step_size=POROUS_STEP, n_jko=setup.porous_steps).fit(X)
    path = model.path(X)
    times = 1 + POROUS_STEP * np.arange(len(path))
    exact = [barenblatt_variance(dim, t) for t in times]
    variances = path.var(1).mean(1)
    return {
        "porous_error": abs(variances[-1] / exact[-1] - 1),
        "porous_times": times,
        "porous_ends": path[[0, -1], :, 0],
        "porous_energies": model.energies_,
    }


def mixture(dim, setup, rng):
    """Sample the mixture from a wide normal cloud; energy distances over that of the start."""
    target = MixtureTarget(dim, rng)
    X = 4 * rng.standard_normal((setup.particles, dim))
    truth = target.sample(JUDGED_POINTS, rng)
    model = flow(
        setup,
        rng,
        log_density=target.log_density,
        step_size=setup.mixture_step,
        n_jko=setup.mixture_steps,
    ).fit(X)

    def distance(points):
        return energy_distance(points[:JUDGED_POINTS], truth)

    start = distance(X)
    shown = np.linspace(0, setup.mixture_steps, 6).astype(int)
    path = model.path(X)
    walkers, walked, span = X, [1.0], setup.mixture_step * np.diff(shown)
    for duration in span:
        walkers = langevin(
            target.log_density, walkers, duration, round(duration / LANGEVIN_STEP), rng
        )
        walked.append(distance(walkers) / start)
    stein = stein_descent(target.log_density, X[:STEIN_POINTS], STEIN_STEPS)
    return {
        f"mixture_ratio_{dim}": distance(path[-1]) / start,
        f"mixture_curve_{dim}": [distance(path[k]) / start for k in shown],
        f"langevin_curve_{dim}": walked,
        f"stein_ratio_{dim}": distance(stein) / start,
        "mixture_times": setup.mixture_step * shown,
    }


def regression(setup, rng):
    """Test accuracy of the posterior's particles less that of the mode, on several splits."""
    gains = []
    for split in range(setup.splits):
        posterior = LogisticPosterior(split)
        model = flow(
            setup,
            rng,
            log_density=posterior.log_density,
            step_size=setup.regression_step,
            n_jko=setup.regression_steps,
            n_outer=1,
        ).fit(posterior.start(2000, rng))
        gains.append(posterior.accuracy(model.particles_) - posterior.map_accuracy())
    return {"regression_gains": gains, "regression_gain": np.mean(gains)}


def seconds_ratio(setup, rng):
    """Time of a fit of three steps with ten times the particles, over that without; best of 3."""
    target, fastest = GaussianTarget(2), []
    for n in (setup.many_particles // 10, setup.many_particles):
        X, seconds = rng.standard_normal((n, 2)), []
        for _ in range(3):
            start = time.perf_counter()
            flow(setup, rng, log_density=target.log_density, n_jko=3).fit(X)
            seconds.append(time.perf_counter() - start)
        fastest.append(min(seconds))
    return fastest[1] / fastest[0]


def read_digits(rng):
    """Return the leading principal components of the digits, in random order."""
    images = data.read_idx(data.fetch(DIGITS, download=False)).reshape(10_000, -1)
    scores = PCA(DIGIT_COMPONENTS, random_state=0).fit_transform(images / 255.0)
    return rng.permutation(scores)


def digits(setup, rng):
    """Flow a normal cloud to the digits; judge new points against unseen digits."""
    cloud = read_digits(rng)
    unseen, Y = cloud[:DIGIT_TEST], cloud[DIGIT_TEST:]
    model = flow(setup, rng, "js_samples", step_size=DIGIT_STEP, n_jko=setup.digit_steps)
    path = model.fit(rng.standard_normal(Y.shape), Y).path(rng.standard_normal(unseen.shape))
    shown = np.linspace(0, setup.digit_steps, 5).astype(int)
    js = [variational_divergence(path[k], unseen, "js", n_steps=200, rng=0) for k in shown]
    return {
        "digit_js": js,
        "digit_js_last_over_first": js[-1] / js[0],
        "digit_js_largest_rise": np.diff(js).max(),
        "digit_auc_start": classifier_two_sample(path[0], unseen, rng=0),
        "digit_auc": classifier_two_sample(path[-1], unseen, rng=0),
    }


def draw(results, figure):
    """Particles and energy of the Gaussian flow; the porous medium; the approach to a mixture."""
    (cloud, energy), (porous, last) = figure.subplots(2, 2)
    draw_particles(results, cloud)
    draw_energies(results, energy)
    draw_porous(results, porous)
    if results["mixture_dims"]:
        draw_mixture(results, last)
    else:
        draw_moments(results, last)


def draw_particles(results, ax):
    """Particles at the start, after some steps and at the end."""
    path = results["gaussian_path"]
    shown = [0, 1, len(path) - 1]
    for k, color in zip(shown, ("0.6", "tab:orange", "tab:blue"), strict=True):
        label = f"t = {GAUSSIAN_STEP * k:.1f}"
        ax.scatter(*path[k].T, s=4, color=color, linewidths=0, label=label)
    angles = np.linspace(0, 2 * np.pi, 200)
    target = GaussianTarget(2)
    circle = np.stack([np.cos(angles), np.sin(angles)])
    for radius in (1, 2):
        ring = target.mean[:, None] + radius * np.sqrt(target.variances)[:, None] * circle
        ring_label = "target, 1 and 2 deviations" if radius == 1 else None
        ax.plot(*ring, color="black", lw=1, label=ring_label)
    ax.set(xlabel="first coordinate", ylabel="second coordinate", ylim=(-4.5, 8.5))
    ax.set_title("particles, Gaussian to Gaussian", fontsize=10)
    ax.legend(fontsize=8, loc="upper left", ncols=2, markerscale=2)


def draw_energies(results, ax):
    """Variational estimates beside the exact JKO iterates and the flow in continuous time."""
    colors = ("tab:blue", "tab:green", "tab:purple")
    for dim, color in zip(results["gaussian_dims"], colors, strict=False):
        energies, exact = results[f"energies_{dim}"], results[f"exact_energies_{dim}"]
        times = GAUSSIAN_STEP * np.arange(len(exact))
        fine = np.linspace(0, times[-1], len(results[f"flow_energies_{dim}"]))
        ax.semilogy(fine, results[f"flow_energies_{dim}"], ":", color=color, lw=1)
        ax.semilogy(times, exact, "-", color=color, lw=1)
        ax.semilogy(times, energies, "o", color=color, ms=4)
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.annotate(f"d = {dim}", (times[1], exact[1]), (6, 6), textcoords="offset points")
    for style, label in (("o", "learned, from samples"), ("-", "exact JKO"), (":", "exact flow")):
        ax.plot([], [], style, color="black", ms=4, lw=1, label=label)
    ax.set(xlabel="time", ylabel="KL divergence [nats]", ylim=(0.1, 100))
    ax.set_title("energy along the flow", fontsize=10)
    ax.legend(fontsize=8)


def draw_porous(results, ax):
    """Histograms of the particles at both ends over Barenblatt's density."""
    times, ends = results["porous_times"], np.asarray(results["porous_ends"])
    limit = 1.1 * np.abs(ends).max()
    grid = np.linspace(-limit, limit, 400)
    for cloud, t, color in zip(ends, (times[0], times[-1]), ("0.6", "tab:blue"), strict=True):
        ax.hist(cloud, 40, density=True, color=color, alpha=0.5, label=f"particles, t = {t:.1f}")
        ax.plot(grid, barenblatt(grid[:, None], t), color="black", lw=1)
    ax.plot([], [], color="black", lw=1, label="Barenblatt")
    ax.set(xlabel="position", ylabel="density", ylim=(0, 0.55))
    ax.set_title("porous medium, m = 2, d = 1", fontsize=10)
    ax.legend(fontsize=8, loc="upper center", ncols=2)


def draw_mixture(results, ax):
    """Energy distance to true samples over that of the start."""
    times = results["mixture_times"]
    colors = ("tab:blue", "tab:green", "tab:purple", "tab:red")
    for dim, color in zip(results["mixture_dims"], colors, strict=False):
        ours, theirs = results[f"mixture_curve_{dim}"], results[f"langevin_curve_{dim}"]
        ax.semilogy(
            times, np.maximum(ours, 1e-4), "o-", color=color, ms=4, lw=1, label=f"d = {dim}"
        )
        ax.semilogy(times, np.maximum(theirs, 1e-4), "x:", color=color, ms=4, lw=1)
    ax.plot([], [], "x:", color="black", ms=4, lw=1, label="Langevin")
    ax.set(xlabel="time", ylabel="energy distance\nto the target / at the start")
    ax.set_title("mixture of ten Gaussians", fontsize=10)
    ax.legend(fontsize=8, ncols=2)


def draw_moments(results, ax):
    """Means of both coordinates of the Gaussian flow beside the exact iterates."""
    means, exact = np.asarray(results["gaussian_means"]), np.asarray(results["exact_means"])
    times = GAUSSIAN_STEP * np.arange(len(means))
    for i, color in enumerate(("tab:blue", "tab:orange")):
        ax.plot(times, exact[:, i], color=color, lw=1)
        ax.plot(times, means[:, i], "o", color=color, ms=4, label=f"coordinate {i + 1}")
    ax.plot([], [], color="black", lw=1, label="exact JKO")
    ax.set(xlabel="time", ylabel="mean of the particles")
    ax.set_title("Gaussian to Gaussian", fontsize=10)
    ax.legend(fontsize=8, loc="upper left")


def on_file(path, setup, out, rng, report):
    """Flow the source of a user's file to its target by the Jensen-Shannon divergence."""
    clouds = read_clouds(path)
    source, target = clouds["source"], clouds["target"]
    pooled = np.concatenate([source, target])
    unit = float(np.sqrt(pooled.var(0).mean())) if setup.rescale else 1.0
    if not unit > 0:
        raise ValueError("--input: source and target must not be single points")

    def progress(state):
        done = (state.jko_step + state.step / state.n_steps) / (state.n_jko + 1)
        report(done, f"step {state.jko_step}, loss {state.loss:.4g}")

    model = WassersteinGradientFlow(
        "js_samples",
        step_size=setup.step_size,
        n_jko=setup.steps,
        n_steps=setup.rounds,
        callback=progress,
        rng=int(rng.integers(2**31)),
    ).fit(source / unit, target / unit)
    written = model.path(source / unit) * unit
    np.savez(out / "path.npz", path=written, energies=model.energies_)
    return {
        "unit": unit,
        "js_at_start": float(model.energies_[0] / 2),
        "js_at_end": float(model.energies_[-1] / 2),
        "energy_distance_at_start": energy_distance(source, target),
        "energy_distance_at_end": energy_distance(written[-1], target),
    }


JKO = "the learned maps follow the steps of Jordan, Kinderlehrer and Otto"
SAMPLES = "functionals of the density are evaluated from samples alone"
SCALES = "sampling an unnormalised density scales with the dimension"
DATA = "the flow is well defined for empirical distributions"
EMPTY = {
    "mixture_dims": (),
    "mixture_steps": 1,
    "mixture_step": 0.2,
    "splits": 0,
    "regression_steps": 1,
    "regression_step": 0.1,
    "many_particles": 0,
    "digit_steps": 0,
}

STUDY = Study(
    paper="variational-wasserstein-flow",
    quick={
        "particles": 8000,
        "rounds": 40,
        "gaussian_dims": (2,),
        "gaussian_steps": 5,
        "porous_dims": (1,),
        "porous_steps": 3,
        **EMPTY,
    },
    full={
        "particles": 10_000,
        "rounds": 60,
        "gaussian_dims": (2, 8, 32),
        "gaussian_steps": 10,
        "porous_dims": (1, 2),
        "porous_steps": 10,
        "mixture_dims": (2, 4, 16, 32),
        "mixture_steps": 20,
        "mixture_step": 0.2,
        "splits": 5,
        "regression_steps": 6,
        "regression_step": 0.2,
        "many_particles": 20_000,
        "digit_steps": 8,
    },
    run=run,
    draw=draw,
    on_file=FileMethod(
        on_file,
        expects=".npz with source (n, d) and target (m, d)",
        options={"steps": 20, "step_size": 0.5, "rounds": 60, "rescale": True},
    ),
    claims=[
        Claim(
            JKO,
            "d = 2: error of mean and covariance (Frobenius), largest over the steps",
            "jko_error_2",
            at_most(0.08),
        ),
        Claim(
            JKO,
            "d = 8: relative error of the covariance (Frobenius), largest over the steps",
            "cov_relative_8",
            at_most(0.15),
            preset="full",
        ),
        Claim(
            SAMPLES,
            "variational KL less that of the exact iterates, over 0.05 + 10 %, largest, each d",
            "kl_shares",
            at_most(1.0),
        ),
        Claim(
            "the porous medium equation is followed",
            "relative error of the variance at the end, against Barenblatt, each d",
            "porous_errors",
            at_most(0.05),
        ),
        Claim(
            SCALES,
            "energy distance to true samples over that of the start, d = 2 and 4",
            "mixture_ratios",
            at_most(0.05),
            preset="full",
        ),
        Claim(SCALES, "the same, d = 16", "mixture_ratio_16", at_most(0.15), preset="full"),
        Claim(SCALES, "the same, d = 32", "mixture_ratio_32", reported(), preset="full"),
        Claim(
            "Bayesian logistic regression predicts as well as other methods",
            "test accuracy less that of the posterior's mode, mean of 5 splits",
            "regression_gain",
            at_least(-0.02),
            preset="full",
        ),
        Claim(
            "updates on mini-batches: the cost does not depend on the number of particles",
            "time of a fit, 20 000 particles over 2000",
            "seconds_ratio",
            at_most(1.5),
            preset="full",
        ),
        Claim(
            DATA,
            "digits: largest rise of the Jensen-Shannon estimate between five times, unseen points",
            "digit_js_largest_rise",
            at_most(0.0),
            preset="full",
            data=DIGITS,
        ),
        Claim(
            DATA,
            "digits: area under the curve of a two-sample test at the end",
            "digit_auc",
            at_most(0.85),
            preset="full",
            data=DIGITS,
        ),
        Claim(
            DATA,
            "digits: the same at the start",
            "digit_auc_start",
            reported(),
            preset="full",
            data=DIGITS,
        ),
    ],
)

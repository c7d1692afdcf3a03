"""One model, trained once, is sampled with any amount of noise; noise makes its errors count less.

First the exact fields of Gaussian mixtures drive the ODE and two SDEs, and the ends are set beside
fresh samples. Then velocity and denoiser are learned from a normal cloud to four modes (and to a
checkerboard in the full preset) and sampled at five diffusion coefficients. Third, known errors are
added to exact fields and the divergence of what comes out is set beside the bound for the SDE; for
the ODE, for which there is no such bound, the same size of error is made ever finer. Fourth, the
Schrödinger bridge of two Gaussians is found by optimising the path, by matrix schedules and by
networks. The full preset also translates ones into sevens where the digits are at hand.

The divergence of the SDE's law is measured in the plane: simulated points are moved by the mean of
a last step and smoothed by its Gaussian kernel, which is the density of an Euler step, and the
divergence is a sum over a grid.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from thalweg import data
from thalweg.studies.transport._interpolant_divergences import (
    ERRORS,
    FREQUENCIES,
    divergences,
    four_modes,
)
from thalweg.studies.transport._interpolant_gaussian_bridges import (
    bridges,
)
from thalweg.studies.transport.light_sb import read_clouds
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, reported
from thalweg.transport import (
    Interpolant,
    MixtureInterpolant,
    StochasticInterpolant,
    energy_distance,
    interpolant_losses,
    odeint,
    sdeint,
    sliced_wasserstein,
)
from thalweg.transport.stochastic_interpolant import looks_standard_normal

EXACT_EPSILONS = (0.0, 0.5, 2.0)
LEARNED_EPSILONS = (0.0, 0.1, 0.5, 1.0, 2.0)
SHOWN_TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
SHOWN_PATHS = {
    "linear": Interpolant.linear(),
    "trig": Interpolant.trig("quadratic"),
    "encoding-decoding": Interpolant.encoding_decoding(),
}
IMAGES, LABELS = "mnist-t10k-images", "mnist-t10k-labels"
DIGITS, PCA_COMPONENTS, HELD_OUT = (1, 7), 16, 300


def run(setup, rng, report):
    """Measure the exact bridges, the learned model, the divergences and the Schrödinger bridge."""
    report(0.0, "exact fields")
    results: dict[str, Any] = exact_bridges(setup, rng)
    report(0.15, "learning four modes")
    results |= learned_modes(setup, rng, partial(_portion, report, 0.15, 0.4))
    report(0.4, "divergence and bound")
    results |= divergences(setup, rng)
    report(0.6, "Schrödinger bridge")
    results |= bridges(setup, rng, partial(_portion, report, 0.6, 0.75))
    if setup.checkerboard_steps:
        report(0.75, "checkerboard")
        results |= checkerboard(setup, rng, partial(_portion, report, 0.75, 0.9))
    if setup.digit_steps and data.available(IMAGES) and data.available(LABELS):
        report(0.9, "digits")
        results |= digits(setup, rng)
    results["energies"] = np.concatenate(
        [results[key] for key in ("mode_energies", "board_energies") if key in results]
    )
    return results | shown_densities()


def random_mixtures(dim, rng, n_source=1, n_target=4):
    """Random mixtures: means on a sphere of radius 2, covariances with eigenvalues 0.2 to 0.6."""

    def mixture(K):
        means = rng.standard_normal((K, dim))
        means *= 2 / np.linalg.norm(means, axis=1, keepdims=True)
        axes, _ = np.linalg.qr(rng.standard_normal((K, dim, dim)))
        covs = (axes * rng.uniform(0.2, 0.6, (K, 1, dim))) @ axes.swapaxes(1, 2)
        return rng.dirichlet(np.full(K, 5.0)), means, covs

    return MixtureInterpolant(*mixture(n_source), *mixture(n_target))


def follow(mixture, x, epsilon, n_steps, rng):
    """Carry points from time 0 to 1 by the exact fields."""
    if not epsilon:
        return odeint(mixture.velocity, x, n_steps=n_steps)

    def drift(t, x):
        velocity, score = mixture.fields(t, x)
        return velocity + epsilon * score

    return sdeint(drift, x, (2 * epsilon) ** 0.5, n_steps=n_steps, method="heun", rng=rng)


def exact_bridges(setup, rng):
    """Sliced distance of the ends to fresh samples, less 0.02, over that of fresh samples."""
    rows = []
    for dim in setup.dims:
        mixture = random_mixtures(dim, rng, n_source=2 if dim == 2 else 1)
        n, repeats = setup.exact_points, max(1, 8 // dim)
        starts, target = mixture.sample_ends(n * repeats, rng=rng)
        floor = mean_distance(mixture.sample(1.0, n * repeats, rng=rng), target, repeats)
        for epsilon in EXACT_EPSILONS:
            ends = follow(mixture, starts, epsilon, setup.exact_steps, rng)
            rows.append((dim, epsilon, mean_distance(ends, target, repeats), floor))
    table = np.array(rows)
    return {
        "exact_table": table,
        "exact_ratio": (table[:, 2] - 0.02) / table[:, 3],
    }


def mean_distance(X, Y, repeats):
    """Sliced Wasserstein distance, averaged over parts: the plane's scatters with the modes."""
    parts = zip(np.array_split(X, repeats), np.array_split(Y, repeats), strict=True)
    return np.mean([sliced_wasserstein(x, y, rng=0) for x, y in parts])


def fitted(X, Y, steps, setup, seed, tell, **options):
    """Fit the model of the study."""
    return StochasticInterpolant(
        n_steps=steps,
        hidden=(setup.width,) * 3,
        lr=setup.lr,
        t_min=setup.t_min,
        callback=tell,
        rng=seed,
        **options,
    ).fit(X, Y)


def learned_modes(setup, rng, tell):
    """Excess losses of learned fields over exact ones, and distances of what they make."""
    mixture = four_modes()
    X, Y = mixture.sample_ends(50_000, rng=rng)
    model = fitted(X, Y, setup.steps, setup, int(rng.integers(2**31)), tell)
    excess = excess_losses(model, mixture, setup.loss_points, rng)
    starts, target = mixture.sample_ends(setup.energy_points, rng=rng)
    return {
        "excess_losses": np.array([excess["b"], excess["eta"]]),
        **sweep(model, starts, target, setup, "mode"),
    }


def excess_losses(model, mixture, n, rng):
    """Objectives of the learned fields less those of the exact ones on the same draws."""
    x0, x1 = mixture.sample_ends(n, rng=rng)
    z, t = rng.standard_normal(x1.shape), rng.uniform(model.t_min, 1 - model.t_min, n)
    losses = [
        interpolant_losses(mixture.interpolant, {"b": f.velocity, "eta": f.denoiser}, t, x0, x1, z)
        for f in (model, mixture)
    ]
    return {name: losses[0][name] - losses[1][name] for name in losses[0]}


def sweep(model, starts, target, setup, prefix):
    """Energy distance to the target at each diffusion coefficient."""
    ends = [
        model.transform(starts, epsilon=epsilon, n_steps=setup.sample_steps, rng=1)
        for epsilon in LEARNED_EPSILONS
    ]
    return {
        f"{prefix}_energies": np.array([energy_distance(x, target) for x in ends]),
        f"{prefix}_source_energy": energy_distance(starts, target),
    }


def board(n, rng):
    """Draw from the checkerboard on [-4, 4]^2 by rejection."""
    x = rng.uniform(-4, 4, (2 * n + 200, 2))
    while True:
        kept = x[(np.floor(x / 2).sum(1) % 2) == 0]
        if len(kept) >= n:
            return kept[:n]
        x = np.concatenate([x, rng.uniform(-4, 4, (n, 2))])


def checkerboard(setup, rng, tell):
    """Learn a normal cloud to a checkerboard and sample it at each coefficient."""
    X, Y = rng.standard_normal((100_000, 2)), board(100_000, rng)
    model = fitted(X, Y, setup.checkerboard_steps, setup, int(rng.integers(2**31)), tell)
    starts = rng.standard_normal((setup.energy_points, 2))
    return sweep(model, starts, board(setup.energy_points, rng), setup, "board")


def digits(setup, rng):
    """Ones to sevens in principal components: distance of held-out translations."""
    images = data.read_idx(data.fetch(IMAGES, download=False)).reshape(-1, 784) / 255.0
    labels = data.read_idx(data.fetch(LABELS, download=False))
    clouds = [images[labels == digit] for digit in DIGITS]
    clouds = [cloud[rng.permutation(len(cloud))] for cloud in clouds]
    pooled = np.concatenate(clouds)
    _, _, axes = np.linalg.svd(pooled - pooled.mean(0), full_matrices=False)
    X, Y = ((cloud - pooled.mean(0)) @ axes[:PCA_COMPONENTS].T for cloud in clouds)
    model = fitted(
        X[HELD_OUT:], Y[HELD_OUT:], setup.digit_steps, setup, 0, None, coupling="minibatch-ot"
    )
    x, y = X[:HELD_OUT], Y[:HELD_OUT]
    before = energy_distance(x, y)
    after = [
        energy_distance(model.transform(x, epsilon=epsilon, rng=1), y) for epsilon in (0.0, 0.5)
    ]
    return {"digits_energy_ratio": np.array(after) / before}


def shown_densities():
    """Densities over time of three paths to the four modes, for the figure."""
    axis = np.linspace(-3, 3, 61)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    shown = [
        [four_modes(path).density(t, grid).reshape(61, 61) for t in SHOWN_TIMES]
        for path in SHOWN_PATHS.values()
    ]
    return {"densities": np.array(shown, dtype=np.float32)}


def _portion(report, start, stop, state):
    report(start + (stop - start) * state.step / state.n_steps, f"step {state.step}")


def draw(results, figure):
    """Densities over time of three paths, divergence against noise, and distances."""
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    panels = upper.subplots(len(SHOWN_PATHS), len(SHOWN_TIMES))
    for row, name, images in zip(panels, SHOWN_PATHS, results["densities"], strict=True):
        for ax, t, image in zip(row, SHOWN_TIMES, images, strict=True):
            ax.imshow(np.sqrt(image), origin="lower", cmap="Blues", vmin=0, extent=(-3, 3, -3, 3))
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            if name == next(iter(SHOWN_PATHS)):
                ax.set_title(f"t = {t:g}", fontsize=10)
        row[0].set_ylabel(name.replace("-", "-\n"), fontsize=9)
    left, middle, right = lower.subplots(1, 3)
    epsilons, last = results["kl_epsilons"], -1
    for i, (kind, color) in enumerate(zip(ERRORS, ("tab:blue", "tab:orange"), strict=True)):
        label = {"gradient": "gradient error", "rotation": "rotating error"}[kind]
        left.loglog(epsilons, results["kl_measured"][:, i, last], "o-", color=color, label=label)
    left.loglog(epsilons, results["kl_bounds"][:, 0, last], "--", color="0.3", label="bound")
    left.loglog(epsilons, results["kl_floor"], ":", color="0.6", label="no error")
    left.set(xlabel="diffusion coefficient", ylabel="divergence\nof the SDE [nats]")
    left.set_title(f"velocity error of size {results['kl_deltas'][last]:g}", fontsize=10)
    low = min(results["kl_floor"].min(), results["kl_measured"].min())
    left.set_ylim(bottom=max(low, 1e-4) / 60)
    left.legend(fontsize=8, loc="lower left", ncols=2, columnspacing=1, handlelength=1.5)
    left.set_xticks(epsilons, [f"{e:g}" for e in epsilons])
    left.set_xticks([], minor=True)
    ode, sde = results["ode_kl_over_error"], results["fine_kl_over_error"]
    middle.loglog(FREQUENCIES, ode, "s-", color="tab:red")
    middle.loglog(FREQUENCIES, sde, "o-", color="tab:blue")
    middle.axhline(1 / 4, color="0.3", ls="--")
    for y, text, color in (
        (ode[0] / 1.5, "ODE", "tab:red"),
        (1 / 4 / 1.3, "bound for the SDE, epsilon 1", "0.3"),
        (sde[0] / 2.5, "SDE, epsilon 1", "tab:blue"),
    ):
        middle.text(FREQUENCIES[0], y, text, color=color, fontsize=8, va="top")
    middle.set(xlabel="frequency of the error", ylabel="divergence over\nsquared error [nats]")
    middle.set_xticks(FREQUENCIES, [f"{f:g}" for f in FREQUENCIES])
    middle.set_xticks([], minor=True)
    middle.set_title("ever finer velocity errors", fontsize=10)
    for prefix, label, color in (
        ("mode", "four modes", "tab:blue"),
        ("board", "checkerboard", "tab:orange"),
    ):
        if f"{prefix}_energies" in results:
            values = 1e3 * results[f"{prefix}_energies"]
            right.plot(LEARNED_EPSILONS, values, "o-", color=color, label=label)
    right.axhline(10, color="0.6", ls=":")
    right.text(2.0, 10.2, "limit of the claim", fontsize=8, color="0.4", ha="right", va="bottom")
    right.set(xlabel="diffusion coefficient", ylabel="energy distance\nto the target [0.001]")
    right.set_ylim(top=max(12.5, right.get_ylim()[1]))
    right.set_title("one learned model", fontsize=10)
    right.legend(fontsize=8, loc="center right")


def on_file(path, setup, out, rng, report):
    """Learn from a user's source to the target, and carry the source over."""
    arrays = read_clouds(path)
    source, target = arrays["source"], arrays["target"]
    unit = float(np.sqrt((source.var(0).mean() + target.var(0).mean()) / 2))
    if not unit > 0:
        raise ValueError("--input: source and target must not be single points")
    seed = int(rng.integers(2**31))
    model = StochasticInterpolant(
        Interpolant.linear(a=unit**2),
        n_steps=setup.steps,
        callback=partial(_portion, report, 0.0, 0.9),
        rng=seed,
    ).fit(source, target)
    report(0.9, "sampling")
    made = model.transform(source, epsilon=setup.epsilon * unit**2, n_steps=setup.sampling_steps)
    written: dict[str, Any] = {"generated": made}
    printed = {
        "unit": unit,
        "energy_distance_generated_to_target": energy_distance(made, target),
        "energy_distance_source_to_target": energy_distance(source, target),
    }
    if looks_standard_normal(source):
        log_prob = model.log_prob(made, _standard_normal_log_prob)
        written["log_density"] = log_prob
        printed["mean_log_density"] = float(log_prob.mean())
    np.savez(out / "generated.npz", **written)
    return printed


def _standard_normal_log_prob(x):
    return -0.5 * (x**2).sum(1) - 0.5 * x.shape[1] * np.log(2 * np.pi)


EXACT = "exact bridge between any two densities in finite time, for any diffusion coefficient"
LOSSES = "the fields minimise plain quadratic losses"
ONE_MODEL = "one learned model gives deterministic and stochastic samplers"
CONTROLLED = "the likelihood of the SDE is controlled by the losses"
NOT_ODE = "that of the ODE is not, by the same quantity"
BRIDGE = "optimising the interpolant recovers the Schrödinger bridge"
STUDY = Study(
    paper="stochastic-interpolants",
    quick={
        "dims": (2, 16),
        "exact_points": 1000,
        "exact_steps": 40,
        "steps": 450,
        "width": 64,
        "lr": 1e-2,
        "t_min": 1e-2,
        "loss_points": 8000,
        "energy_points": 2000,
        "sample_steps": 40,
        "kl_epsilons": (0.25, 1.0, 2.0),
        "deltas": (1.0,),
        "kl_points": 6000,
        "kl_steps": 40,
        "ode_points": 1000,
        "ode_steps": 32,
        "bridge_steps": 400,
        "bridge_hidden": (32,),
        "bridge_lr": 2e-2,
        "checkerboard_steps": 0,
        "digit_steps": 0,
    },
    full={
        "dims": (2, 16, 128),
        "exact_points": 2000,
        "exact_steps": 50,
        "steps": 2000,
        "width": 128,
        "lr": 2e-3,
        "t_min": 1e-3,
        "loss_points": 50_000,
        "energy_points": 4000,
        "sample_steps": 100,
        "kl_epsilons": (0.25, 0.5, 1.0, 2.0),
        "deltas": (0.25, 0.5, 1.0),
        "kl_points": 50_000,
        "kl_steps": 60,
        "ode_points": 10_000,
        "ode_steps": 80,
        "bridge_steps": 2000,
        "bridge_hidden": (64,),
        "bridge_lr": 1e-2,
        "checkerboard_steps": 4000,
        "digit_steps": 1000,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            EXACT,
            "sliced Wasserstein distance of the ends to the target less 0.02, over that of two "
            "exact samples, epsilon 0, 0.5, 2, by exact fields of mixtures",
            "exact_ratio",
            at_most(1.5),
        ),
        Claim(
            LOSSES,
            "losses of learned velocity and denoiser less those of the exact ones, d = 2",
            "excess_losses",
            at_most(0.05),
        ),
        Claim(
            ONE_MODEL,
            "energy distance to the target at epsilon 0, 0.1, 0.5, 1, 2",
            "energies",
            at_most(0.01),
        ),
        Claim(
            CONTROLLED,
            "divergence over the bound, for gradient and rotating errors",
            "kl_over_bound",
            at_most(1.0),
        ),
        Claim(
            NOT_ODE,
            "ODE: divergence over squared error at frequency 16 over that at frequency 4",
            "ode_growth",
            at_least(2.0),
        ),
        Claim(
            NOT_ODE,
            "SDE at epsilon 1 with the same errors: divergence over the bound",
            "fine_kl_over_bound",
            at_most(1.0),
        ),
        Claim(
            BRIDGE,
            "relative errors of variance at t = 1/2 and of energy, matrix schedules",
            "bridge_gaussian",
            at_most(0.02),
        ),
        Claim(
            BRIDGE,
            "relative errors of variance at t = 1/2 and of energy, networks",
            "bridge_network",
            at_most(0.1),
        ),
        Claim(
            BRIDGE,
            "errors of the linear interpolant over the larger of both",
            "bridge_linear_over_others",
            at_least(1.0),
        ),
        Claim(
            "translator between two data sets: ones to sevens in 16 principal components",
            "energy distance of held-out translations over that before, epsilon 0, 0.5",
            "digits_energy_ratio",
            reported(),
            preset="full",
            data=(IMAGES, LABELS),
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects=".npz with source (n, d) and target (m, d)",
        options={"epsilon": 0.0, "steps": 1500, "sampling_steps": 100},
    ),
)

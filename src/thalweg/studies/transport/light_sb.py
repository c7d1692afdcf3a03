"""A Schrödinger bridge fits in a second, about as well as by the recipe of 10 000 steps."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from thalweg import data
from thalweg.studies.transport._light_sb_rates import (
    approximation,
    generalization,
    swiss_roll,
)
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, reported
from thalweg.transport import (
    BrownianReference,
    LightSB,
    conditional_bw2_uvp,
    energy_distance,
    entropic_plan,
    gaussian_mixture_pair,
)

RECIPE = {"learning_rate": 1e-3, "schedule": "constant", "batch_size": 128}
RECIPE_STEPS = 10_000
ROLL_EPSILONS = (0.1, 0.01, 0.002)
CELLS = {
    (components, day): f"multiome-pca{components}-day{day}"
    for components in (50, 100)
    for day in (2, 3, 4, 7)
}
CELL_EPSILON, CELL_COMPONENTS = 0.1, 10


def run(setup, rng, report):
    """Measure plans of known pairs, the approach to the optimum, and held-out cells."""
    report(0.0, "known plans in 2 dimensions")
    results: dict[str, Any] = compare_with_recipe(setup, rng)
    others = [
        np.mean([pair_error(2, epsilon, setup, rng)[0] for _ in range(setup.easy_pairs)])
        for epsilon in (1.0, 10.0)
    ]
    results["default_errors"] = [results["our_errors"][-1], *others]
    report(0.3, "swiss roll")
    results |= roll_paths(setup, rng)
    if setup.dimensions:
        report(0.35, "known plans in 16 and 64 dimensions")
        results |= higher_dimensions(setup, rng)
    if setup.approximation:
        report(0.6, "approximation")
        results |= approximation(rng)
        report(0.7, "generalisation")
        results |= generalization(rng)
    report(0.8, "cells")
    spans = [(50, (2, 3, 4), 0.5)]
    if setup.all_cells:
        spans += [(50, (3, 4, 7), 0.25), (100, (2, 3, 4), 0.5), (100, (3, 4, 7), 0.25)]
    for components, days, t in spans:
        names = [CELLS[components, day] for day in days]
        if all(data.available(name) for name in names):
            found = held_out_cells(names, t, setup, rng)
            prefix = f"cells{components}_day{days[1]}_"
            results |= {prefix + key: value for key, value in found.items()}
    return results


def pair_error(dim, epsilon, setup, rng, n_components=50, **options):
    """Fit a known pair; return the error of the conditional laws (percent) and seconds."""
    pair = gaussian_mixture_pair(dim, epsilon, rng=rng)
    n = min(setup.pair_points, 4_000_000 // dim)
    X, Y = pair.sample_source(n, rng), pair.sample_target(n, rng)
    return fit_error(pair, X, Y, setup.test_points, rng, n_components, **options)


def fit_error(pair, X, Y, test_points, rng, n_components=50, **options):
    """Fit given clouds; return the error of the conditional laws (percent) and seconds."""
    start = time.perf_counter()
    model = LightSB(pair.epsilon, n_components, rng=rng, **options).fit(X, Y)
    seconds = time.perf_counter() - start
    errors = []
    dim = X.shape[1]
    for test in np.array_split(pair.sample_source(test_points, rng), 2 * dim):
        mean, cov = model.conditional_moments(test)
        truth = pair.conditional_moments(test)
        errors.append(conditional_bw2_uvp(mean, cov, truth[0], truth[1], pair.target_cov_))
    return float(np.mean(errors)), seconds


def compare_with_recipe(setup, rng):
    """Mean error and median time of both recipes at several lengths, over pairs."""
    our_steps = [50, 300, 1500]
    recipe_steps = [int(RECIPE_STEPS * setup.recipe_share * s) for s in (0.1, 0.3, 1.0)]
    ours, recipe, n = [], [], setup.pair_points
    for _ in range(setup.pairs):
        pair = gaussian_mixture_pair(2, 0.1, rng=rng)
        X, Y = pair.sample_source(n, rng), pair.sample_target(n, rng)
        ours.append([fit_error(pair, X, Y, setup.test_points, rng, n_steps=s) for s in our_steps])
        recipe.append(
            [
                fit_error(pair, X, Y, setup.test_points, rng, n_steps=s, **RECIPE)
                for s in recipe_steps
            ]
        )
    our_errors, recipe_errors = (np.mean(rows, axis=0)[:, 0] for rows in (ours, recipe))
    our_seconds, recipe_seconds = (np.median(rows, axis=0)[:, 1] for rows in (ours, recipe))
    return {
        "our_steps": our_steps,
        "our_errors": our_errors,
        "our_seconds": our_seconds,
        "recipe_steps": recipe_steps,
        "recipe_errors": recipe_errors,
        "recipe_seconds": recipe_seconds,
        "error_ratio": our_errors[-1] / recipe_errors[-1],
        "time_ratio": our_seconds[-1] / recipe_seconds[-1],
    }


def higher_dimensions(setup, rng):
    """Errors in percent and seconds: 16 dimensions, and 64 with three times the steps."""
    options = {"n_components": 10, "covariance": "full", "init": "kmeans"}
    moderate = [pair_error(16, 0.1, setup, rng, **options) for _ in range(3)]
    random_start = [
        pair_error(16, 0.1, setup, rng, **options | {"init": "samples"}) for _ in range(3)
    ]
    diagonal = pair_error(16, 0.1, setup, rng)
    high = pair_error(64, 0.1, setup, rng, n_steps=3000, **options)
    return {
        "error_16": [error for error, _ in moderate],
        "seconds_16": max(seconds for _, seconds in moderate),
        "error_16_random_start": [error for error, _ in random_start],
        "error_16_diagonal": diagonal[0],
        "error_64": high[0],
        "seconds_64": high[1],
    }


def roll_paths(setup, rng):
    """Simulated paths from a normal cloud to the roll at three values of epsilon."""
    X, Y = rng.standard_normal((20_000, 2)), swiss_roll(20_000, rng)
    starts = rng.standard_normal((400, 2))
    paths, distances = [], []
    for epsilon in ROLL_EPSILONS:
        model = LightSB(epsilon, 100, n_steps=setup.roll_steps, rng=rng).fit(X, Y)
        path = model.sample_path(starts, 100)
        paths.append(path)
        distances.append(energy_distance(model.transform(X[:2000]), Y[:2000]))
    return {"roll_paths": np.stack(paths), "roll_target": Y[:1500], "roll_distances": distances}


def held_out_cells(names, t, setup, rng):
    """Half the energy distance to the cells of the day between, ours and baselines."""
    days = [np.load(data.fetch(name, download=False)).astype(float) for name in names]
    X, middle, Y = [day[rng.permutation(len(day))[: setup.cells]] for day in days]
    unit = np.mean([day.std(0).mean() for day in days])

    def half_energy(points):
        return energy_distance(points, middle) / 2

    model = LightSB(CELL_EPSILON, CELL_COMPONENTS, rng=rng).fit(days[0] / unit, days[2] / unit)
    reference = BrownianReference(CELL_EPSILON)
    ends = Y[rng.integers(len(Y), size=len(X))]
    x, y = X[: setup.matched_cells], Y[: setup.matched_cells]
    cost = cdist(x, y, "sqeuclidean")
    matched = linear_sum_assignment(cost)[1]
    found = {
        "bridge": half_energy(model.bridge(X / unit, t) * unit),
        "start": half_energy(X),
        "independent": half_energy(reference.bridge(X / unit, ends / unit, t, rng) * unit),
        "optimal_midpoints": half_energy((1 - t) * x + t * y[matched]),
    }
    if setup.all_cells:
        plan = entropic_plan(x / unit, y / unit, CELL_EPSILON, tol=1e-6).plan
        plan = plan / plan.sum(1, keepdims=True)
        drawn = (plan.cumsum(1) < rng.random((len(x), 1))).sum(1).clip(max=len(y) - 1)
        bridged = reference.bridge(x / unit, y[drawn] / unit, t, rng) * unit
        found["sinkhorn_bridge"] = half_energy(bridged)
        found["sinkhorn_barycentric"] = half_energy((1 - t) * x + t * plan @ y)
    baselines = [found[key] for key in ("start", "independent", "optimal_midpoints")]
    found["over_best_baseline"] = found["bridge"] / min(baselines)
    return found


def draw(results, figure):
    """Paths to the swiss roll at three noise levels, and error against fitting time."""
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.1, 1])
    panels = upper.subplots(1, 3, sharex=True, sharey=True)
    target = results["roll_target"]
    for ax, epsilon, path in zip(panels, ROLL_EPSILONS, results["roll_paths"], strict=True):
        ax.scatter(*target.T, s=3, color="0.75", linewidths=0)
        ax.plot(path[:, :40, 0], path[:, :40, 1], color="tab:blue", lw=0.6, alpha=0.6)
        ax.scatter(*path[0, :40].T, s=9, color="black", zorder=3)
        ax.scatter(*path[-1].T, s=4, color="tab:orange", zorder=3, linewidths=0)
        ax.set(title=f"epsilon = {epsilon:g}", aspect="equal", xticks=[], yticks=[])
        ax.set(xlim=(-2.7, 2.7), ylim=(-2.3, 2.5))
        ax.grid(False)
    handles = [
        panels[0].scatter([], [], s=18, color=color, label=label)
        for color, label in (
            ("black", "start (normal cloud)"),
            ("tab:orange", "end of the path"),
            ("0.75", "target sample"),
        )
    ]
    upper.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    left, right = lower.subplots(1, 2, width_ratios=[1.25, 1])
    for who, label, color in (
        ("our", "LightSB here", "tab:blue"),
        ("recipe", "published recipe, same code", "tab:red"),
    ):
        seconds, errors = results[f"{who}_seconds"], results[f"{who}_errors"]
        left.loglog(seconds, errors, "o-", color=color, label=label)
        for s, e, steps in zip(seconds, errors, results[f"{who}_steps"], strict=True):
            left.annotate(f"{steps:,}", (s, e), (5, 4), textcoords="offset points", fontsize=8)
    left.set(xlabel="fitting time [s]", ylabel="error of the plan\n(cBW$_2$-UVP) [%]")
    left.set_title("known plan, 2 dimensions, epsilon = 0.1; steps written", fontsize=10)
    left.margins(x=0.18, y=0.25)
    low, high = left.get_ylim()
    left.set_ylim(low / 10, high)
    left.legend(fontsize=9, loc="lower left")
    draw_cells(results, right)


def draw_cells(results, ax):
    """Bars of the held-out day; the swiss roll's distances where the cells are not there."""
    bars = {
        "day 2 itself": "start",
        "random pairs": "independent",
        "optimal pairs": "optimal_midpoints",
        "LightSB": "bridge",
    }
    values = [results.get(f"cells50_day3_{key}") for key in bars.values()]
    if any(value is None for value in values):
        ax.loglog(ROLL_EPSILONS, results["roll_distances"], "o-", color="tab:blue")
        ax.set(xlabel="epsilon", ylabel="energy distance\nto the target")
        ax.set_title("swiss roll", fontsize=10)
        return
    colors = ["0.7", "0.7", "0.7", "tab:blue"]
    shown = ax.barh(list(bars), values, color=colors)
    ax.bar_label(shown, fmt="%.2f", padding=3, fontsize=9)
    ax.axvline(2.3, color="tab:red", ls="--")
    ax.text(2.36, -0.5, "paper, about 2.3", color="tab:red", fontsize=9, va="top")
    ax.set(xlabel="half energy distance to day 3", xlim=(0, 1.18 * max(values)), ylim=(-0.95, 3.6))
    ax.set_title("cells of day 3 from days 2 and 4", fontsize=10)
    ax.grid(axis="y", visible=False)


def on_file(path, setup, out, rng, report):
    """Fit the bridge between two clouds of a user's file and map the source."""
    arrays = read_clouds(path)
    source, target = arrays["source"], arrays["target"]
    unit = float(np.mean([source.std(0).mean(), target.std(0).mean()])) if setup.rescale else 1.0
    if not unit > 0:
        raise ValueError("--input: source and target must not be single points")

    def progress(state):
        report(0.9 * state.step / state.n_steps, f"loss {state.loss:.4g}")

    model = LightSB(
        setup.epsilon,
        min(setup.components, len(target)),
        covariance=setup.covariance,
        n_steps=setup.steps,
        callback=progress,
        rng=rng,
    ).fit(source / unit, target / unit)
    report(0.9, "mapping")
    mapped = model.transform(source / unit) * unit
    mean = np.concatenate(
        [model.conditional_moments(rows)[0] for rows in np.array_split(source / unit, 50)]
    )
    written: dict[str, Any] = {"mapped": mapped, "conditional_mean": mean * unit}
    printed = {
        "unit": unit,
        "loss_at_start": float(model.loss_curve_[0]),
        "loss_at_end": float(model.loss_curve_[-100:].mean()),
        "energy_distance_mapped_to_target": energy_distance(mapped, target),
        "energy_distance_source_to_target": energy_distance(source, target),
    }
    if "middle" in arrays:
        t = float(arrays["t"]) if "t" in arrays else 0.5
        written["at_t"] = model.bridge(source / unit, t) * unit
        printed["t"] = t
        printed["energy_distance_at_t_to_middle"] = energy_distance(
            written["at_t"], arrays["middle"]
        )
        printed["energy_distance_source_to_middle"] = energy_distance(source, arrays["middle"])
    np.savez(out / "bridge.npz", **written)
    return printed


def read_clouds(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of the file; ValueError in one line for what does not fit."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, TypeError, zipfile.BadZipFile):
        raise ValueError(f"--input: {path} is not an .npz file of plain arrays") from None
    for name in ("source", "target"):
        if name not in arrays:
            raise ValueError(f"--input: {path} has no array {name!r}; it has {sorted(arrays)}")
    clouds = {name: arrays[name] for name in ("source", "target", "middle") if name in arrays}
    for name, cloud in clouds.items():
        if cloud.ndim != 2 or cloud.dtype.kind not in "biuf" or len(cloud) < 2:
            raise ValueError(f"--input: {name} must be numbers of shape (n, d), n at least 2")
        if cloud.shape[1] != arrays["source"].shape[1]:
            raise ValueError(f"--input: {name} must have as many columns as source")
        if not np.isfinite(cloud).all():
            raise ValueError(f"--input: {name} must be finite")
        clouds[name] = cloud.astype(float)
    if "t" in arrays:
        t = arrays["t"]
        if t.ndim or t.dtype.kind not in "iuf" or not 0 <= t <= 1:
            raise ValueError(f"--input: t must be one number in [0, 1], got {t!r}")
        clouds["t"] = t
    return clouds


FAST = "one light solver: the same quality in a fraction of the time"
MODERATE = "moderate dimension in minutes on a processor"
HELD_OUT = "held-out day of single cells: better than simple baselines"
DAYS_2_3_4 = tuple(CELLS[50, day] for day in (2, 3, 4))
STUDY = Study(
    paper="light-sb",
    quick={
        "pairs": 2,
        "easy_pairs": 1,
        "test_points": 3000,
        "roll_steps": 300,
        "pair_points": 200_000,
        "recipe_share": 0.05,
        "dimensions": False,
        "approximation": False,
        "all_cells": False,
        "cells": 3000,
        "matched_cells": 1000,
    },
    full={
        "pairs": 8,
        "easy_pairs": 3,
        "test_points": 10_000,
        "roll_steps": 1500,
        "pair_points": 500_000,
        "recipe_share": 1.0,
        "dimensions": True,
        "approximation": True,
        "all_cells": True,
        "cells": 10_000,
        "matched_cells": 2000,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            FAST,
            "error of the conditional laws (cBW2-UVP) over that of the published recipe, d = 2, "
            "epsilon 0.1, means over 8 pairs",
            "error_ratio",
            at_most(1.0),
            preset="full",
        ),
        Claim(
            FAST,
            "median seconds over those of the published recipe (10 000 steps, same code)",
            "time_ratio",
            at_most(0.25),
            preset="full",
        ),
        Claim(
            "hardly any tuning: default settings work for each epsilon",
            "cBW2-UVP at epsilon 0.1, 1, 10, d = 2, averaged over pairs",
            "default_errors",
            at_most(0.2),
            unit="%",
        ),
        Claim(
            MODERATE,
            "cBW2-UVP, d = 16, epsilon 0.1, 10 full components",
            "error_16",
            at_most(1.0),
            preset="full",
            unit="%",
        ),
        Claim(
            MODERATE,
            "longest of these fits",
            "seconds_16",
            at_most(30),
            preset="full",
            unit="s",
        ),
        Claim(
            MODERATE,
            "cBW2-UVP, d = 64, epsilon 0.1, 10 full components",
            "error_64",
            reported(),
            preset="full",
            unit="%",
        ),
        Claim(MODERATE, "that fit, d = 64", "seconds_64", reported(), preset="full", unit="s"),
        Claim(
            "universal approximation",
            "fall of the divergence from Sinkhorn's optimum from each of K = 2, 8, 32, 128 to the "
            "next, normal cloud to swiss roll, epsilon 0.1",
            "approximation_steps_down",
            at_least(0.0),
            preset="full",
            unit="nats",
        ),
        Claim(
            "universal approximation",
            "divergence at K = 128 over that at K = 2",
            "approximation_ratio",
            at_most(0.2),
            preset="full",
        ),
        Claim(
            "the generalisation error falls at least like 1/sqrt(N)",
            "log-log slope of the excess loss, N = 250 to 16 000",
            "generalization_slope",
            at_most(-0.5),
            preset="full",
        ),
        Claim(
            HELD_OUT,
            "half energy distance to day 3, fitted on days 2 and 4, 50 components",
            "cells50_day3_bridge",
            at_most(2.6),
            data=DAYS_2_3_4,
        ),
        Claim(
            HELD_OUT,
            "the same over the best of day 2 itself, random pairs and optimal pairs",
            "cells50_day3_over_best_baseline",
            at_most(1.0),
            data=DAYS_2_3_4,
        ),
        Claim(
            HELD_OUT,
            "half energy distance to day 4 over the best baseline, fitted on days 3 and 7",
            "cells50_day4_over_best_baseline",
            reported(),
            preset="full",
            data=tuple(CELLS[50, day] for day in (3, 4, 7)),
        ),
        *(
            Claim(
                HELD_OUT,
                f"half energy distance to day {day} over the best baseline, 100 components",
                f"cells100_day{day}_over_best_baseline",
                reported(),
                preset="full",
                data=tuple(CELLS[100, d] for d in days),
            )
            for day, days in ((3, (2, 3, 4)), (4, (3, 4, 7)))
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects=".npz with source (n, d) and target (m, d); middle (k, d) and t are optional",
        options={
            "epsilon": 0.1,
            "components": 50,
            "covariance": "diag",
            "steps": 1000,
            "rescale": True,
        },
    ),
)

"""The noise schedule that suits the data: one scalar function of the data decides, and it helps.

Energies by the data separation function stand beside those measured from the velocity itself, the
optimal path beside others and beside its differential equation, and the limit of few samples in
high dimension is traced up to 4096 columns. Then equal networks learn the optimal path, straight
lines (Cond-OT) and the variance preserving cosine, and sample with few evaluations. The paper's
ImageNet is replaced by two moons, MNIST and cells. A user's table gets its own schedule.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits, make_moons
from sklearn.decomposition import PCA

from thalweg import data
from thalweg.studies.transport._kinetic_energies import (
    LIMIT_DIMENSIONS,
    PATHS,
    certificate_excess,
    curves,
    disagreement,
    high_dimension,
    optimality,
    paths_for,
)
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, reported
from thalweg.study.claims import Preset
from thalweg.transport import (
    DataSeparation,
    GaussianPathFlow,
    energy_distance,
    kinetic_energy,
    normalize_data,
)

MNIST, CELLS = "mnist-t10k-images", "multiome-pca50-day2"
ROWS = 3000
HEUN_STEPS = (2, 4, 8, 16, 32)
FEW = 2
"""How many of the numbers of steps make 4 to 8 evaluations."""
COMPONENTS, HELD_OUT = 16, 3000


def run(setup, rng, report):
    """Measure energies, the limit, the certificate, and what the paths do to learning."""
    report(0.0, "data separation")
    sets = packaged_sets(setup.moons, rng)
    separations = {
        name: DataSeparation.from_data(
            X, n_draws=setup.planar_draws if X.shape[1] < 10 else 300, rng=rng
        )
        for name, X in sets.items()
    }
    report(0.05, "energies")
    results: dict[str, Any] = {
        "energy_disagreement": max(
            disagreement(sets[name], separations[name], setup.energy_draws, rng) for name in sets
        )
    }
    if setup.real_sets:
        for name, X in real_sets(rng).items():
            report(0.1, f"data separation of {name}")
            sets[name], separations[name] = X, DataSeparation.from_data(X, rng=rng)
    results |= optimality(separations, rng)
    report(0.15, "few samples in high dimension")
    results |= high_dimension(setup, rng)
    report(0.2, "certificate")
    results["certificate_excess"] = max(
        certificate_excess(X[: setup.moons], rng) for X in sets.values()
    )
    results |= curves(separations)
    results |= training("moons", setup, rng, report, 0.25, 0.55 if setup.digits_steps else 1.0)
    if setup.digits_steps and data.available(MNIST):
        results |= training("mnist", setup, rng, report, 0.55, 1.0)
    return results


def packaged_sets(moons, rng):
    """Four normalised data sets: normal samples, two moons, digits of 8 x 8 pixels."""
    raw = {
        "normal10": rng.standard_normal((10, 64)),
        "normal100": rng.standard_normal((100, 64)),
        "moons": two_moons(moons, rng),
        "digits": load_digits().data,
    }
    return {name: normalize_data(X)[0] for name, X in raw.items()}


def real_sets(rng):
    """MNIST test digits with all pixels and cells with 50 components, where they are there."""
    found = {}
    if data.available(MNIST):
        images = data.read_idx(data.fetch(MNIST, download=False))[:ROWS]
        found["mnist"] = normalize_data(images.reshape(len(images), -1))[0]
    if data.available(CELLS):
        cells = np.load(data.fetch(CELLS, download=False)).astype(float)
        found["cells"] = normalize_data(cells[rng.permutation(len(cells))[:ROWS]])[0]
    return found


def two_moons(n, rng):
    """Draw points of two interleaved half circles with noise of 0.05."""
    return make_moons(n, noise=0.05, random_state=int(rng.integers(2**31)))[0]


def training(name, setup, rng, report, start, stop):
    """Equal networks on the three paths: distance of samples by evaluations, and likelihood."""
    if name == "moons":
        X, held_out = two_moons(ROWS, rng), two_moons(HELD_OUT, rng)
        steps, hidden, repeats = setup.moons_steps, setup.moons_hidden, setup.moons_repeats
        lr, ema = setup.moons_lr, setup.moons_ema
    else:
        images = data.read_idx(data.fetch(MNIST, download=False))
        rows = PCA(COMPONENTS, random_state=0).fit_transform(images.reshape(len(images), -1) / 255)
        rows = rows[rng.permutation(len(rows))]
        X, held_out = rows[HELD_OUT:], rows[:HELD_OUT]
        steps, hidden, repeats = setup.digits_steps, (128, 128, 128), setup.digits_repeats
        lr, ema = 2e-3, 0.999
    unit = normalize_data(X)[2]
    distances, likelihoods = np.zeros((len(PATHS), len(HEUN_STEPS))), np.zeros(len(PATHS))
    for repeat in range(repeats):
        seed = int(rng.integers(2**31))
        for i, path in enumerate(PATHS):
            done = (repeat * len(PATHS) + i) / (repeats * len(PATHS))
            report(start + (stop - start) * done, f"{name}: learning {PATHS[path][0]}")
            model = GaussianPathFlow(
                path, n_steps=steps, hidden=hidden, lr=lr, ema=ema, rng=seed
            ).fit(X)
            for k, n_steps in enumerate(HEUN_STEPS):
                sample = model.sample(setup.samples, n_steps=n_steps, rng=seed + 1)
                distances[i, k] += energy_distance(sample / unit, held_out / unit) / repeats
            scores = model.log_prob(held_out[: setup.scored], n_steps=setup.score_steps)
            likelihoods[i] -= scores.mean() / X.shape[1] / repeats
    few = distances[:, :FEW].mean(1)
    return {
        f"{name}_distances": distances,
        f"{name}_over_ot": few[0] / few[1],
        f"{name}_over_vp": few[0] / few[2],
        f"{name}_nll": likelihoods,
        f"{name}_nll_over_vp": likelihoods[0] - likelihoods[2],
    }


NAMES = {
    "normal10": "normal, 10 x 64",
    "normal100": "normal, 100 x 64",
    "digits": "digits, 64 pixels",
    "moons": "two moons",
    "mnist": "MNIST, 784 pixels",
    "cells": "cells, 50 components",
}


def draw(results, figure):
    """The separation, the paths it makes, the limit, and the error against evaluations."""
    (ax_lambda, ax_path), (ax_gap, ax_error) = figure.subplots(2, 2)
    s = results["curve_s"]
    sets = [name for name in NAMES if f"curve_lambda_{name}" in results]
    ax_lambda.plot(s, s**2 / (1 + s**2), "k--", lw=1, label="normal law")
    for i, name in enumerate(sets):
        ax_lambda.plot(s, results[f"curve_lambda_{name}"], color=f"C{i}", label=NAMES[name])
        ax_path.plot(*results[f"curve_path_{name}"], color=f"C{i}")
    ax_lambda.set(xscale="log", xlabel="signal over noise, s", ylabel="data separation")
    ax_lambda.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    ax_lambda.legend(fontsize=7.5, loc="lower right")
    ax_path.plot([0, 1], [1, 0], "k-", lw=1)
    angle = np.linspace(0, np.pi / 2, 100)
    ax_path.plot(np.sin(angle), np.cos(angle), "k:", lw=1)
    ax_path.text(0.4, 0.52, "Cond-OT", fontsize=8, rotation=-45, ha="center", va="center")
    ax_path.text(0.76, 0.76, "VP", fontsize=8, ha="center", va="center")
    ax_path.set(xlabel="factor of the data, a", ylabel="factor of the noise, m", aspect="equal")
    ax_path.set_title("kinetic optimal paths", fontsize=10)
    ax_lambda.set_title("what the data is like", fontsize=10)
    ax_gap.loglog(LIMIT_DIMENSIONS, 100 * results["limit_gaps"], "o-", color="tab:blue")
    ax_gap.axhline(1, color="0.5", ls=":", lw=1)
    ax_gap.set(xlabel="dimensions d", ylabel="energy of Cond-OT\nabove the optimum [%]")
    ax_gap.set_xticks(LIMIT_DIMENSIONS, [str(d) for d in LIMIT_DIMENSIONS])
    ax_gap.set_yticks([1, 3, 10], ["1", "3", "10"])
    ax_gap.minorticks_off()
    ax_gap.set_title("10 normal samples", fontsize=10)
    name = "mnist" if "mnist_distances" in results else "moons"
    evaluations = [2 * n for n in HEUN_STEPS]
    for row, (label, color) in zip(results[f"{name}_distances"], PATHS.values(), strict=True):
        ax_error.plot(evaluations, row, "o-", color=color, label=label)
    ax_error.set(xscale="log", xlabel="network evaluations (Heun)", ylim=(0, None))
    ax_error.set_ylabel("energy distance\nto held-out data")
    ax_error.set_xticks(evaluations, [str(n) for n in evaluations])
    ax_error.minorticks_off()
    title = "two moons" if name == "moons" else f"MNIST, {COMPONENTS} components"
    ax_error.set_title(f"samples of {title}", fontsize=10)
    ax_error.legend(fontsize=8)


def on_file(path, setup, out, rng, report):
    """Estimate the separation of a user's table, and write its optimal schedule."""
    X = read_table(path)
    if len(X) > setup.rows:
        X = X[rng.permutation(len(X))[: setup.rows]]
    try:
        X, _, scale = normalize_data(X)
    except ValueError as error:
        raise ValueError(f"--input: {path}: {error}") from None
    report(0.1, "data separation")
    separation = DataSeparation.from_data(X, n_draws=setup.draws, n_angles=setup.angles, rng=rng)
    paths = paths_for(separation)
    times = np.linspace(0, 1, setup.times)
    a, m, _, _ = paths["ko"].coefficients(times)
    with open(out / "path.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["t", "a", "m"])
        writer.writerows(zip(times.tolist(), a.tolist(), m.tolist(), strict=True))
    energies = {key: kinetic_energy(one, separation) for key, one in paths.items()}
    return {
        "rows": len(X),
        "columns": X.shape[1],
        "scale": scale,
        "total_angle": separation.total_angle_,
        "energy_kinetic_optimal": energies["ko"],
        "energy_cond_ot": energies["cond-ot"],
        "energy_vp_cosine": energies["vp-cosine"],
        "cond_ot_above_optimum": energies["cond-ot"] / energies["ko"] - 1,
    }


def read_table(path: Path) -> np.ndarray:
    """Read rows from .npy, .npz or .csv; ValueError in one line for what does not fit."""
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".csv"):
        raise ValueError(f"--input: the file must end in .npy, .npz or .csv, got {path.name}")
    try:
        table: Any = read_csv(path) if suffix == ".csv" else np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise ValueError(f"--input: {path} is not a {suffix} file of plain numbers") from None
    if suffix == ".npz":
        with table as file:
            names = file.files
            if len(names) != 1 and "X" not in names:
                raise ValueError(f"--input: {path} must hold one array or one named 'X': {names}")
            table = file["X" if "X" in names else names[0]]
    if table.ndim != 2 or table.dtype.kind not in "biuf" or len(table) < 2 or not table.size:
        raise ValueError(f"--input: {path} must hold numbers of shape (n, d), n at least 2")
    if not np.isfinite(table).all():
        raise ValueError(f"--input: {path} must hold finite numbers")
    return table.astype(float)


def read_csv(path: Path) -> np.ndarray:
    """Read a table of numbers whose first line may be names."""
    with open(path, encoding="utf-8", newline="") as file:
        lines = [row for row in csv.reader(file) if row]
    if len({len(row) for row in lines}) > 1:
        raise ValueError("rows of different lengths")
    try:
        return np.array(lines, dtype=float)
    except ValueError:
        return np.array(lines[1:], dtype=float)


SCALAR = "the energy depends on the data through one scalar function"
OPTIMAL = "among Gaussian paths the kinetic optimal one has the least energy"
LIMIT = "the function tends to 1 as n / sqrt(d) tends to 0, and Cond-OT becomes optimal"
EASIER = "optimal paths are easier to sample"
LIKELY = "optimal paths have better likelihoods"
TRAINED: tuple[tuple[str, str, Preset, tuple[str, ...]], ...] = (
    ("moons", "two moons", "quick", ()),
    ("mnist", "MNIST, 16 components", "full", (MNIST,)),
)
STUDY = Study(
    paper="kinetic-optimal-paths",
    quick={
        "moons": 500,
        "planar_draws": 2000,
        "energy_draws": 3000,
        "real_sets": False,
        "rows": (2, 10, 50, 100),
        "dimensions": (4, 16, 64, 256),
        "repeats": 1,
        "samples": 2000,
        "scored": 500,
        "score_steps": 20,
        "moons_steps": 300,
        "moons_hidden": (128, 128),
        "moons_lr": 1e-2,
        "moons_ema": 0.95,
        "moons_repeats": 1,
        "digits_steps": 0,
        "digits_repeats": 1,
    },
    full={
        "moons": 1000,
        "planar_draws": 3000,
        "energy_draws": 10_000,
        "real_sets": True,
        "rows": (2, 10, 50, 100),
        "dimensions": (4, 16, 64, 256, 1024, 4096),
        "repeats": 5,
        "samples": 5000,
        "scored": 1000,
        "score_steps": 50,
        "moons_steps": 1500,
        "moons_hidden": (128, 128, 128),
        "moons_lr": 2e-3,
        "moons_ema": 0.999,
        "moons_repeats": 2,
        "digits_steps": 2000,
        "digits_repeats": 3,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            SCALAR,
            "energy by the function against that of the velocity, over 3 standard errors or 2 %, "
            "the greater; worst of 3 paths on 4 data sets",
            "energy_disagreement",
            at_most(1),
        ),
        Claim(
            OPTIMAL,
            "least excess of Cond-OT, VP and 50 smooth perturbations over the optimal path",
            "least_advantage",
            at_least(0),
        ),
        Claim(
            OPTIMAL,
            "largest difference of its energy from 2 - 2 cos(Phi)",
            "optimum_gap",
            at_most(1e-3),
        ),
        Claim(
            "the optimal path solves a one-dimensional ODE",
            "largest difference in angle from a solution of the ODE",
            "ode_difference",
            at_most(1e-4),
            unit="rad",
        ),
        Claim(
            LIMIT,
            "change of the gap Cond-OT / optimal - 1 from each d to the next, n = 10, d = 16, 64, "
            "256, 1024, 4096",
            "limit_changes",
            at_most(0),
        ),
        Claim(LIMIT, "that gap at d = 4096", "last_gap", at_most(0.01)),
        Claim(
            LIMIT,
            "largest excess of 1 - lambda over its bound by distances, 20 values of s",
            "certificate_excess",
            at_most(3),
            unit="standard errors",
        ),
        *(
            claim
            for name, text, preset, needs in TRAINED
            for claim in (
                Claim(
                    EASIER,
                    f"energy distance at 4 to 8 evaluations over that of Cond-OT, {text}",
                    f"{name}_over_ot",
                    at_most(1.05),
                    preset=preset,
                    data=needs,
                ),
                Claim(
                    EASIER,
                    f"the same over that of VP, {text}",
                    f"{name}_over_vp",
                    at_most(1.0),
                    preset=preset,
                    data=needs,
                ),
                Claim(
                    LIKELY,
                    f"held-out negative log-likelihood less that of VP, {text}",
                    f"{name}_nll_over_vp",
                    at_most(0.02),
                    unit="nats per dimension",
                    preset=preset,
                    data=needs,
                ),
            )
        ),
        *(
            Claim(
                f"energies on {NAMES[name]}",
                "optimal path, Cond-OT, VP cosine",
                f"energies_{name}",
                reported(),
                preset="full" if needs else "quick",
                data=needs,
            )
            for name, needs in (("moons", ()), ("digits", ()), ("mnist", MNIST), ("cells", CELLS))
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects="a table of rows: .npy, .npz (one array, or X) or .csv, a line of names optional",
        options={"draws": 300, "angles": 160, "rows": 20_000, "times": 101},
    ),
)

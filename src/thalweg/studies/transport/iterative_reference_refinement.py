"""Snapshots and a class of dynamics give trajectories: bridges refine their own reference.

Populations are simulated, seen at ten times by different particles each time, and fitted from every
second snapshot; the others test the result by the earth mover's distance. Predators and prey
(Lotka-Volterra) run in both presets. The full one adds a gene circuit (repressilator), a damped
spring in place of motion capture, which is not packaged, and cells of four days (five principal
components) in place of the two data sets of cells of the paper.

Baselines: one round without drift (the vanilla bridge), a bridge on the right dynamics with all
rates doubled, the light bridge on each interval, and straight lines between optimal pairs.
"""

from __future__ import annotations

import csv
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from thalweg import data
from thalweg.study import Claim, FileMethod, Study, at_most, reported
from thalweg.transport import (
    LightSB,
    LotkaVolterra,
    OrnsteinUhlenbeck,
    ReferenceRefinement,
    Repressilator,
    Spring,
    ZeroDrift,
    energy_distance,
    simulate,
    wasserstein,
)

PREDATION = np.array([1.0, 0.4, 0.4, 0.1])
CIRCUIT = np.array([10.0, 3.0, 1.0, 1.0])
SPRING = np.array([4.0, 0.5, 0.0])
TIMES = np.arange(10) * 0.5
TRAINED, HELD_OUT, FORECAST = slice(0, 9, 2), (1, 3, 5, 7), 9
PARTICLES, SIGMA = 50, 0.1
CELL_DAYS = (2, 3, 4, 7)
CELLS = tuple(f"multiome-pca50-day{day}" for day in CELL_DAYS)
CELL_COMPONENTS, CELL_DT, CELL_ROUNDS = 5, 0.05, 4
CIRCUIT_DT = 0.01


def run(setup, rng, report):
    """Fit each population with the refined reference and with the baselines."""
    share = 0.4 if setup.wide else 1.0
    results = predators(setup, rng, lambda part, text: report(share * part, text))
    if not setup.wide:
        return results
    report(0.4, "repressilator")
    ratios = []
    for child in rng.spawn(setup.seeds):
        _, seen = population(Repressilator(), CIRCUIT, (1.0, 1.0, 2.0), child)
        options = {"dt": CIRCUIT_DT, "n_ipfp": setup.n_ipfp}
        refined = fitted(Repressilator(), seen, setup.n_refine, child, **options)
        vanilla = fitted(ZeroDrift(), seen, 1, child, **options)
        ratios.append(errors(refined, seen, child).mean() / errors(vanilla, seen, child).mean())
        results["circuit_params"] = refined.params_
        report(0.4 + 0.3 * len(ratios) / setup.seeds, "repressilator")
    results |= {"circuit_ratio": np.mean(ratios), "circuit_ratios": ratios}
    _, seen = population(Spring(1), SPRING, (1.0, 0.0), rng)
    options = {"n_ipfp": setup.n_ipfp}
    refined = fitted(Spring(1), seen, setup.n_refine, rng, **options)
    vanilla = fitted(ZeroDrift(), seen, 1, rng, **options)
    results["spring_ratio"] = errors(refined, seen, rng).mean() / errors(vanilla, seen, rng).mean()
    results["spring_params"] = refined.params_
    report(0.75, "cells")
    if all(data.available(name) for name in CELLS):
        results |= held_out_cells(setup, rng)
    return results


def population(family, truth, start, rng):
    """Return times and snapshots, each of particles that started within 0.1 above `start`."""
    starts = [start + rng.uniform(0, 0.1, (PARTICLES, len(start))) for _ in TIMES]
    return starts, simulate(family, truth, starts, TIMES, SIGMA, rng=rng)


def fitted(family, seen, n_refine, rng, **options):
    """Fit every second snapshot."""
    model = ReferenceRefinement(family, SIGMA, n_refine=n_refine, rng=rng, **options)
    return model.fit(seen[TRAINED], TIMES[TRAINED])


def errors(model, seen, rng):
    """Return the earth mover's distance to each snapshot that was left out."""
    return np.array(
        [wasserstein(model.interpolate(TIMES[k], rng=rng), seen[k], p=1) for k in HELD_OUT]
    )


def predators(setup, rng, report):
    """Fit predators and prey with each method, one population a seed."""
    family, found = LotkaVolterra(), []
    for seed, child in enumerate(rng.spawn(setup.seeds)):
        starts, seen = population(family, PREDATION, (5.0, 4.0), child)
        again = simulate(family, PREDATION, starts, TIMES, SIGMA, rng=child)
        by_round: list[float] = []

        def after(state, seed=seed, seen=seen, child=child, by_round=by_round):
            by_round.append(errors(state.model, seen, child).mean())
            report((seed + state.round / state.n_refine) / setup.seeds, f"population {seed + 1}")

        options = {"n_ipfp": setup.n_ipfp}
        refined = fitted(family, seen, setup.n_refine, child, callback=after, **options)
        vanilla = fitted(ZeroDrift(), seen, 1, child, **options)
        wrong = fitted(family, seen, 1, child, params0=2 * PREDATION, **options)
        found.append(
            {
                "emd_by_round": by_round,
                "refined_emd": errors(refined, seen, child).mean(),
                "vanilla_emd": errors(vanilla, seen, child).mean(),
                "fixed_emd": errors(wrong, seen, child).mean(),
                "light_emd": light_bridge_error(seen, setup.light_steps, child),
                "linear_emd": linear_error(seen),
                "floor_emd": np.mean([wasserstein(again[k], seen[k], p=1) for k in HELD_OUT]),
                "forecast_emd": wasserstein(
                    refined.extrapolate(TIMES[FORECAST], rng=child), seen[FORECAST], p=1
                ),
                "rates_by_round": refined.params_path_,
                "rate_errors": np.abs(refined.params_ / PREDATION - 1),
                "objective_by_round": refined.objective_path_,
            }
        )
    results: dict[str, Any] = {key: np.array([one[key] for one in found]) for key in found[0]}
    objective = results["objective_by_round"]
    return results | {
        "vanilla_ratio": results["refined_emd"].mean() / results["vanilla_emd"].mean(),
        "fixed_ratio": results["refined_emd"].mean() / results["fixed_emd"].mean(),
        "median_rate_errors": np.median(results["rate_errors"], axis=0),
        "largest_rise": np.max(objective[:, 1:] / objective[:, :-1]),
        "true_paths": true_paths(child),
        "held_out": np.stack([seen[k] for k in HELD_OUT]),
        "vanilla_paths": vanilla.trajectories_[:PARTICLES],
        "refined_paths": refined.trajectories_[:PARTICLES],
    }


def true_paths(rng):
    """Return some true paths of predators and prey, (T, n, 2)."""
    fine = np.linspace(TIMES[0], TIMES[TRAINED][-1], 201)
    start = np.array([5.0, 4.0]) + rng.uniform(0, 0.1, (30, 2))
    return np.stack(simulate(LotkaVolterra(), PREDATION, start, fine, SIGMA, rng=rng))


def light_bridge_error(seen, n_steps, rng):
    """Return the mean distance of light bridges, one for each interval between fitted snapshots."""
    found = []
    for k in HELD_OUT:
        epsilon = SIGMA**2 * (TIMES[k + 1] - TIMES[k - 1])
        model = LightSB(epsilon, 10, n_steps=n_steps, rng=rng).fit(seen[k - 1], seen[k + 1])
        found.append(wasserstein(model.bridge(seen[k - 1], 0.5), seen[k], p=1))
    return np.mean(found)


def linear_error(seen):
    """Return the mean distance of the midpoints of optimal pairs."""
    found = []
    for k in HELD_OUT:
        pairs = linear_sum_assignment(cdist(seen[k - 1], seen[k + 1], "sqeuclidean"))[1]
        found.append(wasserstein((seen[k - 1] + seen[k + 1][pairs]) / 2, seen[k], p=1))
    return np.mean(found)


def held_out_cells(setup, rng):
    """Distances to the cells of day 3 from days 2, 4 and 7, over the vanilla bridge's."""
    from thalweg.transport import GradientField

    days = [np.load(data.fetch(name, download=False))[:, :CELL_COMPONENTS] for name in CELLS]
    unit = np.sqrt(np.concatenate(days).astype(float).var(0).mean())
    seen = [day[rng.permutation(len(day))[: setup.cells]].astype(float) / unit for day in days]
    trained, times, middle = [seen[0], seen[2], seen[3]], [2.0, 4.0, 7.0], seen[1]
    options = {"dt": CELL_DT, "n_ipfp": CELL_ROUNDS, "rng": rng}
    field = GradientField(CELL_COMPONENTS, n_epochs=setup.cell_epochs)
    models = {
        "refined": ReferenceRefinement(field, SIGMA, n_refine=CELL_ROUNDS, **options),
        "vanilla": ReferenceRefinement(ZeroDrift(), SIGMA, n_refine=1, **options),
    }
    clouds = {name: model.fit(trained, times).interpolate(3.0) for name, model in models.items()}
    clouds["copy"] = seen[0]
    found = {
        name: np.array([wasserstein(cloud, middle, p=1), energy_distance(cloud, middle)])
        for name, cloud in clouds.items()
    }
    return {
        "cells_over_vanilla": found["refined"] / found["vanilla"],
        "cells_over_copy": found["refined"] / found["copy"],
        "cells_emd": [found[name][0] for name in ("refined", "vanilla", "copy")],
    }


def draw(results, figure):
    """Paths of vanilla and refined bridges over the truth; distance and rates by round."""
    (vanilla, emd), (refined, rates) = figure.subplots(2, 2)
    for ax, name, color in ((vanilla, "vanilla", "tab:red"), (refined, "refined", "tab:blue")):
        ax.plot(*results["true_paths"].transpose(2, 0, 1), color="0.8", lw=2.5, zorder=1)
        ax.plot(*results[f"{name}_paths"][:25].transpose(2, 1, 0), color=color, lw=0.6, zorder=2)
        ax.scatter(*results["held_out"].reshape(-1, 2).T, s=7, color="black", lw=0, zorder=3)
        handles = [
            ax.plot([], [], color="0.8", lw=2.5, label="true paths")[0],
            ax.plot([], [], color=color, lw=1, label=f"{name} bridge")[0],
            ax.scatter([], [], s=12, color="black", label="snapshots left out"),
        ]
        ax.legend(handles=handles, fontsize=8, loc="upper left")
        ax.set(xlabel="prey", ylabel="predators", xlim=(0.6, 5.6), ylim=(1.4, 5.8))
        ax.set_title(f"predators and prey, {name} bridge", fontsize=10)
    by_round = results["emd_by_round"].mean(0)
    rounds = np.arange(1, len(by_round) + 1)
    emd.plot(rounds, by_round, "o-", color="tab:blue", label="refined reference")
    for key, label, color, style in (
        ("vanilla", "vanilla bridge", "tab:red", "--"),
        ("fixed", "fixed reference, rates doubled", "tab:purple", "-."),
        ("light", "light bridge, each interval", "tab:green", ":"),
        ("linear", "lines between optimal pairs", "tab:brown", (0, (5, 1, 1, 1, 1, 1))),
        ("floor", "two true samples", "black", "-"),
    ):
        value = results[f"{key}_emd"].mean()
        emd.axhline(value, color=color, ls=style, lw=1.2, label=f"{label}: {value:.2f}")
    top = max(by_round.max(), *(results[f"{key}_emd"].mean() for key in ("vanilla", "fixed")))
    emd.set(xlabel="round of refinement", ylabel="earth mover's distance")
    emd.set(ylim=(0, 2.3 * top), xticks=rounds)
    emd.set_title("distance to the snapshots left out", fontsize=10)
    emd.legend(fontsize=8, loc="upper right")
    path = results["rates_by_round"].mean(0) / PREDATION
    names = ("prey born", "prey eaten", "predators dying", "predators born")
    for i, (name, marker) in enumerate(zip(names, "os^d", strict=True)):
        rates.plot(np.arange(len(path)), path[:, i], marker + "-", ms=4, label=name)
    rates.axhspan(0.85, 1.15, color="0.9", zorder=0)
    rates.set(xlabel="round of refinement", ylabel="fitted rate / true rate")
    rates.set(ylim=(-0.05, 1.35), xticks=np.arange(len(path)))
    rates.set_title("rates, within 15 % in the band", fontsize=10)
    rates.legend(fontsize=8, loc="lower right")


def on_file(path, setup, out, rng, report):
    """Fit the snapshots of a user's file; write parameters, and clouds at the asked times."""
    snapshots, times, columns = read_snapshots(path)
    dim = snapshots[0].shape[1]
    at = wanted_times(setup.at, times)
    family = family_of(setup.family, dim)

    def after(state):
        report(0.95 * state.round / state.n_refine, f"objective {state.objective:.4g}")

    model = ReferenceRefinement(
        family,
        setup.sigma,
        dt=setup.dt,
        n_refine=setup.n_refine,
        n_ipfp=setup.n_ipfp,
        callback=after,
        rng=rng,
    ).fit(snapshots, times)
    with open(out / "parameters.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "value"])
        writer.writerows(zip(family.names, model.params_.tolist(), strict=True))
    with open(out / "clouds.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *columns])
        for t in at:
            cloud = model.interpolate(t) if t <= times[-1] else model.extrapolate(t)
            writer.writerows([t, *row] for row in cloud.tolist())
    np.savez(out / "trajectories.npz", grid=model.grid_, trajectories=model.trajectories_)
    printed: dict[str, Any] = {
        "snapshots": len(times),
        "objective_at_start": float(model.objective_path_[0]),
        "objective_at_end": float(model.objective_path_[-1]),
        "objective_of_noise_alone": dim / 2,
    }
    if family.n_params <= 30:
        printed |= dict(zip(family.names, model.params_.tolist(), strict=True))
    return printed


def family_of(name, dim):
    """Return the family of this name; ValueError where it does not fit the columns."""
    if name == "lotka-volterra":
        if dim != 2:
            raise ValueError(f"--input: lotka-volterra needs 2 columns beside time, got {dim}")
        return LotkaVolterra()
    if name == "ou":
        return OrnsteinUhlenbeck(dim)
    if name == "gradient":
        from thalweg.transport import GradientField

        return GradientField(dim)
    raise ValueError(f"--set: family must be lotka-volterra, ou or gradient, got {name!r}")


def wanted_times(text: str, times: np.ndarray) -> list[float]:
    """Read times from text; halfway between the snapshots where it is empty."""
    if not text.strip():
        return ((times[:-1] + times[1:]) / 2).tolist()
    try:
        at = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--set: at must be numbers with commas between, got {text!r}") from None
    for t in at:
        if not times[0] <= t < math.inf:
            raise ValueError(f"--set: at must be finite and at least {times[0]:g}, got {t:g}")
    return at


def read_snapshots(path: Path) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Read clouds, times and column names of a .csv or .npz; ValueError in one line otherwise."""
    if path.suffix.lower() == ".npz":
        return read_arrays(path)
    if path.suffix.lower() != ".csv":
        raise ValueError(f"--input: expected a .csv or .npz file, got {path.name!r}")
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = [row for row in csv.reader(file) if row] or [[]]
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"--input: {path.name} is not a text table") from None
    if "time" not in header or len(header) < 2:
        raise ValueError(f"--input: {path.name} needs a column 'time' and others, has {header}")
    try:
        table = np.array([[float(cell) for cell in row] for row in rows]).reshape(-1, len(header))
    except ValueError:
        raise ValueError(f"--input: every row of {path.name} must be {len(header)} numbers") from (
            None
        )
    if not np.isfinite(table).all():
        raise ValueError(f"--input: the numbers of {path.name} must be finite")
    column = header.index("time")
    times = np.unique(table[:, column])
    points = np.delete(table, column, axis=1)
    clouds = [points[table[:, column] == t] for t in times]
    return enough(clouds, times), times, [name for name in header if name != "time"]


def read_arrays(path: Path) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Read `times` and `snapshots_0`, `snapshots_1`, ... of an .npz file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, AttributeError, TypeError, zipfile.BadZipFile):
        raise ValueError(f"--input: {path.name} is not an .npz file of plain arrays") from None
    times = arrays.get("times")
    if times is None or times.ndim != 1 or times.dtype.kind not in "iuf":
        raise ValueError(f"--input: {path.name} needs an array 'times' of one axis")
    clouds = []
    for k in range(len(times)):
        cloud = arrays.get(f"snapshots_{k}")
        if cloud is None or cloud.ndim != 2 or cloud.dtype.kind not in "biuf":
            raise ValueError(f"--input: snapshots_{k} must be numbers of shape (n, d)")
        clouds.append(cloud.astype(float))
    columns = [f"x{j}" for j in range(clouds[0].shape[1])] if clouds else []
    return enough(clouds, times), times.astype(float), columns


def enough(clouds: list[np.ndarray], times: np.ndarray) -> list[np.ndarray]:
    """Return the clouds; ValueError where there are fewer than two."""
    if len(clouds) < 2:
        raise ValueError(f"--input: needs snapshots at two or more times, got {times.tolist()}")
    return clouds


STUDY = Study(
    paper="iterative-reference-refinement",
    quick={
        "seeds": 1,
        "n_refine": 4,
        "n_ipfp": 4,
        "light_steps": 200,
        "wide": False,
        "cells": 200,
        "cell_epochs": 5,
    },
    full={
        "seeds": 3,
        "n_refine": 10,
        "n_ipfp": 10,
        "light_steps": 1500,
        "wide": True,
        "cells": 300,
        "cell_epochs": 10,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "learns trajectories across times",
            "predators and prey: earth mover's distance to snapshots left out, over vanilla's",
            "vanilla_ratio",
            at_most(0.4),
        ),
        Claim(
            "needs only a class of reference dynamics",
            "relative error of the four rates from a start of 1e-5, median of populations",
            "median_rate_errors",
            at_most(0.15),
        ),
        Claim(
            "refinement helps over a fixed reference",
            "earth mover's distance, refined over a fixed reference with doubled rates",
            "fixed_ratio",
            at_most(0.6),
        ),
        Claim(
            "alternating minimisation lowers the objective",
            "largest ratio of the objective to that of the round before",
            "largest_rise",
            at_most(1.05),
        ),
        Claim(
            "better in systems biology",
            "repressilator: earth mover's distance, refined over vanilla",
            "circuit_ratio",
            at_most(0.7),
            preset="full",
        ),
        Claim(
            "better than or equal to vanilla on real cells",
            "day 3: earth mover's distance and energy distance, refined over vanilla",
            "cells_over_vanilla",
            at_most(1.02),
            preset="full",
            data=CELLS,
        ),
        Claim(
            "better than copying the day before",
            "day 3: earth mover's distance and energy distance, refined over the cells of day 2",
            "cells_over_copy",
            at_most(1.0),
            preset="full",
            data=CELLS,
        ),
        Claim(
            "better on motion",
            "damped spring: earth mover's distance, refined over vanilla",
            "spring_ratio",
            reported(),
            preset="full",
        ),
        Claim(
            "predicts the time after the last snapshot",
            "predators and prey: earth mover's distance at 4.5, fitted to 4",
            "forecast_emd",
            reported(),
        ),
    ],
    on_file=FileMethod(
        run=on_file,
        expects=(
            "a .csv with a column 'time' and numeric columns, or an .npz with 'times' and "
            "'snapshots_0', 'snapshots_1', ... of shape (n, d); at least 5 points a time"
        ),
        options={
            "family": "lotka-volterra",
            "at": "",
            "sigma": 0.1,
            "dt": 0.02,
            "n_refine": 10,
            "n_ipfp": 10,
        },
    ),
)

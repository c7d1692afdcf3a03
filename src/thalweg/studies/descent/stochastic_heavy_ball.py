"""Momentum with step decay forgets its start sqrt(kappa) times faster, at little cost in noise.

On spectra with anisotropic gradient noise the risk is exact, without sampling: the budgets after
which the bias of heavy ball and of SGD is gone, the variance beside the statistical optimum, the
theorem's bound, and both methods as batches grow at one budget of samples, where fewer steps are
fewer rounds of communication. Simulated runs of the method check the exact risk. Constant steps
and other schedules are baselines, and wrong steps must break the bound. Ridge regression on real
tables shows what the theory leaves out: there noise grows with the distance from the minimum, and
heavy ball with small batches diverges. The full preset trains a perceptron on digits.

With a file of numbers (last column the target): its spectrum, what a budget of steps promises with
and without momentum, and a run of each.
"""

from __future__ import annotations

import csv
from typing import Any

import numpy as np

from thalweg import data
from thalweg.descent import empirical_noise
from thalweg.descent.anisotropic_heavy_ball import momentum_of
from thalweg.studies.descent._heavy_ball_data import (
    Landscape,
    network_case,
    packaged_cases,
    ridge,
    standardised,
    zero_or_one,
)
from thalweg.studies.descent._heavy_ball_risks import (
    acceleration,
    curves,
    large_batches,
    near_optimal,
    other_schedules,
    simulation,
    theorem,
)
from thalweg.studies.descent._large_scale_network import SETS
from thalweg.studies.descent.convergence_handbook import read_regression
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, between, equals, reported


def run(setup, rng, report):
    """Measure the claims about spectra, then those about data."""
    results: dict[str, Any] = {}
    results |= acceleration(setup)
    report(0.2, "variance, batches, other schedules")
    results |= near_optimal(setup) | large_batches(setup) | other_schedules() | curves(setup)
    report(0.4, "bound")
    results |= theorem(setup)
    report(0.6, "simulated runs")
    results |= simulation(setup, rng)
    report(0.8, "ridge regression")
    results |= packaged_cases(setup, rng)
    if setup.network_epochs and all(data.available(name) for name in SETS):
        report(0.85, "digits")
        results |= zero_or_one(setup, rng)
        report(0.95, "perceptron")
        results |= network_case(setup, rng)
    return results


def draw(results, figure):
    """Bias and variance against the budget; risk against the batch at one budget of samples."""
    figure.set_size_inches(10, 4.6)
    left, right = figure.subplots(1, 2)
    T = results["curve_budgets"]
    for name, key, colour in (("heavy ball", "heavy_ball", "C3"), ("SGD", "sgd", "C0")):
        bias, variance = np.transpose(results[f"curve_{key}"])
        left.loglog(T, np.maximum(bias, 1e-14), colour, lw=1.6, label=f"{name}, bias")
        left.loglog(T, variance, colour, ls="--", lw=1.6, label=f"{name}, variance")
        right.loglog(
            results["batches"], results[f"batch_{key}"], colour, marker="o", lw=1.6, label=name
        )
    left.loglog(T, results["curve_minimax"], "0.5", ls=":", label="statistical optimum")
    right.axhline(results["batch_minimax"], color="0.5", ls=":", label="statistical optimum")
    left.set_ylim(1e-10, 10)
    left.set_xlabel("budget of steps T")
    left.set_ylabel("part of the expected excess risk")
    left.set_title("step decay, condition number 1000", fontsize=10)
    right.set_xticks(results["batches"], [f"{b:g}" for b in results["batches"]])
    right.set_ylim(1e-4, 3e-3)
    right.set_yticks([1e-4, 3e-4, 1e-3, 3e-3], ["1e-4", "3e-4", "1e-3", "3e-3"])
    right.minorticks_off()
    right.set_xlabel("batch size (200 000 samples in all)")
    right.set_ylabel("expected excess risk")
    right.set_title("step decay, condition number 10 000", fontsize=10)
    for axes, columns in ((left, 2), (right, 3)):
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, fontsize=8,
            frameon=False,
        )  # fmt: skip


def on_file(path, setup, out, rng, report):
    """Tell from a file's spectrum what both methods would reach, and run them."""
    for name, value in (("steps", setup.steps), ("batch_size", setup.batch_size)):
        if value < 1:
            raise ValueError(f"--set: {name} must be >= 1, got {value}")
    if setup.l2 < 0:
        raise ValueError(f"--set: l2 must be >= 0, got {setup.l2:g}")
    if not setup.factor > 1:
        raise ValueError(f"--set: factor must be > 1, got {setup.factor:g}")
    X, y = read_regression(path)
    if not X.std(axis=0).any() or not y.std():
        raise ValueError("--input: expected columns and a target that vary, got constants")
    if setup.batch_size > len(y):
        raise ValueError(
            f"--set: batch_size must be at most the {len(y)} rows, got {setup.batch_size}"
        )
    land = Landscape(ridge(standardised(X), standardised(y[:, None])[:, 0], setup.l2 or None))
    if not land.mu > 1e-14 * land.L:
        raise ValueError(
            f"--set: l2 must be larger, the columns depend on each other at {setup.l2:g}"
        )
    report(0.2, "prediction and run")
    summary: dict[str, Any] = {
        "rows": len(y),
        "columns": X.shape[1],
        "L": land.L,
        "mu": land.mu,
        "kappa": land.kappa,
        "momentum": momentum_of(land.kappa),
        "noise at zero": empirical_noise(land.problem, np.zeros(land.problem.dim)),
        "noise at the minimum": empirical_noise(land.problem, land.minimum),
        "gap at zero": land.gap,
    }
    for name, momentum in (("SGD", False), ("heavy ball", True)):
        try:
            steps = land.steps(setup.steps, momentum, factor=setup.factor)
        except ValueError as error:
            raise ValueError(f"--set: steps are too few: {error}") from None
        summary[f"stages, {name}"] = len(np.unique(steps))
        summary[f"predicted gap, {name}"] = land.predicted(steps, momentum, setup.batch_size)
        summary[f"gap reached, {name}"] = land.reached(steps, momentum, setup.batch_size, rng)
    with open(out / "spectrum.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["eigenvalue", "error_at_zero", "noise_variance"])
        writer.writerows(zip(land.eigenvalues, land.error, land.noise, strict=True))
    return summary


STUDY = Study(
    paper="stochastic-heavy-ball",
    quick={
        "kappas": (100.0, 1000.0),
        "budgets": 10,
        "beyond": 2.0,
        "simulated_steps": 1000,
        "curve_points": 24,
        "ridge_runs": 2,
        "network_epochs": 0,
        "network_stages": 3,
    },
    full={
        "kappas": (100.0, 1000.0, 10_000.0),
        "budgets": 40,
        "beyond": 4.0,
        "simulated_steps": 10_000,
        "curve_points": 80,
        "ridge_runs": 20,
        "network_epochs": 10,
        "network_stages": 3,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "the bias term is accelerated by about sqrt(kappa)",
            "budget whose bias is under 1e-6, of SGD (better of two first steps) over that of "
            "heavy ball, over sqrt(kappa)",
            "acceleration",
            at_least(0.4),
        ),
        Claim(
            "the variance stays within log factors of the optimum",
            "variance over (stages d sigma^2 / 2T), the largest for T >= 20 sqrt(kappa)",
            "variance_ratio",
            at_most(1),
        ),
        Claim(
            "negative control: heavy ball at a constant step does not",
            "the same, the least",
            "constant_variance_ratio",
            at_least(1),
        ),
        Claim(
            "the theorem bounds the risk",
            "budgets at which the exact risk exceeds the bound",
            "violations",
            equals(0),
        ),
        Claim(
            "and some of these budgets are in the theorem's range",
            "budgets long enough for its conditions",
            "inside",
            at_least(3),
        ),
        Claim(
            "its noise term falls as 1/T up to logarithms",
            "slope of the log of the bound, without its squared logarithms, against log T",
            "bound_slope",
            between(-1.001, -0.999),
        ),
        Claim(
            "negative control: wrong steps exceed the bound",
            "risk over bound of steps far too short, and of unstable ones",
            "wrong_over_bound",
            at_least(1),
        ),
        Claim(
            "simulated runs agree with the exact risk",
            "distance of the mean of 200 runs in standard errors, ten checkpoints",
            "simulation_distance",
            at_most(4),
        ),
        Claim(
            "heavy ball keeps its risk as batches grow at one budget of samples",
            "risk at batches of 100 over that at 10",
            "heavy_ball_growth",
            at_most(1.3),
        ),
        Claim(
            "SGD does not",
            "the same of SGD, best of four first steps",
            "sgd_growth",
            at_least(3),
        ),
        Claim(
            "so that with large batches heavy ball is better",
            "risk of heavy ball over SGD's at batches of 100",
            "large_batch_ratio",
            at_most(0.45),
        ),
        Claim(
            "with small ones SGD is better",
            "the same at batches of 10",
            "small_batch_ratio",
            reported(),
        ),
        Claim(
            "both with the best of three factors",
            "the same at batches of 100, stages of heavy ball and steps of SGD chosen too",
            "tuned_ratio",
            reported(),
        ),
        Claim(
            "a constant step does not reach the risk of step decay",
            "risk of heavy ball at the best of four constant steps over that with step decay, "
            "kappa 1000, T = 3000",
            "constant_over_decay",
            at_least(20),
        ),
        Claim(
            "nor do other schedules of SGD",
            "risk over that of heavy ball with step decay: step decay, averaged constant steps, "
            "linear and cosine decay, each with its best step",
            "other_schedules",
            reported(),
        ),
        Claim(
            "heavy ball with smooth decays",
            "risk over that with step decay: linear, cosine, each with its best step",
            "smooth_heavy_ball",
            reported(),
        ),
        Claim(
            "ridge regression with batches of 128",
            "excess of heavy ball over SGD's (best of four first steps), 100 passes: breast "
            "cancer, diabetes",
            "ridge_ratio",
            reported(),
        ),
        Claim(
            "what the theory leaves out: noise that grows away from the minimum",
            "smallest batch of 8, 32 and 128 with which heavy ball ends below its start",
            "ridge_smallest",
            reported(),
        ),
        Claim(
            "how much it grows",
            "least sigma^2 with covariance <= sigma^2 H at the start over that at the minimum",
            "ridge_noise_ratio",
            reported(),
        ),
        Claim(
            "the exact risk with the noise of the minimum predicts a run",
            "excess over prediction with batches of 128",
            "ridge_over_prediction",
            reported(),
        ),
        Claim(
            "ridge regression on digits 0 and 1, 50 components",
            "excess of heavy ball over SGD's, batches of 128",
            "digits_ratio",
            reported(),
            preset="full",
            data=SETS,
        ),
        Claim(
            "and the noise that grows, on them",
            "smallest batch of 8, 32 and 128 with which heavy ball ends below its start",
            "digits_smallest",
            reported(),
            preset="full",
            data=SETS,
        ),
        Claim(
            "a deep network",
            "test error of a perceptron on digits with one schedule, best of three rates: heavy "
            "ball, torch's momentum, SGD",
            "network_errors",
            reported(),
            preset="full",
            data=SETS,
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects="CSV of numbers, the last column the target; a first line of names is skipped",
        options={"steps": 1000, "batch_size": 32, "l2": 0.0, "factor": 4.0},
    ),
)

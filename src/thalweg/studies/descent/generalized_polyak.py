"""Polyak's steps made for momentum: no swings, no constants, and little to choose.

On ill-conditioned least squares the heavy ball with the best fixed step first climbs far over its
start; with Polyak's steps it never does, for any momentum, and arrives sooner. The moving average
keeps its promise about the distance to a minimiser, step by step, on problems with and without
kinks, and a wrong length is seen to break it. Small networks are trained with momentum from 0 to
0.98, where SGD with any fixed rate of a grid fails somewhere: training is noisy, so that these
claims are judged in the full preset, over many seeds. It adds a perceptron on handwritten digits
and a character model.

With a file of rows (last column the target): logistic regression where it has two values, linear
regression elsewhere, the gap against momentum.
"""

from __future__ import annotations

import csv
from typing import Any

import numpy as np

from thalweg import data
from thalweg.descent import LeastSquares, Logistic, heavy_ball, polyak_momentum
from thalweg.studies.descent import _polyak_networks as networks
from thalweg.studies.descent._large_scale_network import SETS
from thalweg.studies.descent._polyak_convex import distances, swings
from thalweg.studies.descent.convergence_handbook import read_regression
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, equals, reported

FILE_BETAS = (0.0, 0.5, 0.9, 0.95, 0.99)


def run(setup, rng, report):
    """Measure the deterministic claims, then train the networks."""
    results: dict[str, Any] = swings(setup, rng)
    report(0.15, "distances")
    results |= distances(setup, rng)
    report(0.2, "digits")
    results |= networks.digits(setup, int(rng.integers(2**31)))
    if setup.mnist_epochs and all(data.available(name) for name in SETS):
        report(0.4, "handwritten digits")
        results |= networks.mnist(setup, int(rng.integers(2**31)))
    if setup.text_steps and data.available(networks.TEXT):
        results |= networks.characters(setup, int(rng.integers(2**31)), report)
    return results


def draw(results, figure):
    """Values against steps for several momenta; final training loss against momentum."""
    figure.set_size_inches(10.5, 4.6)
    left, right = figure.subplots(1, 2)
    for color, beta in zip(("C9", "C0", "C2", "C1"), ("0.5", "0.9", "0.95", "0.99"), strict=True):
        curve = results[f"curve_{beta}"]
        left.semilogy(curve, color, label=f"ALR-HB, momentum {beta}")
    left.semilogy(results["curve_tuned"], "C3--", label="heavy ball, best fixed step")
    left.axhline(1, color="0.7", lw=0.8)
    left.set(
        title="least squares, condition 1000",
        xlabel="step",
        ylabel="value / first value",
        xlim=(0, 400),
        ylim=(1e-12, 1e2),
    )
    betas = np.arange(len(networks.BETAS))
    right.semilogy(betas, results["digits_smag"], "C0o-", lw=2.2, label="ALR-SMAG")
    right.semilogy(betas, results["digits_alig"], "C1s-", label="ALI-G")
    right.semilogy(0, results["digits_sps"], "C2D", label="SPS_max")
    for rate, losses, shade in zip(
        networks.RATES, results["digits_sgdm"], ("0.75", "0.6", "0.4", "0.15"), strict=True
    ):
        right.semilogy(betas, losses, color=shade, ls="--", label=f"SGD, rate {rate:g}")
    right.set(title="perceptron on digits", xlabel="momentum", ylabel="final training loss, nats")
    right.set_xticks(betas, [f"{beta:g}" for beta in networks.BETAS])
    for axes, columns in ((left, 2), (right, 3)):
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, fontsize=8,
            frameon=False,
        )  # fmt: skip


def on_file(path, setup, out, rng, report):
    """Run both variants and a heavy ball of fixed steps on a file's rows, for several momenta."""
    if setup.steps < 1:
        raise ValueError(f"--set: steps must be >= 1, got {setup.steps}")
    if setup.l2 < 0:
        raise ValueError(f"--set: l2 must be >= 0, got {setup.l2:g}")
    X, y = read_regression(path)
    spread = X.std(axis=0)
    X = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    X = np.column_stack([X, np.ones(len(X))])
    values = np.unique(y)
    logistic = len(values) == 2
    problem = (
        Logistic(X, np.where(y == values[1], 1.0, -1.0), setup.l2)
        if logistic
        else LeastSquares(X, y, setup.l2)
    )
    start = np.zeros(problem.dim)
    star = problem.minimiser(start)
    # Separable rows have the infimum 0, which is not attained.
    f_star = 0.0 if star is None else float(problem.value(star))
    common = {"jac": problem.gradient, "gtol": 0.0, "maxiter": setup.steps}
    gaps: dict[str, list[float]] = {"ALR-HB": [], "ALR-MAG": [], "heavy ball, step 1/L": []}
    for number, beta in enumerate(FILE_BETAS):
        report(number / len(FILE_BETAS), f"momentum {beta:g}")
        for name, variant in (("ALR-HB", "hb"), ("ALR-MAG", "mag")):
            found = polyak_momentum(
                problem.value, start, f_star=f_star, variant=variant, momentum=beta,
                lower_bound="convex" if logistic else "quadratic", **common,
            )  # fmt: skip
            gaps[name].append(max(found.fun - f_star, 0.0))
        found = heavy_ball(
            problem.value, start, alpha=1 / problem.curvature()["L"], beta=beta, **common
        )
        gaps["heavy ball, step 1/L"].append(max(found.fun - f_star, 0.0))
    with open(out / "gaps.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "momentum", "gap"])
        for name, several in gaps.items():
            writer.writerows([name, *pair] for pair in zip(FILE_BETAS, several, strict=True))
    summary: dict[str, Any] = {
        "rows": len(y),
        "columns": X.shape[1] - 1,
        "model": "logistic regression" if logistic else "linear regression",
        "first value": float(problem.value(start)),
        "least value": f_star,
    }
    for name, several in gaps.items():
        summary[name] = (
            f"gap {min(several):.2e} to {max(several):.2e} over momenta "
            f"{FILE_BETAS[0]:g} to {FILE_BETAS[-1]:g}, {setup.steps} steps"
        )
    return summary


STUDY = Study(
    paper="generalized-polyak",
    quick={
        "steps": 400,
        "certified_steps": 200,
        "digit_seeds": 1,
        "digit_epochs": 15,
        "digit_extra": False,
        "mnist_epochs": 0,
        "text_steps": 0,
    },
    full={
        "steps": 3000,
        "certified_steps": 2000,
        "digit_seeds": 24,
        "digit_epochs": 15,
        "digit_extra": True,
        "mnist_epochs": 5,
        "text_steps": 150,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "no oscillation on ill-conditioned problems",
            "largest value over the first, ALR-HB and ALR-MAG, five momenta, conditions 10³ and "
            "10⁴, least squares started at 0 with a solution in the range of Aᵀ",
            "polyak_peaks",
            at_most(1 + 1e-9),
        ),
        Claim(
            "where the heavy ball oscillates",
            "the same of the heavy ball with the best fixed step, conditions 10³ and 10⁴",
            "tuned_peaks",
            at_least(10),
        ),
        Claim(
            "how far it climbs hangs on the start",
            "the same from a start with equal coordinates along all eigenvectors",
            "even_peaks",
            reported(),
        ),
        Claim(
            "fast on ill-conditioned problems",
            "steps of ALR-HB (exact bound, momentum 0.9) to 1e-10 of the first value, condition "
            "10³",
            "polyak_steps",
            at_most(300),
        ),
        Claim(
            "faster than the heavy ball with constants",
            "the same of the heavy ball with the best fixed step",
            "tuned_steps",
            reported(),
        ),
        Claim(
            "and than one with step 1/L",
            "the same of the heavy ball with step 1/L and momentum 0.9",
            "fixed_steps",
            reported(),
        ),
        Claim(
            "and than Polyak's steps without momentum",
            "the same of Polyak's method",
            "plain_steps",
            reported(),
        ),
        Claim(
            "the distance to a minimiser falls by ell²/‖d‖² a step, whatever the momentum",
            "steps of ALR-MAG that break it, five momenta: squares, logistic loss, ‖Ax - b‖_1",
            "distance_violations",
            equals(0),
        ),
        Claim(
            "negative control: a wrong length breaks it",
            "the same of the length ell / <d, g>",
            "wrong_violations",
            at_least(1),
        ),
        Claim(
            "least gap at most G D / ((1 - beta) √K)",
            "largest share of the bound, ‖Ax - b‖_1, five momenta",
            "bound_ratios",
            at_most(1),
        ),
        Claim(
            "insensitive to momentum",
            "worst training loss of ALR-SMAG over momenta 0 to 0.98, perceptron on digits, mean of "
            "24 seeds",
            "digits_smag_worst",
            at_most(0.2),
            preset="full",
        ),
        Claim(
            "where SGD with any fixed rate fails somewhere",
            "the same of SGD for the rates 0.01, 0.1, 0.3 and 1",
            "digits_sgdm_worst",
            at_least(0.4),
            preset="full",
        ),
        Claim(
            "insensitive to momentum, seed by seed",
            "worst training loss of ALR-SMAG over momenta",
            "digits_smag_worst_by_seed",
            reported(),
        ),
        Claim(
            "better than Polyak steps without momentum",
            "training loss of ALR-SMAG, momentum 0.9, over that of SPS_max, median of 24 seeds",
            "digits_smag_over_sps",
            at_most(0.3),
            preset="full",
        ),
        Claim(
            "better than Polyak steps without momentum, in the mean",
            "mean loss of the seeds over mean loss: runs that end at a spike count",
            "digits_mean_smag_over_sps",
            reported(),
        ),
        Claim(
            "and less sensitive than ALI-G",
            "worst training loss of ALR-SMAG over momenta, mean of 24 seeds, over ALI-G's",
            "digits_worst_smag_over_alig",
            at_most(0.3),
            preset="full",
        ),
        Claim(
            "at momentum 0.9 alone ALI-G may be lower",
            "training losses of ALR-SMAG and ALI-G there, medians of the seeds",
            "digits_at_09",
            reported(),
        ),
        Claim(
            "the longest step still matters",
            "training losses with lr_max = 10 and no momentum: ALR-SMAG, SPS_max, ALI-G",
            "digits_long_cap",
            reported(),
            preset="full",
        ),
        Claim(
            "the stochastic heavy ball",
            "training loss of ALR-SHB for momenta 0, 0.5, 0.9, 0.95, 0.98",
            "digits_shb",
            reported(),
            preset="full",
        ),
        Claim(
            "beside Adam",
            "training loss of Adam for the rates 0.001 and 0.01",
            "digits_adam",
            reported(),
        ),
        Claim(
            "on handwritten digits",
            "worst training loss of ALR-SMAG over momenta, 784-128-64-10",
            "mnist_smag_worst",
            reported(),
            preset="full",
            data=SETS,
        ),
        Claim(
            "on handwritten digits, SGD",
            "the same of SGD for the rates 0.01, 0.1, 0.3 and 1",
            "mnist_sgdm_worst",
            reported(),
            preset="full",
            data=SETS,
        ),
        Claim(
            "on handwritten digits, ALI-G",
            "the same of ALI-G",
            "mnist_alig_worst",
            reported(),
            preset="full",
            data=SETS,
        ),
        Claim(
            "on a character model",
            "loss of unseen text, ALR-SMAG with lr_max 0.3, c 1 and momenta 0.5, 0.9, 0.98",
            "text_smag",
            reported(),
            preset="full",
            data=networks.TEXT,
        ),
        Claim(
            "on a character model, SGD",
            "the same of SGD, rate 0.3",
            "text_sgdm",
            reported(),
            preset="full",
            data=networks.TEXT,
        ),
        Claim(
            "on a character model, Adam",
            "the same of Adam, rate 0.002",
            "text_adam",
            reported(),
            preset="full",
            data=networks.TEXT,
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects="CSV of numbers, the last column the target (two values: a label); a first line of "
        "names is skipped",
        options={"l2": 0.0, "steps": 300},
    ),
)

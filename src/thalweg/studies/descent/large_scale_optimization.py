"""Stochastic gradients first, batch methods later, and the two ways between: the survey, measured.

Speeches of two plays are told apart by l2-logistic regression, and every method runs against passes
over the data: stochastic, batch, noise-reduced and second-order (the survey's Figure 3.1 extended).
On a quadratic whose constants are exact, means of many runs are compared with the bounds of
Theorems 4.6, 4.7, 4.8 and 5.1, and runs with wrong steps must exceed them. There too: the noise
floor that halves with the step, growing batches, averaged points, and the work that an accuracy
costs. An l1-regularised problem is solved by four methods. The full preset trains a perceptron on
handwritten digits.

With a file of labelled rows (last column the label): all methods on it, gap against passes.
"""

from __future__ import annotations

import csv
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from thalweg import data
from thalweg.descent import SparseLogistic
from thalweg.studies.descent._large_scale_linear import (
    TEXT,
    Race,
    sparse_models,
    text_case,
    tumours,
)
from thalweg.studies.descent._large_scale_network import SETS, network_case
from thalweg.studies.descent._large_scale_theory import averaging, floors, theorems, work
from thalweg.studies.descent.convergence_handbook import read_regression
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, between, reported

STYLES = {
    "SG": ("C0", "-"),
    "minibatch SG": ("C0", "--"),
    "RMSprop": ("C0", ":"),
    "gradient descent": ("0.5", "-"),
    "L-BFGS": ("k", "-"),
    "dynamic sampling": ("C2", "--"),
    "SVRG": ("C2", "-"),
    "SAGA": ("C2", ":"),
    "SQN": ("C3", ":"),
    "subsampled Newton": ("C3", "--"),
    "Newton-CG": ("C3", "-"),
}
THEOREMS = {
    "4.6": "fixed step",
    "4.7": "steps ~ 1/k",
    "5.1": "growing batches",
}


def run(setup, rng, report):
    """Measure the claims about the theory, then those about text, sparsity and the network."""
    results: dict[str, Any] = {}
    report(0.0, "theorems")
    results |= theorems(setup, rng)
    report(0.3, "noise floors, averaging, work")
    results |= floors(setup, rng) | averaging(setup, rng) | work(setup, rng)
    report(0.5, "l1 norm")
    results |= sparse_models()
    report(0.55, "linear models")
    if data.available(TEXT):
        found, race = text_case(setup, rng)
        results |= found
    else:
        rows, labels = tumours()
        race = Race(SparseLogistic(csr_array(rows), labels, l2=1 / len(labels)))
    results["race_on"] = "speeches" if data.available(TEXT) else "tumours"
    report(0.75, "all methods")
    curves = race.all_methods(setup.passes, rng)
    results["race_methods"] = list(curves)
    for name, (passes, gaps) in curves.items():
        results[f"race_{name}_passes"], results[f"race_{name}_gaps"] = passes, gaps
    if setup.network_passes and all(data.available(name) for name in SETS):
        report(0.85, "perceptron")
        results |= network_case(setup, rng)
    return results


def draw(results, figure):
    """Gaps against passes of all methods; measured means under the theorems' bounds."""
    figure.set_size_inches(10.5, 4.8)
    race, theory = figure.subplots(1, 2, width_ratios=(1.35, 1))
    for name in results["race_methods"]:
        colour, line = STYLES[name]
        race.semilogy(
            results[f"race_{name}_passes"],
            np.maximum(results[f"race_{name}_gaps"], 1e-12),
            color=colour, ls=line, lw=1.5, label=name,
        )  # fmt: skip
    race.set_ylim(3e-13, 1)
    race.set_xlabel("passes over the data (gradients and Hessian products)")
    race.set_ylabel("gap F(w) - F*")
    race.set_title(f"logistic regression on {results['race_on']}", fontsize=10)
    k = results["counts"]
    for at, (name, words) in enumerate(THEOREMS.items()):
        theory.semilogy(k, results[f"mean_{name}"], f"C{at}", lw=1.5, label=f"{words}, measured")
        theory.semilogy(k, results[f"bound_{name}"], f"C{at}--", lw=1, label=f"Theorem {name}")
    theory.set_xlabel("step k")
    theory.set_ylabel("mean gap")
    theory.set_title("a quadratic with exact constants", fontsize=10)
    for axes, columns in ((race, 4), (theory, 2)):
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, fontsize=8,
            frameon=False, columnspacing=1.2,
        )  # fmt: skip


def on_file(path, setup, out, rng, report):
    """Run all methods on a file's rows; the last column is the label."""
    if setup.passes < 4:
        raise ValueError(f"--set: passes must be >= 4, got {setup.passes}")
    if setup.l2 < 0:
        raise ValueError(f"--set: l2 must be >= 0, got {setup.l2:g}")
    X, y = read_regression(path)
    classes = np.unique(y)
    if len(classes) != 2:
        raise ValueError(
            f"--input: expected two different labels in the last column, got {len(classes)}"
        )
    spread = X.std(axis=0)
    X = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    if not X.any():
        raise ValueError("--input: expected a column that varies, got none")
    X = np.column_stack([X, np.ones(len(X))])
    labels = np.where(y == classes[1], 1.0, -1.0)
    report(0.1, "minimum")
    race = Race(SparseLogistic(csr_array(X), labels, l2=setup.l2 or 1 / len(y)))
    report(0.3, "all methods")
    curves = race.all_methods(setup.passes, rng)
    with open(out / "curves.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "passes", "gap"])
        for name, (passes, gaps) in curves.items():
            writer.writerows([name, *pair] for pair in zip(passes, gaps, strict=True))
    summary: dict[str, Any] = {"rows": len(y), "columns": X.shape[1] - 1, "minimum": race.best}
    for name, (passes, gaps) in curves.items():
        summary[name] = f"gap {gaps[-1]:.2e} after {passes[-1]:.3g} passes"
    return summary


STUDY = Study(
    paper="large-scale-optimization",
    quick={
        "replicates": 200,
        "bound_steps": 50,
        "floor_steps": 5000,
        "averaging_steps": 5000,
        "averaging_runs": 4,
        "work_steps": 10_000,
        "work_runs": 2,
        "seeds": 1,
        "grid_batches": (10, 50),
        "passes": 24,
        "network_images": 2000,
        "network_passes": 0,
    },
    full={
        "replicates": 200,
        "bound_steps": 80,
        "floor_steps": 40_000,
        "averaging_steps": 5000,
        "averaging_runs": 20,
        "work_steps": 40_000,
        "work_runs": 10,
        "seeds": 20,
        "grid_batches": (10, 50, 100, 200),
        "passes": 60,
        "network_images": 8000,
        "network_passes": 10,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "SG makes fast initial progress",
            "gap of SG after one pass, over L-BFGS's after two evaluations, text",
            "sg_first",
            at_most(0.5),
            data=TEXT,
        ),
        Claim(
            "and a batch method wins in the long run",
            "gap of L-BFGS after ten evaluations, over SG's after ten passes, text",
            "batch_later",
            at_most(1e-3),
            data=TEXT,
        ),
        Claim(
            "Theorems 4.6, 4.7, 4.8 and 5.1 bound SG",
            "largest of (mean of 200 runs - 3 standard errors) / bound, for each theorem",
            "theorem_ratios",
            at_most(1),
        ),
        Claim(
            "negative control: a run with a wrong step exceeds each bound",
            "the same of runs with longer or shorter steps, or batches that do not grow",
            "wrong_ratios",
            at_least(1),
        ),
        Claim(
            "with a fixed step SG settles at a gap in proportion to it",
            "ratio of the gaps when the step is halved, twice",
            "floor_ratios",
            between(1.8, 2.2),
        ),
        Claim(
            "growing batches converge linearly (Theorem 5.1)",
            "slope of the log of the gap, over the theorem's log rho",
            "dynamic_slope_ratio",
            at_least(0.9),
        ),
        Claim(
            "where a fixed batch stalls",
            "gap of the fixed batch over that of the growing one after the last step",
            "fixed_batch_stall",
            at_least(10),
        ),
        Claim(
            "Newton-CG with the full Hessian converges fast",
            "iterations to a gap of 1e-12, text",
            "newton_iterations",
            at_most(15),
            data=TEXT,
        ),
        Claim(
            "a Hessian on a sample keeps the speed at less cost",
            "passes to a gap of 1e-10 with 300 of 1242 speeches in the Hessian, worst seed",
            "subsampled_passes",
            at_most(40),
            data=TEXT,
        ),
        Claim(
            "stochastic quasi-Newton beats SG at equal passes",
            "gap of SQN over that of the best SG (steps 1, 4, 16; batches of 10), 20 passes, text; "
            "SQN's step and batch were chosen on this problem",
            "sqn_ratio",
            at_most(0.6),
            data=TEXT,
        ),
        Claim(
            "by how much, if SG may choose its batch too",
            "the same over the best SG of several batch sizes, 20 and 40 passes",
            "sqn_ratios_any_batch",
            reported(),
            data=TEXT,
        ),
        Claim(
            "averaged points have less noise",
            "mean gap of the tail average over that of the last point, steps 0.5 k^-1/2, K = 5000",
            "averaging_ratio",
            at_most(0.5),
        ),
        Claim(
            "SG needs work in proportion to 1/epsilon",
            "exponent of the gradients against 1/epsilon",
            "work_exponent",
            between(0.8, 1.3),
        ),
        Claim(
            "a batch method in proportion to n log(1/epsilon)",
            "squared correlation of gradient descent's gradients with log(1/epsilon)",
            "work_batch_fit",
            at_least(0.99),
        ),
        Claim(
            "methods for an l1 norm find one solution",
            "largest difference of orthant Newton and FISTA from proximal Newton",
            "l1_difference",
            at_most(1e-8),
        ),
        Claim(
            "proximal Newton needs the fewest gradients",
            "its gradient evaluations over the fewest of the others",
            "l1_ratio",
            at_most(1),
        ),
        Claim(
            "a deep network",
            "training loss after ten passes, perceptron on digits: SG, RMSprop, Gauss-Newton, "
            "natural gradient, line search",
            "network_losses",
            reported(),
            preset="full",
            data=SETS,
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects="CSV of numbers, the last column one of two labels; a first line of names is "
        "skipped",
        options={"l2": 0.0, "passes": 40},
    ),
)

"""One costly gradient, many updates: surrogates in the space of outputs learn more from each call.

The surrogate is compared with the loss at random weights, and full-batch steps with the bound of
majorisation-minimisation, which a run with wrong steps must break. Then losses against calls for
the gradient of the loss in the outputs: more updates for a call on scikit-learn's digits, a line
search in the space of outputs against SGD at its best rate, decaying target steps where batches
disagree, and a policy that imitates a regulator of two carts. The full preset adds every variant of
the construction for three batch sizes, and Adam, AdaGrad, a line search and SVRG on digits, tumours
and MNIST's test images.

With a file of labelled rows (last column the class): loss against calls for 1, 10 and 100 updates.
"""

from __future__ import annotations

import csv
from typing import Any

import numpy as np

from thalweg import data
from thalweg.studies._threads import one_thread
from thalweg.studies.descent._target_surrogate_imitation import imitation
from thalweg.studies.descent._target_surrogate_learning import (
    IMAGES,
    LABELS,
    RATES,
    SGD_RATES,
    TARGET_STEPS,
    best_baselines,
    calls_to_reach,
    digits,
    mean_curve,
    mnist,
    surrogate_curve,
    task_of,
    tumours,
)
from thalweg.studies.descent._target_surrogate_theory import decaying, majorisation, upper_bound
from thalweg.studies.descent.convergence_handbook import read_regression
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, reported

INNER_STEPS = (1, 5, 20, 100)
GRID_BATCHES, GRID_INNER_STEPS = (25, 125, 625), (1, 5, 10, 100)
FILE_INNER_STEPS = (1, 10, 100)
LEVEL = 0.2
MOST_CLASSES = 1000


def run(setup, rng, report):
    """Measure the theory, then learning and imitation, then (full) all variants and tasks."""
    seed = int(rng.integers(2**30))
    results: dict[str, Any] = {}
    with one_thread():
        report(0.0, "upper bound")
        results |= upper_bound(setup.points, rng)
        report(0.1, "majorisation")
        results |= majorisation(setup.descent_steps)
        report(0.15, "noise")
        results |= decaying(setup.noisy_calls, range(seed, seed + setup.seeds))
        report(0.25, "digits")
        results |= benefit(setup, seed)
        report(0.4, "imitation")
        results |= imitation(setup, seed)
        if setup.grid_calls:
            results |= grid(setup, seed, report)
            results |= tasks(setup, seed, report)
    return results


def benefit(setup, seed):
    """Losses on digits for each number of inner steps, the line search, and SGD at its best."""
    task, seeds = digits(), range(seed, seed + setup.seeds)
    sizes = {"calls": setup.calls, "batch": setup.batch}
    curves = {
        f"digits_{m}": mean_curve(task, seeds, **sizes, target_step=2.0, inner_steps=m)
        for m in INNER_STEPS
    }
    curves["digits_line_search"] = mean_curve(
        task, seeds, **sizes, target_step=2.0, inner_steps=20, variant="line-search"
    )
    curves["digits_sgd"] = best_baselines(task, ("SGD",), **sizes, seeds=seeds)["SGD"]
    final = {name: float(curve[-1]) for name, curve in curves.items()}
    losses = np.array([final[f"digits_{m}"] for m in INNER_STEPS])
    return curves | {
        "digits_losses": losses,
        "benefit_ratio": final["digits_20"] / final["digits_1"],
        "benefit_steps": losses[1:] / losses[:-1],
        "line_search_ratio": final["digits_line_search"] / final["digits_sgd"],
        "calls_ratio": calls_to_reach(curves["digits_line_search"], LEVEL)
        / calls_to_reach(curves["digits_sgd"], LEVEL),
    }


def grid(setup, seed, report):
    """Losses on digits for every variant, batch size and number of inner steps."""
    task, seeds = digits(), range(seed, seed + setup.seeds)
    losses = np.zeros((len(TARGET_STEPS), len(GRID_BATCHES), len(GRID_INNER_STEPS)))
    for i, (variant, step) in enumerate(TARGET_STEPS.items()):
        report(0.5 + 0.3 * i / len(TARGET_STEPS), f"variant {variant}")
        for j, batch in enumerate(GRID_BATCHES):
            for k, m in enumerate(GRID_INNER_STEPS):
                curve = mean_curve(
                    task, seeds, setup.grid_calls, batch,
                    target_step=step, inner_steps=m, variant=variant, every=setup.grid_calls,
                )  # fmt: skip
                losses[i, j, k] = curve[-1]
    return {
        "grid_variants": list(TARGET_STEPS),
        "grid_losses": losses,
        "grid_ratios": losses[:, :, 2].mean(axis=1) / losses[:, :, 0].mean(axis=1),
    }


def tasks(setup, seed, report):
    """Losses on every data set at equal calls: ours, and five methods at their best rates."""
    makers = {"digits": digits, "digits_squared": lambda: digits("squared"), "tumours": tumours}
    if all(map(data.available, (IMAGES, LABELS))):
        makers |= {"mnist": mnist, "mnist_squared": lambda: mnist("squared")}
    seeds, results = range(seed, seed + 1), {}
    for i, (name, make) in enumerate(makers.items()):
        report(0.8 + 0.2 * i / len(makers), name)
        task = make()
        sizes = {"calls": setup.calls, "batch": setup.batch, "every": setup.calls}
        step = {"squared": 1.0, "logistic": 4.0, "cross-entropy": 2.0}[task.kind]
        ours = [
            mean_curve(task, seeds, **sizes, target_step=step, inner_steps=20, variant=v)[-1]
            for v in ("sgd", "line-search")
        ]
        theirs = best_baselines(task, tuple(RATES), seeds=seeds, **sizes)
        results[f"task_{name}"] = np.array([*ours, *(curve[-1] for curve in theirs.values())])
    return results


def draw(results, figure):
    """Draw loss against calls on digits; gaps with noise; the policy's loss in each round."""
    figure.set_size_inches(11, 4.6)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    shades = dict(zip(INNER_STEPS, ("#9ecae1", "#6baed6", "#2171b5", "#08306b"), strict=True))
    for m in INNER_STEPS:
        left.semilogy(results[f"digits_{m}"], color=shades[m], label=f"m = {m}")
    left.semilogy(results["digits_line_search"], "C3", label="line search, m = 20")
    left.semilogy(results["digits_sgd"], "k--", label="SGD, best rate")
    left.set(title="digits", xlabel="target gradients", ylabel="cross-entropy, nats")
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10]
    low, high = left.get_ylim()
    left.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    left.set_yticks([], minor=True)
    left.set_ylim(low, high)
    for key, style, label in (
        ("constant", "C1", "constant step"),
        ("sqrt", "C0", "step ~ 1/√t"),
    ):
        middle.semilogy(results[f"noisy_{key}"], style, label=label)
    middle.set(title="a noisy regression", xlabel="target gradients", ylabel="gap h - h*")
    kind = results["imitation_policies"][-1]
    for key, style, label in (
        ("ogd", "k--", "gradient descent, best rate"),
        ("1", "#6baed6", "m = 1"),
        ("100", "#08306b", "m = 100"),
    ):
        right.semilogy(
            np.arange(1, len(results[f"imitation_{kind}_{key}"]) + 1),
            results[f"imitation_{kind}_{key}"], style, label=label,
        )  # fmt: skip
    named = {"linear": "a linear policy", "mlp": "a small network"}[kind]
    right.set(title=f"imitation by {named}", xlabel="round of 100 states", ylabel="squared error")
    for axes, columns in ((left, 2), (middle, 1), (right, 1)):
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=columns, fontsize=8,
            frameon=False,
        )  # fmt: skip


def on_file(path, setup, out, rng, report):
    """Learn the classes of a file's rows by 1, 10 and 100 updates for each target gradient."""
    for name in ("calls", "batch"):
        if getattr(setup, name) < 1:
            raise ValueError(f"--set: {name} must be >= 1, got {getattr(setup, name)}")
    if not setup.target_step > 0:
        raise ValueError(f"--set: target_step must be > 0, got {setup.target_step:g}")
    X, y = read_regression(path)
    classes = np.unique(y)
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise ValueError(
            f"--input: expected 2 to {MOST_CLASSES} classes in the last column, got {len(classes)}"
        )
    spread = X.std(axis=0)
    X = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    task, seed = task_of(X, y, "cross-entropy"), int(rng.integers(2**30))
    curves = {}
    for done, m in enumerate(FILE_INNER_STEPS):
        report(done / len(FILE_INNER_STEPS), f"{m} updates a gradient")
        curves[m] = surrogate_curve(
            task, setup.calls, setup.batch, seed, target_step=setup.target_step, inner_steps=m,
        )  # fmt: skip
    with open(out / "curves.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["target_gradients", *(f"loss_{m}_updates" for m in FILE_INNER_STEPS)])
        writer.writerows(
            [k, *losses] for k, losses in enumerate(zip(*curves.values(), strict=True))
        )
    summary: dict[str, Any] = {
        "rows": len(y), "columns": X.shape[1], "classes": len(classes), "calls": setup.calls,
    }  # fmt: skip
    return summary | {f"loss, {m} updates": float(curve[-1]) for m, curve in curves.items()}


STUDY = Study(
    paper="target-surrogates",
    quick={
        "points": 1000,
        "descent_steps": 30,
        "noisy_calls": 40,
        "seeds": 1,
        "calls": 60,
        "batch": 125,
        "policies": ("mlp",),
        "imitation_seeds": 1,
        "rounds": 50,
        "samples": 100,
        "rates": (0.01, 0.03),
        "grid_calls": 0,
    },
    full={
        "points": 1000,
        "descent_steps": 400,
        "noisy_calls": 300,
        "seeds": 3,
        "calls": 60,
        "batch": 125,
        "policies": ("linear", "mlp"),
        "imitation_seeds": 3,
        "rounds": 50,
        "samples": 100,
        "rates": (0.003, 0.01, 0.03, 0.1, 0.3),
        "grid_calls": 20,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "the surrogate is a global upper bound of the loss",
            "least S - h at 1000 random weights, three losses, target steps up to 1 / L",
            "upper_bound_gap",
            at_least(-1e-12),
        ),
        Claim(
            "negative control: with ten times the step it is none",
            "largest h - S at random weights, squared, cross-entropy, logistic",
            "bound_violations",
            at_least(1e-12),
        ),
        Claim(
            "lowering it is majorisation-minimisation: with all data the loss never rises",
            "largest rise of the loss in a step, digits",
            "largest_rise",
            at_most(1e-12),
        ),
        Claim(
            "and converges to a stationary point",
            "least ‖∇h‖² over 2 beta (h_0 - h*) / T, worst T",
            "majorisation_ratio",
            at_most(1),
        ),
        Claim(
            "negative control: inner steps that are too short break the bound",
            "the same with steps of 1e-4 / beta",
            "majorisation_control",
            at_least(1),
        ),
        Claim(
            "many updates for each gradient learn more from it",
            "loss with m = 20 over that with m = 1, digits, 60 target gradients of 125 images",
            "benefit_ratio",
            at_most(0.5),
        ),
        Claim(
            "and the more the better",
            "loss with m = 5, 20, 100 over that with m = 1, 5, 20",
            "benefit_steps",
            at_most(1),
        ),
        Claim(
            "a line search may construct the surrogate, and beats SGD at equal gradients",
            "its loss with m = 20 over that of SGD at the best of rates "
            f"{SGD_RATES[0]} to {SGD_RATES[-1]:g}",
            "line_search_ratio",
            at_most(0.85),
        ),
        Claim(
            "how many gradients that saves",
            f"target gradients to a loss of {LEVEL}, over those of the same SGD",
            "calls_ratio",
            reported(),
        ),
        Claim(
            "decaying target steps remove the noise where batches disagree",
            "gap with steps ~ 1/√t over that with a constant step, mean of the last ten",
            "decay_ratio",
            at_most(0.7),
        ),
        Claim(
            "imitation learning: many updates do no worse than one, or than gradient descent",
            "policy loss in the last 10 of 50 rounds, m = 100 over m = 1 and over gradient descent "
            "at its best rate, for each policy",
            "imitation_ratios",
            at_most(1),
        ),
        Claim(
            "any stochastic method may construct it",
            "loss with m = 10 over that with m = 1 on digits, mean over batches of 25, 125, 625: "
            + ", ".join(TARGET_STEPS),
            "grid_ratios",
            reported(),
            preset="full",
        ),
        *(
            Claim(
                f"against other methods: {name.replace('_', ', ')}",
                f"loss after 60 target gradients of 125 rows: ours, with line search (m = 20), "
                f"{', '.join(RATES)}, each at its best rate",
                f"task_{name}",
                reported(),
                preset="full",
                data=(IMAGES, LABELS) if "mnist" in name else (),
            )
            for name in ("digits", "digits_squared", "tumours", "mnist", "mnist_squared")
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects="CSV of numbers, the last column the class; a first line of names is skipped",
        options={"calls": 60, "batch": 125, "target_step": 2.0},
    ),
)

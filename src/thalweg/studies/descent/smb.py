"""SMB trains at learning rates where SGD diverges, by one extra evaluation in place of a search.

Perceptrons on scikit-learn's digits are trained by SMB, its variant on independent batches, SGD,
SGD with a stochastic line search, and Adam, from the same weights on the same batches, over a range
of initial learning rates. The full preset repeats it on 10000 images of MNIST (8000 to learn), in
place of the paper's 60000 and of its convolutional networks on CIFAR. How much the steps of the
tensors of a network differ is measured in the same runs. On a logistic regression with a known
Lipschitz constant every step is compared with the fall that the theory promises; steps that are
shorter than the theory is told must break it.

With a file of labelled rows (last column the class): an MLP classifier trained on it by SMB.
"""

from __future__ import annotations

import csv
from typing import Any

import numpy as np

from thalweg import data
from thalweg._torch import torch
from thalweg.studies._threads import one_thread
from thalweg.studies.descent._smb_descent import descent
from thalweg.studies.descent._smb_training import (
    SETS,
    digits,
    epochs_to,
    mnist,
    perceptron,
    split,
    train,
    worst,
)
from thalweg.studies.descent.convergence_handbook import read_regression
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, equals, reported

SWEPT = ("SGD", "line search", "SMB", "SMBi")
JUDGED_RATES = (0.5, 1.0, 2.0, 4.0)
TARGET = 0.2
SMB_RATE, SMB_LONG_RATE, SEARCH_RATE, ADAM_RATE = 0.5, 2.0, 1.0, 1e-3
COLOURS = {"SGD": "0.45", "line search": "C2", "SMB": "C3", "SMBi": "C1", "Adam": "C0"}


def run(setup, rng, report):
    """Train on digits, on their rows in random order and on images, then check the bound."""
    seed = int(rng.integers(2**31))
    seeds = range(seed, seed + setup.seeds)
    results: dict[str, Any] = {"images_shown": 0}
    with one_thread():
        found = sweep(
            digits(), setup.rates, setup.adam_rates, setup.epochs, seeds,
            lambda share, text: report(0.4 * share, text),
        )  # fmt: skip
        results |= found
        report(0.4, "rows in random order")
        shuffles = range(seed, seed + setup.shuffles)
        losses = [
            [train(digits(s), "SMB", lr, setup.epochs, s).losses for s in shuffles]
            for lr in JUDGED_RATES
        ]
        results["shuffled_worst"] = worst(np.array(losses))
        report(0.5, "descent of every step")
        results |= descent(setup.descent_steps)
        if setup.image_epochs and all(data.available(name) for name in SETS):
            found = sweep(
                mnist(), setup.image_rates, setup.adam_rates, setup.image_epochs,
                range(seed, seed + setup.image_seeds),
                lambda share, text: report(0.5 + 0.5 * share, text),
            )  # fmt: skip
            results |= {f"image_{key}": value for key, value in found.items()}
            results["images_shown"] = 1
    return results


def sweep(task, rates, adam_rates, epochs, seeds, report):
    """Train by every method at every rate; return the figures of the claims and the curves."""
    runs = {}
    plan = [(name, lr) for name in SWEPT for lr in rates] + [("Adam", lr) for lr in adam_rates]
    for done, (name, lr) in enumerate(plan):
        report(done / len(plan), f"{name}, rate {lr:g}")
        runs[name, lr] = [train(task, name, lr, epochs, seed) for seed in seeds]
    losses = {key: np.array([r.losses for r in found]) for key, found in runs.items()}
    accuracies = {
        key: np.mean([r.accuracies for r in found], axis=0) for key, found in runs.items()
    }
    sgd = min(rates, key=lambda lr: losses["SGD", lr][:, -1].mean())
    shown = [
        ("SGD", sgd),
        ("Adam", ADAM_RATE),
        ("line search", SEARCH_RATE),
        ("SMB", SMB_RATE),
        ("SMB", SMB_LONG_RATE),
        ("SMBi", SMB_RATE),
    ]
    curves = {key: losses[key].mean(axis=0) for key in shown}
    judged = [lr for lr in JUDGED_RATES if lr in rates]
    best = max(accuracies[key][-1] for key in runs if key[0] in ("SGD", "Adam"))
    ratios = [ratio for r in runs["SMB", SMB_LONG_RATE] for ratio in r.ratios]
    adam = epochs_to(TARGET, curves["Adam", ADAM_RATE], epochs + 1)
    return {
        "smb_worst": worst(np.array([losses["SMB", lr] for lr in judged])),
        "sgd_worst": worst(np.array([losses["SGD", lr] for lr in judged])),
        "epochs_behind_adam": epochs_to(TARGET, curves["SMB", SMB_RATE], np.inf) - adam,
        "accuracy_margin": accuracies["SMB", SMB_LONG_RATE][-1] - best,
        "norm_ratio": float(np.median(ratios)) if ratios else np.nan,
        "model_share": float(np.mean([r.model_share for r in runs["SMB", SMB_LONG_RATE]])),
        "rates": np.array(rates),
        "final_losses": np.array(
            [[losses[name, lr][:, -1].mean() for lr in rates] for name in SWEPT]
        ),
        "shown": [f"{name}, {lr:g}" for name, lr in shown],
        "curves": np.array(list(curves.values())),
        "accuracies": np.array([accuracies[key] for key in shown]),
    }


def draw(results, figure):
    """Loss and accuracy by epoch; final loss by initial rate."""
    figure.set_size_inches(11, 4.4)
    prefix = "image_" if results["images_shown"] else ""
    loss, accuracy, robust = figure.subplots(1, 3)
    for at, label in enumerate(results[f"{prefix}shown"]):
        name = label.split(",")[0]
        style = {
            "color": COLOURS[name],
            "ls": ":" if label == f"SMB, {SMB_LONG_RATE:g}" else "-" if "SMB" in name else "--",
            "lw": 1.6,
        }
        loss.semilogy(results[f"{prefix}curves"][at], label=label, **style)
        accuracy.plot(results[f"{prefix}accuracies"][at], **style)
    for at, name in enumerate(SWEPT):
        robust.loglog(
            results[f"{prefix}rates"],
            results[f"{prefix}final_losses"][at],
            color=COLOURS[name], ls="-" if "SMB" in name else "--", lw=1.6, marker="o", ms=4,
        )  # fmt: skip
    loss.axhline(TARGET, color="0.7", lw=0.8)
    loss.set_ylabel("training loss (nats)")
    accuracy.set_ylabel("accuracy on test rows")
    for axes in (loss, accuracy):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    rates = results[f"{prefix}rates"]
    robust.set_xticks(rates, [f"{rate:g}" for rate in rates])
    robust.minorticks_off()
    robust.set_xlabel("initial learning rate")
    robust.set_ylabel("training loss after the last epoch")
    loss.set_title("images of MNIST" if prefix else "digits of scikit-learn", fontsize=10)
    accuracy.set_title("the same runs", fontsize=10)
    robust.set_title("without tuning", fontsize=10)
    figure.legend(
        *loss.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9,
        frameon=False, title="method, initial learning rate",
    )  # fmt: skip


def on_file(path, setup, out, rng, report):
    """Train a perceptron on four fifths of a file's rows; the last column is the class."""
    for name, low in (("epochs", 1), ("hidden", 1), ("batch", 1)):
        if getattr(setup, name) < low:
            raise ValueError(f"--set: {name} must be >= {low}, got {getattr(setup, name)}")
    if not setup.lr > 0:
        raise ValueError(f"--set: lr must be > 0, got {setup.lr:g}")
    X, y = read_regression(path)
    classes, labels = np.unique(y, return_inverse=True)
    if not 2 <= len(classes) <= len(y) // 2:
        raise ValueError(
            f"--input: expected 2 to {len(y) // 2} classes in the last column, got {len(classes)}"
        )
    spread = X.std(axis=0)
    X = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    n = max(round(0.8 * len(y)), 1)
    seed = int(rng.integers(2**31))
    order = np.random.default_rng(seed).permutation(len(y))
    task = split(X, labels, n, (setup.hidden,), setup.batch, seed)
    model = perceptron(task.widths, torch.Generator().manual_seed(seed))
    with one_thread():
        found = train(task, "SMB", setup.lr, setup.epochs, seed, report=report, model=model)
        with torch.no_grad():
            guesses = classes[model(task.test_rows).argmax(1).numpy()]
    with open(out / "curves.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "training_loss", "test_accuracy"])
        writer.writerows(
            [i, *pair] for i, pair in enumerate(zip(found.losses, found.accuracies, strict=True))
        )
    with open(out / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "class", "predicted"])
        writer.writerows(zip(order[n:], y[order[n:]], guesses, strict=True))
    return {
        "rows": len(y),
        "columns": X.shape[1],
        "classes": len(classes),
        "training_loss": float(found.losses[-1]),
        "test_accuracy": float(found.accuracies[-1]),
        "model_steps": f"{found.model_share:.0%} of the steps",
    }


STUDY = Study(
    paper="smb",
    quick={
        "seeds": 2,
        "shuffles": 1,
        "rates": (0.05, 0.5, 1.0, 2.0, 4.0),
        "adam_rates": (1e-3, 1e-2),
        "epochs": 15,
        "descent_steps": 200,
        "image_rates": (0.5, 1.0, 2.0, 4.0),
        "image_epochs": 0,
        "image_seeds": 1,
    },
    full={
        "seeds": 5,
        "shuffles": 8,
        "rates": (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
        "adam_rates": (1e-3, 3e-3, 1e-2),
        "epochs": 15,
        "descent_steps": 2000,
        "image_rates": (0.5, 1.0, 2.0, 4.0),
        "image_epochs": 10,
        "image_seeds": 3,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "less tuning: SMB trains over a wide range of learning rates",
            "worst final training loss over rates 0.5, 1, 2, 4 and all seeds, digits",
            "smb_worst",
            at_most(0.20),
        ),
        Claim(
            "where SGD does not",
            "the same of SGD",
            "sgd_worst",
            at_least(1.0),
        ),
        Claim(
            "less tuning: SMB trains over a wide range of learning rates",
            "the same of SMB with the rows in random order",
            "shuffled_worst",
            reported(),
        ),
        Claim(
            "faster than Adam, both at their defaults",
            "epochs to a training loss of 0.2, SMB minus Adam at rate 0.001, digits",
            "epochs_behind_adam",
            at_most(0),
        ),
        Claim(
            "comparable generalisation",
            "test accuracy of SMB at rate 2 minus the best of SGD and Adam over their rates, "
            "digits",
            "accuracy_margin",
            at_least(-0.02),
        ),
        Claim(
            "step lengths adapt to each tensor",
            "step over trial step, largest over smallest of the tensors, median of model steps at "
            "rate 2, digits",
            "norm_ratio",
            at_least(1.2),
        ),
        Claim(
            "every step falls as the theory promises",
            "steps below smb_descent_bound, logistic regression, rate 1/(2L)",
            "descent_violations",
            equals(0),
        ),
        Claim(
            "every step falls as the theory promises",
            "model steps among them, by a stricter test (c = 0.99)",
            "descent_models",
            at_least(1),
        ),
        Claim(
            "negative control: steps a tenth as long as the bound is told break it",
            "share of steps below the bound",
            "descent_wrong",
            at_least(0.5),
        ),
        Claim(
            "less tuning, on images",
            "worst final training loss of SMB over rates 0.5, 1, 2, 4 and all seeds",
            "image_smb_worst",
            reported(),
            preset="full",
            data=SETS,
        ),
        Claim(
            "less tuning, on images",
            "the same of SGD",
            "image_sgd_worst",
            reported(),
            preset="full",
            data=SETS,
        ),
        Claim(
            "faster than Adam, on images",
            "epochs to a training loss of 0.2, SMB minus Adam at rate 0.001",
            "image_epochs_behind_adam",
            at_most(0),
            preset="full",
            data=SETS,
        ),
        Claim(
            "comparable generalisation, on images",
            "test accuracy of SMB at rate 2 minus the best of SGD and Adam over their rates",
            "image_accuracy_margin",
            at_least(-0.02),
            preset="full",
            data=SETS,
        ),
        Claim(
            "step lengths adapt to each tensor, on images",
            "step over trial step, largest over smallest of the tensors, median of model steps at "
            "rate 2",
            "image_norm_ratio",
            at_least(1.2),
            preset="full",
            data=SETS,
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects="CSV of numbers, the last column a class; a first line of names is skipped",
        options={"lr": 0.5, "epochs": 30, "hidden": 64, "batch": 32},
    ),
)

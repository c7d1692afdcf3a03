"""A user's two files for the study of 2302.03542: a regression of the first by the second's proxy.

Of the first file only gradients, and the value at the end, are used: nothing else of it need leave
the place where it lies. Columns are scaled by the means and deviations of the second.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from thalweg.descent import LeastSquares, Logistic, proxy_prox_minimize
from thalweg.studies.descent.convergence_handbook import read_regression
from thalweg.study import FileMethod

MODELS = ("auto", "logistic", "linear")
GTOL = 1e-6


def on_file(path, setup, out, rng, report):
    """Fit the first file's regression; write coefficients and the run."""
    model = check(setup)
    X, y = read_regression(path)
    Z, z = read_proxy(setup.proxy)
    if X.shape[1] != Z.shape[1]:
        raise ValueError(
            f"--set: proxy must have as many columns as the first file, {X.shape[1] + 1}, got "
            f"{Z.shape[1] + 1}"
        )
    classes = np.unique(np.concatenate([y, z]))
    if model == "auto":
        model = "logistic" if len(classes) == 2 else "linear"
    if model == "logistic" and len(classes) != 2:
        raise ValueError(
            f"--input: expected two different labels in both files together, got {len(classes)}"
        )
    centre, spread = Z.mean(axis=0), Z.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    X, Z = (np.column_stack([(rows - centre) / spread, np.ones(len(rows))]) for rows in (X, Z))
    level, unit = 0.0, 1.0
    f: Any
    proxy: Any
    if model == "logistic":
        y, z = (np.where(labels == classes[1], 1.0, -1.0) for labels in (y, z))
        f, proxy = Logistic(X, y, l2=setup.l2), Logistic(Z, z, l2=setup.l2)
    else:
        level, unit = float(z.mean()), float(z.std()) or 1.0
        f = LeastSquares(X, (y - level) / unit, l2=setup.l2)
        proxy = LeastSquares(Z, (z - level) / unit, l2=setup.l2)
    report(0.1, f"{model} regression, {len(y)} rows by {len(z)} of the proxy")
    alone = proxy.minimiser(np.zeros(f.dim))
    run = proxy_prox_minimize(
        f.value, np.zeros(f.dim), jac=f.gradient, proxy_fun=proxy, delta="estimate", gtol=GTOL,
        maxiter=setup.steps, record=True,
    )  # fmt: skip
    weights = run.x * unit
    slopes = weights[:-1] / spread
    intercept = weights[-1] - float(slopes @ centre) + level
    with open(out / "coefficients.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["column", "coefficient"])
        writer.writerows((i, repr(float(slope))) for i, slope in enumerate(slopes))
        writer.writerow(["intercept", repr(float(intercept))])
    with open(out / "run.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "proxy gradients", "delta"])
        history = run.history
        writer.writerow([0, history["fun"][0], 0, ""])
        writer.writerows(
            (t + 1, history["fun"][t + 1], int(history["n_proxy"][t]), history["delta"][t])
            for t in range(run.nit)
        )
    summary: dict[str, Any] = {
        "model": model,
        "rows": len(y),
        "rows of the proxy": len(z),
        "columns": f.dim - 1,
        "loss": run.fun,
        "loss at the proxy's minimum": None if alone is None else f.value(alone),
        "largest entry of the gradient": float(np.abs(run.jac).max()),
        "gradients of the first file": run.n_target,
        "gradients of the proxy": run.n_proxy,
        "delta": float(run.delta),
        "smoothness of the loss": f.curvature()["L"],
        "solved": run.message,
    }
    if model == "logistic":
        summary["training accuracy"] = float(np.mean((f.rows @ run.x > 0) == (y > 0)))
    return summary


def check(setup):
    """Refuse settings that make no sense; return the model."""
    if not setup.proxy:
        raise ValueError("--set: proxy must name the second file, as --set proxy=FILE2.csv")
    if setup.model not in MODELS:
        raise ValueError(f"--set: model must be one of {', '.join(MODELS)}, got {setup.model!r}")
    if not (np.isfinite(setup.l2) and setup.l2 >= 0):
        raise ValueError(f"--set: l2 must be finite and >= 0, got {setup.l2:g}")
    if setup.steps < 1:
        raise ValueError(f"--set: steps must be >= 1, got {setup.steps}")
    return setup.model


def read_proxy(name):
    """Read the second file; errors name the setting."""
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"--set: proxy: there is no file {name!r}")
    try:
        return read_regression(path)
    except ValueError as error:
        raise ValueError(str(error).replace("--input:", "--set: proxy:")) from None


FILE_METHOD = FileMethod(
    on_file,
    expects="CSV of numbers, the last column the target; --set proxy=FILE2.csv, of the same "
    "columns, is the cheap data",
    options={"proxy": "", "model": "auto", "l2": 1e-3, "steps": 200},
)

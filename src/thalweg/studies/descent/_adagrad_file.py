"""A user's file for the study of 2302.08783: regression on its rows over a grid of step scales."""

from __future__ import annotations

import csv
from typing import Any

import numpy as np

from thalweg.descent import LeastSquares, Logistic, adagrad_norm, regret_certificate, sgd
from thalweg.descent.adagrad_norm_certificates import step_certificate
from thalweg.studies.descent._adagrad_runs import standardised
from thalweg.studies.descent.convergence_handbook import read_regression
from thalweg.study import FileMethod

ETAS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
GAMMA = 1e-2
LARGEST_RECORD = 10**8


def on_file(path, setup, out, rng, report):
    """Fit a file by AdaGrad-Norm and by SGD with constant steps, over the same scales."""
    if setup.steps < 1 or setup.batch < 1 or not setup.etas or min(setup.etas) <= 0:
        raise ValueError("--set: steps and batch must be >= 1 and etas > 0")
    problem, kind = read_problem(path, setup)
    if setup.steps * problem.dim > LARGEST_RECORD:
        raise ValueError(
            f"--set: steps times columns must be <= {LARGEST_RECORD}, got "
            f"{setup.steps * problem.dim}"
        )
    batch = min(setup.batch, problem.n)
    zero, seed = np.zeros(problem.dim), int(rng.integers(2**31))
    rows, points, rooms = [], [], []
    runs = []
    for at, eta in enumerate(setup.etas):
        report(at / len(setup.etas), f"eta = {eta:g}")

        def noisy(x, rng):
            return problem.gradient(x, rng.integers(problem.n, size=batch))

        run = adagrad_norm(
            noisy, zero, n_steps=setup.steps, eta=eta, gamma=GAMMA, rng=seed, record=True
        )
        plain = sgd(
            problem, zero, step=eta, n_steps=setup.steps, batch_size=batch, replace=True,
            average="uniform", rng=seed,
        )  # fmt: skip
        value = loss_at(problem, run.x_average)
        constant = loss_at(problem, plain.x_average) if plain.success else np.inf
        rows.append([eta, value, loss_at(problem, run.x), constant, run.step])
        points.append(run.x_average)
        rooms.append(step_certificate(run.history, eta=eta, gamma=GAMMA))
        runs.append(run.history)
    best = int(np.argmin([row[1] for row in rows]))
    rooms += [
        regret_certificate(history, points[best], eta=eta, gamma=GAMMA)
        for history, eta in zip(runs, setup.etas, strict=True)
    ]
    with open(out / "etas.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["eta", "loss of the average", "loss of the last point", "SGD with constant step eta, "
             "loss of the average", "last step"]
        )  # fmt: skip
        writer.writerows(rows)
    np.savetxt(out / "coefficients.csv", points[best][None], delimiter=",", fmt="%.17g")
    summary: dict[str, Any] = {
        "regression": kind,
        "rows": problem.n,
        "columns": problem.dim,
        "loss at zero": loss_at(problem, zero),
        "best eta": setup.etas[best],
        "loss": rows[best][1],
    }
    for eta, value, _, constant, _ in rows:
        other = f"{constant:.6g}" if np.isfinite(constant) else "diverged"
        summary[f"eta {eta:g}"] = f"loss {value:.6g}, SGD with this step {other}"
    # Rounding of sums of this many terms is far below the sides of the inequalities.
    summary["certificates"] = "hold" if min(rooms) >= 0 else f"fail by {-min(rooms):.3g}"
    return summary


def read_problem(path, setup):
    """Return the problem of a file and its name: logistic where the last column has two values."""
    X, y = read_regression(path)
    if setup.l2 < 0:
        raise ValueError(f"--set: l2 must be >= 0, got {setup.l2:g}")
    if setup.standardise:
        keep = X.std(axis=0) > 0
        if not keep.any():
            raise ValueError("--input: the columns before the target are constant")
        X = standardised(X[:, keep])
    values = np.unique(y)
    if len(values) == 1:
        raise ValueError("--input: the last column is constant")
    if len(values) == 2:
        return Logistic(X, np.where(y == values[1], 1.0, -1.0), l2=setup.l2), "logistic"
    if setup.standardise:
        y = standardised(y)
    return LeastSquares(X, y, l2=setup.l2), "linear"


@np.errstate(over="ignore", invalid="ignore")
def loss_at(problem, x):
    """Return the loss, infinite where it overflows."""
    value = float(problem.value(x))
    return value if np.isfinite(value) else np.inf


FILE_METHOD = FileMethod(
    on_file,
    expects="CSV of numbers, the last column the target (two values: logistic regression); a first "
    "line of names is skipped",
    options={"steps": 5000, "batch": 32, "etas": ETAS, "l2": 0.0, "standardise": True},
)

"""Every theorem of the handbook, run: its constants exact, its bound drawn, its certificate held.

Each of the 25 theorems meets a small problem on which its constants are known exactly. Replicates
of the method are measured at every step and compared with the bound; then the same method runs with
a wrong step length, and the certificate must refuse it. Minibatch variances are compared with all
subsets, momentum with its iterate-averaging form, and SGD on data that can be fitted exactly must
converge linearly. The full preset adds logistic regression on a packaged data set.

With a file of regression data: the constants, step limits, predicted iterations and certificates of
real runs.
"""

from __future__ import annotations

import csv
import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer

from thalweg.descent import (
    LeastSquares,
    Logistic,
    check,
    constants,
    iterations_for,
    minibatch_constants,
    sgd,
    step_limit,
    theorems,
)
from thalweg.descent.bounds import averaging_weights, step_for, step_schedule
from thalweg.descent.stochastic import replicate, running_average
from thalweg.studies.descent._convergence_cases import (
    ATOL,
    DIM,
    TOO_LARGE,
    N,
    all_cases,
    halved,
    tight_instances,
)
from thalweg.study import Claim, FileMethod, Study, at_most, equals

MINIBATCH_N = 8
LOGISTIC_THEOREMS = ("sgd-convex", "sgd-strong", "minibatch-strong", "sgdm-convex")
LOGISTIC_BATCH = 32
LOGISTIC_TIMES = 60
FILE_BATCH = 16
LARGEST_ENTRIES = 10**8
BANDS = 3.0


def run(setup, rng, report):
    """Certify every theorem, then everything that must be refused, then the special claims."""
    results: dict[str, Any] = {}
    pool: Any = ThreadPoolExecutor(setup.workers) if setup.workers > 1 else nullcontext()
    with pool as executor:
        cases = all_cases(setup.steps, rng)
        results |= certify(cases, setup, rng, report, executor)
        report(0.75, "wrong steps")
        results |= refuse(cases, setup, rng)
        report(0.85, "minibatches, momentum, interpolation")
        results |= minibatch_variances(rng)
        results |= momentum_forms(rng)
        results |= interpolation(setup, rng)
        if setup.logistic_steps:
            report(0.9, "logistic regression")
            results |= logistic(setup, rng, executor)
    return results


def certify(cases, setup, rng, report, executor):
    """Check the runs of every case against its theorem; keep the curves that the figure shows."""
    results: dict[str, Any] = {}
    failed, ratios, shown = [], [], curve_times(setup.steps)
    for at, case in enumerate(cases):
        report(0.75 * at / len(cases), case.theorem)
        found = certificate(case, setup.steps, setup.replicates, rng.spawn(1)[0], executor)
        ratios.append(found.worst_ratio)
        failed += [] if found.holds else [case.theorem]
        results[f"{case.theorem}_mean"] = found.mean[shown]
        results[f"{case.theorem}_bound"] = found.bound[shown]
        results[f"{case.theorem}_band"] = found.band[shown]
    return results | {
        "theorems": [case.theorem for case in cases],
        "problems": [case.on for case in cases],
        "times": shown,
        "theorems_checked": len({case.theorem for case in cases}),
        "theorems_without_case": len(set(theorems()) - {case.theorem for case in cases}),
        "certificates_failed": len(failed),
        "failed": failed,
        "worst_ratios": np.array(ratios),
        "momentum_bound_ratio": ratios[[case.theorem for case in cases].index("sgdm-convex")],
    }


class Found:
    """A certificate with the standard errors of its measurement."""

    def __init__(self, certified, band):
        self.certified, self.band = certified, band

    def __getattr__(self, name):
        return getattr(self.certified, name)


def certificate(case, n_steps, n_replicates, rng, executor=None, wrong=False):
    """Run a case and check it against its theorem; wrong runs claim to be right ones."""
    one = partial(_measured, case, n_steps, wrong)
    values = one(rng) if case.deterministic else None
    if values is None:
        values = replicate(one, n_replicates, rng=rng, executor=executor)
    found = check(
        case.theorem, values, step=case.step, constants=case.constants,
        batch_size=case.batch_size, atol=ATOL,
    )  # fmt: skip
    band = np.zeros(values.shape[-1])
    if values.ndim == 2:
        with np.errstate(over="ignore", invalid="ignore"):
            band = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return Found(found, band)


def _measured(case, n_steps, wrong, rng):
    """Return the quantity along one run; what a diverged run lacks is infinite."""
    points = case.run(rng, n_steps, wrong)
    values = np.full(n_steps + 1, np.inf)
    values[: len(points)] = case.measure(points)
    return values


def refuse(cases, setup, rng):
    """Count wrong runs and halved bounds that certificates let pass; there should be none."""
    missed = []
    for case in cases:
        found = certificate(case, setup.steps, setup.wrong_replicates, rng.spawn(1)[0], wrong=True)
        exceeds = any("exceeds the bound" in text for text in found.failures)
        missed += [] if exceeds else [case.theorem]
    blind, loose = [], []
    for theorem, c, step, measured, at in tight_instances():
        full = check(theorem, measured, step=step, constants=c)
        half = check(theorem, measured, step=step, constants=halved(c))
        loose.append(abs(full.mean[at] / full.bound[at] - 1))
        blind += [theorem] if half.holds or not full.holds else []
    strong = next(case for case in cases if case.theorem == "gd-strong")
    measured = strong.measure(strong.run(rng, 40, True))
    step = TOO_LARGE / strong.constants.L
    told = check("gd-strong", measured, step=step, constants=strong.constants).failures
    limit = any(text.startswith("step must be <=") for text in told)
    return {
        "wrong_steps_missed": len(missed),
        "missed": missed,
        "tight_looseness": max(loose),
        "halved_missed": len(blind),
        "divergence_reported": int(limit and any("diverges" in text for text in told)),
    }


def minibatch_variances(rng):
    """Compare the variance of minibatch gradients with that over all subsets, for every size."""
    A, b = rng.normal(size=(MINIBATCH_N, DIM)), rng.normal(size=MINIBATCH_N)
    problem = LeastSquares(A, b)
    c = constants(problem, np.zeros(DIM))
    gradients = problem.component_gradients(problem.minimiser(np.zeros(DIM)))
    errors, last = [], 0.0
    for size in range(1, MINIBATCH_N + 1):
        means = [
            gradients[list(subset)].mean(axis=0)
            for subset in itertools.combinations(range(MINIBATCH_N), size)
        ]
        exact = float(np.mean(np.sum(np.square(means), axis=1)))
        last = minibatch_constants(c, size).sigma_star_sq
        errors.append(abs(last - exact))
    return {"minibatch_variance_error": max(errors), "full_batch_variance": last}


def momentum_forms(rng, n_steps=500):
    """Run momentum and iterate averaging with the same draws."""
    A = rng.normal(size=(N, DIM))
    problem, eta = LeastSquares(A, rng.normal(size=N)), 0.01
    t = np.arange(n_steps)
    seed = int(rng.integers(2**31))
    averaging = sgd(
        problem, np.ones(DIM), step=eta, n_steps=n_steps, momentum="ima", rng=seed, record=True
    ).history["x"]
    heavy = sgd(
        problem, np.ones(DIM), step=2 * eta / (t + 3), n_steps=n_steps, momentum=t / (t + 2),
        rng=seed, record=True,
    ).history["x"]  # fmt: skip
    return {"momentum_difference": float(np.abs(averaging - heavy).max())}


def interpolation(setup, rng):
    """Run SGD with a constant step on least squares that can be fitted exactly."""
    A = rng.normal(size=(N, DIM))
    problem, x0 = LeastSquares(A, A @ np.ones(DIM)), np.full(DIM, 3.0)
    c = constants(problem, x0)
    step = step_limit("sgd-strong", c)
    steps = iterations_for("sgd-strong", 1e-13 / c.L, constants=c, step=step)
    gaps = [
        sgd(problem, x0, step=step, n_steps=steps, rng=child).fun
        for child in rng.spawn(setup.replicates)
    ]
    return {"interpolation_gap": max(gaps), "interpolation_steps": steps}


def logistic(setup, rng, executor):
    """Certify runs on logistic regression, 569 tumours with 30 features."""
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    problem = Logistic(X, np.where(y == 1, 1.0, -1.0), l2=1 / len(y))
    times = np.unique(np.geomspace(1, setup.logistic_steps, LOGISTIC_TIMES).astype(int))
    failed, ratios = [], []
    for theorem in LOGISTIC_THEOREMS:
        found = certify_file_run(
            theorem, problem, np.zeros(problem.dim), setup.logistic_steps, LOGISTIC_BATCH,
            setup.replicates, rng.spawn(1)[0], executor, times,
        )[0]  # fmt: skip
        ratios.append(found.worst_ratio)
        failed += [] if found.holds else [theorem]
    return {"logistic_ratios": np.array(ratios), "logistic_failed": len(failed)}


def certify_file_run(
    theorem, problem, x0, n_steps, batch, n_replicates, rng, executor, times, step=None
):
    """Run a theorem's method on a smooth problem with its largest step and check it."""
    c = constants(problem, x0)
    size = batch if theorem.startswith("minibatch") else None
    seen = c if size is None else minibatch_constants(c, size)
    step = step_for(theorem, c, batch_size=size) if step is None else step
    gammas = step_schedule(theorem, n_steps, constants=seen, step=step)
    whole = theorem.startswith("gd-")
    star, entry = problem.minimiser(x0), theorems()[theorem]

    def measured(rng):
        points = sgd(
            problem, x0, step=gammas, n_steps=n_steps, rng=rng, record=True,
            batch_size=problem.n if whole else size or 1,
            momentum="ima" if theorem.startswith("sgdm") else None,
        ).history["x"]  # fmt: skip
        if entry.average:
            points = running_average(points, averaging_weights(theorem, gammas, seen))
        if entry.quantity.startswith("E ‖"):
            return np.sum((points[times] - star) ** 2, axis=1)
        return problem.value(points[times]) - c.f_star

    if whole:
        values = measured(rng)
    else:
        values = replicate(measured, n_replicates, rng=rng, executor=executor)
    scale = float(np.finfo(float).eps) * (abs(c.f_star) + float(star @ star))
    found = check(
        theorem, values, step=step, constants=c, batch_size=size, times=times, atol=4 * scale
    )
    return found, step


def curve_times(n_steps):
    """Return the steps that the figure shows: about a hundred, evenly on a logarithmic axis."""
    return np.unique(np.geomspace(1, n_steps, 120).astype(int))


def draw(results, figure):
    """One panel a theorem: what was measured, with its band, below the bound."""
    figure.set_size_inches(10.5, 9.0)
    axes = figure.subplots(5, 5, sharex=True).ravel()
    times = results["times"]
    for panel, theorem, on in zip(axes, results["theorems"], results["problems"], strict=False):
        mean, bound = results[f"{theorem}_mean"], results[f"{theorem}_bound"]
        band = BANDS * results[f"{theorem}_band"]
        top = max(10 * float(mean.max()), 3 * float(bound[-1]))
        low = max(float(np.min(mean)) / 3, 1e-14 * top)
        panel.fill_between(
            times, np.maximum(mean - band, low), np.maximum(mean + band, low), alpha=0.3, lw=0
        )
        panel.loglog(times, np.maximum(mean, low), "C0", lw=1.4)
        panel.loglog(times, bound, "k--", lw=1)
        panel.set_ylim(low, top)
        panel.set_title(theorem, fontsize=8.5, pad=12)
        panel.text(0.5, 1.02, on, transform=panel.transAxes, ha="center", fontsize=7, color="0.3")
        panel.tick_params(labelsize=7)
        panel.minorticks_off()
    for panel in axes[20:]:
        panel.set_xlabel("steps T", fontsize=8)
    figure.supylabel("what the theorem bounds, in the problem's units", fontsize=9)
    figure.suptitle(
        "Measured mean, with three standard errors (blue), and the theorem's bound (dashed)",
        fontsize=10,
    )


def read_regression(path):
    """Read a table of numbers, the last column the target; a first line of names is skipped."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            head = file.readline()
    except UnicodeDecodeError as error:
        raise ValueError(f"--input: {path.name} is not a CSV file in UTF-8: {error}") from None
    try:
        named = bool([float(part) for part in head.split(",")]) is False
    except ValueError:
        named = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a table without rows, refused below
            table = np.loadtxt(
                path, delimiter=",", ndmin=2, encoding="utf-8-sig", skiprows=int(named)
            )
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"--input: {path.name} is not a table of numbers: {error}") from None
    if table.shape[0] < 2 or table.shape[1] < 2:
        raise ValueError(
            f"--input: expected two rows and two columns or more, got shape {table.shape}"
        )
    if table.size > LARGEST_ENTRIES:
        raise ValueError(f"--input: expected at most {LARGEST_ENTRIES} entries, got {table.size}")
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        raise ValueError(f"--input: row {row}, column {column} is not finite")
    return table[:, :-1], table[:, -1]


def on_file(path, setup, out, rng, report):
    """Print a file's constants and predicted iterations, then certify runs on it."""
    if not 0 < setup.epsilon < 1:
        raise ValueError(f"--set: epsilon must be between 0 and 1, got {setup.epsilon:g}")
    if setup.replicates < 2 or setup.steps < 1:
        raise ValueError("--set: replicates must be >= 2 and steps >= 1")
    X, y = read_regression(path)
    if setup.standardise:
        spread = X.std(axis=0)
        X = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
        y = (y - y.mean()) / (y.std() or 1.0)
    problem = LeastSquares(X, y, l2=setup.l2)
    x0 = np.zeros(problem.dim)
    c = constants(problem, x0)
    batch = min(FILE_BATCH, problem.n)
    chosen = ["gd-convex", "sgd-convex", "minibatch-convex", "sgdm-convex", "gd-pl", "sgd-pl"]
    if c.mu > 0:
        chosen += ["gd-strong", "sgd-strong", "sgd-strong-switch", "minibatch-strong"]
    times = np.unique(np.geomspace(1, setup.steps, LOGISTIC_TIMES).astype(int))
    rows = []
    for at, theorem in enumerate(chosen):
        report(at / len(chosen), theorem)
        size = batch if theorem.startswith("minibatch") else None
        start = c.dist0_sq if theorems()[theorem].quantity.startswith("E ‖") else c.gap0
        needed = iterations_for(theorem, setup.epsilon * start, constants=c, batch_size=size)
        found, step = certify_file_run(
            theorem, problem, x0, setup.steps, batch, setup.replicates, rng.spawn(1)[0], None, times
        )
        limit = step_limit(theorem, c, size)
        rows.append([theorem, limit, step, needed, found.holds, found.worst_ratio])
    with open(out / "theorems.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["theorem", "step limit", "step of the run", f"iterations to {setup.epsilon:g} of the "
             "start", "certificate holds", "worst measured over bound"]
        )  # fmt: skip
        writer.writerows(rows)
    names = ("L", "L_max", "mu", "pl", "dist0_sq", "gap0", "sigma_star_sq", "delta_star")
    summary: dict[str, Any] = {"rows": problem.n, "columns": problem.dim}
    summary |= {name: getattr(c, name) for name in names}
    for theorem, limit, _, needed, holds, _ in rows:
        verdict = "holds" if holds else "fails"
        steps = "own steps" if not np.isfinite(limit) else f"step up to {limit:.4g}"
        summary[theorem] = f"{steps}, {needed} iterations, certificate {verdict}"
    return summary


STUDY = Study(
    paper="convergence-handbook",
    quick={
        "steps": 400,
        "replicates": 30,
        "wrong_replicates": 4,
        "logistic_steps": 0,
        "workers": 1,
    },
    full={
        "steps": 2000,
        "replicates": 400,
        "wrong_replicates": 20,
        "logistic_steps": 5000,
        "workers": 2,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "simple convergence theorems for gradient and stochastic gradient methods",
            "of 25 theorems, certificates that fail: mean of the runs, less three standard errors, "
            "above the bound at some step",
            "certificates_failed",
            equals(0),
        ),
        Claim(
            "every theorem of the handbook's table",
            "theorems that no run was checked against",
            "theorems_without_case",
            equals(0),
        ),
        Claim(
            "minibatching without replacement reduces the variance exactly as stated",
            "largest difference from the variance over all subsets, n = 8, all batch sizes",
            "minibatch_variance_error",
            at_most(1e-12),
        ),
        Claim(
            "and leaves none with the full batch",
            "variance of the full batch by the same formula",
            "full_batch_variance",
            equals(0),
        ),
        Claim(
            "momentum is iterate averaging",
            "largest difference of the two forms' iterates over 500 steps",
            "momentum_difference",
            at_most(1e-12),
        ),
        Claim(
            "a bound for the last iterate of SGD with momentum",
            "largest measured over bound",
            "momentum_bound_ratio",
            at_most(1),
        ),
        Claim(
            "SGD converges linearly under interpolation",
            "largest gap after the steps that the theorem asks for 1e-13 / 2, all replicates",
            "interpolation_gap",
            at_most(1e-12),
        ),
        Claim(
            "negative control: a run with a wrong step is refused",
            "wrong runs that stay below the bound of the step they claim, one for each theorem",
            "wrong_steps_missed",
            equals(0),
        ),
        Claim(
            "negative control: half of a bound is refused where the bound is attained",
            "tight instances (8 theorems) that half of the bound lets pass",
            "halved_missed",
            equals(0),
        ),
        Claim(
            "negative control: gradient descent at 2.5/L",
            "1 if the certificate tells the step above the limit and the divergence",
            "divergence_reported",
            equals(1),
        ),
        Claim(
            "the theorems hold on real data",
            "largest measured over bound, logistic regression of 569 tumours: SGD convex, "
            "strongly convex, minibatches of 32, momentum",
            "logistic_ratios",
            at_most(1),
            preset="full",
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects="CSV of numbers, the last column the target; a first line of names is skipped",
        options={
            "epsilon": 0.01,
            "l2": 0.0,
            "steps": 2000,
            "replicates": 20,
            "standardise": True,
        },
    ),
)

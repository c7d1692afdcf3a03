"""Jacobi, Cholesky and QR share one rate under random pivots, and Jacobi's run stays stable."""

from __future__ import annotations

import csv
import math
import warnings
from typing import Any

import numpy as np
from scipy.linalg import LinAlgWarning, lapack

from thalweg.linalg import (
    PairResult,
    expected_potential,
    jacobi_eigh,
    jacobi_svd,
    pair_potential,
    pair_step,
    scaled_condition,
    stability_bound,
    steps_for,
)
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, reported

PIVOTINGS = ("random", "matching", "random-sweep", "cyclic", "greedy")
DELTA = 0.1
EPS = 1e-6
EXACT = 1e-17
"""Where the figure shows an error of zero."""
LARGEST_COLUMNS = 4_000
LARGEST_ENTRIES = 50_000_000


def eliminate_upwards(gii, gij, gjj):
    """Clear the pair by unit lower triangular matrices: a class of one's own."""
    return [[1.0, 0.0], [-gij / gjj, 1.0]]


KINDS: dict[str, Any] = {
    "rotation (Jacobi)": "jacobi",
    "triangular (Cholesky, QR)": "triangular",
    "symmetric root": "symmetric",
    "user's callable": eliminate_upwards,
}


def run(setup, rng, report):
    """Measure the rate of every class, sweeps of every order, accuracy and stability."""
    results = {"n": setup.n}
    results |= one_step(setup, rng)
    results |= many_steps(setup, rng, report)
    report(0.5, "orders of pairs")
    results |= orders(setup, rng)
    report(0.65, "accuracy on graded columns")
    results |= accuracy(setup, rng)
    report(0.75, "stability")
    results |= stability(setup, rng)
    return results


def positive_definite(rng, *shape, decades=2.0):
    """Return matrices with eigenvalues spread over some decades and graded rows and columns."""
    q, _ = np.linalg.qr(rng.normal(size=(*shape, shape[-1])))
    values = np.sqrt(10.0 ** np.linspace(-decades, 0, shape[-1]))
    a = (q * values[:, None]) * 10.0 ** rng.uniform(-3, 0, size=(*shape[:-1], 1, shape[-1]))
    return a.swapaxes(-1, -2) @ a


def one_step(setup, rng):
    """Average the potential over all pairs of a step, for each class."""
    n = setup.n
    i, j = np.triu_indices(n, 1)
    worst = []
    for kind in KINDS.values():
        errors = []
        for g in positive_definite(rng, setup.matrices, n):
            after, _ = pair_step(np.tile(g, (len(i), 1, 1)), i, j, kind)
            share = np.mean(pair_potential(after)) / pair_potential(g)
            errors.append(abs(share - expected_potential(1.0, n, 1)))
        worst.append(max(errors))
    return {"rate_error": np.array(worst)}


def random_pair(n, runs, rng):
    """Draw one uniformly random pair i < j for each run."""
    i, j = rng.integers(n, size=runs), rng.integers(n - 1, size=runs)
    j += j >= i
    return np.minimum(i, j), np.maximum(i, j)


def many_steps(setup, rng, report):
    """Follow the mean potential, and count the runs that are done when the theorem says so."""
    n, runs = setup.n, setup.runs
    g = positive_definite(rng, n)
    gamma0 = pair_potential(g)
    steps = np.arange(n * n + 1)
    theory = expected_potential(gamma0, n, steps)
    enough = steps_for(gamma0, n, EPS, DELTA)
    means, deviations, fractions = [], [], []
    for number, kind in enumerate(KINDS.values()):
        report(0.05 + 0.11 * number, f"mean potential, class {number + 1} of {len(KINDS)}")
        stack, mean = np.tile(g, (runs, 1, 1)), [gamma0]
        for step in range(enough):
            i, j = random_pair(n, runs, rng)
            stack, _ = pair_step(stack, i, j, kind)
            if step < n * n:
                mean.append(float(np.mean(pair_potential(stack))))
        slope = np.polyfit(steps, np.log(mean), 1)[0]
        means.append(mean)
        deviations.append(abs(slope / math.log(theory[1] / theory[0]) - 1))
        fractions.append(float(np.mean(pair_potential(stack) <= EPS)))
    return {
        "steps": steps,
        "mean_potential": np.array(means),
        "theory": theory,
        "slope_deviation": np.array(deviations),
        "steps_enough": enough,
        "fraction_done": np.array(fractions),
    }


def orders(setup, rng):
    """Count sweeps to 1e-12 for each order of pairs."""
    sweeps = []
    for n in setup.sizes:
        g = positive_definite(rng, n)
        sweeps.append([jacobi_eigh(g, p, tol=1e-12, rng=rng).sweeps for p in PIVOTINGS])
    return {
        "sizes": np.array(setup.sizes),
        "sweeps": np.array(sweeps),
        "sweeps_largest": np.array(sweeps[-1]),
    }


def accuracy(setup, rng):
    """Compare singular values of badly scaled columns with LAPACK's accurate routine."""
    n = setup.graded
    methods = {
        "random": lambda a: jacobi_svd(a, "random", rng=rng).s,
        "cyclic": lambda a: jacobi_svd(a, "cyclic").s,
        "numpy": lambda a: np.linalg.svd(a, compute_uv=False),
    }
    references: list[np.ndarray] = []
    errors: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for _ in range(setup.graded_matrices):
        a = np.eye(n) + 0.3 * rng.normal(size=(n, n)) / math.sqrt(n)
        a = a * 10.0 ** rng.uniform(-14, 0, n)
        values, _, _, scales, _, info = lapack.dgejsv(a, joba=0, jobr=0, jobp=0)
        if info != 0:
            raise RuntimeError(f"dgejsv failed with info={info}")
        references.append(values * scales[0] / scales[1])
        for name, method in methods.items():
            errors[name].append(np.abs(method(a) / references[-1] - 1))
    return (
        {"singular_values": np.array(references)}
        | {f"error_{name}": np.array(value) for name, value in errors.items()}
        | {f"worst_error_{name}": float(np.max(value)) for name, value in errors.items()}
        | {"median_error_numpy": float(np.median(np.max(errors["numpy"], axis=1)))}
    )


def stability(setup, rng):
    """Follow the scaled condition number of every matrix of many Jacobi runs."""
    n, runs = setup.n_stability, setup.runs_stability
    stack = positive_definite(rng, runs, n, decades=4.0)
    start = scaled_condition(stack)
    bound = np.array([stability_bound(gamma, n, DELTA) for gamma in pair_potential(stack)])
    largest = start.copy()
    for _ in range(setup.sweeps_stability * n * (n - 1) // 2):
        i, j = random_pair(n, runs, rng)
        stack, _ = pair_step(stack, i, j)
        largest = np.maximum(largest, scaled_condition(stack))
    return {
        "fraction_stable": float(np.mean(largest <= bound)),
        "condition_growth": float(np.median(largest / start)),
        "worst_condition_growth": float(np.max(largest / start)),
        "bound_over_condition": float(np.median(bound / largest)),
    }


def draw(results, figure):
    """Mean potential on one line for all classes; relative error of every singular value."""
    left, right = figure.subplots(1, 2)
    n, steps = results["n"], results["steps"]
    left.semilogy(
        steps, results["theory"], "k-", lw=1, label=r"theory: $(1-2/(n(n-1)))^t\,\Gamma_0$"
    )
    gap = n * n // 10
    for number, (name, mean) in enumerate(zip(KINDS, results["mean_potential"], strict=True)):
        at = slice(number * gap // len(KINDS), None, gap)
        left.semilogy(steps[at], mean[at], "osD^"[number], ms=6, label=name)
    left.set(xlabel=f"steps t (pairs), n = {n}", ylabel=r"mean potential $\Gamma_t$")
    left.set_title("one rate for every class of steps")
    left.legend(loc="lower left")
    values = results["singular_values"][0]
    for name, label, style in (
        ("numpy", "numpy.linalg.svd", "x"),
        ("random", "Jacobi, random pairs", "o"),
        ("cyclic", "Jacobi, cyclic", "."),
    ):
        right.loglog(values, np.maximum(results[f"error_{name}"][0], EXACT), style, label=label)
    right.axhline(1e-12, color="k", lw=1, ls="--")
    right.annotate("accuracy asked of Jacobi", (values.max(), 1.5e-12), ha="right", va="bottom")
    right.set(xlabel="singular value", ylabel="relative error against dgejsv (none: 1e-17)")
    right.set_title("singular values, badly scaled columns")
    right.legend(loc="upper right")


def decompose(path, setup, out, rng, report):
    """Write eigenvalues or singular values with vectors; return the certificate of the run."""
    a = read_matrix(path)
    symmetric = a.shape[0] == a.shape[1] and np.array_equal(a, a.T)
    wide = a.shape[0] < a.shape[1]
    options = {"rng": rng, "callback": progress(report)}
    done: PairResult
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)
        if symmetric:
            done = eigen = jacobi_eigh(a, setup.pivoting, **options)
            values, vectors = eigen.w, {"eigenvectors": eigen.v}
        else:
            done = svd = jacobi_svd(a.T if wide else a, setup.pivoting, **options)
            left, right = (svd.vt.T, svd.u) if wide else (svd.u, svd.vt.T)
            values, vectors = svd.s, {"left_vectors": left, "right_vectors": right}
    for name, columns in vectors.items():
        np.save(out / f"{name}.npy", columns)
    what = "eigenvalues" if symmetric else "singular_values"
    with open(out / f"{what}.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["index", "value"], *enumerate(map(repr, values.tolist()))])
    summary = {
        "rows": a.shape[0],
        "columns": a.shape[1],
        "found": what.replace("_", " "),
        "largest": float(values.max()),
        "smallest": float(values.min()),
        "sweeps": done.sweeps,
        "steps": done.steps,
        "converged": done.converged,
    }
    return summary | certificate(done, min(a.shape), symmetric, setup.delta)


def certificate(done, n, symmetric, delta):
    """Say how accurate the values are, as far as the matrix allows it to be said."""
    if math.isnan(done.potential):
        return {
            "certificate": "none: the matrix is not definite; errors are relative to the largest"
        }
    bound = stability_bound(done.potential, n, delta)
    power = 1.0 if symmetric else 0.5
    return {
        "certificate": f"with probability {1 - delta:g}, for random pairs",
        "potential": done.potential,
        "scaled_condition": float(done.history.condition[0]),
        "largest_scaled_condition_seen": float(done.history.condition.max()),
        "stability_bound": bound,
        "relative_error_scale": float(np.finfo(float).eps) / 2 * bound**power,
    }


def progress(report):
    """Turn what is left off the diagonal into a fraction for the progress bar."""
    first = []

    def callback(state):
        first.append(state.off_diagonal)
        target = math.log(first[0] / 1e-15) if first[0] > 1e-15 else 1.0
        done = math.log(first[0] / max(state.off_diagonal, 1e-15)) if first[0] > 1e-15 else 1.0
        report(min(0.99, max(0.0, done / target)), f"sweep {state.sweep}")

    return callback


def read_matrix(path):
    """Read a real matrix from .npy or .csv."""
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".csv"):
        raise ValueError(f"--input: expected a .npy or .csv file, got {path.name!r}")
    try:
        if suffix == ".npy":
            a = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            a = np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8")
    except (ValueError, EOFError) as error:
        raise ValueError(f"--input: {path.name} holds no matrix of numbers: {error}") from None
    if a.ndim != 2 or a.size == 0:
        raise ValueError(f"--input: expected a matrix, got an array of shape {a.shape}")
    if a.dtype.kind not in "biuf":
        raise ValueError(f"--input: expected real numbers, got {a.dtype}")
    if min(a.shape) > LARGEST_COLUMNS or a.size > LARGEST_ENTRIES:
        raise ValueError(
            f"--input: expected at most {LARGEST_COLUMNS} columns and {LARGEST_ENTRIES} entries, "
            f"got shape {a.shape}"
        )
    a = np.array(a, dtype=float)
    if not np.isfinite(a).all():
        row, column = np.argwhere(~np.isfinite(a))[0]
        raise ValueError(f"--input: {a[row, column]} in row {row}, column {column} is not finite")
    return a


STUDY = Study(
    paper="randomized-pivoting",
    quick={
        "n": 10,
        "matrices": 20,
        "runs": 200,
        "sizes": (20, 40),
        "graded": 60,
        "graded_matrices": 10,
        "n_stability": 10,
        "runs_stability": 100,
        "sweeps_stability": 5,
    },
    full={
        "n": 10,
        "matrices": 20,
        "runs": 200,
        "sizes": (20, 40, 60, 80),
        "graded": 60,
        "graded_matrices": 10,
        "n_stability": 30,
        "runs_stability": 100,
        "sweeps_stability": 8,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "one rate for every factorisation",
            "mean over all pairs of the potential after a step over that before, minus "
            "1 - 2/(n(n-1)): rotation, triangular, symmetric, user's",
            "rate_error",
            at_most(1e-10),
        ),
        Claim(
            "linear convergence",
            "slope of the log of the mean potential over log(1 - 2/(n(n-1))), minus 1",
            "slope_deviation",
            at_most(0.1),
        ),
        Claim(
            "a number of steps that suffices with high probability",
            "fraction of runs with potential <= 1e-6 after steps_for(eps=1e-6, delta=0.1)",
            "fraction_done",
            at_least(0.9),
        ),
        Claim(
            "Jacobi's scaled condition number stays bounded along the run",
            "fraction of runs below stability_bound(delta=0.1) at every step",
            "fraction_stable",
            at_least(0.9),
        ),
        Claim(
            "Jacobi's scaled condition number stays bounded along the run",
            "largest along the run over that at the start, median of the runs",
            "condition_growth",
            reported(),
        ),
        Claim(
            "Jacobi finds small singular values to high relative accuracy",
            "worst relative error with random pairs against LAPACK dgejsv, ten matrices",
            "worst_error_random",
            at_most(1e-12),
        ),
        Claim(
            "other methods do not",
            "worst relative error of numpy.linalg.svd, ten matrices",
            "worst_error_numpy",
            at_least(1e-6),
        ),
        Claim(
            "other methods do not",
            "worst relative error of numpy.linalg.svd, median of the matrices",
            "median_error_numpy",
            reported(),
        ),
        Claim(
            "random pairs against other orders",
            "sweeps to 1e-12 at the largest size: random, matching, random-sweep, cyclic, greedy",
            "sweeps_largest",
            reported(),
        ),
    ],
    on_file=FileMethod(
        decompose,
        expects="a real matrix, .npy or .csv (numbers separated by commas, no header)",
        options={"pivoting": "random", "delta": DELTA},
    ),
)

"""The theorems of convex optimisation beside runs: each method stays below its bound at each step.

Every bound of the monograph meets a run of its method on a small problem whose constants and
minimum are known: cutting planes, gradient methods, mirror descent on the simplex, FISTA, games,
interior points, random coordinates. A run that stood still would be found out by each of them. The
methods are then compared where the text compares them: oracle calls of cutting planes, accelerated
and plain gradient steps, 1/t and 1/sqrt(t) for games, Newton steps by the barrier's parameter, cuts
of graphs against 0.878 of their relaxation. The full preset adds a support vector machine on two
handwritten digits and a matrix completed by single singular pairs.

With a file: an edge list is cut in two with a bound of the best cut and its certificate; a table of
payoffs is solved as a zero-sum game.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
from sklearn.linear_model import Lasso

from thalweg.data import available
from thalweg.descent import (
    geometric_descent,
    goemans_williamson,
    gradient_descent,
    hit_and_run,
    known_rates,
    maxcut_sdp,
    nesterov,
    random_coordinate_descent,
    rate,
)
from thalweg.descent.stochastic import replicate
from thalweg.studies.descent import _convex_problems as problems
from thalweg.studies.descent import _convex_runs as runs_of
from thalweg.studies.descent._convex_claims import CLAIMS, MNIST
from thalweg.studies.descent._convex_figure import draw
from thalweg.studies.descent._convex_files import FILE_METHOD
from thalweg.studies.descent._convex_large import completed, support_vectors
from thalweg.study import Study

TARGET = 1e-4
"""Error to which oracle calls are counted."""
CONDITION = 1e4


def run(setup, rng, report):
    """Measure chapter by chapter; return the figures of the claims and the curves."""
    results: dict[str, Any] = {}
    runs: list[runs_of.Run] = []
    certificates: list[Any] = []
    pool: Any = ThreadPoolExecutor(setup.workers) if setup.workers > 1 else nullcontext()
    with pool as executor:
        for fraction, message, part in (
            (0.0, "cutting planes", cutting_planes),
            (0.3, "gradients", gradients),
            (0.5, "simplex, lasso, games", structures),
            (0.65, "interior points", interior_points),
            (0.75, "coordinates", coordinates),
        ):
            report(fraction, message)
            found, more, pairs = part(setup, rng.spawn(1)[0])
            results |= found
            runs += more
            certificates += pairs
        report(0.85, "graphs")
        results |= cuts(setup, rng.spawn(1)[0])
        report(0.9, "random walks")
        results |= moments(setup, rng.spawn(1)[0], executor)
    if setup.completion_steps:
        report(0.93, "matrix completion")
        found, completion, pairs = completed(setup, rng.spawn(1)[0])
        results |= found
        runs.append(completion)
        certificates += pairs
    if setup.svm_steps and all(available(name) for name in MNIST):
        report(0.95, "support vector machine")
        results |= support_vectors(setup)
    return results | judged(runs, certificates)


def judged(runs, certificates):
    """Hold all runs against their bounds, and what methods certify against the truth."""
    worst = [float(run.ratios.max()) for run in runs]
    telling = {run.rate for run in runs if run.tells}
    loosest = [
        float(np.min(stated - true + runs_of.ROUNDING * max(1.0, float(np.max(true)))))
        for stated, true in certificates
    ]
    return {
        "bounds": [run.rate for run in runs],
        "bound_problems": [run.on for run in runs],
        "worst_ratios": np.array(worst),
        "steps_above_bound": int(sum(np.sum(run.ratios > 1) for run in runs)),
        "steps_compared": int(sum(len(run.t) for run in runs)),
        "bounds_without_run": len(set(known_rates()) - {run.rate for run in runs}),
        "bounds_that_tell_nothing": len({run.rate for run in runs} - telling),
        "certificates": len(certificates),
        "certificates_false": int(sum(value < 0 for value in loosest)),
    }


def calls_until(gaps, target=TARGET):
    """Return the first step at which the gap is `target` or less; -1 if there is none."""
    below = np.flatnonzero(gaps <= target)
    return int(below[0]) if below.size else -1


def cutting_planes(setup, rng):
    """Count the oracle calls of the cutting planes by dimension, in the mean of some problems."""
    runs, certificates, calls = [], [], {}
    for n in setup.dimensions:
        counts = []
        for _ in range(setup.problems):
            results, gaps, more = runs_of.cutting_runs(problems.affine_maximum(n, rng), n)
            counts.append([calls_until(gap) for gap in gaps.values()])
            runs += more
            certificates += [
                (result.history["gap"], gap)
                for result, gap in zip(results.values(), gaps.values(), strict=True)
            ]
        calls[n] = np.mean(counts, axis=0)
    low, high = calls[setup.dimensions[0]], calls[setup.dimensions[-1]]
    found = {f"cutting_{key}": gap for key, gap in zip("gve", gaps.values(), strict=True)}
    for key, run in zip("ge", more, strict=True):
        found[f"cutting_{key}_bound"] = run.bound
    return (
        found
        | {
            "dimensions": list(setup.dimensions),
            "oracle_calls": np.array(list(calls.values())),
            "gravity_over_vaidya": high[0] / high[1],
            "vaidya_over_ellipsoid": high[1] / high[2],
            "vaidya_growth": high[1] / low[1],
            "ellipsoid_growth": high[2] / low[2],
        },
        runs,
        certificates,
    )


def gradients(setup, rng):
    """Smooth quadratics and kinks, and how many steps acceleration saves."""
    runs, certificates = [], []
    for condition in (1e2, CONDITION):
        problem = problems.quadratic(20, condition, rng)
        more, pairs, ball = runs_of.gradient_runs(problem, condition, setup.gradient_steps)
        runs += more
        certificates += pairs
    shown = {run.rate: run for run in more}
    affine, kinks = problems.affine_maximum(5, rng), problems.strong_kinks(6, rng)
    runs += runs_of.subgradient_runs(affine, kinks, setup.horizons)
    # The last problem, until no entry of the gradient is larger than 1e-8.
    f, x0, given = problem.fun, problem.x0, {"jac": problem.jac, "L": 1.0}
    plain = gradient_descent(f, x0, maxiter=setup.plain_steps, **given).nit
    fast = nesterov(f, x0, mu=problem.mu, **given).nit
    balls = geometric_descent(f, x0, mu=problem.mu, **given).nit
    return (
        {
            "steps_plain": plain,
            "steps_nesterov": fast,
            "steps_geometric": balls,
            "accelerated_ratio": max(fast / balls, balls / fast),
            "acceleration": min(plain / fast, plain / balls),
            "gradient_plain": shown["gradient_descent-convex"].measured,
            "gradient_plain_bound": shown["gradient_descent-convex"].bound,
            "gradient_nesterov": shown["nesterov-strong"].measured,
            "gradient_nesterov_bound": shown["nesterov-strong"].bound,
            "gradient_geometric": ball,
        },
        runs,
        certificates,
    )


def structures(setup, rng):
    """The simplex, the lasso, and a game."""
    square, absolute = problems.simplex_regression(60, 40, rng)
    runs, certificates = runs_of.simplex_runs(
        square, absolute, setup.simplex_steps, setup.horizons, setup.replicates, rng
    )
    runs.append(
        runs_of.noisy_smooth_run(
            problems.quadratic(10, 100.0, rng), 1.0, setup.horizons, setup.replicates, rng
        )
    )
    shown = {run.rate: run for run in runs}
    curves: dict[str, Any] = {"horizons": list(setup.horizons)}
    for key, name in (
        ("mirror_descent", "mirror_descent"),
        ("dual_averaging", "dual_averaging"),
        ("mirror_prox", "mirror_prox"),
    ):
        curves[key], curves[f"{key}_bound"] = shown[name].measured, shown[name].bound

    lasso = problems.diabetes_lasso()
    (ista, fista), solution = runs_of.lasso_runs(lasso, setup.lasso_steps)
    peer = Lasso(alpha=lasso.more["lam"], fit_intercept=False, tol=1e-15, max_iter=10**6)
    peer.fit(lasso.more["A"], lasso.more["b"])
    both = min(len(ista.t), len(fista.t))
    curves |= {
        "ista": ista.measured, "ista_bound": ista.bound,
        "fista": fista.measured, "fista_bound": fista.bound,
    }  # fmt: skip

    A = rng.uniform(-1, 1, size=(12, 15))
    games = runs_of.game_runs(A, setup.game_horizons, setup.replicates, rng)
    prox, descent = games[0], games[1]
    at = list(setup.game_horizons)
    curves |= {
        "game_horizons": at,
        "game_prox": prox.measured, "game_prox_bound": prox.bound,
        "game_descent": descent.measured, "game_descent_bound": descent.bound,
    }  # fmt: skip
    return (
        curves
        | {
            "fista_above_ista": int(np.sum(fista.measured[:both] > ista.measured[:both])),
            "lasso_difference": float(np.abs(solution - peer.coef_).max()),
            "prox_quotients": prox.measured[at[:-1]] / prox.measured[at[1:]],
            "descent_quotients": descent.measured[:-1] / descent.measured[1:],
        },
        [*runs, ista, fista, *games],
        certificates,
    )


def interior_points(setup, rng):
    """Count short Newton steps by the number of constraints."""
    runs, certificates, short, long = [], [], [], []
    for m in setup.rows:
        run, found, quick, pair = runs_of.path_run(5, m, setup.path_tol, rng)
        runs.append(run)
        certificates.append(pair)
        short.append(found.nit)
        long.append(quick.nit)
    return (
        {
            "rows": list(setup.rows),
            "newton_short": np.array(short),
            "newton_long": np.array(long),
            "newton_exponent": float(np.polyfit(np.log(setup.rows), np.log(short), 1)[0]),
        },
        runs,
        certificates,
    )


def coordinates(setup, rng):
    """Random coordinates against their bounds, and against gradient descent by work."""
    runs = runs_of.coordinate_runs(
        problems.skewed_quadratic(20, rng),
        setup.coordinate_steps,
        setup.coordinate_replicates,
        rng,
    )
    quotients = []
    curves: dict[str, Any] = {}
    n = 50
    for _ in range(setup.problems):
        problem = problems.skewed_quadratic(n, rng)
        H, target, gaps = problem.more["H"], TARGET * problem.gap0, {}
        options: dict[str, Any] = {"record": True, "callback": until(problem.fun, target)}
        gaps["plain"] = gradient_descent(
            problem.fun, problem.x0, jac=problem.jac, L=problem.L, maxiter=10**5, **options
        ).history["fun"]  # fmt: skip
        for gamma in (0.0, 1.0):
            gaps[f"gamma{gamma:g}"] = random_coordinate_descent(
                problem.fun, problem.x0, partial=lambda x, i, H=H: H[i] @ x, L=problem.more["L"],
                gamma=gamma, rng=rng, **options,
            ).history["fun"]  # fmt: skip
            key = f"work_gamma{gamma:g}_bound"
            curves[key] = promised(problem, gamma, len(gaps[f"gamma{gamma:g}"]))
        quotients.append((len(gaps["gamma1"]) - 1) / n / (len(gaps["plain"]) - 1))
        curves |= {f"work_{key}": values for key, values in gaps.items()}
    return curves | {"work_dimension": n, "work_quotients": np.array(quotients)}, runs, []


def promised(problem, gamma, length):
    """Return the bound of the mean gap of strongly convex coordinate descent."""
    return rate(
        "random_coordinate_descent-strong", np.arange(length), L=problem.more["L"], gamma=gamma,
        gap0=problem.gap0, mu=runs_of.coordinate_convexity(problem, gamma),
    )  # fmt: skip


def until(fun, target):
    """Return a callback that ends the run once the value is `target` or less."""

    def callback(intermediate_result):
        if intermediate_result.fun <= target:
            raise StopIteration

    return callback


def cuts(setup, rng):
    """Cut graphs by hyperplanes through the vectors of their relaxation."""
    names, ratios, gaps, best = [], [], [], []
    for name, graph in problems.graphs(int(rng.integers(2**31))).items():
        solved = maxcut_sdp(graph, rng=rng)
        rounded = goemans_williamson(
            graph, vectors=solved.vectors, n_rounds=setup.roundings, rng=rng
        )
        names.append(name)
        ratios.append(rounded.mean_cut / rounded.sdp_value)
        gaps.append(solved.upper_bound - solved.value)
        best.append(rounded.cut / solved.upper_bound)
    return {
        "graphs": names,
        "cut_ratios": np.array(ratios),
        "cut_best": np.array(best),
        "dual_gaps": np.array(gaps),
    }


def moments(setup, rng, executor, n=5):
    """Compare mean and variance of chains in the simplex x >= 0, sum x <= 1 with their values."""
    A, b = np.vstack([-np.eye(n), np.ones(n)]), np.r_[np.zeros(n), 1.0]
    mean, variance = 1 / (n + 1), n / ((n + 1) ** 2 * (n + 2))

    def chain(generator):
        draws = hit_and_run(
            A, b, np.full(n, 0.5 / n), n_samples=setup.draws, thin=n, rng=generator
        )  # fmt: skip
        return np.stack([draws.mean(axis=0), np.mean((draws - mean) ** 2, axis=0)])

    values = replicate(chain, setup.chains, rng=rng, executor=executor)
    errors = values.std(axis=0, ddof=1) / math.sqrt(len(values))
    away = np.abs(values.mean(axis=0) - np.array([mean, variance])[:, None])
    return {
        "moment_errors": float(np.max(away / errors)),
        "moment_precision": float(np.max(errors / np.array([mean, variance])[:, None])),
    }


STUDY = Study(
    paper="convex-optimization",
    quick={
        "dimensions": (2, 6),
        "problems": 1,
        "gradient_steps": 1000,
        "plain_steps": 30_000,
        "simplex_steps": 200,
        "lasso_steps": 400,
        "horizons": (30, 100, 300, 1000),
        "game_horizons": (100, 400, 1600),
        "replicates": 4,
        "coordinate_replicates": 20,
        "rows": (16, 64, 256),
        "path_tol": 1e-4,
        "coordinate_steps": 1500,
        "roundings": 1000,
        "chains": 40,
        "draws": 2000,
        "completion_steps": 0,
        "svm_steps": 0,
        "svm_rows": 0,
        "workers": 1,
    },
    full={
        "dimensions": (2, 3, 4, 5, 6),
        "problems": 10,
        "gradient_steps": 5000,
        "plain_steps": 1_000_000,
        "simplex_steps": 2000,
        "lasso_steps": 400,
        "horizons": (30, 100, 300, 1000, 3000),
        "game_horizons": (100, 400, 1600, 6400),
        "replicates": 20,
        "coordinate_replicates": 100,
        "rows": (16, 32, 64, 128, 256, 512),
        "path_tol": 1e-6,
        "coordinate_steps": 5000,
        "roundings": 10_000,
        "chains": 100,
        "draws": 20_000,
        "completion_steps": 500,
        "svm_steps": 2000,
        "svm_rows": 1000,
        "workers": 2,
    },
    run=run,
    draw=draw,
    claims=CLAIMS,
    on_file=FILE_METHOD,
)

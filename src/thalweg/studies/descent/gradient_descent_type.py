"""Every gradient method's bound from one recursion: steps obey it, runs stay below what it implies.

On breast cancer data (569 rows of norm 1): a nonconvex squared sigmoid, logistic regression without
penalty on the ten mean features (convex), absolute regression, and L2-logistic regression with
condition 143 (strongly convex). Deterministic methods are checked step by step against
D_{k+1} <= omega D_k - Delta_k + E_k, stochastic ones as means over replicates against the bounds.
Then SVRG, loopless SVRG, SAGA and SARAH go to machine precision with the step at which SGD stalls.
The full preset repeats this on MNIST.

With a file (last column a label of two values): all methods on L2-logistic regression.
"""

from __future__ import annotations

import csv
import math
from typing import Any

import numpy as np

from thalweg import data
from thalweg.descent import (
    AbsoluteRegression,
    Logistic,
    check_recursion,
    gradient_descent,
    nesterov,
    recursion_rate,
)
from thalweg.descent.recursion_instances import recursion_terms
from thalweg.studies.descent._gradient_type_cases import (
    DISTANCE_ROUNDING,
    GAP_ROUNDING,
    LOGISTIC_CURVATURE,
    MEAN_FEATURES,
    MNIST,
    SIGMOID_CURVATURE,
    SquaredSigmoid,
    as_logistic,
    breast_cancer,
    cheapest,
    convex_sgd,
    curve,
    linear_bounds,
    mnist,
    nonconvex_runs,
    same_step,
    unit_rows,
)
from thalweg.studies.descent.convergence_handbook import read_regression
from thalweg.study import Claim, FileMethod, Study, at_least, at_most

LINEAR = ("SVRG", "L-SVRG", "SAGA", "SARAH")
MOST_PASSES = 150
PRECISION = 1e-10
ACCURACY = 1e-6


def run(setup, rng, report):
    """Check the deterministic recursions, the stochastic bounds, then the race to the minimum."""
    X, y = breast_cancer()
    strong, zero = as_logistic(X, y), np.zeros(X.shape[1])
    L = LOGISTIC_CURVATURE + strong.l2
    star: Any = strong.minimiser(zero)
    f_star = strong.value(star)
    convex = Logistic(X[:, :MEAN_FEATURES], y)
    convex_star: Any = convex.minimiser(zero[:MEAN_FEATURES])
    results: dict[str, Any] = {}

    report(0.0, "deterministic recursions")
    results |= deterministic(X, y, strong, star, L, convex, convex_star, setup.iterations)

    report(0.1, "stochastic bounds, nonconvex")
    found, ratios = nonconvex_runs(SquaredSigmoid(X, y), setup.passes, setup.replicates, rng)
    results |= found
    report(0.5, "stochastic bounds, convex")
    found, ratios["sgd-convex"] = convex_sgd(
        convex, convex_star, convex.value(convex_star), setup.passes, setup.replicates, rng
    )
    results |= found
    report(0.6, "stochastic bounds, strongly convex")
    found, more = linear_bounds(strong, star, f_star, L, MOST_PASSES, setup.linear_replicates, rng)
    results |= found
    ratios |= more
    results |= {"stochastic_schemes": list(ratios), "stochastic_ratios": list(ratios.values())}

    report(0.8, "to machine precision")
    results |= race("", strong, f_star, 1 / (3 * L), rng)
    if setup.mnist and all(data.available(name) for name in MNIST):
        report(0.9, "MNIST, 0 against the rest")
        large = as_logistic(*mnist())
        least = large.value(large.minimiser(np.zeros(large.dim)))
        results |= race("mnist_", large, least, 1 / (3 * (LOGISTIC_CURVATURE + large.l2)), rng)
    return results


def race(prefix, problem, f_star, step, rng):
    """Run the methods with one step; keep the least gaps and the passes to precision."""
    found = same_step(problem, f_star, step, MOST_PASSES, rng)
    least = {
        name: cheapest(passes, gaps, MOST_PASSES, PRECISION)
        for name, (passes, gaps) in found.items()
    }
    results: dict[str, Any] = {
        f"{prefix}gaps": [least[name][0] for name in LINEAR],
        f"{prefix}passes": [least[name][1] for name in LINEAR],
        f"{prefix}sgd_gap": least["SGD"][0],
        f"{prefix}hybrid_gap": least["hybrid SGD"][0],
    }
    for name, (passes, gaps) in found.items():
        key = f"{prefix}race_{name.replace(' ', '_')}"
        results |= {f"{key}_passes": passes, f"{key}_gap": gaps}
    return results


def deterministic(X, y, strong, star, L, convex, convex_star, iterations):
    """Run the six deterministic instances; return their violations and how near the bounds are."""
    n, mu = len(y), strong.l2
    zero = np.zeros(X.shape[1])
    f_star, violations, ratios = strong.value(star), {}, {}
    results: dict[str, Any] = {}
    k = np.arange(iterations + 1)

    def note(name, points, measured, bounds, rounding=0.0, **terms):
        violations[name] = check_recursion(*recursion_terms(name, points, **terms))
        ratios[name] = float(np.max((measured[1:] - rounding) / bounds[1:]))
        results.update(curve(name.replace("-", "_"), k, measured, bounds))

    rough = SquaredSigmoid(X, y)
    step = 1 / SIGMOID_CURVATURE
    points = descent(rough, zero, step, iterations)
    gap0 = float(rough.value(zero))  # the loss is positive and may vanish: F* is taken as 0
    note(
        "gd-nonconvex", points,
        np.minimum.accumulate(np.sum(rough.gradient(points) ** 2, axis=1)),
        recursion_rate("gd-nonconvex", k, L=SIGMOID_CURVATURE, step=step, gap0=gap0),
        fun=rough.value, jac=rough.gradient, f_star=0.0, step=step, L=SIGMOID_CURVATURE,
    )  # fmt: skip

    start, least = np.zeros(convex.dim), convex.value(convex_star)
    away = float(convex_star @ convex_star)
    common = {"fun": convex.value, "f_star": least, "x_star": convex_star}
    step = 1 / LOGISTIC_CURVATURE
    points = descent(convex, start, step, iterations)
    note(
        "gd-convex", points, convex.value(points) - least,
        recursion_rate("gd-convex", k, L=LOGISTIC_CURVATURE, step=step, dist0_sq=away),
        step=step, **common,
    )  # fmt: skip
    points = accelerated(convex, start, LOGISTIC_CURVATURE, 0.0, iterations)
    note(
        "nesterov-convex", points, convex.value(points) - least,
        recursion_rate("nesterov-convex", k, L=LOGISTIC_CURVATURE, dist0_sq=away),
        L=LOGISTIC_CURVATURE, **common,
    )  # fmt: skip

    kinked = AbsoluteRegression(X, y)
    nearest: Any = kinked.minimiser(zero)
    least, away = kinked.value(nearest), float(nearest @ nearest)
    step = math.sqrt(away / (iterations + 1))
    points = descent(kinked, zero, step, iterations)
    note(
        "subgradient", points, np.minimum.accumulate(kinked.value(points) - least),
        recursion_rate("subgradient", k, lipschitz=1.0, dist0_sq=away, step=step),
        fun=kinked.value, f_star=least, x_star=nearest, step=step, lipschitz=1.0,
    )  # fmt: skip

    gap0, away = strong.value(zero) - f_star, float(star @ star)
    common = {"fun": strong.value, "f_star": f_star, "x_star": star, "L": L, "mu": mu}
    step = 2 / (L + mu)
    points = descent(strong, zero, step, iterations)
    plain = strong.value(points) - f_star
    # The bound is of the distance; the figure shows gaps, F - F* <= L/2 ‖w - w*‖².
    note(
        "gd-strong", points, L / 2 * np.sum((points - star) ** 2, axis=1),
        L / 2 * recursion_rate("gd-strong", k, L=L, mu=mu, step=step, dist0_sq=away),
        rounding=DISTANCE_ROUNDING, jac=strong.gradient, step=step, **common,
    )  # fmt: skip
    results["gd_strong_measured"] = curve("gd", k, plain, plain)["gd_measured"]
    points = accelerated(strong, zero, L, mu, iterations)
    fast = strong.value(points) - f_star
    note(
        "nesterov-strong", points, fast,
        recursion_rate("nesterov-strong", k, L=L, mu=mu, gap0=gap0, dist0_sq=away),
        rounding=GAP_ROUNDING, **common,
    )  # fmt: skip
    counts = [first_below(gaps, ACCURACY) for gaps in (plain, fast)]
    return results | {
        "rows": n,
        "deterministic_schemes": list(violations),
        "recursion_violations": list(violations.values()),
        "deterministic_ratios": list(ratios.values()),
        "gd_iterations": counts[0],
        "nesterov_iterations": counts[1],
        "iteration_ratio": counts[0] / counts[1],
    }


def descent(problem, start, step, n):
    """Return the points of (sub)gradient descent."""
    points = [start]
    for _ in range(n):
        points.append(points[-1] - step * problem.gradient(points[-1]))
    return np.array(points)


def accelerated(problem, start, L, mu, n):
    """Return the points y_k of Nesterov's method."""
    points = [start]
    nesterov(
        problem.value, start, jac=problem.gradient, L=L, mu=mu, gtol=0.0, maxiter=n,
        callback=points.append,
    )  # fmt: skip
    return np.array(points)


def first_below(gaps, accuracy):
    """Return the first index with a gap at most so large, inf if there is none."""
    met = np.flatnonzero(gaps <= accuracy)
    return int(met[0]) if len(met) else math.inf


PANELS = (
    ("not convex: squared sigmoid", "least or mean ‖∇F‖²", (
        ("gd_nonconvex", "gradient descent"), ("sgd_nonconvex", "SGD"),
        ("sarah_nonconvex", "SARAH, one loop"),
    )),
    ("convex: logistic, absolute loss", "gap F − F*", (
        ("gd_convex", "gradient descent"), ("nesterov_convex", "Nesterov"),
        ("subgradient", "subgradient, best"), ("sgd_convex", "SGD, mean point"),
    )),
    ("strongly convex: L2-logistic", "gap F − F*", (
        ("gd_strong", "gradient descent"), ("nesterov_strong", "Nesterov"),
        ("svrg_random", "SVRG"), ("lsvrg", "L-SVRG"), ("saga", "SAGA"),
    )),
)  # fmt: skip
FLOOR = 1e-16


def draw(results, figure):
    """One panel a class of problems: what was measured, and its bound dashed."""
    figure.set_size_inches(11.0, 4.6)
    axes = figure.subplots(1, 3)
    for panel, (title, label, curves) in zip(axes, PANELS, strict=True):
        tops, lows = [], []
        for at, (key, name) in enumerate(curves):
            passes, measured = results[f"{key}_passes"], results[f"{key}_measured"]
            bound = results[f"{key}_bound"]
            shown = (measured > FLOOR) & (passes > 0)
            panel.semilogy(passes[shown], measured[shown], f"C{at}", lw=1.5, label=name)
            panel.semilogy(passes[passes > 0], bound[passes > 0], f"C{at}--", lw=1)
            finite = bound[np.isfinite(bound) & (passes > 0)]
            tops.append(min(finite.max(), 1e4 * measured.max()))
            lows.append(max(measured.min(), FLOOR))
        if key == "saga":
            passes, gaps = results["race_SGD_passes"], results["race_SGD_gap"]
            panel.semilogy(passes, gaps, "0.5", lw=1.2, label="SGD, step of SAGA")
            panel.set_xlim(0, MOST_PASSES)
        else:
            panel.set_xscale("log")
        panel.set_ylim(min(lows) / 3, max(tops) * 2)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("passes over the data", fontsize=9)
        panel.set_ylabel(label, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.legend(
            fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False
        )
    figure.suptitle("Measured (solid) below what the recursion promises (dashed)", fontsize=11)


def on_file(path, setup, out, rng, report):
    """Run all methods on L2-logistic regression with a file's rows."""
    if setup.passes < 5:
        raise ValueError(f"--set: passes must be >= 5, got {setup.passes}")
    X, labels = read_regression(path)
    values = np.unique(labels)
    if len(values) != 2:
        raise ValueError(f"--input: the last column must hold two values, got {len(values)}")
    if setup.standardise:
        spread = X.std(axis=0)
        X = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    X = unit_rows(X)
    if not X.any():
        raise ValueError("--input: the columns before the label are constant")
    l2 = setup.l2 if setup.l2 > 0 else 1 / len(X)
    problem = Logistic(X, np.where(labels == values[1], 1.0, -1.0), l2=l2)
    L, zero = LOGISTIC_CURVATURE + l2, np.zeros(problem.dim)
    star = problem.minimiser(zero)
    if star is None:
        raise ValueError("--input: Newton's method found no minimiser; take a larger l2")
    f_star = problem.value(star)
    report(0.1, "stochastic methods")
    found = same_step(problem, f_star, 1 / (3 * L), setup.passes, rng)
    for name, method, options in (
        ("gradient descent", gradient_descent, {"step": 2 / (L + l2)}),
        ("Nesterov", nesterov, {"L": L, "mu": l2}),
    ):
        report(0.8, name)
        gaps = method(
            problem.value, zero, jac=problem.gradient, gtol=0.0, maxiter=setup.passes, record=True,
            **options,
        ).history["fun"] - f_star  # fmt: skip
        found[name] = (np.arange(len(gaps)), gaps)
    with open(out / "runs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "passes", "gap"])
        for name, (passes, gaps) in found.items():
            writer.writerows([name, p, g] for p, g in zip(passes, gaps, strict=True))
    np.savetxt(out / "coefficients.csv", star[None], delimiter=",", fmt="%.17g")
    summary: dict[str, Any] = {
        "rows": problem.n, "columns": problem.dim, "label +1": float(values[1]), "l2": l2,
        "condition": L / l2, "least value": f_star,
    }  # fmt: skip
    for name, (passes, gaps) in found.items():
        gap, needed = cheapest(passes, gaps, setup.passes, ACCURACY)
        summary[name] = f"gap {max(gap, 0.0):.3g}, {needed:.4g} passes to {ACCURACY:g}"
    return summary


STUDY = Study(
    paper="gradient-descent-type",
    quick={
        "passes": 15,
        "replicates": 6,
        "linear_replicates": 30,
        "iterations": 300,
        "mnist": False,
    },
    full={
        "passes": 150,
        "replicates": 20,
        "linear_replicates": 60,
        "iterations": 3000,
        "mnist": True,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "one recursive expression gives the convergence of all methods: deterministic steps "
            "obey it",
            "worst violation of the one-step inequality over the largest D, six instances",
            "recursion_violations",
            at_most(1e-12),
        ),
        Claim(
            "and the bounds that follow hold",
            "measured over bound at worst, six deterministic instances",
            "deterministic_ratios",
            at_most(1),
        ),
        Claim(
            "every stochastic bound holds in expectation",
            "mean over replicates less three standard errors, over the bound, at the worst "
            "recorded k: SGD (2), SARAH, hybrid SGD, SVRG (2), L-SVRG, SAGA",
            "stochastic_ratios",
            at_most(1),
        ),
        Claim(
            "variance-reduced methods converge linearly with a constant step",
            "gap within 150 passes: SVRG, L-SVRG, SAGA, SARAH",
            "gaps",
            at_most(1e-10),
        ),
        Claim(
            "where SGD with the same step does not",
            "least gap of SGD within 150 passes",
            "sgd_gap",
            at_least(1e-6),
        ),
        Claim(
            "SARAH's one loop on a nonconvex function",
            "mean ‖∇F‖² over the bound",
            "sarah_ratio",
            at_most(1),
        ),
        Claim(
            "acceleration",
            "iterations of gradient descent over those of Nesterov's method, to a gap of 1e-6",
            "iteration_ratio",
            at_least(2),
        ),
        Claim(
            "variance-reduced methods converge linearly with a constant step",
            "the same on MNIST, 0 against the rest: gap within 150 passes",
            "mnist_gaps",
            at_most(1e-10),
            preset="full",
            data=MNIST,
        ),
        Claim(
            "where SGD with the same step does not",
            "the same on MNIST: least gap of SGD",
            "mnist_sgd_gap",
            at_least(1e-6),
            preset="full",
            data=MNIST,
        ),
    ],
    on_file=FileMethod(
        on_file,
        "CSV of numbers, the last column a label of two values; a first line of names is skipped",
        options={"passes": 150, "l2": 0.0, "standardise": True},
    ),
)

"""A few sweeps and some sparse Newton steps replace tens of thousands of Sinkhorn's sweeps."""

from __future__ import annotations

import math
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import save_npz
from scipy.spatial.distance import cdist

from thalweg import data
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, reported
from thalweg.transport import (
    assignment_gap,
    entropic_plan,
    plan_sparsity_bound,
    sinkhorn,
    sinkhorn_newton_sparse,
)

ETA = 1200.0  # the paper's 1 / epsilon
MNIST = ("mnist-t10k-images", "mnist-t10k-labels")
SHARE_ABOVE = 1e-8


def run(setup, rng, report):
    """Count iterations to the same error in four kinds of problem, and test bound and sparsity."""
    a, b, C = assignment(setup.assignment_points, rng)
    warm_up(a[:2] / a[:2].sum(), C[:2, :2])
    results: dict[str, Any] = {
        "assignment_points": setup.assignment_points,
        "entries_a_row": setup.entries_a_row,
    }
    differences = []

    def compare(name, a, b, C, epsilon, *, n_sinkhorn=20, per_row=None):
        """Solve one problem by sweeps, by Newton, and by Newton with the paper's thinning."""
        plain = Trace(sinkhorn, a, b, C, epsilon, tol=setup.tol, max_iter=setup.sweeps)
        newton = Trace(
            sinkhorn_newton_sparse,
            *(a, b, C, epsilon),
            tol=setup.tol,
            annealing=None,
            n_sinkhorn=n_sinkhorn,
            max_newton=500,
        )
        traces = {"sinkhorn": plain, "newton": newton}
        if per_row is not None:
            traces["thinned"] = Trace(
                sinkhorn_newton_sparse,
                *(a, b, C, epsilon),
                tol=setup.tol,
                annealing=None,
                n_sinkhorn=n_sinkhorn,
                max_newton=500,
                density=per_row / C.shape[1],
            )
        if plain.result.success:
            sums = [t.result.f[:, None] + t.result.g for t in (plain, newton)]
            differences.append(float(np.abs(sums[0] - sums[1]).max()))
        for method, trace in traces.items():
            results[f"{name}_{method}_iterations"] = trace.result.nit
            results[f"{name}_{method}_success"] = trace.result.success
            results[f"{name}_{method}_seconds"] = trace.seconds
            results[f"{name}_{method}_error"] = trace.result.marginal_error
        return traces

    traces = compare("assignment", a, b, C, 1 / ETA, per_row=setup.entries_a_row)
    for method, trace in traces.items():
        results[f"trace_{method}_iterations"] = trace.iterations
        results[f"trace_{method}_times"] = trace.times
        results[f"trace_{method}_errors"] = trace.errors
    results["tail_orders"], results["step_orders"] = tail_orders(a, b, C)
    report(0.2, "assignment")

    if all(data.available(name) for name in MNIST):
        a, b, pixels = digits(setup.image_side)
        for name, metric, first in (("w2", "sqeuclidean", 20), ("w1", "cityblock", 100)):
            costs = cdist(pixels, pixels, metric)
            compare(name, a, b, costs / costs.max(), 1 / ETA, n_sinkhorn=first, per_row=15)
            report(0.3 if name == "w2" else 0.5, f"digits, {name}")

    points = setup.square_points
    a, b, C = square(points, rng)
    for epsilon in setup.epsilons:
        last = compare(f"square_{epsilon:g}", a, b, C, epsilon)
    plan = last["newton"].result.plan
    results["kept_share"] = float((plan >= SHARE_ABOVE * plan.max()).mean())
    report(0.7, "points in the square")

    ratios: list[float] = []
    w1_ratios: list[float] = []
    for name in ("assignment", "w2", f"square_{setup.epsilons[-1]:g}", "w1"):
        for method in ("newton", "thinned"):
            if f"{name}_{method}_iterations" in results:
                own = results[f"{name}_{method}_iterations"]
                if not results[f"{name}_{method}_success"]:
                    own = math.inf
                ratio = results[f"{name}_sinkhorn_iterations"] / own
                results[f"{name}_{method}_sweep_ratio"] = ratio
                (w1_ratios if name == "w1" else ratios).append(ratio)
    results["sweep_ratios"] = ratios
    if w1_ratios:
        results["w1_sweep_ratios"] = w1_ratios
    results["potential_difference"] = max(differences)

    results |= bound_runs(setup, rng)
    report(0.9, "bound")
    results["step_sizes"] = np.array(setup.step_sizes)
    results["step_seconds"] = np.array([step_seconds(n, rng) for n in setup.step_sizes])
    slope = np.polyfit(np.log(results["step_sizes"]), np.log(results["step_seconds"]), 1)[0]
    results["step_slope"] = float(slope)
    if setup.peer:
        results |= peer_runs(setup, rng)
    return results


class Trace:
    """A run of a solver with the error against iterations and seconds."""

    def __init__(self, solve, a, b, C, epsilon, **options):
        points: list[tuple[float, int, float]] = []

        def note(state):
            points.append((time.perf_counter() - start, state.nit, state.marginal_error))

        start = time.perf_counter()
        self.result = solve(a, b, C, epsilon, callback=note, **options)
        self.seconds = time.perf_counter() - start
        times, iterations, errors = (np.array(column) for column in zip(*points, strict=True))
        few = np.unique(np.geomspace(1, len(points), 400).astype(int)) - 1
        self.times, self.iterations, self.errors = times[few], iterations[few], errors[few]


def assignment(n, rng):
    """Uniform masses and independent costs in [0, 1]."""
    return np.full(n, 1 / n), np.full(n, 1 / n), rng.random((n, n))


def square(n, rng):
    """Two clouds in the unit square, squared distances over their median."""
    C = cdist(rng.random((n, 2)), rng.random((n, 2)), "sqeuclidean")
    return np.full(n, 1 / n), np.full(n, 1 / n), C / np.median(C)


def digits(side):
    """The first 0 and the first 1 of the test images as densities, and the pixels' places."""
    images, labels = (data.read_idx(data.fetch(name, download=False)) for name in MNIST)
    densities = []
    for digit in (0, 1):
        image = images[labels == digit][0] / 255.0
        if side == 14:
            image = image.reshape(14, 2, 14, 2).mean(axis=(1, 3))
        density = image.ravel() + 0.01
        densities.append(density / density.sum())
    places = np.indices((side, side)).reshape(2, -1).T.astype(float)
    return *densities, places


def warm_up(a, C):
    """Load the compiled code, so that no timing contains it."""
    for density in (None, 0.5):
        sinkhorn_newton_sparse(
            a, a, C, 0.005 * np.ptp(C), n_sinkhorn=1, annealing=None, tol=1e-14, density=density
        )
    sinkhorn(a, a, C, 1.0)


def tail_orders(a, b, C):
    """Return two measures of the order of the last two Newton steps from errors above 1e-13.

    The first is log e_{k+1} / log e_k, which depends on the unit of e; the second, free of it, is
    log(e_{k+1} / e_k) / log(e_k / e_{k-1}): 1 for geometric and 2 for quadratic convergence.
    """
    result = sinkhorn_newton_sparse(a, b, C, 1 / ETA, tol=1e-13, annealing=None)
    errors = result.history[-result.n_newton - 1 :]
    logs = np.log(errors)
    last = np.flatnonzero(errors[:-1] > 1e-13)[-2:]
    falls = np.diff(logs)
    return logs[last + 1] / logs[last], falls[last] / falls[last - 1]


def bound_runs(setup, rng):
    """Compare the plan with the best assignment where the bound on their distance applies."""
    n, over, distances, bounds = setup.bound_points, [], [], []
    a = np.full(n, 1 / n)
    best = np.zeros((n, n))
    for seed in range(setup.bound_runs):
        _, _, C = assignment(n, rng)
        gap = assignment_gap(C)
        best[:] = 0.0
        best[linear_sum_assignment(C)] = 1 / n
        for factor in (1, 2, 4):
            eta = factor * (1 + 2 * math.log(n)) / gap
            plan = sinkhorn_newton_sparse(a, a, C, 1 / eta, tol=1e-14, max_newton=300).plan
            distances.append(float(np.abs(plan - best).sum()))
            bounds.append(plan_sparsity_bound(n, eta, gap))
            over.append(distances[-1] / bounds[-1])
        if seed == 0:
            etas = np.geomspace(3.0, 4 * (1 + 2 * math.log(n)) / gap, 40)
            plans = [sinkhorn_newton_sparse(a, a, C, 1 / eta).plan for eta in etas]
            shares = np.array([(plan > SHARE_ABOVE).mean() for plan in plans])
            limits = np.array(
                [plan_sparsity_bound(n, eta, gap) / (SHARE_ABOVE * n**2) for eta in etas]
            )
    return {
        "bound_points": n,
        "distances": np.array(distances),
        "bounds": np.array(bounds),
        "distance_over_bound": max(over),
        "share_eta": etas,
        "share_measured": shares,
        "share_bound": np.minimum(1.0, 1 / n + limits),
    }


def step_seconds(n, rng):
    """Return the median time of a Newton step that keeps ten entries a row."""
    a, b, C = assignment(n, rng)
    marks: list[float] = []

    def note(state):
        marks.append(time.perf_counter())

    sinkhorn_newton_sparse(
        a, b, C, 1 / ETA, density=10 / n, annealing=None, tol=1e-12, max_newton=8, callback=note
    )
    return float(np.median(np.diff(marks)[-7:]))


def peer_runs(setup, rng):
    """Time POT's stabilised Sinkhorn on an assignment, where it is installed."""
    for library in ("PYTORCH", "JAX", "TENSORFLOW", "CUPY"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")
    try:
        import ot
    except ImportError:
        return {}
    a, b, C = assignment(setup.assignment_points, rng)
    start = time.perf_counter()
    plan = ot.bregman.sinkhorn_stabilized(
        *(a, b, C, 1 / ETA),
        numItermax=setup.sweeps,
        stopThr=setup.tol,
        warn=False,
    )
    seconds = time.perf_counter() - start
    error = np.abs(plan.sum(axis=1) - a).sum() + np.abs(plan.sum(axis=0) - b).sum()
    return {"pot_stabilised_seconds": seconds, "pot_stabilised_error": float(error)}


def draw(results, figure):
    """Draw error against iterations and seconds, and the share of entries that matter."""
    methods = (
        ("sinkhorn", "Sinkhorn", "0.45"),
        ("newton", "Newton, entries ≥ 1e-8 of the largest", "C0"),
        ("thinned", f"Newton, {results['entries_a_row']} entries a row", "C1"),
    )
    by_iteration, by_second, by_eta = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    for method, label, color in methods:
        errors = np.maximum(results[f"trace_{method}_errors"], 1e-16)
        for axes, abscissa in ((by_iteration, "iterations"), (by_second, "times")):
            axes.loglog(
                results[f"trace_{method}_{abscissa}"],
                errors,
                color=color,
                label=label,
                marker="." if method != "sinkhorn" else None,
            )
    by_second.sharey(by_iteration)
    by_second.tick_params(labelleft=False)
    by_iteration.set(xlabel="sweeps + Newton steps", ylabel="L1 error of the marginals")
    by_second.set(xlabel="seconds")
    n = results["assignment_points"]
    by_iteration.set_title(f"random assignment,\nn = {n}, η = {ETA:g}", fontsize=10)
    by_second.set_title("the same runs\nagainst time", fontsize=10)
    eta = results["share_eta"]
    n = results["bound_points"]
    by_eta.semilogx(eta, results["share_bound"], "k--", label="the paper's bound")
    by_eta.semilogx(eta, results["share_measured"], "C0o-", ms=3, label="measured")
    by_eta.axhline(1 / n, color="0.6", lw=1, ls=":", label="1/n: an assignment")
    by_eta.set(xlabel="η = 1/ε", ylabel="share of plan entries above 1e-8", ylim=(0, 1.04))
    by_eta.set_title(f"sparsity of the plan,\nn = {n}", fontsize=10)
    by_eta.legend(loc="center left", bbox_to_anchor=(0.27, 0.72), fontsize=8)
    handles, labels = by_iteration.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=9)


def on_file(path, setup, out, rng, report):
    """Solve the problem of a user's file and write plan and potentials."""
    arrays = read_arrays(path)
    masses: dict[str, Any] = {name: arrays[name] for name in ("a", "b") if name in arrays}
    if "C" in arrays:
        C = arrays["C"]
        if C.ndim != 2 or 0 in C.shape:
            raise ValueError(f"--input: C must be a matrix, got shape {C.shape}")
        a = masses.get("a", np.full(C.shape[0], 1 / C.shape[0]))
        b = masses.get("b", np.full(C.shape[1], 1 / C.shape[1]))
        result = sinkhorn_newton_sparse(a, b, C, setup.epsilon, tol=setup.tol)
    else:
        result = entropic_plan(
            arrays["X"], arrays["Y"], setup.epsilon, cost=setup.cost, tol=setup.tol, **masses
        )
    report(0.9, "writing")
    save_npz(out / "plan.npz", result.sparse_plan)
    np.savez(out / "potentials.npz", f=result.f, g=result.g)
    return {
        "cost": result.cost,
        "marginal_error": result.marginal_error,
        "entries": result.sparse_plan.nnz,
        "iterations": result.nit,
        "success": result.success,
        "message": result.message,
    }


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read C or X and Y, and a, b where they are there."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = set(getattr(file, "files", ()))
            arrays = {name: file[name] for name in names & {"C", "X", "Y", "a", "b"}}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"--input: {path.name} is not an .npz file of plain arrays") from error
    if "C" not in arrays and not {"X", "Y"} <= set(arrays):
        found = ", ".join(sorted(names)) or "none"
        raise ValueError(f"--input: {path.name} must hold C, or X and Y; it has: {found}")
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"--input: {name} must hold real numbers, got {array.dtype}")
    return arrays


STUDY = Study(
    paper="sinkhorn-newton-sparse",
    quick={
        "assignment_points": 250,
        "entries_a_row": 4,
        "image_side": 14,
        "square_points": 250,
        "epsilons": (0.1, 0.01, 0.001),
        "bound_points": 40,
        "bound_runs": 3,
        "step_sizes": (100, 200, 400),
        "tol": 1e-11,
        "sweeps": 5_000,
        "peer": False,
    },
    full={
        "assignment_points": 500,
        "entries_a_row": 2,
        "image_side": 28,
        "square_points": 1000,
        "epsilons": (0.1, 0.01, 0.001),
        "bound_points": 40,
        "bound_runs": 10,
        "step_sizes": (500, 1000, 2000),
        "tol": 1e-11,
        "sweeps": 20_000,
        "peer": True,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "orders of magnitude fewer iterations than Sinkhorn",
            "sweeps (at most 20 000; quick: 5000) over sweeps and Newton steps to the error 1e-11: "
            "assignment, squared distance of digits, points in the square at epsilon 0.001",
            "sweep_ratios",
            at_least(10),
        ),
        Claim(
            "orders of magnitude fewer iterations for l1 costs too, after a longer first stage",
            "the same ratio, l1 distance of digits, 100 sweeps first",
            "w1_sweep_ratios",
            at_least(5),
            data=MNIST,
        ),
        Claim(
            "convergence possibly super-exponential",
            "log e' / log e of the last two Newton steps from errors e above 1e-13, n = 500",
            "tail_orders",
            at_least(1.3),
            preset="full",
        ),
        Claim(
            "convergence possibly super-exponential: order free of the unit of the error",
            "log (e'' / e') / log (e' / e) of the same steps; 1 is geometric, 2 quadratic",
            "step_orders",
            at_least(1.3),
        ),
        Claim(
            "O(n^2) a step",
            "slope of log time against log n, Newton steps with 10 entries a row, n = 500 to 2000",
            "step_slope",
            at_most(2.3),
            preset="full",
        ),
        Claim(
            "the Hessian is approximately sparse",
            "share of plan entries of at least 1e-8 of the largest, points in the square, "
            "epsilon 0.001",
            "kept_share",
            at_most(0.05),
        ),
        Claim(
            "a bound on that sparsity",
            "distance of the plan to the best assignment over the bound, largest of all runs",
            "distance_over_bound",
            at_most(1),
        ),
        Claim(
            "the same optimum as Sinkhorn",
            "largest difference of f + g, all cases that Sinkhorn solves, in units of the cost",
            "potential_difference",
            at_most(1e-7),
        ),
        Claim(
            "POT's stabilised Sinkhorn on the assignment",
            "error it leaves after at most 20 000 sweeps",
            "pot_stabilised_error",
            reported(),
            preset="full",
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects=".npz with C (n, m), or X (n, d) and Y (m, d); a (n) and b (m) are optional",
        options={"epsilon": 0.01, "cost": "sqeuclidean/2", "tol": 1e-9},
    ),
)

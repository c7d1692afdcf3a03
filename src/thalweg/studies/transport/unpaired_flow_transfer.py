"""Simulated diphotons become like recorded ones, and the weight of the constraint finds itself.

A stand-in for the events of an experiment: two photons, eight features, pileup as the condition.
The flow is trained under a limit on a kernel discrepancy by damped multipliers, and compared with
fixed weights of the discrepancy, with the literal conditional flow, with a mapping of quantiles
feature by feature and with events reweighted by boosted trees. All are judged on events of their
own: distances of single features, correlations, a classifier, and the invariant mass, which no
method sees.

The discrepancy is measured on the way, every few steps on the same events, so that the step at
which it is first twice the floor can be compared. The meaning of a multiplier is tried on quadratic
problems whose optimum can be shifted. The quick preset moves four features and keeps the others.

The figure shows mass spectra, and the discrepancy and the weight against the step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg.studies.transport._unpaired_flow_baselines import (
    FEATURES,
    MASS_WINDOW,
    correlation_difference,
    features,
    first_below,
    masses,
    mean_distance,
    multiplier_errors,
    quantile_mapping,
    reweighting,
)
from thalweg.studies.transport._unpaired_flow_file import on_file
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, reported
from thalweg.transport import FlowTransfer, classifier_two_sample, make_diphotons, mmd2

QUICK_FEATURES = (0, 1, 2, 5)
WATCHED_ROWS = 1000
SMALLEST_SHARE = 0.1
"""Final discrepancies below this share of the floor are rounding of a ratio, and count as it."""


def run(setup, rng, report):
    """Fit all methods and judge them on fresh events."""
    moved = list(range(len(FEATURES)) if setup.all_features else QUICK_FEATURES)
    (X, cx), (Y, cy), (fresh, c), (truth, ct) = (
        features(make_diphotons(n, kind, rng))
        for n in (setup.events, setup.judged)
        for kind in ("simulation", "data")
    )
    results: dict[str, Any] = {}
    samples = {"simulation": fresh}
    methods = {"multiplier": {}, **{f"weight_{w:g}": {"mmd_weight": w} for w in setup.weights}}
    if setup.conditional:
        methods["conditional"] = {"mode": "conditional"}
    seed = int(rng.integers(2**31))
    for k, (name, options) in enumerate(methods.items()):
        report(0.9 * k / len(methods), name.replace("_", " "))
        watch = Watch(setup.watch_every, moved, fresh, c, truth, ct)
        model = FlowTransfer(
            n_steps=setup.steps, lr=setup.lr, rng=seed, callback=watch, **options
        ).fit(X[:, moved], Y[:, moved], source_condition=cx, target_condition=cy)
        after = fresh.copy()
        after[:, moved] = model.transform(fresh[:, moved], c, rng=seed)
        samples[name] = after
        results[f"watched_{name}"] = np.array(watch.values)
        results[f"watched_steps_{name}"] = np.array(watch.steps)
        if name == "multiplier":
            results |= {
                "floor": model.mmd_floor_,
                "weight_course": model.history_["mmd_multiplier"],
                "weight_steps": model.history_["step"],
                "final_weight": model.multipliers_["mmd"],
                "displacement": model.constraint_values_["displacement"],
            }
    report(0.9, "other methods")
    mapped = fresh.copy()
    mapped[:, moved] = quantile_mapping(X[:, moved], Y[:, moved], fresh[:, moved])
    samples["quantiles"] = mapped
    conditions = {}
    if setup.reweighting:
        drawn = reweighting(
            np.hstack([X[:, moved], cx]), np.hstack([Y[:, moved], cy]),
            np.hstack([fresh[:, moved], c]), rng,
        )  # fmt: skip
        conditions["reweighting"] = c[drawn]
        samples["reweighting"] = fresh[drawn]
    report(0.93, "judging")
    for name, sample in samples.items():
        rows = np.hstack([sample[:, moved], conditions.get(name, c)])
        results |= judged(name, rows, np.hstack([truth[:, moved], ct]), setup, rng)
        results[f"mass_{name}"] = (
            mean_distance(masses(sample)[:, None], masses(truth)[:, None]) * masses(truth).std()
        )
        results[f"spectrum_{name}"] = spectrum(sample)
    results["spectrum_data"] = spectrum(truth)
    results |= compared(results, setup)
    errors = multiplier_errors(setup.toys, rng)
    return results | {"multiplier_errors": errors, "multiplier_error": errors.max()}


def judged(name, rows, truth, setup, rng):
    """Figures of one method on features and condition, the condition last."""
    found = {
        f"distance_{name}": mean_distance(rows[:, :-1], truth[:, :-1]),
        f"correlation_{name}": correlation_difference(rows, truth),
    }
    if name not in ("quantiles", "reweighting"):
        scale, n = truth.std(0), setup.final_rows
        found[f"mmd_{name}"] = mmd2(rows[:n] / scale, truth[:n] / scale)
    if name != "quantiles" and not name.startswith("weight"):
        n = setup.auc_rows
        found[f"auc_{name}"] = classifier_two_sample(rows[:n], truth[:n], rng=rng)
    return found


def compared(results, setup):
    """Figures of the claims, from those of the methods."""
    names = [f"weight_{w:g}" for w in setup.weights]
    floor = results["floor"]
    steps = {
        name: first_below(results[f"watched_steps_{name}"], results[f"watched_{name}"], 2 * floor)
        for name in ("multiplier", *names)
    }
    never = setup.steps + setup.watch_every
    steps = {name: min(step, never) for name, step in steps.items()}
    fixed = np.array([steps[name] for name in names])
    finals = np.maximum([results[f"mmd_{name}"] for name in names], SMALLEST_SHARE * floor)
    return {
        "distance_ratio": results["distance_multiplier"] / results["distance_simulation"],
        "mass_ratio": results["mass_multiplier"] / results["mass_simulation"],
        "quantile_correlation_excess": (
            results["correlation_quantiles"] - results["correlation_multiplier"]
        ),
        "final_over_target": results["mmd_multiplier"] / floor,
        "fixed_weight_span": finals.max() / finals.min(),
        "steps_multiplier": steps["multiplier"],
        "steps_fixed": fixed,
        "steps_over_best": steps["multiplier"] / fixed.min(),
        "steps_over_worst": steps["multiplier"] / fixed.max(),
    }


class Watch:
    """Measures the discrepancy of the map in training, every few steps, on the same events."""

    def __init__(self, every, moved, fresh, c, truth, ct):
        self.every, self.moved, self.c = every, moved, c[:WATCHED_ROWS]
        self.fresh = fresh[:WATCHED_ROWS, moved]
        self.scale = np.hstack([truth[:, moved], ct]).std(0)
        self.truth = np.hstack([truth[:, moved], ct])[:WATCHED_ROWS] / self.scale
        self.steps: list[int] = []
        self.values: list[float] = []

    def __call__(self, state):
        """Take note of step and discrepancy."""
        if state.step % self.every:
            return
        after = state.estimator.transform(self.fresh, self.c, rng=0)
        self.steps.append(state.step)
        self.values.append(mmd2(np.hstack([after, self.c]) / self.scale, self.truth))


def spectrum(sample):
    """Share of the masses in the window in each bin of 3 GeV."""
    edges = np.arange(MASS_WINDOW[0], MASS_WINDOW[1] + 1, 3)
    counts = np.histogram(masses(sample), edges)[0]
    return counts / counts.sum()


def draw(results, figure):
    """Mass spectra, and discrepancy and weight against the step."""
    left, course = figure.subplots(1, 2)
    centres = np.arange(MASS_WINDOW[0], MASS_WINDOW[1], 3) + 1.5
    data = results["spectrum_data"]
    for name, color, label in (
        ("simulation", "tab:red", "simulation"),
        ("quantiles", "tab:orange", "quantile mapping"),
        ("multiplier", "tab:blue", "flow transfer"),
    ):
        left.plot(centres, results[f"spectrum_{name}"] / data, "-", color=color, label=label)
    left.axhline(1, color="black", lw=1)
    left.set(xlabel="diphoton mass [GeV]", ylabel="share of events over that of data")
    left.legend(fontsize=8)
    names = [key.removeprefix("watched_weight_") for key in results
             if key.startswith("watched_weight_")]  # fmt: skip
    floor = results["floor"]
    shown = [("multiplier", "limit", "tab:blue", 2.0)] + [
        (f"weight_{name}", f"fixed weight {name}", str(0.75 - 0.2 * i), 1.0)
        for i, name in enumerate(names)
    ]
    for name, label, color, width in shown:
        values = np.maximum(results[f"watched_{name}"], floor / 10)
        course.semilogy(results[f"watched_steps_{name}"], values, color=color, lw=width,
                        label=label)  # fmt: skip
    course.axhline(floor, color="black", lw=1, ls=":", label="two halves of data")
    course.set(xlabel="step", ylabel="squared discrepancy (MMD²)")
    course.legend(fontsize=8, loc="upper right")
    weight = course.twinx()
    weight.plot(results["weight_steps"], results["weight_course"], color="tab:green", lw=1)
    weight.set_ylabel("weight found for the limit", color="tab:green")
    weight.grid(False)


TUNING = "multipliers meet the constraint without tuning"
SINGLE = "single observables are reproduced"
CORRELATIONS = "correlations are kept"
LIKE_DATA = "transformed events look like data"
CONVERGENCE = "multipliers improve convergence"
STUDY = Study(
    paper="unpaired-flow-transfer",
    quick={
        "events": 3000,
        "judged": 3000,
        "final_rows": 1000,
        "auc_rows": 1000,
        "steps": 100,
        "lr": 1.5e-2,
        "all_features": False,
        "weights": (0.0,),
        "conditional": False,
        "reweighting": False,
        "watch_every": 30,
        "toys": 2,
    },
    full={
        "events": 100_000,
        "judged": 40_000,
        "final_rows": 4096,
        "auc_rows": 10_000,
        "steps": 1200,
        "lr": 8e-3,
        "all_features": True,
        "weights": (0.0, 1.0, 10.0, 100.0),
        "conditional": True,
        "reweighting": True,
        "watch_every": 20,
        "toys": 10,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            SINGLE,
            "mean Wasserstein distance of a standardised feature, after over before",
            "distance_ratio",
            at_most(0.25),
        ),
        Claim(
            CORRELATIONS,
            "largest difference of correlation matrices of features and condition",
            "correlation_multiplier",
            at_most(0.05),
            preset="full",
        ),
        Claim(
            CORRELATIONS,
            "by how much that of quantile mapping is larger",
            "quantile_correlation_excess",
            at_least(0.0),
        ),
        Claim(
            LIKE_DATA,
            "AUC of boosted trees on features and condition, held out",
            "auc_multiplier",
            at_most(0.56),
            preset="full",
        ),
        Claim(LIKE_DATA, "the same before", "auc_simulation", at_least(0.65)),
        Claim(
            LIKE_DATA, "the same, events reweighted", "auc_reweighting", reported(), preset="full"
        ),
        Claim(
            LIKE_DATA,
            "the same, conditional mode",
            "auc_conditional",
            reported(),
            preset="full",
        ),
        Claim(
            "a derived quantity follows",
            "Wasserstein distance of the diphoton mass in 100-160 GeV, after over before",
            "mass_ratio",
            at_most(0.5),
            preset="full",
        ),
        Claim(
            TUNING,
            "final MMD² over its limit",
            "final_over_target",
            at_most(1.5),
            preset="full",
        ),
        Claim(
            TUNING,
            "largest over smallest final MMD² of the fixed weights",
            "fixed_weight_span",
            at_least(3.0),
            preset="full",
        ),
        Claim(
            "a multiplier is the price of its constraint",
            "quadratics on a sphere: relative error against finite differences of the optimum",
            "multiplier_error",
            at_most(0.05),
        ),
        Claim(
            CONVERGENCE,
            "steps to twice the floor, over those of the best fixed weight",
            "steps_over_best",
            at_most(1.2),
            preset="full",
        ),
        Claim(
            CONVERGENCE,
            "the same over the worst fixed weight",
            "steps_over_worst",
            at_most(0.7),
            preset="full",
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects=".npz with source (n, d) and target (m, d) and, if wanted, columns (d,) names; or "
        "a CSV file with a header and a column `sample` that says source or target; or a CSV file "
        "of the source, with that of the target as --set target=FILE",
        options={"condition": "", "target": "", "steps": 600, "lr": 2e-3},
    ),
)

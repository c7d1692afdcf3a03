"""Jets are unfolded by a small correction to each measured one.

One generator of jets is the simulation, another, heavier one makes the data; both go through the
same detector. The bridge learns from simulated pairs and is applied to the measured data; beside it
are OmniFold's first step (weights from classifiers) and two generative methods that start from
noise, a conditional flow and a conditional diffusion, trained for as many updates. All are judged
by the Wasserstein distance of each of six observables to a large independent sample of the data's
truths, in deviations of the truth.

The same is done with 500 data events, several times; the simulation is unfolded as if it were
data (closure); and for Gaussians whose simulation has a wrong mean, iterations are compared with
one fit. The figure shows the observables.

The jets are a stand-in made for this study (`make_jets`): the published Z+jets sample is not used.
Counts are spread by U(-1/2, 1/2) before learning and rounded afterwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg.studies.transport._sbunfold_baselines import (
    BATCH,
    LEARNING_RATE,
    ConditionalDiffusion,
    ConditionalFlow,
)
from thalweg.studies.transport._sbunfold_events import (
    NFE,
    OPTIONS,
    integer_columns,
    on_file,
    spread,
    whole,
)
from thalweg.study import Claim, FileMethod, Study, at_most, reported
from thalweg.transport import (
    BridgeUnfolder,
    classifier_two_sample,
    gaussian_unfolding,
    make_jets,
    omnifold_step,
    unfolding_report,
)

PUBLISHED_NFE = 999
LITTLE = 500
FOLDS = 3
BINS = 30
LABELS = {
    "mass": "jet mass [GeV]",
    "width": "jet width",
    "multiplicity": "number of constituents",
    "ln rho": r"$\ln\rho$ (groomed)",
    "z_g": r"momentum sharing $z_g$",
    "tau_21": r"$\tau_{21}$",
}
TOY_STEPS, TOY_ITERATIONS, TOY_TRUE_MEAN = 200, 4, 1.0
TOY_OPTIONS: dict[str, Any] = {"n_steps": TOY_STEPS, "hidden": (32, 32), "lr": 1e-2, "ema": 0.98}


def run(setup, rng, report):
    """Unfold many and few jets by all methods, close the simulation, iterate on Gaussians."""
    report(0.0, "jets")
    truth, measured, names = make_jets(setup.jets, "A", rng=rng)
    data_truth, data, _ = make_jets(setup.jets, "B", rng=rng)
    reference, _, _ = make_jets(setup.reference, "B", rng=rng)
    counts = integer_columns(truth, measured)
    spread_truth, spread_measured = (spread(events, counts, rng) for events in (truth, measured))
    spread_data = spread(data, counts, rng)

    def score(events, weights=None):
        found = unfolding_report(reference, events, weights=weights, names=names, n_boot=0)
        return np.array([distance for distance, _ in found.values()])

    results: dict[str, Any] = {
        "names": list(names),
        "distances_measured": score(data),
        "distances_simulation": score(truth),
        "distances_floor": score(data_truth),
    }
    models, draws, seeds = {}, {}, [int(seed) for seed in rng.integers(2**31, size=8)]
    for i, (name, cond) in enumerate((("bridge", True), ("bridge_unconditioned", False))):
        report(0.02 + 0.15 * i, f"bridge, {'with' if cond else 'without'} condition")
        model = BridgeUnfolder(
            cond=cond,
            n_steps=setup.steps,
            batch_size=BATCH,
            lr=LEARNING_RATE,
            nfe=NFE,
            rng=seeds[i],
        )
        model.fit(spread_truth, spread_measured)
        models[name] = model
        unfolded = model.transform(spread_data)
        results[f"displacement_{name}"] = displacement(model, spread_data, unfolded)
        draws[name] = whole(unfolded, counts)
    for i, (name, baseline) in enumerate(
        (
            ("flow", ConditionalFlow(setup.steps, seeds[2])),
            ("diffusion", ConditionalDiffusion(setup.steps, seeds[3], NFE)),
        )
    ):
        report(0.3 + 0.15 * i, f"conditional {name} from noise")
        baseline.fit(spread_truth, spread_measured)
        unfolded, results[f"displacement_{name}"] = baseline.draw(spread_data, seeds[4])
        draws[name] = whole(unfolded, counts)
    for name, unfolded in draws.items():
        results[f"distances_{name}"] = score(unfolded)
    report(0.6, "OmniFold")
    weights = omnifold_step(truth, measured, data, rng=rng)
    results["distances_omnifold"] = score(truth, weights)
    results |= comparisons(results)
    results |= histograms(reference, data, truth, draws["bridge"], weights, names)
    report(0.7, "few data")
    bridge = models["bridge"]
    results |= little_data(bridge, truth, measured, counts, score, setup, rng)
    report(0.85, "closure")
    results["closure_auc"] = closure(bridge, counts, setup, rng)
    if setup.many_calls:
        some = spread_data[: setup.many_calls]
        few, many = (
            score(whole(bridge.transform(some, nfe=nfe), counts)).mean()
            for nfe in (NFE, PUBLISHED_NFE)
        )
        results["few_calls_ratio"] = few / many
    report(0.92, "iterations")
    results |= iterations(setup.toy_events, rng)
    return results


def comparisons(results):
    """Return means over the observables, and their ratios that the claims are about."""
    kinds = [key.removeprefix("distances_") for key in results if key.startswith("distances_")]
    means = {f"mean_{kind}": float(results[f"distances_{kind}"].mean()) for kind in kinds}
    over = {
        f"over_{kind}": means["mean_bridge"] / means[f"mean_{kind}"]
        for kind in ("measured", "omnifold", "flow", "diffusion")
    }
    moved = results["displacement_bridge"] / results["displacement_flow"]
    return (
        means
        | over
        | {
            "unconditioned_over_measured": means["mean_bridge_unconditioned"]
            / means["mean_measured"],
            "displacement_ratio": moved,
        }
    )


def little_data(bridge, truth, measured, counts, score, setup, rng):
    """Unfold several small samples of data with the bridge as it is and with OmniFold."""
    ours, theirs, floor, shares = [], [], [], []
    some, seen = truth[: setup.weighted_jets], measured[: setup.weighted_jets]
    for _ in range(setup.little_draws):
        data_truth, data, _ = make_jets(LITTLE, "B", rng=rng)
        unfolded = bridge.transform(spread(data, counts, rng), rng=int(rng.integers(2**31)))
        ours.append(score(whole(unfolded, counts)).mean())
        weights = omnifold_step(some, seen, data, rng=rng)
        theirs.append(score(some, weights).mean())
        floor.append(score(data_truth).mean())
        shares.append(effective_share(weights))
    return {
        "little_bridge": np.array(ours),
        "little_omnifold": np.array(theirs),
        "little_floor": np.array(floor),
        "little_ratio": np.mean(ours) / np.mean(theirs),
        "little_effective_share": np.mean(shares),
    }


def effective_share(weights):
    """Return the effective sample size of weights over their number."""
    return float(np.sum(weights) ** 2 / np.sum(weights**2) / len(weights))


def closure(bridge, counts, setup, rng):
    """Return how well a classifier tells unfolded jets of the simulation from their truths."""
    truth, measured, _ = make_jets(setup.closure_jets, "A", rng=rng)
    unfolded = bridge.transform(spread(measured, counts, rng), rng=int(rng.integers(2**31)))
    return classifier_two_sample(truth, whole(unfolded, counts), cv=FOLDS, rng=rng)


def displacement(model, measured, unfolded):
    """Return the mean distance from the bridge's start to its end, in deviations of the columns."""
    start = (measured - model.mean1_) / model.scale1_
    end = (unfolded - model.mean0_) / model.scale0_
    return float(np.linalg.norm(end - start, axis=1).mean())


def iterations(n, rng):
    """Gaussians whose simulation has a wrong mean: errors of the mean after 1 and more fits."""
    truth, data_truth = rng.normal(size=(n, 2)), rng.normal(TOY_TRUE_MEAN, 1, size=(n, 2))
    measured, data = (events + rng.normal(size=(n, 2)) for events in (truth, data_truth))
    seed, errors = int(rng.integers(2**31)), []
    for n_iterations in (1, TOY_ITERATIONS):
        model = BridgeUnfolder(n_iterations=n_iterations, rng=seed, **TOY_OPTIONS)
        unfolded = model.fit(truth, measured, data=data).transform(data)
        errors.append(float(np.linalg.norm(unfolded.mean(0) - data_truth.mean(0))))
    exact = exact_errors(TOY_ITERATIONS)
    return {
        "prior_errors": np.array(errors),
        "prior_errors_exact": exact[[0, -1]],
        "prior_ratio": errors[1] / errors[0],
    }


def exact_errors(n_iterations):
    """Return the errors of the mean after each iteration of the Gaussians, in closed form."""
    eye, errors = np.eye(2), []
    mean, cov = np.zeros(2), eye
    target = np.full(2, TOY_TRUE_MEAN)
    for _ in range(n_iterations):
        mean, cov = gaussian_unfolding(mean, cov, eye, np.zeros(2), target, 2 * eye)
        errors.append(np.linalg.norm(mean - target))
    return np.array(errors)


def histograms(reference, data, truth, unfolded, weights, names):
    """Return edges and shares per bin of each observable, for the figure."""
    found: dict[str, Any] = {"shown_events": len(unfolded)}
    for j, name in enumerate(names):
        low, high = np.quantile(reference[:, j], [0.002, 0.998])
        if name == "multiplicity":
            edges = np.arange(np.floor(low) - 0.5, high + 1, 2.0)
        else:
            edges = np.linspace(low, high, BINS + 1)
        columns = {
            "truth": (reference[:, j], None),
            "measured": (data[:, j], None),
            "simulation": (truth[:, j], None),
            "bridge": (unfolded[:, j], None),
            "omnifold": (truth[:, j], weights),
        }
        found[f"edges_{j}"] = edges
        for kind, (values, mass) in columns.items():
            total = len(values) if mass is None else mass.sum()
            found[f"shares_{kind}_{j}"] = np.histogram(values, edges, weights=mass)[0] / total
    return found


STYLES: dict[str, tuple[str, dict[str, Any]]] = {
    "measured": ("measured data", {"color": "0.45", "ls": ":", "lw": 1.5}),
    "simulation": ("truth of the simulation", {"color": "tab:green", "ls": "--", "lw": 1.2}),
    "omnifold": ("OmniFold, first step", {"color": "tab:orange", "lw": 1.4}),
    "bridge": ("unfolded by the bridge", {"color": "tab:blue", "lw": 1.6}),
}


def draw(results, figure):
    """The six observables, and beneath each the ratio to the truth of the data."""
    grid = figure.add_gridspec(4, 3, height_ratios=[2, 1, 2, 1])
    for j, name in enumerate(results["names"]):
        row, column = 2 * (j // 3), j % 3
        ax = figure.add_subplot(grid[row, column])
        below = figure.add_subplot(grid[row + 1, column], sharex=ax)
        edges, truth = results[f"edges_{j}"], results[f"shares_truth_{j}"]
        ax.stairs(truth, edges, fill=True, color="0.85", label="truth of the data (below: noise)")
        expected = np.maximum(truth * results["shown_events"], 1e-9)
        noise = np.minimum(expected**-0.5, 10)
        below.stairs(1 + noise, edges, baseline=1 - noise, fill=True, color="0.85")
        for kind, (label, style) in STYLES.items():
            shares = results[f"shares_{kind}_{j}"]
            ax.stairs(shares, edges, label=label, **style)
            ratio = np.divide(shares, truth, out=np.full(len(truth), np.nan), where=truth > 0)
            below.stairs(ratio, edges, baseline=None, **style)
        ax.set_ylim(bottom=0)
        ax.tick_params(labelbottom=False)
        below.set(ylim=(0.5, 1.5), xlabel=LABELS[name])
        if column == 0:
            ax.set_ylabel("share per bin")
            below.set_ylabel("over truth")
        if j == 0:
            handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=9)


UNFOLDS = "maps measured events to true ones by a small correction"
GENERATIVE = "better than generative methods that start from noise"
STUDY = Study(
    paper="sbunfold",
    quick={
        "jets": 4000,
        "reference": 30_000,
        "steps": 400,
        "little_draws": 1,
        "weighted_jets": 4000,
        "closure_jets": 2000,
        "many_calls": 0,
        "toy_events": 2000,
    },
    full={
        "jets": 100_000,
        "reference": 200_000,
        "steps": 8000,
        "little_draws": 10,
        "weighted_jets": 20_000,
        "closure_jets": 20_000,
        "many_calls": 20_000,
        "toy_events": 20_000,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "unfolds: distributions come close to the truth",
            "Wasserstein distance to the truth in its deviations, mean over six observables, "
            "unfolded over measured",
            "over_measured",
            at_most(0.4),
        ),
        Claim(
            "unfolds: distributions come close to the truth",
            "the same without the measured event as condition",
            "unconditioned_over_measured",
            reported(),
        ),
        Claim(
            "as good as the discriminative method",
            "the same mean over that of OmniFold's first step, many data",
            "over_omnifold",
            at_most(1.3),
        ),
        Claim(
            GENERATIVE,
            "the same mean over that of a conditional flow, equal updates",
            "over_flow",
            at_most(1.2),
            preset="full",
        ),
        Claim(
            GENERATIVE,
            "the same mean over that of a conditional diffusion, equal updates and calls",
            "over_diffusion",
            at_most(1.2),
        ),
        Claim(
            "robust with little data",
            f"the same mean over OmniFold's with {LITTLE} data events, averaged over draws",
            "little_ratio",
            at_most(1.3),
            preset="full",
        ),
        Claim(
            "robust with little data",
            "effective share of OmniFold's weighted events there",
            "little_effective_share",
            reported(),
        ),
        Claim(
            "closure: the simulation unfolded looks like itself",
            "area under the ROC curve of a classifier, truth against unfolded",
            "closure_auc",
            at_most(0.59),
        ),
        Claim(
            "only a small correction has to be learned",
            "mean displacement from measured to unfolded over that of the flow from noise",
            "displacement_ratio",
            at_most(0.6),
        ),
        Claim(
            "iterations remove the simulation's prior",
            f"Gaussians with a biased prior: error of the mean after {TOY_ITERATIONS} "
            "iterations over that after one",
            "prior_ratio",
            at_most(0.6),
        ),
        Claim(
            "few network calls are enough",
            f"mean distance at {NFE} calls over that at {PUBLISHED_NFE}",
            "few_calls_ratio",
            at_most(1.2),
            preset="full",
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects=".npz with truth (n, d), measured (n, d), data (m, d); data_truth is optional",
        options=OPTIONS,
    ),
)

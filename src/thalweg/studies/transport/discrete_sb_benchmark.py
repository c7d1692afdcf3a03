"""Pairs of laws on token sequences with known bridges rank the solvers of this domain.

First a pair on 20 x 20 states, small enough to list: its plan in closed form is set beside the one
that Sinkhorn's method finds from the two laws alone. Then, in 2 and 16 tokens (64 in the full
preset), four kernels on 50 categories: `DLightSB`, `DLightSBM`, `CategoricalBridgeMatching` and
`OnlineCategoricalBridgeMatching` are fitted to samples of each pair and scored by what they draw
given the same source, between the truth drawn a second time (the ceiling) and two models that have
learned nothing of the pair's coupling: independent draws of the target, and the reference process
alone. Networks get short runs, and two of the kernels. The two bridge matching methods have equal
numbers of network updates: a step of the online method counts twice, since it changes both
networks. The quick preset is one small pair.

Scores are 1 less the total variation of one token (shape) or of pairs of tokens (trend), averaged
over sources; gaps of the loss are divergences from the true plan, in nats.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from thalweg.studies.transport.csbm import KERNELS, read_tokens
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, equals, reported
from thalweg.transport import (
    CategoricalBenchmark,
    CategoricalBridgeMatching,
    CategoricalReference,
    DLightSB,
    DLightSBM,
    OnlineCategoricalBridgeMatching,
    categorical_bridge,
    product_reference,
    shape_score,
    trend_score,
)

EXACT: dict[str, Any] = {
    "n_categories": 20,
    "kernel": "gaussian",
    "alpha": 0.08,
    "n_inner": 3,
    "total_steps": 16,
}
SOLVERS = ("DLightSB", "DLightSB-M", "CSBM", "alpha-CSBM")
BASELINES = ("independent", "reference only")
MODELS = (*SOLVERS, *BASELINES)
SAMPLES = 20_000
SMALL_COMPONENTS = 20
MATCHING_RATE = 0.1
HARD = 64
METRICS = ("conditional_shape", "conditional_trend", "kl_gap")


class Independent:
    """Draws the target without looking at the source."""

    def __init__(self, Y):
        self.Y = Y

    def transform(self, X, rng=None):
        """Return one draw for each row."""
        return self.Y[np.random.default_rng(rng).integers(len(self.Y), size=len(X))]


class ReferenceOnly:
    """Lets the reference process run from the source."""

    def __init__(self, reference):
        self.reference = reference

    def transform(self, X, rng=None):
        """Return where the process ends."""
        return self.reference.sample(X, rng)[-1]


def run(setup, rng, report):
    """Compare with Sinkhorn's plan, then fit and score every solver in every setting."""
    report(0.0, "exact pair")
    results: dict[str, Any] = {"exact_difference": exact_difference(int(rng.integers(2**31)))}
    settings = [(dim, name, alpha) for dim in setup.dims for name, alpha in kernels(setup)]
    if setup.hard:
        settings.append((HARD, *kernels(setup)[0]))
    for i, setting in enumerate(settings):
        tell = partial(_portion, report, i / len(settings), (i + 1) / len(settings))
        results |= score_setting(*setting, setup, rng, tell)
    return results | findings(results, settings, setup)


def kernels(setup):
    """Names and strengths of the kernels, read from ``name:alpha``."""
    return [(name, float(alpha)) for name, alpha in (text.split(":") for text in setup.kernels)]


def tag(dim, name, alpha):
    """Key of a setting in the results."""
    return f"{dim}_{name}_{alpha:g}"


def exact_difference(seed):
    """Largest difference between the plan in closed form and Sinkhorn's, on all sequences."""
    benchmark = CategoricalBenchmark(2, **EXACT, rng=seed)
    S = benchmark.n_categories
    states = np.indices((S, S)).reshape(2, -1).T
    p0 = np.outer(benchmark.source_probs(), benchmark.source_probs()).ravel()
    product = product_reference(benchmark.reference, 2)
    exponent = benchmark.log_potential(states) - benchmark.log_normalizer(states)[:, None]
    plan = p0[:, None] * product.transition * np.exp(exponent)
    return float(np.abs(plan - categorical_bridge(p0, plan.sum(0), product)).max())


def score_setting(dim, name, alpha, setup, rng, tell):
    """Fit and score all models on one benchmark pair."""
    benchmark = CategoricalBenchmark(
        dim,
        setup.categories,
        kernel=name,
        alpha=alpha,
        n_inner=setup.inner,
        total_steps=setup.total,
        rng=int(rng.integers(2**31)),
    )
    X, Y = (draw(SAMPLES, rng) for draw in (benchmark.sample_source, benchmark.sample_target))
    seed = int(rng.integers(2**31))
    measure = partial(
        benchmark.evaluate,
        n_conditional=setup.sources,
        draws=setup.draws,
        metrics=METRICS,
        rng=seed,
    )
    found = {"truth": measure(benchmark)}
    seconds = {}
    for share, (label, model) in enumerate(models(benchmark, Y, name, alpha, setup, seed).items()):
        tell(share / len(MODELS), f"D = {dim}, {name} {alpha:g}: {label}")
        start = time.perf_counter()
        if hasattr(model, "fit"):
            model.fit(X, Y)
        seconds[label] = time.perf_counter() - start
        found[label] = measure(model)
    key = tag(dim, name, alpha)
    results: dict[str, Any] = {
        f"seconds_{key}": np.array([seconds.get(label, np.nan) for label in MODELS])
    }
    for metric in METRICS:
        values = [found.get(label, {}).get(metric, np.nan) for label in MODELS]
        results[f"{metric}_{key}"] = np.array(values)
        results[f"{metric}_{key}_truth"] = found["truth"][metric]
    if "small" in found:
        results[f"small_gap_{key}"] = gap(found["truth"], found["small"])
    return results


def gap(truth, model):
    """How far the conditional shape score is below the ceiling."""
    return truth["conditional_shape"] - model["conditional_shape"]


def models(benchmark, Y, name, alpha, setup, seed):
    """The models to fit in a setting, by label; "small" has few components."""
    reference, dim = benchmark.reference, benchmark.dim
    components = SMALL_COMPONENTS if dim == HARD else setup.components
    shared: dict[str, Any] = {"reference": reference, "rng": seed}
    chosen: dict[str, Any] = {
        "independent": Independent(Y),
        "reference only": ReferenceOnly(reference),
        "DLightSB": DLightSB(n_components=components, n_steps=setup.steps, **shared),
        "DLightSB-M": DLightSBM(
            n_components=components,
            n_steps=setup.matching_steps,
            learning_rate=MATCHING_RATE,
            **shared,
        ),
    }
    if setup.hard and dim == 2 and (name, alpha) == kernels(setup)[0]:
        chosen["small"] = DLightSB(n_components=SMALL_COMPONENTS, n_steps=setup.steps, **shared)
    if f"{name}:{alpha:g}" in setup.network_kernels and dim <= setup.network_tokens:
        updates = (2 * setup.iterations - 1) * setup.projection_steps
        network = {
            "hidden": (setup.width,) * 2,
            "lr": setup.lr,
            "betas": (0.9, 0.99),
            "ema": 0.98,
            **shared,
        }
        chosen["CSBM"] = CategoricalBridgeMatching(
            n_iter=setup.iterations,
            steps_per_projection=setup.projection_steps,
            batch_size=setup.batch,
            callback=partial(_end_forward, setup.iterations),
            **network,
        )
        chosen["alpha-CSBM"] = OnlineCategoricalBridgeMatching(
            n_steps=updates // 2,
            warmup_steps=updates // 6,
            batch_size=2 * setup.batch,
            **network,
        )
    return chosen


def _end_forward(iterations, state):
    """End a fit where only a backward projection is left, which the scores do not look at."""
    if state.iteration == iterations and state.direction == "backward":
        raise StopIteration


def findings(results, settings, setup):
    """What the claims ask of the scores."""
    keys = {setting: tag(*setting) for setting in settings}
    shapes = {
        s: dict(zip(MODELS, results[f"conditional_shape_{keys[s]}"], strict=True)) for s in keys
    }
    ceilings = {s: results[f"conditional_shape_{keys[s]}_truth"] for s in keys}
    ranked, margins = [], []
    for s in settings:
        if s[0] == HARD:
            continue
        fitted = [shapes[s][label] for label in SOLVERS if np.isfinite(shapes[s][label])]
        floor = max(shapes[s][label] for label in BASELINES)
        margins.append([ceilings[s] - max(fitted), min(fitted) - floor])
        ranked.append(float(min(margins[-1]) > 0))
    found = {
        "ranked": np.array(ranked),
        "rank_margins": np.array(margins),
        "matching_gap": max(
            results[f"kl_gap_{keys[s]}"][MODELS.index("DLightSB-M")] for s in keys if s[0] == 2
        ),
        "light_gap": max(
            results[f"kl_gap_{keys[s]}"][MODELS.index("DLightSB")] for s in keys if s[0] == 2
        ),
    }
    online = [shapes[s]["alpha-CSBM"] - shapes[s]["CSBM"] for s in keys if s[0] == 2]
    found["online_difference"] = np.array([d for d in online if np.isfinite(d)])
    if 16 in setup.dims:
        found["below_ceiling_16"] = np.array(
            [ceilings[s] - shapes[s]["DLightSB"] for s in keys if s[0] == 16]
        )
    if setup.hard:
        low, high = ((dim, *kernels(setup)[0]) for dim in (2, HARD))
        hard_gap = ceilings[high] - shapes[high]["DLightSB"]
        found["hardness"] = hard_gap - results[f"small_gap_{keys[low]}"]
        others = [
            (ceilings[high] - shapes[high][label]) - (ceilings[low] - shapes[low][label])
            for label in SOLVERS
        ]
        found["hardness_of_all"] = np.array([d for d in others if np.isfinite(d)])
    return found


def _portion(report, start, stop, share, message):
    report(start + (stop - start) * share, message)


COLORS = ("tab:blue", "tab:cyan", "tab:orange", "tab:red", "0.55", "0.8")


def draw(results, figure):
    """Bars of the conditional scores, one group a setting, and the ceiling above each group."""
    prefix = "conditional_shape_"
    tags = [
        k.removeprefix(prefix) for k in results if k.startswith(prefix) and not k.endswith("_truth")
    ]
    dims = sorted({int(t.split("_")[0]) for t in tags})
    by_dim = {dim: [t for t in tags if int(t.split("_")[0]) == dim] for dim in dims}
    rows = (("conditional_shape", "shape score"), ("conditional_trend", "trend score"))
    if len(dims) == 1:
        panels = figure.subplots(1, 2, sharey=True)[:, None]
    else:
        widths = [0.6 + len(by_dim[dim]) for dim in dims]
        panels = figure.subplots(2, len(dims), sharey=True, squeeze=False, width_ratios=widths)
    for row, (metric, label) in enumerate(rows):
        for column, dim in enumerate(dims):
            ax = panels[row, column]
            draw_bars(ax, results, metric, by_dim[dim])
            ax.set_title(f"{label}, {dim} tokens", fontsize=10)
            if column == 0:
                ax.set_ylabel(f"conditional {label}\n(1 = same law)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)


def draw_bars(ax, results, metric, tags):
    """One panel: a group of bars a setting."""
    width = 0.8 / len(MODELS)
    for place, label in enumerate(MODELS):
        heights = [results[f"{metric}_{t}"][place] for t in tags]
        x = np.arange(len(tags)) + (place - (len(MODELS) - 1) / 2) * width
        ax.bar(x, np.nan_to_num(heights), width, color=COLORS[place], label=label)
    for group, t in enumerate(tags):
        ceiling = results[f"{metric}_{t}_truth"]
        ax.plot(
            [group - 0.42, group + 0.42],
            [ceiling] * 2,
            color="black",
            lw=1.5,
            label="truth drawn again (ceiling)" if group == 0 else None,
        )
    names = [t.split("_")[1:] for t in tags]
    ax.set_xticks(range(len(tags)), [f"{name}\n{alpha}" for name, alpha in names], fontsize=8)
    ax.set(xlabel="kernel and alpha", ylim=(0, 1), xlim=(-0.55, len(tags) - 0.45))
    ax.grid(axis="x", visible=False)


def on_file(path, setup, out, rng, report):
    """Fit DLightSB to the two tables of a user's file and translate the source."""
    arrays = read_tokens(path)
    source, target, S = arrays["source"], arrays["target"], int(arrays["n_categories"])
    kernel = arrays.get("kernel")
    if kernel is None:
        kernel = KERNELS[setup.kernel](S, setup.alpha)

    def progress(state):
        report(0.9 * state.step / state.n_steps, f"loss {state.loss:.4g}")

    model = DLightSB(
        CategoricalReference(kernel, setup.inner),
        min(setup.components, len(target)),
        n_steps=setup.steps,
        callback=progress,
        rng=rng,
    ).fit(source, target)
    report(0.9, "translating")
    translated = model.transform(source)
    np.savez(out / "translated.npz", translated=translated)
    return {
        "loss_at_start": float(model.loss_curve_[0]),
        "loss_at_end": float(model.loss_curve_[-100:].mean()),
        "unchanged_share": float((translated == source).mean()),
        "shape_score_translated_to_target": shape_score(translated, target, S),
        "trend_score_translated_to_target": trend_score(translated, target, S),
        "shape_score_source_to_target": shape_score(source, target, S),
        "trend_score_source_to_target": trend_score(source, target, S),
    }


RANKS = "the benchmark ranks solvers"
HARDER = "high dimension is hard"
STUDY = Study(
    paper="discrete-sb-benchmark",
    quick={
        "dims": (2,),
        "kernels": ("gaussian:0.08",),
        "network_kernels": ("gaussian:0.08",),
        "network_tokens": 2,
        "hard": False,
        "categories": 20,
        "inner": 3,
        "total": 16,
        "components": 20,
        "steps": 400,
        "matching_steps": 300,
        "iterations": 2,
        "projection_steps": 40,
        "batch": 128,
        "width": 64,
        "lr": 1e-2,
        "sources": 100,
        "draws": 100,
    },
    full={
        "dims": (2, 16),
        "kernels": ("gaussian:0.02", "gaussian:0.05", "uniform:0.005", "uniform:0.01"),
        "network_kernels": ("gaussian:0.02", "uniform:0.01"),
        "network_tokens": 16,
        "hard": True,
        "categories": 50,
        "inner": 15,
        "total": 128,
        "components": 50,
        "steps": 1500,
        "matching_steps": 1000,
        "iterations": 2,
        "projection_steps": 100,
        "batch": 128,
        "width": 128,
        "lr": 5e-3,
        "sources": 100,
        "draws": 200,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "pairs have a known Schrödinger bridge",
            "largest difference between the plan in closed form and Sinkhorn's, 2 tokens of 20",
            "exact_difference",
            at_most(1e-9),
        ),
        Claim(
            RANKS,
            "conditional shape: truth > every solver > independent and reference only, by setting",
            "ranked",
            equals(1),
        ),
        Claim(
            "DLightSB is good in moderate dimension",
            "conditional shape below the ceiling, 16 tokens, by kernel",
            "below_ceiling_16",
            at_most(0.03),
            preset="full",
        ),
        Claim(
            "DLightSB-M solves the same problem",
            "largest divergence from the true plan, 2 tokens",
            "matching_gap",
            at_most(0.3),
            unit="nats",
        ),
        Claim(
            "DLightSB-M solves the same problem",
            "the same of DLightSB",
            "light_gap",
            reported(),
            unit="nats",
        ),
        Claim(
            "alpha-CSBM needs one stage and is as good as CSBM at equal network updates",
            "conditional shape less that of CSBM, 2 tokens",
            "online_difference",
            at_least(-0.05),
        ),
        Claim(
            HARDER,
            "DLightSB with 20 components: gap of the conditional shape to the ceiling at 64 tokens "
            "less that at 2",
            "hardness",
            at_least(0),
            preset="full",
        ),
        Claim(
            HARDER,
            "the same of each solver fitted at 64 tokens",
            "hardness_of_all",
            reported(),
            preset="full",
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects=(
            ".npz with integers source (n, D), target (m, D) and n_categories; "
            "kernel (S, S) is optional"
        ),
        options={
            "kernel": "uniform",
            "alpha": 0.05,
            "inner": 10,
            "components": 50,
            "steps": 1500,
        },
    ),
)

"""Variants of the bridge on pairs in the plane, from scratch and from a given model."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from thalweg.studies.transport._simplified_dsb_clouds import checkerboard, normal, pinwheel, roll
from thalweg.transport import (
    BridgeMatching,
    DiffusionSchrodingerBridge,
    StochasticInterpolant,
    energy_distance,
)

PLANES = {"board": (checkerboard, pinwheel), "roll": (normal, roll)}
PLANE_EPSILON = 0.5
VARIANTS: dict[str, dict[str, Any]] = {
    "transition": {"parametrization": "transition"},
    "original": {"parametrization": "transition", "loss": "original"},
    "terminal": {"parametrization": "terminal"},
    "flow": {"parametrization": "flow"},
}
STARTED = ("transition", "flow")


def planes(setup, rng, tell):
    """Distances of all variants against updates, from scratch and from a given model."""
    results: dict[str, Any] = {"updates": setup.plane_steps * np.arange(2, 2 * setup.epochs + 1, 2)}
    for i, (pair, (draw_x, draw_y)) in enumerate(PLANES.items()):
        X, Y = draw_x(setup.points, rng), draw_y(setup.points, rng)
        x, y = draw_x(setup.judged, rng), draw_y(setup.judged, rng)
        share = partial(_inside, tell, i / len(PLANES), 1 / len(PLANES))
        for j, (name, options) in enumerate(VARIANTS.items()):
            share(j / 8, f"{pair}: {name}")
            model = plane_model(setup, None, options)
            distances, cost = judged(model, X, Y, x, y)
            results[f"{pair}_{name}"], results[f"{pair}_{name}_cost"] = distances, cost
        share(0.5, f"{pair}: given model")
        given, own = given_model(pair, setup, X, Y, x)
        results[f"{pair}_given"] = energy_distance(own, y)
        results[f"{pair}_given_cost"] = ((own - x) ** 2).sum(1).mean()
        for j, name in enumerate(STARTED):
            share((5 + 1.5 * j) / 8, f"{pair}: {name} from the given model")
            model = plane_model(setup, given, VARIANTS[name])
            distances, cost = judged(model, X, Y, x, y)
            results[f"{pair}_{name}_started"] = distances
            results[f"{pair}_{name}_started_cost"] = cost
    return results | compared(results, setup)


def plane_model(setup, init, options):
    """Return the estimator of the planes."""
    return DiffusionSchrodingerBridge(
        PLANE_EPSILON,
        n_epochs=setup.epochs,
        n_steps=setup.plane_steps,
        lr=setup.lr,
        init=init,
        rng=0,
        **options,
    )


def given_model(pair, setup, X, Y, x):
    """Train the model of a pair for as many updates as an epoch; return it and what it makes."""
    options: dict[str, Any] = {"hidden": (64, 64), "lr": setup.lr, "ema": 0.99, "rng": 0}
    if pair == "board":
        model = BridgeMatching(PLANE_EPSILON, n_steps=setup.plane_steps, **options).fit(X, Y)
        return model, model.transform(x, rng=1)
    model = StochasticInterpolant(
        "one-sided-linear", learn=("b",), n_steps=2 * setup.plane_steps, **options
    ).fit(X, Y)
    return model, model.transform(x, epsilon=PLANE_EPSILON / 2, rng=1)


def judged(model, X, Y, x, y):
    """Fit; return the distances of the forward ends after each epoch, and the last cost."""
    model.fit(X, Y)
    ends = model.transform(x, rng=1)
    distances = [h["energy_distance_end"] for h in model.history_ if h["direction"] == "forward"]
    distances[-1] = energy_distance(ends, y)
    return np.array(distances), float(((ends - x) ** 2).sum(1).mean())


def compared(results, setup):
    """Return the figures of the claims from the distances."""

    def last(name):
        return sum(results[f"{pair}_{name}"][-1] for pair in PLANES)

    own, epoch = sum(results[f"{pair}_given"] for pair in PLANES), 2 * setup.plane_steps
    first, spent, improved = [], [], []
    cheaper: list[float] = []
    for name in STARTED:
        curves = {
            start: sum(results[f"{pair}_{name}{start}"] for pair in PLANES)
            for start in ("", "_started")
        }
        limit = 2 * curves[""][-1]
        scratch = epoch * (1 + int(np.argmax(curves[""] <= limit)))
        # the given model stands for the first backward half, after its own updates
        reached = np.flatnonzero(curves["_started"] <= limit)
        halves = 2 * reached[0] + 1 if len(reached) else np.inf
        spent.append((epoch + setup.plane_steps * halves) / scratch)
        first.append(curves["_started"][0] / curves[""][0])
        improved.append(own / last(f"{name}_started"))
        cheaper.extend(
            results[f"{pair}_{name}_started_cost"] / results[f"{pair}_given_cost"]
            for pair in PLANES
        )
    return {
        "original_ratio": last("transition") / last("original"),
        "updates_ratio": np.array(spent),
        "first_ratio": np.array(first),
        "improvement": np.array(improved),
        "cost_ratio": np.array(cheaper),
        "reparametrised_ratio": min(last("terminal"), last("flow")) / last("transition"),
    }


def _inside(tell, start, width, share, message):
    tell(start + width * share, message)

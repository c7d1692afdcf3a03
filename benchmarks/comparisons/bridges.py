"""Run every solver of the transport domain on one pair of samples, and keep what each one gives.

    python benchmarks/comparisons/bridges.py [NAME ...]        all solvers, or those named

The pair's entropic plan is known, so each solver's law of the end and its coupling are judged
against the truth by the same metrics. Results go to bridges.json beside this file, of which the
table of the documentation's page "Which bridge?" is made.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from thalweg import transport
from thalweg.study.environment import describe_environment

Floats = NDArray[np.float64]
Draw = Callable[[Floats, np.random.Generator], Floats]
"""One end point for each source point."""

RESULTS = Path(__file__).with_suffix(".json")
EPSILON, DIM, N_TRAIN = 1.0, 2, 5000
NETWORK: dict[str, Any] = {"hidden": (128, 128, 128), "n_steps": 1500}
N_JUDGED, N_REPEATS = 400, 200
GRID = np.linspace(-9.0, 9.0, 46)
"""Centres of the bins that turn the pair into tokens, for the solvers of discrete data."""


@dataclass(frozen=True)
class Solver:
    """A way to join two samples: what it is, and how it is trained."""

    name: str
    paper: str
    data: str
    training: str
    learns: str
    coupling: str
    calls: str
    fit: Callable[[Floats, Floats, transport.GaussianMixturePair], Draw]


def entropic(X, Y, pair):
    X, Y = X[:2000], Y[:2000]
    potential = transport.entropic_plan(X, Y, EPSILON).g

    def draw(x, rng):
        logits = (x @ Y.T - 0.5 * (Y**2).sum(1) + potential) / EPSILON
        return Y[np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)]

    return draw


def estimator(make: Callable[[], Any], **options: Any):
    """A solver with fit(X, Y) and transform(X, rng=...)."""

    def fit(X, Y, pair):
        model = make().fit(X, Y)
        return lambda x, rng: model.transform(x, rng=int(rng.integers(2**31)), **options)

    return fit


def flow(make: Callable[[], Any]):
    """A solver whose transform is deterministic."""

    def fit(X, Y, pair):
        model = make().fit(X, Y)
        return lambda x, rng: model.transform(x)

    return fit


def tokens(make: Callable[[Any], Any]):
    """A solver of token sequences: one token a coordinate, the reference's variance EPSILON."""
    steps = 4
    kernel = gaussian_steps(steps)

    def fit(X, Y, pair):
        model = make(transport.CategoricalReference(kernel, n_inner=steps - 1))
        model.fit(binned(X), binned(Y))
        return lambda x, rng: GRID[model.transform(binned(x), rng=int(rng.integers(2**31)))]

    return fit


def gaussian_steps(steps: int) -> Floats:
    """The kernel of one of `steps` steps of Brownian motion between the bins."""
    kernel = np.exp(-((GRID[:, None] - GRID) ** 2) * steps / (2 * EPSILON))
    return kernel / kernel.sum(1, keepdims=True)


def binned(X: Floats) -> NDArray[np.int64]:
    return np.abs(X[..., None] - GRID).argmin(-1)


def from_noise(X, Y, pair):
    model = transport.GaussianPathFlow(rng=0).fit(Y)

    def draw(x, rng):
        return model.sample(len(x), rng=int(rng.integers(2**31)))

    return draw


def refinement(X, Y, pair):
    model = transport.ReferenceRefinement(
        transport.ZeroDrift(), np.sqrt(EPSILON), n_refine=1, rng=0
    ).fit([X, Y], [0.0, 1.0])

    def draw(x, rng):
        return transport.sdeint(
            lambda t, z: model.drift(min(t, 0.999), z), x, np.sqrt(EPSILON), n_steps=100, rng=rng
        )

    return draw


def unfolding(X, Y, pair):
    ends = pair.sample_plan(X, rng=5)
    model = transport.BridgeUnfolder(beta_max=EPSILON, **NETWORK, rng=0).fit(ends, X)
    return lambda x, rng: model.transform(x, rng=int(rng.integers(2**31)))


SOLVERS = [
    Solver("entropic_plan (Newton)", "sinkhorn-newton-sparse", "weights and costs",
           "no simulation", "potentials", "yes", "none", entropic),
    Solver("LightSB", "light-sb", "continuous", "no simulation", "mixture potential", "yes",
           "none", estimator(lambda: transport.LightSB(EPSILON, rng=0))),
    Solver("BridgeMatching", "stochastic-interpolants", "continuous",
           "first round none, then simulated pairs", "drift network", "yes", "100",
           estimator(lambda: transport.BridgeMatching(EPSILON, n_iter=3, rng=0))),
    Solver("AdversarialBridge", "adversarial-sbm", "continuous", "simulated in 4 steps",
           "generator of the end", "yes", "4",
           estimator(lambda: transport.AdversarialBridge(EPSILON, rng=0))),
    Solver("DiffusionSchrodingerBridge", "simplified-dsb", "continuous", "simulated chains",
           "forward and backward networks", "yes", "20",
           estimator(lambda: transport.DiffusionSchrodingerBridge(EPSILON, **NETWORK, rng=0))),
    Solver("ReferenceRefinement", "iterative-reference-refinement", "continuous, snapshots",
           "simulated paths", "drift and reference", "yes", "100", refinement),
    Solver("BridgeUnfolder", "sbunfold", "continuous, pairs", "no simulation", "drift network",
           "of the pairs", "50", unfolding),
    Solver("StochasticInterpolant", "stochastic-interpolants", "continuous", "no simulation",
           "velocity and score", "no", "100",
           flow(lambda: transport.StochasticInterpolant(rng=0))),
    Solver("RectifiedFlow", "c-rectified-flow", "continuous", "first round none, then pairs",
           "velocity of a potential", "transport of least cost", "50",
           flow(lambda: transport.RectifiedFlow("sqeuclidean", n_iter=2, **NETWORK, rng=0))),
    Solver("FlowTransfer", "unpaired-flow-transfer", "continuous, conditions", "no simulation",
           "two densities", "no", "2 inversions",
           flow(lambda: transport.FlowTransfer(rng=0))),
    Solver("WassersteinGradientFlow", "variational-wasserstein-flow", "continuous or a density",
           "particles", "20 maps", "no", "20",
           flow(lambda: transport.WassersteinGradientFlow(
               "kl_samples", step_size=0.5, n_jko=20, n_steps=150, rng=0))),
    Solver("GaussianPathFlow", "kinetic-optimal-paths", "continuous, from noise", "no simulation",
           "velocity network", "no", "100", from_noise),
    Solver("CategoricalBridgeMatching", "csbm", "tokens", "first round none, then simulated",
           "network of the end", "yes", "4",
           tokens(lambda reference: transport.CategoricalBridgeMatching(reference, rng=0))),
    Solver("DLightSB", "discrete-sb-benchmark", "tokens", "no simulation", "low-rank potential",
           "yes", "none", tokens(lambda reference: transport.DLightSB(reference, rng=0))),
]  # fmt: skip


def judge(solver: Solver) -> dict[str, Any]:
    """Fit one solver and measure its end law and, where it claims one, its coupling."""
    pair = transport.gaussian_mixture_pair(DIM, EPSILON, rng=0)
    X, Y = pair.sample_source(N_TRAIN, rng=1), pair.sample_target(N_TRAIN, rng=2)
    begin = time.perf_counter()
    draw = solver.fit(X, Y, pair)
    fitted = time.perf_counter() - begin
    rng = np.random.default_rng(3)
    fresh, truth = pair.sample_source(N_TRAIN, rng=4), pair.sample_target(N_TRAIN, rng=5)
    begin = time.perf_counter()
    ends = draw(fresh, rng)
    sampled = time.perf_counter() - begin
    sources = fresh[:N_JUDGED]
    many = draw(np.repeat(sources, N_REPEATS, axis=0), rng).reshape(N_JUDGED, N_REPEATS, DIM)
    centred = many - many.mean(1, keepdims=True)
    cov = np.einsum("nri,nrj->nij", centred, centred) / (N_REPEATS - 1)
    error = transport.conditional_bw2_uvp(
        many.mean(1), cov, *pair.conditional_moments(sources), pair.target_cov_
    )
    description = {key: value for key, value in asdict(solver).items() if key != "fit"}
    return {
        **description,
        "fit_seconds": fitted,
        "sample_seconds": sampled,
        "energy_distance": transport.energy_distance(ends, truth),
        "plan_error": error,
    }


def main(names: list[str]) -> int:
    kept = {}
    if RESULTS.exists() and names:
        kept = {row["name"]: row for row in json.loads(RESULTS.read_text("utf-8"))["rows"]}
    unknown = sorted(set(names) - {s.name for s in SOLVERS})
    if unknown:
        print(f"no solver {', '.join(unknown)}; there are: {', '.join(s.name for s in SOLVERS)}")
        return 2
    for solver in SOLVERS:
        if not names or solver.name in names:
            kept[solver.name] = judge(solver)
            print(*show(kept[solver.name]), sep="  ", flush=True)
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": describe_environment(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")),
        "pair": f"Gaussian mixture pair, d = {DIM}, epsilon {EPSILON:g}, {N_TRAIN} points a side, "
        "networks of three layers of 128 and 1500 updates a stage where that can be chosen",
        "floor": floor(),
        "rows": [kept[s.name] for s in SOLVERS if s.name in kept],
    }
    RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    table = Table(title=content["pair"])
    for column in HEADER:
        table.add_column(column, overflow="fold")
    for row in content["rows"]:
        table.add_row(*show(row))
    Console(width=160).print(table)
    return 0


HEADER = ["solver", "fit [s]", "5000 samples [s]", "energy distance", "plan error [%]"]


def show(row: dict[str, Any]) -> list[str]:
    numbers = ("fit_seconds", "sample_seconds", "energy_distance", "plan_error")
    return [row["name"], *(f"{row[key]:.3g}" for key in numbers)]


def floor() -> float:
    """The energy distance of two samples of the target."""
    pair = transport.gaussian_mixture_pair(DIM, EPSILON, rng=0)
    return transport.energy_distance(
        pair.sample_target(N_TRAIN, rng=5), pair.sample_target(N_TRAIN, rng=6)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

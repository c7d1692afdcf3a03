"""Schrödinger bridges in four steps: D-IMF converges, and a GAN learns its transitions.

Exact D-IMF between Gaussians of 2 and 16 dimensions (condition number 16) is followed for four
epsilons and five numbers of inner times. Then transitions are learned: by least squares on a pair
of Gaussians, and by the GAN of four steps from a normal law to a swiss roll, against bridge
matching with the same rounds, hidden layers and first pairs at 100 calls and at 4. The full preset
trains the GAN long enough to be judged, on the Gaussian pair too, on pairs with known plans, and on
the digits 2 and 3 in 16 principal components.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from thalweg import data
from thalweg.studies.transport._adversarial_sbm_cases import (
    EPSILONS,
    IMAGES,
    INNER,
    LABELS,
    PAIR_ITERATIONS,
    closed_form,
    digits,
    gaussian_pair,
    mixture_error,
    roll,
    seed,
    time_ratio,
)
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, reported
from thalweg.transport import AdversarialBridge


def run(setup, rng, report):
    """Follow exact D-IMF, then learn transitions by least squares and by the GAN."""
    report(0.0, "exact D-IMF between Gaussians")
    results: dict[str, Any] = closed_form(rng)
    report(0.05 if setup.wide else 0.3, "transitions by least squares")
    results["affine_plan_error"] = gaussian_pair(1.0, rng, transition="gaussian")
    results["affine_mixture_error"] = mixture_error(2, rng, transition="gaussian", n_iter=3)
    begin, end = (0.05, 0.5) if setup.wide else (0.4, 1.0)
    results |= roll(setup, rng, lambda part, text: report(begin + (end - begin) * part, text))
    ours, theirs = results.pop("models")
    if not setup.wide:
        return results
    results["time_ratio"] = time_ratio(ours, theirs, rng)
    options: dict[str, Any] = {"hidden": (setup.width,) * 3}
    options["steps_per_projection"] = setup.pair_steps
    report(0.5, "Gaussian pair")
    results["plan_errors"] = [gaussian_pair(epsilon, rng, **options) for epsilon in (1.0, 0.1)]
    options["steps_per_projection"] = setup.mixture_steps
    report(0.75, "pairs with known plans")
    results["mixture_errors"] = [mixture_error(dim, rng, n_iter=3, **options) for dim in (2, 16)]
    results["alone_error"] = mixture_error(2, rng, n_iter=3, score_share=0.0, **options)
    report(0.95, "digits")
    if data.available(IMAGES) and data.available(LABELS):
        results |= digits(rng, n_iter=2, **options)
    return results


def draw(results, figure):
    """Divergence against iteration, by inner times and by epsilon; paths to the swiss roll."""
    (by_inner, by_epsilon), (paths, clouds) = figure.subplots(2, 2)
    kl = results["kl"][1]
    for k, n in enumerate(INNER):
        by_inner.semilogy(_shown(kl[EPSILONS.index(1.0), k]), label=f"N = {n}")
    for j, epsilon in enumerate(EPSILONS):
        by_epsilon.semilogy(_shown(kl[j, INNER.index(10)]), label=f"epsilon = {epsilon:g}")
    for ax, title in (
        (by_inner, "16 dimensions, epsilon 1, N inner times"),
        (by_epsilon, "16 dimensions, N = 10 inner times"),
    ):
        ax.set(xlabel="D-IMF iteration", ylabel="KL from the bridge [nats]", ylim=(1e-13, 1e8))
        ax.set_title(title, fontsize=10)
        ax.legend(fontsize=8, loc="upper right", ncols=2)
    wanted, reached = results["roll_wanted"], results["roll_reached"]
    few, many, same = results["roll_distances"][0]
    paths.scatter(*wanted[:1500].T, s=2, color="0.75", lw=0, label="target")
    way = results["roll_paths"]
    paths.plot(*way.transpose(2, 0, 1), color="tab:blue", lw=0.7, alpha=0.7)
    paths.scatter(*way[0].T, s=8, color="black", lw=0, zorder=3, label="start")
    paths.scatter(*way[-1].T, s=10, color="tab:red", lw=0, zorder=3, label="end")
    paths.plot([], [], color="tab:blue", lw=1, label="4 steps")
    paths.set_title("chains to the swiss roll", fontsize=10)
    clouds.scatter(*wanted[:1500].T, s=2, color="0.75", lw=0, label="target")
    clouds.scatter(*reached[:1500].T, s=2, color="tab:red", lw=0, label="reached in 4 calls")
    clouds.set_title(
        f"energy distance: ours, 4 calls {few:.3f};\nIMF, 100 calls {many:.3f}, 4 calls {same:.3f}",
        fontsize=10,
    )
    for ax in (paths, clouds):
        ax.set(xlabel="$x_1$", ylabel="$x_2$", xlim=(-3.2, 3.2), ylim=(-3.2, 4.4))
        ax.legend(fontsize=8, loc="upper center", ncols=4, markerscale=2, columnspacing=1.0)


def _shown(path):
    return np.where(path > 1e-13, path, np.nan)


def on_file(path, setup, out, rng, report):
    """Fit a bridge to the user's clouds; write translated points and the history."""
    source, target = read_pair(path)

    def tell(state):
        done = 2 * state.round - 2 + (state.direction == "backward") + state.step / state.n_steps
        report(0.95 * done / (2 * setup.n_iter), f"{state.direction}, iteration {state.round}")

    model = AdversarialBridge(
        setup.epsilon,
        setup.n_steps,
        n_iter=setup.n_iter,
        steps_per_projection=setup.steps,
        transition=setup.transition,
        callback=tell,
        rng=seed(rng),
    ).fit(source, target)
    reached = model.transform(source)
    history: list[Any] = model.history_
    distances = np.array([projection["energy_distance"] for projection in history])
    np.savez(
        out / "translated.npz",
        translated=reached,
        backward=model.inverse_transform(target),
        times=model.times_,
        directions=np.array([projection["direction"] for projection in history]),
        energy_distances=distances,
        losses=np.stack([projection["losses"] for projection in history]),
    )
    return {
        "points": len(source),
        "dimensions": source.shape[1],
        "projections": len(distances),
        "energy_distance_forward": float(distances[-2]),
        "energy_distance_backward": float(distances[-1]),
        "mean_squared_displacement": float(((reached - source) ** 2).sum(axis=1).mean()),
    }


def read_pair(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read `source` and `target` of an .npz file; ValueError in one line for what does not fit."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, AttributeError, TypeError, zipfile.BadZipFile):
        raise ValueError(f"--input: {path.name} is not an .npz file of plain arrays") from None
    clouds = []
    for name in ("source", "target"):
        if name not in arrays:
            raise ValueError(f"--input: {path.name} has no array {name!r}; it has {sorted(arrays)}")
        cloud = arrays[name]
        if cloud.ndim != 2 or cloud.dtype.kind not in "biuf" or len(cloud) < 2 or not cloud.size:
            raise ValueError(f"--input: {name} must be numbers of shape (n, d), n at least 2")
        if not np.isfinite(cloud).all():
            raise ValueError(f"--input: {name} must be finite")
        clouds.append(cloud.astype(float))
    if clouds[0].shape[1] != clouds[1].shape[1]:
        raise ValueError("--input: target must have as many columns as source")
    return clouds[0], clouds[1]


QUALITY = "same quality with 4 steps"
SOLVES = "solves the Schrödinger bridge, not just the marginals"
CONVERGES = "D-IMF converges to the Schrödinger bridge"
STUDY = Study(
    paper="adversarial-sbm",
    quick={
        "wide": False,
        "width": 64,
        "roll_epsilons": (0.1,),
        "roll_iterations": 1,
        "roll_steps": 300,
        "baseline_steps": 200,
        "pair_steps": 0,
        "mixture_steps": 0,
        "test_points": 2000,
    },
    full={
        "wide": True,
        "width": 128,
        "roll_epsilons": (0.1, 1.0),
        "roll_iterations": 2,
        "roll_steps": 1000,
        "baseline_steps": 1500,
        "pair_steps": 300,
        "mixture_steps": 500,
        "test_points": 4000,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            CONVERGES,
            "largest rise of the divergence in one iteration, all dimensions, epsilons and N",
            "largest_rise",
            at_most(1e-12),
        ),
        Claim(
            CONVERGES,
            "largest divergence after 60 iterations, epsilon >= 1 and N >= 2",
            "kl_at_end",
            at_most(1e-8),
            unit="nats",
        ),
        Claim(
            "geometric rate",
            "least R^2 of log divergence against iteration, between 1e-2 and 1e-8",
            "least_r2",
            at_least(0.98),
        ),
        Claim(
            "a few steps suffice",
            "divergence after 60 iterations with one inner time, 16 dimensions, epsilon 1",
            "one_inner_kl",
            at_most(1e-4),
            unit="nats",
        ),
        Claim(
            QUALITY,
            "swiss roll: energy distance, ours with 4 calls less twice IMF's with 100",
            "roll_excess",
            at_most(0.01),
            preset="full",
        ),
        Claim(
            QUALITY,
            "swiss roll: energy distance, ours with 4 calls over IMF's with 4",
            "roll_over_same_calls",
            at_most(1.0),
            preset="full",
        ),
        Claim(
            QUALITY,
            "time of translating 10 000 points, IMF with 100 calls over ours with 4",
            "time_ratio",
            at_least(10),
            preset="full",
        ),
        Claim(
            SOLVES,
            "two Gaussians, GAN that starts from an affine law: relative error of Cov(x0, x1), "
            f"{PAIR_ITERATIONS} iterations, epsilon 1 and 0.1",
            "plan_errors",
            at_most(0.3),
            preset="full",
        ),
        Claim(
            SOLVES,
            f"two Gaussians, affine transitions: the same after {PAIR_ITERATIONS} iterations, "
            "epsilon 1",
            "affine_plan_error",
            at_most(0.3),
        ),
        Claim(
            "moderate dimension",
            "known plans, GAN: error of the conditional laws (cBW2-UVP), d = 2 and 16",
            "mixture_errors",
            reported(),
            preset="full",
            unit="%",
        ),
        Claim(
            "moderate dimension",
            "the same at d = 2 by adversarial steps alone, as many",
            "alone_error",
            reported(),
            preset="full",
            unit="%",
        ),
        Claim(
            "translates images",
            "digits 2 to 3: energy distance to threes held out over that of the twos",
            "digits_ratio",
            reported(),
            preset="full",
            data=(IMAGES, LABELS),
        ),
    ],
    on_file=FileMethod(
        on_file,
        expects="an .npz with source (n, d) and target (m, d)",
        options={
            "epsilon": 1.0,
            "n_steps": 4,
            "n_iter": 3,
            "steps": 1000,
            "transition": "gan",
        },
    ),
)

"""A Padé root is nearer than five Newton-Schulz steps; on a CPU an eigendecomposition beats both.

Measured: the error of four ways to a matrix root on covariances of Gaussian samples; the time of
root and gradient; the test accuracy of small networks with a whitening layer or covariance pooling.
The speed-up that the paper reports over an eigendecomposition is one of GPUs and large batches. On
a CPU LAPACK wins, root and gradient together, by the most for large matrices; the iterations at
best come near it. The preset ``large`` maps the times of a GPU, and needs one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from thalweg import data
from thalweg._torch import torch
from thalweg.linalg import (
    ZCAWhitening,
    approximation_error,
    matrix_inv_sqrt,
    matrix_sqrt,
)
from thalweg.linalg.square_root import Method
from thalweg.studies._threads import one_thread
from thalweg.studies.linalg._square_root_networks import (
    IMAGES,
    LABELS,
    TRAINING_IMAGES,
    networks,
)
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, reported

METHODS: tuple[Method, ...] = ("pade", "taylor", "newton-schulz", "eigh")
TITLES = {
    "pade": "Padé 5",
    "taylor": "Taylor 10",
    "newton-schulz": "Newton-Schulz 5",
    "eigh": "eigendecomposition",
}
COLOURS = {"pade": "C0", "taylor": "C2", "newton-schulz": "C1", "eigh": "0.35"}
ERROR_SIZES = (32, 64, 128)
WELL_CONDITIONED = 64, 300
NEWTON_SCHULZ_GRADIENT_STEPS = 7
LAYER_TITLES = {"whitening": "whitening", "pooling": "covariance pooling"}


def run(setup, rng, report):
    """Errors, times, whitened features and, where the images are there, trained networks."""
    if setup.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device 'cuda' needs a GPU that torch can use")
    with one_thread():
        report(0.0, "errors")
        results: dict[str, Any] = errors(setup, rng)
        results |= whitened(setup, rng)
        report(0.05, "times")
        results |= times(setup, rng, lambda part, text: report(0.05 + 0.35 * part, text))
        if setup.seeds and data.available(IMAGES) and data.available(LABELS):
            results |= networks(setup, rng, lambda part, text: report(0.4 + 0.6 * part, text))
    return results


def covariances(batch, size, samples, rng):
    """Return covariances of standard normal samples, float32, of shape (batch, size, size)."""
    found = np.empty((batch, size, size), np.float32)
    for one in found:
        x = rng.standard_normal((samples, size), dtype=np.float32)
        one[:] = x.T @ x / samples
    return found


def errors(setup, rng):
    """Mean relative Frobenius error of each method, at twice as many samples as features."""
    table: dict[str, list[float]] = {name: [] for name in METHODS}
    for size in ERROR_SIZES:
        mean = mean_errors(covariances(setup.error_batch, size, 2 * size, rng))
        for name in METHODS:
            table[name].append(mean[name])
    size, samples = WELL_CONDITIONED
    easy = mean_errors(covariances(setup.easy_batch, size, samples * size, rng))
    return {
        "sizes": ERROR_SIZES,
        **{f"error_{name}": np.array(table[name]) for name in METHODS},
        **{f"easy_error_{name}": easy[name] for name in METHODS},
        "pade_over_newton_schulz": np.array(table["pade"]) / np.array(table["newton-schulz"]),
        "easy_pade_over_newton_schulz": easy["pade"] / easy["newton-schulz"],
    }


def mean_errors(a):
    """Return the mean of ``||Y - A^(1/2)||_F / ||A^(1/2)||_F`` over a batch, for each method."""
    values, vectors = np.linalg.eigh(a.astype(np.float64))
    exact = (vectors * np.sqrt(values)[:, None, :]) @ vectors.swapaxes(-1, -2)
    norms = np.linalg.norm(exact, axis=(-2, -1))
    return {
        name: float((np.linalg.norm(matrix_sqrt(a, name) - exact, axis=(-2, -1)) / norms).mean())
        for name in METHODS
    }


def whitened(setup, rng):
    """Distance of the covariance of a whitening layer's output from the identity."""
    size, samples = WELL_CONDITIONED
    x = torch.from_numpy(rng.standard_normal((samples * size, size), dtype=np.float32))
    with torch.no_grad():
        y = ZCAWhitening(size, eps=0.0)(x).double()
    cov = torch.cov(y.T, correction=0)
    distance = torch.linalg.norm(cov - torch.eye(size, dtype=cov.dtype)) / size**0.5
    return {"whitening_residual": float(distance)}


def times(setup, rng, report):
    """Milliseconds of root and gradient, of the methods at one size and over batches and sizes."""
    device = torch.device(setup.device)
    report(0.0, "times of the root")
    results = root_times(setup, rng, device)
    report(0.3, "times of the gradient")
    batch, size = setup.backward_shape
    a = _tensor(covariances(batch, size, 2 * size, rng), device)
    found = milliseconds(gradients(a), setup.rounds, device)
    results |= {f"backward_{name}": value for name, value in found.items()}
    ratios = np.empty((len(setup.batches), len(setup.map_sizes)))
    for i, j in np.ndindex(ratios.shape):
        batch, size = setup.batches[i], setup.map_sizes[j]
        report(0.5 + 0.5 * i / len(ratios), f"times of {batch} matrices of side {size}")
        a = _tensor(covariances(batch, size, 2 * size, rng), device)
        ratios[i, j] = eigh_over_pade(a, setup.map_rounds)
    for kind, names in (("forward", METHODS), ("backward", ("lyapunov", "eigh"))):
        for name in names:
            ratio = results[f"{kind}_{name}"] / results[f"{kind}_newton-schulz"]
            results[f"{kind}_{name}_over_newton_schulz"] = ratio
    return results | {
        "batches": setup.batches,
        "map_sizes": setup.map_sizes,
        "device": setup.device,
        "eigh_over_pade": ratios,
        "best_eigh_over_pade": ratios.max(),
    }


def root_times(setup, rng, device):
    """Milliseconds of a batch at one size, and of one matrix in a batch at each size of errors."""
    results: dict[str, Any] = {f"time_{name}": [] for name in METHODS}
    for size in ERROR_SIZES:
        a = _tensor(covariances(setup.error_batch, size, 2 * size, rng), device)
        calls = {name: partial(_root, a, name) for name in METHODS}
        for name, value in milliseconds(calls, setup.rounds, device).items():
            results[f"time_{name}"].append(value / setup.error_batch)
    batch, size = setup.forward_shape
    a = _tensor(covariances(batch, size, 2 * size, rng), device)
    calls = {name: partial(_root, a, name) for name in METHODS}
    found = milliseconds(calls, setup.rounds, device)
    results |= {f"forward_{name}": value for name, value in found.items()}
    return results | {"both_eigh_over_pade": eigh_over_pade(a, setup.map_rounds)}


def eigh_over_pade(a, rounds):
    """Time of root and gradient by an eigendecomposition over that by Padé and Lyapunov."""
    calls = {name: partial(_root_and_gradient, a, name) for name in ("pade", "eigh")}
    found = milliseconds(calls, rounds, a.device)
    return found["eigh"] / found["pade"]


def gradients(a):
    """Return callables that compute the gradient alone: Lyapunov, Newton-Schulz, eigenvectors."""
    a = a.clone().requires_grad_()
    g = torch.ones_like(a)
    roots = {
        "lyapunov": _root(a, "pade"),
        "newton-schulz": _root(a, "newton-schulz", NEWTON_SCHULZ_GRADIENT_STEPS, "autograd"),
        "eigh": _root(a, "eigh", backward="lyapunov-exact"),
    }
    return {
        name: partial(torch.autograd.grad, y, a, g, retain_graph=True) for name, y in roots.items()
    }


def milliseconds(
    calls: Mapping[Any, Callable[[], Any]], rounds: int, device: Any
) -> dict[str, float]:
    """Fastest of `rounds` runs of each call, in turn after one more: processor or GPU time."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    best = dict.fromkeys(calls, np.inf)
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken = 1e3 * (clock() - start)
            if number:
                best[name] = min(best[name], taken)
    return best


def draw(results, figure):
    """Error against time of the root; test accuracies; where an eigendecomposition is slower."""
    left, right = figure.subfigures(1, 2, width_ratios=[1.1, 1])
    _draw_errors(left.subplots(), results)
    layers = [layer for layer in LAYER_TITLES if f"{layer}_pade" in results]
    if layers:
        upper, lower = right.subplots(2, 1)
        _draw_accuracies(upper, results, layers)
    else:
        lower = right.subplots()
    _draw_map(lower, results)


def _draw_errors(axes, results):
    for name in METHODS:
        seconds, found = results[f"time_{name}"], results[f"error_{name}"]
        axes.loglog(seconds, found, "o-", color=COLOURS[name], label=TITLES[name])
        for x, y, size in zip(seconds, found, results["sizes"], strict=True):
            offset = (0, -12) if name == "pade" else (0, 5)
            axes.annotate(f"{size}", (x, y), offset, textcoords="offset points", fontsize=8)
    axes.set(
        xlabel="time of a root, in a batch [ms]",
        ylabel="relative Frobenius error",
        title="Covariances of 2 d samples; d written",
    )
    axes.margins(x=0.1, y=0.12)
    axes.legend(loc="center left", fontsize=9)


def _draw_accuracies(axes, results, layers):
    places = np.arange(len(layers))
    for shift, name in enumerate(METHODS):
        values = [100 * np.asarray(results[f"{layer}_{name}"]) for layer in layers]
        means = [value.mean() for value in values]
        style = {"color": COLOURS[name], "label": TITLES[name]}
        bars = axes.bar(places + 0.2 * (shift - 1.5), means, 0.18, **style)
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    lowest = min(np.min(results[f"{layer}_{name}"]) for layer in layers for name in METHODS)
    axes.set_xticks(places, [LAYER_TITLES[layer] for layer in layers])
    axes.set(
        ylabel="test accuracy [%]",
        title="MNIST, three convolutions",
        xlim=(-0.6, len(layers) - 0.4),
        ylim=(max(0, 100 * lowest - 3), 100),
    )
    axes.grid(axis="x", visible=False)


def _draw_map(axes, results):
    sizes = np.asarray(results["map_sizes"])
    for place, (batch, ratios) in enumerate(
        zip(results["batches"], np.asarray(results["eigh_over_pade"]), strict=True)
    ):
        axes.loglog(sizes, ratios, "o-", color=f"C{place}", label=f"batch of {batch}")
    axes.axhline(1, color="0.35", ls="--")
    axes.text(0.02, 0.04, "below 1, eigh is faster", fontsize=8, transform=axes.transAxes)
    axes.set_xticks(sizes, [f"{size}" for size in sizes])
    axes.minorticks_off()
    ratios = np.asarray(results["eigh_over_pade"])
    low, high = min(0.2, ratios.min() / 1.3), max(2.0, ratios.max() * 1.3)
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(
        xlabel="side d of the matrices",
        ylabel="time of eigh\n/ Padé + Lyapunov",
        title=f"Root and gradient, {'GPU' if results['device'] == 'cuda' else 'CPU'}",
        ylim=(low, high),
    )
    axes.legend(fontsize=8, ncols=len(results["batches"]), loc="upper left")


def whiten_file(path, setup, out, rng, report):
    """Whiten the samples of a user's file; say what remains, and the bound on it."""
    samples = read_samples(path)
    report(0.1, "covariance")
    centred = samples - samples.mean(0)
    cov = centred.T @ centred / len(samples) + setup.eps * np.eye(samples.shape[1])
    least, largest = np.linalg.eigvalsh(cov)[[0, -1]]
    if least <= np.finfo(float).eps * len(cov) * largest:
        raise ValueError(
            f"--input: the covariance of {path.name} is singular; "
            "drop dependent columns or give --set eps=0.01"
        )
    degree = setup.degree or None
    report(0.4, "inverse root")
    features = centred @ matrix_inv_sqrt(cov, setup.method, degree)
    report(0.8, "residual")
    residual = features.T @ features / len(samples)
    bound = 0.0
    if setup.method != "eigh":
        share = least / np.linalg.norm(cov)
        bound = float(abs(approximation_error(share, setup.method, degree, inverse=True)))
    np.savez(out / "whitened.npz", whitened=features, residual_covariance=residual)
    return {
        "samples": len(samples),
        "features": samples.shape[1],
        "condition number": float(largest / least),
        "largest relative error of the inverse root (bound)": bound,
        "distance of the covariance from the identity": float(
            np.linalg.norm(residual - np.eye(len(cov))) / len(cov) ** 0.5
        ),
    }


def read_samples(path: Path) -> np.ndarray:
    """Read samples x features from .npy or .csv; ValueError in one line for what does not fit."""
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".csv"):
        raise ValueError(f"--input: the file must end in .npy or .csv, got {path.name}")
    try:
        if suffix == ".npy":
            samples = np.load(path, allow_pickle=False)
        else:
            samples = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"--input: {path.name} must hold numbers: {error}") from None
    if samples.ndim != 2 or samples.dtype.kind not in "biuf" or min(samples.shape) < 1:
        raise ValueError(
            f"--input: {path.name} must hold numbers, samples x features, got shape {samples.shape}"
        )
    if len(samples) < 2 or not np.isfinite(samples).all():
        raise ValueError(f"--input: {path.name} must hold at least 2 samples, all finite")
    return samples.astype(float)


def _root(a, name, degree=None, backward="lyapunov"):
    return matrix_sqrt(a, name, degree, backward, check_finite=False)


def _root_and_gradient(a, name):
    a = a.clone().requires_grad_()
    y = _root(a, name, backward="lyapunov-exact" if name == "eigh" else "lyapunov")
    return torch.autograd.grad(y, a, torch.ones_like(y))


def _tensor(a, device):
    return torch.from_numpy(a).to(device)


FULL: dict[str, Any] = {
    "device": "cpu",
    "error_batch": 64,
    "easy_batch": 16,
    "rounds": 7,
    "map_rounds": 3,
    "forward_shape": (64, 128),
    "backward_shape": (16, 128),
    "batches": (1, 16, 64),
    "map_sizes": (8, 32, 128, 256),
    "layers": ("whitening", "pooling"),
    "training_images": TRAINING_IMAGES,
    "epochs": 5,
    "seeds": 2,
}
GPU_SIZES = (8, 32, 64, 128, 256)
ACCURATE = "Padé is more accurate than five Newton-Schulz steps"
FAST_ROOT = "the root is fast"
FAST_GRADIENT = "the gradient is fast"
GPU_ONLY = "an eigendecomposition is slower: on GPUs and in large batches, not on a CPU"
NETWORKS = "in networks as accurate as an eigendecomposition and Newton-Schulz, or more"
STUDY = Study(
    paper="differentiable-matrix-square-root",
    quick={
        "device": "cpu",
        "error_batch": 16,
        "easy_batch": 4,
        "rounds": 2,
        "map_rounds": 2,
        "forward_shape": (8, 64),
        "backward_shape": (4, 64),
        "batches": (1, 16),
        "map_sizes": (8, 32, 64),
        "layers": ("whitening",),
        "training_images": 2000,
        "epochs": 1,
        "seeds": 1,
    },
    full=FULL,
    large=FULL | {"device": "cuda", "batches": (1, 16, 64, 256, 1024), "map_sizes": GPU_SIZES},
    run=run,
    draw=draw,
    claims=[
        Claim(
            ACCURATE,
            "mean relative Frobenius error over that of Newton-Schulz, covariances of 2 d samples, "
            "d = 32, 64, 128",
            "pade_over_newton_schulz",
            at_most(0.75),
        ),
        Claim(
            ACCURATE,
            "the same on well-conditioned data, d = 64, 300 d samples",
            "easy_pade_over_newton_schulz",
            at_most(1.0),
        ),
        Claim(
            FAST_ROOT,
            "time of Taylor 10 over that of Newton-Schulz 5, batch 64, d = 128, one core",
            "forward_taylor_over_newton_schulz",
            at_most(0.75),
            preset="full",
        ),
        Claim(
            FAST_ROOT,
            "time of Padé 5 over that of Newton-Schulz 5 (on a CPU the solve limits it)",
            "forward_pade_over_newton_schulz",
            at_most(1.15),
            preset="full",
        ),
        Claim(
            FAST_ROOT,
            "time of an eigendecomposition over that of Newton-Schulz 5",
            "forward_eigh_over_newton_schulz",
            reported(),
            preset="full",
        ),
        Claim(
            FAST_GRADIENT,
            "time of 8 Lyapunov steps over that of autograd through 7 Newton-Schulz steps, "
            "batch 16, d = 128, one core",
            "backward_lyapunov_over_newton_schulz",
            at_most(1.1),
            preset="full",
        ),
        Claim(
            FAST_GRADIENT,
            "time of the gradient by eigenvectors over the same",
            "backward_eigh_over_newton_schulz",
            reported(),
            preset="full",
        ),
        Claim(
            GPU_ONLY,
            "root and gradient, time of eigh over that of Padé and Lyapunov, batch 64, d = 128: "
            "below 1, eigh wins",
            "both_eigh_over_pade",
            reported(),
            preset="full",
        ),
        Claim(
            GPU_ONLY,
            "the largest such ratio over the batches and sizes of the figure",
            "best_eigh_over_pade",
            reported(),
            preset="full",
        ),
        Claim(
            "faster than an eigendecomposition on a GPU",
            "root and gradient, time of eigh over that of Padé and Lyapunov, batch 64, d = 128, "
            "on a GPU",
            "both_eigh_over_pade",
            at_least(1.5),
            preset="large",
        ),
        *(
            Claim(
                NETWORKS,
                f"mean test accuracy with {title} by Padé, minus that by eigh and by Newton-Schulz",
                f"{layer}_pade_minus_others",
                at_least(-0.01),
                preset="full",
                data=(IMAGES, LABELS),
            )
            for layer, title in LAYER_TITLES.items()
        ),
        *(
            Claim(
                NETWORKS,
                f"mean test accuracy with {title} by Taylor, minus that by eigh",
                f"{layer}_taylor_minus_eigh",
                reported(),
                preset="full",
                data=(IMAGES, LABELS),
            )
            for layer, title in LAYER_TITLES.items()
        ),
        Claim(
            "whitening whitens",
            "||covariance of the output - I||_F / sqrt(d), eps 0, d = 64, 300 d samples",
            "whitening_residual",
            at_most(0.02),
        ),
    ],
    on_file=FileMethod(
        whiten_file,
        expects="samples x features: .npy, or .csv of numbers without a header",
        options={"method": "pade", "degree": 30, "eps": 0.0},
    ),
)

"""Networks sampled, differentiated and evaluated in fewer sequential calls, with the same values.

Random triangular systems test the bound by the depth of the graph. A MADE and a masked convolution,
trained on binarised digits, are sampled by all four methods with the same noise. A recurrent layer
is differentiated, and a dense block evaluated, until an error is reached.
"""

from __future__ import annotations

import time

import numpy as np
from sklearn.datasets import load_digits

from thalweg import data
from thalweg._torch import torch, torch_generator
from thalweg.language import MADE, sample_autoregressive
from thalweg.linalg import dependency_depth, solve_feedforward
from thalweg.studies.linalg._parallel_feedforward_networks import (
    IMAGES,
    DenseBlock,
    MaskedConvolutions,
    bits,
    gradient_errors,
    pixels,
    sample_by_columns,
    train_on_bits,
)
from thalweg.study import Claim, Study, at_least, at_most, equals, reported

LABELS = "mnist-t10k-labels"
TRAINING_IMAGES = 9000
HYBRIDS = ("jacobi-gs", "gs-jacobi")
DENSE_BLOCKS = (2, 3, 4, 6, 8, 12)
CONVOLUTION_SIDE = 14
SHOWN_SAMPLES = 4
RECURRENT_TITLES = {"uniform": "RNN, usual weights", "orthogonal": "RNN, orthogonal weights"}


def run(setup, rng, report):
    """Count parallel iterations, and compare values with those of the plain loop."""
    report(0.0, "random graphs")
    results = _graphs(setup, rng)
    report(0.02, "dense block")
    results |= _dense_block(setup, rng)
    if data.available(IMAGES):
        results |= _made(setup, rng, report)
        report(0.55, "masked convolution")
        results |= _convolution(setup, rng)
    if data.available(IMAGES) and data.available(LABELS):
        for place, weights in enumerate(RECURRENT_TITLES):
            report(0.65 + 0.15 * place, "recurrent layer")
            results |= _recurrent(setup, rng, weights)
    shares = [np.max(value) for name, value in results.items() if name.endswith("_nit_share")]
    results["largest_nit_share"] = max(shares)
    if "uniform_speedups" in results:
        results["recurrent_speedup"] = np.append(
            results["uniform_speedups"], results["orthogonal_speedups"][0]
        )
    return results


def _graphs(setup, rng):
    """Jacobi iterations on random triangular systems, beside the depth of their graphs."""
    rows = []
    for _ in range(setup.graphs):
        size = int(rng.integers(2, 61))
        graph = np.tril(rng.random((size, size)) < 10 ** rng.uniform(-2, -0.3), -1)
        weights, shift = graph * rng.normal(size=graph.shape), rng.normal(size=size)

        def states(s, idx, weights=weights, shift=shift):
            return np.tanh((weights[idx] * s).sum(axis=1) + shift[idx])  # rows sum independently

        rows.append((dependency_depth(graph), solve_feedforward(states, np.zeros(size)).nit, size))
    depths, nits, sizes = np.array(rows).T
    return {
        "graph_depths": depths,
        "graph_nits": nits,
        "graphs_within": np.mean(nits <= np.minimum(depths + 1, sizes)),
        "graphs_nit_share": nits / sizes,
    }


def _dense_block(setup, rng):
    """Sequential calls until the outputs of a dense block are right to a thousandth."""
    images = torch.tensor(load_digits().images[: setup.dense_images, None] / 16).float()
    block = DenseBlock(images, setup.dense_layers, setup.dense_growth, _generator(rng))
    speedups, curves, shares = [], [], []
    for size in (1, *(size for size in DENSE_BLOCKS if size <= setup.dense_layers)):
        calls: list[int] = []
        errors: list[float] = []

        def note(state, calls=calls, errors=errors):
            calls.append(state.nit)
            errors.append(block.error(state.x))

        with torch.no_grad():
            solved = solve_feedforward(
                block,
                torch.zeros_like(block.exact),
                method="jacobi-gs",
                block_size=size,
                callback=note,
            )
        shares.append(solved.nit / setup.dense_layers)
        speedups.append(setup.dense_layers / _first(calls, errors, 1e-3))
        curves.append(errors)
    return {
        "dense_speedup": np.array(speedups[1:]),
        "dense_jacobi_speedup": speedups[0],
        "dense_errors": np.array(curves[0]),
        "dense_nit_share": np.array(shares),
    }


def _made(setup, rng, report):
    """Samples of a MADE by every method, in number of calls and in time."""
    report(0.05, "training MADE")
    digits = bits(setup.side)
    model = MADE(setup.side**2, (setup.hidden,), rng=_generator(rng))
    generator = _generator(rng)
    train_on_bits(model, digits[:TRAINING_IMAGES], setup.epochs, generator)
    with torch.no_grad():
        nats = -float(model.log_prob(digits[TRAINING_IMAGES:]).mean())
    seed, n, length = int(rng.integers(2**31)), setup.samples, setup.side**2
    iterates = []
    sample_autoregressive(
        model, n, length, rng=seed, callback=lambda state: iterates.append(state.x.clone())
    )
    seconds, samples, runs = {}, {}, {}
    for method in ("jacobi", *HYBRIDS, "gauss-seidel"):
        report(0.25, f"sampling MADE, {method}")
        times = []
        for _ in range(setup.repeats if method in ("jacobi", "gauss-seidel") else 1):
            start = time.perf_counter()
            samples[method], runs[method] = model.sample(
                n, method, seed, 2 * setup.side, full_output=True
            )
            times.append(time.perf_counter() - start)
        seconds[method] = min(times)
    start = time.perf_counter()
    columns = sample_by_columns(model, n, seed)
    by_columns = time.perf_counter() - start
    plain = samples.pop("gauss-seidel")
    shown = plain[:SHOWN_SAMPLES].reshape(-1, setup.side, setup.side)
    states = torch.stack([x.T[:SHOWN_SAMPLES].reshape(shown.shape) for x in iterates])
    return {
        "made_nats": nats,
        "made_same": np.array([float(torch.equal(other, plain)) for other in samples.values()]),
        "made_nit": runs["jacobi"].nit,
        "made_nit_share": np.array([result.nit / length for result in runs.values()]),
        "made_speedup": length / runs["jacobi"].nit,
        "made_block_speedup": length / runs["gs-jacobi"].nit,
        "made_time_ratio": seconds["gauss-seidel"] / seconds["jacobi"],
        "made_column_time_ratio": by_columns / seconds["jacobi"],
        "made_column_same": float((columns == plain).float().mean()),
        "made_errors": np.array([float((plain != x.T).float().mean()) for x in iterates]),
        "made_states": states.numpy().astype(np.uint8),
    }


def _convolution(setup, rng):
    """Samples of a masked convolution, row by row with Jacobi inside."""
    length = CONVOLUTION_SIDE**2
    model = MaskedConvolutions(CONVOLUTION_SIDE, setup.channels, _generator(rng))
    digits = bits(CONVOLUTION_SIDE)[:TRAINING_IMAGES]
    train_on_bits(model, digits, setup.convolution_epochs, _generator(rng))
    options = {"n": setup.convolution_samples, "length": length, "rng": int(rng.integers(2**31))}
    plain, _ = sample_autoregressive(model, method="gauss-seidel", **options)
    jacobi, at_once = sample_autoregressive(model, **options)
    blocks, by_rows = sample_autoregressive(
        model, method="gs-jacobi", block_size=CONVOLUTION_SIDE, **options
    )
    return {
        "convolution_same": np.array([float(torch.equal(x, plain)) for x in (jacobi, blocks)]),
        "convolution_speedup": length / by_rows.nit,
        "convolution_jacobi_speedup": length / at_once.nit,
        "convolution_nit_share": np.array([by_rows.nit, at_once.nit]) / length,
    }


def _recurrent(setup, rng, weights):
    """Iterations until the gradient of a recurrent layer is right, before and after training."""
    generator = _generator(rng)
    images = torch.tensor(pixels(setup.side)).float()[..., None]
    labels = torch.tensor(data.read_idx(data.fetch(LABELS, download=False)).astype(np.int64))
    layer = torch.nn.RNN(1, setup.recurrent_hidden)
    head = torch.nn.Linear(setup.recurrent_hidden, 10)
    parameters = [*layer.parameters(), *head.parameters()]  # weight_hh_l0 is the second
    with torch.no_grad():
        for parameter in parameters:
            bound = setup.recurrent_hidden**-0.5
            parameter.uniform_(-bound, bound, generator=generator)
        if weights == "orthogonal":
            torch.nn.init.orthogonal_(parameters[1], generator=generator)
    optimizer = torch.optim.Adam(parameters, 1e-3)

    def loss(batch):
        last = layer(images[batch].transpose(0, 1))[1][0]
        return torch.nn.functional.cross_entropy(head(last), labels[batch])

    held_out = torch.arange(TRAINING_IMAGES, TRAINING_IMAGES + setup.recurrent_images)
    curves = [gradient_errors(layer, head, images[held_out], labels[held_out])]
    for _ in range(setup.recurrent_steps):
        optimizer.zero_grad()
        loss(torch.randint(TRAINING_IMAGES, (64,), generator=generator)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    curves.append(gradient_errors(layer, head, images[held_out], labels[held_out]))
    length = setup.side**2
    iterations = [np.arange(1, len(curve) + 1) for curve in curves]
    nits = [
        [_first(nit, curve, bound) for nit, curve in zip(iterations, curves, strict=True)]
        for bound in (1e-3, 1e-6)
    ]
    return {
        f"{weights}_nits": np.array(nits[0]),
        f"{weights}_tight_nits": np.array(nits[1]),
        f"{weights}_speedups": length / np.array(nits[0]),
        f"{weights}_nit_share": np.array(nits[1]) / length,
        f"{weights}_errors": curves[0],
        f"{weights}_trained_errors": curves[1],
    }


def _first(calls, errors, bound):
    """Calls after which the error is at most `bound`; all of them if rounding keeps it above."""
    reached = [call for call, error in zip(calls, errors, strict=True) if error <= bound]
    return int(reached[0] if reached else calls[-1])


def _generator(rng):
    return torch_generator(int(rng.integers(2**31)))


def draw(results, figure):
    """Distance from the exact values by iteration; samples on their way; ideal speed-ups."""
    right = ["samples", "speedups"] if "made_states" in results else ["depths", "depths"]
    axes = figure.subplot_mosaic([["errors", name] for name in right], width_ratios=(1.1, 1))
    _draw_errors(axes["errors"], results)
    if "made_states" in results:
        _draw_samples(axes["samples"], results)
        _draw_speedups(axes["speedups"], results)
    else:
        _draw_depths(axes["depths"], results)


def _draw_errors(axes, results):
    curves = (
        ("made_errors", "MADE samples: share of wrong bits", "C0", "o-"),
        ("dense_errors", "dense block: outputs", "C2", "s-"),
        ("uniform_errors", "RNN gradient, usual weights", "C1", "-"),
        ("orthogonal_errors", "RNN gradient, orthogonal weights", "C3", "-"),
        ("orthogonal_trained_errors", "the same after training", "C3", ":"),
    )
    for key, label, colour, style in curves:
        if key in results:
            values = np.asarray(results[key])
            shown = np.where(values > 1e-7, values, np.nan)
            axes.loglog(
                np.arange(1, len(values) + 1), shown, style, ms=3, color=colour, label=label
            )
    axes.axhline(1e-3, color="0.6", lw=1)
    axes.set(
        xlabel="parallel iterations (calls in a row)",
        ylabel="relative distance from the exact values",
        title="Jacobi iteration",
        ylim=(1e-7, 1e3),
    )
    axes.set_yticks(10.0 ** np.arange(-7, 1))
    axes.minorticks_off()
    axes.legend(loc="upper right", fontsize=9)


def _draw_samples(axes, results):
    states = np.asarray(results["made_states"]) * 255
    shown = sorted({round(k) for k in np.geomspace(1, len(states), 8)})
    framed = np.pad(states, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=90)
    columns = [np.concatenate(list(framed[k - 1])) for k in shown]
    axes.imshow(np.concatenate(columns, axis=1), cmap="gray_r", vmin=0, vmax=255)
    width = columns[0].shape[1]
    axes.set_xticks(width * (np.arange(len(shown)) + 0.5) - 0.5, shown)
    axes.set_yticks([])
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="iteration", title="Samples of MADE")


def _draw_speedups(axes, results):
    bars = [
        ("MADE, Jacobi", results["made_speedup"]),
        ("MADE, two rows a block", results["made_block_speedup"]),
        ("convolution, a row a block", results["convolution_speedup"]),
        ("dense block, Jacobi-GS", results["dense_speedup"][0]),
    ]
    for name, title in RECURRENT_TITLES.items():
        if f"{name}_speedups" in results:
            before, after = results[f"{name}_speedups"]
            bars += [(title, before), (f"{title}, trained", after)]
    places = np.arange(len(bars))[::-1]
    values = np.array([value for _, value in bars])
    axes.barh(places, values - 1, left=1, color="C0", height=0.7)
    for place, (label, value) in zip(places, bars, strict=True):
        axes.text(value * 1.1, place, f"{value:.1f}  {label}", va="center", fontsize=9)
    axes.set_yticks([])
    axes.set(
        xscale="log",
        xlim=(1, values.max() * 60),
        xlabel="T / parallel iterations",
        title="Ideal speed-up",
    )
    ticks = [1, 3, 10, 30, 100, 300, 1000]
    axes.set_xticks([tick for tick in ticks if tick <= values.max() * 1.5])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(False, axis="y")


def _draw_depths(axes, results):
    depths, nits = np.asarray(results["graph_depths"]), np.asarray(results["graph_nits"])
    line = np.array([0, depths.max() + 1])
    axes.plot(line, line + 1, "k:", label="depth + 1")
    axes.plot(depths, nits, "o", ms=4, alpha=0.5, label="random graphs")
    axes.set(
        xlabel="depth of the graph (states on the longest path)",
        ylabel="Jacobi iterations",
        title="Random triangular systems",
    )
    axes.legend()


STUDY = Study(
    paper="parallel-feedforward",
    quick={
        "graphs": 200,
        "dense_images": 8,
        "dense_layers": 24,
        "dense_growth": 12,
        "side": 14,
        "hidden": 256,
        "epochs": 2.0,
        "samples": 64,
        "repeats": 1,
        "channels": 16,
        "convolution_epochs": 0.25,
        "convolution_samples": 16,
        "recurrent_hidden": 64,
        "recurrent_images": 16,
        "recurrent_steps": 5,
    },
    full={
        "graphs": 200,
        "dense_images": 64,
        "dense_layers": 24,
        "dense_growth": 12,
        "side": 28,
        "hidden": 300,
        "epochs": 4.0,
        "samples": 64,
        "repeats": 3,
        "channels": 32,
        "convolution_epochs": 4.0,
        "convolution_samples": 64,
        "recurrent_hidden": 64,
        "recurrent_images": 16,
        "recurrent_steps": 60,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "exactly the same values",
            "MADE samples of Jacobi and both hybrids are those of the plain loop in all bits (1)",
            "made_same",
            equals(1),
            data=IMAGES,
        ),
        Claim(
            "exactly the same values",
            "samples of a masked convolution, Jacobi and GS-Jacobi: the same in all bits (1)",
            "convolution_same",
            equals(1),
            data=IMAGES,
        ),
        Claim(
            "never more iterations",
            "largest iterations / T in all experiments",
            "largest_nit_share",
            at_most(1),
        ),
        Claim(
            "sampling of MADE in up to 26 times fewer calls",
            "T / iterations, 784 pixels",
            "made_speedup",
            at_least(10),
            preset="full",
            data=IMAGES,
        ),
        Claim(
            "sampling of MADE, in time",
            "seconds of the plain loop over those of Jacobi, 64 samples of 784 pixels",
            "made_time_ratio",
            at_least(8),
            preset="full",
            data=IMAGES,
        ),
        Claim(
            "sampling of MADE, at the size of the preset",
            "T / iterations",
            "made_speedup",
            reported(),
            data=IMAGES,
        ),
        Claim(
            "sampling of MADE, against the best plain loop",
            "seconds of a loop that computes a column a step, over those of Jacobi",
            "made_column_time_ratio",
            reported(),
            data=IMAGES,
        ),
        Claim(
            "sampling of an image model by rows, one row a block",
            "T / iterations of GS-Jacobi, masked convolution, 14 x 14",
            "convolution_speedup",
            reported(),
            data=IMAGES,
        ),
        Claim(
            "backpropagation through an RNN in 2.1 times fewer steps",
            "T / iterations to 1e-3, T = 784: usual weights, the same trained, orthogonal weights",
            "recurrent_speedup",
            at_least(2.1),
            preset="full",
            data=(IMAGES, LABELS),
        ),
        Claim(
            "backpropagation through an RNN, at the size of the preset",
            "T / iterations to 1e-3: usual weights, the same trained, orthogonal weights",
            "recurrent_speedup",
            reported(),
            data=(IMAGES, LABELS),
        ),
        Claim(
            "backpropagation through an RNN that learns to remember",
            "T / iterations to 1e-3: orthogonal weights, the same trained",
            "orthogonal_speedups",
            reported(),
            data=(IMAGES, LABELS),
        ),
        Claim(
            "evaluation of a dense block in fewer steps",
            "layers / sequential calls of Jacobi-GS to 1e-3, blocks of 2, 3, 4, 6, 8, 12 layers",
            "dense_speedup",
            at_least(1),
        ),
        Claim(
            "the depth of the graph bounds the iterations",
            "share of 200 random graphs with iterations <= min(depth + 1, T)",
            "graphs_within",
            equals(1),
        ),
    ],
)

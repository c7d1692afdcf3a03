"""Attention of a next-scale model costs n^4, or n^2 by polynomials while its logits stay small.

Four measurements. Time, counted operations and error of exact and polynomial attention over the
tokens of all scales, against the side n of the last map. The rank that the polynomial needs, and
the numerical rank that any method needs, against the size R of the entries. Decisions of the
largest inner product by attention, right above a logit size of order log n and wrong below it. And
a whole two-layer model, whose logits by polynomials are compared with the exact ones and with a
bound carried through its layers: untrained in the quick preset, trained on MNIST in the full one.
"""

from __future__ import annotations

import math
import time
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from thalweg import data
from thalweg._torch import torch
from thalweg.language import (
    MapDecoder,
    NextScaleTransformer,
    ResidualQuantizer,
    area_downsample,
    count_flops,
    propagate_attention_error,
)
from thalweg.linalg import (
    attention_numerical_rank,
    attention_rank,
    exact_attention,
    max_inner_product_exceeds,
    polynomial_attention,
)
from thalweg.study import Claim, Study, at_least, at_most, between, equals, reported

IMAGES = "mnist-t10k-images"
EPS = 1e-3
BOUNDED_EPS = 1e-6
HEAD = 4
RADII = (0.5, 1.0)
EXACT_SIDES, POLYNOMIAL_SIDES = (8, 32), (16, 64)
SIGNS = 10
TOKENS = 2**SIGNS
BELOW, ABOVE = 0.25, 4.0
GADGET_BITS, GADGET_KEYS, GADGET_DECISIONS = 64, 1000, 2000
GADGET_KEY_ONES, GADGET_QUERY_ONES = 6, 12
RIGHT, WRONG = 1.01, 0.25
MODEL_SIDES = (1, 2, 4, 8, 16)
RATE, BATCH = 3e-3, 16


def run(setup, rng, report):
    """Measure the cost, the rank, the gadget and the model."""
    report(0.0, "time and error against the side")
    results = costs(setup, rng)
    report(0.4, "rank against the size of the entries")
    results |= ranks(setup)
    report(0.6, "largest inner products by attention")
    results |= gadget(setup, rng)
    report(0.7, "the whole model")
    results |= whole_model(setup, int(rng.integers(2**31)), report)
    return results


def scale_sides(n):
    """Sides of the token maps up to n, each half the next, rounded up."""
    sides = [n]
    while sides[-1] > 1:
        sides.append((sides[-1] + 1) // 2)
    return tuple(reversed(sides))


def costs(setup, rng):
    """Time and counted operations of both kinds of attention, and the error, at each side."""
    exact_seconds, exact_flops, fast_seconds, fast_flops = {}, {}, {}, {}
    largest = ratio = 0.0
    for n in setup.sides:
        sides = scale_sides(n)
        blocks = [side * side for side in sides]
        for radius in RADII:
            q, k, v = rng.uniform(-1, 1, (3, setup.heads, sum(blocks), HEAD))
            q, k = radius * q, radius * k
            exact = partial(exact_attention, q, k, v, blocks=blocks)
            fast = partial(polynomial_attention, q, k, v, eps=EPS, blocks=blocks, bound=radius**2)
            out, info = fast()
            error = np.abs(out[0] - exact_attention(q[0], k[0], v[0], blocks=blocks)).max()
            largest = max(largest, error)
            ratio = max(ratio, error / (2 * EPS / (1 - EPS) * np.abs(v[0]).max()))
        width = setup.heads * HEAD
        if EXACT_SIDES[0] <= n <= EXACT_SIDES[1]:
            exact_seconds[n] = _seconds(exact, setup)
            exact_flops[n] = count_flops(sides, width, heads=setup.heads)["attention"]
        if POLYNOMIAL_SIDES[0] <= n <= POLYNOMIAL_SIDES[1]:
            fast_seconds[n] = _seconds(fast, setup)
            fast_flops[n] = count_flops(sides, width, info["rank"], heads=setup.heads)["attention"]
    return {
        "exact_sides": np.array(list(exact_seconds)),
        "exact_seconds": np.array(list(exact_seconds.values())),
        "polynomial_sides": np.array(list(fast_seconds)),
        "polynomial_seconds": np.array(list(fast_seconds.values())),
        "exact_flops_slope": _slope(exact_flops),
        "exact_time_slope": _slope(exact_seconds),
        "polynomial_flops_slope": _slope(fast_flops),
        "polynomial_time_slope": _slope(fast_seconds),
        "rank_at_one": info["rank"],
        "largest_error": largest,
        "error_over_bound": ratio,
    }


def ranks(setup):
    """Rank against R: that of the polynomial, and the numerical one over all vectors of +-R."""
    radii = np.linspace(0.5, 5.5, setup.radii)
    signs = np.array(list(product((-1.0, 1.0), repeat=SIGNS)))
    results: dict[str, Any] = {
        "radii": radii,
        "numerical_rank": np.array([attention_numerical_rank(r * signs, r * signs) for r in radii]),
    }
    for d in (SIGNS, HEAD):
        results[f"rank_d{d}"] = np.array([attention_rank(r * r, EPS, d) for r in radii])
        for name, factor in (("below", BELOW), ("above", ABOVE)):
            needed = attention_rank(factor * math.log(TOKENS), EPS, d)
            results[f"rank_{name}_d{d}"] = needed
    results["crossing_log2"] = next(
        d for d in range(8, 100) if 4 * attention_rank(BELOW * d * math.log(2), EPS, d) < 2**d
    )
    return results


def gadget(setup, rng):
    """Wrong decisions of the largest inner product at each size of the logits, half of them yes."""
    keys = _sparse_bits(rng, GADGET_KEYS, GADGET_KEY_ONES)
    queries = _sparse_bits(rng, GADGET_DECISIONS, GADGET_QUERY_ONES)
    for query in queries[: GADGET_DECISIONS // 2]:  # one partner that shares all of its ones
        partner = keys[rng.integers(GADGET_KEYS)] == 1
        others = np.flatnonzero(~partner)
        query[:] = partner
        query[rng.choice(others, GADGET_QUERY_ONES - GADGET_KEY_ONES, replace=False)] = 1
    tau = GADGET_KEY_ONES - 0.5
    truth = (queries @ keys.T).max(axis=1) > tau
    log_keys = math.log(GADGET_KEYS)
    sizes = sorted({*setup.gadget_sizes, WRONG, RIGHT})
    wrong = {}
    for size in sizes:
        beta = math.sqrt(2 * size * log_keys * (GADGET_BITS + 1))
        answers = max_inner_product_exceeds(queries, keys, tau, beta=beta)
        wrong[size] = int(np.sum(answers != truth))
    return {
        "gadget_sizes": np.array(sizes),
        "gadget_wrong": np.array(list(wrong.values())),
        "gadget_yes": int(truth.sum()),
        "gadget_wrong_above": wrong[RIGHT],
        "gadget_wrong_below": wrong[WRONG],
    }


def whole_model(setup, seed, report):
    """Error of logits by polynomials, layer by layer, with its bound; and of a decoder's pixels."""
    model = NextScaleTransformer(MODEL_SIDES, eps=EPS, radius=1.0, rng=seed)
    trained = setup.steps > 0 and data.available(IMAGES)
    results = _trained(model, setup, seed, report) if trained else {}
    codes = model.sample(setup.generated, rng=seed + 1)
    usual = propagate_attention_error(model, codes)
    model.eps = BOUNDED_EPS
    found = propagate_attention_error(model, codes)
    decoder = MapDecoder(eps=EPS, rng=seed)
    generator = torch.Generator().manual_seed(seed)
    features = 0.5 * torch.randn(1, 1, MODEL_SIDES[-1], MODEL_SIDES[-1], generator=generator)
    pixels = propagate_attention_error(decoder, features)
    return results | {
        "model_trained": trained,
        "layer_error": found["layer_error"],
        "layer_bound": found["layer_bound"],
        "model_ranks": found["ranks"],
        "model_logit_bounds": found["logit_bounds"],
        "usual_layer_error": usual["layer_error"],
        "usual_logit_error": usual["output_error"],
        "logit_error": found["output_error"],
        "logit_bound": found["output_bound"],
        "logit_error_over_bound": _ratio(found),
        "pixel_error": pixels["output_error"],
        "pixel_error_over_bound": _ratio(pixels),
    }


def _ratio(found):
    """Error over bound; not a number where the bound says nothing."""
    error, bound = found["output_error"], found["output_bound"]
    return error / bound if math.isfinite(bound) else math.nan


def _trained(model, setup, seed, report):
    """Train on the codes of MNIST images at 16 x 16; the loss of the start and of the end."""
    images = data.read_idx(data.fetch(IMAGES, download=False))[: setup.images] / 255
    maps = area_downsample(np.pad(images, ((0, 0), (2, 2), (2, 2))), MODEL_SIDES[-1])
    quantizer = ResidualQuantizer(MODEL_SIDES, model.codebook, rng=seed)
    codes = torch.from_numpy(quantizer.fit(maps).transform(maps))
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / setup.steps)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for step in range(setup.steps):
        report(0.7 + 0.28 * step / setup.steps, "training on MNIST")
        batch = codes[torch.randint(len(codes), (BATCH,), generator=generator)]
        loss = torch.nn.functional.cross_entropy(model(batch).flatten(0, 1), batch.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return {
        "loss": np.array(losses),
        "final_loss": float(np.mean(losses[-10:])),
        "quantizer_error": quantizer.errors_[-1],
    }


def _seconds(call, setup):
    call()
    seconds = []
    for _ in range(setup.repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _slope(figures):
    """Exponent of a power of n, by least squares in logarithms."""
    return float(np.polyfit(np.log(list(figures)), np.log(list(figures.values())), 1)[0])


def _sparse_bits(rng, count, ones):
    order = np.argsort(rng.random((count, GADGET_BITS)), axis=1)
    return (order < ones).astype(float)


def draw(results, figure):
    """Time against the side; rank against the size of the entries."""
    left, right = figure.subplots(1, 2)
    _draw_time(left, results)
    _draw_rank(right, results)


def _draw_time(axes, results):
    for kind, title, colour in (("exact", "exact", "C3"), ("polynomial", "polynomial", "C0")):
        sides = np.asarray(results[f"{kind}_sides"])
        seconds = np.asarray(results[f"{kind}_seconds"])
        slope = results[f"{kind}_time_slope"]
        label = f"{title}, slope {slope:.2f}"
        axes.loglog(sides, seconds, "o-", color=colour, label=label)
        power = 4 if kind == "exact" else 2
        guide = seconds[-1] * (sides / sides[-1]) ** power
        axes.loglog(sides, guide, ":", color=colour, label=f"slope {power}, for comparison")
    ticks = sorted({*map(int, results["exact_sides"]), *map(int, results["polynomial_sides"])})
    ticks = [n for n in ticks if n & (n - 1) == 0]
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set(
        xlabel="side n of the last token map",
        ylabel="time of one attention layer (s)",
        title="Attention over the tokens of all scales",
    )
    axes.legend()


def _draw_rank(axes, results):
    radii = np.asarray(results["radii"])
    for d, colour in ((SIGNS, "C0"), (HEAD, "C2")):
        label = f"polynomial, {d} entries a query"
        axes.semilogy(radii, results[f"rank_d{d}"], "o-", ms=4, color=colour, label=label)
    label = f"singular values above {EPS:g}, {SIGNS} entries"
    axes.semilogy(radii, results["numerical_rank"], "s--", ms=4, color="C1", label=label)
    axes.axhline(TOKENS, color="0.35", lw=1)
    axes.text(4.9, TOKENS * 1.15, f"{TOKENS} tokens", ha="right", va="bottom", color="0.35")
    for factor in (BELOW, ABOVE):
        place = math.sqrt(factor * math.log(TOKENS))
        axes.axvline(place, ymax=0.78, color="0.6", ls=":", lw=1.2)
        axes.annotate(
            f"$R^2 = {factor:g}\\,\\log L$",
            (place, 0.52),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="right",
            va="bottom",
            color="0.35",
        )
    axes.set(
        xlabel="largest entry R of queries and keys",
        ylabel=f"rank for a relative error of {EPS:g}",
        title="The rank that attention needs",
        ylim=(3, 3e12),
    )
    axes.legend(loc="upper left")


STUDY = Study(
    paper="visual-autoregressive-limits",
    quick={
        "sides": (8, 16, 32, 64),
        "heads": 4,
        "repeats": 2,
        "radii": 5,
        "gadget_sizes": (0.5, 0.75, 0.9),
        "generated": 2,
        "images": 0,
        "steps": 0,
    },
    full={
        "sides": (8, 12, 16, 24, 32, 48, 64),
        "heads": 8,
        "repeats": 7,
        "radii": 11,
        "gadget_sizes": (0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.1, 1.25),
        "generated": 4,
        "images": 4000,
        "steps": 300,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "exact attention is quartic in the side",
            "exponent of counted operations, sides 8 to 32",
            "exact_flops_slope",
            between(3.8, 4.1),
        ),
        Claim(
            "exact attention is quartic in the side",
            "exponent of time, sides 8 to 32",
            "exact_time_slope",
            at_least(3.2),
            preset="full",
        ),
        Claim(
            "almost quadratic below the threshold",
            "exponent of time, R = 1, sides 16 to 64",
            "polynomial_time_slope",
            at_most(2.4),
            preset="full",
        ),
        Claim(
            "almost quadratic below the threshold",
            "exponent of counted operations, R = 1, sides 16 to 64",
            "polynomial_flops_slope",
            between(1.9, 2.1),
        ),
        Claim(
            "error within the guarantee",
            "largest error of all sides, over 2 eps / (1 - eps) max|v|, eps = 0.001",
            "error_over_bound",
            at_most(1),
        ),
        Claim("error within the guarantee", "largest error", "largest_error", reported()),
        *(
            Claim(
                "the threshold is sharp",
                f"rank at R^2 = {factor:g} log L, L = {TOKENS}, d = {d}",
                f"rank_{name}_d{d}",
                comparison,
            )
            for d, name, factor, comparison in (
                (HEAD, "below", BELOW, at_most(TOKENS // 4 - 1)),
                (HEAD, "above", ABOVE, at_least(TOKENS + 1)),
                (SIGNS, "above", ABOVE, at_least(TOKENS + 1)),
            )
        ),
        Claim(
            "the threshold is sharp",
            f"rank at R^2 = {BELOW:g} log L, L = {TOKENS}, d = {SIGNS}: not below L/4, nor can it "
            "be at this L (next line)",
            f"rank_below_d{SIGNS}",
            reported(),
        ),
        Claim(
            "the threshold is sharp",
            "least log2 L with rank < L/4 at R^2 = 0.25 log L, d = log2 L",
            "crossing_log2",
            reported(),
        ),
        Claim(
            "attention of large logits decides the largest inner product",
            f"wrong of {GADGET_DECISIONS} decisions, s/2 = {RIGHT:g} log L",
            "gadget_wrong_above",
            equals(0),
        ),
        Claim(
            "attention of small logits does not",
            f"wrong of {GADGET_DECISIONS} decisions, s/2 = {WRONG:g} log L",
            "gadget_wrong_below",
            at_least(1),
        ),
        Claim(
            "the error stays small through the whole model",
            "largest error of a logit of two layers, R = 1, eps = 1e-6, over its bound",
            "logit_error_over_bound",
            at_most(1),
        ),
        Claim(
            "the error stays small through the whole model",
            "the same error at eps = 0.001, where the bound may say nothing",
            "usual_logit_error",
            reported(),
        ),
        Claim(
            "the error stays small through the whole model",
            "largest error of a decoder's pixel, over its bound",
            "pixel_error_over_bound",
            at_most(1),
        ),
    ],
)

"""Networks of the study of Polyak's steps: a fleet of perceptrons, and a character model.

Methods differ in their optimizer alone: those of one seed start at the same weights and see the
same batches. A fleet is one graph, whose products are of all networks together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import islice, pairwise
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from thalweg import data
from thalweg._torch import torch
from thalweg.descent.polyak_optimizers import PolyakMomentum, PolyakSGD
from thalweg.language import CharText, TinyTransformer, language_loss
from thalweg.studies._threads import one_thread
from thalweg.studies.descent._large_scale_network import digits as handwritten
from thalweg.studies.descent._non_euclidean_networks import TEXT

Make = Callable[[Any], Any]

BETAS = (0.0, 0.5, 0.9, 0.95, 0.98)
RATES = (0.01, 0.1, 0.3, 1.0)
ADAM_RATES = (1e-3, 1e-2)
C = 0.3
SPS_C = 0.5
BATCH = 128
LONG = 10.0
"""The cap at which methods fail."""
TEXT_BATCH, CONTEXT, TEXT_RATE = 32, 64, 0.3


def entrants(extra: bool) -> dict[str, Make]:
    """Methods by name; `extra` adds the heavy ball and the runs with a long cap."""
    smag, sgd = partial(PolyakMomentum, c=C), torch.optim.SGD
    sps, alig = partial(PolyakSGD, c=SPS_C), partial(PolyakSGD, rule="ali-g")
    found: dict[str, Make] = {"sps": sps}
    for beta in BETAS:
        found[f"smag {beta}"] = partial(smag, momentum=beta)
        found[f"ali-g {beta}"] = partial(alig, momentum=beta)
        for rate in RATES:
            found[f"sgdm {rate} {beta}"] = partial(sgd, lr=rate, momentum=beta)
    for rate in ADAM_RATES:
        found[f"adam {rate}"] = partial(torch.optim.Adam, lr=rate)
    if extra:
        for beta in BETAS:
            found[f"shb {beta}"] = partial(smag, momentum=beta, variant="hb")
        found["long smag"] = partial(smag, lr_max=LONG, momentum=0.0)
        found["long sps"] = partial(sps, lr_max=LONG)
        found["long ali-g"] = partial(alig, lr_max=LONG, momentum=0.0)
    return found


def digits(setup: Any, seed: int) -> dict[str, Any]:
    """Train on scikit-learn's digits."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    makes = entrants(setup.digit_extra)
    # Six seeds at a time keep the weights of the fleet in the processor's cache.
    losses = [
        train_fleet(
            x, y, (64, 32, 10), list(makes.values()),
            seeds=range(first, min(first + 6, seed + setup.digit_seeds)),
            epochs=setup.digit_epochs,
        )
        for first in range(seed, seed + setup.digit_seeds, 6)
    ]  # fmt: skip
    results = summary(dict(zip(makes, np.concatenate(losses).T, strict=True)))
    return {f"digits_{name}": value for name, value in results.items()}


def mnist(setup: Any, seed: int) -> dict[str, Any]:
    """The same on 10000 handwritten digits with two hidden layers and one seed."""
    images, labels = handwritten()
    x, y = torch.tensor(images, dtype=torch.float32), torch.tensor(labels)
    makes = entrants(extra=False)
    losses = train_fleet(
        x, y, (784, 128, 64, 10), list(makes.values()), seeds=[seed], epochs=setup.mnist_epochs
    )
    results = summary(dict(zip(makes, losses.T, strict=True)))
    return {f"mnist_{name}": value for name, value in results.items()}


def summary(loss: dict[str, Any]) -> dict[str, Any]:
    """What the claims ask of final losses, an array over seeds for each method.

    Sensitivity is the worst over momenta of each seed, in the mean; one setting is compared with
    another by the median of the seeds' ratios.
    """
    smag, alig = (np.array([loss[f"{m} {b}"] for b in BETAS]) for m in ("smag", "ali-g"))
    sgdm = np.array([[loss[f"sgdm {rate} {beta}"] for beta in BETAS] for rate in RATES])
    at = BETAS.index(0.9)
    worst = {"smag": smag.max(axis=0), "alig": alig.max(axis=0), "sgdm": sgdm.max(axis=1)}
    results = {
        "smag": smag.mean(axis=1),
        "alig": alig.mean(axis=1),
        "sgdm": sgdm.mean(axis=2),
        "sps": loss["sps"].mean(),
        "smag_worst": worst["smag"].mean(),
        "alig_worst": worst["alig"].mean(),
        "sgdm_worst": worst["sgdm"].mean(axis=1),
        "smag_worst_by_seed": worst["smag"],
        "smag_over_sps": np.median(smag[at] / loss["sps"]),
        "mean_smag_over_sps": smag[at].mean() / loss["sps"].mean(),
        "worst_smag_over_alig": worst["smag"].mean() / worst["alig"].mean(),
        "at_09": np.array([np.median(smag[at]), np.median(alig[at])]),
        "adam": np.array([loss[f"adam {rate}"].mean() for rate in ADAM_RATES]),
    }
    if "shb 0.0" in loss:
        results["shb"] = np.array([loss[f"shb {b}"].mean() for b in BETAS])
        results["long_cap"] = np.array([loss[f"long {m}"].mean() for m in ("smag", "sps", "ali-g")])
    return results


def train_fleet(x, y, widths, makes, *, seeds, epochs):
    """Train a network for each seed and optimizer; return the losses on all rows, (seeds, makes).

    Optimizers get slices of tensors that hold the weights of all networks. A network whose loss is
    no longer finite stays as it is, and its loss counts as infinite.
    """
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    drawn = [initial(widths, generator) for generator in generators]
    stacks = [torch.stack(ws).repeat_interleave(len(makes), 0) for ws in zip(*drawn, strict=True)]
    slopes = [torch.zeros_like(stack) for stack in stacks]
    for stack, slope in zip(stacks, slopes, strict=True):
        stack.requires_grad_().grad = slope
    methods = [
        make([_slice(stack, number) for stack in stacks])
        for number, make in enumerate(list(makes) * len(generators))
    ]

    def losses(rows):
        inputs = x[rows].repeat_interleave(len(makes), 0)
        return fleet_losses(stacks, inputs, y[rows].repeat_interleave(len(makes), 0))

    with one_thread():
        for _ in range(epochs):
            orders = torch.stack([torch.randperm(len(x), generator=g) for g in generators])
            for rows in orders.split(BATCH, dim=1):
                if rows.shape[1] == BATCH:
                    several = losses(rows)
                    for slope in slopes:
                        slope.zero_()
                    several.sum().backward()
                    for method, loss in zip(methods, several.tolist(), strict=True):
                        step(method, loss)
        with torch.no_grad():
            everything = torch.arange(len(x)).expand(len(generators), -1)
            parts = [losses(rows) * rows.shape[1] for rows in everything.split(500, dim=1)]
        final = (sum(parts) / len(x)).double().numpy().reshape(len(generators), len(makes))
    return np.where(np.isfinite(final), final, np.inf)


def _slice(stack, number):
    """One network's part of a stack, as a parameter that shares its memory and gradient."""
    parameter = torch.nn.Parameter(stack.detach()[number])
    parameter.grad = stack.grad[number]
    return parameter


def step(method, loss):
    """Step with the gradients at hand, unless the loss is not finite."""
    if not math.isfinite(loss):
        return
    if isinstance(method, PolyakMomentum | PolyakSGD):
        method.step(loss=loss)
    else:
        method.step()


def initial(widths, generator):
    """Weights and biases drawn evenly from ±1 / sqrt(inputs), as torch's linear layers are."""
    drawn = []
    for inputs, outputs in pairwise(widths):
        for shape in ((inputs, outputs), (outputs,)):
            drawn.append((2 * torch.rand(shape, generator=generator) - 1) / inputs**0.5)
    return drawn


def fleet_losses(stacks, inputs, labels):
    """Mean cross-entropy of each network on rows of its own, (networks, rows, inputs)."""
    hidden = inputs
    for number, (weights, biases) in enumerate(zip(stacks[::2], stacks[1::2], strict=True)):
        hidden = torch.baddbmm(biases[:, None], hidden.relu() if number else hidden, weights)
    each = torch.nn.functional.cross_entropy(
        hidden.flatten(0, 1), labels.reshape(-1), reduction="none"
    )
    return each.view(labels.shape).mean(dim=1)


def characters(setup: Any, seed: int, report: Callable[[float, str], None]) -> dict[str, Any]:
    """Train a small transformer on plays: losses of unseen text against momentum."""
    with data.open_text(data.fetch(TEXT, download=False)) as file:
        text = file.read()
    cut = int(0.9 * len(text))
    seen = CharText(text[:cut], vocabulary="".join(sorted(set(text))))
    unseen = CharText(text[cut:], vocabulary=seen.vocabulary).windows(CONTEXT)[:256]
    betas = (0.5, 0.9, 0.98)
    makes: dict[str, list[Make]] = {
        "smag": [partial(PolyakMomentum, lr_max=TEXT_RATE, momentum=b) for b in betas],
        "sgdm": [partial(torch.optim.SGD, lr=TEXT_RATE, momentum=b) for b in betas],
        "adam": [partial(torch.optim.Adam, lr=2e-3)],
    }
    results = {}
    done, total = 0, sum(map(len, makes.values()))
    for name, several in makes.items():
        losses = []
        for make in several:
            report(0.6 + 0.4 * done / total, f"characters: {name}")
            done += 1
            losses.append(text_loss(seen, unseen, make, seed, setup.text_steps))
        results[f"text_{name}"] = np.array(losses)
    return results


def text_loss(seen: CharText, unseen: torch.Tensor, make: Make, seed: int, steps: int) -> float:
    """Train one model; return its loss on the unseen windows, infinite where it diverged."""
    model = TinyTransformer(len(seen.vocabulary), rng=seed, context=CONTEXT)
    method = make(model.parameters())
    for batch in islice(seen.batches(TEXT_BATCH, CONTEXT, rng=seed), steps):
        loss = language_loss(model, batch)
        if not bool(loss.isfinite()):
            return math.inf
        method.zero_grad()
        loss.backward()
        step(method, float(loss.detach()))
    with torch.no_grad():
        final = float(language_loss(model, unseen))
    return final if math.isfinite(final) else math.inf

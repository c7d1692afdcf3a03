"""Networks trained by the methods of the study of the norm trust region.

A perceptron on scikit-learn's digits, and a character transformer on a text. Every method has rates
of its own, which fall linearly to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from thalweg import data
from thalweg._torch import torch
from thalweg.descent.norm_optimizer import NormTrustRegion
from thalweg.language import CharText, TinyTransformer, language_loss
from thalweg.studies._threads import one_thread

TEXT = "tinyshakespeare"
METHODS: dict[str, Callable[[Any, float], Any]] = {
    "Muon": lambda p, lr: NormTrustRegion(p, lr, alpha=0.1),
    "Muon, weight decay": lambda p, lr: NormTrustRegion(p, lr, alpha=0.1, weight_decay=2e-3),
    "Orthogonal-SGDM": lambda p, lr: NormTrustRegion(p, lr, alpha=0.1, orthogonalise="before"),
    "signSGD-M": lambda p, lr: NormTrustRegion(p, lr, norm="linf", alpha=0.1),
    "normalised SGD-M": lambda p, lr: NormTrustRegion(
        p, lr, norm="l2", vector_norm="l2", alpha=0.1
    ),
    "SGD-M": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "AdamW": lambda p, lr: torch.optim.AdamW(p, lr=lr),
}
TEXT_RATES = {
    "Muon": (0.03, 0.1, 0.3),
    "Muon, weight decay": (0.03, 0.1, 0.3),
    "Orthogonal-SGDM": (0.03, 0.1, 0.3),
    "signSGD-M": (0.0005, 0.001, 0.002),
    "normalised SGD-M": (0.05, 0.1, 0.2),
    "SGD-M": (0.1, 0.3, 1.0),
    "AdamW": (0.0007, 0.002, 0.006),
}
CONTEXT = 64


def digits(setup: Any, seed: int) -> dict[str, Any]:
    """Train a perceptron on scikit-learn's digits: the loss of the best rate of Muon and SGD-M."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    seeds = range(seed, seed + setup.digit_seeds)
    best = {}
    with one_thread():
        for name, rates in (("Muon", setup.muon_rates), ("SGD-M", setup.sgd_rates)):
            curves = [
                np.mean([_digits_curve(x, y, name, rate, s, setup.epochs) for s in seeds], axis=0)
                for rate in rates
            ]
            best[name] = min(curves, key=lambda curve: curve[-1])
    muon, sgd = best["Muon"], best["SGD-M"]
    return {
        "digits_muon": float(muon[-1]),
        "digits_sgd": float(sgd[-1]),
        "digits_ratio": float(muon[-1] / sgd[-1]),
        "digits_muon_curve": muon,
        "digits_sgd_curve": sgd,
    }


def characters(setup: Any, seed: int, report: Callable[[float, str], None]) -> dict[str, Any]:
    """Train a small transformer on plays: every method on the blocks' matrices, AdamW elsewhere."""
    with data.open_text(data.fetch(TEXT, download=False)) as file:
        text = file.read()
    cut = int(0.9 * len(text))
    seen = CharText(text[:cut], vocabulary="".join(sorted(set(text))))
    unseen = CharText(text[cut:], vocabulary=seen.vocabulary).windows(CONTEXT)[:512]
    every = max(setup.text_steps // 10, 1)
    best: dict[str, tuple[list[float], float]] = {}
    for done, (name, rates) in enumerate(TEXT_RATES.items()):
        report(0.4 + 0.6 * done / len(TEXT_RATES), f"characters: {name}")
        runs = [
            (_text_curve(seen, unseen, name, r, seed, setup.text_steps, every), r) for r in rates
        ]
        best[name] = min(runs, key=lambda run: run[0][-1])
    losses = {name: curve[-1] for name, (curve, _) in best.items()}
    return {
        "text_methods": np.array(list(best)),
        "text_rates": np.array([rate for _, rate in best.values()]),
        "text_curves": np.array([curve for curve, _ in best.values()]),
        "text_every": every,
        "text_muon": losses["Muon"],
        "text_muon_over_osgdm": losses["Muon"] - losses["Orthogonal-SGDM"],
        "text_muon_over_adamw": losses["Muon"] - losses["AdamW"],
        "text_decay": losses["Muon, weight decay"] - losses["Muon"],
    }


def _digits_curve(
    x: torch.Tensor, y: torch.Tensor, name: str, rate: float, seed: int, epochs: int
) -> NDArray[np.float64]:
    """Return the loss on all digits after the first step and after each epoch."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise((64, 128, 64, 10)):
        layer = torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs)
        with torch.no_grad():
            layer.weight.normal_(0, (2 / inputs) ** 0.5, generator=generator)
            layer.bias.zero_()
        layers += [layer, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(x[rows]), y[rows])

    def batches() -> Iterator[torch.Tensor]:
        while True:
            yield from torch.randperm(len(x), generator=generator).split(64)

    per_epoch = -(-len(x) // 64)
    steps = epochs * per_epoch
    curve = []
    for k in _train(loss, batches(), [METHODS[name](model.parameters(), rate)], steps):
        if k == 1 or k % per_epoch == 0:
            with torch.no_grad():
                curve.append(float(loss(torch.arange(len(x)))))
    return np.array(curve)


def _text_curve(
    seen: CharText,
    unseen: torch.Tensor,
    name: str,
    rate: float,
    seed: int,
    steps: int,
    every: int,
) -> list[float]:
    """Return the validation loss every so many steps."""
    model = TinyTransformer(len(seen.vocabulary), rng=seed, context=CONTEXT)
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    methods = [METHODS[name](matrices, rate), torch.optim.AdamW(rest, lr=0.004)]
    batches = seen.batches(32, CONTEXT, rng=seed)
    curve = []
    for k in _train(lambda batch: language_loss(model, batch), batches, methods, steps):
        if k % every == 0:
            with torch.no_grad():
                curve.append(float(language_loss(model, unseen)))
    return curve


def _train(
    loss: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[torch.Tensor],
    methods: list[Any],
    steps: int,
) -> Iterator[int]:
    """Take steps with rates that fall to zero; yield their number after each."""
    falling = [
        torch.optim.lr_scheduler.LambdaLR(method, lambda k: 1 - k / steps) for method in methods
    ]
    for k, batch in enumerate(islice(batches, steps), start=1):
        value = loss(batch)
        for method in methods:
            method.zero_grad()
        value.backward()
        for method, schedule in zip(methods, falling, strict=True):
            method.step()
            schedule.step()
        yield k

"""Sampling of a MADE by Jacobi iteration, against the plain loops and the network calls alone."""

import functools

import pytest
import torch

from thalweg.language import MADE
from thalweg.linalg import solve_feedforward
from thalweg.studies.linalg._parallel_feedforward_networks import sample_by_columns, train_on_bits

SIDE, HIDDEN, SAMPLES, SEED = 28, 300, 64, 0
STEPS, KEPT = 784, 0.5


@functools.cache
def trained():
    """A model with strokes a few pixels wide in place of digits: nothing has to be downloaded."""
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(2000, 1, SIDE, SIDE, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)
    bits = (smooth > 0.15).float().flatten(1)
    model = MADE(SIDE**2, (HIDDEN,), rng=generator)
    train_on_bits(model, bits, 4, generator)
    exact = model.sample(SAMPLES, "gauss-seidel", SEED)
    return model, exact


def wrong(exact):
    return "share of wrong bits", lambda samples: float((samples != exact).float().mean())


@pytest.mark.parametrize("entrant", ["thalweg, Jacobi", "a network call a bit"])
def test_against_the_plain_loop(measure, entrant):
    model, exact = trained()
    method = "jacobi" if entrant.startswith("thalweg") else "gauss-seidel"
    measure(
        lambda: model.sample(SAMPLES, method, SEED),
        workload="64 samples of a MADE, 784 bits, 300 hidden units",
        entrant=entrant,
        accuracy=wrong(exact),
        target=8.0,
        rounds=3,
    )


@pytest.mark.parametrize("entrant", ["thalweg, Jacobi", "a column of the network a bit"])
def test_against_the_best_plain_loop(measure, entrant):
    model, exact = trained()
    ours = entrant.startswith("thalweg")
    measure(
        lambda: model.sample(SAMPLES, "jacobi", SEED) if ours else columns(model),
        workload="64 samples of a MADE, 784 bits, against a loop over columns",
        entrant=entrant,
        accuracy=wrong(exact),
        rounds=3,
    )


def columns(model):
    return sample_by_columns(model, SAMPLES, SEED)


@pytest.mark.parametrize("entrant", ["thalweg, Jacobi", "its calls and draws alone"])
def test_overhead_of_the_solver(measure, entrant):
    """The time outside the function that it calls: at most 5 % of the whole."""
    model, exact = trained()
    calls = model.sample(SAMPLES, "jacobi", SEED, full_output=True)[1].nit
    generator = torch.Generator().manual_seed(SEED)

    @torch.no_grad()
    def alone():
        threshold = torch.rand(exact.shape, generator=generator).logit()
        weights = model._weights()
        for _ in range(calls):
            (threshold < model._log_odds(exact, weights)).float()
        return exact

    ours = entrant.startswith("thalweg")
    measure(
        (lambda: model.sample(SAMPLES, "jacobi", SEED)) if ours else alone,
        workload="64 samples of a MADE, 784 bits, or its calls and draws alone",
        entrant=entrant,
        accuracy=wrong(exact),
        target=0.95,
        rounds=10,
    )


@pytest.mark.parametrize("entrant", ["thalweg, Jacobi", "the plain loop"])
def test_a_forgetful_recurrence(measure, entrant):
    """784 steps of a recurrence of 256 tanh units that halves its past."""
    generator = torch.Generator().manual_seed(SEED)
    weight = KEPT * torch.linalg.qr(torch.randn(256, 256, generator=generator))[0]
    drive = torch.randn(STEPS, 256, generator=generator)

    def step(s, idx):
        low, high = int(idx[0]), int(idx[-1]) + 1
        before = s[low - 1 : high - 1] if low else torch.cat((s.new_zeros(1, 256), s[: high - 1]))
        return torch.tanh(before @ weight + drive[low:high])

    exact = solve_feedforward(step, torch.zeros_like(drive), method="gauss-seidel").x
    method = "jacobi" if entrant.endswith("Jacobi") else "gauss-seidel"
    measure(
        lambda: solve_feedforward(step, torch.zeros_like(drive), method=method, tol=1e-6).x,
        workload="784 steps of 256 tanh units, to 1e-6",
        entrant=entrant,
        accuracy=("error", lambda x: float((x - exact).abs().max())),
        target=1.0,
    )

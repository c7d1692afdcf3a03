"""Six polynomial steps bring singular values from a thousandth to within a thousandth of one."""

from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from thalweg import data
from thalweg._torch import torch
from thalweg.descent import MuonWithAdamW
from thalweg.language import CharText, TinyTransformer, language_loss
from thalweg.linalg import (
    convergence_bound,
    named_schedule,
    polar_express_schedule,
    polar_factor,
    worst_case_error,
)
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, reported

TEXT = "tinyshakespeare"
TRAINING_CHARACTERS = 1_000_000
LOWER = 1e-3
STEPS = range(1, 15)
PEERS = ("jordan", "you", "newton-schulz-5")
TITLES = {
    "polar-express": "Polar Express",
    "jordan": "Jordan",
    "you": "You",
    "newton-schulz-5": "Newton-Schulz 5",
    "exact": "exact polar factor",
    "adamw": "AdamW alone",
}
COLOURS = {
    "polar-express": "C0",
    "jordan": "C1",
    "you": "C2",
    "newton-schulz-5": "C4",
    "exact": "0.35",
    "adamw": "C3",
}
MUON_OPTIONS: dict[str, dict[str, Any]] = {
    "polar-express": {"schedule": "polar-express"},
    "jordan": {"schedule": "jordan"},
    "you": {"schedule": "you"},
    "exact": {"schedule": "polar-express", "n_iter": 16},
}
ADAMW_RATE = 3e-3
EVALUATIONS = 4


def run(setup, rng, report):
    """Compare schedules on intervals, matrices and, where the text is there, a training run."""
    report(0.0, "worst-case errors")
    results = _worst_cases()
    results |= _perturbations(setup, rng)
    report(0.03, "matrices")
    results |= _matrices(setup, rng)
    results |= _half_precision(setup, rng)
    if data.available(TEXT):
        texts = _texts()
        results |= _gradient(setup, rng, texts[0])
        results |= _training(setup, rng, texts, report)
    return results


def _worst_cases():
    """Errors on [1e-3, 1] after each number of steps."""
    optimum = polar_express_schedule(len(STEPS), LOWER, cushion=0, safety=1)
    errors = {"optimum": np.array([worst_case_error(optimum[:t], LOWER) for t in STEPS])}
    for name in PEERS:
        errors[name] = np.array([worst_case_error(named_schedule(name, t), LOWER) for t in STEPS])
    safe = np.array([worst_case_error(polar_express_schedule(t), LOWER) for t in STEPS])
    best_peer = np.minimum.reduce([errors[name] for name in PEERS])
    best = errors["optimum"]
    bound = np.array([convergence_bound(LOWER, t) for t in STEPS])
    cubic = [after / before**3 for before, after in pairwise(best[3:7])]
    return {
        **{f"worst_{name}": values for name, values in errors.items()},
        "worst_safe": safe,
        "bound": bound,
        "early_ratio": best[4] / best_peer[4],
        "late_ratio": best[5] / best_peer[5],
        "cubic_ratio": max(cubic),
        "bound_excess": float(np.max(best - bound)),
        "steps_needed": STEPS[np.argmax(best <= 0.12)],
        "newton_schulz_steps": STEPS[np.argmax(errors["newton-schulz-5"] <= 0.12)],
    }


def _perturbations(setup, rng):
    best = polar_express_schedule(2, LOWER, cushion=0, safety=1)
    least = np.inf
    for _ in range(setup.perturbations):
        size = 10 ** rng.uniform(-3, -1)
        other = best * (1 + size * rng.uniform(-1, 1, best.shape))
        least = min(least, worst_case_error(other, LOWER))
    return {"best_perturbed_gain": worst_case_error(best, LOWER) - least}


def _matrices(setup, rng):
    """Spectral and Frobenius errors on a matrix of singular values down to 1e-6."""
    matrix, exact = _spread(rng, setup.size, 1e-6)
    results = {}
    for name in ("polar-express", *PEERS):
        factors = [polar_factor(matrix, t, name) for t in STEPS]
        results[f"frobenius_{name}"] = np.array([_error(f, exact) for f in factors])
        results[f"spectral_{name}"] = np.array([np.linalg.norm(f - exact, 2) for f in factors])
    return results


def _half_precision(setup, rng):
    matrix, exact = _spread(rng, 256, LOWER)
    matrix = torch.tensor(matrix, dtype=torch.float32)
    results = {}
    for label, schedule in (
        ("half", polar_express_schedule(8)),
        ("half_unguarded", polar_express_schedule(8, cushion=0, safety=1)),
    ):
        factor = polar_factor(matrix, 8, schedule, dtype=torch.bfloat16).double().numpy()
        values = np.linalg.svd(factor, compute_uv=False)
        results[f"{label}_largest"], results[f"{label}_smallest"] = values[0], values[-1]
        results[f"{label}_error"] = _error(factor, exact)
    return results


def _gradient(setup, rng, text):
    """Frobenius errors on a gradient of the untrained transformer."""
    model = _model(text, setup, int(rng.integers(2**31)))
    batches = text.batches(setup.batch, setup.context, int(rng.integers(2**31)))
    language_loss(model, next(batches)).backward()
    gradient = model.blocks[0].perceptron_in.weight.grad.double().numpy()
    u, values, v = np.linalg.svd(gradient, full_matrices=False)
    rank = int(np.sum(values > 1e-6 * values[0]))  # the norm before the layer loses a direction
    exact = u[:, :rank] @ v[:rank]
    errors = {
        name: np.array([_error(polar_factor(gradient, t, name), exact) for t in STEPS])
        for name in ("polar-express", *PEERS)
    }
    return {
        **{f"gradient_{name}": values for name, values in errors.items()},
        "gradient_ratio": errors["polar-express"][4] / min(errors[name][4] for name in PEERS),
        "gradient_least": values[rank - 1] / np.linalg.norm(values),
    }


def _training(setup, rng, texts, report):
    """Best validation loss of each method, learning rate and seed."""
    text, held_out = texts
    windows = held_out.windows(setup.context)[: setup.windows]
    seeds = [int(seed) for seed in rng.integers(2**31, size=setup.seeds)]
    runs = [(method, rate) for method in MUON_OPTIONS for rate in setup.rates]
    runs += [("adamw", rate) for rate in setup.adamw_rates]
    losses = {}
    for number, (method, rate) in enumerate(runs):
        report(0.1 + 0.9 * number / len(runs), f"{TITLES[method]}, learning rate {rate:g}")
        losses[method, rate] = [
            _best_loss(setup, text, windows, method, rate, seed) for seed in seeds
        ]
    results = {"rates": np.array(setup.rates), "adamw_rates": np.array(setup.adamw_rates)}
    best = {}
    for method in (*MUON_OPTIONS, "adamw"):
        rates = setup.adamw_rates if method == "adamw" else setup.rates
        table = np.array([losses[method, rate] for rate in rates])
        results[f"loss_{method}"] = table
        best[method] = table.min(axis=0).mean()
    for other in ("jordan", "you", "exact", "adamw"):
        results[f"gain_over_{other}"] = best["polar-express"] - best[other]
    return results


def _best_loss(setup, text, windows, method, rate, seed):
    model = _model(text, setup, seed)
    optimizer: torch.optim.Optimizer
    if method == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    else:
        optimizer = MuonWithAdamW(model, rate, ADAMW_RATE, **MUON_OPTIONS[method])
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (1 - step / setup.steps) / 0.6)
    )
    best = np.inf
    batches = text.batches(setup.batch, setup.context, seed)
    for step, batch in enumerate(islice(batches, setup.steps), 1):
        optimizer.zero_grad()
        language_loss(model, batch).backward()
        optimizer.step()
        scheduler.step()
        if step % (setup.steps // EVALUATIONS) == 0:
            with torch.no_grad():
                best = min(best, language_loss(model, windows).item())
    return best


def _model(text, setup, seed):
    return TinyTransformer(len(text.vocabulary), width=setup.width, context=setup.context, rng=seed)


def _texts():
    with data.open_text(data.fetch(TEXT, download=False)) as file:
        text = file.read()
    vocabulary = "".join(sorted(set(text)))
    parts = text[:TRAINING_CHARACTERS], text[TRAINING_CHARACTERS:]
    return [CharText(part, vocabulary=vocabulary) for part in parts]


def _spread(rng, n, least):
    u, v = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    return (u * np.geomspace(least, 1, n)) @ v.T, u @ v.T


def _error(factor, exact):
    return np.linalg.norm(factor - exact) / np.sqrt(min(exact.shape))


def draw(results, figure):
    """Worst-case errors with the paper's bound; losses of training, or errors on a matrix."""
    left, right = figure.subplots(1, 2)
    _draw_errors(left, results)
    if "loss_jordan" in results:
        _draw_losses(right, results)
    else:
        _draw_matrix(right, results)


def _draw_errors(axes, results):
    shown = STEPS[:10]
    axes.semilogy(shown, results["bound"][: len(shown)], "k:", label="bound of the paper")
    for name in ("newton-schulz-5", "jordan", "you"):
        values = results[f"worst_{name}"][: len(shown)]
        axes.semilogy(shown, values, "o-", ms=4, color=COLOURS[name], label=TITLES[name])
    optimum = np.maximum(results["worst_optimum"][: len(shown)], 1e-16)
    axes.semilogy(shown, optimum, "o-", ms=5, lw=2, color="C0", label="Polar Express, the optimum")
    safe = np.maximum(results["worst_safe"][: len(shown)], 1e-16)
    axes.semilogy(shown, safe, "--", color="C0", label="with cushion and safety")
    axes.set(
        xlabel="number of polynomials of degree 5",
        ylabel="worst error on singular values in [0.001, 1]",
        title="Distance to the polar factor",
        ylim=(3e-17, 4),
    )
    axes.set_xticks(shown)
    axes.legend(loc="lower left")


def _draw_losses(axes, results):
    rates = np.asarray(results["rates"])
    for place, name in enumerate(MUON_OPTIONS):
        table = np.asarray(results[f"loss_{name}"])
        shifted = rates * 1.03 ** (place - (len(MUON_OPTIONS) - 1) / 2)
        style = {"color": COLOURS[name], "label": TITLES[name]}
        axes.semilogx(
            shifted, table.mean(axis=1), "s--" if name == "exact" else "o-", ms=5, **style
        )
        axes.vlines(shifted, table.min(axis=1), table.max(axis=1), color=COLOURS[name], lw=1)
    alone = np.asarray(results["loss_adamw"]).min(axis=0).mean()
    axes.axhline(alone, color=COLOURS["adamw"], ls=":", label=f"{TITLES['adamw']}, best rate")
    axes.set_xlim(rates.min() / 1.4, rates.max() * 1.4)
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    axes.margins(y=0.1)
    axes.set(
        xlabel="learning rate of Muon (bars: range of the seeds)",
        ylabel="best validation loss (nats a character)",
        title="Character transformer trained with Muon",
    )
    axes.legend(loc="upper left", bbox_to_anchor=(0.08, 0.9))


def _draw_matrix(axes, results):
    for name in ("polar-express", *PEERS):
        axes.semilogy(
            STEPS, results[f"frobenius_{name}"], "o-", ms=4, color=COLOURS[name], label=TITLES[name]
        )
    axes.set(
        xlabel="number of polynomials of degree 5",
        ylabel="Frobenius error / sqrt(n)",
        title="A matrix with singular values from 1e-6 to 1",
    )
    axes.legend()


def polar_of_file(path, setup, out, rng, report):
    """Write the polar factor of a user's matrix, and say how orthogonal each step made it."""
    matrix = _read_matrix(Path(path))
    factor, info = polar_factor(matrix, setup.n_iter, setup.schedule, fast=False, full_output=True)
    target = Path(out) / f"{Path(path).stem}-polar{Path(path).suffix.lower()}"
    if target.suffix == ".npy":
        np.save(target, factor)
    else:
        np.savetxt(target, factor, delimiter=",")
    residuals = info["residuals"]
    if residuals.ndim > 1:
        residuals = residuals.max(axis=tuple(range(1, residuals.ndim)))
    return {
        "shape": " x ".join(map(str, matrix.shape)),
        "steps": setup.n_iter,
        "schedule": setup.schedule,
        "residual after each step": residuals,
        "residual": residuals[-1],
    }


def _read_matrix(path):
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".csv"):
        raise ValueError(f"the file must end in .npy or .csv, got {path.name}")
    try:
        if suffix == ".npy":
            matrix = np.load(path, allow_pickle=False)
        else:
            matrix = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path.name} must hold a matrix of numbers: {error}") from error
    return matrix


STUDY = Study(
    paper="polar-express",
    quick={
        "size": 64,
        "perturbations": 200,
        "steps": 40,
        "rates": (0.02,),
        "adamw_rates": (0.003,),
        "seeds": 1,
        "width": 32,
        "context": 32,
        "batch": 8,
        "windows": 32,
    },
    full={
        "size": 256,
        "perturbations": 200,
        "steps": 400,
        "rates": (0.005, 0.01, 0.02, 0.05),
        "adamw_rates": (0.001, 0.003, 0.01),
        "seeds": 2,
        "width": 64,
        "context": 64,
        "batch": 24,
        "windows": 128,
    },
    run=run,
    draw=draw,
    claims=[
        Claim(
            "fastest in the worst case, early",
            "error after 5 polynomials on [0.001, 1], over that of the best peer",
            "early_ratio",
            at_most(0.3),
        ),
        Claim(
            "fastest in the worst case, late",
            "error after 6 polynomials on [0.001, 1], over that of the best peer",
            "late_ratio",
            at_most(0.01),
        ),
        Claim(
            "the greedy choice is optimal among all compositions",
            "largest decrease of the error by 200 perturbations of two polynomials",
            "best_perturbed_gain",
            at_most(1e-12),
        ),
        Claim(
            "cubic convergence",
            "largest error over the cube of the one before, 4 to 7 polynomials",
            "cubic_ratio",
            at_most(1),
        ),
        Claim(
            "the error keeps the proven bound",
            "largest excess of the error over the bound, 1 to 14 polynomials",
            "bound_excess",
            at_most(0),
        ),
        Claim(
            "same accuracy in fewer steps",
            "polynomials until the error on [0.001, 1] is at most 0.12",
            "steps_needed",
            at_most(5),
        ),
        Claim(
            "same accuracy in fewer steps",
            "polynomials of Newton-Schulz for the same",
            "newton_schulz_steps",
            at_least(12),
        ),
        Claim(
            "works in bfloat16",
            "largest singular value after 8 polynomials, 256 x 256",
            "half_largest",
            at_most(1.02),
        ),
        Claim(
            "works in bfloat16",
            "smallest singular value after 8 polynomials, 256 x 256",
            "half_smallest",
            at_least(0.8),
        ),
        Claim(
            "works in bfloat16",
            "Frobenius error / sqrt(n) after 8 polynomials, 256 x 256",
            "half_error",
            at_most(0.12),
        ),
        Claim(
            "cushion and safety steady bfloat16",
            "the same error without cushion and safety: no visible difference at this size",
            "half_unguarded_error",
            reported(),
        ),
        Claim(
            "closer to the polar factor of a gradient",
            "Frobenius error after 5 polynomials, over that of the best peer",
            "gradient_ratio",
            reported(),
            data=TEXT,
        ),
        Claim(
            "a better optimizer inside Muon",
            "best validation loss over learning rates, minus that of Jordan's coefficients",
            "gain_over_jordan",
            at_most(0.01),
            preset="full",
            unit="nats",
            data=TEXT,
        ),
        *(
            Claim(
                "a better optimizer inside Muon",
                f"best validation loss over learning rates, minus that of {title}",
                f"gain_over_{name}",
                reported(),
                preset="full",
                unit="nats",
                data=TEXT,
            )
            for name, title in (
                ("you", "You's coefficients"),
                ("exact", "the exact polar factor"),
                ("adamw", "AdamW alone"),
            )
        ),
    ],
    on_file=FileMethod(
        run=polar_of_file,
        expects="a matrix: .npy (or a batch of matrices), or .csv of numbers without a header",
        options={"n_iter": 10, "schedule": "polar-express"},
    ),
)

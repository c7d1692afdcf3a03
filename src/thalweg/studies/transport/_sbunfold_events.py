"""A user's simulated and measured events, read, unfolded and written; columns of counts."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from thalweg.transport import BridgeUnfolder, unfolding_report

NFE = 50
OPTIONS = {"steps": 2000, "nfe": NFE, "iterations": 1, "cond": True}


def on_file(path, setup, out, rng, report):
    """Learn from the simulated pairs of a user's file and unfold its data."""
    arrays = read_events(path)
    truth, measured, data = (arrays[name] for name in ("truth", "measured", "data"))
    counts = integer_columns(truth, measured, data)

    def progress(state):
        share = (state.iteration - 1 + state.step / state.n_steps) / setup.iterations
        report(0.9 * share, f"iteration {state.iteration}, loss {state.loss:.4g}")

    model = BridgeUnfolder(
        cond=setup.cond,
        n_steps=setup.steps,
        nfe=setup.nfe,
        n_iterations=setup.iterations,
        callback=progress,
        rng=int(rng.integers(2**31)),
    )
    model.fit(
        spread(truth, counts, rng), spread(measured, counts, rng), data=spread(data, counts, rng)
    )
    report(0.9, "unfolding")
    unfolded = whole(model.transform(spread(data, counts, rng)), counts)
    np.savez(out / "unfolded.npz", unfolded=unfolded, weights=model.weights_)
    printed: dict[str, Any] = {
        "events": len(unfolded),
        "columns_of_counts": np.flatnonzero(counts).tolist(),
        "loss_at_start": float(model.loss_curve_[0]),
        "loss_at_end": float(model.loss_curve_[-100:].mean()),
    }
    if "data_truth" in arrays:
        found = unfolding_report(arrays["data_truth"], unfolded, rng=rng)
        before = unfolding_report(arrays["data_truth"], data, n_boot=0)
        table = {
            name: {"distance": value, "deviation": deviation, "before": before[name][0]}
            for name, (value, deviation) in found.items()
        }
        text = json.dumps(table, indent=1, allow_nan=False)
        (out / "report.json").write_text(text + "\n", encoding="utf-8")
        printed["mean_distance_unfolded"] = np.mean([row["distance"] for row in table.values()])
        printed["mean_distance_measured"] = np.mean([row["before"] for row in table.values()])
    return printed


def read_events(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of the file; ValueError in one line for what does not fit."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, TypeError, zipfile.BadZipFile):
        raise ValueError(f"--input: {path} is not an .npz file of plain arrays") from None
    for name in ("truth", "measured", "data"):
        if name not in arrays:
            raise ValueError(f"--input: {path} has no array {name!r}; it has {sorted(arrays)}")
    events = {}
    for name in ("truth", "measured", "data", "data_truth"):
        if name not in arrays:
            continue
        table = arrays[name]
        if table.ndim != 2 or table.dtype.kind not in "biuf" or len(table) < 2:
            raise ValueError(f"--input: {name} must be numbers of shape (n, d), n at least 2")
        if table.shape[1] != arrays["truth"].shape[1]:
            raise ValueError(f"--input: {name} must have as many columns as truth")
        if not np.isfinite(table).all():
            raise ValueError(f"--input: {name} must be finite")
        events[name] = table.astype(float)
    if len(events["truth"]) != len(events["measured"]):
        raise ValueError("--input: truth and measured must be pairs, with as many rows each")
    return events


def integer_columns(*tables):
    """Return which columns hold whole numbers alone, in all tables."""
    return np.all([(table == np.round(table)).all(axis=0) for table in tables], axis=0)


def spread(events, counts, rng):
    """Return events with the columns of counts made continuous by U(-1/2, 1/2)."""
    events = events.copy()
    events[:, counts] += rng.uniform(-0.5, 0.5, size=(len(events), counts.sum()))
    return events


def whole(events, counts):
    """Return events with the columns of counts rounded."""
    events = events.copy()
    events[:, counts] = np.round(events[:, counts])
    return events

"""The transfer between the two samples of a user's file."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np

from thalweg.transport import FlowTransfer, classifier_two_sample

SAMPLES = ("source", "target")


def on_file(path, setup, out, rng, report):
    """Transform the source of a user's file, and write the table with its columns."""
    names, tables = read_pair(path, Path(setup.target)) if setup.target else read_samples(path)
    conditions = [name for name in setup.condition.split(",") if name]
    unknown = [name for name in conditions if name not in names]
    if unknown:
        raise ValueError(f"--set: condition names {unknown}, the columns are {', '.join(names)}")
    held = [names.index(name) for name in conditions]
    moved = [i for i in range(len(names)) if i not in held]
    if not moved:
        raise ValueError("--set: condition must leave a column to transform")
    source, target = tables
    c, t = (Z[:, held] if held else None for Z in (source, target))

    def progress(state):
        report(0.9 * state.step / state.n_steps, f"step {state.step}, loss {state.loss:.4g}")

    try:
        model = FlowTransfer(
            n_steps=setup.steps, lr=setup.lr, callback=progress, rng=int(rng.integers(2**31))
        ).fit(source[:, moved], target[:, moved], source_condition=c, target_condition=t)
    except ValueError as error:
        raise ValueError(f"--input: {error}") from None
    after = source.copy()
    after[:, moved] = model.transform(source[:, moved], c)
    with (out / "transformed.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(after.tolist())
    return {
        "auc_before": classifier_two_sample(source, target, rng=rng),
        "auc_after": classifier_two_sample(after, target, rng=rng),
        "mmd": model.constraint_values_["mmd"],
        "mmd_limit": model.mmd_floor_,
        "multiplier": model.multipliers_["mmd"],
    }


def read_samples(path: Path) -> tuple[list[str], list[np.ndarray]]:
    """Return the names of the columns and both tables; ValueError in one line otherwise."""
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, TypeError, zipfile.BadZipFile):
        raise ValueError(f"--input: {path} is neither .csv nor .npz of plain arrays") from None
    tables = []
    for name in SAMPLES:
        if name not in arrays:
            raise ValueError(f"--input: {path} has no array {name!r}; it has {sorted(arrays)}")
        table = arrays[name]
        if table.ndim != 2 or table.dtype.kind not in "biuf" or not table.size:
            raise ValueError(f"--input: {name} must be numbers of shape (n, d)")
        tables.append(table.astype(float))
    d = tables[0].shape[1]
    names = [str(name) for name in arrays.get("columns", np.arange(d)).ravel()]
    if len(names) != d or len(set(names)) != d:
        raise ValueError(f"--input: columns must be {d} different names, got {names}")
    if tables[1].shape[1] != d:
        raise ValueError(f"--input: target must have {d} columns as source, got {tables[1].shape}")
    return names, tables


def read_pair(source: Path, target: Path) -> tuple[list[str], list[np.ndarray]]:
    """Return the names of the columns and both tables of two CSV files with one header."""
    if not target.is_file():
        raise ValueError(f"--set: target: there is no file {str(target)!r}")
    (names, first), (others, second) = (_read_table(path) for path in (source, target))
    if set(names) != set(others) or len(set(names)) != len(names):
        raise ValueError(f"--set: target must have the columns {names} once each, got {others}")
    return names, [first, second[:, [others.index(name) for name in names]]]


def _read_table(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        table = np.array(rows, dtype=float).reshape(len(rows), -1)
    except ValueError:
        raise ValueError(
            f"--input: {path} must have a header and lines of as many numbers as columns"
        ) from None
    if table.shape[1] != len(header):
        raise ValueError(f"--input: {path} must have rows of {len(header)} numbers")
    return header, table


def _read_csv(path: Path) -> tuple[list[str], list[np.ndarray]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    header = rows[0] if rows else []
    if "sample" not in header or len(header) < 2:
        raise ValueError(f"--input: {path} must have a column 'sample' and others, got {header}")
    place = header.index("sample")
    found: dict[str, list[list[float]]] = {name: [] for name in SAMPLES}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header) or row[place] not in found:
            raise ValueError(f"--input: line {number} of {path} must have {len(header)} entries "
                             "and the sample source or target")  # fmt: skip
        try:
            found[row[place]].append([float(v) for i, v in enumerate(row) if i != place])
        except ValueError:
            raise ValueError(f"--input: line {number} of {path} must hold numbers") from None
    if not all(found.values()):
        raise ValueError(f"--input: {path} must have rows of source and of target")
    names = [name for i, name in enumerate(header) if i != place]
    return names, [np.array(found[name]) for name in SAMPLES]

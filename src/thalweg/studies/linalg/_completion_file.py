"""Completes the table of a user's file, the rank chosen by cross-validation."""

from __future__ import annotations

import csv
import math
import warnings

import numpy as np
from scipy import sparse

from thalweg import data
from thalweg._validation import check_count
from thalweg.linalg import MatrixCompletion

MISSING = {"", "na", "nan", "null", "none", "?", "-"}
LARGEST_TABLE = 50_000_000


def complete_file(path, setup, out, rng, report):
    """Fill the gaps; write the table, the factors and the error by rank."""
    folds = check_count("folds", setup.folds, at_least=2)
    for rank in setup.ranks:
        check_count("ranks", rank)
    report(0.0, f"reading {path.name}")
    observed, row_names, col_names = read_table(path, setup.triplets)
    if math.prod(observed.shape) > LARGEST_TABLE:
        raise ValueError(
            f"--input: expected at most {LARGEST_TABLE} cells, got shape {observed.shape}"
        )
    ranks = sorted({rank for rank in setup.ranks if rank <= min(observed.shape)})
    if not ranks:
        raise ValueError(f"ranks must be at most {min(observed.shape)}, got {setup.ranks}")
    if observed.nnz < folds:
        raise ValueError(f"--input: expected at least {folds} values, got {observed.nnz}")

    def model(rank):
        return MatrixCompletion(
            rank, solver=setup.solver, alpha=setup.alpha, center=setup.center, rng=rng.spawn(1)[0]
        )

    errors = cross_validate(observed, ranks, folds, model, rng, report)
    best = min(ranks, key=errors.__getitem__)
    report(0.9, f"completing with rank {best}")
    final = model(best)
    completed = final.fit_transform(observed)
    write_csv(out / "completed.csv", completed, row_names, col_names)
    numbers = [str(k + 1) for k in range(best)]
    write_csv(out / "row_factors.csv", final.row_factors_, row_names, numbers)
    write_csv(out / "column_factors.csv", final.col_factors_, col_names, numbers)
    with open(out / "error_by_rank.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "rmse"])
        writer.writerows([rank, f"{error:.6g}"] for rank, error in errors.items())
    return {
        "rows": observed.shape[0],
        "columns": observed.shape[1],
        "observed": observed.nnz,
        "rank": best,
        "cross_validated_rmse": errors[best],
        "rmse_of_means_alone": errors[0],
        "observed_residual": float(final.history_[-1]),
        "singular_values": final.singular_values_,
        "iterations": final.n_iter_,
    }


def cross_validate(observed, ranks, folds, model, rng, report):
    """Return the root mean square error on held-out entries by rank; 0 stands for the means."""
    entries = observed.tocoo()
    fold = rng.permutation(np.arange(observed.nnz) % folds)
    squares = dict.fromkeys([0, *ranks], 0.0)
    for number in range(folds):
        test = np.flatnonzero(fold == number)
        kept = np.flatnonzero(fold != number)
        place = entries.row[kept], entries.col[kept]
        train = sparse.csr_array((entries.data[kept], place), shape=observed.shape)
        for at, rank in enumerate(ranks):
            done = (number + at / len(ranks)) / folds
            report(0.1 + 0.8 * done, f"fold {number + 1}, rank {rank}")
            with warnings.catch_warnings():  # said once, when all entries are used
                warnings.simplefilter("ignore", UserWarning)
                fitted = model(rank).fit(train)
            rows, cols = entries.row[test], entries.col[test]
            squares[rank] += np.sum((fitted.predict(rows, cols) - entries.data[test]) ** 2)
        means = fitted.row_means_[rows] + fitted.col_means_[cols]
        squares[0] += np.sum((means - entries.data[test]) ** 2)
    return {rank: float(np.sqrt(total / observed.nnz)) for rank, total in squares.items()}


def read_table(path, triplets):
    """Return the observed entries of a file as a sparse array, names of rows and of columns."""
    suffix = path.suffix.lower()
    if suffix == ".npy" and not triplets:
        return _read_npy(path)
    if suffix != ".csv":
        wanted = ".csv" if triplets else ".csv or .npy"
        raise ValueError(f"--input: expected a {wanted} file, got {path.name!r}")
    try:
        with data.open_text(path) as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file, strict=True) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"--input: {path.name} is not a CSV file in UTF-8: {error}") from None
    if rows and rows[0]:
        rows[0][0] = rows[0][0].lstrip("\ufeff")
    return _read_triplets(rows) if triplets else _read_cells(rows)


def _read_npy(path):
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"--input: {path.name} holds no table: {error}") from None
    if table.ndim != 2 or table.dtype.kind not in "biuf":
        raise ValueError(
            f"--input: expected a table of real numbers, got {table.dtype} of shape {table.shape}"
        )
    if table.size > LARGEST_TABLE:
        raise ValueError(
            f"--input: expected at most {LARGEST_TABLE} cells, got shape {table.shape}"
        )
    return _as_sparse(np.array(table, dtype=float), None, None)


def _read_cells(rows):
    """Read a table; a first line or first column that are not numbers are names."""
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(
            "--input: expected lines of the same number of cells, with blanks for gaps"
        )
    named_columns = any(_number(cell) is None for cell in rows[0])
    body = rows[1:] if named_columns else rows
    named_rows = any(_number(row[0]) is None for row in body)
    col_names = rows[0][1:] if named_columns and named_rows else rows[0] if named_columns else None
    row_names = [row[0] for row in body] if named_rows else None
    table = np.empty((len(body), len(rows[0]) - named_rows))
    for i, row in enumerate(body):
        for j, cell in enumerate(row[1:] if named_rows else row):
            value = _number(cell)
            if value is None:
                line = i + 1 + named_columns
                raise ValueError(f"--input: expected a number or a blank, got {cell!r}, row {line}")
            table[i, j] = value
    return _as_sparse(table, row_names, col_names)


def _read_triplets(rows):
    """Read lines of row, column, value; a first line whose value is no number is a header."""
    if rows and len(rows[0]) == 3 and _number(rows[0][2]) is None:
        rows = rows[1:]
    seen = {}
    for line, row in enumerate(rows, start=1):
        value = _number(row[2]) if len(row) == 3 else None
        if value is None or not math.isfinite(value):
            raise ValueError(f"--input: expected row,column,value, got {row!r} in triplet {line}")
        if (row[0], row[1]) in seen:
            raise ValueError(f"--input: row {row[0]!r}, column {row[1]!r} is there twice")
        seen[row[0], row[1]] = value
    if not seen:
        raise ValueError("--input: the file has no triplets")
    row_names, row_at = np.unique([r for r, _ in seen], return_inverse=True)
    col_names, col_at = np.unique([c for _, c in seen], return_inverse=True)
    observed = sparse.csr_array(
        (np.array(list(seen.values())), (row_at, col_at)), shape=(len(row_names), len(col_names))
    )
    return observed, row_names.tolist(), col_names.tolist()


def _as_sparse(table, row_names, col_names):
    if table.size == 0 or np.isnan(table).all():
        raise ValueError("--input: the table has no values")
    if np.isinf(table).any():
        i, j = np.argwhere(np.isinf(table))[0]
        raise ValueError(f"--input: {table[i, j]} in row {i}, column {j} is not finite")
    place = np.nonzero(~np.isnan(table))
    return sparse.csr_array((table[place], place), shape=table.shape), row_names, col_names


def _number(cell):
    """Return the number in a cell, NaN for a gap, None for other text."""
    if cell.lower() in MISSING:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return None


def write_csv(path, table, row_names, col_names):
    """Write a table with the names that there are."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if col_names is not None:
            writer.writerow(col_names if row_names is None else ["", *col_names])
        for i, row in enumerate(table):
            cells = [f"{value:.8g}" for value in row]
            writer.writerow(cells if row_names is None else [row_names[i], *cells])

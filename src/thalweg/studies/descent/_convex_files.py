"""A user's file for the study of 1405.4980: a graph to cut in two, or the payoffs of a game."""

from __future__ import annotations

import ast
import csv
import math
import warnings
from typing import Any

import numpy as np
from scipy import sparse

from thalweg.descent import goemans_williamson, matrix_game, rate
from thalweg.study import FileMethod

LARGEST_ENTRIES = 10**7
LARGEST_GRAPH = 5000
"""Most nodes: the bound takes the least eigenvalue of a dense matrix."""
TABLE = ".csv"
GRAPH = (".edgelist", ".edges")


def on_file(path, setup, out, rng, report):
    """Cut the graph or solve the game, by the ending of the file's name."""
    if path.suffix.lower() == TABLE:
        return solve_game(path, setup, out, rng, report)
    if path.suffix.lower() in GRAPH:
        return cut_graph(path, setup, out, rng, report)
    raise ValueError(
        f"--input: expected a name that ends in {', '.join(GRAPH)} (graph) or {TABLE} (game), "
        f"got {path.name!r}"
    )


def read_graph(path):
    """Return the nodes' names and the sparse symmetric weights of an edge list.

    A line is ``node node``, and a weight or NetworkX's dict of attributes where there is one; #
    begins a comment. An edge given twice, in either direction, counts twice.
    """
    places: dict[str, int] = {}
    ends, weights = [], []
    for number, line in enumerate(read_lines(path), 1):
        parts = line.partition("#")[0].split(None, 2)
        if not parts:
            continue
        if len(parts) < 2:
            raise ValueError(f"--input: line {number}: expected 'node node [weight]', got {line!r}")
        weight = read_weight(parts[2], number) if len(parts) == 3 else 1.0
        ends.append([places.setdefault(name, len(places)) for name in parts[:2]])
        weights.append(weight)
        if len(places) > LARGEST_GRAPH:
            raise ValueError(f"--input: expected at most {LARGEST_GRAPH} nodes, got more")
    if not ends:
        raise ValueError(f"--input: expected an edge or more, got none in {path.name}")
    rows, columns = np.array(ends).T
    n = len(places)
    half = sparse.coo_array((weights, (rows, columns)), shape=(n, n)).tocsr()
    return list(places), half + half.T


def read_lines(path):
    """Return the lines of a UTF-8 file."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--input: {path.name} is not text in UTF-8: {error}") from None


def read_weight(text, number):
    """Return the weight that a line states, 1 where it states none."""
    try:
        value: Any = ast.literal_eval(text)
        weight = value.get("weight", 1.0) if isinstance(value, dict) else value
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise ValueError(f"it is no number: {weight!r}")
        weight = float(weight)
    except (ValueError, SyntaxError, OverflowError, MemoryError, RecursionError):
        raise ValueError(f"--input: line {number}: expected a weight, got {text!r}") from None
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"--input: line {number}: weight must be finite and >= 0, got {weight!r}")
    return weight


def cut_graph(path, setup, out, rng, report):
    """Cut a graph; write sides and the dual point that bounds every cut."""
    if setup.rounds < 1:
        raise ValueError(f"--set: rounds must be >= 1, got {setup.rounds}")
    nodes, W = read_graph(path)
    report(0.1, f"relaxation of {len(nodes)} nodes")
    found = goemans_williamson(W, n_rounds=setup.rounds, rng=rng)
    v = found.vectors
    off = W - sparse.diags_array(W.diagonal())
    dual = -np.einsum("ik,ik->i", v, off @ v)
    with open(out / "sides.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["node", "side", "dual"])
        writer.writerows(
            (node, int(side), repr(float(y)))
            for node, side, y in zip(nodes, found.x, dual, strict=True)
        )
    total = float(off.sum()) / 2
    return {
        "nodes": len(nodes),
        "edges": int(sparse.triu(off).nnz),
        "weight": total,
        "cut": found.cut,
        "upper bound": found.upper_bound,
        "cut / bound": found.cut / found.upper_bound if found.upper_bound > 0 else 1.0,
        "mean cut": found.mean_cut,
        "relaxation": found.sdp_value,
        "relaxation solved": found.message,
        "certificate": "bound = weight / 2 + (sum of dual - n least eigenvalue of W + diag(dual))"
        " / 4, dual in sides.csv",
    }


def read_payoffs(path):
    """Return a table of numbers; a first line of names is skipped."""
    lines = [line for line in read_lines(path) if line.strip()]
    if lines and not all(map(is_number, lines[0].split(","))):
        lines = lines[1:]
    if not lines:
        raise ValueError(f"--input: expected a row of payoffs or more, got none in {path.name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            A = np.loadtxt(lines, delimiter=",", ndmin=2)
    except (ValueError, UserWarning) as error:
        raise ValueError(f"--input: {path.name} is not a table of numbers: {error}") from None
    if A.size > LARGEST_ENTRIES:
        raise ValueError(f"--input: expected at most {LARGEST_ENTRIES} entries, got {A.size}")
    if not np.isfinite(A).all():
        row, column = np.argwhere(~np.isfinite(A))[0]
        raise ValueError(f"--input: row {row}, column {column} is not finite")
    return A


def is_number(text):
    """Whether a cell can be read as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def solve_game(path, setup, out, rng, report):
    """Solve a game; write the strategies of both players."""
    A = read_payoffs(path)
    report(0.1, f"game of {A.shape[0]} x {A.shape[1]}")
    found = matrix_game(A, method=setup.method, tol=setup.tol, maxiter=setup.maxiter, rng=rng)
    for name, strategy in (("rows", found.x), ("columns", found.y)):
        with open(out / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([name[:-1], "probability"])
            writer.writerows((i, repr(float(p))) for i, p in enumerate(strategy))
    m, n = A.shape
    summary: dict[str, Any] = {
        "rows": m,
        "columns": n,
        "value": found.value,
        "rows pay at most": found.value + found.gap / 2,
        "columns win at least": found.value - found.gap / 2,
        "gap": found.gap,
        "steps": found.nit,
        "solved": found.message,
    }
    largest = float(np.abs(A).max())
    if found.nit and largest > 0 and m * n > 1 and setup.method == "mirror-prox":
        name = f"matrix_game-{setup.method}"
        summary["promised gap"] = rate(name, found.nit, largest=largest, m=m, n=n)
    return summary


FILE_METHOD = FileMethod(
    on_file,
    expects="graph.edgelist: lines 'node node [weight]', cut in two; or payoffs.csv: what the row "
    "player pays the column player, a game",
    options={"rounds": 1000, "method": "mirror-prox", "tol": 1e-4, "maxiter": 100_000},
)

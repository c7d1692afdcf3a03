"""Labels of any kind as the integers 0..n-1: ints by a table, strings and objects by hashing."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

Labels = NDArray[Any]
Codes = NDArray[np.int64]


def check_label_pairs(name: str, X: ArrayLike) -> Labels:
    """Return `X` as an array of labels of shape (m, 2), m >= 1.

    Nested lists whose labels are of several types stay objects, so that 1 and "1" differ.

    Raises
    ------
    TypeError
        If `X` is sparse.
    ValueError
        If it is not a table of two columns, has no row or is complex.
    """
    expected = f"{name} must have shape (n_games, 2), a row of two labels a game"
    if sparse.issparse(X):
        raise TypeError(f"{expected}, got a sparse {type(X).__name__}; pass a dense array")
    try:
        pairs = np.asarray(X)
    except ValueError as error:
        raise ValueError(f"{expected}, got rows of different lengths") from error
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        hint = ". Reshape your data: " if pairs.ndim == 1 else ": "
        found = f"{pairs.shape[1]} feature(s) " if pairs.ndim == 2 else ""
        raise ValueError(
            f"{expected}{hint}got {found}(shape={pairs.shape}) while a minimum of 2 is required."
        )
    if len(pairs) == 0:
        raise ValueError(f"{expected}, got 0 sample(s) (shape=(0, 2))")
    if pairs.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} must hold labels, got {pairs.dtype}")
    if pairs.dtype.kind in "US" and not hasattr(X, "dtype"):
        as_given = np.asarray(X, dtype=object)
        if len(set(map(type, as_given.flat))) > 1:
            pairs = as_given
    return pairs


def factorize(name: str, values: Labels) -> tuple[Labels, Codes]:
    """Return the distinct labels and, for each entry of `values`, the index of its label.

    The labels are sorted; objects that cannot be compared stand in their order of appearance.

    Parameters
    ----------
    name : str
        Name of the argument, for errors.
    values : ndarray
        Labels.

    Returns
    -------
    items : ndarray, shape (n,)
        The distinct labels, of the type of `values`.
    codes : ndarray of int64
        ``items[codes]`` are the values again, in their shape.

    Raises
    ------
    TypeError
        If a label is not hashable.
    ValueError
        If a label is missing: NaN, NaT, None or infinite.
    """
    if values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if high - low <= 8 * values.size + 4096 and high < 2**63:
            return _factorize_dense_integers(values, low, high)
    if values.dtype.kind == "U" and values.itemsize:
        return _factorize_strings(values)
    if values.dtype.kind not in "USTO":
        items, codes = np.unique(values, return_inverse=True)
        _refuse_missing(name, items.tolist() if items.dtype.kind == "f" else items)
        return items, codes.reshape(values.shape).astype(np.int64, copy=False)
    labels = values.ravel().tolist()
    try:
        distinct = list(dict.fromkeys(labels))
    except TypeError as error:
        raise TypeError(f"{name} must hold hashable labels: {error}") from None
    _refuse_missing(name, distinct)
    with contextlib.suppress(TypeError):
        distinct = sorted(distinct)
    if values.dtype.kind == "O":
        items = np.fromiter(distinct, dtype=object, count=len(distinct))
    else:
        items = np.array(distinct, dtype=values.dtype)
    return items, _look_up(labels, distinct).reshape(values.shape)


def encode(name: str, values: Labels, items: Labels) -> Codes:
    """Return the index in `items` of each entry of `values`.

    Raises
    ------
    ValueError
        If a label is not one of `items`; the message names the first few.
    """
    labels, known = values.ravel().tolist(), items.tolist()
    try:
        return _look_up(labels, known).reshape(values.shape)
    except (KeyError, TypeError):
        names = set(map(repr, known))
        unseen = dict.fromkeys(text for text in map(repr, labels) if text not in names)
        raise ValueError(
            f"{name} must hold labels among the {len(known)} known items, "
            f"got {', '.join(list(unseen)[:5])}"
        ) from None


def _factorize_dense_integers(values: Labels, low: int, high: int) -> tuple[Labels, Codes]:
    offsets = values.astype(np.int64, copy=False) - low
    present = np.zeros(high - low + 1, dtype=bool)
    present[offsets] = True
    index = np.cumsum(present) - 1
    return (np.flatnonzero(present) + low).astype(values.dtype), index[offsets]


def _factorize_strings(values: Labels) -> tuple[Labels, Codes]:
    characters = np.ascontiguousarray(values).view(np.uint32).reshape(values.size, -1)
    first, codes = _group_rows(characters)
    items = values.ravel()[first]
    order = np.argsort(items)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return items[order], rank[codes].reshape(values.shape)


def _look_up(labels: list[Any], items: list[Any]) -> Codes:
    index = dict(zip(items, range(len(items)), strict=True))
    return np.fromiter(map(index.__getitem__, labels), dtype=np.int64, count=len(labels))


def _refuse_missing(name: str, labels: Iterable[Any]) -> None:
    for label in labels:
        if _is_missing(label):
            raise ValueError(f"{name} must not hold missing labels (NaN, inf, None), got {label!r}")


def _is_missing(label: Any) -> bool:
    if isinstance(label, (float, np.floating)):
        return not math.isfinite(label)
    equal = label == label
    return label is None or not isinstance(equal, (bool, np.bool_)) or not equal


@njit(cache=True)
def _group_rows(rows):
    """Number the distinct rows in order of appearance, by a hash table with linear probing.

    Returns the index of the first row of each group, and each row's group.
    """
    size = 64
    table = np.full(size, -1, dtype=np.int64)
    first = np.empty(len(rows), dtype=np.int64)
    hashes = np.empty(len(rows), dtype=np.uint64)
    groups = np.empty(len(rows), dtype=np.int64)
    n_groups = 0
    for r in range(len(rows)):
        code = np.uint64(14695981039346656037)
        for k in range(rows.shape[1]):
            code = (code ^ np.uint64(rows[r, k])) * np.uint64(1099511628211)
        code ^= code >> np.uint64(32)
        slot = np.int64(code & np.uint64(size - 1))
        while table[slot] >= 0:
            group = table[slot]
            if hashes[group] == code and _same(rows, first[group], r):
                break
            slot = (slot + 1) & (size - 1)
        if table[slot] < 0:
            table[slot] = n_groups
            first[n_groups] = r
            hashes[n_groups] = code
            n_groups += 1
        groups[r] = table[slot]
        if 2 * n_groups > size:
            size *= 4
            table = np.full(size, -1, dtype=np.int64)
            for group in range(n_groups):
                slot = np.int64(hashes[group] & np.uint64(size - 1))
                while table[slot] >= 0:
                    slot = (slot + 1) & (size - 1)
                table[slot] = group
    return first[:n_groups], groups


@njit(cache=True)
def _same(rows, a, b):
    same = True
    for k in range(rows.shape[1]):
        same &= rows[a, k] == rows[b, k]
    return same

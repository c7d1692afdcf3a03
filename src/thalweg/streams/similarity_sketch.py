"""Short signatures of sets whose fraction of equal entries estimates the Jaccard similarity.

De-duplicate documents, compare baskets, genomes or users: a set of any size becomes `n_components`
64-bit words, in time proportional to the set and not to the set times the words as with MinHash.
Items are thrown into the words' bins round after round, each round with fresh hash functions, until
no bin is empty; a bin keeps its smallest value of the earliest round. Small sets need many rounds,
large ones a single one, and the estimate is at least as concentrated as MinHash's for all.

Source: "Fast Similarity Sketching" (2017), arXiv 1704.04370.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from functools import lru_cache, partial
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from thalweg._validation import check_count, check_option
from thalweg.streams._blocks import BLOCK_ITEMS, key_blocks, map_blocks
from thalweg.streams._hashing import Keys, check_seed, tabulation_tables
from thalweg.streams._serialise import pack, unpack
from thalweg.streams._similarity_kernels import (
    EMPTY,
    fast_rows,
    minhash_rows,
    one_permutation_rows,
)
from thalweg.streams.similarity import check_sketches

LARGEST_SKETCH = 2**20

_KERNELS = {"fast": fast_rows, "minhash": minhash_rows, "oph": one_permutation_rows}
_HASHES = ("mix64", "mixed_tabulation")
_SETS_PER_TASK = 1024


class SimilaritySketch(TransformerMixin, BaseEstimator):
    r"""Sketches of sets: equal entries are as frequent as the sets are similar.

    Entry b of two sketches is equal with probability
    :math:`J = |A \cap B| / |A \cup B|`, and the number of equal entries obeys the Chernoff bounds
    of `chernoff_tail`. A sketch depends on the set alone: neither on the order nor on repeats.

    Parameters
    ----------
    n_components : int, default 128
        Entries of a sketch, at most 2^20.
    method : {"fast", "minhash", "oph"}, default "fast"
        Fast similarity sketching; or, to compare with, one independent MinHash an entry; or one
        permutation hashing, whose empty bins borrow from the nearest full one.
    hash : {"mix64", "mixed_tabulation"}, default "mix64"
        The family of hash functions: the fast one, or the one for which the bounds are proved.
    rng : int, default 0
        Seed, in [0, 2^64). The same int gives the same sketches everywhere.

    Notes
    -----
    Entries of "fast" are ``(round << 32) | fraction``, so that earlier rounds win; those of the
    empty set are 2^64 - 1. The largest entry of a set's sketch shows in its high half the last
    round that was needed. Sketches of "fast" and "minhash" merge by the elementwise minimum.

    References
    ----------
    S. Dahlgaard, C. Langhede, M. Houen, M. Thorup, "Fast Similarity Sketching", 2017,
    arXiv 1704.04370, algorithm 1. A. Shrivastava, P. Li, "Improved densification of one permutation
    hashing", 2014, arXiv 1406.4784 (method "oph").

    Examples
    --------
    >>> from thalweg.streams import jaccard
    >>> texts = ["the cat sat on the mat", "the cat sat on a mat", "one two three"]
    >>> sketches = SimilaritySketch(256).fit_transform([text.split() for text in texts])
    >>> jaccard(sketches[0], sketches).round(1)
    array([1. , 0.8, 0. ])
    """

    def __init__(
        self, n_components: int = 128, *, method: str = "fast", hash: str = "mix64", rng: int = 0
    ) -> None:
        self.n_components = n_components
        self.method = method
        self.hash = hash
        self.rng = rng

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Check the parameters; nothing is learned from the data.

        Raises
        ------
        TypeError, ValueError
            If a parameter is malformed.
        """
        self._plan()
        return self

    def transform(self, X: Any, *, executor: Executor | None = None) -> Keys:
        """Sketch every set of a collection.

        Parameters
        ----------
        X : sparse array (n_sets, n_items), or iterable of sets
            Each row of a sparse array is the set of the columns that are not zero. Otherwise each
            set is an integer array, an Arrow column, an iterable of int, str or bytes, an open file
            or a `pathlib.Path` read by lines.
        executor : concurrent.futures.Executor, optional
            Sketches groups of sets in parallel; Dask's ``client.get_executor()`` will do. To build
            one sketch of a set that lies in many blocks, transform the blocks and take
            `union_sketch`.

        Returns
        -------
        ndarray of uint64, shape (n_sets, n_components)
            The sketches.

        Raises
        ------
        TypeError, ValueError
            If a parameter is malformed or an item is negative or of a type without a key.
        """
        plan = self._plan()
        if sparse.issparse(X):
            work, parts = partial(_sketch_sparse, plan), _row_groups(X)
        elif isinstance(X, (str, bytes)) or not isinstance(X, Iterable):
            raise TypeError(
                "X must be a sparse array or an iterable of sets, the items of each set an array "
                f"or an iterable; got {type(X).__name__}"
            )
        else:
            work, parts = partial(_sketch_sets, plan), _groups(X)
        sketches = list(map_blocks(work, parts, executor))
        return np.vstack(sketches) if sketches else plan.empty(0)

    def update(self, sketch: Keys, items: Any) -> Keys:
        """Enter more items into the sketch of a set, in place.

        Parameters
        ----------
        sketch : ndarray of uint64, shape (n_components,)
            The sketch of what was seen so far; ``transform([[]])[0]`` to begin with.
        items : array or iterable or path
            As one set of `transform`.

        Returns
        -------
        ndarray
            `sketch`: now that of the union. Unchanged if an item is refused.

        Raises
        ------
        TypeError, ValueError
            If the sketch is not one of this size or an item is refused.
        """
        plan = self._plan()
        check_sketches("sketch", sketch, ndim=(1,), length=plan.n_components)
        work = np.array(sketch, order="C")[None]
        for block in key_blocks(items):
            plan.enter(work, block, np.array([0, len(block)]))
        sketch[...] = work[0]
        return sketch

    def to_bytes(self, sketches: Keys) -> bytes:
        """Return sketches and the parameters they were made with as bytes.

        Parameters
        ----------
        sketches : ndarray of uint64, shape (n_components,) or (n_sets, n_components)
            What to keep.
        """
        plan = self._plan()
        check_sketches("sketches", sketches, length=plan.n_components)
        return pack("similarity", plan.parameters(), sketches)

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[Self, Keys]:
        """Return the estimator and the sketches that `to_bytes` kept.

        Raises
        ------
        TypeError, ValueError
            If `data` is not what `to_bytes` returns, or is truncated or corrupted.

        Examples
        --------
        >>> sketcher = SimilaritySketch(16, rng=3)
        >>> again, sketches = SimilaritySketch.from_bytes(
        ...     sketcher.to_bytes(sketcher.transform([[1, 2]]))
        ... )
        >>> again
        SimilaritySketch(n_components=16, rng=3)
        """
        parameters, sketches = unpack(data, "similarity", ("n_components", "method", "hash", "rng"))
        try:
            sketcher = cls(**parameters).fit()
        except TypeError as error:
            raise ValueError(f"data holds parameters that are none: {error}") from None
        check_sketches("data", sketches, length=sketcher.n_components)
        return sketcher, sketches

    def __sklearn_tags__(self) -> Tags:
        """Sets are sparse rows or collections of any kind, and nothing is fitted."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.requires_fit = False
        tags.no_validation = True
        return tags

    def _plan(self) -> _Plan:
        return _Plan(
            check_count("n_components", self.n_components, at_most=LARGEST_SKETCH),
            check_option("method", self.method, _KERNELS),
            check_option("hash", self.hash, _HASHES),
            check_seed("rng", self.rng),
        )


class _Plan(NamedTuple):
    """The checked parameters of a sketch and what they mean for a kernel."""

    n_components: int
    method: str
    hash: str
    seed: int

    def parameters(self) -> dict[str, Any]:
        return dict(zip(("n_components", "method", "hash", "rng"), self, strict=True))

    def empty(self, n_sets: int) -> Keys:
        return np.full((n_sets, self.n_components), EMPTY, dtype=np.uint64)

    def enter(self, sketches: Keys, keys: Keys, starts: NDArray[np.int64]) -> None:
        mixing = self.hash == "mix64"
        tables = _no_tables() if mixing else _tables(self.seed)
        _KERNELS[self.method](sketches, keys, starts, np.uint64(self.seed), mixing, *tables)


def _sketch_sparse(plan: _Plan, rows: sparse.csr_array) -> Keys:
    sketches = plan.empty(rows.shape[0])
    plan.enter(sketches, rows.indices.astype(np.uint64), rows.indptr.astype(np.int64))
    return sketches


def _sketch_sets(plan: _Plan, group: tuple[int, list[Any]]) -> Keys:
    offset, sets = group
    sketches = plan.empty(len(sets))
    waiting: list[Keys] = []
    sizes = np.zeros(len(sets), dtype=np.int64)
    held, begin = 0, 0

    def flush(end: int) -> None:
        starts = np.concatenate([[0], np.cumsum(sizes[begin:end])])
        keys = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        plan.enter(sketches[begin:end], keys, starts)

    for row, items in enumerate(sets):
        for block in key_blocks(items, name=f"X[{offset + row}]"):
            waiting.append(block)
            sizes[row] += len(block)
            held += len(block)
            if held >= BLOCK_ITEMS:
                flush(row + 1)
                waiting.clear()
                sizes[row] = held = 0
                begin = row
    if waiting:
        flush(len(sets))
    return sketches


def _row_groups(X: Any) -> Iterator[sparse.csr_array]:
    rows = sparse.csr_array(X)
    if not np.all(rows.data):
        rows = rows.copy()
        rows.eliminate_zeros()
    for start in range(0, rows.shape[0], _SETS_PER_TASK):
        yield rows[start : start + _SETS_PER_TASK]


def _groups(X: Iterable[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Yield groups of sets that are worth a task each, with the number of the first."""
    offset, group, size = 0, [], 0
    for items in X:
        group.append(items)
        size += len(items) if hasattr(items, "__len__") else BLOCK_ITEMS
        if size >= BLOCK_ITEMS or len(group) == _SETS_PER_TASK:
            yield offset, group
            offset, group, size = offset + len(group), [], 0
    if group:
        yield offset, group


@lru_cache(maxsize=8)
def _tables(seed: int) -> tuple[Keys, NDArray[np.uint32], Keys]:
    return tabulation_tables(seed)


def _no_tables() -> tuple[Keys, NDArray[np.uint32], Keys]:
    none = np.empty((0, 256), dtype=np.uint64)
    return none, none.astype(np.uint32), none

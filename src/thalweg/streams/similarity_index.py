"""Find similar sets among millions without comparing with all (locality-sensitive hashing).

A sketch is cut into bands; sets that agree in all entries of some band are candidates, and the
sketches of candidates are compared. Two sets of similarity J meet in a band of K entries out of L
bands with probability 1 - (1 - J^K)^L, a step that `choose_bands` puts at a threshold.

Source: "Fast Similarity Sketching" (2017), arXiv 1704.04370, on similarity search.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaln

from thalweg._validation import check_count, check_real
from thalweg.streams._hashing import Keys
from thalweg.streams._similarity_kernels import (
    band_keys,
    jaccard_pairs,
    jaccard_rows,
    pairs_of_runs,
)
from thalweg.streams.similarity import check_sketches
from thalweg.streams.similarity_sketch import LARGEST_SKETCH


def choose_bands(n_components: int, threshold: float) -> tuple[int, int]:
    r"""Return the bands and rows that best tell similarities above a threshold from those below.

    Minimised is :math:`\int_0^\tau 1 - (1 - s^K)^L ds + \int_\tau^1 (1 - s^K)^L ds`, false
    positives plus false negatives over all similarities, with K L at most `n_components`.

    Parameters
    ----------
    n_components : int
        Entries of a sketch.
    threshold : float
        The similarity from which on sets should meet, in (0, 1).

    Returns
    -------
    bands, rows : int
        L and K, as `SimilarityIndex` takes them.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    Examples
    --------
    >>> choose_bands(128, 0.5)
    (25, 5)
    """
    n_components = check_count("n_components", n_components, at_most=LARGEST_SKETCH)
    threshold = check_real("threshold", threshold, above=0, below=1)
    rows = np.arange(1, n_components + 1)
    low, high = np.ones_like(rows), n_components // rows
    while np.any(low < high):
        middle = (low + high) // 2
        rises = _error(middle + 1, rows, threshold) >= _error(middle, rows, threshold)
        low = np.where(rises, low, np.minimum(middle + 1, high))
        high = np.where(rises, np.minimum(middle, high), high)
    best = int(np.argmin(_error(low, rows, threshold)))
    return int(low[best]), int(rows[best])


class SimilarityIndex:
    """An index of sketches that is asked for the sets similar to a given one.

    Parameters
    ----------
    bands, rows : int
        Bands of a sketch and entries of a band; the first ``bands * rows`` entries are used for
        finding, all for comparing.

    References
    ----------
    "Fast Similarity Sketching", 2017, arXiv 1704.04370, on similarity search.

    Examples
    --------
    >>> from thalweg.streams import SimilaritySketch
    >>> sketches = SimilaritySketch(128).transform([range(100), range(5, 105), range(900, 999)])
    >>> index = SimilarityIndex(*choose_bands(128, 0.5)).add(sketches, ["a", "b", "c"])
    >>> [key for key, similarity in index.query(sketches[0], threshold=0.5)]
    ['a', 'b']
    >>> [pair[:2] for pair in index.pairs(threshold=0.5)]
    [('a', 'b')]
    """

    def __init__(self, bands: int, rows: int) -> None:
        self.bands = check_count("bands", bands)
        self.rows = check_count("rows", rows)
        self._keys: list[Any] = []
        self._parts: list[Keys] = []
        self._buckets: tuple[Keys, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, sketches: Keys, keys: Iterable[Hashable] | None = None) -> SimilarityIndex:
        """Add sketches; the buckets are sorted at the next question.

        Parameters
        ----------
        sketches : ndarray of uint64, shape (n_sets, n_components) or (n_components,)
            Sketches made with the same parameters as all others here.
        keys : iterable, optional
            What a set is called in answers; by default the number of sets before it.

        Returns
        -------
        SimilarityIndex
            Itself.

        Raises
        ------
        TypeError, ValueError
            If the sketches are too short for the bands, of another length than those here, or the
            keys are not as many.
        """
        self._check("sketches", sketches)
        rows = np.array(sketches, ndmin=2, order="C")
        names = (
            list(range(len(self._keys), len(self._keys) + len(rows))) if keys is None
            else list(keys)
        )  # fmt: skip
        if len(names) != len(rows):
            raise ValueError(f"keys must be as many as sketches, {len(rows)}, got {len(names)}")
        self._keys += names
        self._parts.append(rows)
        self._buckets = None
        return self

    def query(self, sketch: Keys, *, threshold: float = 0.0) -> list[tuple[Any, float]]:
        """Return the sets that share a band with a sketch.

        Parameters
        ----------
        sketch : ndarray of uint64, shape (n_components,)
            The sketch to look up.
        threshold : float, default 0.0
            The least estimated similarity of an answer.

        Returns
        -------
        list of (key, float)
            Sets with their estimated similarities, the most similar first.

        Raises
        ------
        TypeError, ValueError
            If an argument is malformed.
        """
        threshold = check_real("threshold", threshold, at_least=0, at_most=1)
        self._check("sketch", sketch, ndim=(1,))
        if not self._keys:
            return []
        all_sketches, buckets, members = self._built()
        asked = np.ascontiguousarray(sketch)[None]
        wanted = band_keys(asked, self.bands, self.rows)[:, 0]
        found = [
            row[np.searchsorted(bucket, key, "left") : np.searchsorted(bucket, key, "right")]
            for bucket, row, key in zip(buckets, members, wanted, strict=True)
        ]
        candidates = np.unique(np.concatenate(found))
        similar = jaccard_rows(all_sketches[candidates], asked)[:, 0]
        order = np.argsort(-similar, kind="stable")
        return [
            (self._keys[candidates[i]], float(similar[i])) for i in order if similar[i] >= threshold
        ]

    def pairs(self, *, threshold: float = 0.0) -> list[tuple[Any, Any, float]]:
        """Return all pairs of sets in the index that share a band: near-duplicates.

        Parameters
        ----------
        threshold : float, default 0.0
            The least estimated similarity of a pair.

        Returns
        -------
        list of (key, key, float)
            Pairs with their estimated similarities, the most similar first.
        """
        threshold = check_real("threshold", threshold, at_least=0, at_most=1)
        if not self._keys:
            return []
        sketches, buckets, members = self._built()
        found = np.empty((0, 2), dtype=np.int64)
        for bucket, row in zip(buckets, members, strict=True):
            found = np.unique(np.concatenate([found, pairs_of_runs(bucket, row)]), axis=0)
        similar = jaccard_pairs(sketches, found[:, 0].copy(), found[:, 1].copy())
        order = np.argsort(-similar, kind="stable")
        return [
            (self._keys[found[i, 0]], self._keys[found[i, 1]], float(similar[i]))
            for i in order
            if similar[i] >= threshold
        ]

    def _check(self, name: str, sketches: Any, ndim: tuple[int, ...] = (1, 2)) -> None:
        length = self._parts[0].shape[1] if self._parts else None
        check_sketches(name, sketches, ndim=ndim, length=length)
        if self.bands * self.rows > sketches.shape[-1]:
            raise ValueError(
                f"bands * rows must be at most the entries of a sketch, {sketches.shape[-1]}, "
                f"got {self.bands} * {self.rows}"
            )

    def _built(self) -> tuple[Keys, Keys, NDArray[np.int64]]:
        if self._buckets is None:
            self._parts = [np.concatenate(self._parts)]
            keys = band_keys(self._parts[0], self.bands, self.rows)
            members = np.argsort(keys, axis=1, kind="stable")
            self._buckets = np.take_along_axis(keys, members, axis=1), members
        return self._parts[0], *self._buckets


def _error(
    bands: NDArray[np.int64], rows: NDArray[np.int64], threshold: float
) -> NDArray[np.float64]:
    """False positives plus false negatives, by the incomplete beta function."""
    missed = np.exp(betaln(1 / rows, bands + 1.0)) / rows
    missed_below = missed * betainc(1 / rows, bands + 1.0, threshold**rows)
    return threshold - missed_below + (missed - missed_below)

"""What sketches of sets say: similarities, unions, decisions, and how far they may err.

Source: "Fast Similarity Sketching" (2017), arXiv 1704.04370.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from thalweg._validation import check_count, check_real
from thalweg.streams._hashing import Keys
from thalweg.streams._similarity_kernels import EMPTY, jaccard_rows

COMPARE_BLOCK = 32


def jaccard(S: Keys, T: Keys | None = None) -> Any:
    """Estimate Jaccard similarities: the fraction of equal entries of sketches.

    Two empty sets have similarity 1.

    Parameters
    ----------
    S, T : ndarray of uint64, shape (n_components,) or (n_sets, n_components)
        Sketches made with the same parameters. Without T, all pairs of S are compared.

    Returns
    -------
    float or ndarray
        A number for two single sketches, (n,) for n with one, (n, m) for all pairs.

    Raises
    ------
    TypeError, ValueError
        If they are not sketches of the same length.

    Examples
    --------
    >>> from thalweg.streams import SimilaritySketch
    >>> sketches = SimilaritySketch(512).transform([[1, 2, 3], [2, 3, 4]])
    >>> round(jaccard(*sketches), 1)
    0.5
    """
    check_sketches("S", S)
    T = S if T is None else T
    check_sketches("T", T, length=S.shape[-1])
    result = jaccard_rows(np.atleast_2d(_contiguous(S)), np.atleast_2d(_contiguous(T)))
    shaped = result.reshape(S.shape[:-1] + T.shape[:-1])
    return float(shaped) if shaped.ndim == 0 else shaped


def union_sketch(S: Keys, T: Keys | None = None) -> Keys:
    """Return the sketch of the union of sets, for the methods "fast" and "minhash".

    Parameters
    ----------
    S, T : ndarray of uint64, shape (n_components,) or (n_sets, n_components)
        Sketches made with the same parameters; they broadcast. Without T, the union of all rows of
        S.

    Returns
    -------
    ndarray of uint64
        The elementwise minimum. (One permutation hashing borrows entries and has no such law; its
        sketches grow by `SimilaritySketch.update`.)

    Raises
    ------
    TypeError, ValueError
        If they are not sketches of the same length.

    Examples
    --------
    >>> from thalweg.streams import SimilaritySketch
    >>> sketcher = SimilaritySketch(64)
    >>> blocks = sketcher.transform([[1, 2], [2, 3], [5]])
    >>> bool((union_sketch(blocks) == sketcher.transform([[5, 3, 2, 1]])[0]).all())
    True
    """
    if T is None:
        check_sketches("S", S, ndim=(2,))
        return np.min(S, axis=0, initial=EMPTY)
    check_sketches("S", S)
    check_sketches("T", T, length=S.shape[-1])
    return np.minimum(S, T)


def compare(s: Keys, t: Keys, *, low: float, high: float, delta: float = 1e-3) -> tuple[str, int]:
    """Decide whether two sets are similar, reading no more of their sketches than is needed.

    After every 32 entries the number of matches is held against both bounds of `chernoff_tail`.

    Parameters
    ----------
    s, t : ndarray of uint64, shape (n_components,)
        The sketches.
    low, high : float
        Similarities <= `low` should be found different, those >= `high` similar.
    delta : float, default 1e-3
        Bound on the probability that a look misleads.

    Returns
    -------
    verdict : {"similar", "different"}
        If the bounds never decide, the estimate is compared with the midpoint of low and high.
    read : int
        How many entries were read.

    Raises
    ------
    TypeError, ValueError
        If the sketches differ in length or ``0 <= low < high <= 1`` is violated.

    References
    ----------
    "Fast Similarity Sketching", 2017, arXiv 1704.04370, on separation; the block and `delta` are
    chosen here.

    Examples
    --------
    >>> from thalweg.streams import SimilaritySketch
    >>> sets = [range(1000), range(100, 1100), range(5000, 5900)]
    >>> a, b, c = SimilaritySketch(1024).transform(sets)
    >>> compare(a, b, low=0.2, high=0.8)
    ('similar', 32)
    >>> compare(a, c, low=0.2, high=0.8)
    ('different', 32)
    """
    check_sketches("s", s, ndim=(1,))
    check_sketches("t", t, ndim=(1,), length=len(s))
    high = check_real("high", high, above=0, at_most=1)
    low = check_real("low", low, at_least=0, below=high)
    delta = check_real("delta", delta, above=0, below=1)
    read = matches = 0
    while read < len(s):
        block = slice(read, read + COMPARE_BLOCK)
        matches += int(np.count_nonzero(s[block] == t[block]))
        read = min(read + COMPARE_BLOCK, len(s))
        if matches > low * read and chernoff_tail(read, low, matches) <= delta:
            return "similar", read
        if matches < high * read and chernoff_tail(read, high, matches) <= delta:
            return "different", read
    return ("similar" if matches >= (low + high) / 2 * read else "different"), read


def chernoff_tail(n_components: int, J: float, matches: float) -> float:
    r"""Bound the probability of as many, or as few, equal entries as were seen.

    With :math:`\mu = t J`, both tails are
    :math:`\exp(x - \mu - x \log(x / \mu))`: for :math:`x \ge \mu` a bound on
    :math:`P(X \ge x)`, for :math:`x \le \mu` one on :math:`P(X \le x)`.

    Parameters
    ----------
    n_components : int
        Entries compared, t.
    J : float
        The true similarity.
    matches : float
        The number of equal entries, x, in [0, t].

    Returns
    -------
    float
        The bound, 1 at the mean.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed.

    References
    ----------
    "Fast Similarity Sketching", 2017, arXiv 1704.04370, theorem 1.

    Examples
    --------
    >>> round(chernoff_tail(128, 0.5, 96), 4)
    0.001
    """
    n_components = check_count("n_components", n_components)
    mean = n_components * check_real("J", J, at_least=0, at_most=1)
    matches = check_real("matches", matches, at_least=0, at_most=n_components)
    if matches == 0:
        return math.exp(-mean)
    if mean == 0:
        return 0.0
    return math.exp(min(0.0, matches - mean - matches * math.log(matches / mean)))


def check_sketches(
    name: str, sketches: Any, *, ndim: tuple[int, ...] = (1, 2), length: int | None = None
) -> None:
    """Refuse what is no array of sketches: TypeError or ValueError."""
    if not isinstance(sketches, np.ndarray):
        raise TypeError(f"{name} must be an array of sketches, got {type(sketches).__name__}")
    if sketches.dtype != np.uint64:
        raise ValueError(f"{name} must hold sketches of dtype uint64, got {sketches.dtype}")
    if sketches.ndim not in ndim or sketches.shape[-1] == 0:
        axes = " or ".join(map(str, ndim))
        raise ValueError(f"{name} must have {axes} axes and entries, got shape {sketches.shape}")
    if length is not None and sketches.shape[-1] != length:
        raise ValueError(f"{name} must have {length} entries a sketch, got {sketches.shape[-1]}")


def _contiguous(sketches: ArrayLike) -> Keys:
    return np.ascontiguousarray(sketches, dtype=np.uint64)

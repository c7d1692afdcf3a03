"""Maps as codes of several scales, from coarse to fine, each for what the coarser ones left.

The tokenizer of next-scale prediction: the residual is averaged down to each side in turn, replaced
by the nearest entries of a codebook, interpolated up again, smoothed, and subtracted. Here the
codebooks come from k-means and the smoothing from least squares, so that no network is trained.

Source: "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models"
(2025), arXiv 2501.04377, feature-map reconstruction; the scheme is that of "Visual Autoregressive
Modeling: Scalable Image Generation via Next-Scale Prediction" (2024), arXiv 2404.02905.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from thalweg._validation import check_array, check_count
from thalweg.language.upsampling import area_downsample, bicubic_upsample, check_sides

TAPS = [(i, j) for i in range(3) for j in range(3)]
CENTRE = 4
RIDGE = 1e-8


class ResidualQuantizer(TransformerMixin, BaseEstimator):
    """Multi-scale residual vector quantizer of square maps.

    Parameters
    ----------
    sides : sequence of int, default (1, 2, 4, 8)
        Sides of the token maps, increasing; the last is that of the maps.
    codebook : int, default 64
        Entries of each scale's codebook.
    n_iter : int, default 25
        Most iterations of k-means.
    samples : int, default 20000
        Most vectors that k-means sees at a scale.
    rng : None, int or numpy.random.Generator, optional
        Draws the samples and seeds k-means.

    Attributes
    ----------
    codebooks_ : ndarray of shape (scales, codebook, channels)
        Centres of each scale.
    kernels_ : ndarray of shape (scales, 9, channels, channels)
        The 3 x 3 smoothing of each scale, row by row.
    errors_ : ndarray of shape (scales,)
        Mean squared residual of the fitted maps after each scale.

    References
    ----------
    "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models"
    (2025), arXiv 2501.04377: codes looked up, up-interpolated, convolved 3 x 3, and summed.

    Notes
    -----
    Every scale has a codebook of its own, where the published models share one: greedy k-means
    then has nothing to alternate over.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> maps = load_digits().images / 16
    >>> quantizer = ResidualQuantizer(codebook=16, rng=0).fit(maps)
    >>> codes = quantizer.transform(maps)
    >>> codes.shape
    (1797, 85)
    >>> bool(np.mean((quantizer.inverse_transform(codes) - maps) ** 2) < 0.002)
    True
    """

    def __init__(
        self,
        sides: Sequence[int] = (1, 2, 4, 8),
        codebook: int = 64,
        n_iter: int = 25,
        samples: int = 20_000,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        self.sides = sides
        self.codebook = codebook
        self.n_iter = n_iter
        self.samples = samples
        self.rng = rng

    def fit(self, X: ArrayLike, y: Any = None) -> ResidualQuantizer:
        """Learn codebooks and kernels, from the coarsest scale on.

        Parameters
        ----------
        X : array_like of shape (maps, n, n) or (maps, n, n, channels)
            Maps, n the last of `sides`.
        y : None
            Ignored.

        Returns
        -------
        ResidualQuantizer
            Itself.

        Raises
        ------
        ValueError
            If the maps have another side, or the coarsest scale has fewer tokens than `codebook`.
        """
        sides = check_sides(self.sides)
        size = check_count("codebook", self.codebook)
        n_iter, samples = check_count("n_iter", self.n_iter), check_count("samples", self.samples)
        residual = self._channels_first(X, sides[-1])
        if len(residual) * sides[0] ** 2 < size or samples < size:
            raise ValueError(
                f"codebook must be at most the number of coarsest tokens and of samples, got {size}"
                f" for {len(residual) * sides[0] ** 2} and {samples}"
            )
        rng = np.random.default_rng(self.rng)
        channels = residual.shape[1]
        self.codebooks_ = np.empty((len(sides), size, channels))
        self.kernels_ = np.empty((len(sides), len(TAPS), channels, channels))
        self.errors_ = np.empty(len(sides))
        for r, side in enumerate(sides):
            vectors = _vectors(area_downsample(residual, side))
            some = vectors
            if len(vectors) > samples:
                some = vectors[rng.choice(len(vectors), samples, replace=False)]
            means = KMeans(size, n_init=1, max_iter=n_iter, random_state=int(rng.integers(2**31)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                self.codebooks_[r] = means.fit(some).cluster_centers_
            codes = _nearest(vectors, self.codebooks_[r])
            raised = self._raised(codes.reshape(len(residual), side, side), r, sides[-1])
            self.kernels_[r] = _least_squares_kernel(raised, residual)
            residual = residual - _convolved(raised, self.kernels_[r])
            self.errors_[r] = np.mean(residual**2)
        self._flat = np.ndim(X) == 3
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return the codes of maps, shape (maps, L), scale after scale, each row by row."""
        check_is_fitted(self)
        sides = check_sides(self.sides)
        residual = self._channels_first(X, sides[-1])
        if residual.shape[1] != self.codebooks_.shape[2]:
            raise ValueError(
                f"X must have {self.codebooks_.shape[2]} channels, got {residual.shape[1]}"
            )
        parts = []
        for r, side in enumerate(sides):
            codes = _nearest(_vectors(area_downsample(residual, side)), self.codebooks_[r])
            codes = codes.reshape(len(residual), side, side)
            residual = residual - _convolved(self._raised(codes, r, sides[-1]), self.kernels_[r])
            parts.append(codes.reshape(len(residual), -1))
        return np.concatenate(parts, axis=1)

    def inverse_transform(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the maps of codes: looked up, interpolated, smoothed and summed.

        Parameters
        ----------
        X : array_like of int of shape (maps, tokens)
            Codes of all scales, or of the first few.

        Returns
        -------
        ndarray of shape (maps, n, n) or (maps, n, n, channels)
            As `fit` was given.

        Raises
        ------
        ValueError
            If the number of tokens is not that of some first scales, or a code is out of range.
        """
        check_is_fitted(self)
        sides = check_sides(self.sides)
        codes = check_array("X", X, ndim=2)
        stops = np.cumsum([0] + [side * side for side in sides])
        if codes.shape[1] not in stops:
            raise ValueError(f"X must have one of {stops.tolist()} tokens, got {codes.shape[1]}")
        size, channels = self.codebooks_.shape[1:]
        if not np.isin(codes, np.arange(size)).all():
            raise ValueError(f"X must hold integers from 0 to {size - 1}")
        total = np.zeros((len(codes), channels, sides[-1], sides[-1]))
        for r in range(int(np.searchsorted(stops, codes.shape[1]))):
            part = codes[:, stops[r] : stops[r + 1]].astype(np.int64)
            part = part.reshape(len(codes), sides[r], sides[r])
            total += _convolved(self._raised(part, r, sides[-1]), self.kernels_[r])
        return total[:, 0] if self._flat else np.moveaxis(total, 1, -1)

    def _raised(self, codes: NDArray[np.int64], r: int, side: int) -> NDArray[np.float64]:
        return bicubic_upsample(np.moveaxis(self.codebooks_[r][codes], -1, 1), side)

    def _channels_first(self, X: ArrayLike, side: int) -> NDArray[np.float64]:
        maps = check_array("X", X)
        if maps.ndim not in (3, 4) or maps.shape[1:3] != (side, side) or 0 in maps.shape:
            raise ValueError(
                f"X must have shape (maps, {side}, {side}) or (maps, {side}, {side}, channels), "
                f"got {maps.shape}"
            )
        return maps[:, None] if maps.ndim == 3 else np.moveaxis(maps, -1, 1)


def _vectors(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.moveaxis(maps, 1, -1).reshape(-1, maps.shape[1])


def _nearest(vectors: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.int64]:
    codes = np.empty(len(vectors), dtype=np.int64)
    half = (centres**2).sum(axis=1) / 2
    for first in range(0, len(vectors), 2**16):
        part = slice(first, first + 2**16)
        codes[part] = np.argmin(half - vectors[part] @ centres.T, axis=1)
    return codes


def _shifted(maps: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The maps as each tap of the kernel sees them, edges repeated."""
    height, width = maps.shape[-2:]
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    return [padded[..., i : i + height, j : j + width] for i, j in TAPS]


def _convolved(maps: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.zeros_like(maps)
    for matrix, shifted in zip(kernel, _shifted(maps), strict=True):
        total += np.einsum("oc,bchw->bohw", matrix, shifted)
    return total


def _least_squares_kernel(
    maps: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The kernel whose convolution is nearest to `target`; where it is free, the identity."""
    channels = maps.shape[1]
    columns = np.stack([_vectors(shifted) for shifted in _shifted(maps)], axis=1)
    columns = columns.reshape(-1, len(TAPS) * channels)
    gram = columns.T @ columns
    gram += max(RIDGE * np.trace(gram), np.finfo(float).tiny) * np.eye(len(gram))
    change = np.linalg.solve(gram, columns.T @ _vectors(target - maps))
    kernel: Any = np.moveaxis(change.reshape(len(TAPS), channels, channels), 1, 2).copy()
    kernel[CENTRE] += np.eye(channels)
    return kernel

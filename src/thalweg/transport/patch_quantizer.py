"""Images as sequences of codes: cut into patches, each named by the nearest of a learned codebook.

`PatchQuantizer` stands in for a trained image tokenizer such as a VQGAN, where a small codebook of
grey patches is enough: k-means takes the place of the encoder, and pasting the centroids back takes
that of the decoder. Its `centroids_` make a kernel by `thalweg.transport.centroid_kernel`.

Source: chosen here, in place of the vector-quantised autoencoders of "Categorical Schrödinger
Bridge Matching" (2025), arXiv 2502.01416.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import MiniBatchKMeans
from sklearn.utils.validation import check_is_fitted

from thalweg._validation import check_array, check_count
from thalweg.transport.categorical import Tokens, check_tokens

Floats: TypeAlias = NDArray[np.float64]

INITIALISATIONS = 3


class PatchQuantizer(TransformerMixin, BaseEstimator):
    """Images (n, H, W) to tokens (n, D) and back, by k-means on square patches.

    Parameters
    ----------
    patch : int, default 4
        Side of a patch, in pixels; it must divide both sides of the images.
    n_codes : int, default 64
        Codes S of the codebook.
    rng : None, int or Generator, default None
        Source of the start of k-means.

    Attributes
    ----------
    centroids_ : array (S, patch * patch)
        The codebook, sorted by mean brightness.
    image_shape_ : tuple of int
        H and W.
    n_tokens_ : int
        D, the patches of an image, in reading order.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.random.default_rng(0).random((20, 8, 8))
    >>> quantizer = PatchQuantizer(patch=4, n_codes=5, rng=0).fit(images)
    >>> tokens = quantizer.transform(images)
    >>> tokens.shape, quantizer.inverse_transform(tokens).shape
    ((20, 4), (20, 8, 8))
    """

    def __init__(self, patch: int = 4, n_codes: int = 64, rng: Any = None) -> None:
        self.patch = patch
        self.n_codes = n_codes
        self.rng = rng

    def fit(self, X: ArrayLike, y: Any = None) -> PatchQuantizer:
        """Learn the codebook from images (n, H, W); `y` is not used.

        Raises
        ------
        ValueError
            If the images are not finite, their sides are no multiples of `patch`, or they hold
            fewer patches than there are codes.
        """
        patch = check_count("patch", self.patch)
        n_codes = check_count("n_codes", self.n_codes, at_least=2)
        X = check_array("X", X, ndim=3)
        if X.shape[1] == 0 or X.shape[2] == 0 or X.shape[1] % patch or X.shape[2] % patch:
            raise ValueError(f"X must have sides that {patch} divides, got shape {X.shape}")
        patches = _patches(X, patch)
        if len(patches) < n_codes:
            raise ValueError(f"n_codes must be at most the {len(patches)} patches, got {n_codes}")
        seed = int(np.random.default_rng(self.rng).integers(2**31))
        kmeans = MiniBatchKMeans(n_codes, n_init=INITIALISATIONS, random_state=seed).fit(patches)
        centroids = kmeans.cluster_centers_
        self.centroids_: Floats = centroids[np.argsort(centroids.mean(axis=1), kind="stable")]
        self.image_shape_ = X.shape[1:]
        self.n_tokens_ = X[0].size // patch**2
        return self

    def transform(self, X: ArrayLike) -> Tokens:
        """Return the nearest code of each patch: images (n, H, W) to tokens (n, D)."""
        check_is_fitted(self)
        X = check_array("X", X, shape=(None, *self.image_shape_))
        patches = _patches(X, self.patch)
        codes = np.empty(len(patches), dtype=np.int64)
        squares = (self.centroids_**2).sum(axis=1)
        block = max(1, 2**22 // len(self.centroids_))
        for start in range(0, len(patches), block):
            rows = slice(start, start + block)
            codes[rows] = (squares - 2 * patches[rows] @ self.centroids_.T).argmin(axis=1)
        return codes.reshape(len(X), self.n_tokens_)

    def inverse_transform(self, X: ArrayLike) -> Floats:
        """Return images (n, H, W) whose patches are the codes of tokens (n, D)."""
        check_is_fitted(self)
        tokens = check_tokens("X", X, len(self.centroids_), n_tokens=self.n_tokens_)
        height, width = self.image_shape_
        p = self.patch
        blocks = self.centroids_[tokens].reshape(len(tokens), height // p, width // p, p, p)
        return blocks.swapaxes(2, 3).reshape(len(tokens), height, width)


def _patches(X: Floats, patch: int) -> Floats:
    """Cut images into patches in reading order, shape (n D, patch^2)."""
    n, height, width = X.shape
    blocks = X.reshape(n, height // patch, patch, width // patch, patch).swapaxes(2, 3)
    return blocks.reshape(-1, patch * patch)

"""Discrete reference processes: how token sequences change by themselves, and given both ends.

`CategoricalReference` is a Markov chain on token sequences whose coordinates move independently by
one kernel; it gives bridges, posteriors and transition probabilities to the methods of this
domain. `product_reference` makes one table of all sequences, on which `categorical_bridge` and
`categorical_dimf` solve for the Schrödinger bridge exactly.

Time runs over 0, 1, ..., N+1, with N inner times; A_n is the n-th power of the kernel Q.

Source: "Categorical Schrödinger Bridge Matching" (2025), arXiv 2502.01416.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_count
from thalweg.transport.categorical_kernels import centroid_kernel as centroid_kernel
from thalweg.transport.categorical_kernels import check_kernel
from thalweg.transport.categorical_kernels import gaussian_kernel as gaussian_kernel
from thalweg.transport.categorical_kernels import uniform_kernel as uniform_kernel
from thalweg.transport.categorical_kernels import von_mises_kernel as von_mises_kernel
from thalweg.transport.categorical_table_bridges import LEAST_REACHABLE as LEAST_REACHABLE
from thalweg.transport.categorical_table_bridges import categorical_bridge as categorical_bridge
from thalweg.transport.categorical_table_bridges import categorical_dimf as categorical_dimf

Floats: TypeAlias = NDArray[np.float64]
Tokens: TypeAlias = NDArray[np.int64]

MAX_PRODUCT_STATES = 4096


class CategoricalReference:
    """Markov chain on ``{0, ..., S-1}^D`` whose coordinates move independently by one kernel.

    Parameters
    ----------
    kernel : array_like (S, S)
        One-step probabilities Q[i, j] of going from i to j; rows sum to 1. See `uniform_kernel`,
        `gaussian_kernel`, `von_mises_kernel` and `centroid_kernel`.
    n_inner : int
        Inner times N, at least 1: the chain makes N + 1 steps.

    Attributes
    ----------
    kernel : array (S, S)
    n_inner : int
    n_categories : int
        S.
    cumulative : array (N+2, S, S)
        A_0 = I, A_1 = Q, ..., A_{N+1}; made at first use.
    transition : array (S, S)
        A_{N+1}.

    Raises
    ------
    ValueError
        If the kernel is not square, has a negative entry or a row that does not sum to 1 within
        1e-8, or `n_inner` is below 1.

    References
    ----------
    "Categorical Schrödinger Bridge Matching" (2025), arXiv 2502.01416.

    Examples
    --------
    >>> import numpy as np
    >>> reference = CategoricalReference(uniform_kernel(4, 0.3), n_inner=3)
    >>> x0, x1 = np.array([[0, 1], [2, 2]]), np.array([[3, 1], [2, 0]])
    >>> reference.sample(x0, rng=0).shape, reference.bridge(x0, x1, 2, rng=0).shape
    ((5, 2, 2), (2, 2))
    >>> reference.posterior_probs(x0, x1, 3)[0].round(3)
    array([[0., 0., 0., 1.],
           [0., 1., 0., 0.]])
    """

    def __init__(self, kernel: ArrayLike, n_inner: int) -> None:
        self.kernel = _frozen(check_kernel("kernel", kernel).copy())
        self.n_inner = check_count("n_inner", n_inner)
        self.n_categories = len(self.kernel)

    @cached_property
    def cumulative(self) -> Floats:
        """Powers A_0, ..., A_{N+1} of the kernel, shape (N+2, S, S)."""
        powers = np.empty((self.n_inner + 2, *self.kernel.shape))
        powers[0] = np.eye(self.n_categories)
        for n in range(self.n_inner + 1):
            np.matmul(powers[n], self.kernel, out=powers[n + 1])
        return _frozen(powers)

    @cached_property
    def transition(self) -> Floats:
        """Probabilities A_{N+1} of going from one end to the other, shape (S, S)."""
        return _frozen(np.linalg.matrix_power(self.kernel, self.n_inner + 1))

    def log_transition(self, x0: ArrayLike, x1: ArrayLike) -> Floats:
        """Return ``log A_{N+1}[x0, x1]`` summed over the coordinates, shape (n,).

        Parameters
        ----------
        x0, x1 : array_like of int (n, D)
            Tokens at both ends.

        Returns
        -------
        array (n,)
            ``-inf`` where `x1` cannot be reached.
        """
        x0, x1 = self._pair(x0=x0, x1=x1)
        with np.errstate(divide="ignore"):
            logs: Floats = np.log(self.transition)[x0, x1].sum(axis=1)
        return logs

    def bridge_probs(self, x0: ArrayLike, x1: ArrayLike, n: ArrayLike) -> Floats:
        """Return the law of X_n given both ends, ``A_n[x0, .] A_{N+1-n}[., x1] / A_{N+1}[x0, x1]``.

        Parameters
        ----------
        x0, x1 : array_like of int (n_rows, D)
            Tokens at time 0 and at time N + 1.
        n : int or array_like of int (n_rows,)
            Times in 0..N+1.

        Returns
        -------
        array (n_rows, D, S)
            Each row sums to 1.

        Raises
        ------
        ValueError
            If tokens or times are out of range, or `x1` cannot be reached from `x0`.
        """
        x0, x1 = self._pair(x0=x0, x1=x1)
        n = self._times(n, x0, self.n_inner + 1)
        A = self.cumulative
        joint = A[n, x0] * A[self.n_inner + 1 - n, :, x1]
        return _normalized(joint, "x1 cannot be reached from x0", x0, x1)

    def bridge(self, x0: ArrayLike, x1: ArrayLike, n: ArrayLike, rng: Any = None) -> Tokens:
        """Draw X_n given both ends, shape (n_rows, D); arguments as for `bridge_probs`."""
        return sample_categorical(self.bridge_probs(x0, x1, n), rng)

    def posterior_probs(self, xn: ArrayLike, xend: ArrayLike, n: ArrayLike) -> Floats:
        """Return the law of X_{n+1} given X_n and the end: ``Q[xn, .] A_{N-n}[., xend]``, scaled.

        Parameters
        ----------
        xn, xend : array_like of int (n_rows, D)
            Tokens at time n and at time N + 1.
        n : int or array_like of int (n_rows,)
            Times in 0..N.

        Returns
        -------
        array (n_rows, D, S)
            Each row sums to 1.

        Raises
        ------
        ValueError
            If tokens or times are out of range, or `xend` cannot be reached from `xn` in time.
        """
        xn, xend = self._pair(xn=xn, xend=xend)
        n = self._times(n, xn, self.n_inner)
        joint = self.kernel[xn] * self.cumulative[self.n_inner - n, :, xend]
        return _normalized(joint, "xend cannot be reached from xn", xn, xend)

    def sample(self, x0: ArrayLike, rng: Any = None) -> Tokens:
        """Draw the chain from the rows of `x0`.

        Parameters
        ----------
        x0 : array_like of int (n, D)
            Tokens at time 0.
        rng : None, int or Generator
            Source of randomness.

        Returns
        -------
        array of int (N+2, n, D)
            Tokens at times 0, 1, ..., N+1.
        """
        path = [check_tokens("x0", x0, self.n_categories)]
        rng = np.random.default_rng(rng)
        for _ in range(self.n_inner + 1):
            path.append(sample_categorical(self.kernel[path[-1]], rng))
        return np.stack(path)

    def _pair(self, **named: ArrayLike) -> list[Tokens]:
        (first, a), (second, b) = named.items()
        a = check_tokens(first, a, self.n_categories)
        b = check_tokens(second, b, self.n_categories)
        if a.shape != b.shape:
            raise ValueError(f"{second} must have shape {a.shape} like {first}, got {b.shape}")
        return [a, b]

    def _times(self, n: ArrayLike, x: Tokens, latest: int) -> Tokens:
        """Check times and shape them so that they broadcast against tokens (n_rows, D)."""
        times = np.asarray(n)
        if times.dtype.kind not in "iu":
            raise TypeError(f"n must be integers in 0..{latest}, got {times.dtype}")
        if times.size and not (times.min() >= 0 and times.max() <= latest):
            raise ValueError(f"n must lie in 0..{latest}, got {times.min()} to {times.max()}")
        if times.shape not in ((), (len(x),)):
            raise ValueError(f"n must be a number or have shape ({len(x)},), got {times.shape}")
        return times.astype(np.int64).reshape(-1, 1)


class _ProductReference(CategoricalReference):
    """D copies of a chain as one chain; powers are products of the small chain's powers."""

    def __init__(self, factor: CategoricalReference, copies: int) -> None:
        self._factor, self._copies = factor, copies
        super().__init__(self._kron(factor.kernel), factor.n_inner)

    @cached_property
    def cumulative(self) -> Floats:
        return _frozen(np.stack([self._kron(power) for power in self._factor.cumulative]))

    @cached_property
    def transition(self) -> Floats:
        return _frozen(self._kron(self._factor.transition))

    def _kron(self, matrix: Floats) -> Floats:
        product: Floats = matrix
        for _ in range(self._copies - 1):
            product = np.asarray(np.kron(product, matrix), dtype=np.float64)
        return product


def product_reference(reference: CategoricalReference, D: int) -> CategoricalReference:
    """Return the chain on all S^D sequences as a chain of one coordinate.

    The state of a sequence is its index in C order, ``np.ravel_multi_index(x.T, (S,) * D)``.

    Parameters
    ----------
    reference : CategoricalReference
        The chain of one coordinate.
    D : int
        Coordinates.

    Returns
    -------
    CategoricalReference
        With S^D categories. Its `cumulative` takes ``8 (N+2) S^(2D)`` bytes, at first use.

    Raises
    ------
    ValueError
        If there would be more than 4096 states.

    Examples
    --------
    >>> import numpy as np
    >>> reference = CategoricalReference(uniform_kernel(3, 0.2), n_inner=2)
    >>> product = product_reference(reference, 2)
    >>> x0, x1 = np.array([[0, 1]]), np.array([[2, 1]])
    >>> states = [np.ravel_multi_index(x.T, (3, 3))[:, None] for x in (x0, x1)]
    >>> bool(np.isclose(product.log_transition(*states), reference.log_transition(x0, x1)))
    True
    """
    D = check_count("D", D)
    states = reference.n_categories**D
    if states > MAX_PRODUCT_STATES:
        raise ValueError(
            f"D must leave at most {MAX_PRODUCT_STATES} states, got {reference.n_categories}^{D} "
            f"= {states}"
        )
    return _ProductReference(reference, D)


def sample_categorical(probs: ArrayLike, rng: Any = None) -> Tokens:
    """Draw one category from each law along the last axis; weights need not sum to 1.

    Examples
    --------
    >>> sample_categorical([[0.0, 1.0], [2.0, 0.0]], rng=0)
    array([1, 0])
    """
    cumulated = np.cumsum(probs, axis=-1)
    total = cumulated[..., -1:]
    u = np.random.default_rng(rng).random(total.shape) * total
    u = np.minimum(u, np.nextafter(total, 0))
    return (cumulated <= u).sum(axis=-1)


def check_tokens(
    name: str, value: ArrayLike, n_categories: int, *, n_tokens: int | None = None
) -> Tokens:
    """Return `value` as tokens of shape (n, D): whole numbers in 0..S-1.

    Raises
    ------
    TypeError
        If `value` does not hold numbers.
    ValueError
        If it is not a table, has another width than `n_tokens`, or an entry is not a whole number
        in 0..S-1.

    Examples
    --------
    >>> check_tokens("X", [[0, 2], [1, 1]], 3)
    array([[0, 2],
           [1, 1]])
    """
    x = check_array(name, value, dtype=None)
    if x.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be an array of integers, got {x.dtype}")
    if x.ndim != 2 or x.shape[1] == 0 or (n_tokens is not None and x.shape[1] != n_tokens):
        width = "D" if n_tokens is None else n_tokens
        raise ValueError(f"{name} must have shape (n, {width}), got {x.shape}")
    for wrong in (x != np.floor(x), (x < 0) | (x >= n_categories)):
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"{name} must be whole numbers in 0..{n_categories - 1}, got {x[index]} at index "
                f"{index}"
            )
    return x.astype(np.int64)


def check_ends(reference: CategoricalReference, X: ArrayLike, Y: ArrayLike) -> list[Tokens]:
    """Return `X` and `Y` as tokens of sequences that the reference can join.

    Raises
    ------
    TypeError
        If `reference` is not a CategoricalReference.
    ValueError
        If an array does not hold tokens, is empty, the widths differ, or a token of `Y` cannot be
        reached from one of `X` at the same place ("infeasible").
    """
    if not isinstance(reference, CategoricalReference):
        raise TypeError(f"reference must be a CategoricalReference, got {reference!r}")
    x = check_tokens("X", X, reference.n_categories)
    y = check_tokens("Y", Y, reference.n_categories)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"Y must have {x.shape[1]} columns like X, got shape {y.shape}")
    for name, tokens in (("X", x), ("Y", y)):
        if not len(tokens):
            raise ValueError(f"{name} must hold at least one sequence, got {tokens.shape}")
    unreachable = reference.transition < LEAST_REACHABLE
    for d in range(x.shape[1]) if unreachable.any() else ():
        starts, ends = np.unique(x[:, d]), np.unique(y[:, d])
        lost = np.argwhere(unreachable[np.ix_(starts, ends)])
        if len(lost):
            raise ValueError(
                f"infeasible: the reference cannot take token {starts[lost[0, 0]]} of X to "
                f"token {ends[lost[0, 1]]} of Y in column {d}"
            )
    return [x, y]


def _normalized(joint: Floats, why: str, a: Tokens, b: Tokens) -> Floats:
    total = joint.sum(axis=-1, keepdims=True)
    lost = np.argwhere(total[..., 0] < LEAST_REACHABLE)
    if len(lost):
        row, d = (int(i) for i in lost[0])
        raise ValueError(f"infeasible: {why} in row {row}: {a[row, d]} to {b[row, d]}")
    return joint / total


def _frozen(array: Floats) -> Floats:
    array.flags.writeable = False
    return array

"""Softmax attention, and what the size of its logits says about its cost.

`exact_attention` weighs every value by ``exp`` of an inner product, n^2 of them; it takes the mask
of next-scale prediction, in which a token sees its own scale and the coarser. Whether
`thalweg.linalg.polynomial_attention` can do the same in almost linear time depends on the size of
the logits: `attention_numerical_rank` measures how far the matrix of weights is from a thin
product, and `max_inner_product_exceeds` lets attention of large logits solve a problem that is
believed to have no fast algorithm.

Source: "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models: A
Fine-Grained Complexity Analysis" (2025), arXiv 2501.04377.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg._validation import check_array, check_real, is_torch_tensor
from thalweg.linalg._attention_inputs import check_scale, concatenate, read_inputs

BETA_CONSTANT = 2.1
CHUNK_LOGITS = 2**17


def exact_attention(
    q: Any, k: Any, v: Any, *, scale: float | None = None, blocks: Sequence[int] | None = None
) -> Any:
    """Return softmax attention, ``D^-1 A V`` with ``A = exp(scale Q K')`` and ``D = diag(A 1)``.

    Parameters
    ----------
    q : array_like or torch.Tensor of shape (..., n, d)
        Queries.
    k : array_like or torch.Tensor of shape (..., L, d)
        Keys.
    v : array_like or torch.Tensor of shape (..., L, d_v)
        Values. The leading axes of all three are the same.
    scale : float, optional
        Factor of the inner products; None is the paper's 1/d. Common practice is 1/sqrt(d).
    blocks : sequence of int, optional
        Numbers of tokens of each scale, summing to n = L: a token sees the tokens of its own scale
        and of those before. None lets every query see every key.

    Returns
    -------
    ndarray or torch.Tensor of shape (..., n, d_v)
        Averages of the values. Tensors keep type, device and gradient; half precision of NumPy is
        computed in single.

    Raises
    ------
    TypeError
        If the three are not all tensors or all real arrays.
    ValueError
        If shapes disagree, `blocks` does not sum to the number of tokens, or an entry is not
        finite.

    References
    ----------
    "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models"
    (2025), arXiv 2501.04377, the attention layer.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.eye(3)
    >>> exact_attention(x, x, x, scale=1.0, blocks=[1, 2]).round(3)
    array([[1.   , 0.   , 0.   ],
           [0.212, 0.576, 0.212],
           [0.212, 0.212, 0.576]])
    """
    q, k, v, scale, ends = read_inputs(q, k, v, scale, blocks)
    if is_torch_tensor(q):
        return concatenate([_torch_attention(q, k, v, scale, *part) for part in ends])
    pieces = []
    for start, stop, seen in ends:
        rows = max(1, CHUNK_LOGITS // max(1, math.prod(k.shape[:-2]) * seen))
        keys, values = k[..., :seen, :].swapaxes(-1, -2), v[..., :seen, :]
        for row in range(start, stop, rows):
            weights = (scale * q[..., row : min(row + rows, stop), :]) @ keys
            weights -= weights.max(axis=-1, keepdims=True)
            np.exp(weights, out=weights)
            pieces.append(weights @ values)
            pieces[-1] /= weights.sum(axis=-1, keepdims=True)
    return concatenate(pieces)


def attention_numerical_rank(
    q: ArrayLike, k: ArrayLike, eps: float = 1e-3, *, scale: float | None = None
) -> int:
    """Return how many singular values of ``exp(scale Q K')`` exceed `eps` times the largest.

    What any low-rank method has to reach: it grows with the size of the logits as
    `attention_rank` does, and is at most the number of tokens.

    Parameters
    ----------
    q : array_like of shape (n, d)
        Queries.
    k : array_like of shape (L, d)
        Keys.
    eps : float, default 1e-3
        Threshold, ``0 < eps < 1``.
    scale : float, optional
        None is 1/d.

    Returns
    -------
    int
        The numerical rank, by a singular value decomposition: for a few thousand tokens.

    Raises
    ------
    ValueError
        If shapes disagree or entries are not finite.

    Examples
    --------
    >>> attention_numerical_rank([[0.0], [1.0]], [[0.0], [1.0]])
    2
    """
    eps = check_real("eps", eps, above=0, below=1)
    q, k = check_array("q", q, ndim=2), check_array("k", k, ndim=2)
    if q.shape[1] != k.shape[1] or not q.size or not k.size:
        raise ValueError(f"q and k must have the same d > 0, got shapes {q.shape} and {k.shape}")
    logits = check_scale(scale, q.shape[1]) * q @ k.T
    values = np.linalg.svd(np.exp(logits - logits.max()), compute_uv=False)
    return int(np.sum(values > eps * values[0]))


def max_inner_product_exceeds(
    a: ArrayLike,
    b: ArrayLike,
    tau: float,
    *,
    beta: float | None = None,
    attention: Callable[..., Any] = exact_attention,
) -> NDArray[np.bool_]:
    """Decide by one call of attention which vectors of `a` have a partner in `b` above `tau`.

    The reduction behind the lower bound: attention over logits of size ``log n`` finds the largest
    inner product, for which no truly subquadratic algorithm is known, and none exists under the
    strong exponential time hypothesis. Every vector of `b` becomes a key of value one, and as many
    dummy keys of value zero answer every query with ``exp(s tau)``, s = scale beta^2.

    Parameters
    ----------
    a : array_like of shape (m, d) of zeros and ones
        Queries.
    b : array_like of shape (L, d) of zeros and ones
        Candidates.
    tau : float
        Threshold, a half-integer, so that no inner product is equal to it.
    beta : float, optional
        Size of the entries. None is ``sqrt(2.1 log(L) / scale)`` with scale = 1/(d + 1), for which
        the answers are right; below ``sqrt(2 log(L) / scale)`` a yes may be missed, and a no is
        still right.
    attention : callable, default `exact_attention`
        Called as ``attention(q, k, v, scale=scale)``; returns an array or a tuple that begins with
        one.

    Returns
    -------
    ndarray of bool of shape (m,)
        Whether some ``a_i . b_j > tau``.

    Raises
    ------
    ValueError
        If entries are other than zero and one, shapes disagree, `b` is empty, or `tau` is no
        half-integer.

    References
    ----------
    "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models"
    (2025), arXiv 2501.04377, lower bound; the gadget is derived here in the manner of "Fast
    Attention Requires Bounded Entries" (2023), arXiv 2302.13214.

    Examples
    --------
    >>> max_inner_product_exceeds([[1, 1, 0], [0, 0, 1]], [[1, 1, 1], [1, 1, 0]], 1.5)
    array([ True, False])
    """
    a, b = _bits("a", a), _bits("b", b)
    if a.shape[1] != b.shape[1] or not b.size:
        raise ValueError(f"b must have shape (1 or more, {a.shape[1]}), got {b.shape}")
    tau = check_real("tau", tau)
    if (2 * tau) % 2 != 1:
        raise ValueError(f"tau must be a half-integer such as 2.5, got {tau!r}")
    count, d = b.shape
    scale = 1 / (d + 1)
    if beta is None:
        beta = math.sqrt(BETA_CONSTANT * math.log(max(count, 2)) / scale)
    beta = check_real("beta", beta, at_least=0)
    q = beta * np.column_stack((a, np.ones(len(a))))
    k = np.zeros((2 * count, d + 1))
    k[:count, :d] = beta * b
    k[count:, d] = beta * tau
    v = np.repeat([1.0, 0.0], count)[:, None]
    out = attention(q, k, v, scale=scale)
    out = out[0] if isinstance(out, tuple) else out
    return np.asarray(out)[:, 0] > 0.5


def _bits(name: str, x: ArrayLike) -> NDArray[np.float64]:
    array = check_array(name, x, ndim=2)
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must hold zeros and ones only")
    return array


def _torch_attention(q: Any, k: Any, v: Any, scale: float, start: int, stop: int, seen: int) -> Any:
    from thalweg._torch import torch

    return torch.nn.functional.scaled_dot_product_attention(
        q[..., start:stop, :], k[..., :seen, :], v[..., :seen, :], scale=scale
    )

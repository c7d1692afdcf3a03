"""Attention in time linear in the number of tokens, where the logits are small enough.

``exp`` of an inner product is replaced by the polynomial of `thalweg.linalg.exp_polynomial`. A
polynomial of an inner product is an inner product of monomials, so that the matrix of weights is a
product of two thin ones, never formed: sums over keys are taken once and serve every query.
`thalweg.linalg.critical_bound` says up to which size of the logits this pays.

Source: "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models: A
Fine-Grained Complexity Analysis" (2025), arXiv 2501.04377.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import factorial

from thalweg._validation import check_count, check_real, is_torch_tensor
from thalweg.linalg._attention_inputs import Span, concatenate, read_inputs, read_points
from thalweg.linalg.exp_polynomials import MAX_BOUND, critical_bound, exp_degree, exp_polynomial

MAX_RANK = 4096
CHUNK_FEATURES = 2**16
LEAST_CHUNK_ROWS = 64
CHECKED_TOKENS = 4096
ROUNDING = 1e-9


def polynomial_attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    eps: float = 1e-3,
    degree: int | None = None,
    bound: float | None = None,
    scale: float | None = None,
    blocks: Sequence[int] | None = None,
    max_rank: int = MAX_RANK,
) -> tuple[Any, dict[str, Any]]:
    """Return softmax attention to a relative error of its weights, in time linear in the tokens.

    ``exp`` is replaced by a polynomial p of degree g, and ``p(scale q.k)`` is the inner product of
    ``binom(d + g, g)`` monomials of q and k. Sums over keys are taken once and serve all queries;
    with `blocks` they grow from scale to scale.

    Parameters
    ----------
    q, k, v, scale, blocks
        As in `exact_attention`.
    eps : float, default 1e-3
        Relative error of each weight, ``0 < eps < 1``.
    degree : int, optional
        Degree of the polynomial; None takes the least one that reaches `eps`.
    bound : float, optional
        A bound on ``|scale q_i . k_j|`` over the pairs that see each other. None is
        ``scale max|q_i| max|k_j|``. One that is too small is refused; up to 4096 queries and keys
        every pair is looked at, beyond that the 4096 longest of each.
    max_rank : int, default 4096
        Most monomials.

    Returns
    -------
    out : ndarray or torch.Tensor of shape (..., n, d_v)
        As `exact_attention` returns it; computed in double precision.
    info : dict
        ``"degree"``; ``"rank"``; ``"bound"``; ``"relative_error"`` e of the weights;
        ``"error_bound"``, ``2 e / (1 - e) max|v|``, which no entry of the result is further from
        the exact one; ``"flops"``.

    Raises
    ------
    TypeError
        As `exact_attention`.
    ValueError
        As `exact_attention`; if the rank would be above `max_rank`, or ``exp`` cannot be followed
        on [-bound, bound] (see `exp_polynomial`); if `bound` is smaller than a logit; if a given
        degree leaves a relative error of one or more.

    Notes
    -----
    The inner products of features can be summed over parts of the keys on different machines: each
    part gives an array of shape (rank, d_v + 1).

    References
    ----------
    "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models"
    (2025), arXiv 2501.04377, the almost quadratic algorithm. The constant of the error bound is
    derived here: weights ``w_j (1 + e_j)`` with ``|e_j| <= e`` move an average by at most
    ``2 e / (1 - e) max|v|``.

    Examples
    --------
    >>> import numpy as np
    >>> from thalweg.linalg import exact_attention
    >>> q, k, v = np.random.default_rng(0).uniform(-1, 1, (3, 500, 4))
    >>> out, info = polynomial_attention(q, k, v)
    >>> info["degree"], info["rank"]
    (4, 70)
    >>> bool(np.abs(out - exact_attention(q, k, v)).max() < info["error_bound"])
    True
    """
    eps = check_real("eps", eps, above=0, below=1)
    max_rank = check_count("max_rank", max_rank)
    if degree is not None:
        degree = check_count("degree", degree, at_least=0)
    q, k, v, scale, spans = read_inputs(q, k, v, scale, blocks)
    d, lead = q.shape[-1], math.prod(q.shape[:-2])
    wide_q, wide_k, wide_v = _double(q), _double(k), _double(v)
    bound = _logit_bound(wide_q, wide_k, scale, spans, bound)
    coef, error = _polynomial(bound, eps, degree, d, max_rank, k.shape[-2])
    degree = len(coef) - 1
    folded: Any = _folded(coef * scale ** np.arange(degree + 1.0), d)
    rank = len(folded)
    if is_torch_tensor(v):
        wide_v = concatenate([wide_v, wide_v.new_ones((*v.shape[:-1], 1))], -1)
        folded = wide_v.new_tensor(folded)
    else:
        wide_v = concatenate([wide_v, np.ones((*v.shape[:-1], 1))], -1)
    rows = max(LEAST_CHUNK_ROWS, CHUNK_FEATURES // (rank * lead))
    with np.errstate(over="ignore", invalid="ignore"):
        out = _linear_attention(wide_q, wide_k, wide_v, spans, folded[:, None], degree, rows)
    if not (out.isfinite() if is_torch_tensor(out) else np.isfinite(out)).all():
        raise ValueError(f"the sums over keys left the floating range for logits up to {bound:.4g}")
    tokens = q.shape[-2] + k.shape[-2]
    info = {
        "degree": degree,
        "rank": rank,
        "bound": bound,
        "relative_error": error,
        "error_bound": 2 * error / (1 - error) * float(abs(_plain(v)).max()),
        "flops": lead * tokens * attention_flops_per_token(rank, v.shape[-1]),
    }
    return (out.to(v.dtype) if is_torch_tensor(out) else out.astype(v.dtype, copy=False)), info


def attention_flops_per_token(rank: int, d_v: int) -> int:
    """Return the operations that `polynomial_attention` spends on one query or on one key.

    A query and a key each cost `rank` products for the monomials and a multiplication and an
    addition for each of them and each of the ``d_v + 1`` columns.

    Examples
    --------
    >>> attention_flops_per_token(70, 4)
    770
    """
    return rank * (1 + 2 * (d_v + 1))


def monomial_features(x: Any, degree: int) -> Any:
    """Return all monomials of degree at most `degree` in the columns of `x`.

    Parameters
    ----------
    x : array_like or torch.Tensor of shape (..., n, d)
        Points.
    degree : int
        The largest degree g.

    Returns
    -------
    ndarray or torch.Tensor of shape (..., n, binom(d + g, g))
        In graded order: 1; the columns; then within each degree the products
        ``x_i x_j x_k ...``, ``i <= j <= k <= ...``, in the order of
        `itertools.combinations_with_replacement`. No coefficients are folded in.

    Raises
    ------
    ValueError
        If `x` has fewer than two axes or non-finite entries, or the degree is negative.

    Examples
    --------
    >>> monomial_features([[2.0, 3.0]], 2)
    array([[1., 2., 3., 4., 6., 9.]])
    """
    degree = check_count("degree", degree, at_least=0)
    x = read_points("x", x)
    return _monomials(x.swapaxes(-1, -2), degree).swapaxes(-1, -2)


def _logit_bound(q: Any, k: Any, scale: float, spans: list[Span], bound: float | None) -> float:
    """The bound given, if no logit that matters is larger; else the cheap one."""
    q, k = _plain(q), _plain(k)
    q_length, k_length = ((x * x).sum(-1) ** 0.5 for x in (q, k))
    cheap = scale * float((_largest(q_length) * _largest(k_length)).max())
    if bound is None:
        return cheap
    bound = check_real("bound", bound, at_least=0)
    if bound >= cheap:
        return bound
    largest = 0.0
    for start, stop, seen in spans:
        few_q = _longest(q[..., start:stop, :], q_length[..., start:stop])
        few_k = _longest(k[..., :seen, :], k_length[..., :seen])
        for row in range(0, few_q.shape[-2], LEAST_CHUNK_ROWS):
            some = few_q[..., row : row + LEAST_CHUNK_ROWS, :]
            largest = max(largest, float(abs(some @ few_k.swapaxes(-1, -2)).max()))
    if bound < scale * largest * (1 - ROUNDING):
        raise ValueError(
            f"bound must be at least the largest |scale q.k|, which is {scale * largest:.6g} or "
            f"more, got {bound!r}"
        )
    return bound


def _largest(length: Any) -> Any:
    return length.amax(-1) if is_torch_tensor(length) else length.max(axis=-1)


def _longest(x: Any, length: Any) -> Any:
    if x.shape[-2] <= CHECKED_TOKENS:
        return x
    order = (-length).argsort(-1)[..., :CHECKED_TOKENS, None]
    if is_torch_tensor(x):
        return x.gather(-2, order.expand(*order.shape[:-1], x.shape[-1]))
    return np.take_along_axis(x, order, axis=-2)


def _polynomial(
    bound: float, eps: float, degree: int | None, d: int, max_rank: int, tokens: int
) -> tuple[NDArray[np.float64], float]:
    if bound > MAX_BOUND:
        raise ValueError(
            f"bound on |scale q.k| must be <= {MAX_BOUND:g}, got {bound:.6g}; for these {tokens} "
            f"tokens exact attention is the cheaper beyond {critical_bound(tokens, d, eps):.4g}"
        )
    least = exp_degree(bound, eps) if degree is None else degree
    rank = math.comb(d + least, least)
    if rank > max_rank:
        raise ValueError(
            f"rank must be at most max_rank={max_rank}, got {rank} (degree {least}) for logits "
            f"up to B={bound:.4g}; for these {tokens} tokens exact attention is the cheaper beyond "
            f"the critical bound {critical_bound(tokens, d, eps):.4g}"
        )
    coef, error = exp_polynomial(bound, eps, degree)
    if not error < 1:
        raise ValueError(
            f"degree must leave a relative error below 1 for logits up to B={bound:.4g}, got "
            f"{least}, which leaves {error:.3g}"
        )
    return coef, error


def _folded(coef: NDArray[np.float64], d: int) -> NDArray[np.float64]:
    """For each monomial of degree m its coefficient in ``sum_m coef[m] (q.k)^m``."""
    degree = len(coef) - 1
    block = np.zeros((1, d), dtype=np.int64)
    pieces = [np.array(coef[:1])]
    for m in range(1, degree + 1):
        block = np.concatenate(
            [block[-tail:] + np.eye(d, dtype=np.int64)[i] for i, tail in _tails(d, m)]
        )
        pieces.append(coef[m] * factorial(m) / factorial(block).prod(axis=1))
    return np.concatenate(pieces)


def _monomials(columns: Any, degree: int) -> Any:
    """Monomials of points given as columns, shape (..., d, n), as rows, shape (..., r, n)."""
    block = 0 * columns[..., :1, :] + 1
    blocks = [block]
    for m in range(1, degree + 1):
        block = concatenate(
            [
                columns[..., i : i + 1, :] * block[..., block.shape[-2] - tail :, :]
                for i, tail in _tails(columns.shape[-2], m)
            ]
        )
        blocks.append(block)
    return concatenate(blocks)


def _tails(d: int, m: int) -> Iterator[tuple[int, int]]:
    """For each variable i, how many monomials of degree m - 1 have none before it: the last ones.

    Times variable i they are, in order, the monomials of degree m that begin with it.
    """
    for i in range(d):
        yield i, math.comb(m - 1 + d - i - 1, m - 1)


def _linear_attention(
    q: Any, k: Any, v: Any, spans: list[Span], folded: Any, degree: int, rows: int
) -> Any:
    """Averages of the columns of `v` but the last, which is one and gives the denominator."""
    q, k = q.swapaxes(-1, -2), k.swapaxes(-1, -2)
    sums: Any = 0.0
    seen, out = 0, []
    for start, stop, keys in spans:
        for first, last in _chunks(seen, keys, rows):
            sums = sums + _monomials(k[..., first:last], degree) @ v[..., first:last, :]
        seen = keys
        weighted = folded * sums
        for first, last in _chunks(start, stop, rows):
            pair = _monomials(q[..., first:last], degree).swapaxes(-1, -2) @ weighted
            out.append(pair[..., :-1] / pair[..., -1:])
    return concatenate(out)


def _chunks(start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, rows):
        yield first, min(first + rows, stop)


def _double(x: Any) -> Any:
    return x.double() if is_torch_tensor(x) else x.astype(np.float64, copy=False)


def _plain(x: Any) -> Any:
    return x.detach() if is_torch_tensor(x) else x

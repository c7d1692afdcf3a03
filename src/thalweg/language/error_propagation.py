"""How far attention by polynomials can move the logits of a whole model.

Each layer adds the error of its own attention and amplifies what came in by its Lipschitz constant
on the inputs it has. The constants are evaluated, not assumed: operator norms of the weights, sizes
of queries, keys and values, and the least deviation at each norm layer.

Source: "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models: A
Fine-Grained Complexity Analysis" (2025), arXiv 2501.04377, error analysis (in words there; the
constants are derived here).
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch
from thalweg.language.map_decoder import MapDecoder
from thalweg.language.next_scale import NextScaleBlock, NextScaleTransformer, attend
from thalweg.language.upsampling import cubic_matrix

GELU_LIPSCHITZ = 1.13


@torch.no_grad()
def propagate_attention_error(
    model: NextScaleTransformer | MapDecoder, x: torch.Tensor
) -> dict[str, float | NDArray[np.float64]]:
    """Run a model with exact and with polynomial attention; return its errors and their bounds.

    Parameters
    ----------
    model : NextScaleTransformer or MapDecoder
        It is copied and computed in double precision; its `eps` is that of the weights.
    x : torch.Tensor
        Codes of shape (batch, tokens), or features of shape (batch, channels, h, w).

    Returns
    -------
    dict
        ``"layer_error"`` and ``"layer_bound"``, arrays of shape (layers,): the largest Euclidean
        distance of a token's hidden vector after each block (for the decoder, after attention),
        and what it is at most. ``"output_error"`` and ``"output_bound"``: the same for the entries
        of logits or pixels. ``"ranks"`` and ``"logit_bounds"``, arrays of shape (layers,): the
        rank of polynomial attention and B. A bound is infinite where an error could make a token
        constant, for which a norm layer has no Lipschitz constant.

    References
    ----------
    "On Computational Limits and Provably Efficient Criteria of Visual Autoregressive Models"
    (2025), arXiv 2501.04377, error analysis.

    Notes
    -----
    Let inputs be off by e. A norm layer of scale g and deviations at least s gives at most
    ``max|g| e / (s - e / sqrt(width))``. Logits move by at most
    ``t = scale (|dq| |k| + |q| |dk| + |dq| |dk|)``, and softmax weights by t in sum, since their
    derivative is a covariance; so averages move by ``|dv| + t |v|``, and by a further
    ``2 eps / (1 - eps) |v + dv|`` as the weights are approximated. Heads add in squares.

    Examples
    --------
    >>> model = NextScaleTransformer(codebook=16, eps=1e-6, radius=1.0, rng=0)
    >>> found = propagate_attention_error(model, model.sample(2, rng=1))
    >>> bool(0 < found["output_error"] <= found["output_bound"] < 1)
    True
    """
    model = copy.deepcopy(model).double()
    if isinstance(model, MapDecoder):
        return _decoder_errors(model, x.double())
    exact = approximate = model.inputs(x)
    blocks = model.counts[: model.maps_given(x) + 1]
    bound = 0.0
    layers: list[tuple[float, float, int, float]] = []
    for block in model.blocks:
        assert isinstance(block, NextScaleBlock)
        q, k, v = block.split(exact)
        mixed, _ = attend(q, k, v, blocks, "exact", model.eps)
        q, k, v = block.split(approximate)
        other, info = attend(q, k, v, blocks, "polynomial", model.eps)
        bound = _block_bound(block, exact, mixed, bound, info["relative_error"])
        exact, approximate = block.finish(exact, mixed), block.finish(approximate, other)
        layers.append((_token_distance(exact, approximate), bound, info["rank"], info["bound"]))
    norm, linear = model.head
    assert isinstance(norm, torch.nn.LayerNorm)
    rows = float(torch.linalg.vector_norm(linear.weight, dim=1).max())
    return {
        **_columns(layers),
        "output_error": float((model.head(exact) - model.head(approximate)).abs().max()),
        "output_bound": rows * _through_norm(norm, exact, bound),
    }


def _decoder_errors(
    model: MapDecoder, features: torch.Tensor
) -> dict[str, float | NDArray[np.float64]]:
    hidden = model.conv_in(features)
    q, k, v = model.split(hidden)
    mixed, _ = attend(q, k, v, None, "exact", model.eps)
    other, info = attend(q, k, v, None, "polynomial", model.eps)
    out = model.attention_out.weight[..., 0, 0]
    bound = _norm(out) * _attention_bound(q, k, v, (0.0, 0.0, 0.0), info["relative_error"])
    difference = (other - mixed).mT.flatten(1, 2).mT @ out.T
    layer = (_token_distance(difference, 0 * difference), bound, info["rank"], info["bound"])
    stretch = math.prod(
        np.abs(cubic_matrix(side, model.factor * side)).sum(axis=1).max()
        for side in features.shape[-2:]
    )
    taps = torch.linalg.vector_norm(model.conv_out.weight, dim=1).sum(dim=(-2, -1)).max()
    pixels = model.finish(hidden, other) - model.finish(hidden, mixed)
    return {
        **_columns([layer]),
        "output_error": float(pixels.abs().max()),
        "output_bound": float(float(taps) * stretch * bound),
    }


def _columns(layers: list[tuple[float, float, int, float]]) -> dict[str, Any]:
    names = ("layer_error", "layer_bound", "ranks", "logit_bounds")
    return {
        name: np.array(column)
        for name, column in zip(names, zip(*layers, strict=True), strict=True)
    }


def _block_bound(
    block: NextScaleBlock, hidden: torch.Tensor, mixed: torch.Tensor, e: float, eps: float
) -> float:
    """Bound on the distance after a block whose inputs are off by `e`."""
    x = _through_norm(block.attention_norm, hidden, e)
    q, k, v = block.split(hidden)
    errors = [
        np.array([_norm(part) * x if x else 0.0 for part in linear.weight.chunk(block.heads)])
        for linear in (block.query, block.key, block.value)
    ]
    e = e + _norm(block.attention_out.weight) * _attention_bound(q, k, v, errors, eps)
    middle = hidden + block.attention_out(mixed.transpose(1, 2).flatten(2))
    slope = GELU_LIPSCHITZ * _norm(block.perceptron_in.weight) * _norm(block.perceptron_out.weight)
    return e + slope * _through_norm(block.perceptron_norm, middle, e)


def _attention_bound(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, errors: Any, eps: float
) -> float:
    """Bound on the distance of averages of all heads, by those of queries, keys and values."""
    q_size, k_size, v_size = (
        torch.linalg.vector_norm(x, dim=-1).amax(dim=(0, 2)).numpy() for x in (q, k, v)
    )
    dq, dk, dv = errors
    moved = (dq * k_size + q_size * dk + dq * dk) / q.shape[-1]
    heads = dv + moved * v_size + 2 * eps / (1 - eps) * (v_size + dv)
    return float(np.linalg.norm(heads))


def _through_norm(norm: torch.nn.LayerNorm, hidden: torch.Tensor, e: float) -> float:
    variance = hidden.var(dim=-1, unbiased=False) + norm.eps
    least = float(variance.min().sqrt()) - e / math.sqrt(hidden.shape[-1])
    return float(norm.weight.detach().abs().max()) * e / least if least > 0 else math.inf


def _norm(weight: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight, 2))


def _token_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(a - b, dim=-1).max())

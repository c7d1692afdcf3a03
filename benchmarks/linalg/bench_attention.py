"""Attention by polynomials against exact attention, ours and torch's, on the same tokens."""

import numpy as np
import pytest

from thalweg.linalg import exact_attention, polynomial_attention

EPS = 1e-3
SIDES = (1, 2, 4, 8, 16, 32, 64)


def tokens(count, *lead, radius=1.0):
    q, k, v = np.random.default_rng(0).uniform(-1, 1, (3, *lead, count, 4))
    return radius * q, radius * k, v


def torch_attention(q, k, v, mask=None):
    import torch

    q, k, v = map(torch.from_numpy, (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.25)


def error(exact):
    return "error", lambda out: float(np.abs(np.asarray(out) - exact).max())


def first(pair):
    return pair[0]


@pytest.mark.parametrize("entrant", ["thalweg, polynomial", "exact, in blocks", "torch"])
def test_one_head(measure, entrant):
    q, k, v = tokens(8192)
    exact = exact_attention(q, k, v)
    calls = {
        "thalweg, polynomial": lambda: first(polynomial_attention(q, k, v, eps=EPS)),
        "exact, in blocks": lambda: exact_attention(q, k, v),
        "torch": lambda: torch_attention(q, k, v),
    }
    measure(
        calls[entrant],
        workload="attention, 8192 tokens, d = 4, R = 1, eps = 0.001, double",
        entrant=entrant,
        accuracy=error(exact),
        peer="torch" if entrant == "torch" else None,
        target=20.0,
        rounds=3,
    )


@pytest.mark.parametrize("entrant", ["thalweg, polynomial", "exact, in blocks", "torch"])
def test_scales(measure, entrant):
    blocks = [side * side for side in SIDES]
    q, k, v = tokens(sum(blocks), 2)
    exact = exact_attention(q, k, v, blocks=blocks)

    def by_torch():
        import torch

        scales = torch.repeat_interleave(torch.arange(len(blocks)), torch.tensor(blocks))
        return torch_attention(q, k, v, scales[:, None] >= scales)

    calls = {
        "thalweg, polynomial": lambda: first(polynomial_attention(q, k, v, eps=EPS, blocks=blocks)),
        "exact, in blocks": lambda: exact_attention(q, k, v, blocks=blocks),
        "torch": by_torch,
    }
    measure(
        calls[entrant],
        workload="attention over all scales up to 64 x 64, 2 heads, d = 4, R = 1, eps = 0.001",
        entrant=entrant,
        accuracy=error(exact),
        peer="torch" if entrant == "torch" else None,
        rounds=3,
    )


def test_many_tokens(measure):
    q, k, v = tokens(20_000)
    some = exact_attention(q[:500], k, v)
    measure(
        lambda: polynomial_attention(q, k, v, eps=EPS)[0],
        workload="attention, 20000 tokens, d = 4, R = 1, eps = 0.001 (at most 0.3 s wanted)",
        entrant="thalweg, polynomial",
        accuracy=("error", lambda out: float(np.abs(out[:500] - some).max())),
    )

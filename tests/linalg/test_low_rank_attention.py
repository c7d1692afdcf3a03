import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.linalg import (
    attention_flops_per_token,
    attention_rank,
    exact_attention,
    exp_polynomial,
    monomial_features,
    polynomial_attention,
)
from thalweg.linalg import low_rank_attention as module
from thalweg.linalg.low_rank_attention import _folded

torch = pytest.importorskip("torch")

BLOCKS = [1, 4, 16, 36]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def qkv(rng):
    q, k = rng.uniform(-1, 1, (2, 2, 3, 57, 4))
    return q, k, rng.normal(size=(2, 3, 57, 5))


def dense_polynomial(q, k, v, coef, scale, blocks):
    """The polynomial of every logit, masked and normalised, by the n x n matrix."""
    weights = np.polynomial.polynomial.polyval(scale * q @ k.swapaxes(-1, -2), coef)
    scales = np.repeat(np.arange(len(blocks)), blocks)
    weights = weights * (scales[:, None] >= scales)
    return weights @ v / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(("d", "degree"), [(1, 4), (2, 3), (3, 5), (4, 0), (5, 2)])
def test_features_are_all_monomials_in_graded_order(rng, d, degree):
    x = rng.normal(size=(6, d))
    columns = [
        np.prod(x[:, list(chosen)], axis=1)
        for m in range(degree + 1)
        for chosen in itertools.combinations_with_replacement(range(d), m)
    ]
    features = monomial_features(x, degree)
    assert features.shape == (6, math.comb(d + degree, degree))
    np.testing.assert_allclose(features, np.stack(columns, axis=1), rtol=1e-13)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_folded_features_give_powers_of_the_inner_product(d, degree, seed):
    q, k = np.random.default_rng(seed).uniform(-1, 1, (2, 7, d))
    coef = np.zeros(degree + 1)
    coef[degree] = 1
    product = (monomial_features(q, degree) * _folded(coef, d)) @ monomial_features(k, degree).T
    np.testing.assert_allclose(product, (q @ k.T) ** degree, rtol=0, atol=1e-12 * d**degree)


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("blocks", [[57], BLOCKS])
def test_is_the_polynomial_of_every_logit(qkv, scale, blocks):
    factor = 1 / 4 if scale is None else scale
    out, info = polynomial_attention(*qkv, scale=scale, blocks=blocks, eps=1e-2)
    coef, error = exp_polynomial(info["bound"], degree=info["degree"])
    expected = dense_polynomial(*qkv, coef, factor, blocks)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)
    assert info["relative_error"] == error


@pytest.mark.parametrize("eps", [0.3, 1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("blocks", [None, BLOCKS])
def test_error_stays_below_its_bound(qkv, eps, blocks):
    out, info = polynomial_attention(*qkv, eps=eps, blocks=blocks)
    error = np.abs(out - exact_attention(*qkv, blocks=blocks)).max()
    assert error <= info["error_bound"] <= 2 * eps / (1 - eps) * np.abs(qkv[2]).max()


def test_error_comes_near_its_bound():
    """One query between keys at the ends of the interval, where the error has both signs."""
    q, k = np.array([[1.0]]), np.array([[1.0], [-1.0]])
    v = np.array([[1.0], [-1.0]])
    bound = math.atanh(0.3)
    out, info = polynomial_attention(q, k * bound, v, degree=0)
    error = abs(out - exact_attention(q, k * bound, v)).max()
    assert 0.3 * info["error_bound"] < error < info["error_bound"]


def test_info_tells_what_was_done(qkv):
    out, info = polynomial_attention(*qkv, eps=1e-3)
    assert out.shape == (2, 3, 57, 5)
    assert info["rank"] == attention_rank(info["bound"], 1e-3, 4)
    assert info["rank"] == math.comb(4 + info["degree"], 4)
    lengths = [np.linalg.norm(x, axis=-1).max(axis=-1) for x in qkv[:2]]
    assert info["bound"] == pytest.approx((lengths[0] * lengths[1]).max() / 4, rel=1e-12)
    assert info["flops"] == 6 * 2 * 57 * attention_flops_per_token(info["rank"], 5)
    assert attention_flops_per_token(10, 5) == 10 + 2 * 10 * 6
    e = info["relative_error"]
    assert info["error_bound"] == pytest.approx(2 * e / (1 - e) * np.abs(qkv[2]).max())


def test_a_given_degree_is_taken(qkv):
    _, info = polynomial_attention(*qkv, degree=2)
    assert (info["degree"], info["rank"]) == (2, 15)
    assert info["relative_error"] == exp_polynomial(info["bound"], degree=2)[1]


def test_one_block_is_no_mask(qkv):
    whole, _ = polynomial_attention(*qkv)
    np.testing.assert_allclose(polynomial_attention(*qkv, blocks=[57])[0], whole, rtol=0, atol=0)


def test_permuting_tokens_within_a_scale_permutes_the_result(qkv, rng):
    order = np.concatenate(
        [[0], 1 + rng.permutation(4), 5 + rng.permutation(16), 21 + rng.permutation(36)]
    )
    moved, _ = polynomial_attention(*(x[..., order, :] for x in qkv), blocks=BLOCKS)
    out, _ = polynomial_attention(*qkv, blocks=BLOCKS)
    np.testing.assert_allclose(moved, out[..., order, :], rtol=0, atol=1e-13)


def test_weights_sum_to_exactly_one(qkv):
    out, _ = polynomial_attention(*qkv[:2], np.ones((2, 3, 57, 1)), blocks=BLOCKS)
    np.testing.assert_array_equal(out, 1)


def test_chunks_do_not_show(qkv, monkeypatch):
    whole, _ = polynomial_attention(*qkv, blocks=BLOCKS)
    monkeypatch.setattr(module, "CHUNK_FEATURES", 1)
    monkeypatch.setattr(module, "LEAST_CHUNK_ROWS", 5)
    parts, _ = polynomial_attention(*qkv, blocks=BLOCKS)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-13)


def test_tensors_give_the_same_and_keep_their_type(qkv):
    expected, info = polynomial_attention(*qkv, blocks=BLOCKS)
    out, other = polynomial_attention(*map(torch.from_numpy, qkv), blocks=BLOCKS)
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-13)
    assert other == pytest.approx(info)
    singles = (torch.from_numpy(x).float() for x in qkv)
    out, _ = polynomial_attention(*singles, blocks=BLOCKS)
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-6)


def test_gradients_pass_through(qkv):
    q, k, v = (torch.tensor(x[0, 0, :5], requires_grad=True) for x in qkv)
    assert torch.autograd.gradcheck(
        lambda *x: polynomial_attention(*x, blocks=[1, 4], bound=2.0, degree=3)[0], (q, k, v)
    )


def test_arrays_in_single_precision_stay_so(qkv):
    out, _ = polynomial_attention(*(x.astype(np.float32) for x in qkv))
    assert out.dtype == np.float32


def test_queries_may_be_fewer_than_keys(qkv):
    q, k, v = qkv
    some, _ = polynomial_attention(q[..., :3, :], k, v, bound=1.0)
    out, _ = polynomial_attention(q, k, v, bound=1.0)
    np.testing.assert_allclose(some, out[..., :3, :], atol=1e-14)


def test_zero_logits_give_the_mean(rng):
    v = rng.normal(size=(9, 2))
    out, info = polynomial_attention(np.zeros((9, 3)), rng.normal(size=(9, 3)), v)
    np.testing.assert_allclose(out, np.broadcast_to(v.mean(axis=0), (9, 2)), atol=1e-15)
    assert (info["rank"], info["error_bound"]) == (1, 0)


def test_a_bound_between_the_largest_logit_and_the_cheap_one_is_taken(qkv):
    q, k, _ = qkv
    largest = np.abs(q @ k.swapaxes(-1, -2)).max() / 4
    out, info = polynomial_attention(*qkv, bound=float(largest))
    assert info["bound"] == largest
    assert np.abs(out - exact_attention(*qkv)).max() <= info["error_bound"]
    with pytest.raises(ValueError, match=r"bound must be at least the largest .* got"):
        polynomial_attention(*qkv, bound=float(largest) * 0.999)


def test_a_bound_need_not_hold_for_pairs_that_do_not_see_each_other():
    q = np.array([[5.0], [0.1]])
    k = np.array([[0.1], [5.0]])
    with pytest.raises(ValueError, match="bound must be at least"):
        polynomial_attention(q, k, k, bound=1.0, scale=1.0)
    out, info = polynomial_attention(q, k, k, bound=1.0, scale=1.0, blocks=[1, 1])
    assert (
        np.abs(out - exact_attention(q, k, k, scale=1.0, blocks=[1, 1])).max()
        <= info["error_bound"]
    )


@pytest.mark.parametrize("read", [np.asarray, torch.from_numpy])
def test_among_many_tokens_the_longest_are_checked(monkeypatch, rng, read):
    monkeypatch.setattr(module, "CHECKED_TOKENS", 4)
    q, k = 0.1 * rng.uniform(-1, 1, (2, 50, 2))
    q[37], k[11] = [2.0, 0.0], [2.0, 0.1]
    q[20], k[31] = [0.0, 2.1], [0.0, 0.1]
    q, k = read(q), read(k)
    with pytest.raises(ValueError, match="which is 2 or more, got 1"):
        polynomial_attention(q, k, k, bound=1.0)
    assert polynomial_attention(q, k, k, bound=2.0)[1]["bound"] == 2


def test_rank_above_the_limit_names_bound_and_critical_bound(rng):
    x = 4 * rng.uniform(-1, 1, (200, 8))
    with pytest.raises(ValueError, match=r"max_rank=4096, got \d+ .*B=\d.* critical bound 0\.\d+"):
        polynomial_attention(x, x, x)


def test_memory_is_linear_in_the_tokens(rng):
    q, k, v = rng.uniform(-1, 1, (3, 20_000, 4))
    tracemalloc.start()
    polynomial_attention(q, k, v)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6


X = np.ones((3, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: polynomial_attention(X, X, X[:2]), ValueError, "v must have shape"),
        (lambda: polynomial_attention(X, X, X, eps=0.0), ValueError, "eps must be"),
        (lambda: polynomial_attention(X, X, X, eps=1.0), ValueError, "eps must be"),
        (lambda: polynomial_attention(X, X, X, degree=-1), ValueError, "degree must be"),
        (lambda: polynomial_attention(X, X, X, bound=-1.0), ValueError, "bound must be"),
        (lambda: polynomial_attention(X, X, X, bound=math.inf), ValueError, "bound must be"),
        (lambda: polynomial_attention(X, X, X, blocks=[1, 1]), ValueError, "blocks must sum"),
        (lambda: polynomial_attention(X, X, X, max_rank=0), ValueError, "max_rank must be"),
        (lambda: polynomial_attention(X * np.inf, X, X), ValueError, "q must be finite"),
        (lambda: polynomial_attention(99 * X, X, X), ValueError, "critical|double precision"),
        (lambda: polynomial_attention(999 * X, X, X), ValueError, "bound on .* must be <= 100"),
        (lambda: polynomial_attention(7 * X, 7 * X, X, degree=60), ValueError, "error below 1"),
        (lambda: polynomial_attention(X, X, 1e308 * X), ValueError, "floating range"),
        (lambda: polynomial_attention(torch.ones(3, 2), X, X), TypeError, "all be arrays or all"),
        (lambda: monomial_features(X, -1), ValueError, "degree must be"),
        (lambda: monomial_features(X[0], 1), ValueError, "x must have shape"),
        (lambda: monomial_features(X * np.nan, 1), ValueError, "x must be finite"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.linalg import attention as attention_module
from thalweg.linalg import (
    attention_numerical_rank,
    exact_attention,
    max_inner_product_exceeds,
    polynomial_attention,
)

torch = pytest.importorskip("torch")

BLOCKS = [1, 4, 16, 36]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def qkv(rng):
    q, k = rng.normal(size=(2, 2, 3, 57, 5))
    return q, k, rng.normal(size=(2, 3, 57, 4))


def scale_mask(blocks):
    scales = np.repeat(np.arange(len(blocks)), blocks)
    return torch.from_numpy(scales[:, None] >= scales)


def dense(q, k, v, scale, mask=None):
    """Masked softmax attention by torch."""
    q, k, v = map(torch.from_numpy, (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=scale
    ).numpy()


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("blocks", [None, BLOCKS])
def test_agrees_with_dense_masked_softmax_of_torch(qkv, scale, blocks):
    mask = None if blocks is None else scale_mask(blocks)
    expected = dense(*qkv, 1 / 5 if scale is None else scale, mask)
    found = exact_attention(*qkv, scale=scale, blocks=blocks)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    tensors = exact_attention(*map(torch.from_numpy, qkv), scale=scale, blocks=blocks)
    np.testing.assert_allclose(tensors.numpy(), expected, rtol=0, atol=1e-14)


def test_by_hand():
    out = exact_attention([[1.0]], [[0.0], [math.log(3)]], [[0.0], [4.0]])
    assert out == pytest.approx(np.array([[3.0]]))


def test_one_block_is_no_mask(qkv):
    np.testing.assert_array_equal(exact_attention(*qkv, blocks=[57]), exact_attention(*qkv))


def test_chunks_do_not_show(qkv, monkeypatch):
    whole = exact_attention(*qkv, blocks=BLOCKS)
    monkeypatch.setattr(attention_module, "CHUNK_LOGITS", 1000)
    np.testing.assert_allclose(exact_attention(*qkv, blocks=BLOCKS), whole, rtol=0, atol=1e-15)


def test_permuting_tokens_within_a_scale_permutes_the_result(qkv, rng):
    order = np.concatenate(
        [[0], 1 + rng.permutation(4), 5 + rng.permutation(16), 21 + rng.permutation(36)]
    )
    moved = exact_attention(*(x[..., order, :] for x in qkv), blocks=BLOCKS)
    expected = exact_attention(*qkv, blocks=BLOCKS)[..., order, :]
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-14)


def test_weights_sum_to_one(qkv):
    ones = np.ones((2, 3, 57, 2))
    np.testing.assert_allclose(exact_attention(*qkv[:2], ones, blocks=BLOCKS), 1, atol=2e-15)


def test_huge_logits_pick_the_nearest_key():
    out = exact_attention([[1e3, 0]], [[1e3, 0], [0, 1e3]], [[1.0], [2.0]])
    np.testing.assert_array_equal(out, [[1.0]])


def test_queries_may_be_fewer_than_keys(qkv):
    q, k, v = qkv
    np.testing.assert_allclose(
        exact_attention(q[..., :3, :], k, v), exact_attention(q, k, v)[..., :3, :], atol=1e-15
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [(np.float16, np.float32), (np.float32, np.float32), (np.int64, np.float64)],
)
def test_type_of_the_result(given, expected):
    x = np.array([[1, 0], [0, 1]], dtype=given)
    assert exact_attention(x, x, x).dtype == expected


def test_gradients_pass_through(qkv):
    q, k, v = (torch.tensor(x[0, 0, :6], requires_grad=True) for x in qkv)
    assert torch.autograd.gradcheck(lambda *x: exact_attention(*x, blocks=[2, 4]), (q, k, v))


def test_numerical_rank_over_all_sign_vectors_is_known():
    """exp of all inner products of +-R vectors is a Kronecker power of a 2 x 2 matrix."""
    d, eps = 6, 1e-3
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * d)).reshape(d, -1).T
    for radius in (0.3, 1.0, 2.0, 3.0):
        ratio = math.tanh(radius**2 / d)
        expected = sum(math.comb(d, j) for j in range(d + 1) if ratio**j > eps)
        assert attention_numerical_rank(radius * signs, radius * signs, eps) == expected


def test_numerical_rank_is_one_for_equal_keys(rng):
    assert attention_numerical_rank(rng.normal(size=(9, 3)), np.ones((7, 3))) == 1


def test_numerical_rank_takes_the_scale():
    x = 5.0 * np.eye(8)
    assert attention_numerical_rank(x, x, 1e-2, scale=1.0) == 8
    assert attention_numerical_rank(x, x, 1e-2, scale=1e-4) == 1


bit_vectors = st.lists(st.lists(st.integers(0, 1), min_size=5, max_size=5), min_size=1, max_size=30)


@settings(deadline=None, max_examples=60)
@given(bit_vectors, bit_vectors, st.integers(0, 5))
def test_gadget_decides_the_largest_inner_product(a, b, floor):
    tau = floor + 0.5
    truth = (np.array(a) @ np.array(b).T).max(axis=1) > tau
    np.testing.assert_array_equal(max_inner_product_exceeds(a, b, tau), truth)


def lone_partner(count, d=16):
    """Two queries, of which the first shares three ones with a single vector and no more ever."""
    a = np.zeros((2, d), dtype=int)
    a[0, :3] = 1
    a[1, 3:6] = 1
    b = np.zeros((count, d), dtype=int)
    b[0, :3] = 1
    b[1:, [0, 1, 3, 4]] = 1
    return a, b


@pytest.mark.parametrize(("share", "right"), [(1.02, True), (0.9, False), (0.25, False)])
def test_gadget_needs_logits_of_the_size_of_the_logarithm(share, right):
    """A lone partner weighs exp(s/2) times as much as one of the L dummies."""
    a, b = lone_partner(400)
    beta = math.sqrt(2 * share * math.log(400) * 17)
    np.testing.assert_array_equal(max_inner_product_exceeds(a, b, 2.5, beta=beta), [right, False])


def test_gadget_uses_the_attention_it_is_given():
    calls = []

    def spy(q, k, v, *, scale):
        calls.append((q.shape, k.shape, v.sum(), scale))
        return exact_attention(q, k, v, scale=scale), {}

    a, b = lone_partner(10)
    assert max_inner_product_exceeds(a, b, 2.5, attention=spy).tolist() == [True, False]
    assert calls == [((2, 17), (20, 17), 10.0, 1 / 17)]


def test_default_beta_follows_the_logarithm():
    largest = []

    def spy(q, k, v, *, scale):
        largest.append(q.max())
        return exact_attention(q, k, v, scale=scale)

    a, b = lone_partner(50)
    max_inner_product_exceeds(a, b, 2.5, attention=spy)
    assert largest[0] == pytest.approx(math.sqrt(2.1 * math.log(50) * 17))


def test_gadget_works_by_polynomials_at_a_size_they_reach():
    a, b = [[1, 1], [0, 1]], [[1, 1], [1, 0], [1, 0]]

    def attention(q, k, v, *, scale):
        return polynomial_attention(q, k, v, scale=scale, eps=1e-2)

    answers = max_inner_product_exceeds(a, b, 1.5, attention=attention)
    assert answers.tolist() == [True, False]


X = np.ones((3, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: exact_attention(X[0], X, X), ValueError, r"q must have shape .* got \(2,\)"),
        (lambda: exact_attention(X[:, :0], X, X), ValueError, "q must have shape"),
        (lambda: exact_attention(X, X[:0], X), ValueError, "k must have shape"),
        (lambda: exact_attention(X, X[:, :1], X), ValueError, r"k must have shape \('L', 2\)"),
        (lambda: exact_attention(X[None], X, X), ValueError, r"k must have shape \(1, 'L', 2\)"),
        (lambda: exact_attention(X, X, X[:2]), ValueError, r"v must have shape \(3, 'd_v'\), got"),
        (lambda: exact_attention(X, X, X, blocks=[1, 1]), ValueError, "sum .* got 2 for 3 queries"),
        (
            lambda: exact_attention(X[:2], X, X, blocks=[3]),
            ValueError,
            "sum .* for 2 queries and 3",
        ),
        (lambda: exact_attention(X, X, X, blocks=[0, 3]), ValueError, "blocks must be an integer"),
        (lambda: exact_attention(X, X, X, scale=0.0), ValueError, "scale must be"),
        (lambda: exact_attention(X, X * np.nan, X), ValueError, "k must be finite, got nan"),
        (
            lambda: exact_attention(*[torch.full((2, 2), torch.inf)] * 3),
            ValueError,
            "q must be fin",
        ),
        (lambda: exact_attention(X * 1j, X, X), TypeError, "q must be"),
        (lambda: exact_attention(torch.ones(3, 2) * 1j, X, X), TypeError, "q, k and v must all"),
        (lambda: exact_attention(*[torch.ones(3, 2) * 1j] * 3), TypeError, "q must be real"),
        (lambda: attention_numerical_rank(X, X[:, :1]), ValueError, "same d > 0"),
        (lambda: attention_numerical_rank(X, X, eps=1), ValueError, "eps must be"),
        (lambda: max_inner_product_exceeds([[2]], [[1]], 0.5), ValueError, "a must hold zeros and"),
        (lambda: max_inner_product_exceeds([[1]], [[0.5]], 0.5), ValueError, "b must hold zeros"),
        (lambda: max_inner_product_exceeds([[1]], [[1, 0]], 0.5), ValueError, "b must have shape"),
        (lambda: max_inner_product_exceeds([[1]], [[1]], 1.0), ValueError, "half-integer"),
        (lambda: max_inner_product_exceeds([[1]], [[1]], 0.75), ValueError, "half-integer"),
        (lambda: max_inner_product_exceeds([[1]], [[1]], 0.5, beta=-1.0), ValueError, "beta must"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()

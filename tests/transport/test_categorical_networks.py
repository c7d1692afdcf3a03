import pytest

torch = pytest.importorskip("torch")

from thalweg.transport import TokenMLP, TokenTransformer  # noqa: E402

BOTH = [
    lambda rng: TokenMLP(3, 5, 4, hidden=(16,), rng=rng),
    lambda rng: TokenTransformer(3, 5, 4, width=16, rng=rng),
]


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(5, (7, 3), generator=generator), torch.randint(
        5, (7,), generator=generator
    )


@pytest.mark.parametrize("build", BOTH)
def test_logits_depend_on_tokens_and_step(build):
    network, (x, n) = build(0), batch()
    logits = network(x, n)
    assert logits.shape == (7, 3, 5)
    assert not torch.allclose(network((x + 1) % 5, n), logits)
    assert not torch.allclose(network(x, (n + 1) % 5), logits)


@pytest.mark.parametrize("build", BOTH)
def test_rows_of_a_batch_are_independent(build):
    network, (x, n) = build(0), batch()
    torch.testing.assert_close(network(x[2:3], n[2:3]), network(x, n)[2:3])


@pytest.mark.parametrize("build", BOTH)
def test_weights_follow_from_the_seed_and_touch_no_global_state(build):
    state, (x, n) = torch.get_rng_state(), batch()
    one, same, other = build(0), build(0), build(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one(x, n), same(x, n))
    assert not torch.equal(one(x, n), other(x, n))


def test_every_token_sees_every_other_and_its_own_place():
    network = TokenTransformer(3, 5, 4, width=16, rng=0)
    x, n = torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    logits = network(x, n)
    assert not torch.allclose(logits[0, 0], logits[0, 1])
    changed = network(torch.tensor([[0, 0, 4]]), n)
    assert not torch.allclose(changed[0, 0], logits[0, 0])


def test_layers_of_the_transformer_start_different():
    layers = TokenTransformer(3, 5, 4, width=16, n_layers=2, rng=0).encoder.layers
    assert not torch.equal(layers[0].linear1.weight, layers[1].linear1.weight)
    first, second = (layer.self_attn.in_proj_weight for layer in layers)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: TokenMLP(0, 5, 3), "n_tokens must be an integer >= 1, got 0"),
        (lambda: TokenMLP(2, 1, 3), "n_categories must be an integer >= 2, got 1"),
        (lambda: TokenTransformer(2, 5, 0), "n_inner must be an integer >= 1, got 0"),
        (lambda: TokenTransformer(2, 5, 3, width=10, n_heads=4), "n_heads must divide width = 10"),
        (lambda: TokenTransformer(2, 5, 3, n_layers=0), "n_layers must be an integer >= 1"),
    ],
)
def test_bad_sizes_are_refused_by_name(call, match):
    with pytest.raises(ValueError, match=match):
        call()

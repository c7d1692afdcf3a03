import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.language import (  # noqa: E402
    MapDecoder,
    NextScaleTransformer,
    propagate_attention_error,
)
from thalweg.language.error_propagation import (  # noqa: E402
    GELU_LIPSCHITZ,
    _attention_bound,
    _block_bound,
    _through_norm,
)
from thalweg.language.next_scale import NextScaleBlock  # noqa: E402
from thalweg.linalg import exact_attention  # noqa: E402


def model(eps=1e-6, **options):
    return NextScaleTransformer((1, 2, 4), 10, 16, 4, eps=eps, radius=1.0, rng=0, **options)


@pytest.fixture
def codes():
    return torch.randint(10, (3, 21), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_errors_stay_below_their_bounds(codes, seed):
    net = NextScaleTransformer((1, 2, 4), 10, 16, 4, 3, eps=1e-7, radius=1.0, rng=seed)
    found = propagate_attention_error(net, codes)
    assert found["layer_error"].shape == (3,)
    assert (found["layer_error"] > 0).all()
    assert (found["layer_error"] <= found["layer_bound"]).all()
    assert 0 < found["output_error"] <= found["output_bound"] < math.inf


def test_output_error_is_that_of_the_two_models(codes):
    net = model(1e-3).double()
    exact = net(codes)
    net.attention = "polynomial"
    expected = (net(codes) - exact).abs().max().item()
    found = propagate_attention_error(net, codes)
    assert found["output_error"] == pytest.approx(expected, rel=1e-6)
    assert (found["ranks"] <= 70).all()
    assert (found["logit_bounds"] <= 1).all()


def test_the_model_is_left_alone(codes):
    net = model()
    before = {name: p.clone() for name, p in net.named_parameters()}
    propagate_attention_error(net, codes)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert (net.attention, net.position.weight.dtype) == ("exact", torch.float32)


def test_bound_of_one_layer_is_linear_in_a_small_error(codes):
    bounds = [
        propagate_attention_error(model(eps, layers=1), codes)["output_bound"]
        / propagate_attention_error(model(eps, layers=1), codes)["layer_bound"][0]
        for eps in (1e-6, 1e-8)
    ]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-2)


def test_a_constant_token_has_no_bound():
    norm = torch.nn.LayerNorm(4).double().requires_grad_(False)
    assert _through_norm(norm, torch.zeros(1, 4, dtype=torch.float64), 1.0) == math.inf
    assert _through_norm(norm, torch.randn(1, 4, dtype=torch.float64), 0.0) == 0


def test_norm_layer_keeps_its_bound():
    generator = torch.Generator().manual_seed(0)
    norm = torch.nn.LayerNorm(6).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 1.0, 1.5, 0.1]))
    for _ in range(200):
        x = torch.randn(1, 6, dtype=torch.float64, generator=generator)
        step = torch.randn(1, 6, dtype=torch.float64, generator=generator)
        step *= 0.3 * torch.rand(1, dtype=torch.float64, generator=generator) * x.std()
        moved = torch.linalg.vector_norm(norm(x + step) - norm(x)).item()
        assert moved <= _through_norm(norm, x, torch.linalg.vector_norm(step).item())


def test_norm_layer_nearly_reaches_its_bound():
    x = torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
    step = 1e-4 * torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=torch.float64)
    norm = torch.nn.LayerNorm(4, eps=0.0).double()
    moved = torch.linalg.vector_norm(norm(x + step) - norm(x)).item()
    assert moved == pytest.approx(_through_norm(norm, x, 2e-4), rel=1e-3)


def test_attention_keeps_its_bound_and_comes_near_it():
    """Two keys of opposite values and logits, moved along the steepest way."""
    rng = np.random.default_rng(0)
    nearest = 0.0
    for _ in range(200):
        q, k, v = rng.uniform(-1, 1, (3, 1, 2, 5, 3))
        steps = 0.05 * rng.normal(size=(3, 1, 2, 5, 3)) * (rng.random((3, 1, 1, 1, 1)) < 0.5)
        errors = [np.linalg.norm(s, axis=-1).max(axis=(0, 2)) for s in steps]
        moved = exact_attention(q + steps[0], k + steps[1], v + steps[2]) - exact_attention(q, k, v)
        distance = np.sqrt((moved**2).sum(axis=(1, 3)).max())
        bound = _attention_bound(*map(torch.from_numpy, (q, k, v)), errors, 0.0)
        assert distance <= bound + 1e-15
        nearest = max(nearest, distance / bound if bound else 0)
    assert nearest > 0.1


def test_attention_bound_by_hand():
    q = torch.tensor([[[[3.0, 4.0]]]], dtype=torch.float64)
    k, v = 2 * q, torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64)
    one = np.ones(1)
    found = _attention_bound(q, k, v, (0.1 * one, 0.2 * one, 0.3 * one), 0.01)
    moved = (0.1 * 10 + 5 * 0.2 + 0.1 * 0.2) / 2
    assert found == pytest.approx(0.3 + moved * 1 + 2 * 0.01 / 0.99 * 1.3)


def test_heads_add_in_squares():
    x = torch.ones(1, 4, 3, 2, dtype=torch.float64)
    zero = (0.0, 0.0, 0.0)
    one_head = _attention_bound(x[:, :1], x[:, :1], x[:, :1], zero, 0.01)
    assert _attention_bound(x, x, x, zero, 0.01) == pytest.approx(2 * one_head)


@pytest.mark.parametrize("seed", [0, 1])
def test_decoder_errors_stay_below_their_bounds(seed):
    net = MapDecoder(2, 16, 4, factor=3, eps=1e-3, rng=seed)
    generator = torch.Generator().manual_seed(seed)
    x = 0.5 * torch.randn(2, 2, 5, 4, generator=generator)
    found = propagate_attention_error(net, x)
    assert 0 < found["layer_error"][0] <= found["layer_bound"][0]
    assert 0 < found["output_error"] <= found["output_bound"]
    double = net.double()
    exact = double(x.double())
    double.attention = "polynomial"
    expected = (double(x.double()) - exact).abs().max().item()
    assert found["output_error"] == pytest.approx(expected, rel=1e-6)
    parts = [found["output_bound"] / found["layer_bound"][0]]
    assert parts[0] > found["output_error"] / found["layer_error"][0]


def test_decoder_layer_error_is_measured_on_hidden_vectors():
    net = MapDecoder(2, 16, 4, eps=1e-2, rng=0).double()
    x = 0.5 * torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    captured = []
    handle = net.attention_out.register_forward_hook(lambda *a: captured.append(a[2].detach()))
    net(x)
    net.attention = "polynomial"
    net(x)
    handle.remove()
    expected = (captured[0] - captured[1]).norm(dim=1).max().item()
    assert propagate_attention_error(net, x)["layer_error"][0] == pytest.approx(expected, rel=1e-6)


def deviation(hidden):
    return (hidden.var(dim=-1, unbiased=False) + 1e-5).min().sqrt().item()


def test_block_bound_by_hand():
    """Values are the input itself, queries and keys nothing; the maps have norms 2, 3 and 5."""
    generator = torch.Generator().manual_seed(0)
    block = NextScaleBlock(8, 2).double().requires_grad_(False)
    block.query.weight.zero_()
    block.key.weight.zero_()
    block.value.weight.copy_(torch.eye(8))
    block.attention_out.weight.copy_(2 * torch.eye(8))
    block.attention_out.bias.zero_()
    block.perceptron_in.weight.copy_(3 * torch.eye(32)[:, :8])
    block.perceptron_out.weight.copy_(5 * torch.eye(32)[:8])
    hidden, mixed = torch.randn(2, 1, 3, 8, dtype=torch.float64, generator=generator)
    mixed = mixed.unflatten(-1, (2, 4)).transpose(1, 2)
    for linear in (block.query, block.key, block.value):
        linear.bias.zero_()
    e = 1e-4
    normed = e / (deviation(hidden) - e / 8**0.5)
    after = e + 2 * 2**0.5 * normed
    middle = hidden + 2 * mixed.transpose(1, 2).flatten(2)
    expected = after + GELU_LIPSCHITZ * 15 * after / (deviation(middle) - after / 8**0.5)
    assert _block_bound(block, hidden, mixed, e, 0.0) == pytest.approx(expected, rel=1e-12)


def test_bounds_are_carried_from_layer_to_layer_and_through_the_head(codes):
    net = model(1e-7)
    seen = []
    handle = net.head[0].register_forward_hook(lambda module, given, out: seen.append(given[0]))
    net.double()(codes)
    handle.remove()
    found = propagate_attention_error(net, codes)
    first, last = found["layer_bound"]
    assert last > 10 * first
    rows = net.head[1].weight.norm(dim=1).max().item()
    expected = rows * last / (deviation(seen[0]) - last / 4)
    assert found["output_bound"] == pytest.approx(expected, rel=1e-9)

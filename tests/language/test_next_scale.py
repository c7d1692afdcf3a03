import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.language import NextScaleTransformer, bicubic_upsample, count_flops  # noqa: E402
from thalweg.linalg import polynomial_attention  # noqa: E402

SIDES = (1, 2, 4)
COUNTS = (1, 4, 16)


def model(**options):
    return NextScaleTransformer(
        SIDES, **({"codebook": 10, "width": 16, "heads": 4} | options), rng=0
    )


def codes_of(n=3, seed=1):
    return torch.randint(10, (n, 21), generator=torch.Generator().manual_seed(seed))


def logits_by_hand(net, codes):
    """The whole model with a dense mask, from its weights alone."""
    functional = torch.nn.functional
    table, rows, start = net.embed.weight, [torch.zeros(len(codes), 1, 16)], 0
    for r, side in enumerate(SIDES[:-1]):
        maps = table[codes[:, start : start + side**2] + 10 * r].reshape(-1, side, side, 16)
        start += side**2
        raised = bicubic_upsample(maps.permute(0, 3, 1, 2), SIDES[r + 1])
        rows.append(raised.permute(0, 2, 3, 1).reshape(len(codes), -1, 16))
    x = torch.cat(rows, dim=1) + net.position.weight
    scales = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    mask = scales[:, None] >= scales
    for block in net.blocks:
        y = functional.layer_norm(x, (16,), block.attention_norm.weight, block.attention_norm.bias)
        parts = []
        for head in range(4):
            some = slice(4 * head, 4 * head + 4)
            q, k, v = (m(y)[..., some] for m in (block.query, block.key, block.value))
            if block.radius is not None:
                q, k = (block.radius * (z / block.radius).tanh() for z in (q, k))
            weights = (q @ k.mT / 4).masked_fill(~mask, -torch.inf).softmax(-1)
            parts.append(weights @ v)
        x = x + block.attention_out(torch.cat(parts, dim=-1))
        x = x + block.perceptron_out(functional.gelu(block.perceptron_in(block.perceptron_norm(x))))
    return net.head(x)


@pytest.mark.parametrize("radius", [None, 0.5])
def test_logits_are_those_of_the_definition(radius):
    net, codes = model(radius=radius), codes_of()
    torch.testing.assert_close(net(codes), logits_by_hand(net, codes), rtol=0, atol=1e-5)


def test_a_map_is_predicted_from_coarser_maps_only():
    net, codes = model(), codes_of()
    for scale, first, last in ((0, 0, 1), (1, 1, 5), (2, 5, 21)):
        changed = codes.clone()
        changed[:, first:last] = (codes[:, first:last] + 1) % 10
        moved = (net(codes) - net(changed)).abs().amax(dim=(0, 2))
        assert (moved[:last] == 0).all()
        if scale < 2:
            assert (moved[last:] > 1e-7).all()


def test_codes_of_the_first_maps_give_the_next_logits():
    net, codes = model(), codes_of()
    whole = net(codes)
    for given, predicted in ((0, 1), (1, 5), (5, 21), (21, 21)):
        torch.testing.assert_close(net(codes[:, :given]), whole[:, :predicted])


def test_polynomial_attention_changes_little_and_less_with_eps():
    net, codes = model(), codes_of()
    exact = net(codes)
    errors = []
    for eps in (1e-1, 1e-3, 1e-5):
        other = copy.deepcopy(net)
        other.attention, other.eps = "polynomial", eps
        errors.append((other(codes) - exact).abs().max().item())
    assert errors[0] > 10 * errors[1] > 0
    assert errors[2] < 1e-5


def test_radius_bounds_the_logits_and_so_the_rank():
    net = model(radius=0.5)
    with torch.no_grad():
        for block in net.blocks:
            block.query.weight *= 100
    q, k, v = net.blocks[0].split(net.inputs(codes_of()))
    assert q.abs().max() <= 0.5
    assert q.abs().max() > 0.49
    assert polynomial_attention(q, k, v)[1]["bound"] <= 0.25


def test_samples_are_codes_and_follow_the_seed():
    net = model()
    first, second, other = (net.sample(4, rng=seed) for seed in (3, 3, 4))
    assert first.shape == (4, 21)
    assert first.dtype == torch.int64
    assert 0 <= first.min() <= first.max() < 10
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_samples_follow_the_logits():
    net = model(layers=1)
    with torch.no_grad():
        net.head[1].weight.zero_()
        net.head[1].bias.copy_(torch.log(torch.tensor([0.5, 0.3, 0.2] + [1e-9] * 7)))
    counts = torch.bincount(net.sample(400, rng=0).flatten(), minlength=10) / (400 * 21)
    np.testing.assert_allclose(counts[:3].numpy(), [0.5, 0.3, 0.2], atol=0.025)


def test_each_token_is_drawn_from_its_own_logits():
    class Known(NextScaleTransformer):
        """Sure of code t mod 10 at token t, shifted by the code of the first token."""

        def forward(self, codes):
            tokens = sum(COUNTS[: self.maps_given(codes) + 1])
            shift = codes[:, :1] if codes.shape[1] else torch.zeros(len(codes), 1)
            wanted = (torch.arange(tokens) + shift + (torch.arange(tokens) == 0) * 4).long() % 10
            return 1e3 * torch.nn.functional.one_hot(wanted, 10).float()

    drawn = Known(SIDES, 10, 16, 4, rng=0).sample(2, rng=0)
    assert drawn.tolist() == [[4] + [(t + 4) % 10 for t in range(1, 21)]] * 2


def test_a_first_map_of_more_than_one_token_is_possible():
    net = NextScaleTransformer((2, 3), 5, 8, 2, 1, rng=0)
    codes = net.sample(2, rng=0)
    assert codes.shape == (2, 13)
    assert net(codes).shape == (2, 13, 5)


def test_training_learns_which_map_follows():
    """The second map repeats the first code; the first is fair."""
    net = NextScaleTransformer((1, 2), 4, 16, 4, 1, radius=1.0, rng=0)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        codes = torch.randint(4, (32, 1), generator=generator).expand(-1, 5)
        loss = torch.nn.functional.cross_entropy(net(codes).flatten(0, 1), codes.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(np.log(4) / 5, abs=0.05)


@pytest.mark.parametrize("attention", ["exact", "polynomial"])
def test_every_parameter_gets_a_gradient(attention):
    net = model(attention=attention)
    (net(codes_of()) * torch.randn(3, 21, 10)).sum().backward()
    for name, p in net.named_parameters():
        if name == "embed.weight":
            assert p.grad[:20].abs().max() > 0
            assert p.grad[20:].abs().max() == 0  # the last map is predicted, never seen
        else:
            assert p.grad.abs().max() > 0, name


def test_flops_by_hand():
    counts = count_flops((1, 2), 8, heads=2)
    assert counts["tokens"] == 5
    assert counts["pairs"] == 1 + 4 * 5
    assert counts["attention"] == 21 * (2 * 8 + 2 * 8)
    assert counts["projections"] == 4 * 2 * 5 * 64
    assert counts["perceptron"] == 2 * 2 * 5 * 64 * 4
    assert counts["upsampling"] == 2 * 4 * 8 * (2 * 1 + 2 * 2)
    assert counts["feature_map"] == 2 * 4 * 8 * (2 * 1 + 4 + 2 * 2 + 4) + 2 * 18 * 4 * 64
    parts = ("attention", "projections", "perceptron", "upsampling", "feature_map")
    assert counts["total"] == sum(counts[part] for part in parts)
    fast = count_flops((1, 2), 8, 15, heads=2, layers=3)
    assert fast["attention"] == 3 * 2 * (2 * 5) * 15 * (1 + 2 * 5)
    assert fast["projections"] == 3 * counts["projections"]


def test_flops_agree_with_those_of_attention():
    q, k, v = np.random.default_rng(0).uniform(-1, 1, (3, 8, 85, 4))
    info = polynomial_attention(q, k, v, blocks=[1, 4, 16, 64])[1]
    assert count_flops((1, 2, 4, 8), 32, info["rank"])["attention"] == info["flops"]


def test_exact_is_quartic_and_everything_else_quadratic():
    small, large = (count_flops([2**k for k in range(top)], 32) for top in (9, 10))
    assert large["attention"] / small["attention"] == pytest.approx(16, rel=0.01)
    for part in ("tokens", "projections", "perceptron", "upsampling"):
        assert large[part] / small[part] == pytest.approx(4, rel=0.02)
    assert large["feature_map"] / small["feature_map"] == pytest.approx(4 * 10 / 9, rel=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NextScaleTransformer((2, 1)), "sides must be increasing"),
        (lambda: NextScaleTransformer(width=10, heads=4), "multiple of heads, got 10 and 4"),
        (lambda: NextScaleTransformer(attention="fast"), "attention must be one of 'exact'"),
        (lambda: NextScaleTransformer(eps=1.0), "eps must be"),
        (lambda: NextScaleTransformer(radius=0.0), "radius must be"),
        (lambda: NextScaleTransformer(layers=0), "layers must be"),
        (lambda: model()(torch.zeros(2, 7, dtype=torch.int64)), r"one of \[0, 1, 5, 21\]"),
        (lambda: model()(torch.full((2, 1), 10)), "integers from 0 to 9"),
        (lambda: model()(torch.full((2, 1), -1)), "integers from 0 to 9"),
        (lambda: model().sample(0), "n must be"),
        (lambda: count_flops((1, 2), 9), "multiple of heads, got 9 and 8"),
        (lambda: count_flops((1, 2), 8, 0), "rank must be"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()

import pytest

torch = pytest.importorskip("torch")

from thalweg.language import MapDecoder, bicubic_upsample  # noqa: E402


def features(n=2, channels=3, h=4, w=6):
    return torch.randn(n, channels, h, w, generator=torch.Generator().manual_seed(0))


def decoder(**options):
    return MapDecoder(3, 8, 2, **options, rng=0)


def test_pixels_are_those_of_the_definition():
    net, x = decoder(factor=3, out_channels=2), features()
    hidden = net.conv_in(x)
    cells = hidden.permute(0, 2, 3, 1).reshape(2, 24, 8)

    def linear(conv, y):
        return y @ conv.weight[:, :, 0, 0].T + conv.bias

    parts = []
    for head in (slice(0, 4), slice(4, 8)):
        q, k, v = (linear(conv, cells)[..., head] for conv in (net.query, net.key, net.value))
        parts.append((q @ k.mT / 4).softmax(-1) @ v)
    mixed = linear(net.attention_out, torch.cat(parts, dim=-1))
    raised = bicubic_upsample(hidden + mixed.mT.reshape(2, 8, 4, 6), (12, 18))
    torch.testing.assert_close(net(x), net.conv_out(raised), rtol=0, atol=1e-5)
    assert net(x).shape == (2, 2, 12, 18)


def test_polynomial_attention_changes_little():
    net, x = decoder(), 0.3 * features()
    exact = net(x)
    net.attention = "polynomial"
    difference = (net(x) - exact).abs().max()
    assert 0 < difference < 1e-3


def test_weights_follow_the_seed():
    first, second = decoder(), decoder()
    assert torch.equal(first.query.weight, second.query.weight)
    assert not torch.equal(first.query.weight, first.key.weight)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MapDecoder(width=10, heads=4), "multiple of heads, got 10 and 4"),
        (lambda: MapDecoder(factor=0), "factor must be"),
        (lambda: MapDecoder(eps=0.0), "eps must be"),
        (lambda: MapDecoder(attention="none"), "attention must be one of"),
        (lambda: decoder()(features()[0]), r"features must have shape .* got \(3, 4, 6\)"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()

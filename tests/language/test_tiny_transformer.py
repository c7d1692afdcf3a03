import math
from itertools import islice
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from thalweg.language import CharText, TinyTransformer, language_loss  # noqa: E402

SENTENCE = "the quick brown fox jumps over the lazy dog. " * 20


def model(**sizes):
    return TinyTransformer(30, **({"width": 16, "heads": 2, "context": 12} | sizes), rng=0)


def test_a_token_sees_only_its_past():
    ids = torch.randint(30, (3, 12), generator=torch.Generator().manual_seed(1))
    changed = ids.clone()
    changed[:, 7] = (ids[:, 7] + 1) % 30
    net = model()
    moved = (net(ids) - net(changed)).abs().amax(dim=(0, 2))
    assert (moved[:7] == 0).all()
    assert (moved[7:] > 1e-6).all()


def test_order_of_the_past_matters():
    ids = torch.arange(12)[None]
    swapped = ids.clone()
    swapped[0, [0, 1]] = ids[0, [1, 0]]
    net = model(depth=1)
    assert (net(ids)[0, -1] - net(swapped)[0, -1]).abs().max() > 1e-6


def test_an_untrained_model_knows_nothing():
    loss = language_loss(model(), torch.randint(30, (8, 13)))
    assert loss.item() == pytest.approx(math.log(30), abs=0.05)


def test_parameter_count_of_the_default_sizes():
    width, tokens, context = 64, 65, 64
    block = 12 * width**2 + 9 * width + 4 * width
    expected = (tokens + context) * width + 2 * block + 2 * width + tokens * (width + 1)
    assert sum(p.numel() for p in TinyTransformer(65).parameters()) == expected


def test_embed_blocks_and_head_compose_to_the_model():
    net, ids = model(), torch.arange(10)[None]
    hidden = net.embed(ids)
    for block in net.blocks:
        hidden = block(hidden)
    torch.testing.assert_close(net.head(hidden), net(ids))


def test_blocks_whose_outputs_are_silenced_pass_the_stream_on():
    net, hidden = model(), torch.randn(2, 5, 16)
    for block in net.blocks:
        for out in (block.attention_out, block.perceptron_out):
            torch.nn.init.zeros_(out.weight)
        torch.testing.assert_close(block(hidden), hidden, rtol=0, atol=0)


def test_training_learns_a_periodic_text():
    text = CharText("abcd" * 40)
    net = TinyTransformer(4, width=16, depth=1, heads=2, context=8, rng=0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for batch in islice(text.batches(16, 8, 0), 60):
        optimizer.zero_grad()
        language_loss(net, batch).backward()
        optimizer.step()
    assert language_loss(net, text.windows(8)).item() < 0.05


def test_weights_follow_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (TinyTransformer(9, width=8, heads=1, rng=seed) for seed in (1, 1, 2))
    next(CharText("abcabc").batches(2, 3, 0))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [net.head[1].weight for net in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_every_parameter_gets_a_gradient():
    net = model()
    language_loss(net, torch.randint(30, (4, 13))).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_loss_is_the_mean_surprise_of_the_next_token():
    batch = torch.tensor([[0, 1, 2], [2, 1, 0]])
    logits = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    logp = logits.log_softmax(-1)
    expected = -(logp[0, 0, 1] + logp[0, 1, 2] + logp[1, 0, 1] + logp[1, 1, 0]) / 4
    torch.testing.assert_close(language_loss(lambda ids: logits, batch), expected)


def test_loss_takes_models_that_answer_with_an_object():
    net, batch = model(), torch.randint(30, (2, 9))
    wrapped = language_loss(lambda ids: SimpleNamespace(logits=net(ids)), batch)
    torch.testing.assert_close(wrapped, language_loss(net, batch))


@given(st.text(min_size=1, max_size=40))
def test_decoding_undoes_encoding(text):
    chars = CharText(text)
    assert chars.decode(chars.ids) == text
    assert chars.vocabulary == "".join(sorted(set(text)))


def test_batches_are_windows_of_the_text():
    text = CharText(SENTENCE)
    for batch in islice(text.batches(5, 10, 3), 4):
        assert batch.shape == (5, 11)
        assert all(text.decode(row) in SENTENCE for row in batch)


def test_batches_reach_both_ends_of_the_text():
    drawn = torch.cat(list(islice(CharText("abcdefg").batches(64, 5, 0), 2)))
    assert set(drawn[:, 0].tolist()) == {0, 1}


def test_windows_predict_each_character_once():
    text = CharText(SENTENCE)
    windows = text.windows(12)
    predicted = windows[:, 1:].flatten()
    assert torch.equal(predicted, text.ids[1 : 1 + len(predicted)])
    assert len(text) - 1 - len(predicted) < 12


def test_a_given_vocabulary_sets_the_numbers():
    text = CharText("ab", vocabulary="cba")
    assert text.ids.tolist() == [2, 1]
    assert text.ids.dtype == torch.int64
    assert text.encode("").shape == (0,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CharText("abc", vocabulary="ab"), "'c'"),
        (lambda: CharText("ab", vocabulary="aba"), "repeat"),
        (lambda: CharText(""), "empty"),
        (lambda: CharText("a", vocabulary=""), "empty"),
        (lambda: CharText("abc").windows(3), "context must be"),
        (lambda: CharText("a").windows(1), "two characters"),
        (lambda: next(CharText("abc").batches(0, 1)), "batch_size must be"),
        (lambda: TinyTransformer(9, width=10, heads=4), "multiple of heads, got 10 and 4"),
        (lambda: model()(torch.zeros(1, 13, dtype=torch.int64)), r"<= 12\), got \(1, 13\)"),
        (lambda: model()(torch.zeros(5, dtype=torch.int64)), "ids must have shape"),
        (lambda: language_loss(model(), torch.zeros(2, 1, dtype=torch.int64)), "2 or more"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bytes_are_refused():
    with pytest.raises(TypeError, match="text must be a string, got bytes"):
        CharText(b"abc")

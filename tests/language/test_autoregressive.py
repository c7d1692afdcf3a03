"""Parallel sampling: the draws of the plain loop, from the right distribution."""

import itertools
import math

import pytest

torch = pytest.importorskip("torch")

from thalweg.language import MADE, sample_autoregressive  # noqa: E402

METHODS = ("jacobi", "gauss-seidel", "jacobi-gs", "gs-jacobi")
F = torch.nn.functional


def strong(n_features, hidden=(40,), residual=True, rng=0):
    """A model whose bits depend on each other clearly."""
    model = MADE(n_features, hidden, residual, rng=rng)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 4
    return model


@pytest.mark.parametrize(
    ("hidden", "residual"), [((30,), True), ((30,), False), ((17, 23), True), ((), True), ((1,), 0)]
)
def test_log_odds_do_not_see_their_own_bit_nor_later_ones(hidden, residual):
    model = strong(9, hidden, residual)
    x = torch.rand(9, generator=torch.Generator().manual_seed(1))
    jacobian = torch.autograd.functional.jacobian(model, x)
    assert (jacobian.triu() == 0).all()


@pytest.mark.parametrize(("hidden", "residual"), [((30,), False), ((17, 40), False), ((2,), True)])
def test_log_odds_see_all_earlier_bits(hidden, residual):
    model = strong(8, hidden, residual)
    seen = torch.zeros(8, 8)
    for seed in range(30):  # a unit may be off at one point
        x = 4 * torch.randn(8, generator=torch.Generator().manual_seed(seed))
        seen += torch.autograd.functional.jacobian(model, x).abs()
    assert (seen.tril(-1) > 0).sum() == 8 * 7 // 2


@pytest.mark.parametrize("residual", [True, False])
def test_probabilities_sum_to_one(residual):
    model = strong(8, (20,), residual)
    everything = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)))
    assert model.log_prob(everything).double().exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_log_probability_is_that_of_each_bit_in_turn():
    model = strong(5)
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0]])
    p = torch.sigmoid(model(x))[0]
    expected = p[0].log() + (1 - p[1]).log() + (1 - p[2]).log() + p[3].log() + p[4].log()
    assert model.log_prob(x).shape == (1,)
    assert model.log_prob(x).item() == pytest.approx(expected.item(), rel=1e-5)


def test_samples_have_the_model_s_probabilities():
    """A chi-square statistic of 15 degrees of freedom is below 45 with probability 0.99993."""
    model, n = strong(4), 20_000
    everything = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)))
    expected = n * model.log_prob(everything).exp().detach()
    codes = (model.sample(n, rng=3) @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    counts = torch.bincount(codes, minlength=16)
    assert ((counts - expected) ** 2 / expected).sum() < 45


def test_all_methods_draw_the_same_bits():
    model = strong(30)
    draws = {m: model.sample(50, m, rng=5, block_size=7, full_output=True) for m in METHODS}
    plain, run = draws["gauss-seidel"]
    assert run.nit == 30
    assert 0.2 < plain.mean() < 0.8
    for samples, result in draws.values():
        assert torch.equal(samples, plain)
        assert result.nit <= 30
    assert draws["jacobi"][1].nit < 25


def test_each_iteration_calls_the_network_once():
    calls = []

    def log_odds(x):
        calls.append(tuple(x.shape))
        return F.pad(6 * x[:, :-1] - 3, (1, 0))

    _, result = sample_autoregressive(log_odds, 4, 20, rng=0)
    assert calls == [(4, 20)] * result.nit
    calls.clear()
    sample_autoregressive(log_odds, 4, 20, rng=0, method="gauss-seidel")
    assert len(calls) == 20


def causal(channels, length, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    weights = scale * torch.randn(length, length, channels, generator=generator)
    weights *= torch.ones(length, length).triu(1)[..., None]
    return lambda x: torch.einsum("ni,ijc->njc", x.to(weights.dtype), weights)


@pytest.mark.parametrize("method", METHODS)
def test_categories_are_those_of_the_plain_loop(method):
    logits = causal(5, 16, 0, 0.3)
    plain, _ = sample_autoregressive(
        logits, 20, 16, kind="categorical", rng=1, method="gauss-seidel"
    )
    samples, result = sample_autoregressive(
        logits, 20, 16, kind="categorical", rng=1, method=method, block_size=4
    )
    assert torch.equal(samples, plain)
    assert set(samples.unique().tolist()) == {0, 1, 2, 3, 4}
    assert result.success


def test_categories_have_the_given_probabilities():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    samples, _ = sample_autoregressive(
        lambda x: p.log().expand(*x.shape, 4), 5000, 4, kind="categorical", rng=2
    )
    shares = torch.bincount(samples.long().flatten(), minlength=4) / samples.numel()
    assert (shares - p).abs().max() < 5 * math.sqrt(0.25 / samples.numel())


@pytest.mark.parametrize("method", METHODS)
def test_gaussians_are_those_of_the_plain_loop(method):
    parameters = causal(2, 12, 0, 0.1)
    options = {"kind": "gaussian", "rng": 1, "dtype": torch.float64}
    plain, _ = sample_autoregressive(parameters, 9, 12, method="gauss-seidel", **options)
    samples, _ = sample_autoregressive(parameters, 9, 12, method=method, block_size=5, **options)
    torch.testing.assert_close(samples, plain, rtol=0, atol=1e-6)
    assert samples.dtype == torch.float64


def test_gaussians_have_the_given_mean_and_deviation():
    given = torch.tensor([3.0, math.log(0.5)])
    samples, _ = sample_autoregressive(
        lambda x: given.expand(*x.shape, 2), 5000, 4, kind="gaussian", rng=2
    )
    assert samples.mean().item() == pytest.approx(3, abs=5 * 0.5 / math.sqrt(20_000))
    assert samples.std().item() == pytest.approx(0.5, abs=0.015)


def test_samples_take_the_type_of_the_weights():
    samples = MADE(6).double().sample(3, rng=0)
    assert samples.dtype == torch.float64
    assert samples.shape == (3, 6)
    assert not samples.requires_grad


def test_seeds_and_generators_decide_the_draws():
    model = strong(12)
    first = model.sample(5, rng=1)
    assert torch.equal(first, model.sample(5, rng=torch.Generator().manual_seed(1)))
    assert not torch.equal(first, model.sample(5, rng=2))
    assert torch.equal(strong(4, rng=3).layers[0].weight, strong(4, rng=3).layers[0].weight)


def test_one_bit_is_a_coin():
    model = MADE(1, (4,))
    with torch.no_grad():
        model.layers[-1].bias.fill_(20.0)
    assert model.sample(3, rng=0).tolist() == [[1.0]] * 3


@pytest.mark.parametrize("kind", ["bernoulli", "categorical", "gaussian"])
def test_a_network_that_gives_nan_is_reported(kind):
    shape = {"bernoulli": (), "categorical": (3,), "gaussian": (2,)}[kind]

    def broken(x):
        given = torch.zeros(*x.shape, *shape)
        given[:, 2:] = torch.nan
        return given

    _, result = sample_autoregressive(broken, 2, 5, kind=kind, rng=0)
    assert not result.success
    assert "State 2 is not finite" in result.message
    model = MADE(4)
    with torch.no_grad():
        model.layers[-1].bias[1] = torch.nan
    with pytest.raises(FloatingPointError, match="State 1 is not finite"):
        model.sample(2, rng=0)


def test_too_few_iterations_are_reported():
    _, result = sample_autoregressive(causal_bits, 2, 9, rng=0, max_iter=2)
    assert not result.success
    assert result.nit == 2


def causal_bits(x):
    return F.pad(20 * x[:, :-1] - 10, (1, 0)) * -1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MADE(0), ValueError, "n_features must be"),
        (lambda: MADE(3, (0,)), ValueError, "hidden must be"),
        (lambda: MADE(3, 5), TypeError, "hidden must be a sequence of integers, got 5"),
        (lambda: MADE(3)(torch.zeros(2, 4)), ValueError, r"x must have shape .* 3\), got \(2, 4\)"),
        (lambda: MADE(3).sample(0), ValueError, "n must be"),
        (lambda: MADE(3).sample(2, "sor"), ValueError, "method must be one of"),
        (lambda: MADE(3).sample(2, "gs-jacobi"), ValueError, "block_size must be"),
        (lambda: MADE(3).sample(2, rng="x"), TypeError, "rng must be"),
        (lambda: sample_autoregressive(3, 1, 1), TypeError, "logits_fn must be callable"),
        (lambda: sample_autoregressive(torch.sin, 1, 0), ValueError, "length must be"),
        (lambda: sample_autoregressive(torch.sin, 1, 1, kind="x"), ValueError, "kind must be one"),
        (
            lambda: sample_autoregressive(torch.sin, 1, 1, dtype=torch.int64),
            TypeError,
            "dtype must be a floating type",
        ),
        (
            lambda: sample_autoregressive(lambda x: x[:, 1:], 2, 3),
            ValueError,
            r"shape \(2, 3\) for 'bernoulli', got \(2, 2\)",
        ),
        (
            lambda: sample_autoregressive(torch.sin, 2, 3, kind="categorical"),
            ValueError,
            r"shape \(2, 3, classes\) for 'categorical', got \(2, 3\)",
        ),
        (
            lambda: sample_autoregressive(
                lambda x: torch.zeros(*x.shape, 3), 2, 3, kind="gaussian"
            ),
            ValueError,
            r"shape \(2, 3, 2\) for 'gaussian', got \(2, 3, 3\)",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()

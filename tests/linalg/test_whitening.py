import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.linalg

pytest.importorskip("torch")

import torch

from thalweg.linalg import CovariancePooling, ZCAWhitening, matrix_inv_sqrt, matrix_sqrt


def mixed(rng, samples=200, channels=4):
    """Correlated channels with a mean, float64."""
    x = rng.standard_normal((samples, channels)) @ rng.standard_normal((channels, channels)) + 1.5
    return torch.tensor(x)


def covariance(x):
    return torch.cov(x.T, correction=0)


def layer(channels=4, **options):
    return ZCAWhitening(channels, **options).double()


def test_output_has_no_mean_and_the_identity_as_covariance(rng):
    y = layer(eps=0.0, degree=60)(mixed(rng))
    torch.testing.assert_close(y.mean(0), torch.zeros(4).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(covariance(y), torch.eye(4).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["pade", "taylor", "newton-schulz", "eigh"])
def test_training_applies_the_inverse_root_of_the_covariance(rng, method):
    x = mixed(rng)
    cov = covariance(x) + 0.01 * torch.eye(4).double()
    expected = (x - x.mean(0)) @ matrix_inv_sqrt(cov, method)
    torch.testing.assert_close(layer(method=method)(x), expected, rtol=0, atol=1e-12)


def test_eps_is_the_last_word_on_a_singular_covariance(rng):
    x = mixed(rng)
    x[:, 3] = x[:, 0]
    y = layer(eps=0.5, method="eigh")(x)
    values = np.linalg.eigvalsh(covariance(x).numpy())
    expected = values / (values + 0.5)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(covariance(y).detach().numpy()), expected, atol=1e-12
    )


def test_groups_are_whitened_each_by_itself(rng):
    x = mixed(rng, channels=6)
    y = layer(6, groups=2)(x)
    for part in (slice(0, 3), slice(3, 6)):
        torch.testing.assert_close(y[:, part], layer(3)(x[:, part]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 4, 3, 7), (5, 4, 9)])
def test_positions_of_an_image_are_samples(rng, shape):
    x = torch.tensor(rng.standard_normal(shape))
    rows = x.movedim(1, -1).reshape(-1, 4)
    expected = layer()(rows).reshape(*x.movedim(1, -1).shape).movedim(-1, 1)
    torch.testing.assert_close(layer()(x), expected, rtol=0, atol=1e-12)


def test_weight_and_bias_act_on_channels(rng):
    x, affine = mixed(rng), layer()
    with torch.no_grad():
        affine.weight.copy_(torch.tensor([2.0, 1.0, -1.0, 0.5]))
        affine.bias.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    plain = layer(affine=False)
    assert [name for name, _ in plain.named_parameters()] == []
    expected = plain(x) * affine.weight + affine.bias
    torch.testing.assert_close(affine(x), expected, rtol=0, atol=1e-12)


def test_evaluation_uses_the_running_mean_and_matrix(rng):
    batches, model = [mixed(rng), mixed(rng)], layer(momentum=0.25)
    mean, whitening = torch.zeros(4).double(), torch.eye(4).double()
    for x in batches:
        model(x)
        mean = 0.75 * mean + 0.25 * x.mean(0)
        inverse = matrix_inv_sqrt(covariance(x) + 0.01 * torch.eye(4).double())
        whitening = 0.75 * whitening + 0.25 * inverse
    x = mixed(rng)
    expected = (x - mean) @ whitening
    torch.testing.assert_close(model.eval()(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.running_mean, mean, rtol=0, atol=1e-12)
    assert model(x[:1]).shape == (1, 4)


def test_the_state_comes_back(rng):
    model, other = layer(groups=2), layer(groups=2)
    model(mixed(rng))
    other.load_state_dict(model.state_dict())
    x = mixed(rng)
    torch.testing.assert_close(model.eval()(x), other.eval()(x))
    assert "groups=2" in repr(model)


def test_gradients_of_whitening_are_right(rng):
    x = mixed(rng, samples=9, channels=2).requires_grad_()
    assert torch.autograd.gradcheck(layer(2, degree=25, n_lyapunov=30), (x,))


def test_autocast_computes_in_single_precision(rng):
    x = mixed(rng).float()
    for model, given in ((ZCAWhitening(4), x), (CovariancePooling(), x.T[None])):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = model(given)
            half = model(given.bfloat16())
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(got, model(given), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["pade", "taylor", "newton-schulz", "eigh"])
def test_pooling_is_the_root_of_the_covariance_of_tokens(rng, method):
    x = torch.tensor(rng.standard_normal((3, 4, 20))) + 2
    cov = torch.stack([covariance(sample.T) for sample in x])
    expected = matrix_sqrt(cov, method)
    whole = CovariancePooling(method, triangle=False)(x)
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-12)
    pooled = CovariancePooling(method)(x)
    assert pooled.shape == (3, 10)
    rows, columns = np.triu_indices(4)
    torch.testing.assert_close(pooled, whole[:, rows, columns])


def test_pooling_agrees_with_scipy(rng):
    x = rng.standard_normal((4, 50))
    pooled = CovariancePooling(triangle=False, degree=20)(torch.tensor(x[None]))[0]
    expected = scipy.linalg.sqrtm(np.cov(x, ddof=0))
    np.testing.assert_allclose(pooled.numpy(), expected, rtol=0, atol=1e-8)


def test_gradients_of_pooling_are_right(rng):
    x = torch.tensor(rng.standard_normal((2, 2, 8)), requires_grad=True)
    assert torch.autograd.gradcheck(CovariancePooling(degree=25, n_lyapunov=30), (x,))


def test_pooling_of_a_constant_sample_wants_eps():
    x = torch.ones(2, 3, 5)
    with pytest.raises(ValueError, match="got the zero matrix"):
        CovariancePooling()(x)
    pooled = CovariancePooling(eps=0.25, triangle=False, degree=20)(x)
    torch.testing.assert_close(pooled, 0.5 * torch.eye(3).repeat(2, 1, 1))


def test_ranks_of_a_group_whiten_together(monkeypatch):
    """Two ranks, here threads, with 10 and 20 samples give what one with 30 gives."""
    barrier, shares = threading.Barrier(2, timeout=30), {}

    def all_reduce(tensor, group):
        assert group == "both"
        shares[threading.get_ident()] = tensor.clone()
        barrier.wait()
        total = sum(shares.values())
        barrier.wait()
        shares.clear()
        tensor.copy_(total)
        barrier.wait()

    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    x = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def whiten(part, **options):
        part = part.clone().requires_grad_()
        model = layer(3, **options)
        y = model(part)
        (y**3).sum().backward()
        return y.detach(), part.grad, model.running_whitening, model.running_mean

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda part: whiten(part, process_group="both"), (x[:10], x[10:])))
    y, gradient, *running = whiten(x)
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), gradient, rtol=0, atol=1e-11)
    for part in parts:
        torch.testing.assert_close(list(part[2:]), running, rtol=0, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
def test_layers_on_a_gpu_give_what_they_give_on_the_cpu(rng):
    x = mixed(rng)
    for model, given in ((layer(), x), (CovariancePooling(), x.T[None])):
        expected = model(given)
        got = model.cuda()(given.cuda())
        assert got.is_cuda
        torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ZCAWhitening(0), ValueError, "num_features must be an integer >= 1"),
        (lambda: ZCAWhitening(6, groups=4), ValueError, "groups must divide num_features 6, got 4"),
        (lambda: ZCAWhitening(4, eps=-1.0), ValueError, "eps must be a finite number >= 0"),
        (lambda: ZCAWhitening(4, momentum=2.0), ValueError, "momentum must be"),
        (lambda: ZCAWhitening(4, method="svd"), ValueError, "method must be one of"),
        (lambda: ZCAWhitening(4)(torch.ones(5, 3)), ValueError, r"x must have shape \(N, 4, ...\)"),
        (lambda: ZCAWhitening(4)(torch.ones(4)), ValueError, r"got \(4,\)"),
        (lambda: ZCAWhitening(4)(torch.ones(1, 4)), ValueError, "at least 2 positions in training"),
        (lambda: ZCAWhitening(4)(torch.ones(5, 4).int()), TypeError, "got torch.int32"),
        (lambda: CovariancePooling("svd"), ValueError, "method must be one of"),
        (lambda: CovariancePooling(eps=-1.0), ValueError, "eps must be"),
        (lambda: CovariancePooling()(torch.ones(5, 3)), ValueError, r"\(N, C, T\), got \(5, 3\)"),
        (lambda: CovariancePooling()(torch.ones(5, 3, 2) * 1j), TypeError, "got torch.complex64"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.fixture
def rng():
    return np.random.default_rng(0)

"""The study of parallel feedforward computation: its quick run and its networks."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg import data  # noqa: E402
from thalweg.language import MADE  # noqa: E402
from thalweg.linalg import solve_feedforward  # noqa: E402
from thalweg.studies.linalg._parallel_feedforward_networks import (  # noqa: E402
    DenseBlock,
    MaskedConvolutions,
    gradient_errors,
    pixels,
    sample_by_columns,
    train_on_bits,
)
from thalweg.study import run_study  # noqa: E402

needs_images = pytest.mark.skipif(
    not data.available("mnist-t10k-images") or not data.available("mnist-t10k-labels"),
    reason="needs MNIST",
)


@needs_images
def test_quick_run_holds():
    outcome = run_study("parallel-feedforward")
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    results, arrays = outcome.record.results, outcome.arrays
    assert results["made_speedup"] > 5
    assert results["made_column_same"] > 0.999
    assert 45 < results["made_nats"] < 55  # below that of independent bits, above a large model
    assert arrays["made_errors"][-1] == 0
    assert np.median(arrays["graph_nits"] - arrays["graph_depths"]) == 1
    assert arrays["uniform_errors"][-1] <= 1e-6
    assert arrays["uniform_nits"][0] < arrays["orthogonal_nits"][0]
    assert outcome.png


def test_without_images_the_rest_is_judged(monkeypatch, tmp_path):
    monkeypatch.delenv("THALWEG_DATA", raising=False)
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path)
    outcome = run_study("parallel-feedforward", overrides={"graphs": 20, "dense_layers": 8})
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["made_same"] == "skipped"
    assert verdicts["graphs_within"] == "holds"
    assert outcome.png


def test_dense_block_is_the_network_written_out():
    images = torch.rand(3, 1, 6, 6, generator=generator())
    block = DenseBlock(images, 4, 2, generator())
    solved = solve_feedforward(block, torch.zeros_like(block.exact), check=True).x
    torch.testing.assert_close(solved, block.exact)
    assert block.error(solved) == pytest.approx(0, abs=1e-6)
    assert block.error(torch.zeros_like(solved)) == 1
    seen = torch.cat((block.stem, *block.exact[:3]), dim=1)
    normal = torch.nn.BatchNorm2d(seen.shape[1])(seen)
    expected = torch.nn.functional.conv2d(normal.relu(), block.kernels[3], padding=1)
    torch.testing.assert_close(block.exact[3], expected, rtol=0, atol=0.02)  # biased variance


def test_masked_convolutions_see_the_past_alone():
    model = MaskedConvolutions(5, 4, generator())
    x = torch.rand(1, 25, generator=generator())
    jacobian = torch.autograd.functional.jacobian(model, x)[0, :, 0]
    assert (jacobian.triu() == 0).all()
    assert (jacobian[1:].abs().sum(dim=1) > 0).all()


def test_training_raises_the_likelihood_of_the_bits():
    bits = (torch.rand(256, 6, generator=generator()) < 0.1).float()
    model = MADE(6, (8,))
    before = model.log_prob(bits).mean().item()
    train_on_bits(model, bits, 60, generator())
    assert model.log_prob(bits).mean().item() > before + 0.5


def test_column_by_column_gives_the_same_bits():
    model = MADE(40, (16,))
    assert torch.equal(sample_by_columns(model, 30, 4), model.sample(30, "gauss-seidel", rng=4))


def test_gradient_errors_fall_to_nothing_within_the_sequence():
    layer, head = torch.nn.RNN(1, 5), torch.nn.Linear(5, 3)
    with torch.no_grad():
        for parameter in (*layer.parameters(), *head.parameters()):
            parameter.uniform_(-0.8, 0.8, generator=generator())
    x = torch.rand(4, 12, 1, generator=generator())
    layer(x.transpose(0, 1))[0].sum().backward()  # gradients of before do not count
    errors = gradient_errors(layer, head, x, torch.tensor([0, 1, 2, 0]))
    assert len(errors) <= 12
    assert errors[-1] <= 1e-6 < errors[0] < 1


@needs_images
def test_small_images_are_means_of_four_pixels():
    whole, small = pixels(28), pixels(14)
    assert whole.shape == (10_000, 784)
    assert small.shape == (10_000, 196)
    corner = whole[5].reshape(28, 28)[12:14, 16:18]
    assert small[5].reshape(14, 14)[6, 8] == pytest.approx(corner.mean())
    np.testing.assert_allclose(small.mean(), whole.mean())


def generator():
    return torch.Generator().manual_seed(0)

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from thalweg.studies.linalg import _square_root_networks as nets
from thalweg.studies.linalg import differentiable_matrix_square_root as study
from thalweg.study import load, run_study

SLUG = "differentiable-matrix-square-root"


def test_quick_run_holds_and_orders_the_methods():
    outcome = run_study(SLUG)
    assert outcome.record.state == "holds", outcome.record.message
    arrays = outcome.arrays
    for worse, better in (
        ("taylor", "newton-schulz"),
        ("newton-schulz", "pade"),
        ("pade", "eigh"),
    ):
        assert (arrays[f"error_{worse}"] > arrays[f"error_{better}"]).all()
    assert outcome.png.startswith(b"\x89PNG")


def test_without_the_images_the_rest_is_judged(monkeypatch):
    monkeypatch.delenv("THALWEG_DATA", raising=False)
    monkeypatch.setattr("thalweg.data.available", lambda name: False)
    outcome = run_study(SLUG, overrides={"batches": (1,), "map_sizes": (4,)})
    assert outcome.record.state == "holds", outcome.record.message
    assert "whitening_pade" not in outcome.arrays


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_large_preset_says_so():
    outcome = run_study(SLUG, "large")
    assert outcome.record.state not in ("holds", "fails")
    assert "needs a GPU" in outcome.record.message


def test_covariances_are_those_of_normal_samples():
    a = study.covariances(3, 4, 4000, np.random.default_rng(0))
    assert a.shape == (3, 4, 4)
    np.testing.assert_allclose(a, np.broadcast_to(np.eye(4), a.shape), atol=0.12)
    np.testing.assert_array_equal(a, a.swapaxes(1, 2))


def test_errors_are_relative_frobenius_distances():
    a = np.stack([np.diag([4.0, 1.0]), np.diag([9.0, 9.0])])
    found = study.mean_errors(a)
    expected = np.mean(
        [
            np.linalg.norm(np.diag(study.matrix_sqrt(one, "taylor")) - np.sqrt(np.diag(one)))
            / np.sqrt(np.trace(one))
            for one in a
        ]
    )
    assert found["taylor"] == pytest.approx(expected)
    assert found["eigh"] < 1e-14


def test_the_fastest_of_the_timed_rounds_counts_and_the_first_is_not_timed(monkeypatch):
    ticks = iter([0.0, 1.0, 10.0, 14.0, 20.0, 23.0])
    monkeypatch.setattr(study.time, "process_time", lambda: next(ticks))
    calls = []
    found = study.milliseconds({"one": lambda: calls.append(1)}, 2, torch.device("cpu"))
    assert len(calls) == 3
    assert found == {"one": 3000.0}


def test_gradients_are_near_the_exact_one():
    a = torch.from_numpy(study.covariances(2, 6, 200, np.random.default_rng(0)))
    found = {name: call()[0] for name, call in study.gradients(a).items()}
    for name in ("lyapunov", "newton-schulz"):
        torch.testing.assert_close(found[name], found["eigh"], rtol=0, atol=2e-2)


def test_networks_start_alike_and_learn():
    for layer in ("whitening", "pooling"):
        pade, eigh = (nets.network(layer, name, 3) for name in ("pade", "eigh"))
        for ours, theirs in zip(pade.parameters(), eigh.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(256) % 2
    images = torch.randn(256, 1, 28, 28, generator=rng) * (1 + 3 * labels[:, None, None, None])
    split = (images[:192], labels[:192]), (images[192:], labels[192:])
    for layer in ("whitening", "pooling"):
        assert nets.accuracy(nets.network(layer, "pade", 0), *split, 8, 0) > 0.9


def on_file(path, out, **options):
    method = load(SLUG).on_file
    setup = SimpleNamespace(**(dict(method.options) | options))
    return method.run(path, setup, out, np.random.default_rng(0), lambda *_: None)


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_a_file_is_whitened_within_the_bound(tmp_path, suffix):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3)) @ rng.standard_normal((3, 3)) + 2
    source = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(source, x)
    else:
        np.savetxt(source, x, delimiter=",")
    printed = on_file(source, tmp_path, degree=3)
    with np.load(tmp_path / "whitened.npz") as file:
        y, residual = file["whitened"], file["residual_covariance"]
    np.testing.assert_allclose(np.cov(y.T, ddof=0), residual, atol=1e-12)
    values = np.linalg.eigvalsh(residual)
    bound = printed["largest relative error of the inverse root (bound)"]
    assert values.min() == pytest.approx((1 - bound) ** 2, rel=1e-6)
    distance = np.linalg.norm(residual - np.eye(3)) / np.sqrt(3)
    assert printed["distance of the covariance from the identity"] == pytest.approx(distance)
    exact = on_file(source, tmp_path, method="eigh")
    assert exact["distance of the covariance from the identity"] < 1e-10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"1,2", "must end in .npy or .csv, got a.txt"),
        ("a.csv", b"1,x\n", "a.csv must hold numbers"),
        ("a.npy", b"nonsense", "a.npy must hold numbers"),
        ("a.csv", b"1,2\n", "a.csv must hold at least 2 samples, all finite"),
        ("a.csv", b"1,nan\n2,3\n", "all finite"),
        ("a.csv", b"1,1\n2,2\n4,4\n", "the covariance of a.csv is singular"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        on_file(path, tmp_path)

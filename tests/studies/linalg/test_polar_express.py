import numpy as np
import pytest

pytest.importorskip("torch")

from thalweg.study import load, run_study


def test_quick_run_holds_and_orders_the_schedules():
    outcome = run_study("polar-express")
    assert outcome.record.state == "holds", outcome.record.message
    arrays = outcome.arrays
    for peer in ("jordan", "you", "newton-schulz-5"):
        assert (arrays["worst_optimum"] <= arrays[f"worst_{peer}"] + 1e-12).all()
    assert outcome.record.results["newton_schulz_steps"] == 12
    assert outcome.png.startswith(b"\x89PNG")


def test_without_the_text_the_rest_is_judged(monkeypatch):
    monkeypatch.delenv("THALWEG_DATA", raising=False)
    monkeypatch.setattr("thalweg.data.available", lambda name: False)
    outcome = run_study("polar-express", overrides={"perturbations": 5})
    assert outcome.record.state == "holds", outcome.record.message
    assert "loss_jordan" not in outcome.arrays
    assert any(claim.why == "needs the data set tinyshakespeare" for claim in outcome.record.claims)


def on_file(path, out, **options):
    method = load("polar-express").on_file
    setup = type("Setup", (), dict(method.options) | options)
    return method.run(path, setup, out, np.random.default_rng(0), lambda *_: None)


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_a_file_gets_its_polar_factor(tmp_path, suffix):
    a = np.array([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    source = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(source, a)
    else:
        np.savetxt(source, a, delimiter=",")
    printed = on_file(source, tmp_path, n_iter=9)
    target = tmp_path / f"a-polar{suffix}"
    factor = np.load(target) if suffix == ".npy" else np.loadtxt(target, delimiter=",")
    u, _, v = np.linalg.svd(a, full_matrices=False)
    np.testing.assert_allclose(factor, u @ v, atol=1e-10)
    assert len(printed["residual after each step"]) == printed["steps"] == 9
    assert printed["residual"] < 1e-10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"1,2", "must end in .npy or .csv, got a.txt"),
        ("a.csv", b"1,x\n", "a.csv must hold a matrix of numbers"),
        ("a.npy", b"nonsense", "a.npy must hold a matrix of numbers"),
        ("a.csv", b"1,nan\n", "a must be finite"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        on_file(path, tmp_path)

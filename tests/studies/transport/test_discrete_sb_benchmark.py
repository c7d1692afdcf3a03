"""The study of the benchmark pairs: its quick run, its helpers, and a user's tokens."""

import numpy as np
import pytest

pytest.importorskip("torch")

from thalweg.studies.transport import discrete_sb_benchmark as study
from thalweg.study import load, run_study
from thalweg.transport import CategoricalReference, uniform_kernel

STUDY = load("discrete-sb-benchmark")


def test_quick_run_holds():
    outcome = run_study("discrete-sb-benchmark")
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["exact_difference"] == verdicts["ranked"] == "holds"
    assert verdicts["hardness"] == "skipped"
    shapes = outcome.arrays["conditional_shape_2_gaussian_0.08"]
    assert np.isfinite(shapes).all()
    assert shapes[0] > shapes[2] > shapes[4]
    assert outcome.png


def test_kernels_are_read_with_their_strength():
    setup = STUDY.preset("quick", {"kernels": "gaussian:0.02,uniform:0.005"})
    assert study.kernels(setup) == [("gaussian", 0.02), ("uniform", 0.005)]
    assert study.tag(16, "uniform", 0.005) == "16_uniform_0.005"


def test_baselines_ignore_source_or_target():
    Y = np.array([[7, 7], [8, 8]])
    assert set(study.Independent(Y).transform(np.zeros((50, 2), int), rng=0)[:, 0]) == {7, 8}
    reference = CategoricalReference(uniform_kernel(3, 0.2), 2)
    x = np.zeros((20_000, 1), dtype=int)
    shares = np.bincount(study.ReferenceOnly(reference).transform(x, rng=0)[:, 0]) / len(x)
    np.testing.assert_allclose(shares, reference.transition[0], atol=0.015)


def made_up(settings, gaps):
    """Results of settings: ceiling 0.9, shapes of the models, divergences and small gaps."""
    results = {}
    for setting, (shapes, divergence, small) in zip(settings, gaps, strict=True):
        key = study.tag(*setting)
        results[f"conditional_shape_{key}"] = np.array(shapes)
        results[f"conditional_shape_{key}_truth"] = 0.9
        results[f"kl_gap_{key}"] = np.array(divergence)
        results[f"small_gap_{key}"] = small
    return results


def test_findings_follow_from_the_scores():
    nan = np.nan
    settings = [(2, "gaussian", 0.1), (16, "gaussian", 0.1), (study.HARD, "gaussian", 0.1)]
    rows = [
        ([0.88, 0.8, 0.7, 0.72, 0.5, 0.3], [0.1, 0.2, nan, nan, nan, nan], 0.03),
        ([0.86, 0.4, nan, nan, 0.5, 0.3], [0.3, 0.9, nan, nan, nan, nan], nan),
        ([0.6, 0.5, nan, nan, 0.4, 0.3], [5.0, 6.0, nan, nan, nan, nan], 0.3),
    ]
    overrides = {"dims": (2, 16), "hard": True, "kernels": ("gaussian:0.1",)}
    found = study.findings(made_up(settings, rows), settings, STUDY.preset("quick", overrides))
    np.testing.assert_array_equal(found["ranked"], [1, 0])
    np.testing.assert_allclose(found["rank_margins"], [[0.02, 0.2], [0.04, -0.1]])
    assert found["matching_gap"] == 0.2
    assert found["light_gap"] == 0.1
    np.testing.assert_allclose(found["online_difference"], [0.02])
    np.testing.assert_allclose(found["below_ceiling_16"], [0.04])
    assert found["hardness"] == pytest.approx(0.27)
    np.testing.assert_allclose(found["hardness_of_all"], [0.3 - 0.02, 0.4 - 0.1])


def test_bridge_matching_methods_have_equal_numbers_of_updates():
    setup = STUDY.preset("full")
    benchmark = study.CategoricalBenchmark(2, rng=0)
    chosen = study.models(benchmark, np.zeros((1, 2), int), "gaussian", 0.02, setup, 0)
    updates = (2 * chosen["CSBM"].n_iter - 1) * chosen["CSBM"].steps_per_projection
    assert 2 * chosen["alpha-CSBM"].n_steps == updates
    assert chosen["alpha-CSBM"].batch_size == 2 * chosen["CSBM"].batch_size
    assert chosen["small"].n_components == 20
    assert "CSBM" not in study.models(benchmark, np.zeros((1, 2), int), "uniform", 0.3, setup, 0)


def test_picture_of_several_settings_is_drawn():
    from matplotlib.figure import Figure

    results = {}
    for dim, alpha in ((2, 0.02), (2, 0.05), (16, 0.02)):
        for metric in ("conditional_shape", "conditional_trend"):
            results[f"{metric}_{dim}_gaussian_{alpha}"] = np.linspace(0.8, 0.2, 6)
            results[f"{metric}_{dim}_gaussian_{alpha}_truth"] = 0.9
    figure = Figure(layout="constrained")
    study.draw(results, figure)
    assert [len(ax.containers) for ax in figure.axes] == [6] * 4
    assert figure.axes[0].get_title() == "shape score, 2 tokens"


def test_tokens_of_a_file_are_translated(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "tokens.npz"
    source, target = rng.integers(0, 3, size=(300, 2)), rng.integers(2, 5, size=(250, 2))
    np.savez(path, source=source, target=target, n_categories=5)
    setup = type(STUDY.preset("quick"))(**(dict(STUDY.on_file.options) | {"steps": 150}))
    seen = []
    printed = STUDY.on_file.run(path, setup, tmp_path, rng, lambda share, _: seen.append(share))
    assert np.load(tmp_path / "translated.npz")["translated"].shape == (300, 2)
    assert printed["shape_score_translated_to_target"] > 0.85
    assert printed["shape_score_source_to_target"] < 0.5
    assert printed["trend_score_translated_to_target"] > 0.7
    assert seen == sorted(seen)


def test_bad_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "tokens.npz"
    np.savez(path, source=np.zeros((3, 2), int), target=np.zeros((3, 2), int))
    setup = STUDY.preset("quick")
    with pytest.raises(ValueError, match="no array 'n_categories'"):
        STUDY.on_file.run(path, setup, tmp_path, np.random.default_rng(0), lambda *_: None)

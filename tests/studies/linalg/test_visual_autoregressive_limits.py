from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

from thalweg import data
from thalweg.studies.linalg import visual_autoregressive_limits as study
from thalweg.study import run_study


def test_quick_run_holds_and_reports_the_rank_of_ten_entries():
    outcome = run_study("visual-autoregressive-limits")
    record = outcome.record
    assert record.state == "holds", record.traceback
    judged = {c.key for c in record.claims if c.verdict == "holds"}
    assert judged == {
        "exact_flops_slope",
        "polynomial_flops_slope",
        "error_over_bound",
        "rank_above_d10",
        "rank_below_d4",
        "rank_above_d4",
        "gadget_wrong_above",
        "gadget_wrong_below",
        "logit_error_over_bound",
        "pixel_error_over_bound",
    }
    results = record.results
    assert results["rank_at_one"] == 70
    assert results["rank_below_d10"] == 8008
    assert 0 < results["logit_error"] <= results["logit_bound"] < np.inf
    assert (np.diff(outcome.arrays["numerical_rank"]) >= 0).all()
    assert outcome.png.startswith(b"\x89PNG")


@pytest.mark.skipif(not data.available(study.IMAGES), reason="needs MNIST")
def test_training_lowers_the_loss_and_keeps_the_bound():
    setup = SimpleNamespace(steps=8, images=200, generated=1)
    results = study.whole_model(setup, 0, lambda *_: None)
    assert results["model_trained"]
    assert results["loss"][-1] < results["loss"][0] == pytest.approx(np.log(64), abs=0.1)
    assert results["quantizer_error"] < 1e-3
    assert 0 < results["logit_error_over_bound"] <= 1


def test_without_images_the_model_stays_untrained(monkeypatch):
    monkeypatch.setattr("thalweg.data.available", lambda name: False)
    setup = SimpleNamespace(steps=8, images=200, generated=1)
    results = study.whole_model(setup, 0, lambda *_: None)
    assert not results["model_trained"]
    assert "loss" not in results


def test_sides_halve_down_to_one():
    assert study.scale_sides(8) == (1, 2, 4, 8)
    assert study.scale_sides(12) == (1, 2, 3, 6, 12)
    assert study.scale_sides(1) == (1,)


def test_half_of_the_decisions_are_yes():
    rng = np.random.default_rng(0)
    results = study.gadget(SimpleNamespace(gadget_sizes=()), rng)
    assert 1000 <= results["gadget_yes"] < 1060
    assert list(results["gadget_sizes"]) == [0.25, 1.01]


def test_a_bound_that_says_nothing_is_no_success():
    assert study._ratio({"output_error": 1.0, "output_bound": 4.0}) == 0.25
    assert np.isnan(study._ratio({"output_error": 1.0, "output_bound": np.inf}))


def test_slope_is_the_exponent():
    assert study._slope({n: 3 * n**2.5 for n in (8, 16, 32)}) == pytest.approx(2.5)

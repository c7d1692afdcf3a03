import pytest

pytest.importorskip("torch")

from thalweg.study import run_study


def test_quick_preset_confirms_every_judged_claim():
    outcome = run_study("non-euclidean-trust-region")
    assert outcome.record.state == "holds", outcome.record.traceback
    judged = {claim.key for claim in outcome.record.claims if claim.verdict == "holds"}
    assert {"random_excess", "bound_ratio", "skewed_muon", "quadratic_slope"} <= judged
    assert {"special_case_difference", "extrapolation_ratio", "digits_ratio"} <= judged
    assert outcome.record.results["random_excess"] < 1e-3
    assert outcome.png

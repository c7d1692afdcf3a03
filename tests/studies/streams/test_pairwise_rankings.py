"""The study of pairwise rankings: its quick run, and the ranking of a user's file."""

import csv

import numpy as np
import pytest

from thalweg import data
from thalweg.streams import BradleyTerry
from thalweg.study import load, run_study

STUDY = load("pairwise-rankings")


def test_quick_run_holds_with_the_same_strengths_in_a_hundredth_of_the_sweeps():
    outcome = run_study("pairwise-rankings")
    assert outcome.record.state == "holds", outcome.record.traceback
    assert min(outcome.arrays["champion_sweep_ratio"]) >= 100
    assert max(outcome.arrays["largest_difference"]) <= 1e-6
    # The rate is predicted, not fitted: the four members differ by far more than the tolerance.
    assert np.ptp(outcome.arrays["champion_rates"]) > 0.5


def test_without_the_data_set_its_claims_are_skipped(monkeypatch, tmp_path):
    monkeypatch.delenv("THALWEG_DATA", raising=False)
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path)
    outcome = run_study("pairwise-rankings")
    assert outcome.record.state == "holds", outcome.record.traceback
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["football_sweep_ratio"] == "skipped"
    assert verdicts["largest_difference"] == "holds"


def rank(tmp_path, text, **options):
    path = tmp_path / "games.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    setup = type(STUDY.preset("quick"))(**(dict(STUDY.on_file.options) | options))
    printed = STUDY.on_file.run(
        path, setup, tmp_path, np.random.default_rng(0), lambda fraction, message: None
    )
    with open(tmp_path / "ranking.csv", newline="") as file:
        return printed, list(csv.DictReader(file))


def test_a_file_of_winners_is_ranked(tmp_path):
    printed, rows = rank(tmp_path, "winner,loser\nann,bob\nann,cat\nbob,cat\ncat,bob\nann,bob\n")
    assert [row["item"] for row in rows] == ["ann", "cat", "bob"]
    model = BradleyTerry().fit(
        [["ann", "bob"], ["ann", "cat"], ["bob", "cat"], ["cat", "bob"], ["ann", "bob"]]
    )
    written = [float(row["log_strength"]) for row in rows]
    np.testing.assert_allclose(written, model.log_strengths_[[0, 2, 1]], rtol=1e-5)
    errors = [float(row["standard_error"]) for row in rows]
    np.testing.assert_allclose(errors, model.standard_errors_[[0, 2, 1]], rtol=1e-5)
    assert (printed["games"], printed["players"], printed["strongest"]) == (5, 3, "ann")


def test_results_weights_and_options_of_a_file_are_used(tmp_path):
    text = "first,second,result,weight\na,b,1,3\nb,c,0.5,1\nc,a,0,2\na,c,0,1\n"
    printed, rows = rank(tmp_path, text, prior=2.0, ties="davidson")
    model = BradleyTerry(prior=2.0, ties="davidson").fit(
        [["a", "b"], ["b", "c"], ["c", "a"], ["a", "c"]], [1, 0.5, 0, 0], [3, 1, 2, 1]
    )
    assert [row["item"] for row in rows] == model.ranking().tolist()
    assert printed["tie_parameter"] == pytest.approx(model.tie_parameter_)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must name the columns"),
        ("a,b\n1,2\n", "first line must name the columns .* got a,b"),
        ("winner,loser\n", "no games"),
        ("winner,loser\nann,ann\n", "line 2 must name two different players"),
        ("winner,loser\nann\n", "line 2 must name two different players"),
        ("first,second,result\na,b,2\n", "result must be 1, 0 or 0.5, got 2 in line 2"),
        ("first,second,result\na,b,won\n", "result must be a number, got 'won' in line 2"),
        ("winner,loser,weight\na,b,-1\n", "weight must be >= 0 and finite, got -1 in line 2"),
        (b"winner,loser\n\xff\xfe,b\n", "not a CSV file in UTF-8"),
    ],
)
def test_malformed_files_are_refused_with_the_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        rank(tmp_path, text)

from __future__ import annotations

import pytest

from thalweg._optional import MissingExtraError
from thalweg.data import MissingDataError
from thalweg.study import run_study
from thalweg.study.studies import Study


def test_claims_are_judged_in_order(toy):
    record = run_study("toy").record
    assert record.state == "holds"
    assert [c.verdict for c in record.claims] == ["holds", "skipped", "reported", "skipped"]
    assert [c.verdict for c in run_study("toy", "full").record.claims][1] == "holds"


def test_a_failing_claim_is_shown_as_failing(toy):
    record = run_study("toy", overrides={"mode": "bad"}).record
    assert record.state == "does not hold"
    assert record.claims[0].verdict == "fails"


def test_a_study_that_raises_keeps_its_traceback(toy):
    record = run_study("toy", overrides={"mode": "raise"}).record
    assert record.state == "failed"
    assert record.message == "RuntimeError: the method broke"
    assert "in _run" in record.traceback


def test_a_study_that_does_not_import_is_failed(toy, monkeypatch):
    def load(slug):
        raise ModuleNotFoundError("No module named 'nowhere'")

    monkeypatch.setattr("thalweg.study.runner.load", load)
    record = run_study("toy").record
    assert (record.state, record.setup) == ("failed", {})
    assert "nowhere" in record.message


def test_an_interruption_is_not_swallowed(toy):
    with pytest.raises(KeyboardInterrupt):
        run_study("toy", overrides={"mode": "interrupt"})


def test_the_same_seed_gives_the_same_figures(toy):
    first, second = (run_study("toy", seed=3).record.results for _ in range(2))
    assert first == second
    assert run_study("toy", seed=4).record.results != first


def test_progress_is_reported(toy):
    seen = []
    run_study("toy", report=lambda fraction, message: seen.append((fraction, message)))
    assert seen == [(0.5, "halfway")]


def test_the_environment_is_recorded(toy):
    record = run_study("toy").record
    assert {"python", "processor", "cores", "versions", "revision"} <= set(record.environment)
    assert record.environment["versions"]["numpy"]
    assert record.peak_memory_mib > 10


@pytest.mark.parametrize(
    ("error", "command"),
    [
        (MissingExtraError("torch"), 'pip install "thalweg[torch]"'),
        (MissingDataError("tinyshakespeare", "is not here"), "thalweg data fetch tinyshakespeare"),
    ],
)
def test_what_is_missing_skips_the_study_and_names_the_command(toy, monkeypatch, error, command):
    def run(setup, rng, report):
        raise error

    lacking = Study("toy", {}, {}, run, lambda *_: None, _claims())
    monkeypatch.setattr("thalweg.study.runner.load", lambda slug: lacking)
    record = run_study("toy").record
    assert record.state == "skipped"
    assert command in record.message


def test_a_required_data_set_skips_before_running(toy, monkeypatch):
    def run(setup, rng, report):
        raise AssertionError("must not run")

    lacking = Study("toy", {}, {}, run, lambda *_: None, _claims(), data=["football-results"])
    monkeypatch.setattr("thalweg.study.runner.load", lambda slug: lacking)
    assert run_study("toy").record.state == "skipped"


def test_results_must_be_plain(toy, monkeypatch):
    odd = Study("toy", {}, {}, lambda *_: {"ratio": 3, "odd": {}}, lambda *_: None, _claims())
    monkeypatch.setattr("thalweg.study.runner.load", lambda slug: odd)
    assert "result 'odd' must be a number" in run_study("toy").record.message


def test_mistakes_are_refused_before_anything_runs(toy):
    with pytest.raises(ValueError, match="unknown paper"):
        run_study("tyo")
    with pytest.raises(ValueError, match="unknown key 'drwas'"):
        run_study("toy", overrides={"drwas": "3"})
    with pytest.raises(ValueError, match="seed must be an integer >= 0"):
        run_study("toy", seed=-1)


def _claims():
    from thalweg.study import Claim, at_least

    return [Claim("it is faster", "ratio", "ratio", at_least(2))]

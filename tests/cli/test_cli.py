from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import thalweg.cli
from thalweg.cli.app import app


@pytest.fixture
def call(toy, monkeypatch, capsys):
    """Call the command line as a user does; return (exit code, standard output, error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["thalweg", *arguments])
        with pytest.raises(SystemExit) as stop:
            thalweg.cli.main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


def test_papers_lists_and_narrows(call):
    assert "planned-toy" in call("papers")[1]
    code, out, _ = call("papers", "machinery", "--json")
    assert code == 0
    assert [entry["slug"] for entry in json.loads(out)] == ["toy"]
    assert "planned-toy" in call("papers", "--domain", "descent")[1]


def test_show_says_use_call_and_claims(call):
    out = call("show", "toy")[1]
    for part in ("Try the machinery", "from thalweg.catalogue import paper", "it is faster"):
        assert part in out


def test_show_of_a_planned_paper_says_planned(call):
    assert "Planned" in call("show", "planned-toy")[1]


def test_run_writes_a_record_and_prints_the_claims(call, tmp_path):
    code, out, _ = call("run", "toy")
    assert code == 0
    assert "it is faster" in out
    assert len(list(tmp_path.glob("runs/toy/*/record.json"))) == 1


def test_run_keep_puts_the_record_under_records(call, tmp_path):
    call("run", "toy", "--keep", "--seed", "3", "--set", "draws=20")
    record = json.loads((tmp_path / "records/toy/record.json").read_text())
    assert (record["seed"], record["setup"]["draws"]) == (3, 20)


def test_a_failed_claim_and_a_broken_study_exit_with_1(call, tmp_path):
    assert call("run", "toy", "--set", "mode=bad")[0] == 1
    code, out, err = call("run", "toy", "--set", "mode=raise", "--keep")
    assert code == 1
    assert "the method broke" in out
    assert "toy is failed: not kept" in err
    assert not (tmp_path / "records").exists()


def test_run_json_is_a_list_of_records(call):
    records = json.loads(call("run", "toy", "--json")[1])
    assert records[0]["state"] == "holds"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "tyo"], "unknown paper 'tyo'; did you mean toy"),
        (["run", "planned-toy"], "'planned-toy' is planned"),
        (["run", "toy", "--set", "drwas=3"], "unknown key 'drwas'"),
        (["run", "toy", "--set", "draws"], "expected key=value, got 'draws'"),
        (["run", "toy", "--preset", "large"], "has no preset 'large'"),
        (["run", "toy", "--input", "nowhere"], "there is no file 'nowhere'"),
        (["papers", "--domain", "cooking"], "unknown domain 'cooking'"),
        (["show", "tyo"], "did you mean toy"),
        (["data", "fetch", "footbal-results"], "nearest: football-results"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(call, arguments, message):
    code, out, err = call(*arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err


def test_input_runs_the_method_on_a_file(call, tmp_path):
    (tmp_path / "in.txt").write_text("abc")
    code, out, _ = call("run", "toy", "--input", "in.txt", "--out", "done", "--json")
    assert code == 0
    assert json.loads(out) == {"folder": "done", "summary": {"characters": 3}}
    assert (tmp_path / "done" / "upper.txt").read_text() == "ABCABC"


def test_site_prints_its_path(call, tmp_path):
    code, out, _ = call("site")
    assert code == 0
    assert str(tmp_path / "site" / "index.html") in out.replace("\n", "")


def test_data_list_says_what_is_here(call):
    rows = json.loads(call("data", "list", "--json")[1])
    assert {row["name"] for row in rows} >= {"football-results", "bal-ladybug-49"}
    assert all(row["found"] is None for row in rows)


def test_data_fetch_of_a_set_without_address_says_where_to_put_it(call):
    code, _, err = call("data", "fetch", "football-results")
    assert code == 2
    assert "THALWEG_DATA" in err


@pytest.mark.parametrize(("mode", "code"), [("good", 0), ("bad", 1)])
def test_verify_counts_and_exits(call, monkeypatch, mode, code):
    from concurrent.futures import ThreadPoolExecutor

    from thalweg.study.studies import load

    monkeypatch.setattr("thalweg.study.verify.local_executor", ThreadPoolExecutor)
    monkeypatch.setitem(load("toy").quick, "mode", mode)
    got, out, _ = call("verify", "--jobs", "1")
    assert got == code
    assert "1/1 toy" in out
    assert ("asked >= 2" in out) == (mode == "bad")


def test_slugs_complete():
    done = CliRunner().invoke(
        app,
        [],
        prog_name="thalweg",
        env={
            "_THALWEG_COMPLETE": "complete_bash",
            "COMP_WORDS": "thalweg run pairw",
            "COMP_CWORD": "2",
            "_TYPER_COMPLETE_ARGS": "thalweg run pairw",
        },
    )
    assert "pairwise-rankings" in done.output


def test_the_module_runs_as_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "thalweg", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("thalweg ")

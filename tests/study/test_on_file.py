from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path

import pytest

from thalweg.study.on_file import run_on_file


def test_results_and_summary_are_written_together(toy, tmp_path):
    (tmp_path / "in.txt").write_text("abc")
    folder, summary = run_on_file("toy", "in.txt", out="done", overrides={"times": "3"})
    assert (folder / "upper.txt").read_text() == "ABC" * 3
    assert json.loads((folder / "summary.json").read_text()) == summary == {"characters": 3}


def test_without_a_folder_results_go_under_runs(toy, tmp_path):
    (tmp_path / "in.txt").write_text("abc")
    folder, _ = run_on_file("toy", "in.txt")
    assert folder.parts[:2] == ("runs", "toy")


def test_a_refused_file_leaves_nothing(toy, tmp_path):
    (tmp_path / "in.txt").write_text("")
    with pytest.raises(ValueError, match="--input: the file is empty"):
        run_on_file("toy", "in.txt", out="done")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.txt"]


def test_a_missing_file_is_named(toy):
    with pytest.raises(FileNotFoundError, match=r"--input: there is no file 'nowhere\.txt'"):
        run_on_file("toy", "nowhere.txt")


def test_standard_input_is_refused_where_the_method_takes_files_only(toy, tmp_path):
    with pytest.raises(ValueError, match="--input: 'toy' takes no standard input"):
        run_on_file("toy", "-", out="done")
    assert not (tmp_path / "done").exists()


def test_standard_input_reaches_a_method_that_takes_it(toy, tmp_path, monkeypatch):
    study = sys.modules[toy.study]
    seen = []

    def run(path, setup, out, rng, report):
        seen.append(path)
        return {"characters": len(sys.stdin.read())}

    method = dataclasses.replace(study.STUDY.on_file, run=run, stdin=True)
    monkeypatch.setattr(study, "STUDY", dataclasses.replace(study.STUDY, on_file=method))
    monkeypatch.setattr(sys, "stdin", io.StringIO("abcd"))
    _, summary = run_on_file("toy", "-", out="done")
    assert seen == [Path("-")]
    assert summary == {"characters": 4}

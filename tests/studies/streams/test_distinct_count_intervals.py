from __future__ import annotations

import gzip
import io
import sys

import pytest
from typer.testing import CliRunner

from thalweg.cli.app import app
from thalweg.streams import FlajoletMartin
from thalweg.study import run_study
from thalweg.study.on_file import run_on_file

SLUG = "distinct-count-intervals"


def test_the_claims_hold_at_quick_size():
    outcome = run_study(SLUG, "quick")
    assert outcome.record.state == "holds", outcome.record.traceback
    assert outcome.arrays["coverage"].shape == (12,)
    # The exact interval covers 95 % but for five standard errors of 600 streams.
    assert abs(outcome.arrays["coverage_gamma"] - 0.95).max() < 5 * (0.95 * 0.05 / 600) ** 0.5
    assert outcome.png


def test_distinct_lines_of_a_file_are_counted(tmp_path):
    with gzip.open(tmp_path / "log.gz", "wt") as file:
        file.writelines(f"user {n % 700}\n" for n in range(5000))
    folder, summary = run_on_file(SLUG, tmp_path / "log.gz", out=tmp_path / "out")
    assert summary["low"] <= 700 <= summary["high"]
    sketch = FlajoletMartin.from_bytes((folder / "sketch.bin").read_bytes())
    assert sketch.estimate() == summary["distinct lines"]


def test_standard_input_gives_what_a_file_gives(tmp_path, monkeypatch):
    text = "".join(f"{n % 300}\n" for n in range(1000))
    (tmp_path / "in.txt").write_text(text)
    _, of_file = run_on_file(SLUG, tmp_path / "in.txt", out=tmp_path / "file")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    _, of_stdin = run_on_file(SLUG, "-", out=tmp_path / "stdin")
    assert of_stdin == of_file


def test_the_command_line_reads_standard_input(tmp_path):
    result = CliRunner().invoke(
        app, ["run", SLUG, "--input", "-", "--out", str(tmp_path / "out")], input="a\nb\na\n"
    )
    assert result.exit_code == 0, result.output
    assert "distinct lines" in result.output
    assert (tmp_path / "out" / "sketch.bin").is_file()


def test_an_empty_file_has_no_lines(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    _, summary = run_on_file(SLUG, tmp_path / "empty", out=tmp_path / "out")
    assert (summary["distinct lines"], summary["low"], summary["high"]) == (0, 0, 0)


def test_a_bad_setting_is_refused(tmp_path):
    (tmp_path / "log").write_text("a\n")
    with pytest.raises(ValueError, match="n_registers must be a power of two"):
        run_on_file(SLUG, tmp_path / "log", out=tmp_path / "out", overrides={"registers": 1000})

from __future__ import annotations

import csv

import pytest

from thalweg.streams import SimilaritySketch
from thalweg.study import run_study
from thalweg.study.on_file import run_on_file

SLUG = "fast-similarity-sketching"


def test_the_claims_hold_at_quick_size():
    outcome = run_study(SLUG, "quick")
    assert outcome.record.state == "holds", outcome.record.traceback
    found = outcome.arrays["curve_found"]
    assert found[0] < 0.1
    assert found[-1] > 0.99
    assert outcome.png


def test_similar_lines_of_a_file_are_found(tmp_path):
    words = [f"word{n}" for n in range(60)]
    lines = [" ".join(words[:40]), "", " ".join(words[2:42]), " ".join(words[45:])]
    (tmp_path / "sets.txt").write_text("\n".join(lines))
    folder, summary = run_on_file(SLUG, tmp_path / "sets.txt", out=tmp_path / "out")
    assert (summary["sets"], summary["pairs"]) == (3, 1)
    with open(folder / "pairs.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["line", "other line", "jaccard"]
    assert rows[1][:2] == ["1", "3"]
    assert float(rows[1][2]) == pytest.approx(38 / 42, abs=0.15)  # five sigma of 128 entries
    sketcher, sketches = SimilaritySketch.from_bytes((folder / "sketches.bin").read_bytes())
    assert (sketcher.transform([words[:40]])[0] == sketches[0]).all()


@pytest.mark.parametrize(
    ("content", "options", "what"),
    [
        (b"\n\n", {}, "must hold a set a line"),
        (b"\xff\xfe", {}, "must be UTF-8"),
        (b"a b", {"threshold": 1.5}, "--set: threshold must be in"),
        (b"a b", {"hash": "md5"}, "hash must be one of"),
    ],
)
def test_a_bad_file_or_setting_is_refused(tmp_path, content, options, what):
    (tmp_path / "sets.txt").write_bytes(content)
    with pytest.raises(ValueError, match=what):
        run_on_file(SLUG, tmp_path / "sets.txt", out=tmp_path / "out", overrides=options)
    assert not (tmp_path / "out").exists()

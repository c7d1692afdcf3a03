from __future__ import annotations

import io
import json
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from PIL import Image

from thalweg.study import Record, run_study
from thalweg.study.record import KEPT_FIGURE_BYTES, shrink_png, write_atomically

SCHEMA = json.loads((files("thalweg.study") / "record.schema.json").read_text())


@pytest.mark.parametrize("mode", ["good", "bad", "raise"])
def test_records_follow_the_schema(toy, mode):
    record = run_study("toy", overrides={"mode": mode}).record
    jsonschema.validate(json.loads(record.to_json()), SCHEMA)


def test_a_record_round_trips_with_numbers_that_json_lacks(toy):
    record = run_study("toy").record
    claim = record.claims[0]
    odd = Record(**{**vars(record), "claims": [type(claim)(**{**vars(claim), "value": np.inf})]})
    text = odd.to_json()
    jsonschema.validate(json.loads(text), SCHEMA)
    assert Record.from_json(text) == odd


def test_a_record_of_another_schema_is_refused(toy):
    content = json.loads(run_study("toy").record.to_json())
    with pytest.raises(ValueError, match="schema_version 2"):
        Record.from_json(json.dumps(content | {"schema_version": 2}))
    with pytest.raises(ValueError, match="not a record"):
        Record.from_json("[]")
    del content["claims"]
    with pytest.raises(ValueError, match="not a record"):
        Record.from_json(json.dumps(content))


def test_a_run_is_saved_whole(toy, tmp_path):
    outcome = run_study("toy")
    folder = outcome.save(tmp_path / "runs")
    assert sorted(p.name for p in folder.iterdir()) == [
        "arrays.npz", "figure.png", "figure.svg", "record.json",
    ]  # fmt: skip
    assert Record.load(folder) == outcome.record
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        assert arrays["draws"].shape == (10,)


def test_two_runs_of_the_same_second_do_not_overwrite(toy, tmp_path):
    outcome = run_study("toy")
    first, second = outcome.save(tmp_path / "runs"), outcome.save(tmp_path / "runs")
    assert first != second
    assert Record.load(first) == Record.load(second)


def test_an_interrupted_save_leaves_nothing(toy, tmp_path, monkeypatch):
    outcome = run_study("toy")

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        outcome.save(tmp_path / "runs")
    assert list((tmp_path / "runs" / "toy").iterdir()) == []


def test_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_atomically(path, b"old")

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
    assert path.read_bytes() == b"old"


def test_a_kept_record_has_no_arrays_and_a_small_picture(toy, tmp_path):
    folder = run_study("toy").keep(tmp_path / "records")
    assert sorted(p.name for p in folder.iterdir()) == ["figure.png", "record.json"]
    assert (folder / "figure.png").stat().st_size <= KEPT_FIGURE_BYTES


def test_a_large_picture_is_shrunk_and_stays_a_picture():
    noise = np.random.default_rng(0).integers(0, 255, (600, 900, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    small = shrink_png(buffer.getvalue(), KEPT_FIGURE_BYTES)
    assert len(small) <= KEPT_FIGURE_BYTES
    width, height = Image.open(io.BytesIO(small)).size
    assert width / height == pytest.approx(1.5, rel=0.02)

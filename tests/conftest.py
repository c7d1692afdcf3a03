"""Shared by all tests: a study small enough to test the machinery with."""

from __future__ import annotations

import sys
import types

import pytest

import thalweg.catalogue
import thalweg.cli.app
import thalweg.study.site
from thalweg.catalogue import Paper
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, reported


def _run(setup, rng, report):
    report(0.5, "halfway")
    if setup.mode == "raise":
        raise RuntimeError("the method broke")
    if setup.mode == "interrupt":
        raise KeyboardInterrupt
    draws = rng.normal(size=setup.draws)
    return {"ratio": 5.0 if setup.mode == "good" else 0.5, "mean": draws.mean(), "draws": draws}


def _draw(results, figure):
    figure.subplots().plot(results["draws"])


def _on_file(path, setup, out, rng, report):
    text = path.read_text()
    if not text:
        raise ValueError("--input: the file is empty")
    (out / "upper.txt").write_text(text.upper() * setup.times)
    return {"characters": len(text)}


TOY = Study(
    paper="toy",
    quick={"mode": "good", "draws": 10, "scale": 1.0},
    full={"mode": "good", "draws": 100, "scale": 1.0},
    run=_run,
    draw=_draw,
    claims=[
        Claim("it is faster", "ratio of times", "ratio", at_least(2)),
        Claim("at full size too", "ratio of times, full", "ratio", at_least(3), preset="full"),
        Claim("the mean is small", "mean", "mean", reported(), unit="m"),
        Claim("on real data", "error", "error", at_most(1), data="football-results"),
    ],
    on_file=FileMethod(_on_file, expects="text", options={"times": 2}),
)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A catalogue of two papers: ``toy`` with a study, ``planned-toy`` without; no data sets."""
    module = types.ModuleType("thalweg_toy_study")
    module.STUDY = TOY
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = Paper(
        1, "toy", "streams", 2020, "2001.00001", "A <toy> method", "Try the machinery",
        ("thalweg.catalogue.paper",), module.__name__,
    )  # fmt: skip
    planned = Paper(2, "planned-toy", "descent", 2021, "", "A planned one", "Wait for it")
    for user in (thalweg.catalogue, thalweg.study.site, thalweg.cli.app):
        monkeypatch.setattr(user, "papers", lambda: (entry, planned))
    monkeypatch.delenv("THALWEG_DATA", raising=False)
    monkeypatch.setattr("thalweg.data.cache_folder", lambda: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    return entry

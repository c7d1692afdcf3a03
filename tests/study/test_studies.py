from __future__ import annotations

import dataclasses

import pytest

from thalweg.study import load
from thalweg.study.studies import override

TOY_SETTINGS = {"players": 10, "eps": (0.1, 1.0), "rate": 0.5, "mode": "a", "fast": True}


def test_strings_are_read_as_the_type_of_the_presets_value():
    given = {"players": "20", "eps": "2,3", "rate": "1", "mode": "b", "fast": "false"}
    assert override(TOY_SETTINGS, given) == {
        "players": 20, "eps": (2.0, 3.0), "rate": 1.0, "mode": "b", "fast": False,
    }  # fmt: skip


def test_an_unknown_key_is_refused_by_name():
    with pytest.raises(ValueError, match=r"unknown key 'player'; this study has: eps, fast"):
        override(TOY_SETTINGS, {"player": "3"})


@pytest.mark.parametrize(
    ("key", "value"),
    [("players", "many"), ("players", "2.5"), ("rate", "x"), ("fast", "maybe"), ("eps", "1,x")],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=f"--set: {key} must be like"):
        override(TOY_SETTINGS, {key: value})


def test_python_values_keep_their_type():
    assert override(TOY_SETTINGS, {"rate": 1})["rate"] == 1.0
    with pytest.raises(ValueError, match=r"players must be like 10, got 2\.5"):
        override(TOY_SETTINGS, {"players": 2.5})


def test_presets_are_read_as_attributes(toy):
    setup = load("toy").preset("full", {"draws": "7"})
    assert (setup.draws, setup.mode) == (7, "good")


def test_a_preset_that_the_study_lacks_is_refused(toy):
    with pytest.raises(ValueError, match="has no preset 'large'"):
        load("toy").preset("large")
    with pytest.raises(ValueError, match="preset must be one of quick, full, large, got 'huge'"):
        load("toy").preset("huge")


def test_presets_must_share_their_keys(toy):
    with pytest.raises(ValueError, match=r"same keys: \['draws', 'mode', 'scale'\]"):
        dataclasses.replace(load("toy"), full={})


def test_a_planned_paper_has_no_study(toy):
    with pytest.raises(ValueError, match="'planned-toy' is planned"):
        load("planned-toy")

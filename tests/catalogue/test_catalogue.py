from __future__ import annotations

import importlib
import pkgutil

import pytest

import thalweg.studies
from thalweg.catalogue import paper, papers
from thalweg.study import Study


def landed():
    return [entry for entry in papers() if not entry.planned]


def test_there_are_119_papers_unique_and_sorted():
    assert [entry.number for entry in papers()] == list(range(1, 120))
    assert len({entry.slug for entry in papers()}) == 119
    assert len({entry.title for entry in papers()}) == 119


@pytest.mark.parametrize("entry", papers(), ids=lambda entry: entry.slug)
def test_every_entry_says_what_a_user_does_with_it(entry):
    assert 20 <= len(entry.use) <= 130
    assert not entry.use.endswith(".")


@pytest.mark.parametrize("entry", landed(), ids=lambda entry: entry.slug)
def test_every_dotted_name_imports(entry):
    for name in entry.methods:
        module, attribute = name.rsplit(".", 1)
        assert callable(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize("entry", landed(), ids=lambda entry: entry.slug)
def test_a_study_belongs_to_its_paper_and_domain(entry):
    study = importlib.import_module(entry.study).STUDY
    assert isinstance(study, Study)
    assert study.paper == entry.slug
    assert entry.study.startswith(f"thalweg.studies.{entry.domain}.")


def test_every_study_module_belongs_to_exactly_one_entry():
    modules = [
        module.name
        for module in pkgutil.walk_packages(thalweg.studies.__path__, "thalweg.studies.")
        if not module.ispkg and not module.name.rsplit(".", 1)[1].startswith("_")
    ]
    assert sorted(modules) == sorted(entry.study for entry in landed())


def test_an_unknown_slug_offers_the_nearest():
    with pytest.raises(ValueError, match=r"unknown paper 'light-bs'; did you mean light-sb"):
        paper("light-bs")


def test_a_paper_without_a_study_is_planned():
    assert paper("adazeta").planned == (paper("adazeta").study is None)

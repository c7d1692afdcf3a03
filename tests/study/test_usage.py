from __future__ import annotations

from thalweg.study.usage import example, summary


def test_the_example_is_the_docstrings_code_with_its_output(toy):
    assert example(toy).splitlines() == [
        "from thalweg.catalogue import paper",
        'paper("light-sb").title',
        "# 'Light Schrödinger Bridge'",
    ]


def test_the_summary_is_the_first_line():
    assert summary("thalweg.catalogue.paper") == "Return the paper called `slug`."

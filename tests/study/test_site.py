from __future__ import annotations

import pytest

from thalweg.study import run_study
from thalweg.study.site import build_site


def test_every_paper_has_a_page_and_planned_ones_say_so(toy):
    index = build_site()
    assert {p.name for p in index.parent.glob("*.html")} == {
        "index.html", "toy.html", "planned-toy.html",
    }  # fmt: skip
    assert "This paper is planned" in (index.parent / "planned-toy.html").read_text()
    assert "Not run yet" in (index.parent / "toy.html").read_text()


def test_a_failed_claim_is_on_card_and_page(toy):
    run_study("toy").keep("records")
    run_study("toy", overrides={"mode": "bad"}).save("runs")
    folder = build_site().parent
    assert "state does-not-hold" in (folder / "index.html").read_text()
    page = (folder / "toy.html").read_text()
    assert '<tr class="fails"><td>it is faster</td>' in page
    assert "What holds" in page
    assert "Newest run on this machine" in page


def test_titles_are_escaped(toy):
    page = (build_site().parent / "toy.html").read_text()
    assert "A &lt;toy&gt; method" in page
    assert "<toy>" not in page


def test_pages_name_no_network_resource(toy):
    run_study("toy").keep("records")
    for path in build_site().parent.glob("*.html"):
        text = path.read_text().replace('href="https://arxiv.org/', "")
        assert "http://" not in text
        assert "https://" not in text


def test_a_folder_of_something_else_is_not_replaced(toy, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is no site of thalweg"):
        build_site()
    assert (tmp_path / "site" / "thesis.txt").read_text() == "years of work"


def test_an_older_site_is_replaced(toy):
    build_site()
    run_study("toy").save("runs")
    assert "5, asked" not in (build_site().parent / "toy.html").read_text()
    assert "Newest run on this machine" in (build_site().parent / "toy.html").read_text()


def test_a_broken_record_is_named(toy, tmp_path):
    folder = run_study("toy").keep("records")
    (folder / "record.json").write_text("{")
    with pytest.raises(ValueError, match=r"records/toy/record.json cannot be read as a record"):
        build_site()


def test_measured_speed_has_a_page(toy, tmp_path):
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    ours = '{"entrant": "thalweg", "seconds": 0.5, "accuracy": 1e-9, "measure": "error"}'
    peer = '{"entrant": "choix", "seconds": 5.0, "accuracy": 1e-8, "version": "0.4"}'
    (results / "streams.json").write_text(
        f'{{"domain": "streams", "date": "2026-01-01", "threads": 2, "python": "3.11",'
        f'"environment": {{"processor": "any"}}, "missing": [],'
        f'"rows": [{{"workload": "many", "ours": {ours}, "peer": {peer}, "ratio": 10.0}}]}}'
    )
    page = (build_site().parent / "speed.html").read_text()
    assert "choix 0.4: 5 s" in page

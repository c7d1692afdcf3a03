"""The site in headless Chromium: search, failed claims, no console error, no network."""

from __future__ import annotations

import os
import shutil

import pytest

from thalweg.study import run_study
from thalweg.study.site import build_site

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*QUIET, "--no-first-run", *sandbox]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Open a page; every console error, page error and request that leaves the files fails it."""
    context = chromium.new_context()
    page = context.new_page()
    complaints = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(r.url),
    )

    def open_page(path):
        page.goto(path.resolve().as_uri())
        return page

    yield open_page
    context.close()
    assert complaints == []


@pytest.fixture
def site(toy):
    run_study("toy", overrides={"mode": "bad"}).keep("records")
    return build_site().parent


def test_search_and_filters_narrow_the_cards(site, visit):
    page = visit(site / "index.html")
    cards = page.locator(".card:visible")
    assert cards.count() == 2
    page.get_by_label("Search").fill("machinery")
    assert cards.count() == 1
    assert page.locator("#count").inner_text() == "1 paper"
    page.get_by_label("Search").fill("nothing like it")
    assert cards.count() == 0
    assert page.locator("#none").is_visible()
    page.get_by_label("Search").fill("")
    page.get_by_label("State").select_option("does not hold")
    assert cards.count() == 1
    page.get_by_label("Domain").select_option("descent")
    assert cards.count() == 0


def test_a_failed_claim_is_visible_on_card_and_page(site, visit):
    page = visit(site / "index.html")
    assert page.locator(".card .state.does-not-hold").is_visible()
    page.get_by_text("A <toy> method").click()
    row = page.locator("tr.fails")
    assert row.is_visible()
    assert "it is faster" in row.inner_text()


def test_pictures_load_and_have_alternative_texts(site, visit):
    page = visit(site / "toy.html")
    figure = page.locator("img.figure")
    assert figure.get_attribute("alt").startswith("Figure of the study of A <toy> method")
    assert figure.evaluate("image => image.naturalWidth") > 100


@pytest.mark.parametrize("page_name", ["index.html", "toy.html", "planned-toy.html"])
def test_pages_fit_a_phone(site, visit, page_name):
    page = visit(site / page_name)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_dark_mode_changes_the_ground(site, visit):
    page = visit(site / "index.html")
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) != light


def test_the_keyboard_reaches_search_and_cards(site, visit):
    page = visit(site / "index.html")
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.href"))
    assert "search" in reached
    assert any(str(name).endswith("toy.html") for name in reached)

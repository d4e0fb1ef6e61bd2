"""The study page in a real browser: every size and colour scheme, nothing loaded, nothing that axe finds serious."""

from __future__ import annotations

from pathlib import Path

import pytest

from embsearch.cli.main import main

SIZES = {"phone": (390, 844), "desktop": (1280, 800)}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A study of 200 trials, played from synthetic curves."""
    home = tmp_path_factory.mktemp("large") / "home"
    words = ["search", f"home={home}", "study=product_search", "study.name=large", "launcher=replay", "track=none",
             "stop.trials=200", "stop.seconds=null"]  # fmt: skip
    assert main(words) == 0
    return home / "studies" / "large" / "report.html"


def opened(page, path, size="desktop", scheme="light"):
    """The page with every chart drawn; what the console said, and milliseconds from the start of loading."""
    said = []
    page.on(
        "console",
        lambda message: said.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: said.append(str(error)))
    page.set_viewport_size(dict(zip(("width", "height"), SIZES[size], strict=True)))
    page.emulate_media(color_scheme=scheme)
    page.goto(Path(path).as_uri())
    page.wait_for_selector("body[data-drawn]", timeout=30_000)
    return said, page.evaluate("window.drawnAfter")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_every_chart_is_drawn_and_axe_finds_no_serious_fault(page, calm, size, scheme):
    from axe_playwright_python.sync_playwright import Axe

    said, _ = opened(page, calm.study / "report.html", size, scheme)
    assert said == []
    assert page.strayed == []
    charts = page.locator(".chart")
    assert charts.count() > 8
    for i in range(charts.count()):
        assert charts.nth(i).locator("svg path, svg line, svg rect").count() > 3, charts.nth(
            i
        ).get_attribute("id")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    found = Axe().run(page).response["violations"]
    serious = [
        (v["id"], v["nodes"][0]["html"][:200])
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_the_first_screen_names_the_winner_its_learning_rate_and_its_gain(page, calm):
    opened(page, calm.study / "report.html")
    best = calm.result["table"][-1]
    rate = calm.events("created", best["trial"])[0]["params"]["train.lr"]
    height = page.viewport_size["height"]
    for words in (f"Trial {best['trial']} won", "over the untuned encoder"):
        assert page.locator("h1").filter(has_text=words).bounding_box()["y"] < height
    row = page.locator("tr").filter(has_text="train.lr").first
    assert f"{rate:.2g}" in row.inner_text()
    box = row.bounding_box()
    assert box["y"] + box["height"] < height


def test_hovering_a_text_of_the_map_shows_it(page, calm):
    opened(page, calm.study / "report.html")
    mark = page.locator("#chart-map-best .mark-symbol path").first
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "text" in page.inner_text("#vg-tooltip-element")


def test_the_colours_follow_the_screen_and_print_is_light(page, calm):
    opened(page, calm.study / "report.html", scheme="dark")
    ink = (
        "getComputedStyle(document.querySelector('#chart-history svg .role-axis-title text')).fill"
    )
    dark = page.evaluate(ink)
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"{ink} !== '{dark}'")
    assert len(page.pdf()) > 20_000


@pytest.mark.serial
def test_a_page_of_200_trials_is_small_and_soon_there(page, large):
    assert large.stat().st_size <= 6e6
    said, milliseconds = opened(page, large)
    assert said == []
    assert milliseconds <= 3000
    assert page.locator("table.dense tbody tr").count() == 200

"""The pictures of the README: the saved view in MLflow and the study page, as a browser shows them.

    make study && python docs/make_screenshots.py study=product_search

Needs Chromium (Debian: apt-get install chromium). Takes the study from ``home`` as every command does, starts
MLflow where it is not running, and writes docs/images/saved_view.png and docs/images/study_page.png.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from embsearch.cli.ui import study_address
from embsearch.config.load import compose, compose_options
from embsearch.config.options import UiOptions
from embsearch.history.folder import StudyFolder
from embsearch.track.server import serve, stop

IMAGES = Path(__file__).parent / "images"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--force-color-profile=srgb",
]


def saved_view(browser: Any, address: str, path: Path) -> None:
    """The comparison in MLflow, once its charts are drawn."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(address)
    page.wait_for_selector(".js-plotly-plot", timeout=60_000)
    page.wait_for_timeout(3000)  # MLflow draws one chart after another
    assistant = page.locator("[data-component-id='mlflow.assistant.chat_panel.close']")
    if assistant.count():  # it covers a quarter of the view
        assistant.first.click()
        page.wait_for_timeout(1500)
    page.screenshot(path=path)
    page.close()


def study_page(browser: Any, file: Path, path: Path) -> None:
    """The first screens of the study page."""
    page = browser.new_page(viewport={"width": 1200, "height": 1500})
    page.goto(file.resolve().as_uri())
    page.wait_for_selector("body[data-drawn]", timeout=30_000)
    page.screenshot(path=path)
    page.close()


def main() -> None:
    config = compose(sys.argv[1:])
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if chromium is None:
        sys.exit("no Chromium on this machine; Debian: apt-get install chromium")
    folder = StudyFolder(config)
    if not folder.page.exists():
        sys.exit(f"{folder.page}: not there; run the study first, or embsearch report")
    IMAGES.mkdir(exist_ok=True)
    server = serve(folder.home, compose_options(sys.argv[1:], UiOptions).port)
    try:
        address = study_address(config, server.url)
        if address is None:
            sys.exit(f"MLflow has no study {config.study.name}; embsearch sync brings it there")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            saved_view(browser, address, IMAGES / "saved_view.png")
            study_page(browser, folder.page, IMAGES / "study_page.png")
            browser.close()
    finally:
        if server.started:
            stop(folder.home)
    print(f"{IMAGES}: written")


if __name__ == "__main__":
    main()

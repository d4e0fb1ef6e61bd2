"""The seconds until one sees what won: MLflow's saved view and the study page of 200 trials, in Chromium.

    python benchmarks/pages.py            # four minutes; writes benchmarks/results/pages.json

The study is played from synthetic curves (launcher=replay) into a new home with a real MLflow. The view counts as
interactive when the table has the first 100 runs (MLflow loads more on a click), the parallel coordinates are drawn
and so are the learning curves; the page when its last chart is drawn. Seconds are from the start of loading, in a
fresh browser profile each time; the median of --times. ``ui``: processes and memory of its server then.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mlflow
import psutil
from playwright.sync_api import sync_playwright

from embsearch.cli.main import main as embsearch
from embsearch.cli.ui import study_address
from embsearch.config.load import compose
from embsearch.history.folder import StudyFolder
from embsearch.track.server import serve, stop

HERE = Path(__file__).parent
LOADED = 100  # runs that MLflow's page loads at once
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def words(home: Path, trials: int) -> list[str]:
    return [f"home={home}", "study=product_search", "study.name=many", "launcher=replay", f"stop.trials={trials}",
            "stop.seconds=null", "track.timeout=60"]  # fmt: skip


def view_seconds(
    playwright: Any, chromium: str, address: str, trials: int
) -> tuple[float, list[str]]:
    """Return the seconds until the saved view is whole, and the requests that would have left the machine."""
    browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
    page = browser.new_page(viewport={"width": 1500, "height": 1400})
    strayed: list[str] = []

    def local_only(route: Any) -> None:
        if route.request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            route.continue_()
        else:
            strayed.append(route.request.url)
            route.abort()

    page.route("**/*", local_only)
    began = time.monotonic()
    page.goto(address)
    page.wait_for_selector(f"text={min(trials, LOADED)} matching runs", timeout=60_000)
    drawn = "document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length > 10"
    page.wait_for_function(
        f"document.body.innerText.includes('val/auc') && {drawn}", timeout=60_000
    )
    page.click("text=What won")  # it answers
    seconds = time.monotonic() - began
    browser.close()
    return seconds, strayed


def page_seconds(playwright: Any, chromium: str, file: Path) -> float:
    browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(file.resolve().as_uri())
    page.wait_for_selector("body[data-drawn]", timeout=60_000)
    seconds: float = page.evaluate("window.drawnAfter") / 1000
    browser.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "pages.json")
    args = parser.parse_args()
    chromium = (
        shutil.which("chromium") or shutil.which("google-chrome") or sys.exit("no Chromium here")
    )
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        for verb in ("search", "sync"):
            if code := embsearch([verb, *words(home, args.trials)]):
                sys.exit(code)
        config = compose(words(home, args.trials))
        server = serve(home, 0)
        try:
            address = study_address(config, server.url) or sys.exit("MLflow has no such study")
            file = StudyFolder(config).page
            with sync_playwright() as playwright:
                views = [
                    view_seconds(playwright, chromium, address, args.trials)
                    for _ in range(args.times)
                ]
                pages = [page_seconds(playwright, chromium, file) for _ in range(args.times)]
            process = psutil.Process(server.pid)
            family = [process, *process.children(recursive=True)]
            ui = {
                "processes": len(family),
                "rss_mb": round(sum(p.memory_info().rss for p in family) / 1e6),
            }
            size = file.stat().st_size
        finally:
            stop(home)
    found = {
        "made_with": {"mlflow": mlflow.__version__, "python": platform.python_version(),
                      "cpus": psutil.cpu_count(logical=True)},
        "trials": args.trials,
        "view_seconds": round(statistics.median(seconds for seconds, _ in views), 2),
        "view_requests_elsewhere": sum(len(strayed) for _, strayed in views),
        "page_seconds": round(statistics.median(pages), 2),
        "page_mb": round(size / 1e6, 2),
        "ui": ui,
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

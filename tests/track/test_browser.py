"""The saved view's format is MLflow's own secret, so a real browser says whether it still works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embsearch.cli.ui import study_address
from embsearch.config.schema import Config
from embsearch.track.server import running


def test_the_deep_link_shows_what_won_without_a_click(page: Any, shown: Config) -> None:
    server = running(Path(shown.home))
    assert server is not None
    page.goto(study_address(shown, server.url))

    page.wait_for_selector("text=Parallel Coordinates", timeout=30_000)
    page.wait_for_selector("text=4 matching runs")
    for title in ("What won", "How it went", "val/auc", "train/loss", "log10 lr vs. objective"):
        assert page.locator(f"text={title}").first.is_visible(), title
    page.wait_for_selector(".js-plotly-plot")
    shown_axes = (
        page.locator("svg.parcoords-svg, svg").filter(has_text="batch_size").first.text_content()
    )
    for axis in ("log10 lr", "batch_size", "loss", "margin", "objective", "triplet", "infonce"):
        assert axis in shown_axes
    lines = page.inner_text("body")
    order = [name for name in lines.split() if name in ("t0000", "t0001", "t0002", "t0003")][:4]
    assert order == ["t0000", "t0003", "t0001", "t0002"]  # 0.95, 0.92, 0.70, none
    assert page.locator("text=best val/auc 0.9500 by t0000, untuned 0.5960").first.is_visible()
    assert page.strayed == []

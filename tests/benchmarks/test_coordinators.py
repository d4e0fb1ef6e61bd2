"""Coordinators that share one PostgreSQL and one MLflow server: the short form of benchmarks/coordinators.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # not a package

from chaos import tracking
from coordinators import PROMISED, run

from embsearch.track import server


def test_coordinators_at_once_are_exact_and_cost_no_more_than_twice_one(tmp_path, pg):
    """CPU, which other work on the machine changes little; wall times are the benchmark's."""
    with tracking(tmp_path / "mlflow") as mlflow:
        servers = {"postgresql": pg.pid, "mlflow": server.running(mlflow.folder).pid}
        found = run(
            tmp_path, pg.address(pg.database()), mlflow.url, servers, trials=20, most=3, seconds=0.0
        )
    assert [found[part]["faults"] for part in ("alone", "shared")] == [[], []]
    assert found["ratio"]["cpu_ms"] <= PROMISED, found

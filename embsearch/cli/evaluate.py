"""embsearch evaluate: a saved encoder, the champion or the untuned one, on the held-out rows."""

from __future__ import annotations

from pathlib import Path

from embsearch.cli.models import chosen
from embsearch.config.schema import Config
from embsearch.data.load import prepare_dataset
from embsearch.report.result import metrics_table


def run(config: Config) -> int:
    """Print every metric of ``checkpoint`` (none: the untuned encoder), also by segment."""
    from embsearch.worker import Worker, use_all_cores

    use_all_cores()
    cache = prepare_dataset(config.data, Path(config.home).expanduser().resolve() / "cache")
    worker = Worker()
    split = "test" if len(worker.dataset(str(cache)).test) else "valid"
    label, model = chosen(config)
    message = worker.evaluate(config, str(cache), split, None if model is None else str(model), full=True)
    metrics_table(label, split, message)
    return 0

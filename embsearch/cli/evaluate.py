"""embsearch evaluate: a saved encoder, the champion or the untuned one, on the held-out rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from embsearch.cli.files import check_output, write_whole
from embsearch.cli.models import chosen
from embsearch.config.schema import Config
from embsearch.data.load import prepare_dataset
from embsearch.registry import looks
from embsearch.report.result import metrics_table
from embsearch.track.digest import digest, manifest


def run(config: Config) -> int:
    """Print every metric of ``checkpoint`` (none: the untuned encoder), also by segment; ``output=``
    keeps them as JSON."""
    output = check_output(config.output, ".json")
    model = chosen(config)
    from embsearch.worker import Worker, use_all_cores

    use_all_cores()
    home = Path(config.home).expanduser().resolve()
    cache = prepare_dataset(config.data, home / "cache")
    worker = Worker()
    split = "test" if len(worker.dataset(str(cache)).test) else "valid"
    message = worker.evaluate(config, str(cache), split, str(model.folder) if model.folder else None, full=True)
    metrics_table(model.label, split, message)
    if model.folder is not None and split == "test":
        rows, by = looks.test_rows(worker.dataset(str(cache))), f"evaluate, {model.label}"
        if warning := looks.warning(looks.look(home, rows, digest(manifest(model.folder)), by)):
            print(f"warning: {warning}")
    if output is not None:
        found = {"model": model.label, "split": split} | {k: message[k] for k in ("metrics", "auc", "segments")}
        write_whole(output, (json.dumps(found, ensure_ascii=False, indent=2) + "\n").encode())
        print(f"{output}: written", file=sys.stderr)
    return 0

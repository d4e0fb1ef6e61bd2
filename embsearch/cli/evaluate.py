"""embsearch evaluate: a saved encoder, the champion or the untuned one, on the held-out rows."""

from __future__ import annotations

import json
import sys

from embsearch.cli.files import check_output, write_whole
from embsearch.cli.models import chosen
from embsearch.config.folders import home_folder
from embsearch.config.options import EvaluateOptions
from embsearch.config.schema import Config
from embsearch.disk import is_read_only
from embsearch.launch.base import encode
from embsearch.registry import test_set_uses
from embsearch.report.result import metrics_table
from embsearch.study.fit_to_data import fit_to_data
from embsearch.tasks.catalogue import task_of
from embsearch.track.digest import digest, manifest
from embsearch.values import PRIMARY


def run(config: Config, options: EvaluateOptions) -> int:
    """Print every metric of ``checkpoint``, also by segment; ``output=`` keeps them as JSON.

    Without ``checkpoint`` it is the untuned encoder.
    """
    output = check_output(options.output, ".json")
    model = chosen(config, options)
    from embsearch.worker import Worker, use_all_cores

    use_all_cores()
    config, _ = fit_to_data(config)
    home = home_folder(config.home)
    cache = task_of(config).prepare(config.data, home / "cache")
    worker = Worker()
    split = "test" if len(worker.dataset(config, str(cache)).test) else "valid"
    folder = str(model.folder) if model.folder else None
    for line in [] if folder else worker.check(config, str(cache)):
        print(line, file=sys.stderr)
    measured = encode(worker.evaluate(config, str(cache), split, folder, full=True))
    metrics_table(model.label, split, measured, task_of(config))
    if model.folder is not None and split == "test":
        rows = test_set_uses.digest_of_rows(task_of(config), worker.dataset(config, str(cache)))
        by = f"evaluate, {model.label}"
        if is_read_only(home):
            warning = f"{home} cannot be written: this look at its test rows is not counted"
        else:
            uses = test_set_uses.note_use(home, rows, digest(manifest(model.folder)), by)
            warning = test_set_uses.warning(uses)
        if warning:
            print(f"warning: {warning}")
    if output is not None:
        scores = {name: measured[name] for name in ("metrics", PRIMARY, "segments")}
        found = {"model": model.label, "split": split} | scores
        write_whole(output, (json.dumps(found, ensure_ascii=False, indent=2) + "\n").encode())
        print(f"{output}: written", file=sys.stderr)
    return 0

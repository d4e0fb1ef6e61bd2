"""embsearch report: the page that explains a study."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from embsearch.cli.files import check_output, write_whole
from embsearch.config.options import ReportOptions
from embsearch.config.schema import Config
from embsearch.errors import UserError
from embsearch.history.folder import StudyFolder
from embsearch.report import vega
from embsearch.report.page import study_page
from embsearch.report.record import Record
from embsearch.report.tested_models import Models, examined
from embsearch.tasks.catalogue import data_again, task_of


def run(config: Config, options: ReportOptions) -> int:
    """Write the page of a study, finished or running, to ``output``.

    Without ``output`` it is report.html in the study's folder. Raises StudyError if the study has
    not been begun.
    """
    output = check_output(options.output, ".html")
    record = Record(StudyFolder(config))
    path = output or record.folder.page
    write_page(record, path)
    print(f"study page: {path}")
    if options.open:
        webbrowser.open(path.resolve().as_uri())
    return 0


def write_page(record: Record, path: Path) -> None:
    """Write the page of a study, whole or not at all."""
    html = study_page(record, models_of(record), vega.script(record.folder.home / "cache"))
    write_whole(path, html.encode())


def models_of(record: Record) -> Models | None:
    """Return the models' scores of each test row.

    What is missing of a finished study is measured again. None, after a line that says why, if it
    cannot be.
    """
    if (
        not record.tested or record.config.launcher.name == "replay"
    ):  # of a replay there is no model
        return None
    cache = record.folder.home / "cache"
    try:
        data = data_again(record.config, cache, record.data)
        found = examined(record, data)
        if missing := [label for label in record.tested if label not in found]:
            folder = task_of(record.config).prepare(record.config.data, cache)
            _examine(record, folder, missing)
            found = examined(record, data)
        return Models(record, data, found)
    except UserError as error:
        print(f"without scores of single rows: {error}")
        return None


def _examine(record: Record, cache: Path, labels: list[str]) -> None:
    from embsearch.worker import Worker, use_all_cores

    use_all_cores()
    worker = Worker()
    for label in labels:
        event = record.tested[label]
        model = None if event.trial is None else record.folder.trial(event.trial) / "model"
        if model is not None and not model.exists():
            raise UserError(f"the model of trial {event.trial} is gone")
        print(f"measuring the {label} on the {event.split} rows", flush=True)
        split, folder = event.split, None if model is None else str(model)
        worker.evaluate(
            record.config, str(cache), split, folder, False, 0, record.folder.tested(label)
        )

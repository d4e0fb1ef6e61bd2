"""embsearch compare: studies side by side, in the terminal and as a page."""

from __future__ import annotations

from collections.abc import Sequence

from embsearch.cli.files import check_output, write_whole
from embsearch.cli.report import models_of
from embsearch.config.options import TakesOutput
from embsearch.config.schema import Config
from embsearch.errors import ConfigError
from embsearch.history.folder import StudyFolder
from embsearch.report import vega
from embsearch.report.compare import Side, comparison_page, show
from embsearch.report.record import Record


def run(configs: Sequence[Config], options: TakesOutput) -> int:
    """Print what the studies found, at what cost and in which spaces; ``output=`` keeps it as a page.

    Raises ConfigError for fewer than two studies, StudyError for one that has not been begun.
    """
    names = [config.study.name for config in configs]
    if len(set(names)) < max(2, len(names)):
        raise ConfigError(
            f"compare: expected two studies or more, each once, as study=a study=b; got {names}"
        )
    output = check_output(options.output, ".html")
    records = [Record(StudyFolder(config)) for config in configs]
    sides = [Side(record, models_of(record)) for record in records]
    show(sides)
    if output is not None:
        page = comparison_page(sides, vega.script(sides[0].record.folder.home / "cache"))
        write_whole(output, page.encode())
        print(f"{output}: written")
    return 0

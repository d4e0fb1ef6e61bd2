"""embsearch card: the facts about a model, as the README that travels with it."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embsearch.cli.files import check_output, write_whole
from embsearch.cli.report import models_of
from embsearch.config.options import CardOptions
from embsearch.config.schema import Config
from embsearch.data.dataset import TaskData
from embsearch.errors import StudyError, UserError
from embsearch.evaluate.examine import Examined
from embsearch.history.folder import StudyFolder
from embsearch.report.card_scores import RowScores
from embsearch.report.model_card import card, chosen
from embsearch.report.record import Record
from embsearch.tasks.catalogue import data_again, task_of


def run(config: Config, options: CardOptions) -> int:
    """Print the card of the study's best model, or of ``trial=N``; ``output=`` writes it."""
    output = check_output(options.output, ".md")
    text = card_of(Record(StudyFolder(config)), options.trial)
    if output is None:
        print(text, end="")
    else:
        write_whole(output, text.encode())
        print(f"{output}: written", file=sys.stderr)
    return 0


def card_of(record: Record, trial: int | None = None) -> str:
    """Return the card with everything that can be measured; a line says why something cannot.

    Raises StudyError if there is no model to describe.
    """
    number = chosen(record, trial).number
    model = record.folder.trial(number) / "model"
    if not (model / "modules.json").exists():
        raise StudyError(
            f"trial={number}: study {record.name} has no model of it in {model.parent}; name another trial"
        )
    with redirect_stdout(sys.stderr):  # standard output is the card's
        found = evidence(record, number, model)
    return card(record, number, found)


def evidence(record: Record, number: int, model: Path) -> RowScores | None:
    """Return the models' scores of single rows; None, after a line that says why they are unknown."""
    try:
        cache = record.folder.home / "cache"
        data = data_again(record.config, cache, record.data)
        if (models := models_of(record)) is None:
            return None
        folder = task_of(record.config).prepare(record.config.data, cache)
        scores = {split: _scores(record, number, model, split, data, folder)
                  for split in ("valid", "test") if len(getattr(data, split))}  # fmt: skip
        return RowScores(data, models, scores)
    except UserError as error:
        print(f"without scores of single rows: {error}")
        return None


def _scores(
    record: Record, number: int, model: Path, split: str, data: TaskData, cache: Path
) -> NDArray[np.float32]:
    """Return (M,) cosines of every row; keep them beside the study's own, for the next card."""
    of_study = (
        label for label, e in record.tested.items() if (e.trial, e.split) == (number, split)
    )
    kept = record.folder.tested(next(of_study, f"trial {number} {split}"))
    with suppress(OSError, ValueError):
        found = Examined.load(kept).answers
        if len(found) == len(getattr(data, split)):
            return found
    from embsearch.worker import Worker, use_all_cores

    use_all_cores()
    print(f"measuring trial {number} on the {split} rows", flush=True)
    Worker().evaluate(record.config, str(cache), split, str(model), False, 0, kept)
    return Examined.load(kept).answers

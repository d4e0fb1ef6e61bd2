"""The Python API: the same program as the command line, for notebooks and scripts.

    import embsearch as es

    study = es.search(frame, "clicks", space="small", stop={"trials": 12})
    study.best, study.trials, study.table(), study.report()
    model = study.promote()
    model.encode_query(["running shoes"])

Keyword arguments are the config's paths, as ``train={"lr": 1e-4}``, and words are those of the
command line, as ``"train.lr=1e-4"``. What ``search`` begins the command line goes on with, and the
other way round. Bad input raises what the command line prints: a ``UserError`` of
``embsearch.errors``.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from embsearch.cli import promote as promotion
from embsearch.cli import search as searching
from embsearch.cli.composition import composed
from embsearch.cli.models import chosen
from embsearch.cli.report import write_page
from embsearch.config import secrets
from embsearch.config.options import Options, TakesModel, TakesTrial, TellsMore
from embsearch.config.schema import Config
from embsearch.config.words import words_of
from embsearch.data.frames import Data, words_of_data
from embsearch.errors import ConfigError, ModelError, StudyError
from embsearch.history.folder import StudyFolder
from embsearch.history.recorded import home_of
from embsearch.history.trial import Trial
from embsearch.report.live import state, summary
from embsearch.report.record import Record
from embsearch.tasks.catalogue import task_of
from embsearch.values import primary_interval

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

O = TypeVar("O", bound=Options)  # noqa: E741  # a verb's class

SHOWN = 20  # trials of a study that a notebook shows


def search(
    data: Data | None = None, /, name: str | None = None, *words: str, **settings: object
) -> Study:
    """Search hyperparameters, and return the study when it has ended. The same call resumes it.

    ``data``: a pandas, polars or Arrow table, a ``datasets.Dataset``, a path or an address, or
    ``{"train": ..., "valid": ..., "test": ...}`` of these; None: those of the study ``name``, which
    then goes on, or of ``study="product_search"``. A table is kept in the home, by its content.

    Raises UserError for bad input, Interrupted after Ctrl-C: the study has stopped cleanly.
    """
    if name is not None and "=" in name:
        raise ConfigError(f"{name}: a name of the study comes before the words of a command")
    home = str(settings.get("home") or home_of(words))
    given = words_of_data(data, home)
    given += _named(name)
    given += words
    given += words_of(settings)
    config, options = _config(given, TellsMore)
    return Study(searching.searched(config, options.verbose).config)


def open(name: str, **settings: object) -> Study:
    """Return a study of the home, running or ended. Raises StudyError where there is none."""
    words = _named(name)
    words += words_of(settings)
    config, _ = _config(words, Options)
    StudyFolder(config).read_locked()
    return Study(config)


def load(model: str, **settings: object) -> SentenceTransformer:
    """Return a model: NAME@ALIAS or NAME/VERSION of the registry, or a folder.

    Its files are those that were registered, and none can run code. Raises ModelError.
    """
    config, _ = _config(words_of(settings), Options)
    return _loaded(config, TakesModel(checkpoint=model))


class Study:
    """A study of a home: what it tried, found and promoted, as its logs say now."""

    def __init__(self, config: Config) -> None:
        self._folder = StudyFolder(config)

    @property
    def name(self) -> str:
        return self._folder.config.study.name

    @property
    def folder(self) -> Path:
        """The folder of its logs, models and page."""
        return self._folder.path

    @property
    def trials(self) -> pd.DataFrame:
        """The trials by number: state, best value of the objective, evaluations reached, texts
        trained on, why it ended, and its configuration by config path. Soups are among them.
        """
        record = Record(self._folder)
        rows = {n: _row(course.trial) for n, course in record.courses.items()}
        found = pd.DataFrame.from_dict(rows, orient="index")
        found.index.name = "trial"
        return found

    @property
    def best(self) -> pd.Series[Any] | None:
        """The winner's row of ``trials``; while the study runs, who is ahead; None before that."""
        best = Record(self._folder).best
        if best is None:
            return None
        return pd.Series(self.trials.loc[best.number])

    def table(self) -> pd.DataFrame:
        """Return the final table: each model's value on the validation rows, and its metrics on the
        test rows with the primary one's 95 % interval.

        Raises StudyError before the study has ended.
        """
        record = Record(self._folder)
        if record.result is None:
            raise StudyError(f"study {self.name}: has not ended; the same search goes on with it")
        primary = task_of(record.config).primary.name
        rows = {}
        for row in record.result["table"]:
            found = primary_interval(row)
            told = {"trial": row["trial"], f"valid {record.objective}": row["validation"]}
            interval = {primary: found.value, "low": found.low, "high": found.high}
            rows[row["label"]] = {**told, **row["test"], **interval}
        return pd.DataFrame.from_dict(rows, orient="index").astype({"trial": "Int64"})

    def report(self) -> Page:
        """Write the study page and return it. A notebook shows it."""
        path = self._folder.page
        write_page(Record(self._folder), path)
        return Page(path)

    def promote(self, trial: int | None = None, **settings: object) -> SentenceTransformer:
        """Make the best trial, or another one, champion, and return its model.

        ``settings``: of the gates, as ``min_gain=0.005``; ``dry_run=True`` changes nothing.
        Raises Refused where a gate refuses; the line of each gate is printed.
        """
        config = self._again(words_of({"promote": settings}))
        promotion.run(config, TakesTrial(trial))
        if config.promote.dry_run:
            return self.model(trial)
        return _loaded(config, CHAMPION)

    def model(self, trial: int | None = None) -> SentenceTransformer:
        """Return the model of the best trial, or of another one. Raises UserError."""
        best = Record(self._folder).best
        if trial is None:
            if best is None:
                raise StudyError(f"study {self.name}: nothing was measured yet")
            trial = best.number
        return _loaded(self._again(), TakesModel(trial=trial))

    def _again(self, words: Sequence[str] = ()) -> Config:
        home = words_of({"home": str(self._folder.home)})
        config, _ = _config([*_named(self.name), *home, *words], Options)
        return config

    def __repr__(self) -> str:
        return f"<{summary(Record(self._folder))}>"

    def _repr_html_(self) -> str:
        line = html.escape(summary(Record(self._folder)))
        return f"<p>{line}</p>{self.trials.head(SHOWN).to_html()}"


@dataclass(frozen=True)
class Page:
    """A study page: a file that needs no network. A notebook shows it."""

    path: Path

    def _repr_html_(self) -> str:
        text = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{text}" width="100%" height="900" style="border: 0"></iframe>'


CHAMPION = TakesModel(checkpoint="champion")


def _row(trial: Trial) -> dict[str, object]:
    told = {"state": state(trial), "value": trial.best, "evaluations": trial.rung}
    return {**told, "texts": trial.texts_seen, "why": trial.why, **trial.params}


def _named(name: str | None) -> list[str]:
    return [] if name is None else words_of({"study": {"name": name}})


def _config(words: Sequence[str], options: type[O]) -> tuple[Config, O]:
    return composed([secrets.without_in_override(word) for word in words], options)


def _loaded(config: Config, options: TakesModel) -> SentenceTransformer:
    """Return the model that ``options`` name, after its files were checked. Raises ModelError."""
    from sentence_transformers import SentenceTransformer

    model = chosen(config, options)
    if model.folder is None:
        raise ModelError(f"{model.label}: expected NAME@ALIAS, NAME/VERSION or a model's folder")
    model.digest()
    return SentenceTransformer(str(model.folder), local_files_only=True)

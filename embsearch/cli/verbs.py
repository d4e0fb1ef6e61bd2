"""The verbs: what each does, and what it takes.

A new verb is an entry here and a module ``embsearch/cli/<verb>.py`` with
``run(config, options) -> int``, imported only when it is used. Its help shows the settings whose
field names it (config/schema.py) and all of its options (config/options.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from embsearch.config.command import quoted
from embsearch.config.options import (
    CardOptions,
    EncodeOptions,
    EvaluateOptions,
    ExportOptions,
    IndexOptions,
    Options,
    QueryOptions,
    ReportOptions,
    ReproduceOptions,
    RollbackOptions,
    StatusOptions,
    TakesModel,
    TakesOutput,
    TakesTrial,
    TellsMore,
    TrainOptions,
    UiOptions,
)
from embsearch.config.settings import declared, settings
from embsearch.errors import ConfigError, did_you_mean


class Verb(NamedTuple):
    name: str  # as typed; may be two words
    does: str
    examples: tuple[str, ...]  # without "embsearch <name>"
    options: type[Options] = Options  # what it takes beside the config
    several: bool = False  # takes several studies; its run gets a list of configs
    free_text: bool = False  # words without '=' are text=
    words: Mapping[str, str] = {}  # typed for an option that Python cannot call so

    @property
    def module(self) -> str:
        return f"embsearch.cli.{self.name.replace(' ', '_')}"

    @property
    def settings(self) -> tuple[str, ...]:
        """Return the paths that its help shows: of the groups, of its own, without a group."""
        shown = [path for path, one in settings().items() if self.name in one.setting.verbs]
        grouped = [path for path in shown if "." in path]
        ungrouped = [path for path in shown if "." not in path]
        return (*grouped, *declared(self.options), *ungrouped)


TAKES_A_VALUE = (
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--package",
    "-p",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
)
VERBS = (
    Verb(
        "search",
        "Search hyperparameters; the same command resumes a study that was cut off.",
        (
            "study=product_search",
            "data.path=clicks.csv study.name=clicks space=small stop.trials=12",
            "study=product_search space.train.lr.high=3e-4 device=cuda launcher.workers=2",
        ),
        TellsMore,
    ),
    Verb(
        "plan",
        "Say before spending how long a search will take here, and whether it fits in memory and on disk.",
        (
            "study=product_search",
            "study=product_search effort=thorough stop.seconds=null",
            "data.path=clicks.csv space=small stop.trials=12 launcher.workers=2",
        ),
        TellsMore,
    ),
    Verb(
        "train",
        "Train one configuration, without a search.",
        (
            "data.path=pairs.csv output=my-model",
            "study=product_search objective=infonce train.lr=1e-4 train.batch_size=64",
            "data.path=pairs.csv train=quick model=bert",
        ),
        TrainOptions,
    ),
    Verb(
        "evaluate",
        "Score a checkpoint, the champion or an untuned encoder on a test split.",
        (
            "study=product_search checkpoint=champion",
            "study=product_search trial=7",
            "data.path=judged.csv checkpoint=./my-model output=scores.json",
        ),
        EvaluateOptions,
    ),
    Verb(
        "status",
        "Say where a study stands: trials, best so far, what is left of the budget.",
        (
            "study=product_search",
            "study=product_search trial=7 --why",
            "study.name=clicks home=/data/embsearch",
        ),
        StatusOptions,
    ),
    Verb(
        "report",
        "Write the page that explains a study: what won, by how much, why, and whether to trust it.",
        (
            "study=product_search",
            "study.name=clicks output=clicks.html --no-open",
        ),
        ReportOptions,
    ),
    Verb(
        "compare",
        "Put studies side by side: what each found, at what cost, in which space.",
        (
            "study.name=clicks study.name=clicks-wide",
            "study=product_search study.name=clicks output=both.html",
        ),
        TakesOutput,
        several=True,
    ),
    Verb(
        "ui",
        "Open MLflow on the comparison that shows what won and why.",
        (
            "",
            "study=product_search port=5001",
            "--no-open",
        ),
        UiOptions,
    ),
    Verb(
        "promote",
        "Make the best checkpoint the champion, only if every gate lets it pass (else exit code 3).",
        (
            "study=product_search",
            "study=product_search --dry-run",
            "study=product_search trial=7 promote.min_gain=0.005",
        ),
        TakesTrial,
    ),
    Verb(
        "rollback",
        "Make the champion before, or a named version, champion again.",
        (
            "study=product_search reason=complaints",
            "study=product_search version=2 reason=agreed --dry-run",
        ),
        RollbackOptions,
    ),
    Verb(
        "history",
        "List every move of the champion: when, from which version, why, by whom.",
        (
            "study=product_search",
            "study.name=clicks home=/data/embsearch",
        ),
    ),
    Verb(
        "registry verify",
        "Check that every champion has the files and the score that were registered.",
        (
            "",
            "track.uri=http://mlflow.example:5000",
        ),
    ),
    Verb(
        "card",
        "Write the card of a model: what it is, how good, trained on what, its limits, how to repeat it.",
        (
            "study=product_search",
            "study=product_search trial=7 output=README.md",
        ),
        CardOptions,
    ),
    Verb(
        "reproduce",
        "Train a trial again from its record; say whether the same comes of it (else exit code 3).",
        (
            "study=product_search trial=7",
            "checkpoint=product_search/1",
            "run=8c1f0c6e4f7d4c2d9a53f3a0a1b2c3d4 tolerance=0.002 output=./again",
        ),
        ReproduceOptions,
    ),
    Verb(
        "data check",
        "Read and split the data; show every fault with file and row, and what the data look like.",
        (
            "data.path=clicks.csv",
            "study=product_search",
            "data=triplets data.path=pairs.csv data.encoding=gb18030 data.columns.anchor=搜索词",
        ),
    ),
    Verb(
        "sync",
        "Bring MLflow, TensorBoard or W&B up to date with a study's event logs, after an outage or anew.",
        (
            "study=product_search",
            "study.name=clicks track.uri=http://mlflow.example:5000",
            "study=product_search track=[tensorboard,wandb]",
        ),
    ),
    Verb(
        "encode",
        "Texts in, vectors out.",
        (
            "checkpoint=champion input=titles.txt output=vectors.npy",
            "checkpoint=./my-model input=titles.txt output=vectors.npy device=cuda",
            "study=product_search trial=7 input=titles.txt output=vectors.jsonl",
            "checkpoint=champion as=query input=queries.txt output=vectors.npy",
        ),
        EncodeOptions,
        words={"as": "role"},
    ),
    Verb(
        "serve",
        "The champion behind HTTP, pinned to its version: MLflow's protocol and OpenAI's.",
        (
            "study=product_search",
            "checkpoint=product_search@champion serve.port=8001",
            "checkpoint=product_search/3 serve.max_rows=64 device=cuda",
        ),
        TakesModel,
    ),
    Verb(
        "export",
        "The champion as a graph that needs no torch, if it is still the same model (else exit code 3).",
        (
            "study=product_search output=champion-onnx",
            "study=product_search checkpoint=product_search/3 format=int8 output=champion-int8",
            "checkpoint=./my-model input=texts.txt format=openvino output=my-model-openvino",
        ),
        ExportOptions,
    ),
    Verb(
        "index",
        "Encode titles once, so that 'embsearch query' finds the nearest ones.",
        (
            "study=product_search output=products.index",
            "checkpoint=product_search/3 input=products.csv data.columns.title=name output=products.index",
        ),
        IndexOptions,
    ),
    Verb(
        "query",
        "The nearest titles of an index; with compare=untuned, before and after tuning side by side.",
        (
            "index=products.index running shoes",
            "index=products.index input=queries.txt k=5 output=found.jsonl",
            "index=products.index study=product_search compare=untuned",
        ),
        QueryOptions,
        free_text=True,
    ),
)


def split_verb(words: Sequence[str]) -> tuple[Verb | None, list[str]]:
    """Return the verb that ``words`` begin with, and the rest. None when they begin with a flag.

    Raises ConfigError for a word that is no verb.
    """
    if not words or words[0].startswith("-"):
        return None, list(words)
    for verb in VERBS:
        length = len(verb.name.split())
        if " ".join(words[:length]) == verb.name:
            return verb, list(words[length:])
    raise ConfigError(_no_such_verb(words))


def by_study(words: Sequence[str]) -> list[list[str]]:
    """Return the words of a command on several studies for each of them.

    Every ``study=`` and ``study.name=`` is one.
    """
    studies: list[tuple[int, str]] = []
    others: list[tuple[int, str]] = []
    for place, word in enumerate(words):
        key, _, _ = word.partition("=")
        kind = studies if key in ("study", "study.name") else others
        kind.append((place, word))
    if not studies:
        return [list(words)]
    commands = []
    for study in studies:
        own = sorted([study, *others])
        commands.append([word for _, word in own])
    return commands


def with_text(words: Sequence[str]) -> list[str]:
    """Return the words, with free ones as ``text=``, quoted as Hydra wants it.

    A word is free that is no override, no flag and no flag's value.
    """
    before = ["", *words]
    free = [
        i
        for i, word in enumerate(words)
        if before[i] not in TAKES_A_VALUE and not re.match(r"-|[\w./@+~]+=", word)
    ]
    if not free:
        return list(words)
    text = " ".join(words[i] for i in free).replace("${", "\\${")
    # in front: argparse takes no more overrides after a flag
    return [f"text={quoted(text)}", *(word for i, word in enumerate(words) if i not in free)]


def completions(typed: Sequence[str], partial: str) -> list[str]:
    """Return the next words of verbs that begin with ``typed``, as far as ``partial`` is already there."""
    done = list(typed)
    heads = (verb.name.split() for verb in VERBS)
    count = len(done)
    following = set()
    for name in heads:
        if name[:count] == done and len(name) > count:
            following.add(name[count])
    return sorted(word for word in following if word.startswith(partial))


def _no_such_verb(words: Sequence[str]) -> str:
    names = [verb.name for verb in VERBS]
    known = f"Verbs: {', '.join(names)}."
    if "=" in words[0]:
        return f"'{words[0]}': the verb comes first, as 'embsearch search {words[0]}'. {known}"
    starts = [name for name in names if name.split()[0] == words[0]]
    if starts:
        two = " ".join(words[:2])
        return f"'{two}' is no verb. Did you mean '{starts[0]}'? {known}"
    return f"'{words[0]}' is no verb.{did_you_mean(words[0], names)} {known}"

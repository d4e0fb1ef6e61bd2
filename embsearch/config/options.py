"""The settings of single verbs: typed as all others are, and no part of a config.

A verb's class names what it takes; ``cli/verbs.py`` says which class is whose. Defaults stand in
``conf/config.yaml`` too, because Hydra composes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from embsearch.config.setting import Room, setting


@dataclass(frozen=True)
class Options(Room):
    """A verb that takes nothing but the config."""


@dataclass(frozen=True)
class TakesInput(Options):
    """A verb that reads texts."""

    input: str | None = setting(
        None, "file of texts, one a line; None: standard input, or what the verb's help says"
    )


@dataclass(frozen=True)
class TakesOutput(Options):
    """A verb that writes where it is told."""

    output: str | None = setting(None, "file to write; train, export, index: folder to write")


@dataclass(frozen=True)
class TakesTrial(Options):
    """A verb about one trial of a study."""

    trial: int | None = setting(None, "a trial's number")


@dataclass(frozen=True)
class TakesCheckpoint(Options):
    """A verb about a saved model."""

    checkpoint: str | None = setting(
        None, "a model folder, champion, NAME@ALIAS or NAME/VERSION of the registry"
    )


@dataclass(frozen=True)
class TakesModel(TakesTrial, TakesCheckpoint):
    """A verb that acts on one model, named in either way."""


@dataclass(frozen=True)
class TellsMore(Options):
    """A verb that can say more."""

    verbose: bool = setting(
        False,
        "search: every decision; status: every trial with its reason; plan: the measured seconds",
    )


@dataclass(frozen=True)
class OpensBrowser(Options):
    """A verb that opens a browser."""

    open: bool = setting(True, "report, ui: open a browser")


@dataclass(frozen=True)
class TrainOptions(TellsMore, TakesOutput):
    """embsearch train."""


@dataclass(frozen=True)
class StatusOptions(TellsMore, TakesTrial):
    """embsearch status."""

    why: bool = setting(False, "status: everything that happened to the trial, with the reasons")


@dataclass(frozen=True)
class EvaluateOptions(TakesOutput, TakesModel):
    """embsearch evaluate."""


@dataclass(frozen=True)
class CardOptions(TakesOutput, TakesTrial):
    """embsearch card."""


@dataclass(frozen=True)
class ReportOptions(OpensBrowser, TakesOutput):
    """embsearch report."""


@dataclass(frozen=True)
class UiOptions(OpensBrowser):
    """embsearch ui."""

    port: int = setting(5000, "ui: the first one tried")


@dataclass(frozen=True)
class RollbackOptions(Options):
    """embsearch rollback."""

    version: int | None = setting(
        None, "rollback: of the registered model; None: the champion before"
    )
    reason: str = setting("", "rollback: why, for the history")


@dataclass(frozen=True)
class ReproduceOptions(TakesOutput, TakesModel):
    """embsearch reproduce."""

    run: str | None = setting(None, "reproduce: the MLflow run of a trial")
    tolerance: float = setting(
        0.005,
        "reproduce: largest difference of evaluate.objective where bits differ; see the guide",
        low=0,
        zero="only the same bits",
        hint="see the guide reproduce",
    )


@dataclass(frozen=True)
class TakesPrompt(Options):
    """A verb that puts a prompt before texts."""

    prompt_name: str | None = setting(
        None,
        "encode, index, query: a prompt of the model by its name, as products_query of a set of "
        "data; null: that of the role",
    )


@dataclass(frozen=True)
class EncodeOptions(TakesPrompt, TakesOutput, TakesInput, TakesModel):
    """embsearch encode."""

    role: Literal["query", "document"] | None = setting(
        None,
        "encode: the prompt before every text, of queries or of documents (as=query is the same); "
        "null: of default_prompt_name, as SentenceTransformer.encode, mostly none",
    )


@dataclass(frozen=True)
class ExportOptions(TakesOutput, TakesInput, TakesModel):
    """embsearch export."""

    format: Literal["onnx", "openvino", "int8"] = setting(
        "onnx", "export: of the graph; int8: ONNX with weights in 8 bits"
    )


@dataclass(frozen=True)
class IndexOptions(TakesPrompt, TakesOutput, TakesInput, TakesModel):
    """embsearch index."""


@dataclass(frozen=True)
class QueryOptions(TakesPrompt, TakesOutput, TakesInput, TakesModel):
    """embsearch query."""

    index: str | None = setting(None, "query: folder that embsearch index wrote")
    text: str | None = setting(None, "query: the text itself, in place of input")
    compare: str | None = setting(
        None, "query: another encoder beside it: untuned, or what checkpoint takes"
    )
    k: int | None = setting(None, "query: titles a text; None: 10, with compare 3", low=1)


# Every class with a setting of its own, in the order in which the reference shows them.
EVERY = (
    TakesInput, TakesOutput, TakesCheckpoint, TakesTrial, RollbackOptions, ReproduceOptions,
    TakesPrompt, EncodeOptions, ExportOptions, QueryOptions, OpensBrowser, UiOptions, TellsMore,
    StatusOptions,
)  # fmt: skip

"""The config as typed, frozen records. Mirrors ``conf/``: a group there is a class here.

Paths into this tree (``train.lr``) are the names that overrides and search spaces use. What is
known of a setting stands beside its field (config/setting.py): its meaning and unit, its range,
whether a search may vary it, whether it belongs to a study's identity, which verbs show it. The
default is the usual choice. A rule that ties settings together is in its class's ``faults``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from embsearch.codec import Json
from embsearch.config.catalogue import OBJECTIVES
from embsearch.config.launchers import LAUNCHERS, LauncherConfig, LocalConfig
from embsearch.config.setting import Room, setting
from embsearch.errors import did_you_mean

SamplerName = Literal["tpe", "random", "grid", "qmc", "gp", "cmaes"]
CostName = Literal["latency", "size", "dimension"]  # config.catalogue.COSTS
Pooling = Literal["keep", "mean", "cls", "max", "lasttoken", "pooler"]

OF_A_STUDY = (
    "search", "plan", "status", "report", "compare", "ui", "promote", "rollback", "history",
    "card", "reproduce", "sync", "encode", "serve", "export", "index", "query",
)  # fmt: skip


def _probability(about: str) -> float:
    return setting(
        0.0, about, low=0, high=1, fault="a probability is between 0 and 1", searchable=True
    )


@dataclass(frozen=True)
class SplitConfig(Room):
    """The split into train, valid and test rows. ``auto``: given where the data say, else by query."""

    by: Literal["auto", "given", "query", "time"] = setting(
        "auto", "the rule that makes the splits", verbs=("data check",)
    )
    valid: float = setting(
        0.15, "share of queries (or of rows in time order)", verbs=("data check",)
    )
    test: float = setting(0.15, "the same for the test rows; 0: none", verbs=("data check",))
    seed: int = setting(0, "salt of the hash that decides by query; another seed, another split")

    def faults(self) -> Iterator[str]:
        """Yield what no range can say."""
        if not (self.valid > 0 and self.test >= 0 and self.valid + self.test < 1):
            shares = f"data.split.valid={self.valid}, data.split.test={self.test}"
            yield f"{shares}: shares must leave rows to train on"


@dataclass(frozen=True)
class DeriveConfig(Room):
    """The derivation of triplets from judgements and click logs: within one query, every pair of
    shown titles whose grades differ by at least ``min_gap`` is a candidate, and the first
    ``per_query`` in the order of a salted hash of the titles are kept (0 keeps all)."""

    per_query: int = setting(8, "triplets kept of one query at most; 0: all", verbs=("data check",))
    min_gap: float = setting(
        1.0, "least difference of grades between positive and negative", verbs=("data check",)
    )
    seed: int = setting(0, "salt of the hash that chooses which are kept")
    relevant_alone: bool = setting(
        True, "relevant titles of a query without an irrelevant one train too, as pairs"
    )


@dataclass(frozen=True)
class FilesConfig(Room):
    """The files of one set of rows, and how they are read."""

    format: Literal["auto", "triplets", "judgements", "clicks", "scored", "classes"] = setting(
        "auto",
        "auto: read off the columns",
        verbs=("search", "plan", "train", "evaluate", "data check"),
    )
    path: str | None = setting(
        None,
        "one file, or a folder that holds train/valid/test files",
        verbs=("search", "plan", "train", "evaluate", "data check"),
    )
    train: str | None = setting(None, "or one file per split: this one to train on")
    valid: str | None = setting(None, "file of the rows by which trials are compared")
    test: str | None = setting(None, "file of the rows that are read once, at the end")
    columns: Mapping[str, str | None] = setting(
        {},
        "our name -> the file's header; null: nothing is read as it",
        verbs=("data check", "index"),
    )
    encoding: str = setting(
        "auto", "auto | utf-8 | gb18030 | any Python codec", verbs=("data check", "index")
    )
    on_bad_row: Literal["error", "drop"] = setting(
        "error",
        "drop: counted, and written to dropped.csv",
        verbs=("search", "plan", "train", "evaluate", "data check"),
    )
    positive_grade: float = setting(
        1.0, "a grade at or above it counts as relevant", verbs=("data check",)
    )
    split: SplitConfig = SplitConfig()
    derive: DeriveConfig = DeriveConfig()


@dataclass(frozen=True)
class PromptsConfig(Room):
    """Texts that stand before a query or a document, blanks included."""

    query: str | None = setting(
        None, "before every query; null: the model folder's own; '': nothing", searchable=True
    )
    document: str | None = setting(
        None, "before every title; null: the model folder's own; '': nothing", searchable=True
    )


@dataclass(frozen=True)
class LoraConfig(Room):
    """Adapters (Hu et al. 2021, arXiv:2106.09685); read with model.adapter=lora alone."""

    rank: int = setting(
        8, "width of an adapter", low=1, hint="usual values are 4 to 64", searchable=True
    )
    alpha: float | None = setting(
        None, "what it adds is times alpha / rank; null: 2 rank", above=0, searchable=True
    )
    dropout: float = setting(0.0, "of what an adapter reads", low=0, below=1, searchable=True)
    targets: str = setting(
        "all",
        "all: every linear layer of attention and feed-forward; or names, as query+value",
        searchable=True,
    )


@dataclass(frozen=True)
class ModelConfig(Room):
    path: str = setting(
        "minilm",
        "minilm (the packaged demo encoder), a folder, or a hub name",
        searchable=True,
        verbs=("search", "train", "evaluate"),
    )
    revision: str | None = setting(None, "hub commit", searchable=True)
    pooling: Pooling = setting(
        "keep",
        "keep: what the pretrained folder says (mean where it says nothing); what follows it stays",
        searchable=True,
    )
    projection: int | None = setting(
        None, "output width of a linear layer after pooling, as 768 -> 256", searchable=True
    )
    normalize: bool = setting(True, "vectors of length 1, also in the saved model", searchable=True)
    freeze_layers: int = setting(
        0,
        "the lowest transformer layers (and the embeddings) to keep fixed, without dropout",
        low=0,
        searchable=True,
    )
    max_length: int | None = setting(
        None, "tokens per text; None: what the encoder can, at most 512", searchable=True
    )
    dropout: float | None = setting(None, "None: what the pretrained config says", searchable=True)
    trust_remote_code: bool = setting(
        False, "true runs code that comes with the weights", searchable=True
    )
    adapter: Literal["none", "lora"] = setting(
        "none",
        "lora: adapters beside fixed weights learn, at rates as 2e-3; needs embsearch[lora]",
        searchable=True,
        verbs=("search", "train"),
    )
    lora: LoraConfig = LoraConfig()
    prompts: PromptsConfig = PromptsConfig()


@dataclass(frozen=True)
class EncoderConfig(ModelConfig):
    """The encoder's settings with the prompts of several sets of data, by the names that a saved
    model has them under: ``products_query``. null: that of the model."""

    set_prompts: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class ObjectiveConfig(Room):
    name: str = setting(
        "auto",
        "the loss; auto: what is usual for the data: infonce, or cosent for scored pairs",
        choices=("auto", *OBJECTIVES),
        searchable=True,
        verbs=("search", "train"),
    )
    margin: float = setting(
        0.3,
        "between cosines; triplet and contrastive only",
        above=0,
        fault="must be above 0, else nothing is learnt",
        searchable=True,
    )
    temperature: float = setting(
        0.05,
        "divides the cosines; of every loss but triplet, contrastive and cosine_mse",
        above=0,
        hint="usual values are 0.01 to 0.1",
        searchable=True,
    )
    symmetric: bool = setting(False, "infonce: titles also choose among queries", searchable=True)

    @property
    def loss(self) -> str:
        """The loss; infonce where the data did not decide otherwise."""
        return "infonce" if self.name == "auto" else self.name

    def faults(self) -> Iterator[str]:
        """Yield why the margin can never be met."""
        if not self.margin <= 2:
            yield (
                f"objective.margin={self.margin}: cosine similarities differ by at most 2, so this "
                "margin can never be met and every triplet pulls for ever; use 0.05 to 0.5"
            )


@dataclass(frozen=True)
class SetObjectiveConfig(Room):
    """The loss of one set's batches; what is null is the study's ``objective``."""

    name: str | None = setting(
        None,
        "null: objective.name, or what is usual for its rows where those cannot learn by it",
        choices=OBJECTIVES,
        searchable=True,
    )
    margin: float | None = setting(None, "null: objective.margin", above=0, high=2, searchable=True)
    temperature: float | None = setting(
        None, "null: objective.temperature", above=0, searchable=True
    )
    symmetric: bool | None = setting(None, "null: objective.symmetric", searchable=True)


@dataclass(frozen=True)
class SetConfig(FilesConfig):
    """One of several sets of data."""

    share: float = setting(
        1.0, "of the batches, against the sum of the sets' shares", above=0, searchable=True
    )
    weight: float = setting(
        1.0, "of its metric in the mean that trials are chosen by, against the sum", above=0
    )
    metric: str = setting(
        "auto", "that counts in the mean; auto: as evaluate.objective=auto for its rows alone"
    )
    objective: SetObjectiveConfig = SetObjectiveConfig()
    prompts: PromptsConfig = PromptsConfig()

    @property
    def files(self) -> DataConfig:
        """The same rows as the data of a study of their own."""
        return DataConfig(**{one.name: getattr(self, one.name) for one in fields(FilesConfig)})


@dataclass(frozen=True)
class DataConfig(FilesConfig):
    """The data: the files of one set, or several sets by name (guide/your-data.md)."""

    sets: Mapping[str, SetConfig] = setting(
        {},
        "name -> a set of its own: path and all that data has, share, weight, metric, "
        "objective, prompts",
        verbs=("search", "plan", "data check"),
    )

    @property
    def named(self) -> list[str]:
        """The files and folders that hold the rows."""
        rooms = self.sets.values() or (self,)
        found = [getattr(room, key) for room in rooms for key in ("path", "train", "valid", "test")]
        return [path for path in found if path]

    def faults(self) -> Iterator[str]:
        """Yield what no range can say."""
        for one in fields(FilesConfig) if self.sets else ():
            if getattr(self, one.name) != getattr(FilesConfig(), one.name):
                yield (
                    f"data.{one.name}: says nothing beside data.sets; say it of a set, as "
                    f"data.sets.{next(iter(self.sets))}.{one.name}=..."
                )
        for name, room in self.sets.items():
            if not re.fullmatch(r"[\w-]+", name):
                yield f"data.sets.{name}: a name has letters, digits, '_' and '-' alone"
            elif not (room.path or room.train):
                full = [other for other, one in self.sets.items() if one.path or one.train]
                yield (
                    f"data.sets.{name}: names no file; give data.sets.{name}.path=..."
                    f"{did_you_mean(name, full)}"
                )


@dataclass(frozen=True)
class AugmentConfig(Room):
    """Changes to the anchor while training, for small data. Probabilities per anchor."""

    drop: float = _probability("delete one word")
    swap: float = _probability("swap two neighbouring words")
    synonym: float = _probability("replace one word from the table")
    synonyms: str | None = setting(
        None, "file: one group of interchangeable words a line, tab-separated", searchable=True
    )

    def faults(self) -> Iterator[str]:
        """Yield what no range can say."""
        if self.synonym > 0 and not self.synonyms:
            yield (
                "train.augment.synonyms: train.augment.synonym is above 0, so name a synonym file"
            )


@dataclass(frozen=True)
class TrainConfig(Room):
    texts: int = setting(
        38_400,
        "the budget: texts shown, three a triplet",
        low=1,
        hint="38400 is 12,800 triplets",
        verbs=("search", "plan", "train"),
    )
    batch_size: int = setting(
        64, "triplets a step", low=1, searchable=True, verbs=("search", "plan", "train")
    )
    lr: float = setting(
        0.0002,
        "AdamW's highest rate, after the warm-up",
        above=0,
        hint="usual values are 1e-5 to 1e-3",
        searchable=True,
        verbs=("search", "train"),
    )
    l2: float = setting(
        0.01,
        "AdamW's decoupled weight decay; none on biases, norms and token rows",
        low=0,
        hint="usual values are 0 to 0.1",
        searchable=True,
        verbs=("search", "train"),
    )
    warmup: float = setting(
        0.1,
        "share of the steps in which the rate rises from 0; at most up to the first evaluation",
        low=0,
        below=1,
        hint="usual values are 0.05 to 0.1",
        searchable=True,
        verbs=("train",),
    )
    warmup_steps: int | None = setting(
        None,
        "the warm-up in steps, in place of the share; null: the share",
        low=0,
        searchable=True,
        verbs=("train",),
    )
    schedule: Literal["linear", "cosine", "constant"] = setting(
        "linear", "of the rate after the warm-up: to 0, or constant", searchable=True
    )
    clip_norm: float = setting(
        1.0, "longest gradient; 0: not clipped", low=0, zero="off", searchable=True
    )
    patience: int = setting(
        0,
        "evaluations without a better objective before the trial ends; 0: never",
        low=0,
        zero="off",
        searchable=True,
    )
    seed: int = setting(
        0,
        "order of the rows, dropout, a new projection, adapters",
        searchable=True,
        verbs=("train",),
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto", "of matrix products; auto: bf16 where the device has it", searchable=True
    )
    devices: int = setting(
        1,
        "that one trial is trained on together; the batch is shared out, the mathematics is the same",
        low=1,
    )
    chunk_tokens: int = setting(
        8192,
        "tokens encoded at once; on a GPU, while gradients are cached",
        low=1,
        searchable=True,
        verbs=("plan",),
    )
    cache_gradients: Literal["auto", "always", "never"] = setting(
        "auto", "less memory, a second forward pass", searchable=True
    )
    augment: AugmentConfig = AugmentConfig()


@dataclass(frozen=True)
class EvaluateConfig(Room):
    objective: str = setting(
        "auto",
        "the validation metric that is maximised; auto: auc, pool_ndcg_10 for pairs alone, "
        "spearman for scored pairs, accuracy for classes",
        verbs=("search",),
    )
    costs: tuple[CostName, ...] = setting(
        (),
        "what shall be low beside it: latency (ms a text), size (MB), dimension; []: nothing",
        verbs=("search", "plan"),
    )
    at: tuple[float, ...] = setting(
        (0.1, 0.25, 0.5, 0.75, 1.0),
        "shares of train.texts at which a trial is measured",
        verbs=("plan",),
    )
    draws: int = setting(2000, "bootstrap draws for the interval of AUC", verbs=("evaluate",))
    pool: bool = setting(
        True, "also rank each query against the whole title pool", verbs=("evaluate",)
    )
    max_rows: int = setting(
        0, "validation rows used during the search, whole queries; 0: all", verbs=("plan",)
    )
    early_error: float = setting(
        0.0,
        "standard error of AUC at a trial's first evaluation, half at each next; 0: all rows",
        low=0,
        below=0.5,
        fault="a standard error of AUC; use 0.01, or 0 to read all rows",
    )

    @property
    def metric(self) -> str:
        """The metric that is maximised; auc where the data did not decide otherwise."""
        return "auc" if self.objective == "auto" else self.objective

    def faults(self) -> Iterator[str]:
        """Yield what no range can say."""
        shares = list(self.at)
        rising = shares == sorted(set(shares)) and all(0 < share <= 1 for share in shares)
        if not (shares and rising and shares[-1] == 1):
            wanted = "must rise within (0, 1] and end with 1.0, as [0.25, 0.5, 1.0]"
            yield f"evaluate.at={shares}: {wanted}"


@dataclass(frozen=True)
class SamplerConfig(Room):
    name: SamplerName = setting("gp", "what suggests the next trial")
    startup_trials: int = setting(0, "random ones before the model is trusted")
    seed: int = setting(0, "another seed, another search")


@dataclass(frozen=True)
class SchedulerConfig(Room):
    name: Literal["none", "median", "asha", "hyperband", "wilcoxon", "promotion"] = setting(
        "promotion", "stops trials early", verbs=("plan",)
    )
    reduction: int = setting(3, "asha, hyperband, promotion: one in this many goes up a rung")
    min_rung: int = setting(1, "evaluations a trial always gets")
    startup_trials: int = setting(4, "median: trials that are never stopped")
    threshold: float = setting(0.1, "wilcoxon: p value")


@dataclass(frozen=True)
class TrackConfig(Room):
    mlflow: bool = setting(
        True,
        "record there; with all three false embsearch sync can build them later from the event logs",
    )
    tensorboard: bool = setting(
        False, "write event files beside the study; needs embsearch[tensorboard]"
    )
    wandb: bool = setting(False, "a W&B run a trial; needs embsearch[wandb]")
    uri: str | None = setting(
        None, "None: sqlite in home", verbs=("ui", "registry verify", "reproduce", "sync")
    )
    experiment: str | None = setting(None, "None: embsearch/<study.task>")
    model_artifacts: Literal["all", "top_k", "best"] = setting(
        "all", "which trials' models MLflow keeps"
    )
    top_k: int = setting(3, "so many, with model_artifacts=top_k")
    timeout: float = setting(10.0, "seconds for one request", verbs=("sync",))
    registered_model: str | None = setting(
        None, "None: <study.task>", verbs=("promote", "rollback", "history")
    )
    wandb_project: str | None = setting(None, "where W&B keeps the runs; None: <study.task>")
    wandb_mode: Literal["offline", "online"] | None = setting(
        None, "None: what W&B decides (WANDB_MODE, its settings)"
    )


@dataclass(frozen=True)
class StopConfig(Room):
    """Limits of the search: it ends at whichever comes first. None: not a reason to stop."""

    trials: int = setting(20, "configurations tried", low=1, verbs=("search", "plan"))
    seconds: float | None = setting(
        None, "of wall clock, all sessions together", verbs=("search", "plan")
    )
    target: float | None = setting(None, "value of evaluate.objective", verbs=("search",))
    gain: float | None = setting(
        None, "that another trial has to promise, by sampler=gp", above=0, verbs=("search",)
    )


@dataclass(frozen=True)
class StudyConfig(Room):
    name: str = setting(
        "default", "its folder in home; the same name goes on with the same study", verbs=OF_A_STUDY
    )
    task: str = setting(
        "default", "one MLflow experiment and one registered model a task", verbs=("search",)
    )
    question: str = setting("", "shown in MLflow", identity=False)
    folder: str | None = setting(None, "where the study's own files lie", identity=False)
    storage: str | None = setting(
        None,
        "Optuna's database: postgresql://user@host/database; None: sqlite in home",
        identity=False,
    )
    defaults: tuple[Json, ...] = setting((), "points tried first, after the plain default")
    like: tuple[str, ...] = setting(
        (), "studies, by name or folder, whose trials say where to begin", verbs=("search",)
    )
    on_drift: Literal["refuse", "extend", "new"] = setting(
        "refuse", "when config or data are not those it began with", identity=False
    )
    max_bugs: int = setting(3, "trials failed by a bug before the study stops", identity=False)
    seeds: int = setting(
        1,
        "so many runs of every trial that goes on from the first rung; their means are compared",
        low=1,
        hint="3 tell luck from gain",
    )


@dataclass(frozen=True)
class ConfirmConfig(Room):
    """After the search the best are trained again with fresh seeds, and the winner is chosen."""

    top_k: int = setting(3, "so many configurations at most; 0: none", low=0, zero="off")
    seeds: int = setting(3, "so many fresh seeds each at most", low=0, zero="off")
    share: float | None = setting(
        0.5,
        "of the texts spent on the search that it may cost; null: whatever top_k x seeds costs",
        above=0,
        fault="must be above 0, or null for no limit; confirm.top_k=0: none",
    )
    winner: Literal["estimate", "value"] = setting(
        "estimate",
        "chosen by what all measurements together say of a trial, or by its own values alone",
    )
    soup: bool = setting(
        True, "the mean of the models of the best configuration's runs is a candidate too"
    )


@dataclass(frozen=True)
class PromoteConfig(Room):
    """Conditions that a candidate must meet on the test rows before it becomes champion."""

    min_gain: float = setting(
        0.0, "the lower end of the interval of the gain in AUC must be above it", verbs=("promote",)
    )
    min_auc: float = setting(
        0.85, "the lower end of a first champion's AUC must reach it", verbs=("promote",)
    )
    max_segment_loss: float = setting(
        0.02, "AUC that no segment may lose to the champion, beyond chance", verbs=("promote",)
    )
    max_leak: float = setting(
        0.0, "share of the test rows that a model may have been trained on", verbs=("promote",)
    )
    max_slowdown: float = setting(
        1.5, "time a text against the champion's, else the untuned encoder's", verbs=("promote",)
    )
    max_growth: float = setting(1.5, "size of the files against the same", verbs=("promote",))
    allow_dim_change: bool = setting(
        False, "whether the vectors may have another width than the champion's", verbs=("promote",)
    )
    licence: str | None = setting(
        None, "of the base model, where its own files do not name it", verbs=("promote",)
    )
    draws: int = setting(
        2000, "bootstrap draws for the intervals", low=100, hint="2000 is usual", verbs=("promote",)
    )
    dry_run: bool = setting(False, "decide and say so, change nothing; also --dry-run")


@dataclass(frozen=True)
class ServeConfig(Room):
    """The address that the server listens on, who may ask, and limits of what is asked."""

    host: str = setting(
        "127.0.0.1", "address it listens on; 0.0.0.0: every one of this machine", verbs=("serve",)
    )
    port: int = setting(
        8000,
        "0: any that is free",
        low=0,
        high=65535,
        fault="expected 0 (any that is free) to 65535",
        verbs=("serve",),
    )
    threads: int = setting(
        0,
        "CPU threads of the encoder; 0: all that this process may use",
        low=0,
        zero="all",
        verbs=("serve",),
    )
    batch: int = setting(
        512,
        "texts of waiting requests encoded together; 1: each request by itself",
        low=1,
        fault="must be at least 1, which is each request by itself",
        verbs=("serve",),
    )
    max_rows: int = setting(
        1024, "texts, or query-title pairs, of one request", low=1, verbs=("serve",)
    )
    max_chars: int = setting(16_384, "characters of one text", low=1, verbs=("serve",))
    max_tokens: int = setting(
        65_536, "tokens of one request, as the model reads them", low=1, verbs=("serve",)
    )
    max_mb: float = setting(4.0, "size of a request's body", above=0, verbs=("serve",))
    max_waiting: int = setting(
        512, "requests that wait at once; beyond it: 429", low=1, verbs=("serve",)
    )
    max_waiting_mb: float = setting(
        64.0, "memory of the requests that wait; beyond it: 429", above=0, verbs=("serve",)
    )
    read_timeout: float = setting(
        20.0,
        "seconds in which a client must send a request, or read an answer; beyond it: 408",
        above=0,
        verbs=("serve",),
    )
    grace: float = setting(
        20.0, "seconds for which SIGTERM lets requests be answered", low=0, verbs=("serve",)
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        "names that requests may call it by, as '*.example.com'; none: those of this machine",
        verbs=("serve",),
    )
    api_key_env: str | None = setting(
        None,
        "variable of the environment with the key that requests must bring; null: none",
        verbs=("serve",),
    )


@dataclass(frozen=True)
class ExportConfig(Room):
    """Limits of what an exported graph may lose against the fp32 model before it is refused."""

    max_auc_loss: float = setting(
        0.002, "AUC on the test rows", low=0, hint="the usual value is 0.002", verbs=("export",)
    )
    min_cosine: float = setting(
        0.99,
        "the least similar vector of a text, against its own in fp32",
        low=-1,
        high=1,
        fault="a cosine is between -1 and 1; usual values are 0.98 to 1",
        verbs=("export",),
    )


@dataclass(frozen=True)
class Config(Room):
    """The whole program's config."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    space: Json = setting({}, "config path -> range or choices: guide/search.md")
    sampler: SamplerConfig = SamplerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    launcher: LauncherConfig = setting(LocalConfig(), "", variants=LAUNCHERS, identity=False)
    track: TrackConfig = setting(TrackConfig(), "", identity=False)
    study: StudyConfig = StudyConfig()
    stop: StopConfig = setting(StopConfig(), "", identity=False)
    confirm: ConfirmConfig = setting(ConfirmConfig(), "", identity=False)
    promote: PromoteConfig = setting(PromoteConfig(), "", identity=False)
    serve: ServeConfig = setting(ServeConfig(), "", identity=False)
    export: ExportConfig = setting(ExportConfig(), "", identity=False)
    home: str = setting(
        ".embsearch",
        "folder that everything is written in; the variable EMBSEARCH_HOME sets it too",
        identity=False,
        verbs=(*OF_A_STUDY, "registry verify"),
    )
    device: str = setting(
        "auto",
        "auto | cpu | cuda | cuda:N",
        identity=False,
        verbs=(
            "search",
            "plan",
            "train",
            "evaluate",
            "reproduce",
            "encode",
            "serve",
            "index",
            "query",
        ),
    )
    seed: int = setting(
        0,
        "of sampler, training and bootstrap, where they have none of their own",
        verbs=("search",),
    )

    @property
    def encoder(self) -> ModelConfig:
        """The encoder's settings, with the prompts of the sets where one has some."""
        found = {
            f"{name}_{role}": getattr(one.prompts, role)
            for name, one in self.data.sets.items()
            for role in ("query", "document")
        }
        if all(prompt is None for prompt in found.values()):
            return self.model
        own = {one.name: getattr(self.model, one.name) for one in fields(ModelConfig)}
        return EncoderConfig(**own, set_prompts=found)

    def faults(self) -> Iterator[str]:
        """Yield what no range can say."""
        if self.stop.gain is not None and self.sampler.name != "gp":
            yield (
                f"stop.gain={self.stop.gain:g}: sampler={self.sampler.name} says nothing of what "
                "to expect; use sampler=gp, or stop.gain=null"
            )
        if self.stop.gain is not None and self.evaluate.costs:
            yield (
                f"stop.gain={self.stop.gain:g}: is of one value, and evaluate.costs="
                f"{list(self.evaluate.costs)} are others; use stop.trials, or stop.gain=null"
            )
        if self.data.sets and self.evaluate.early_error:
            error = self.evaluate.early_error
            yield f"evaluate.early_error={error}: is of the AUC of one set; with data.sets use 0"
        if self.device not in ("auto", "cpu", "cuda") and not self.device.startswith("cuda:"):
            yield f"device={self.device}: expected auto, cpu, cuda or cuda:N"

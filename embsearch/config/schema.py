"""The config as typed, frozen records. Mirrors ``conf/``: a group there is a class here.

Paths into this tree (``train.lr``) are the names that overrides and search spaces use.
A field's comment gives its unit; its default is the field's usual choice, with the source
where one is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Pooling = Literal["keep", "mean", "cls", "max", "lasttoken", "pooler"]


@dataclass(frozen=True)
class SplitConfig:
    """How rows become train, valid and test. ``auto``: given where the data say, else by query."""

    by: Literal["auto", "given", "query", "time"] = "auto"
    valid: float = 0.15  # share of queries (or of rows in time order)
    test: float = 0.15
    seed: int = 0


@dataclass(frozen=True)
class DeriveConfig:
    """How triplets are made of judgements and click logs: within one query, every pair of
    shown titles whose grades differ by at least ``min_gap`` is a candidate, and the first
    ``per_query`` in the order of a salted hash of the titles are kept (0 keeps all)."""

    per_query: int = 8
    min_gap: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class DataConfig:
    format: Literal["auto", "triplets", "judgements", "clicks"] = "auto"
    path: str | None = None  # one file, or a folder that holds train/valid/test files
    train: str | None = None  # or one file per split
    valid: str | None = None
    test: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> the file's header
    encoding: str = "auto"  # auto | utf-8 | gb18030 | any Python codec
    on_bad_row: Literal["error", "drop"] = "error"
    positive_grade: float = 1.0  # a grade at or above it counts as relevant
    split: SplitConfig = field(default_factory=SplitConfig)
    derive: DeriveConfig = field(default_factory=DeriveConfig)


@dataclass(frozen=True)
class ModelConfig:
    path: str = "minilm"  # minilm (the packaged demo encoder), a folder, or a hub name
    revision: str | None = None  # hub commit
    pooling: Pooling = "keep"  # keep: what the pretrained folder says (mean where it says nothing)
    projection: int | None = None  # output width of a linear layer after pooling, as 768 -> 256
    normalize: bool = True
    freeze_layers: int = 0  # the lowest transformer layers (and the embeddings) to keep fixed, without dropout
    max_length: int | None = None  # tokens per text; None: what the encoder can, at most 512
    dropout: float | None = None  # None: what the pretrained config says
    trust_remote_code: bool = False


@dataclass(frozen=True)
class ObjectiveConfig:
    name: Literal["triplet", "contrastive", "infonce", "bce"] = "triplet"
    margin: float = 0.3  # cosine; triplet, contrastive
    temperature: float = 0.05  # infonce, bce
    symmetric: bool = False  # infonce: titles also choose among queries


@dataclass(frozen=True)
class AugmentConfig:
    """Changes to the anchor while training, for small data. Probabilities per anchor."""

    drop: float = 0.0  # delete one word
    swap: float = 0.0  # swap two neighbouring words
    synonym: float = 0.0  # replace one word from the table
    synonyms: str | None = None  # file: one group of interchangeable words a line, tab-separated


@dataclass(frozen=True)
class TrainConfig:
    texts: int = 38_400  # the budget: texts shown, three a triplet
    batch_size: int = 64  # triplets a step
    lr: float = 1e-4
    l2: float = 0.01  # AdamW's decoupled weight decay; none on biases, norms and token rows
    warmup_steps: int = 20
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    clip_norm: float = 1.0
    patience: int = 0  # evaluations without a better objective before the trial ends; 0: never
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    chunk_tokens: int = 8192  # tokens encoded at once
    cache_gradients: Literal["auto", "always", "never"] = "auto"
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class EvaluateConfig:
    objective: str = "auc"  # the validation metric that is maximised
    at: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 1.0)  # shares of train.texts
    draws: int = 2000  # bootstrap
    pool: bool = True  # also rank each test query against the whole title pool
    max_rows: int = 0  # validation rows used during the search, whole queries; 0: all


@dataclass(frozen=True)
class SamplerConfig:
    name: Literal["tpe", "random", "grid", "qmc", "gp", "cmaes"] = "tpe"
    startup_trials: int = 8  # random ones before the model is trusted
    seed: int = 0


@dataclass(frozen=True)
class SchedulerConfig:
    name: Literal["none", "median", "asha", "hyperband", "wilcoxon", "promotion"] = "promotion"
    reduction: int = 3  # asha, hyperband, promotion: one in this many goes up a rung
    min_rung: int = 1  # evaluations a trial always gets
    startup_trials: int = 4  # median: trials that are never stopped
    threshold: float = 0.1  # wilcoxon: p value


@dataclass(frozen=True)
class LauncherConfig:
    name: Literal["inline", "local", "replay"] = "local"
    workers: int = 0  # 0: one a GPU, or on CPU one a core up to 4
    threads: int = 0  # CPU threads a worker; 0: cores divided by workers
    per_gpu: int = 1  # workers that share one GPU
    segment_timeout: float = 3600.0  # seconds without any sign of life before a worker is killed
    grace: float = 20.0  # seconds that running segments get on SIGTERM to save a checkpoint
    curves: str | None = None  # replay: a finished study's folder, or a file of curves; None: synthetic ones
    noise: float = 0.005  # replay, synthetic: standard deviation of one measurement
    trial_seconds: float = 600.0  # replay, synthetic: a whole trial takes, on the virtual clock


@dataclass(frozen=True)
class TrackConfig:
    mlflow: bool = True
    tensorboard: bool = False
    wandb: bool = False
    uri: str | None = None  # None: sqlite in home
    experiment: str | None = None  # None: embsearch/<study.task>
    model_artifacts: Literal["all", "top_k", "best"] = "all"
    top_k: int = 3
    timeout: float = 10.0  # seconds for one request
    registered_model: str | None = None  # None: <study.task>
    wandb_project: str | None = None  # None: <study.task>
    wandb_mode: Literal["offline", "online"] | None = None  # None: what W&B decides


@dataclass(frozen=True)
class StopConfig:
    """When the search ends: whichever comes first. None: not a reason to stop."""

    trials: int = 20
    seconds: float | None = None  # wall clock
    target: float | None = None  # objective reached


@dataclass(frozen=True)
class StudyConfig:
    name: str = "default"
    task: str = "default"  # one MLflow experiment and one registered model a task
    question: str = ""
    folder: str | None = None  # where the study's own files lie
    defaults: tuple[Mapping[str, Any], ...] = ()  # points tried first, after the plain default
    on_drift: Literal["refuse", "extend", "new"] = "refuse"
    max_bugs: int = 3  # failed trials before the study stops
    seeds: int = 1  # so many runs of every trial that goes on from the first rung; their means are compared


@dataclass(frozen=True)
class PromoteConfig:
    min_gain: float = 0.0  # AUC over the untuned encoder and over the champion
    draws: int = 2000
    dry_run: bool = False


@dataclass(frozen=True)
class Config:
    """The whole program's config."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    space: Mapping[str, Any] = field(default_factory=dict)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    promote: PromoteConfig = field(default_factory=PromoteConfig)
    home: str = ".embsearch"
    device: str = "auto"  # auto | cpu | cuda
    seed: int = 0
    # verbs that act on texts or a model rather than on a study
    input: str | None = None
    output: str | None = None
    checkpoint: str | None = None  # a model folder, or champion
    trial: int | None = None
    open: bool = True  # ui: open a browser
    port: int = 5000
    verbose: bool = False  # every decision of the scheduler, as it is made
    why: bool = False  # status: everything that happened to the trial, with the reasons

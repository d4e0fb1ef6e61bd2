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

    by: Literal["auto", "given", "query", "time"] = "auto"  # the rule that makes the splits
    valid: float = 0.15  # share of queries (or of rows in time order)
    test: float = 0.15  # the same for the test rows; 0: none
    seed: int = 0  # salt of the hash that decides by query; another seed, another split


@dataclass(frozen=True)
class DeriveConfig:
    """How triplets are made of judgements and click logs: within one query, every pair of
    shown titles whose grades differ by at least ``min_gap`` is a candidate, and the first
    ``per_query`` in the order of a salted hash of the titles are kept (0 keeps all)."""

    per_query: int = 8  # triplets kept of one query at most; 0: all
    min_gap: float = 1.0  # least difference of grades between positive and negative
    seed: int = 0  # salt of the hash that chooses which are kept


@dataclass(frozen=True)
class DataConfig:
    format: Literal["auto", "triplets", "judgements", "clicks"] = "auto"  # auto: read off the columns
    path: str | None = None  # one file, or a folder that holds train/valid/test files
    train: str | None = None  # or one file per split: this one to train on
    valid: str | None = None  # file of the rows by which trials are compared
    test: str | None = None  # file of the rows that are read once, at the end
    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> the file's header
    encoding: str = "auto"  # auto | utf-8 | gb18030 | any Python codec
    on_bad_row: Literal["error", "drop"] = "error"  # drop: counted, and written to dropped.csv
    positive_grade: float = 1.0  # a grade at or above it counts as relevant
    split: SplitConfig = field(default_factory=SplitConfig)
    derive: DeriveConfig = field(default_factory=DeriveConfig)


@dataclass(frozen=True)
class ModelConfig:
    path: str = "minilm"  # minilm (the packaged demo encoder), a folder, or a hub name
    revision: str | None = None  # hub commit
    pooling: Pooling = "keep"  # keep: what the pretrained folder says (mean where it says nothing)
    projection: int | None = None  # output width of a linear layer after pooling, as 768 -> 256
    normalize: bool = True  # vectors of length 1, also in the saved model
    freeze_layers: int = 0  # the lowest transformer layers (and the embeddings) to keep fixed, without dropout
    max_length: int | None = None  # tokens per text; None: what the encoder can, at most 512
    dropout: float | None = None  # None: what the pretrained config says
    trust_remote_code: bool = False  # true runs code that comes with the weights


@dataclass(frozen=True)
class ObjectiveConfig:
    name: Literal["triplet", "contrastive", "infonce", "bce"] = "triplet"  # the loss
    margin: float = 0.3  # between cosines; triplet and contrastive only
    temperature: float = 0.05  # divides the cosines; infonce and bce only
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
    lr: float = 1e-4  # AdamW's highest rate, after the warm-up
    l2: float = 0.01  # AdamW's decoupled weight decay; none on biases, norms and token rows
    warmup_steps: int = 20  # optimizer steps in which the rate rises from 0
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # of the rate after the warm-up: to 0, or constant
    clip_norm: float = 1.0  # longest gradient; 0: not clipped
    patience: int = 0  # evaluations without a better objective before the trial ends; 0: never
    seed: int = 0  # order of the rows, dropout, a new projection
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of matrix products; auto: bf16 where the device has it
    devices: int = 1  # that one trial is trained on together; the batch is shared out, the mathematics is the same
    chunk_tokens: int = 8192  # tokens encoded at once; on a GPU, while gradients are cached
    cache_gradients: Literal["auto", "always", "never"] = "auto"  # less memory, a second forward pass
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class EvaluateConfig:
    objective: str = "auc"  # the validation metric that is maximised
    at: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 1.0)  # shares of train.texts at which a trial is measured
    draws: int = 2000  # bootstrap draws for the interval of AUC
    pool: bool = True  # also rank each test query against the whole title pool
    max_rows: int = 0  # validation rows used during the search, whole queries; 0: all
    early_error: float = 0.0  # standard error of AUC at a trial's first evaluation, half at each next; 0: all rows


@dataclass(frozen=True)
class SamplerConfig:
    name: Literal["tpe", "random", "grid", "qmc", "gp", "cmaes"] = "tpe"  # what suggests the next trial
    startup_trials: int = 8  # random ones before the model is trusted
    seed: int = 0  # another seed, another search


@dataclass(frozen=True)
class SchedulerConfig:
    name: Literal["none", "median", "asha", "hyperband", "wilcoxon", "promotion"] = "promotion"  # stops trials early
    reduction: int = 3  # asha, hyperband, promotion: one in this many goes up a rung
    min_rung: int = 1  # evaluations a trial always gets
    startup_trials: int = 4  # median: trials that are never stopped
    threshold: float = 0.1  # wilcoxon: p value


@dataclass(frozen=True)
class LauncherConfig:
    name: Literal["inline", "local", "ray", "slurm", "replay"] = "local"  # where trials run; replay: from curves
    workers: int = 0  # 0: one a GPU; local: on CPU one a core up to 4; ray: what fits now; slurm: must be given
    threads: int = 0  # CPU threads a worker; 0: cores divided by workers; ray and slurm: 1
    per_gpu: int = 1  # workers that share one GPU
    segment_timeout: float = 3600.0  # seconds without any sign of life before a worker is killed
    grace: float = 20.0  # seconds that running segments get on SIGTERM to save a checkpoint
    files: Literal["auto", "shared", "store"] = "auto"  # ray: by a folder all nodes see, or its object store
    address: str | None = None  # ray: auto, HOST:PORT, ray://HOST:PORT; None: RAY_ADDRESS, else a new one here
    resources: Mapping[str, float] = field(default_factory=dict)  # ray: custom resources a worker takes
    labels: Mapping[str, str] = field(default_factory=dict)  # ray: of the nodes that may run a worker
    spread: bool = True  # ray: over the nodes; no: fill one after another
    partition: str | None = None  # slurm: where the workers' jobs are queued; None: the default one
    account: str | None = None  # slurm: who is charged
    qos: str | None = None  # slurm: quality of service
    gres: str | None = None  # slurm: of one worker, as gpu:1
    memory: str | None = None  # slurm: of one worker, as 16G
    minutes: int = 240  # slurm: time limit of a worker's job; at its end the checkpoint is saved and the job requeued
    requeues: int = 100  # slurm: how often a job that met its time limit goes on
    sbatch: Mapping[str, str] = field(default_factory=dict)  # slurm: further options of sbatch, by their long names
    setup: tuple[str, ...] = ()  # slurm: shell commands before a worker starts, as module load cuda
    curves: str | None = None  # replay: a finished study's folder, or a file of curves; None: synthetic ones
    noise: float = 0.005  # replay, synthetic: standard deviation of one measurement
    trial_seconds: float = 600.0  # replay, synthetic: seconds of a whole trial, on the virtual clock


@dataclass(frozen=True)
class TrackConfig:
    mlflow: bool = True  # record there; with all three false embsearch sync can build them later from the event logs
    tensorboard: bool = False  # write event files beside the study; needs embsearch[tensorboard]
    wandb: bool = False  # a W&B run a trial; needs embsearch[wandb]
    uri: str | None = None  # None: sqlite in home
    experiment: str | None = None  # None: embsearch/<study.task>
    model_artifacts: Literal["all", "top_k", "best"] = "all"  # which trials' models MLflow keeps
    top_k: int = 3  # so many, with model_artifacts=top_k
    timeout: float = 10.0  # seconds for one request
    registered_model: str | None = None  # None: <study.task>
    wandb_project: str | None = None  # where W&B keeps the runs; None: <study.task>
    wandb_mode: Literal["offline", "online"] | None = None  # None: what W&B decides (WANDB_MODE, its settings)


@dataclass(frozen=True)
class StopConfig:
    """When the search ends: whichever comes first. None: not a reason to stop."""

    trials: int = 20  # configurations tried
    seconds: float | None = None  # of wall clock, all sessions together
    target: float | None = None  # value of evaluate.objective


@dataclass(frozen=True)
class StudyConfig:
    name: str = "default"  # its folder in home; the same name goes on with the same study
    task: str = "default"  # one MLflow experiment and one registered model a task
    question: str = ""  # shown in MLflow
    folder: str | None = None  # where the study's own files lie
    storage: str | None = None  # Optuna's database: postgresql://user@host/database; None: sqlite in home
    defaults: tuple[Mapping[str, Any], ...] = ()  # points tried first, after the plain default
    on_drift: Literal["refuse", "extend", "new"] = "refuse"  # when config or data are not those it began with
    max_bugs: int = 3  # trials failed by a bug before the study stops
    seeds: int = 1  # so many runs of every trial that goes on from the first rung; their means are compared


@dataclass(frozen=True)
class ConfirmConfig:
    """After the search the best are trained again with fresh seeds; the winner is the one with the best mean."""

    top_k: int = 3  # so many configurations at most; 0: none
    seeds: int = 3  # so many fresh seeds each at most
    share: float | None = 0.5  # of the texts spent on the search that it may cost; null: whatever top_k x seeds costs


@dataclass(frozen=True)
class PromoteConfig:
    """What a candidate must show on the test rows before it becomes champion."""

    min_gain: float = 0.0  # the lower end of the interval of the gain in AUC must be above it
    min_auc: float = 0.85  # the lower end of a first champion's AUC must reach it
    max_segment_loss: float = 0.02  # AUC that no segment may lose to the champion, beyond chance
    max_leak: float = 0.0  # share of the test rows that a model may have been trained on
    max_slowdown: float = 1.5  # time a text against the champion's, else the untuned encoder's
    max_growth: float = 1.5  # size of the files against the same
    allow_dim_change: bool = False  # whether the vectors may have another width than the champion's
    licence: str | None = None  # of the base model, where its own files do not name it
    draws: int = 2000  # bootstrap draws for the intervals
    dry_run: bool = False  # decide and say so, change nothing; also --dry-run


@dataclass(frozen=True)
class ServeConfig:
    """What the server listens on, and how much one request may ask of it."""

    host: str = "127.0.0.1"  # address it listens on; 0.0.0.0: every one of this machine
    port: int = 8000  # 0: any that is free
    threads: int = 0  # CPU threads of the encoder; 0: all that this process may use
    batch: int = 512  # texts of waiting requests encoded together; 1: each request by itself
    max_rows: int = 1024  # texts, or query-title pairs, of one request
    max_chars: int = 16_384  # characters of one text
    max_mb: float = 16.0  # size of a request's body
    max_waiting: int = 512  # connections at once; beyond it: 503


@dataclass(frozen=True)
class ExportConfig:
    """What an exported graph may lose against the fp32 model before it is refused."""

    max_auc_loss: float = 0.002  # AUC on the test rows
    min_cosine: float = 0.99  # the least similar vector of a text, against its own in fp32


@dataclass(frozen=True)
class Config:
    """The whole program's config."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    space: Mapping[str, Any] = field(default_factory=dict)  # config path -> range or choices: guide/search.md
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    confirm: ConfirmConfig = field(default_factory=ConfirmConfig)
    promote: PromoteConfig = field(default_factory=PromoteConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    home: str = ".embsearch"  # folder that everything is written in; the variable EMBSEARCH_HOME sets it too
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    seed: int = 0  # of sampler, training and bootstrap, where they have none of their own
    # verbs that act on texts or a model rather than on a study
    input: str | None = None  # file of texts, one a line; None: standard input, or what the verb's help says
    output: str | None = None  # file to write; train, export, index: folder to write
    checkpoint: str | None = None  # a model folder, champion, NAME@ALIAS or NAME/VERSION of the registry
    trial: int | None = None  # a trial's number
    version: int | None = None  # rollback: of the registered model; None: the champion before
    reason: str = ""  # rollback: why, for the history
    run: str | None = None  # reproduce: the MLflow run of a trial
    tolerance: float = 0.005  # reproduce: largest difference of evaluate.objective where bits differ; see the guide
    format: Literal["onnx", "openvino", "int8"] = "onnx"  # export: of the graph; int8: ONNX with weights in 8 bits
    index: str | None = None  # query: folder that embsearch index wrote
    text: str | None = None  # query: the text itself, in place of input
    compare: str | None = None  # query: another encoder beside it: untuned, or what checkpoint takes
    k: int | None = None  # query: titles a text; None: 10, with compare 3
    open: bool = True  # report, ui: open a browser
    port: int = 5000  # ui: the first one tried
    verbose: bool = False  # search: every decision; status: every trial with its reason; plan: the measured seconds
    why: bool = False  # status: everything that happened to the trial, with the reasons

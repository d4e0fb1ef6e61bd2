"""The best checkpoint becomes the champion, if the test rows say so.

Load candidate, champion and untuned encoder; score all on the same held-out rows with the same
code (stored numbers are never trusted); pass every gate or say which one refused; move the
alias; record it. A refusal is recorded too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embsearch.config.build import build
from embsearch.config.schema import Config
from embsearch.data.dataset import Dataset
from embsearch.data.load import prepare_dataset
from embsearch.data.tokenise import cached
from embsearch.errors import EmbsearchError, Refused, StudyError
from embsearch.evaluate.auc import roc_auc
from embsearch.evaluate.bootstrap import auc_gain, auc_interval
from embsearch.evaluate.score import similarity
from embsearch.folder import StudyFolder
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.embed import embed
from embsearch.model.encoder import Encoder
from embsearch.registry import mlflow_registry as registry
from embsearch.track.digest import digest, manifest
from embsearch.track.mirror import study_uid
from embsearch.track.mlflow import MlflowRecorder
from embsearch.values import Interval, ModelVersion, record


@dataclass(frozen=True)
class Gate:
    """One question asked of the candidate. ``gain`` is the paired AUC difference on the test rows."""

    against: str
    their_auc: float
    gain: Interval
    floor: float

    @property
    def passed(self) -> bool:
        return self.gain.low > self.floor

    @property
    def words(self) -> str:
        sign = "above" if self.passed else "not above"
        return (
            f"gain over the {self.against} {self.gain.value:+.4f}, 95 % interval {self.gain.low:+.4f} to "
            f"{self.gain.high:+.4f}: lower end {sign} promote.min_gain={self.floor:g}"
        )


@dataclass(frozen=True)
class Promotion:
    """What promotion found and did. ``version`` is None for a dry run."""

    trial: int
    auc: Interval
    gates: tuple[Gate, ...]
    version: ModelVersion | None
    already: bool = False


def promote(asked: Config) -> Promotion:
    """Promote the best trial of a finished study (or ``trial=N``).

    Raises StudyError where there is nothing to promote, Refused where a gate says no.
    """
    folder = StudyFolder(asked)
    result = folder.result()
    if result is None:
        raise StudyError(
            f"study {asked.study.name} has not ended in {folder.home}; run 'embsearch search' for it first, "
            "or see 'embsearch status'"
        )
    config = build(
        folder.read_locked()["config"] | {"track": _plain(asked)["track"], "home": asked.home, "device": asked.device}
    )
    trial = result["best"] if asked.trial is None else asked.trial
    model = None if trial is None else folder.trial(trial) / "model"
    if model is None or not model.exists():
        raise StudyError(f"study {asked.study.name}: trial {trial} has no model to promote")
    data = Dataset.load(prepare_dataset(config.data, folder.home / "cache"))
    if not data.test.relevant.any() or data.test.relevant.all():
        raise Refused(
            f"study {asked.study.name} has no test rows with relevant and irrelevant titles: nothing proves the "
            "gain; give a test split (data.test=FILE, or data.split.test above 0)"
        )
    MlflowRecorder(config, folder.path, live=False).sync()
    client, name = registry.registry(config), registered_name(config)
    champion = registry.champion(client, name, folder.home / "cache" / "models")
    mine = digest(manifest(model))
    if champion is not None and champion.version.digest == mine:
        scores = _scores(config, data, model, folder)
        auc = auc_interval(scores, data.test.relevant, data.test.query, asked.promote.draws, config.seed)
        return Promotion(trial, auc, (), champion.version, already=True)

    scores = _scores(config, data, model, folder)
    others = {"untuned encoder": _scores(config, data, None, folder)}
    if champion is not None:
        others[f"champion (version {champion.version.version})"] = _scores(config, data, champion.folder, folder)
    rows, draws = data.test, asked.promote.draws
    auc = auc_interval(scores, rows.relevant, rows.query, draws, config.seed)
    gates = tuple(
        Gate(
            against,
            roc_auc(theirs, rows.relevant),
            auc_gain(scores, theirs, rows.relevant, rows.query, draws, config.seed),
            asked.promote.min_gain,
        )
        for against, theirs in others.items()
    )
    refusals = [gate.words for gate in gates if not gate.passed]
    facts = {"trial": trial, "auc": record(auc), "gates": [record(g) | {"passed": g.passed} for g in gates]}
    if asked.promote.dry_run:
        if refusals:
            raise Refused(f"trial {trial} would not be promoted: {'; '.join(refusals)}")
        return Promotion(trial, auc, gates, None)
    with folder.hold():
        if refusals:
            folder.log.append("promoted", refused="; ".join(refusals), **facts)
            MlflowRecorder(config, folder.path, live=False).sync()
            raise Refused(f"trial {trial} is not promoted: {'; '.join(refusals)}")
        version = _apply(client, config, folder, name, trial, mine, champion, facts)
    return Promotion(trial, auc, gates, version)


def registered_name(config: Config) -> str:
    """One registered model a task."""
    return config.track.registered_model or config.study.task


def _apply(
    client: Any, config: Config, folder: StudyFolder, name: str, trial: int, mine: str,
    champion: registry.Champion | None, facts: dict[str, Any],
) -> ModelVersion:  # fmt: skip
    """Register, move the alias, write it down. Safe to repeat after a crash at any point."""
    opened = folder.log_of_kind("opened")[0]
    logged = registry.model_of_trial(client, config, study_uid(opened), trial)
    if logged is None:
        raise EmbsearchError(
            f"MLflow does not have the model of trial {trial} yet; is it reachable (track.uri), and was the trial's "
            "model recorded (track.model_artifacts)? Run the same command again"
        )
    tags = {"embsearch.study": config.study.name, "embsearch.trial": str(trial), "embsearch.data": opened["data"]}
    version = registry.register(client, name, logged.model_id, mine, tags)
    expected = None if champion is None else champion.version.version
    version = registry.move_alias(client, name, version.version, expected, f"study {config.study.name}", trial=trial)
    folder.log.append("promoted", version=record(version), **facts)
    MlflowRecorder(config, folder.path, live=False).sync()
    return version


def _scores(config: Config, data: Dataset, model: Path | None, folder: StudyFolder) -> np.ndarray:
    """(M,) similarity of every test row by a saved model; None: by the untuned encoder."""
    compute = choose(config.device, config.train.precision)
    built = pretrained.build(config.model) if model is None else pretrained.load(model)
    encoder = Encoder(built.to(compute.device))
    cache = prepare_dataset(config.data, folder.home / "cache") / "tokens"
    tokens = cached(data, built.tokenizer, built.max_seq_length or pretrained.LONGEST, cache)
    ids = np.unique(np.concatenate([data.test.text, data.test.title]))
    return similarity(data.test, ids, embed(encoder, tokens, ids, compute))


def _plain(config: Config) -> dict[str, Any]:
    from embsearch.config.build import to_dict

    plain: dict[str, Any] = to_dict(config)
    return plain

"""A candidate before all gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embsearch.registry import gates, leak, promotion_run
from embsearch.registry.candidate import Candidate
from embsearch.registry.evidence import reloaded
from embsearch.registry.files import files
from embsearch.registry.gates import Gate, Rival, Scores
from embsearch.registry.mlflow_registry import Registered
from embsearch.track.digest import manifest
from embsearch.track.mlflow_model import DATA
from embsearch.track.unaltered import check, kept_manifest
from embsearch.values import Interval


@dataclass(frozen=True)
class Examination:
    """What every gate found. ``auc`` is None, and there are no scores, where the model's files forbade to load it."""

    gates: tuple[Gate, ...]
    auc: Interval | None = None
    scores: Mapping[str, Scores] = field(default_factory=dict)  # by model, the candidate's first

    @property
    def refused(self) -> list[Gate]:
        return [gate for gate in self.gates if not gate.passed]


def examine(candidate: Candidate, champion: Registered | None, artifacts: Path) -> Examination:
    """Ask every gate. ``artifacts``: what MLflow would load."""
    whole = files(candidate.model, candidate.recorded | {"MLflow": kept_manifest(artifacts)})
    logged = files(artifacts / DATA, {"the study's folder": manifest(candidate.model)})
    if not (whole.passed and logged.passed):
        return Examination(tuple(gate for gate in (whole, logged) if not gate.passed))
    if champion is not None:
        check(champion.folder, champion.version.digest)
    asked, config, judge = candidate.asked.promote, candidate.config, candidate.judge
    mine, untuned = judge(candidate.model), judge(None)
    rivals, theirs = [Rival("untuned encoder", untuned.scores)], untuned
    if champion is not None:
        theirs = judge(champion.folder)
        rivals.append(Rival(f"champion (version {champion.version.version})", theirs.scores, champion=True))
    found = (
        *gates.by_quality(candidate.data.test, mine.scores, rivals, asked, config.seed),
        gates.dimension(mine.width, theirs.width if champion else None, asked),
        gates.speed(judge.slowdown(mine, theirs), mine.size / theirs.size, rivals[-1].label, asked),
        gates.reload(reloaded(candidate.model, artifacts, judge.sample(), config.device)),
        whole,
        gates.data(candidate.opened["data"], candidate.data.fingerprint, _code(candidate.opened)),
        gates.leak(_seen(candidate, champion), asked),
        gates.licence(candidate.licence, config.model.path),
    )
    scores = {"candidate": mine.scores} | {rival.label: rival.scores for rival in rivals}
    return Examination(found, candidate.auc(mine), scores)


def _code(opened: Mapping[str, Any]) -> str:
    """The version of embsearch that made the study, and its commit where it ran from a repository."""
    environment = opened.get("environment") or {}
    version = str((environment.get("packages") or {}).get("embsearch") or "")
    commit = environment.get("git_commit") or ""
    return f"{version} ({commit[:12]})" if version and commit else version


def _seen(candidate: Candidate, champion: Registered | None) -> dict[str, float | None]:
    """The share of the test rows that each model was trained on."""
    data = candidate.data
    seen: dict[str, float | None] = {"candidate": leak.share_seen(data, leak.trained_on(data))}
    if champion is not None:
        pairs = promotion_run.trained_on(candidate.client, champion.tags.get(promotion_run.TAG))
        seen["champion"] = None if pairs is None else leak.share_seen(data, pairs)
    return seen

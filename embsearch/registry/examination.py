"""A candidate before all gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embsearch.history.events import Opened
from embsearch.history.final_table import label_of
from embsearch.registry import gates, leak
from embsearch.registry.candidate import Candidate, recorded_files
from embsearch.registry.evidence import training_rows, verified
from embsearch.registry.file_gate import files_gate
from embsearch.registry.gates import Gate, Rival
from embsearch.registry.judge import reload_differences
from embsearch.registry.mlflow_registry import Registered
from embsearch.tasks.base import Answers
from embsearch.track.digest import manifest
from embsearch.track.mlflow_model import DATA
from embsearch.track.unaltered import kept_manifest
from embsearch.values import Interval


@dataclass(frozen=True)
class Examination:
    """The answers of all gates, and the candidate's primary metric on the test rows.

    ``interval`` is None, and ``answers`` are empty, where the model's files forbade to load it.
    """

    gates: tuple[Gate, ...]
    interval: Interval | None = None
    answers: Mapping[str, Answers] = field(default_factory=dict)  # by model, the candidate's first

    @property
    def refused(self) -> list[Gate]:
        return [gate for gate in self.gates if not gate.passed]


def examine(candidate: Candidate, champion: Registered | None, artifacts: Path) -> Examination:
    """Ask every gate. ``artifacts``: what MLflow would load."""
    whole = files_gate(candidate.model, candidate.recorded | {"MLflow": kept_manifest(artifacts)})
    logged = files_gate(artifacts / DATA, {"the study's folder": manifest(candidate.model)})
    if not (whole.passed and logged.passed):
        return Examination(tuple(gate for gate in (whole, logged) if not gate.passed))
    if champion is not None:
        verified(candidate.asked, champion)
    asked, config, judge = candidate.asked.promote, candidate.config, candidate.judge
    mine, untuned = judge(candidate.model), judge(None)
    rivals, theirs = [Rival("untuned encoder", untuned.answers)], untuned
    if champion is not None:
        theirs = judge(champion.folder)
        rivals.append(
            Rival(f"champion (version {champion.version.version})", theirs.answers, champion=True)
        )
    found = (
        *gates.quality_gates(
            candidate.task, candidate.rows, mine.answers, rivals, asked, config.seed
        ),
        *([] if champion else _against_given(candidate, mine.answers)),
        gates.moved_gate(mine.vectors, untuned.vectors),
        gates.dimension_gate(mine.width, theirs.width if champion else None, asked),
        gates.speed_gate(
            judge.slowdown(mine, theirs), mine.size / theirs.size, rivals[-1].label, asked
        ),
        gates.reload_gate(
            reload_differences(candidate.model, artifacts, judge.sample(), config.device)
        ),
        whole,
        gates.data_gate(candidate.opened.data, candidate.data.fingerprint, _code(candidate.opened)),
        _leak_gate(candidate, champion),
        gates.licence_gate(candidate.licence, candidate.model_config.path),
    )
    answers = {"candidate": mine.answers} | {rival.label: rival.answers for rival in rivals}
    return Examination(found, candidate.interval(mine), answers)


def _against_given(candidate: Candidate, mine: Answers) -> list[Gate]:
    """Return the gate by which a first champion meets the best point that its study was given."""
    given, trial = candidate.best_given, candidate.state.trials[candidate.trial]
    if given is None:
        return []
    if trial.given:
        return [Gate("given", True, f"it is the {label_of(trial)}: no search has to be proved")]
    label, model = label_of(given), candidate.folder.trial(given.number) / "model"
    whole = files_gate(model, recorded_files(candidate.folder, given.number))
    if not whole.passed:
        words = f"the {label} (trial {given.number}) cannot be judged: {whole.words}"
        return [Gate("given", False, words)]
    rival = Rival(label, candidate.judge(model).answers)
    asked, seed = candidate.asked.promote, candidate.config.seed
    return [gates.given_gate(candidate.task, candidate.rows, mine, rival, asked, seed)]


def _code(opened: Opened) -> str:
    """Return the version of embsearch that made the study, and its commit where it ran from a
    repository.
    """
    environment = opened.environment
    version = str((environment.get("packages") or {}).get("embsearch") or "")
    commit = environment.get("git_commit") or ""
    return f"{version} ({commit[:12]})" if version and commit else version


def _leak_gate(candidate: Candidate, champion: Registered | None) -> Gate:
    """Ask for the share of the test rows that each model was trained on."""
    task, data = candidate.task, candidate.data
    seen = {"candidate": leak.share_seen(task, data, task.training_keys(data))}
    if champion is None:
        return gates.leak_gate(seen, candidate.asked.promote)
    keys, amiss = training_rows(candidate.asked, candidate.client, champion)
    seen["champion"] = None if keys is None else leak.share_seen(task, data, keys)
    return gates.leak_gate(seen, candidate.asked.promote, amiss, keys is None)

"""The best checkpoint becomes the champion, if the test rows say so.

Load candidate, champion and untuned encoder; score all on the same held-out rows with the same
code (stored numbers are never trusted); ask every gate; move the alias, or say which gates
refused; record it either way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embsearch.codec import JsonObject
from embsearch.config.schema import Config
from embsearch.disk import file_lock
from embsearch.history import events
from embsearch.history.folder import StudyFolder
from embsearch.registry import (
    alias_history,
    evidence,
    journal,
    own_copy,
    promotion_run,
    test_set_uses,
    trained_rows,
)
from embsearch.registry import mlflow_registry as registry
from embsearch.registry.candidate import Candidate
from embsearch.registry.examination import Examination, examine
from embsearch.values import ModelVersion, record

LONGEST = 4900  # characters of a description; MLflow's column has 5,000
Card = Callable[[StudyFolder, int], str]  # of a study's trial, in Markdown


@dataclass(frozen=True)
class ChampionDecision:
    """The outcome of a promotion. ``version`` is None where a gate refused, and for a dry run."""

    trial: int
    found: Examination
    version: ModelVersion | None = None
    warning: str = ""
    already: bool = False


def promote(
    asked: Config, trial: int | None, card: Card = lambda folder, trial: ""
) -> ChampionDecision:
    """Promote a trial of a finished study; None: the best.

    ``card`` writes the version's description.

    Raises StudyError where there is nothing to promote, Refused where there are no rows to prove it
    by.
    """
    folder = StudyFolder(asked)
    with file_lock(
        folder.home / "registry.lock"
    ):  # one promotion after the other, the next against its champion
        candidate = Candidate.of(asked, folder, trial)
        trial, client = candidate.trial, candidate.client
        champion = registry.champion(client, candidate.name, candidate.models)
        if champion is None:
            evidence.refuse_missing_champion(asked, client, candidate.name)
        if champion is not None and champion.version.digest == candidate.digest:
            if asked.promote.dry_run:
                return ChampionDecision(
                    trial, _judged_again(candidate), champion.version, already=True
                )
            return _already(candidate, champion.version, card)

        model = candidate.logged_model()
        artifacts = registry.artifacts_of(client, model, candidate.models)
        found = examine(candidate, champion, artifacts)
        warning = test_set_uses.warning(candidate.note_test_use())
        if asked.promote.dry_run:
            return ChampionDecision(trial, found, None, warning)
        with folder.hold():
            run = promotion_run.keep(candidate, found)
            if found.refused:
                reasons = "; ".join(f"{gate.name}: {gate.words}" for gate in found.refused)
                refused = events.Promoted(refused=reasons, gates=_plain(found), run=run)
                candidate.note(refused)
                return ChampionDecision(trial, found, None, warning)
            assert found.interval is not None, "a model that was not loaded is refused"
            value = found.interval.value
            version = _apply(candidate, model.model_id, artifacts, champion, value, run)
            candidate.note(events.Promoted(version=record(version), gates=_plain(found), run=run))
        _describe(candidate, version, card)
    return ChampionDecision(trial, found, version, warning)


def _apply(
    candidate: Candidate,
    model_id: str,
    artifacts: Path,
    champion: registry.Registered | None,
    scored: float,
    run: str,
) -> ModelVersion:
    """Register and move the alias. Safe to repeat after a crash at any point."""
    client, name, study, trial = (
        candidate.client,
        candidate.name,
        candidate.config.study.name,
        candidate.trial,
    )
    keys = candidate.task.training_keys(candidate.data)
    tags = {
        registry.scored_tag(candidate.task.primary.name): str(scored),
        "embsearch.study": study,
        "embsearch.trial": str(trial),
        "embsearch.data": candidate.opened.data,
        "embsearch.licence": candidate.licence or "",
        trained_rows.TAG: run,
        trained_rows.DIGEST: trained_rows.digest_of(trained_rows.content_of(keys)),
    }
    source = own_copy.keep(candidate.config, artifacts, candidate.digest)
    version = registry.register(client, name, model_id, candidate.digest, tags, source)
    expected = None if champion is None else champion.version.version
    reason = f"promoted: study {study}, trial {trial}"
    return alias_history.move_champion(
        client, name, version.version, expected, reason, study=study, trial=trial, run=run
    )


def _describe(candidate: Candidate, version: ModelVersion, card: Card) -> None:
    """Give the version its card, which names it and so is written last, where it has none yet; note
    in the home what the registry has now.
    """
    if not candidate.client.get_model_version(version.name, str(version.version)).description:
        text = card(candidate.folder, candidate.trial)
        if len(text) > LONGEST:  # whole sections of it
            text = text[:LONGEST].rpartition("\n## ")[0] + "\nThe rest of it: 'embsearch card'.\n"
        candidate.client.update_model_version(version.name, str(version.version), text)
    journal.note(candidate.config, candidate.client, version.name, version.version)


def _already(candidate: Candidate, version: ModelVersion, card: Card) -> ChampionDecision:
    """Return the decision about a model that is champion.

    Write down what a killed promotion has not.
    """
    alias_history.settle_last_move(candidate.client, candidate.name)
    study, number = candidate.config.study.name, version.version
    run = None  # of the last promotion of this version, where it was of this study
    for move in alias_history.history(candidate.client, candidate.name):
        if move["version"] == number and move.get("study") == study:
            run = move.get("run")
    noted = candidate.folder.of_kind(events.Promoted)
    of_version = [event for event in noted if event.version and event.version["version"] == number]
    if not any(not run or event.run in (None, run) for event in of_version):
        with candidate.folder.hold():
            candidate.note(events.Promoted(version=record(version), run=run))
    _describe(candidate, version, card)
    return ChampionDecision(candidate.trial, _judged_again(candidate), version, already=True)


def _judged_again(candidate: Candidate) -> Examination:
    return Examination((), candidate.interval(candidate.judge(candidate.model)))


def _plain(found: Examination) -> list[JsonObject]:
    return [record(gate) for gate in found.gates]

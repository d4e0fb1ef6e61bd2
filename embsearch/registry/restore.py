"""The registry as a view: what a home's logs know of registered models, made again in its MLflow.

Versions come back under their numbers, with tags, cards, aliases and history, from the ``promoted``
events of every study and the home's journal, their files from whichever copy is whole. One whose
files are gone comes back too: it keeps its number, is named, and refuses to load. Only the database
of the home is restored, and only models that it does not know: a version that somebody deleted
there stays deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from embsearch.codec import JsonObject
from embsearch.config.build import build
from embsearch.config.folders import home_folder
from embsearch.config.schema import Config
from embsearch.disk import file_lock
from embsearch.errors import UserError
from embsearch.history import events
from embsearch.history.events import Registered
from embsearch.history.folder import StudyFolder, holder
from embsearch.registry import alias_history, own_copy, promotion_run, trained_rows
from embsearch.registry import mlflow_registry as registry
from embsearch.registry.evidence import Noted, promotions
from embsearch.registry.journal import Journal
from embsearch.registry.origin import Origin
from embsearch.track.mirror import study_uid
from embsearch.track.mlflow import MlflowRecorder
from embsearch.track.mlflow_model import DATA, DIGEST, local_path
from embsearch.track.mlflow_store import artifact_root, own_database

if TYPE_CHECKING:
    from embsearch.values import ModelVersion


def restore(config: Config, all_runs: bool = False) -> tuple[list[str], list[str]]:
    """Bring the registry of this home to what its logs say. A server's is left alone.

    ``all_runs``: the database is new, so the runs of every study come back too. Return what was
    done, and what cannot be had any more.
    """
    if own_database(config) is None:
        return [], []
    with file_lock(home_folder(config.home) / "registry.lock"):
        work = _Restoration(config)
        work.run(all_runs)
    return work.done, work.lost


class _Known:
    """The registered models as logs and journal have them."""

    def __init__(self, config: Config) -> None:
        self.journal = Journal(config)
        self._promotions = promotions(config)

    @property
    def names(self) -> set[str]:
        return {*self.journal.versions, *(one.name for one in self._promotions)}

    def versions(self, name: str) -> dict[int, Registered]:
        """Return each version; a number that was given twice is the later model's."""
        found = dict(self.journal.versions[name])
        every = [one for one in self._promotions if one.name == name]
        again = [one for one in every if one.event.run]  # others were champion already
        promoted = {one.version: one for one in (*every, *again)}
        for number, one in promoted.items():
            if number not in found or _is_other(found[number], one):
                found[number] = Registered(name=name, version=number, tags=_tags_of(one))
        return found

    def moves(self, name: str) -> dict[int, JsonObject]:
        """Return the history's entries by number. Promotions that the journal does not have follow
        after those that it has.
        """
        found = dict(self.journal.moves[name])
        noted = [entry for entry in found.values() if entry["state"] != "given up"]
        champion = alias_history.aliases_after(found).get(registry.CHAMPION)
        for one in self._promotions:
            if one.name == name and not any(_is_of(entry, one) for entry in noted):
                found[max(found, default=-1) + 1] = {
                    "time": one.event.time,
                    "version": one.version,
                    "before": champion,
                    "reason": f"promoted: study {one.study}, trial {one.event.trial}",
                    "study": one.study,
                    "trial": one.event.trial,
                    "run": one.event.run,
                    "state": "moved",
                }
                champion = one.version
        return found


def _is_other(known: Registered, one: Noted) -> bool:
    """Return whether a promotion is not the one that gave a version its tags, but a later one."""
    later = one.event.time > known.time and one.event.run not in (
        None,
        known.tags.get(trained_rows.TAG),
    )
    return later or known.tags[DIGEST] != one.digest


def _is_of(entry: JsonObject, one: Noted) -> bool:
    """Return whether an entry of the history is the move of a promotion: the same version may be
    promoted again.
    """
    if not one.event.run:  # noted of a model that was champion already
        return bool(entry["version"] == one.version)
    promoted = entry["reason"].startswith("promoted")
    run = entry.get("run", one.event.run)  # older embsearch named none
    return bool(entry["version"] == one.version and promoted and run == one.event.run)


def _tags_of(one: Noted) -> dict[str, str]:
    """Return a version's tags as far as the log of its study has them."""
    tags = {
        DIGEST: one.digest,
        "embsearch.study": one.study,
        "embsearch.trial": str(one.event.trial),
        "embsearch.data": one.data,
        trained_rows.TAG: one.event.run or "",
    }
    for gate in one.event.gates:
        if gate["name"] == "gain":
            (theirs,) = [key for key in gate["facts"] if key.startswith("their_")]
            value = gate["facts"][theirs] + gate["facts"]["gain"]["value"]
            tags[registry.scored_tag(theirs.removeprefix("their_"))] = str(value)
    return tags


def _studies(config: Config) -> Iterator[StudyFolder]:
    """Yield the studies of this home whose record is in its own MLflow."""
    home = home_folder(config.home)
    for log in sorted((home / "studies").glob("*/events.jsonl")):
        folder = StudyFolder(replace(config, study=replace(config.study, name=log.parent.name)))
        try:
            began = build(folder.read_locked()["config"] | {"home": config.home})
            recorded = began.track.mlflow or bool(folder.of_kind(events.Promoted))
            if recorded and own_database(began) is not None and folder.of_kind(events.Opened):
                yield StudyFolder(began)
        except UserError:
            continue  # its own sync says why


class _Restoration:
    """A restoration under way: what was done, and what is lost, a line each."""

    def __init__(self, config: Config) -> None:
        self.done: list[str] = []
        self.lost: list[str] = []
        self._config, self._client = config, registry.registry(config)
        self._known = _Known(config)
        self._studies = {study.config.study.name: study for study in _studies(config)}
        self._runs: dict[str, str] = {}  # of promotions: the new id by the old

    def run(self, all_runs: bool) -> None:
        client = self._client
        missing = [name for name in self._known.names if not registry.is_there(client, name)]
        if missing or all_runs:
            for study in self._studies.values():
                self._restore_runs(study)
        for name in sorted(missing):
            self._restore_model(name)
        for model in client.search_registered_models(max_results=1000):
            for version in registry.versions(client, model.name):
                self._mend_files(version, again=model.name in missing)
            self._known.journal.note(client, model.name)

    def _restore_runs(self, study: StudyFolder) -> None:
        """Bring back a study's runs and those of its promotions."""
        name = study.config.study.name
        live = bool(holder(study.path / "lock"))
        recorder = MlflowRecorder(study.config, study.path, live)
        if recorder.sync():
            self.lost.append(f"study {name} is not wholly in MLflow yet: {recorder.problem}")
            return
        uid = study_uid(study.of_kind(events.Opened)[0])
        for before, event in enumerate(study.of_kind(events.Promoted)):
            if event.run and event.trial is not None:
                of = Origin(name, event.trial, uid)
                new = promotion_run.restore(self._client, study.config, of, before, event)
                self._runs[event.run] = new

    def _restore_model(self, name: str) -> None:
        """Make a registered model again. A kill in between is gone on with by the next call."""
        client = self._client
        known = self._known.versions(name)
        moves = self._known.moves(name)
        tags = {f"{alias_history.HISTORY}{n}": alias_history.text_of(e) for n, e in moves.items()}
        registry.ensure_registered_model(client, name, {registry.RESTORING: "true", **tags})
        there = {one.version for one in registry.versions(client, name)}
        last = max([*known, *(entry["version"] for entry in moves.values())])
        for number in range(1, last + 1):  # MLflow counts them itself
            one = known.get(number)
            if one is None:
                one = Registered(name=name, version=number, tags={})
                self.lost.append(
                    f"{name}/{number}: no log of this home knows it, so it has no files"
                )
            if number not in there:
                self._create(one)
            if one.text:
                client.update_model_version(name, str(number), one.text)
        for alias, number in alias_history.aliases_after(moves).items():
            client.set_registered_model_alias(name, alias, str(number))
        client.delete_registered_model_tag(name, registry.RESTORING)
        self.done.append(f"registered model {name}: made again, {last} versions")

    def _create(self, one: Registered) -> None:
        tags = dict(one.tags)
        run = model = None
        was = tags.get(trained_rows.TAG, "")
        trial = tags.get("embsearch.trial", "")
        tags[trained_rows.TAG] = self._runs.get(was, was)
        study = self._studies.get(tags.get("embsearch.study", ""))
        if study is not None and trial.isdigit():
            uid = study_uid(study.of_kind(events.Opened)[0])
            logged = registry.model_of_trial(self._client, study.config, uid, int(trial))
            if logged is not None and logged.tags.get(DIGEST) == tags[DIGEST]:
                run = logged.source_run_id
                model = logged.model_id
        source = own_copy.place_of(self._config, tags.get(DIGEST, "unknown")).as_uri()
        self._client.create_model_version(one.name, source, run, tags, model_id=model)

    def _mend_files(self, version: ModelVersion, again: bool) -> None:
        """Make a version's files again where they are damaged, gone, or not a copy of their own."""
        name, number = version.name, version.version
        label = f"{name}/{number}"
        place = local_path(self._client.get_model_version_download_uri(name, str(number)))
        root = artifact_root(home_folder(self._config.home))
        known = self._known.versions(name).get(number)
        if known is None or place is None or root not in place.parents:
            return
        sha = known.tags[DIGEST]
        encoder: Path | None = place / DATA
        words = "its files are a copy of their own now"
        if not own_copy.is_whole(place / DATA, sha):
            encoder = own_copy.whole_copy(self._config, known.tags)
            words = f"its files were gone or damaged; copied from {encoder}"
        elif not own_copy.is_shared(place / DATA):
            return
        if encoder is not None:
            own_copy.make(place, encoder, sha)
            self.done.append(f"{label}: {words}")
            return
        where = ", ".join(map(str, own_copy.places(self._config, known.tags)))
        say = self.lost if again or version.aliases else self.done
        say.append(
            f"{label}: its files (sha256 {sha[:12]}) are gone or damaged; looked in {where}. "
            "Put them back from a copy and run the same command again"
        )

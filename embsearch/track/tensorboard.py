"""TensorBoard as a view of the event logs: a folder a trial, and one of the study.

    <study folder>/tensorboard/study/   the study's curve, its tests, the searched space;
                                        once it has ended, the embedding projector
    <study folder>/tensorboard/t0007/   every point of trial 7, its parameters, why it ended

Each process begins from the logs. Every point is there once, whatever an earlier one has left.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from embsearch.config.folders import home_folder
from embsearch.config.schema import Config
from embsearch.disk import file_lock
from embsearch.errors import UserError
from embsearch.track import tensorboard_events as events
from embsearch.track.follower import Followed, Follower, Logs, one_line
from embsearch.track.mirror import StudyMirror, validation
from embsearch.track.tensorboard_events import EventFile


@dataclass
class _Trial(Followed):
    file: EventFile | None = None
    closed: bool = False  # its end is in the file


class TensorBoardRecorder(Follower):
    """The follower that keeps the event files of one study up to date."""

    view = "TensorBoard"

    def __init__(self, config: Config, study_folder: Path) -> None:
        super().__init__()
        self._config, self._folder = config, study_folder
        self._root = study_folder / "tensorboard"
        self._token = uuid.uuid4().hex
        self._begin()

    def _begin(self) -> None:
        """Begin from the logs, as if nothing was written."""
        self._logs = Logs(self._folder, validation(self._config.evaluate.metric), _Trial)
        self._study_file: EventFile | None = None
        self._projected = 0  # the study's end that the projector shows
        self._remark = ""

    _lost = _begin

    @property
    def pending(self) -> int:
        return self._logs.pending

    def _sync(self) -> str:
        lock = self._folder / "tensorboard.lock"
        with file_lock(lock):
            if lock.read_text() != self._token:  # another process has written
                self._begin()
                lock.write_text(self._token)
            self._logs.read()
            study = self._logs.study
            if study.opened is None:
                return ""
            for trial in self._logs.trials.values():
                if trial.sent != trial.mirror.events and trial.mirror.number >= 0:
                    self._write_trial(trial)
            if self._logs.sent != study.events:
                self._write_study(study)
        return self._remark

    def _write_trial(self, trial: _Trial) -> None:
        mirror, new = trial.mirror, []
        if trial.file is None:
            trial.file = EventFile(self._root / mirror.name, mirror.created)
            new.append(events.parameters(mirror))
        tests = set(mirror.test.values())
        late = [events.point(p) for p in mirror.points.waiting if p in tests]
        new += [events.point(p) for p in mirror.points.waiting if p not in tests]
        if mirror.ended and not trial.closed and mirror.number in self._logs.study.told:
            failure = f" ({mirror.failure})" if mirror.failure else ""
            words = f"**{mirror.trial.state}**: {mirror.trial.why}{failure}"
            new += [events.end(mirror), events.text("outcome", words, mirror.ended)]
            trial.closed = True
        trial.file.write(new + late)
        mirror.points.waiting.clear()
        if mirror.ended:
            mirror.points.forget()
        trial.sent = mirror.events

    def _write_study(self, study: StudyMirror) -> None:
        new = []
        if self._study_file is None:
            objective = validation(self._config.evaluate.metric)
            self._study_file = EventFile(self._root / "study", study.created)
            new.append(
                events.space(self._config.space, {"objective": f"best {objective}"}, study.created)
            )
            if self._config.study.question:
                new.append(events.text("question", self._config.study.question, study.created))
        new += [events.point(p) for p in study.points.waiting]
        if study.state == "closed":
            new.append(events.text("outcome", _outcome(study), study.ended, study.events))
        self._study_file.write(new)
        study.points.waiting.clear()
        if study.state == "closed" and self._projected != study.ended:
            self._project(study)
            self._projected = study.ended
        self._logs.sent = study.events

    def _project(self, study: StudyMirror) -> None:
        """Write the vectors of the final test with their texts, if the data are still at hand."""
        from embsearch.track import tensorboard_projector as projector

        models = projector.models(self._folder)
        if not models:
            return
        from embsearch.tasks.catalogue import data_again

        home = home_folder(self._config.home)
        try:
            data = data_again(self._config, home / "cache", study.data)
        except UserError as error:  # the files are gone, or others
            self._remark = f"no projector: {one_line(error)}"
            return
        projector.write(self._root / "study", models, data)


def _outcome(study: StudyMirror) -> str:
    lines = [f"**ended**: {study.why}"]
    leader = study.leader
    if leader is not None and leader.best is not None:
        lines.append(f"best: trial {leader.number}, {leader.best:.4f}")
    if study.promoted:
        lines.append(f"promoted: {study.promoted}")
    return "\n\n".join(lines)

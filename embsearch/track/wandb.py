"""Weights & Biases as a view of the event logs: a study is a group, each of its trials a run.

A trial is sent when it has ended: paused trials may be many, and a run cannot be continued without
asking the server. <study folder>/wandb/sent names the runs that were sent, so no process sends one
twice. A run that a killed process has left half sent is removed and sent anew, under the same id.

W&B's library works in a thread and a service process of its own. It never prompts; what it says
against a run is the recorder's ``problem``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from embsearch.codec import Json
from embsearch.config.schema import Config
from embsearch.disk import file_lock
from embsearch.track.follower import Followed, Follower, Logs
from embsearch.track.mirror import Point, StudyMirror, TrialMirror, validation

UPLOAD = 30.0  # seconds for one run, before it is tried again later
BATCH = 16  # runs between two ends of W&B's service
# Seconds. Measured: a killed process's service writes for 0.07 after it, and ends after 2.
SETTLED, ORPHANED = 0.25, 3.0


class WandbRecorder(Follower):
    """The follower that sends one study's runs."""

    view = "Weights & Biases"

    def __init__(self, config: Config, study_folder: Path) -> None:
        super().__init__()
        self._config, self._folder = config, study_folder
        self._logs = Logs(study_folder, validation(config.evaluate.metric), Followed)
        self._sent_file = study_folder / "wandb" / "sent"
        self._sent: set[str] = set()
        self._in_use = False  # W&B's service runs
        self._refused: set[str] = set()  # trials that come last when the others are tried again

    @property
    def pending(self) -> int:
        """Events of trials and studies that have ended and were not sent."""
        study = self._logs.study
        trials = sum(trial.events for trial in self._ready())
        ended = (
            study.events
            if study.state == "closed" and self._study_mark(study) not in self._sent
            else 0
        )
        return trials + ended + self._logs.unread

    def _ready(self) -> list[TrialMirror]:
        """Return the trials that have ended, also for the study, and were not sent."""
        mirrors = [trial.mirror for trial in list(self._logs.trials.values())]
        told = self._logs.study.told
        return [
            m
            for m in mirrors
            if m.ended and m.number in told and self._id(m.name) not in self._sent
        ]

    def _sync(self) -> str:
        self._logs.read()
        if self._logs.study.opened is None:
            return ""
        with file_lock(self._sent_file):
            self._sent = set(self._sent_file.read_text().splitlines())
            marks: list[str] = []
            try:
                for mirror in sorted(self._ready(), key=lambda m: m.name in self._refused):
                    self._refused.add(mirror.name)
                    self._send_trial(mirror)
                    self._refused.remove(mirror.name)
                    marks.append(self._id(mirror.name))
                    if len(marks) == BATCH:
                        self._remember(marks)
                study = self._logs.study
                if study.state == "closed" and self._study_mark(study) not in self._sent:
                    self._send_study(study)
                    marks.append(self._study_mark(study))
            finally:
                self._remember(marks)
        for trial in self._logs.trials.values():
            if self._id(trial.mirror.name) in self._sent:
                trial.mirror.points.waiting.clear()
                trial.mirror.points.forget()
        return ""

    def _send_trial(self, mirror: TrialMirror) -> None:
        summary = {
            "best": mirror.trial.best,
            "state": mirror.trial.state,
            "reason": mirror.trial.why,
            "failure": mirror.failure,
        }
        tests = set(mirror.test.values())  # they come later, in the study's run
        points = [p for p in mirror.points.waiting if p not in tests]
        failed = mirror.trial.state == "failed"
        self._send(mirror.name, "trial", mirror.axes, points, summary, failed)

    def _send_study(self, study: StudyMirror) -> None:
        """Send the study once it has ended, and again if it was continued or a model was promoted."""
        config = {"question": self._config.study.question, "data": study.data}
        leader = study.leader
        summary = {
            "best": None if leader is None else leader.best,
            "best_trial": None if leader is None else f"t{leader.number:04d}",
            "state": "complete",
            "reason": study.why,
            "promoted": study.promoted,
        }
        self._send("study", "study", config, study.points.waiting, summary)

    def _send(
        self,
        name: str,
        kind: str,
        config: Json,
        points: Iterable[Point],
        summary: Json,
        failed: bool = False,
    ) -> None:
        """Send one run, from its beginning to its end.

        Raises what W&B raises, also if the upload takes too long.
        """
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read on import
        import wandb

        self._in_use = True
        run_id = self._id(name)
        self._remove(run_id)
        wandb.setup(wandb.Settings(silent=True))  # else it asks for a key where there is a terminal
        settings = wandb.Settings(
            console="off",
            silent=True,
            symlink=False,
            disable_git=True,
            disable_code=True,
            save_code=False,
            init_timeout=max(1.0, self._config.track.timeout),
            finish_timeout=UPLOAD,
            finish_timeout_raises=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_save_requirements=False,
        )
        track, study = self._config.track, self._config.study
        run = wandb.init(
            project=track.wandb_project or study.task,
            group=self._logs.study.uid,
            job_type=kind,
            id=run_id,
            name=name if kind == "trial" else f"study/{study.name}",
            config=dict(config),
            dir=str(self._folder),
            mode=track.wandb_mode,
            reinit="create_new",
            settings=settings,
        )
        if run.disabled:  # not sent, so not to be remembered
            raise ValueError("it is disabled, by WANDB_MODE or its own settings")
        try:
            for step, row in rows(points).items():
                run.log(row, step=step)
            run.summary.update(
                {key: value for key, value in summary.items() if value not in (None, "")}
            )
        finally:
            run.finish(exit_code=int(failed))

    def _remove(self, run_id: str) -> None:
        """Remove what a killed process has left of a run, also what its service still adds.

        Raises OSError if it cannot.
        """
        until = time.monotonic() + ORPHANED
        while left := list(self._sent_file.parent.glob(f"*run-*-{run_id}*")):
            for folder in left:
                shutil.rmtree(folder, ignore_errors=time.monotonic() < until)
            time.sleep(SETTLED)

    def _remember(self, marks: list[str]) -> None:
        """Write down what was sent, after W&B's service has ended.

        Before that a finished run may not be in its file yet, and a failed one still uses its id.
        """
        if self._in_use:
            import wandb

            wandb.teardown()
            self._in_use = False
        with self._sent_file.open("a") as file:
            file.writelines(f"{mark}\n" for mark in marks)
            file.flush()
            os.fsync(file.fileno())
        self._sent.update(marks)
        marks.clear()

    def _id(self, name: str) -> str:
        """Return a run's id, the same in every process. W&B takes no ``:`` or ``@`` in one."""
        return hashlib.sha256(f"{self._logs.study.uid}/{name}".encode()).hexdigest()[:16]

    def _study_mark(self, study: StudyMirror) -> str:
        return f"{self._id('study')} {study.events}"


def rows(points: Iterable[Point]) -> dict[int, dict[str, float]]:
    """Return W&B's history: a row a step, steps rising. A row has the time of its last point."""
    found: dict[int, dict[str, float]] = {}
    for point in sorted(points, key=lambda p: p.step):
        row = found.setdefault(point.step, {"_timestamp": 0.0})
        row[point.key] = point.value
        row["_timestamp"] = max(row["_timestamp"], point.time / 1000)
    return found

"""A study's folder as the coordinator uses it: what a job needs, what an answer means, what may go."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from embsearch.codec import to_json
from embsearch.config.build import build, to_dict, with_values
from embsearch.config.schema import Config
from embsearch.data.dataset import TaskData
from embsearch.errors import EmbsearchError, UserError, did_you_mean
from embsearch.history import events
from embsearch.history.events import Event
from embsearch.history.folder import StudyFolder
from embsearch.history.log import read_events
from embsearch.history.state import StudyState
from embsearch.history.trial import MENDED_BY_USER, Trial
from embsearch.launch.base import (
    Died,
    Evaluated,
    EvaluateJob,
    Failed,
    Measured,
    Points,
    TrainJob,
    points_every,
)
from embsearch.registry import test_set_uses
from embsearch.search.space import Space
from embsearch.search.suggest import check_kinds
from embsearch.study.actions import Name
from embsearch.study.dispatch import Heard, Returned
from embsearch.study.policy import Policy
from embsearch.study.result import BEST, table_rows, winner
from embsearch.tasks.catalogue import task_of
from embsearch.track.digest import digest, manifest
from embsearch.track.environment import environment
from embsearch.values import Scalar, Segment

Noted = tuple[Event, int | None]


class Workplace:
    """Jobs, answers and files of one study."""

    def __init__(
        self,
        config: Config,
        space: Space,
        folder: StudyFolder,
        state: StudyState,
        cache: Path,
        data: TaskData,
    ) -> None:
        self.config, self.space, self.folder, self.state = config, space, folder, state
        self.cache, self.data = cache, data
        self.split = "test" if len(task_of(config).rows(data, "test")) else "valid"

    @staticmethod
    def prepare(config: Config, space: Space, folder: StudyFolder, state: StudyState) -> Workplace:
        """Prepare the data and lock the config. Raises UserError where settings cannot learn on the data, or config
        or data are not those that the study began with."""
        task = task_of(config)
        cache = task.prepare(config.data, folder.home / "cache")
        data = task.load(cache)
        task.preflight(config, {one.path: one.values for one in space.dimensions}, data)
        folder.check_data(data.fingerprint)
        if folder.locked.exists():
            check_kinds(space, build(folder.read_locked()["config"]))
        folder.lock_config()
        return Workplace(config, space, folder, state, cache, data)

    def opened(self) -> events.Opened:
        """Return the beginning of a session."""
        study = self.config.study
        return events.Opened(
            name=study.name,
            task=study.task,
            question=study.question,
            home_id=self.folder.home_id,
            data=self.data.fingerprint,
            config=self.folder.digest,
            rows=self.data.report,
            environment=environment(),
        )

    def trials_without_logs(self) -> Iterator[events.Created]:
        """Yield the beginning of each trial that has a config and no log, because a process died before its first
        event, or its log was lost."""
        for number, config in self.folder.trial_configs():
            if number not in self.state.trials:
                params = self.space.default(build(config))
                axes = self.space.axes(params, self.config)
                yield events.Created(trial=number, params=params, axes=axes)

    # ---- jobs --------------------------------------------------------------------------------

    def config_of(self, params: Mapping[str, Scalar], seed: int = 0) -> Config:
        """Return the config of a trial's run."""
        config = with_values(self.config, params)
        if not seed:
            return config
        return replace(config, train=replace(config.train, seed=config.train.seed + seed))

    def training(self, segment: Segment, workers: int) -> TrainJob:
        """Return the job of a segment, for one of so many workers."""
        config = self.config_of(self.state.trials[segment.trial].params, segment.seed)
        return TrainJob(
            segment=segment,
            config=to_dict(config),
            folder=str(self.folder.run(segment.trial, segment.seed)),
            cache=str(self.cache),
            queries=tuple(reading.queries for reading in self.state.readings),
            points_every=points_every(workers),
        )

    def evaluation(self, label: str, number: int | None) -> EvaluateJob:
        """Return the job of a row of the final table, or of the untuned encoder on the validation rows."""
        if label != "baseline":
            model = None if number is None else str(self.folder.trial(number) / "model")
            keep = str(self.folder.tested(label))
            return EvaluateJob(
                self.split, to_dict(self.config), str(self.cache), model, full=True, keep=keep
            )
        # With as many layers frozen as any trial may have: that changes no vector, and tells an encoder with
        # fewer layers before the study begins.
        path = "model.freeze_layers"
        frozen = {one.path: max(one.values) for one in self.space.dimensions if one.path == path}
        return EvaluateJob("valid", to_dict(with_values(self.config, frozen)), str(self.cache))

    # ---- answers -----------------------------------------------------------------------------

    def events_of(self, name: Name, message: Heard, policy: Policy) -> Iterator[Noted]:
        """Yield the events that a message about a job means. Raises UserError, EmbsearchError."""
        if name[0] == "evaluate":
            label = str(name[1])
            if not isinstance(message, Returned):
                event = (
                    self._baseline(message)
                    if label == "baseline"
                    else self._tested(label, message, policy)
                )
                yield event, None
            return
        _, number, seed = name  # type: ignore[misc]
        trial = self.state.trials[number]
        match message:
            case Points():
                new = [point for point in message.points if point[0] > trial.last_point(seed)]
                if new:
                    yield events.Trained(points=new, seed=seed), number
            case Measured(measurement):
                seeds = self._compared(trial, seed, measurement.rung, policy)
                self.state.release(number)
                if seed >= len(trial.runs) or measurement.rung not in trial.runs[seed].values:
                    yield events.evaluated(measurement, seed, seeds), number
                if trial.outcome is not None and measurement.last:
                    shutil.rmtree(self.folder.run(number, seed), ignore_errors=True)
            case Returned():
                self._restart(trial, seed, message.failure)
            case Failed() | Died():
                yield self._failed(trial, seed, message)

    def _compared(self, trial: Trial, seed: int, rung: int, policy: Policy) -> int:
        """Return how many runs are compared at a measurement."""
        if trial.outcome is not None:
            return seed + 1
        return policy.seeds(trial.until if seed else rung)

    def _restart(self, trial: Trial, seed: int, failure: str) -> None:
        self.state.release(trial.number)
        if failure == "checkpoint":  # from the base weights, then
            self._checkpoint(trial.number, seed).unlink(missing_ok=True)

    def _failed(self, trial: Trial, seed: int, message: Failed | Died) -> Noted:
        if trial.outcome is not None and message.failure in MENDED_BY_USER:
            raise UserError(self._remedy(trial.number, message))
        if trial.outcome is not None:
            shutil.rmtree(self.folder.run(trial.number, seed), ignore_errors=True)
            lost = events.Unconfirmed(
                trial=trial.number, seed=seed, failure=message.failure, message=message.message
            )
            return lost, None
        if message.failure == "checkpoint":  # from the base weights, then
            self._checkpoint(trial.number, seed).unlink(missing_ok=True)
        traceback = message.traceback if isinstance(message, Failed) else ""
        failed = events.Failed(
            failure=message.failure,
            message=message.message,
            traceback=traceback,
            attempt=trial.attempt,
        )
        return failed, trial.number

    def _baseline(self, message: Heard) -> Event:
        """Return the untuned encoder's event: every trial must beat it, and without it nothing can be said."""
        if not isinstance(message, Evaluated):
            assert isinstance(message, (Failed, Died))
            if message.failure == "data":
                raise UserError(f"evaluating the untuned encoder: {message.message}")
            raise EmbsearchError(f"evaluating the untuned encoder:\n{_trace(message)}")
        check_objective(self.config.evaluate.objective, message.metrics)
        return events.Baseline(
            metrics=message.metrics,
            readings=message.readings,
            compute=message.compute,
            seconds=message.seconds,
            config=self.folder.digest,
            data=self.data.fingerprint,
        )

    def _tested(self, label: str, message: Heard, policy: Policy) -> Event:
        if not isinstance(message, Evaluated):
            assert isinstance(message, (Failed, Died))
            raise EmbsearchError(
                f"evaluating the {label} on the {self.split} rows: {message.message}"
            )
        number = dict(table_rows(self.state, winner(self.state, self.config)))[label]
        files = {} if number is None else manifest(self.folder.trial(number) / "model")
        return events.Tested(
            label=label,
            trial=number,
            split=self.split,
            metrics=message.metrics,
            auc=to_json(message.auc),
            segments=message.segments,
            seconds=message.seconds,
            files=files,
            config=self.folder.digest,
            data=self.data.fingerprint,
        )

    def test_rows_warning(self, tested: events.Tested) -> str:
        """Note that the test rows have judged the winner; return a warning where they have judged many."""
        if tested.label != BEST or self.split != "test":
            return ""
        rows = test_set_uses.digest_of_rows(task_of(self.config), self.data)
        by = f"study {self.config.study.name}, trial {tested.trial}"
        uses = test_set_uses.note_use(self.folder.home, rows, digest(tested.files), by)
        return test_set_uses.warning(uses)

    def raise_if_fatal(self, name: Name, message: Heard) -> None:
        """Raise what ends the study: UserError for what the user can mend, EmbsearchError for too many bugs."""
        if name[0] != "train" or not isinstance(message, (Failed, Died)):
            return
        number = int(name[1])
        if message.failure in MENDED_BY_USER:
            raise UserError(self._remedy(number, message))

    def raise_too_many_bugs(self, number: int) -> None:
        """Raise EmbsearchError where trial ``number`` is one more that failed by a bug than may be."""
        most = self.config.study.max_bugs
        if not self.state.trials[number].failed_by(("bug",)):
            return
        bugs = sum(trial.failed_by(("bug",)) for trial in self.state.trials.in_state("failed"))
        if bugs < most:
            return
        log = read_events(self.folder.trial_log(number).path)
        last = [event for event in log if isinstance(event, events.Failed)][-1]
        raise EmbsearchError(
            f"{bugs} trials failed by a bug (study.max_bugs={most}); "
            f"the last one, trial {number}:\n{last.traceback or last.message}"
        )

    def _remedy(self, number: int, message: Failed | Died) -> str:
        if message.failure == "disk_full":
            return (
                f"trial {number}: {message.message}: free some space under {self.folder.home} "
                "and run the same command again"
            )
        return f"trial {number}: {message.message}\nmend it and run the same command again"

    # ---- files -------------------------------------------------------------------------------

    def model(self, number: int) -> str | None:
        """Return the folder of a trial's model, where there is one."""
        path = self.folder.trial(number) / "model"
        return str(path) if path.exists() else None

    def clear(self, trial: Trial) -> None:
        """Remove what only a trial that goes on needs: checkpoints, and the runs of its other seeds."""
        self._checkpoint(trial.number, 0).unlink(missing_ok=True)
        for seed in range(1, trial.searched):
            shutil.rmtree(self.folder.run(trial.number, seed), ignore_errors=True)

    def sweep(self) -> None:
        """Remove what processes that died did not remove: files of trials and of fresh seeds that have ended."""
        for trial in self.state.trials.values():
            if trial.outcome is None:
                continue
            self.clear(trial)
            for seed in range(trial.searched, len(trial.runs)):
                if trial.ended_by_itself(seed):
                    shutil.rmtree(self.folder.run(trial.number, seed), ignore_errors=True)

    def _checkpoint(self, number: int, seed: int) -> Path:
        return self.folder.run(number, seed) / "checkpoint.safetensors"


def check_objective(name: str, metrics: Mapping[str, float]) -> None:
    """Raise UserError where the data do not give the metric that is to be maximised."""
    if name not in metrics:
        raise UserError(
            f"evaluate.objective={name}: no such metric.{did_you_mean(name, metrics)} "
            f"These data give {', '.join(metrics)}"
        )


def _trace(message: Failed | Died) -> str:
    traceback = message.traceback if isinstance(message, Failed) else ""
    return traceback or message.message

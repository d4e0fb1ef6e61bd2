"""Answers of workers, as events of the logs, and what ends a study."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping

from embsearch.codec import to_json
from embsearch.errors import EmbsearchError, UserError, did_you_mean
from embsearch.history import events, final_table
from embsearch.history.events import Event
from embsearch.history.log import read_events
from embsearch.history.trial import MENDED_BY_USER, Trial
from embsearch.launch.base import Died, Evaluated, Failed, Measured, Points
from embsearch.registry import test_set_uses
from embsearch.study.actions import Name
from embsearch.study.dispatch import Heard, Returned
from embsearch.study.policy import Policy
from embsearch.study.result import winner
from embsearch.study.workplace import Workplace
from embsearch.tasks.catalogue import task_of
from embsearch.track.digest import digest
from embsearch.track.unaltered import checked_trial

Noted = tuple[Event, int | None]  # an event, and the trial whose log it belongs to


class Answers:
    """The meaning of what the workers of one study answer."""

    def __init__(self, workplace: Workplace, policy: Policy) -> None:
        self._work, self._policy = workplace, policy

    def events_of(self, name: Name, message: Heard) -> Iterator[Noted]:
        """Yield the events that a message about a job means. Raises UserError, EmbsearchError."""
        if name[0] == "evaluate":
            label = str(name[1])
            if isinstance(message, Returned):
                return
            if label == "baseline":
                yield self._baseline(message), None
            elif label.startswith(final_table.JUDGED):
                yield self._judged(label, message), None
            else:
                yield self._tested(label, message), None
            return
        _, number, seed = name  # type: ignore[misc]
        trial = self._work.state.trials[number]
        match message:
            case Points():
                new = [point for point in message.points if point[0] > trial.last_point(seed)]
                if new:
                    yield events.Trained(points=new, seed=seed), number
            case Measured(measurement):
                seeds = self._compared(trial, seed, measurement.rung)
                self._work.state.release(number)
                if seed >= len(trial.runs) or measurement.rung not in trial.runs[seed].values:
                    yield events.evaluated(measurement, seed, seeds), number
                if trial.outcome is not None and measurement.last:
                    self._work.clear_fresh(number, seed)
            case Returned():
                self._restart(trial, seed, message.failure)
            case Failed() | Died():
                yield self._failed(trial, seed, message)

    def _compared(self, trial: Trial, seed: int, rung: int) -> int:
        """Return how many runs are compared at a measurement."""
        if trial.is_soup:
            return 1
        if trial.outcome is not None:
            return seed + 1
        return self._policy.seeds(trial.until if seed else rung)

    def _restart(self, trial: Trial, seed: int, failure: str) -> None:
        self._work.state.release(trial.number)
        if failure == "checkpoint":  # from the base weights, then
            self._work.checkpoint(trial.number, seed).unlink(missing_ok=True)

    def _failed(self, trial: Trial, seed: int, message: Failed | Died) -> Noted:
        if trial.outcome is not None and message.failure in MENDED_BY_USER:
            raise UserError(self._remedy(f"trial {trial.number}", message))
        if trial.outcome is not None:
            shutil.rmtree(self._work.folder.run(trial.number, seed), ignore_errors=True)
            lost = events.Unconfirmed(
                trial=trial.number, seed=seed, failure=message.failure, message=message.message
            )
            return lost, None
        if message.failure == "checkpoint":  # from the base weights, then
            self._work.checkpoint(trial.number, seed).unlink(missing_ok=True)
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
            if message.failure in MENDED_BY_USER:
                raise UserError(self._remedy("evaluating the untuned encoder", message))
            raise EmbsearchError(f"evaluating the untuned encoder:\n{_trace(message)}")
        check_objective(self._work.config.evaluate.metric, message.metrics)
        return events.Baseline(
            metrics=message.metrics,
            readings=message.readings,
            compute=message.compute,
            seconds=message.seconds,
            config=self._work.folder.digest,
            data=self._work.data.fingerprint,
            encoders=message.encoders,
        )

    def _judged(self, label: str, message: Heard) -> Event:
        """Return the event of a model on all validation rows."""
        number = int(label.split()[-1])
        rows = len(task_of(self._work.config).rows(self._work.data, "valid"))
        if isinstance(message, (Failed, Died)) and message.failure not in MENDED_BY_USER:
            # the others are chosen from
            return events.Judged(trial=number, rows=rows, metrics={}, failure=message.message)
        found = self._measured(f"evaluating the {label}", message)
        checked_trial(self._work.folder, number)
        return events.Judged(trial=number, rows=rows, metrics=found.metrics, seconds=found.seconds)

    def _measured(self, what: str, message: Heard) -> Evaluated:
        """Return the measurement. Raises UserError, EmbsearchError where there is none."""
        if isinstance(message, Evaluated):
            return message
        assert isinstance(message, (Failed, Died))
        if message.failure in MENDED_BY_USER:
            raise UserError(self._remedy(what, message))
        raise EmbsearchError(f"{what}: {message.message}")

    def _tested(self, label: str, message: Heard) -> Event:
        message = self._measured(f"evaluating the {label} on the {self._work.split} rows", message)
        best = winner(self._work.state, self._work.config)
        number = dict(final_table.rows(self._work.state.trials, best))[label]
        files = {} if number is None else checked_trial(self._work.folder, number)
        return events.Tested(
            label=label,
            trial=number,
            split=self._work.split,
            metrics=message.metrics,
            auc=to_json(message.auc),
            segments=message.segments,
            seconds=message.seconds,
            files=files,
            config=self._work.folder.digest,
            data=self._work.data.fingerprint,
        )

    def test_rows_warning(self, tested: events.Tested) -> str:
        """Note that the test rows have judged the winner; return a warning where they have judged
        many. A replay reads none.
        """
        replay = self._work.config.launcher.name == "replay"
        if tested.label != final_table.BEST or self._work.split != "test" or replay:
            return ""
        rows = test_set_uses.digest_of_rows(task_of(self._work.config), self._work.data)
        by = f"study {self._work.config.study.name}, trial {tested.trial}"
        alone = len(self._work.state.trials) == 1
        home, model = self._work.folder.home, digest(tested.files)
        uses = test_set_uses.note_use(home, rows, model, by, alone)
        return test_set_uses.warning(uses)

    def raise_if_fatal(self, name: Name, message: Heard) -> None:
        """Raise UserError where a failure stops the study until the user has mended it."""
        if name[0] != "train" or not isinstance(message, (Failed, Died)):
            return
        number = int(name[1])
        if message.failure in MENDED_BY_USER:
            raise UserError(self._remedy(f"trial {number}", message))

    def raise_too_many_bugs(self, number: int) -> None:
        """Raise EmbsearchError where trial ``number`` is one more that failed by a bug than may be."""
        most = self._work.config.study.max_bugs
        if not self._work.state.trials[number].failed_by(("bug",)):
            return
        bugs = sum(
            trial.failed_by(("bug",)) for trial in self._work.state.trials.in_state("failed")
        )
        if bugs < most:
            return
        log = read_events(self._work.folder.trial_log(number).path)
        last = [event for event in log if isinstance(event, events.Failed)][-1]
        raise EmbsearchError(
            f"{bugs} trials failed by a bug (study.max_bugs={most}); "
            f"the last one, trial {number}:\n{last.traceback or last.message}"
        )

    def _remedy(self, what: str, message: Failed | Died) -> str:
        if message.failure == "disk_full":
            return (
                f"{what}: {message.message}: free some space under {self._work.folder.home} "
                "and run the same command again"
            )
        return f"{what}: {message.message}\nmend it and run the same command again"


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

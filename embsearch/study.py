"""A study, top to bottom: ask for a suggestion, hand segments to workers, read what comes
back, decide, tell, until the budget is spent; then test the best and say what was found.

The coordinator is the only writer: of the event logs (the truth), of Optuna's database and,
through a recorder, of MLflow (views). It holds no state that the logs do not: kill it
anywhere, run the same command again, and it goes on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embsearch.config.build import build, to_dict, with_values
from embsearch.config.schema import Config
from embsearch.data.dataset import Dataset
from embsearch.data.load import prepare_dataset
from embsearch.ending import Ending
from embsearch.errors import EmbsearchError, UserError, did_you_mean
from embsearch.folder import StudyFolder
from embsearch.history import RETRIES, Trial, is_final, read_trials
from embsearch.launch.base import Launcher, Message, Task, points_every
from embsearch.objectives.preflight import preflight_space
from embsearch.report.live import reads
from embsearch.search import budget, database, sampler, scheduler
from embsearch.search.board import Board
from embsearch.search.confirm import choose
from embsearch.search.space import parse
from embsearch.search.storage import OptunaView
from embsearch.stopping import STOPPED, Interrupted, Stopping
from embsearch.track.base import NoRecorder, Recorder
from embsearch.track.environment import environment
from embsearch.values import Clock, Decision, Measurement, Outcome, Reading, Segment, State, Suggestion, record

ENDED: tuple[State, ...] = ("complete", "pruned", "failed")
TEXTS_WINDOW = 20  # points over which a trial's texts per second are averaged


@dataclass(frozen=True)
class Result:
    """What a study found. ``table`` rows: label, trial, metrics on validation and test rows."""

    name: str
    why: str
    best: int | None
    table: list[dict[str, Any]]
    counts: dict[str, int]
    seconds: float
    finished: bool
    confirmed: list[dict[str, Any]] = field(default_factory=list)  # search.confirm.Confirmed


class Study:
    """The coordinator of one study. ``watch`` is called with the study whenever something changed, ``page`` when
    it has ended: what that writes into the folder is there before the last sync of the recorder."""

    def __init__(
        self,
        config: Config,
        launcher: Callable[[Path], Launcher],
        recorder: Callable[[Path], Recorder],
        watch: Callable[[Study, str], None] = lambda study, line: None,
        clock: Clock = time,
        page: Callable[[StudyFolder], None] = lambda folder: None,
    ) -> None:
        self.space = parse(config.space, config)
        most = sampler.trials_of(config.sampler, self.space, 1 + len(config.study.defaults))
        if most is not None:  # a grid that is done is a study that is done
            config = replace(config, stop=replace(config.stop, trials=min(most, config.stop.trials)))
        self.config, self._watch, self._clock = config, watch, clock
        self._make_launcher, self._make_recorder, self._page = launcher, recorder, page
        self._recorder: Recorder = NoRecorder()
        self.folder = StudyFolder(config, clock)
        if config.study.on_drift == "new" and self.folder.drift():
            name = f"{config.study.name}-{self.folder.digest[:8]}"  # the same command finds it again
            self.config = replace(config, study=replace(config.study, name=name))
            self.folder = StudyFolder(self.config, clock)
        self.trials: Board[Trial] = Board()
        self.scheduler = scheduler.make(config)
        self.baseline: dict[str, float] | None = None
        self.readings: list[Reading] = []  # by evaluation; empty: all read all rows
        self.stopping = Stopping(config.launcher.grace)
        self._deaths: dict[str, list[str]] = {}  # of evaluations
        self._in_slot: dict[int, Trial] = {}  # whose segment was given out there last
        self._launcher: Launcher | None = None
        self._kept: list[tuple[int, Message]] = []  # that came while the database was away
        self.bugs = 0
        self._earlier, self._started = 0.0, self._clock.monotonic()
        self.pending = 0  # events that the recorder's view lacks after the end

    # ---- the story -------------------------------------------------------------------------

    def run(self) -> Result:
        """Run to the end of the budget. Raises UserError, Interrupted, or the study's own failure."""
        with self.folder.hold():
            self.folder.check_drift()
            found = self.folder.result()
            if found is not None and self._nothing_left(found):
                self._recorder = self._make_recorder(self.folder.path)  # it may have ended while MLflow was away
                if not self.folder.page.exists():  # or have been killed just then
                    self._page(self.folder)
                self.pending = self._recorder.close(timeout=60.0)
                return Result(**found)
            store = database.of(self.config.study.storage, self.folder.home, self.folder.home_id)
            store.check()
            self._earlier, self._started = self.folder.seconds_spent(), self._clock.monotonic()
            data = self._data()
            self.folder.check_data(data.fingerprint)
            self.folder.lock_config()
            self.log("opened", name=self.config.study.name, task=self.config.study.task,
                      question=self.config.study.question, home_id=self.folder.home_id,
                      data=data.fingerprint, config=self.folder.digest,
                      rows=data.report, environment=environment())  # fmt: skip
            self.optuna = OptunaView(
                store, self.config, self.space, new=not self.folder.begun, wait=self._wait_for_database
            )
            with self.optuna.errors():
                self._restore()
            if self.baseline is not None:
                self._recorder = self._make_recorder(self.folder.path)
            try:
                result = self._to_the_end(self._make_launcher(self.folder.path))
                self._page(self.folder)
            finally:
                self._close_recorder()
        return result

    def _to_the_end(self, launcher: Launcher) -> Result:
        self._launcher = launcher
        try:
            with self.stopping.heard(launcher.halt), self.optuna.errors():
                why = self._search(launcher)
                if self.stopping.asked:
                    raise Interrupted(STOPPED)
                return self._finish(launcher, why)
        finally:
            self._launcher = None
            launcher.close()

    def _close_recorder(self) -> None:
        self.pending = self._recorder.close(timeout=10.0 if self.stopping.asked else 60.0)
        if self.pending:
            self.say(self.behind)

    @property
    def behind(self) -> str:
        """What the recorder's view lacks after the end, as a line; empty when it has everything."""
        why = self._recorder.problem or "it was slow"
        return (
            f"{self.pending} events are not in {self._recorder.view} yet ({why}); the same command brings them, "
            "'embsearch sync' too"
            if self.pending
            else ""
        )

    def _search(self, launcher: Launcher) -> str:
        """Keep every slot busy until nothing is left to do; the reason why it ended."""
        points = [self.space.default(self.config)]
        points += [self.space.start(p, self.config) for p in self.config.study.defaults]
        self.optuna.enqueue(points)
        baseline = None
        while True:
            over = budget.spent(self.config.stop, len(self.trials), self.elapsed, self.best_value)
            warm = {t.slot for t in self.trials.in_state("waiting")}
            for slot in sorted(launcher.idle, key=lambda s: s not in warm):
                if self.stopping.asked:
                    break
                if self.baseline is None and baseline is None:
                    baseline = slot
                    self._submit_baseline(launcher, slot)
                elif (trial := self._next(over, slot)) is not None:
                    self._submit(launcher, slot, trial)
            nothing_runs = not self.trials.count("running") and baseline is None
            if nothing_runs and (launcher.idle or self.stopping.asked):  # else the first slots are still to come
                self._end_paused(over)
                return over
            for slot, message in self.wait(launcher):
                if slot == baseline and message["kind"] in ("evaluated", "failed", "died"):
                    baseline = None
                    if not self.goes_out_again("evaluating the untuned encoder", message):
                        self._take_baseline(message)
                else:
                    self._take(slot, message)
            if self.stopping.late:
                return over

    def _next(self, over: str, slot: int) -> Trial | None:
        """What a free slot does: go on with its own trial, take a waiting one, a promotable
        paused one, a new one."""
        if waiting := self.trials.in_state("waiting"):
            return min(waiting, key=lambda t: (t.slot != slot, t.number))
        if not budget.cut_short(self.config.stop, self.elapsed, self.best_value):
            number = self.scheduler.next_paused(self.trials)
            if number is not None:
                trial = self.trials[number]
                decision = self.scheduler.promotable(self.trials)
                self._decided(trial, decision or Decision("continue", "the study goes on"))
                return trial
        return None if over else self._new()

    def _new(self) -> Trial:
        number = self.trials.free  # a gap: its log was lost
        suggestion, handle = self.optuna.ask(number, self.trials, self.scheduler)
        return self._create(suggestion, handle)

    def _create(self, suggestion: Suggestion, handle: Any) -> Trial:
        trial = Trial(suggestion.trial, optuna=handle, params=dict(suggestion.params))
        self.folder.write_trial_config(trial.number, to_dict(self.config_of(trial)))
        self._log_created(trial)
        return trial

    def _log_created(self, trial: Trial) -> None:
        self.trials.add(trial)
        self.log_trial(trial, "created", trial=trial.number, params=trial.params, attempt=0,
                        axes=self.space.axes(trial.params, self.config))  # fmt: skip

    def _submit(self, launcher: Launcher, slot: int, trial: Trial) -> None:
        """Give out the trial's next segment: to its next evaluation, by the first seed that has not been there."""
        seed = trial.next_seed(self._seeds(trial.until))
        assert seed is not None, f"trial {trial.number} has been at evaluation {trial.until}"
        segment = Segment(trial.number, trial.attempt, trial.runs[seed].rung, trial.until, seed)
        trial.slot, trial.seed = slot, seed
        self._in_slot[slot] = trial
        self.trials.move(trial, "running")
        self.log_trial(trial, "segment", segment=record(segment), slot=slot)
        launcher.submit(slot, self.segment_task(launcher, trial, segment))

    def segment_task(self, launcher: Launcher, trial: Trial, segment: Segment) -> Task:
        """What a worker needs to know to train a segment."""
        return {
            "do": "segment", "segment": record(segment), "config": to_dict(self.config_of(trial, segment.seed)),
            "folder": str(self.folder.run(trial.number, segment.seed)), "cache": str(self.cache),
            "queries": [reading.queries for reading in self.readings], "points_every": points_every(launcher.workers),
        }  # fmt: skip

    def _take(self, slot: int, message: Message) -> None:
        trial, kind = self._in_slot.get(slot), message["kind"]
        if trial is None or trial.state != "running" or trial.slot != slot:
            return
        if kind == "points":
            self._points(trial, message["points"])
        elif kind == "measured":
            self._measured(trial, Measurement(**message["measurement"]))
        elif kind == "halted" or (kind == "died" and self.stopping.halting):
            self.trials.move(trial, "waiting")  # as asked, or it was not yet able to hear
        elif kind in ("failed", "died"):
            self._failed(trial, message)

    def _measured(self, trial: Trial, measured: Measurement) -> None:
        name, run = self.config.evaluate.objective, trial.run
        seeds = self._seeds(trial.until if trial.seed else measured.rung)
        value = measured.metrics[f"val/{name}"]
        if measured.rung not in run.values:
            kind, what = ("repeated", {"seed": trial.seed}) if trial.seed else ("measured", {})
            self.log_trial(trial, kind, **record(measured), **what, seeds=seeds)
        run.values[measured.rung], run.rows, run.last = value, measured.rows, measured.why
        trial.deaths.clear()
        if trial.seed == 0:
            trial.texts_seen, trial.step, trial.seconds = measured.texts_seen, measured.step, measured.seconds
        where = f"trial {trial.number} at rung {measured.rung}" + (f", seed {trial.seed}" if seeds > 1 else "")
        self.say(f"{where}: {name} {value:.4f} after {measured.texts_seen:,} texts")
        if trial.next_seed(seeds) is None:
            self._compare(trial, seeds)
        else:
            self.trials.move(trial, "waiting")

    def _compare(self, trial: Trial, seeds: int) -> None:
        """All runs of a trial have been at an evaluation: from here on their mean is the trial's value there."""
        rung = trial.until
        values = trial.values_at(rung, seeds)
        mean = sum(values) / len(values)
        if seeds > 1:
            self.log_trial(trial, "compared", rung=rung, value=mean, values=values, step=trial.step)
            name, spread = self.config.evaluate.objective, max(values) - min(values)
            self.say(f"trial {trial.number} at rung {rung}: {name} {mean:.4f}, the mean of {seeds} seeds "
                              f"that lie within {spread:.4f}")  # fmt: skip
        self.trials.measure(trial, rung, mean, trial.runs[0].rows)
        if trial.runs[0].last:
            self._end(trial, Outcome("complete", trial.runs[0].last, trial.best))
        else:
            self._decide(trial)

    def _seeds(self, rung: int) -> int:
        """How many runs of a trial are compared at an evaluation: one where trials only begin."""
        return self.config.study.seeds if rung >= scheduler.repeats_from(self.config) else 1

    def _decide(self, trial: Trial) -> None:
        """What the scheduler and the budget say to the trial's last measurement."""
        decision = self.scheduler.decide(trial, self.trials)
        if decision.kind != "stop" and (cut := budget.cut_short(self.config.stop, self.elapsed, self.best_value)):
            decision = Decision("stop", cut)
        self._decided(trial, decision)
        if decision.kind == "stop":
            self._end(trial, Outcome("pruned", decision.reason, trial.best))

    def _decided(self, trial: Trial, decision: Decision) -> None:
        """A trial that may go on waits for the next free slot: the one it just left, as a rule."""
        self.trials.move(trial, "waiting" if decision.kind == "continue" else "paused")
        trial.why = decision.reason
        self.log_trial(trial, "decided", decision=decision.kind, reason=decision.reason)
        if self.config.verbose:
            self.say(f"trial {trial.number}: {decision.kind}: {decision.reason}")

    def _failed(self, trial: Trial, message: Message) -> None:
        """Every class of failure has its policy; see docs/reference/failures.md."""
        failure = message["failure"]
        first = message["message"].splitlines()[0]
        self.log_trial(trial, "failed", failure=failure, message=message["message"],
                        traceback=message.get("traceback", ""), attempt=trial.attempt)  # fmt: skip
        trial.failures.append(failure)
        self.say(f"trial {trial.number} {failure.replace('_', ' ')}: {first}")
        if failure == "checkpoint":
            self._checkpoint(trial, trial.seed).unlink(missing_ok=True)  # from the base weights, then
        self.trials.move(trial, "waiting")
        if failure in RETRIES:
            trial.deaths.append(failure)
            trial.attempt += 1
        if failure == "data":
            raise UserError(f"trial {trial.number}: {message['message']}\nmend it and run the same command again")
        if failure == "disk_full":
            raise UserError(f"trial {trial.number}: {message['message']}: free some space under {self.folder.home} "
                            "and run the same command again")  # fmt: skip
        if not is_final(failure, trial.deaths):
            return
        self._end(trial, Outcome("failed", first, trial.best, failure))
        if failure == "bug":
            self.bugs += 1
            if self.bugs >= self.config.study.max_bugs:
                raise EmbsearchError(
                    f"{self.bugs} trials failed by a bug (study.max_bugs={self.config.study.max_bugs}); "
                    f"the last one, trial {trial.number}:\n{message.get('traceback') or message['message']}"
                )

    def _end(self, trial: Trial, outcome: Outcome) -> None:
        model = self.folder.trial(trial.number) / "model"
        trial.outcome, trial.why, trial.searched = outcome, outcome.reason, len(trial.runs)
        self.trials.move(trial, outcome.state)
        self.log_trial(trial, "ended", **record(outcome), objective=trial.best,
                        model=str(model) if model.exists() else None)  # fmt: skip
        self._tell(trial)
        self._clear(trial)

    def _clear(self, trial: Trial) -> None:
        """What only a trial that goes on needs: checkpoints, and the runs of its other seeds."""
        self._checkpoint(trial, 0).unlink(missing_ok=True)
        for seed in range(1, trial.searched):
            shutil.rmtree(self.folder.run(trial.number, seed), ignore_errors=True)

    def _checkpoint(self, trial: Trial, seed: int) -> Path:
        return self.folder.run(trial.number, seed) / "checkpoint.safetensors"

    def _tell(self, trial: Trial) -> None:
        assert trial.outcome is not None
        self.optuna.tell(trial.number, trial.outcome, trial.values)
        rows = trial.best_score[0] if trial.best_score else 0
        self.log("told", trial=trial.number, state=trial.outcome.state, value=trial.outcome.value, rows=rows)

    def _end_paused(self, over: str) -> None:
        """The search is over: a trial still paused was never good enough to go on."""
        if self.stopping.asked:
            return
        for trial in self.trials.in_state("paused", "waiting"):
            self._end(trial, Outcome("pruned", trial.why or over, trial.best))

    # ---- the end ---------------------------------------------------------------------------

    def _finish(self, launcher: Launcher, why: str) -> Result:
        """Train the best again, read the test rows once, and say what was found."""
        ending = Ending(self, launcher)
        confirmed = ending.confirm()
        winner = choose(confirmed)
        best = self.best if winner is None else self.trials[winner]
        table = ending.test(best)
        counts: dict[str, int] = {state: len(self.trials.in_state(state)) for state in ENDED}
        result = Result(self.config.study.name, why, None if best is None else best.number, table, counts,
                        self.elapsed, finished=True, confirmed=[record(one) for one in confirmed])  # fmt: skip
        self.log("closed", why=why, best=result.best, result=vars(result))
        return result

    def validation(self, number: int) -> float | None:
        """A trial's value where it can stand beside the untuned encoder's: on all rows."""
        score = self.trials[number].best_score
        return score[1] if score is not None and self._on_all_rows(score) else None

    def _nothing_left(self, result: dict[str, Any]) -> bool:
        """A finished study whose budget has not been extended since, nor what confirms its best."""
        asked = self.folder.read_locked()["config"].get("confirm")
        if asked is not None and asked != to_dict(self.config)["confirm"]:
            return False
        count = sum(result["counts"].values())
        return bool(budget.spent(self.config.stop, count, result["seconds"], self._best_of(result)))

    @staticmethod
    def _best_of(result: dict[str, Any]) -> float | None:
        """The highest value: of the winner, or of one that fresh seeds put behind it."""
        values = [r["validation"] for r in result["table"] if r["label"] == "best trial"]
        values += [one["value"] for one in result.get("confirmed", [])]
        return max((value for value in values if value is not None), default=None)

    # ---- what the logs say -----------------------------------------------------------------

    def _restore(self) -> None:
        """Rebuild every trial from its log; what was running waits for a slot again."""
        for event in self.folder.log_of_kind("baseline"):
            self.baseline = event["metrics"] if self.measured_as_now(event) else None
            self.readings = [Reading(**reading) for reading in event.get("readings", [])]
        self.trials = Board(read_trials(self.folder, self.config.evaluate.objective).values())
        self._read_configs()
        pruner = getattr(self.scheduler, "pruner", None)
        self.optuna.restore(self.trials, pruner)
        if self.optuna.notice:
            self.say(self.optuna.notice)
        told = {event["trial"] for event in self.folder.log_of_kind("told")}
        for trial in self.trials.values():
            if trial.outcome is not None and trial.number in told:
                self.optuna.tell(trial.number, trial.outcome, trial.values)  # where the database has lost it
            elif trial.outcome is not None:
                self._tell(trial)
        for trial in list(self.trials.values()):
            if trial.outcome is not None:
                self._clear(trial)
            elif trial.due == "decide":
                self._decide(trial)
            elif trial.due == "complete":
                self._end(trial, Outcome("complete", trial.why, trial.best))
            elif trial.due == "stop":
                self._end(trial, Outcome("pruned", trial.why, trial.best))
            elif trial.due == "fail":
                self._end(trial, Outcome("failed", trial.why, trial.best, trial.failure))
            elif trial.runs[0].rung > trial.rung and trial.next_seed(self._seeds(trial.until)) is None:
                self._compare(trial, self._seeds(trial.until))
            elif trial.state == "running":
                self.trials.move(trial, "waiting")
        self.bugs = sum(t.failed_by(("bug",)) for t in self.trials.values())

    def _read_configs(self) -> None:
        """Trials whose log is empty, because a process died before its first event, or was lost: their
        config says what they are."""
        for number, config in self.folder.trial_configs():
            if number not in self.trials:
                self._log_created(Trial(number, params=self.space.default(build(config))))

    def _points(self, trial: Trial, points: list[Any]) -> None:
        """Log what is new: a segment that is trained again after a crash repeats its points."""
        run = trial.run
        new = [p for p in points if p[0] > run.last_point]
        if not new:
            return
        self.log_trial(trial, "points", points=new, **({"seed": trial.seed} if trial.seed else {}))
        run.last_point = new[-1][0]
        trial.got_on()
        if trial.seed == 0:
            trial.step = max(trial.step, run.last_point)
        speeds = [p[2]["cost/texts_per_second"] for p in new[-TEXTS_WINDOW:]]
        trial.speed = sum(speeds) / len(speeds)

    def _submit_baseline(self, launcher: Launcher, slot: int) -> None:
        """With as many layers frozen as any trial may have: that changes no vector, and tells an encoder with
        fewer layers before the study begins."""
        frozen = {d.path: max(d.values) for d in self.space.dimensions if d.path == "model.freeze_layers"}
        launcher.submit(slot, {
            "do": "evaluate", "split": "valid", "model": None, "full": False,
            "config": to_dict(with_values(self.config, frozen)), "cache": str(self.cache),
        })  # fmt: skip

    def _take_baseline(self, message: Message) -> None:
        """The untuned encoder is what every trial must beat; without it nothing can be said."""
        if message["kind"] != "evaluated":
            if message["failure"] == "data":
                raise UserError(f"evaluating the untuned encoder: {message['message']}")
            raise EmbsearchError(f"evaluating the untuned encoder:\n{message.get('traceback') or message['message']}")
        name, metrics = self.config.evaluate.objective, message["metrics"]
        check_objective(name, metrics)
        self.baseline = metrics
        readings = message.get("readings", [])
        self.readings = [Reading(**reading) for reading in readings]
        self.log("baseline", metrics=metrics, readings=readings, compute=message["compute"],
                  seconds=message["seconds"], **self.measured_with())  # fmt: skip
        self._recorder = self._make_recorder(self.folder.path)  # from here on the study has begun
        self.say(f"computing in {message['compute']}")
        self.say(f"untuned encoder: {name} {metrics[name]:.4f}")
        self.say(reads(self.readings))

    # ---- small things ----------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Seconds of all sessions of this study."""
        return self._earlier + self._clock.monotonic() - self._started

    @property
    def best(self) -> Trial | None:
        """The best complete trial; where none is complete, the best of all."""
        return self.trials.best

    @property
    def best_value(self) -> float | None:
        """The best value on all rows: nothing else says that ``stop.target`` is reached."""
        score = self.trials.best_score
        return score[1] if score is not None and self._on_all_rows(score) else None

    def _on_all_rows(self, score: tuple[int, float]) -> bool:
        return not self.readings or score[0] >= self.readings[-1].rows

    def config_of(self, trial: Trial, seed: int = 0) -> Config:
        config = with_values(self.config, trial.params)
        return replace(config, train=replace(config.train, seed=config.train.seed + seed)) if seed else config

    def measured_with(self) -> dict[str, str]:
        """What a measurement outside the trials depends on; a study that was extended may have changed it."""
        return {"config": self.folder.digest, "data": self.fingerprint}

    def measured_as_now(self, event: dict[str, Any]) -> bool:
        return self.measured_with().items() <= event.items()

    def _data(self) -> Dataset:
        self.cache = prepare_dataset(self.config.data, self.folder.home / "cache")
        data = Dataset.load(self.cache)
        self.fingerprint, self.has_test = data.fingerprint, len(data.test) > 0
        searched = {d.path: d.values for d in self.space.dimensions}
        preflight_space(self.config.objective, self.config.train.batch_size, searched, data.train)
        return data

    def log(self, kind: str, /, **content: Any) -> dict[str, Any]:
        return self.folder.log.append(kind, **content, spent=round(self.elapsed, 3))

    def log_trial(self, trial: Trial, kind: str, /, **content: Any) -> None:
        self.folder.trial_log(trial.number).append(kind, **content, spent=round(self.elapsed, 3))

    def goes_out_again(self, what: str, message: Message) -> bool:
        """Whether ``what`` only lost its worker, or its checkpoint, and not too often."""
        if message.get("failure") not in RETRIES:
            return False
        deaths = self._deaths.setdefault(what, [])
        deaths.append(message["failure"])
        self.say(f"{what}: {message['message'].splitlines()[0]}")
        return not is_final(message["failure"], deaths)

    def got_on(self, what: str) -> None:
        """Nothing at its place is what kills its workers."""
        self._deaths.pop(what, None)

    def say(self, line: str) -> None:
        """A line for whoever watches."""
        self._watch(self, line)

    def _wait_for_database(self, line: str, seconds: float) -> None:
        """Optuna's database is away. Workers go on, and what they say is kept; who is asked to stop does not wait."""
        self.say(line)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            looked = time.monotonic()
            if self._launcher is not None:  # it may have to tell its workers to halt, and bring files home
                self._kept += self._launcher.wait(min(0.2, left))
            time.sleep(max(0.0, min(0.2, left) - (time.monotonic() - looked)))
            self.say(self.stopping.line())
            if self.stopping.asked and (self.stopping.late or not self.stopping.halting):
                raise Interrupted(STOPPED)

    def wait(self, launcher: Launcher) -> list[tuple[int, Message]]:
        found, self._kept = self._kept or launcher.wait(1.0), []
        self.say(self.stopping.line())
        for _, message in found:
            if message["kind"] == "note":
                self.say(message["text"])
        return found


def check_objective(name: str, metrics: Mapping[str, float]) -> None:
    """Raise UserError where the data do not give the metric that is to be maximised."""
    if name not in metrics:
        raise UserError(
            f"evaluate.objective={name}: no such metric.{did_you_mean(name, metrics)} "
            f"These data give {', '.join(metrics)}"
        )

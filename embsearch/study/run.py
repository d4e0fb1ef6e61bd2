"""A study: open it, do what the policy says until nothing is left to do, close it.

The coordinator is the only writer of the event logs. It holds no state that the logs do not: kill it
anywhere, run the same command again, and it goes on. Optuna's database, MLflow and other trackers follow
the logs (``recorder``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from embsearch.config.schema import Config
from embsearch.data.summary import pairs_and_unread
from embsearch.history import events
from embsearch.history.board import Board
from embsearch.history.events import Event
from embsearch.history.folder import StudyFolder
from embsearch.history.state import StudyState
from embsearch.history.trial import Trial
from embsearch.hpo import scheduler
from embsearch.hpo.space import parse
from embsearch.hpo.suggest import Suggester, limited
from embsearch.launch.base import Launcher
from embsearch.study import actions, progress
from embsearch.study.actions import BASELINE, Moment, Name, describe
from embsearch.study.answers import Answers
from embsearch.study.dispatch import Dispatch
from embsearch.study.fit_to_data import fit_to_data
from embsearch.study.policy import Policy
from embsearch.study.result import Result, nothing_left, result_of, runs_to_confirm
from embsearch.study.stopping import STOPPED, Interrupted, Stopping
from embsearch.study.workplace import Workplace
from embsearch.track.base import Recorder, Recorders
from embsearch.values import Clock


class Study:
    """The coordinator of one study. ``watch`` is called with the study whenever something changed, ``page`` when
    it has ended: what that writes into the folder is there before the last sync of the recorder. ``ready`` raises
    UserError where something that follows the logs cannot be used; it is called before anything is written.
    ``verbose``: every decision is said."""

    def __init__(
        self,
        config: Config,
        launcher: Callable[[Path], Launcher],
        recorder: Callable[[Path], Recorder],
        watch: Callable[[Study, str], None] = lambda study, line: None,
        clock: Clock = time,
        page: Callable[[StudyFolder], None] = lambda folder: None,
        ready: Callable[[], str] = lambda: "",
        verbose: bool = False,
    ) -> None:
        parse(config.space, config, fitted=False)
        config, self._decided_by_data = fit_to_data(config)
        self.space = parse(config.space, config)
        self.config, self._watch, self._clock = config, watch, clock
        self._make_launcher, self._make_recorder = launcher, recorder
        self._page, self._ready, self._verbose = page, ready, verbose
        self._recorder: Recorder = Recorders()
        self.folder = StudyFolder(config, clock)
        if config.study.on_drift == "new" and self.folder.drift():
            name = f"{config.study.name}-{self.folder.digest[:8]}"  # the same command finds it
            self.config = replace(config, study=replace(config.study, name=name))
            self.folder = StudyFolder(self.config, clock)
        self.config, few = limited(self.config, self.space, self.folder)
        self._decided_by_data += few
        self.scheduler = scheduler.make(self.config)
        self.state = StudyState(config.evaluate.metric)
        self.stopping = Stopping(config.launcher.grace)
        self._earlier, self._started = 0.0, self._clock.monotonic()
        self._said_of_confirming = False
        self.pending = 0  # events that the recorder's view lacks after the end

    # ---- the story -------------------------------------------------------------------------

    def run(self) -> Result:
        """Run to the end of the budget. Raises UserError, Interrupted, or the study's own failure."""
        with self.folder.hold():
            self.folder.check_drift()
            state = self.folder.state()
            if state.closed is not None and nothing_left(self.config, self.folder, state):
                Workplace.compare_data(self.config, self.folder, self.say)
                return self._show_again(state.closed)
            self.say(self._ready())
            self._open(state)
            try:
                made = closing(self._make_launcher(self.folder.path))
                with made as launcher, self.stopping.heard(launcher.halt):
                    result = self._work(Dispatch(launcher, self.stopping, self.say, describe))
                self._page(self.folder)
            finally:
                self._close_recorder()
        return result

    def _open(self, state: StudyState) -> None:
        """Begin a session: the data, the state by the logs, the first event."""
        self._earlier, self._started = state.spent, self._clock.monotonic()
        self.state = state
        self._workplace = Workplace.prepare(self.config, self.space, self.folder, state)
        data = self._workplace.data
        measured_with = self.folder.digest, data.fingerprint
        self.policy = Policy(self.config, self.scheduler, measured_with)
        self.policy.judges = self._workplace.judges
        self._answers = Answers(self._workplace, self.policy)
        warmups = self._workplace.warmups.line()
        for line in (*self._decided_by_data, pairs_and_unread(data.report), warmups):
            self.say(line)
        self.note(self._workplace.opened())
        self._suggester = Suggester(self.config, self.space, self.scheduler, self.state.like)
        self.state.release_all()
        for created in self._workplace.trials_without_logs():
            self.note(created, created.trial)
        self._workplace.sweep()
        if self.policy.has_baseline(self.state):
            self._recorder = self._make_recorder(self.folder.path)

    def _work(self, desk: Dispatch[Name]) -> Result:
        """Do what the policy says until it closes the study."""
        while True:
            match self.policy.due(self.state, self._moment(desk)):
                case actions.Log(event, number):
                    self.note(event, number)
                case actions.Suggest(number):
                    self._create(number)
                case actions.Average() as average:
                    self.note(self._workplace.soup(average), average.number)
                case actions.Train() as train:
                    self._train(desk, train)
                case actions.Evaluate() as evaluate:
                    self._evaluate(desk, evaluate)
                case actions.Wait():
                    self._hear(desk)
                case actions.Stop():
                    raise Interrupted(STOPPED)
                case actions.Close() as end:
                    return self._close(end)

    def _close(self, end: actions.Close) -> Result:
        best = None if end.best is None else self.trials[end.best]
        name = self.config.study.name
        result = result_of(name, self.state, end.why, best, end.confirmed, self.elapsed)
        ends = self.state.ends
        self.note(events.Closed(why=result.why, best=result.best, result=vars(result), ends=ends))
        return result

    def _show_again(self, closed: events.Closed) -> Result:
        """Bring a study that has ended up to date: MLflow may have been away, or the page not yet written."""
        self._recorder = self._make_recorder(self.folder.path)
        if not self.folder.page.exists():
            self._page(self.folder)
        self.pending = self._recorder.close(timeout=60.0)
        return Result(**closed.result)

    # ---- what an action does ---------------------------------------------------------------

    def note(self, event: Event, number: int | None = None) -> None:
        """Write an event into the study's log, or into the log of trial ``number``, and act by it."""
        if isinstance(event, events.Ended) and number is not None:
            event = self._workplace.ended(event, number)
        log = self.folder.log if number is None else self.folder.trial_log(number)
        event = log.append(event, spent=round(self.elapsed, 3))
        self.state.apply(event, number)
        for line in progress.lines(event, self.state, number, self._verbose):
            self.say(line)
        if isinstance(event, events.Ended) and number is not None:
            self._workplace.clear(self.state.trials[number])
        elif isinstance(event, events.Tested):
            self.say(self._answers.test_rows_warning(event))
        elif isinstance(event, events.Told):
            self._answers.raise_too_many_bugs(event.trial)

    def _create(self, number: int) -> None:
        """Ask the sampler for a trial, and begin it where it promises enough."""
        suggestion = self._suggester.suggest(number, self.state.trials)
        if suggestion.gain < (self.config.stop.gain or 0):
            self.note(events.Enough(gain=suggestion.gain))
            return
        self.note(self._workplace.created(suggestion), number)

    def _train(self, desk: Dispatch[Name], train: actions.Train) -> None:
        segment = train.segment
        if train.fresh:
            self._say_of_confirming()
        else:
            self.note(events.Started(segment=segment, slot=train.slot), segment.trial)
        job = self._workplace.training(segment, desk.launcher.workers)
        desk.give(train.slot, ("train", segment.trial, segment.seed), job, retried=train.fresh)

    def _evaluate(self, desk: Dispatch[Name], evaluate: actions.Evaluate) -> None:
        label = evaluate.label
        if label != "baseline" and not runs_to_confirm(self.state, self.config)[0]:
            self._say_of_confirming()
        job = self._workplace.evaluation(label, evaluate.trial)
        desk.give(evaluate.slot, ("evaluate", label), job, retried=True)

    def _say_of_confirming(self) -> None:
        """Say once how the best are trained once more, or why they are not."""
        if self._said_of_confirming or self.config.launcher.name == "replay":
            return
        self._said_of_confirming = True
        if self.state.trials.best is not None:
            self.say(
                progress.about_confirming(
                    *runs_to_confirm(self.state, self.config), self.config.confirm
                )
            )

    def _hear(self, desk: Dispatch[Name]) -> None:
        """Take in the next message of a worker."""
        heard = desk.hear(1.0)
        self.say(self.stopping.line())
        if heard is None:
            return
        name, message = heard
        for event, number in self._answers.events_of(name, message):
            self.note(event, number)
        if name == BASELINE and self.policy.has_baseline(self.state):
            self._recorder = self._make_recorder(self.folder.path)  # the study has begun
        self._answers.raise_if_fatal(name, message)

    # ---- what others ask -------------------------------------------------------------------

    @property
    def trials(self) -> Board:
        """Every trial by number."""
        return self.state.trials

    @property
    def baseline(self) -> dict[str, float] | None:
        """The metrics of the untuned encoder, once they are known."""
        return None if self.state.baseline is None else dict(self.state.baseline.metrics)

    @property
    def best(self) -> Trial | None:
        """The trial that leads."""
        return self.state.leader

    @property
    def elapsed(self) -> float:
        """Seconds of all sessions of this study."""
        return self._earlier + self._clock.monotonic() - self._started

    @property
    def behind(self) -> str:
        """A line about what the recorder's view lacks after the end; empty when it has everything."""
        if not self.pending:
            return ""
        why = self._recorder.problem or "it was slow"
        return (
            f"{self.pending} events are not in {self._recorder.view} yet ({why}); the same command brings them, "
            "'embsearch sync' too"
        )

    def say(self, line: str) -> None:
        """Give a line to whoever watches."""
        self._watch(self, line)

    def _moment(self, desk: Dispatch[Name]) -> Moment:
        if desk.unheard:
            return Moment(self.elapsed, unheard=True, late=self.stopping.late)
        stopping = self.stopping.asked
        return Moment(self.elapsed, desk.idle, desk.given, False, stopping, self.stopping.late)

    def _close_recorder(self) -> None:
        self.pending = self._recorder.close(timeout=10.0 if self.stopping.asked else 60.0)
        if self.pending:
            self.say(self.behind)

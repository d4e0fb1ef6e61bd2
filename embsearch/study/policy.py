"""The policy of a study: from its state and the moment to the next action.

The policy is pure: it reads no file and no clock, and calls nobody. So a study that was killed goes
on by building its state from the logs and asking the same policy, and ``embsearch plan`` plays it
in memory.

First comes what the last event of a trial asks for, then the search, then the best once more with
fresh seeds, then the test rows, then the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from embsearch.config.schema import Config
from embsearch.history import events, final_table
from embsearch.history.state import StudyState
from embsearch.history.trial import Trial
from embsearch.hpo import budget
from embsearch.hpo.closing import Closing
from embsearch.hpo.scheduler import Scheduler, repeats_from
from embsearch.study.actions import (
    BASELINE,
    Action,
    Close,
    Evaluate,
    Log,
    Moment,
    Stop,
    Suggest,
    Train,
    Wait,
)
from embsearch.study.result import confirmed, soup_due, to_judge, unconfirmed, winner
from embsearch.values import Segment, State, record

LIVE: tuple[State, ...] = ("waiting", "running", "paused")
ENDS = {"complete": "complete", "stop": "pruned", "fail": "failed"}  # by what is due


class Policy:
    """The rules of one study.

    ``measured_with``: the digests of config and data that a measurement outside the trials depends
    on; a study that was extended may have changed them. ``judges`` is true where the best models
    are measured on validation rows that the search did not read.
    """

    judges = False

    def __init__(
        self, config: Config, scheduler: Scheduler, measured_with: tuple[str, str] = ("", "")
    ) -> None:
        self.config, self.scheduler, self.measured_with = config, scheduler, measured_with
        self._repeats_from = repeats_from(config)
        self._closing = Closing(config)

    def due(self, state: StudyState, now: Moment) -> Action:
        """Return the next action."""
        if now.late:
            return Stop()
        settling = self._settle(state, now)
        if settling is not None:
            return settling
        if now.unheard:
            return Wait()
        if not now.stopping:
            warm = {trial.slot for trial in state.trials.in_state("waiting")}
            for slot in sorted(now.idle, key=lambda slot: slot not in warm):
                action = self._job(state, now, slot)
                if action is not None:
                    return action
        if now.given or not (now.idle or now.stopping):  # else the first slots are still to come
            return Wait()
        return Stop() if now.stopping else self._finish(state, now)

    def over(self, state: StudyState, elapsed: float) -> str:
        """Return why no further trial starts, or the empty string while one may."""
        stop, count = self.config.stop, len(state.trials)
        return budget.spent(stop, count, elapsed, state.best_value, state.gain)

    def seeds(self, rung: int) -> int:
        """Return how many runs of a trial are compared at an evaluation: one where trials only begin."""
        return self.config.study.seeds if rung >= self._repeats_from else 1

    # ---- what the last event of a trial asks for -----------------------------------------------

    def _settle(self, state: StudyState, now: Moment) -> Log | None:
        for trial in sorted(
            state.unsettled.values(), key=lambda trial: (trial.outcome is None, trial.number)
        ):
            log = self._follow_up(trial, state, now)
            if log is not None:
                return log
        return None

    def _follow_up(self, trial: Trial, state: StudyState, now: Moment) -> Log | None:
        number = trial.number
        if trial.outcome is not None:
            outcome, (rows, _) = trial.outcome, trial.best_score or (0, 0.0)
            return Log(
                events.Told(trial=number, state=outcome.state, value=outcome.value, rows=rows)
            )
        match trial.due:
            case "compare":
                return self._compare(trial)
            case "decide":
                return Log(self._decide(trial, state, now), number)
            case "complete" | "stop" | "fail" as due:
                return Log(_ended(trial, ENDS[due], trial.why), number)
        return None

    def _compare(self, trial: Trial) -> Log | None:
        """Return the mean of all runs, which is the trial's value, once all have been there."""
        rung = trial.until
        seeds = self.seeds(rung)
        if trial.next_seed(seeds) is not None:
            return None
        values = trial.values_at(rung, seeds)
        mean = sum(values) / len(values)
        return Log(
            events.Compared(rung=rung, value=mean, values=values, step=trial.step), trial.number
        )

    def _decide(self, trial: Trial, state: StudyState, now: Moment) -> events.Decided:
        """Return what the scheduler and the budget say to the trial's last measurement."""
        decision = self.scheduler.decide(trial, state.trials)
        cut = budget.cut_short(self.config.stop, now.elapsed, state.best_value)
        kind, reason = decision.kind, decision.reason
        if cut and kind != "stop":
            kind, reason = "stop", cut
        return events.Decided(decision=kind, reason=reason, attributes=decision.attributes)

    # ---- the search ----------------------------------------------------------------------------

    def _job(self, state: StudyState, now: Moment, slot: int) -> Action | None:
        """Return what a free slot does."""
        if not self.has_baseline(state) and BASELINE not in now.given:
            return Evaluate(slot, "baseline")
        over = self.over(state, now.elapsed)
        if not over or any(state.trials.count(one) for one in LIVE):
            return self._search(state, now, slot, over)
        untrained = unconfirmed(state, self.config)
        soup = None if untrained else soup_due(state, self.config)
        unjudged = to_judge(state, self.config) if self.judges and soup is None else []
        if unjudged:
            return self._judge(unjudged, now, slot)
        if untrained:
            return self._confirm(untrained, now, slot)
        return soup or self._test(state, now, slot)

    def has_baseline(self, state: StudyState) -> bool:
        """Return whether the untuned encoder was measured with this config on these data."""
        baseline = state.baseline
        return baseline is not None and (baseline.config, baseline.data) == self.measured_with

    def _search(self, state: StudyState, now: Moment, slot: int, over: str) -> Action | None:
        """Go on with the slot's own trial, a waiting one, a promotable paused one, a new one."""
        waiting = state.trials.in_state("waiting")
        if not self.config.confirm.soup:  # one that was begun before is not made
            waiting = [trial for trial in waiting if not trial.is_soup]
        if waiting:
            trial = min(waiting, key=lambda trial: (trial.slot != slot, trial.number))
            return Train(slot, self._segment(trial))
        if not budget.cut_short(self.config.stop, now.elapsed, state.best_value):
            number = self.scheduler.next_paused(state.trials)
            closing = self._closing.next(state.trials, now.elapsed, number)
            if closing is not None:
                number, reason = closing
                return Log(events.Decided(decision="continue", reason=reason), number)
            if number is not None:
                decision = self.scheduler.promotable(state.trials)
                reason = decision.reason if decision else "the study goes on"
                return Log(events.Decided(decision="continue", reason=reason), number)
        return None if over else Suggest(state.trials.free)

    def _segment(self, trial: Trial) -> Segment:
        """Return the way to the trial's next evaluation, by the first seed that has not been there."""
        seed = trial.next_seed(self.seeds(trial.until))
        assert seed is not None, f"trial {trial.number} has been at evaluation {trial.until}"
        return Segment(trial.number, trial.attempt, trial.position(seed), trial.until, seed)

    # ---- the end -------------------------------------------------------------------------------

    def _judge(self, unjudged: Sequence[Trial], now: Moment, slot: int) -> Evaluate | None:
        """Measure the best models on all validation rows, before anything is chosen by them."""
        for trial in unjudged:
            label = f"{final_table.JUDGED} {trial.number}"
            if ("evaluate", label) not in now.given:
                return Evaluate(slot, label, trial.number)
        return None

    def _confirm(self, runs: Sequence[tuple[Trial, int]], now: Moment, slot: int) -> Train | None:
        """Train the best once more."""
        for trial, seed in runs:
            if ("train", trial.number, seed) not in now.given:
                at = trial.position(seed)
                return Train(
                    slot, Segment(trial.number, trial.attempt, at, at + 1, seed), fresh=True
                )
        return None

    def _test(self, state: StudyState, now: Moment, slot: int) -> Action | None:
        """Measure each row of the final table on the test rows, once."""
        unsaid = self._unsaid(state)
        if unsaid is not None:
            return unsaid
        for label, number in final_table.rows(state.trials, winner(state, self.config)):
            if not self._tested(state, label, number) and ("evaluate", label) not in now.given:
                return Evaluate(slot, label, number)
        return None

    def _tested(self, state: StudyState, label: str, number: int | None) -> bool:
        tested = state.tested.get(label)
        if tested is None or tested.trial != number:
            return False
        return (tested.config, tested.data) == self.measured_with

    def _unsaid(self, state: StudyState) -> Log | None:
        """Return what fresh seeds found, where the log does not have it yet."""
        known = [(event.trial, list(event.values)) for event in state.confirmed]
        for one in confirmed(state, self.config):
            if (one.trial, list(one.values)) not in known:
                return Log(events.Confirmed(**record(one), mean=one.mean, luck=one.luck))
        return None

    def _finish(self, state: StudyState, now: Moment) -> Log | Close:
        """Return what follows where no slot has anything to do: a trial still waiting or paused was never good
        enough to go on."""
        left = state.trials.in_state("paused", "waiting")
        if left:
            return Log(
                _ended(left[0], "pruned", left[0].why or self.over(state, now.elapsed)),
                left[0].number,
            )
        best = winner(state, self.config)
        searched = max((told.spent or 0.0 for told in state.told.values()), default=now.elapsed)
        why = self.over(state, searched) or self.over(state, now.elapsed)
        return Close(
            why, None if best is None else best.number, tuple(confirmed(state, self.config))
        )


def _ended(trial: Trial, state: str, reason: str) -> events.Ended:
    failure = trial.failure if state == "failed" else None
    value = trial.best
    return events.Ended(state=state, reason=reason, value=value, failure=failure, objective=value)  # type: ignore[arg-type]

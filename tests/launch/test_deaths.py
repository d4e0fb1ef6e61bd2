"""How often a trial goes out again when its workers are killed."""

from __future__ import annotations

import pytest
from helpers import read_trials

from embsearch.config.build import build
from embsearch.launch.base import Died, Measured, Points
from embsearch.launch.curves import Synthetic
from embsearch.launch.replay import Replay, VirtualClock
from embsearch.study.run import Study
from embsearch.track.base import Recorders

ROWS = "query,title,grade\n" + "".join(f"q{n},right {n},1\nq{n},wrong {n},0\n" for n in range(12))


class Killed(Replay):
    """Its worker is killed ``times`` times in a trial's first segment, each time after ``steps`` more steps."""

    def __init__(self, clock, times, steps):
        super().__init__(Synthetic(), clock)
        self.times, self.steps, self.died = times, steps, 0

    def wait(self, timeout):
        messages = []
        for slot, message in super().wait(timeout):
            if isinstance(message, (Points, Measured)) and self.died < self.times:
                if isinstance(message, Points):
                    continue
                self.died += 1
                trained = range(1, 1 + self.died * self.steps)
                values = {"train/loss": 1.0, "cost/texts_per_second": 1.0}
                messages.append((slot, Points(tuple((step, 0, values) for step in trained))))
                messages.append((slot, Died("killed", "worker 0 was killed by SIGKILL")))
            else:
                messages.append((slot, message))
        return messages


@pytest.mark.parametrize(
    ("times", "steps", "state"),
    [(3, 0, "complete"), (4, 0, "failed"), (10, 1, "complete")],
    ids=["three times at one place", "four times at one place", "ten times, each time further on"],
)
def test_a_trial_whose_workers_are_killed_fails_only_where_it_does_not_get_on(
    tmp_path, times, steps, state
):
    (tmp_path / "rows.csv").write_text(ROWS)
    config = build({
        "home": str(tmp_path / "home"), "data": {"path": str(tmp_path / "rows.csv")}, "study": {"name": "s"},
        "space": {"train.lr": {"low": 1e-5, "high": 1e-3, "log": True}}, "stop": {"trials": 1},
        "launcher": {"name": "replay"}, "track": {"mlflow": False}, "scheduler": {"name": "none"},
    })  # fmt: skip
    clock = VirtualClock(0.0)
    study = Study(
        config, lambda folder: Killed(clock, times, steps), lambda folder: Recorders(), clock=clock
    )
    result = study.run()
    assert result.counts[state] == 1
    assert read_trials(study.folder, "auc")[0].deaths == study.trials[0].deaths

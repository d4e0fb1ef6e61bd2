"""A study whose scheduler is one of Optuna's pruners decides after a cut as an undisturbed one."""

from __future__ import annotations

import pytest

from embsearch.cli import launchers, search
from embsearch.config.build import build
from embsearch.history import events
from embsearch.study.run import Study
from embsearch.track.base import Recorders

ROWS = "query,title,grade\n" + "".join(f"q{n},right {n},1\nq{n},wrong {n},0\n" for n in range(12))
SPACE = {"train.lr": {"low": 1e-5, "high": 1e-3, "log": True}}
KEEPS = ("asha", "hyperband")  # they keep what they know in Optuna's trials


def study_of(home, name):
    data = home.parent / "rows.csv"
    data.write_text(ROWS)
    config = build({
        "home": str(home), "data": {"path": str(data)}, "space": SPACE, "stop": {"trials": 12},
        "evaluate": {"at": [0.1, 0.3, 0.5, 1.0]}, "launcher": {"name": "replay", "workers": 1},
        "study": {"name": "s"}, "track": {"mlflow": False}, "sampler": {"name": "random"},
        "scheduler": {"name": name, "reduction": 2, "startup_trials": 2, "threshold": 0.4},
    })  # fmt: skip
    clock = search.clock(config)
    return Study(config, launchers.launcher(config, clock), lambda folder: Recorders(), clock=clock)


def decisions(study):
    """Return every decision with what the pruner keeps."""
    return {
        number: [
            (e.decision, e.reason, dict(e.attributes)) for e in events.of_kind(log, events.Decided)
        ]
        for number, log in study.folder.trial_logs()
    }


def cut(study, line):
    """Run the study until a line is said."""

    def watch(study, said):
        if said.startswith(line):
            raise KeyboardInterrupt

    study._watch = watch
    with pytest.raises(KeyboardInterrupt):
        study.run()


@pytest.mark.parametrize("name", ["asha", "hyperband", "median", "wilcoxon"])
def test_a_study_that_was_cut_off_decides_as_an_undisturbed_one(name, tmp_path):
    calm = study_of(tmp_path / "calm", name)
    calm.run()
    cut(study_of(tmp_path / "shaken", name), "trial 5 at rung 1")
    cut(study_of(tmp_path / "shaken", name), "trial 9 at rung 1")
    shaken = study_of(tmp_path / "shaken", name)
    shaken.run()
    assert decisions(shaken) == decisions(calm)
    found = [one for log in decisions(calm).values() for one in log]
    assert {kind for kind, *_ in found} >= (
        {"continue"} if name == "wilcoxon" else {"continue", "stop"}
    )
    assert any(kept for *_, kept in found) == (name in KEEPS)

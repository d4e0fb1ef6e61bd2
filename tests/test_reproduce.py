"""Training again with a worker that answers as told: what ends it, and what is left behind."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from embsearch.config.schema import Config
from embsearch.errors import EmbsearchError, StudyError, UserError
from embsearch.history import events
from embsearch.launch.base import Died, Failed, Measured, Points
from embsearch.launch.inline import Inline
from embsearch.report.past import Past
from embsearch.reproduce import train_again, workplace
from embsearch.values import Measurement

MACHINE = {"host": "a", "cpu": "c", "device": "cpu, AVX2", "threads": 1, "precision": "fp32"}


def past(*values):
    """A trial that measured these, at evaluations 1, 2, ..."""
    measured = tuple(
        events.Measured(**content(rung, value)) for rung, value in enumerate(values, 1)
    )
    return Past(
        "s", 7, Config(), measured, events.Opened(name="s", data="d"), MACHINE, Path("model"), ()
    )


def content(rung, value, last=False):
    return {"rung": rung, "step": rung, "texts_seen": 10 * rung, "metrics": {"val/auc": value}, "seconds": 1.0,
            "last": last, "why": "budget spent" if last else ""}  # fmt: skip


class Told:
    """A worker that gives the next of its answers to every segment."""

    halting = False

    def __init__(self, *answers):
        self.answers, self.segments = list(answers), []

    def __call__(self, job):
        self.segments.append((job.segment.from_checkpoint, job.segment.until))
        yield Points(())
        yield self.answers.pop(0)


def measured(rung, value, last=False):
    return Measured(Measurement(**content(rung, value, last), machine=MACHINE))


def again(then, worker):
    return train_again(then, Config(), Path("cache"), Path("trial"), Inline(worker))


def test_segment_follows_segment_to_the_last_evaluation_that_is_recorded():
    worker = Told(measured(1, 0.5), measured(2, 0.75))
    found, machine, stopped = again(past(0.5, 0.75), worker)
    assert worker.segments == [(0, 1), (1, 2)]
    assert [one.identical for one in found] == [True, True]
    assert (machine, stopped) == (MACHINE, "")


def test_a_trial_that_diverges_now_was_not_reproduced_from_there_on():
    worker = Told(measured(1, 0.5), Failed("diverged", "loss nan at step 3"))
    found, _, stopped = again(past(0.5, 0.75, 0.8), worker)
    assert stopped == "diverged: loss nan at step 3"
    assert [one.again is None for one in found] == [False, True, True]


def test_a_trial_that_ends_before_its_record_does_says_why():
    found, _, stopped = again(past(0.5, 0.75), Told(measured(1, 0.5, last=True)))
    assert stopped == "ended: budget spent"
    assert found[1].again is None


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (Failed("data", "no such folder"), UserError, "no such folder"),
        (Died("killed", "worker 0 was killed"), EmbsearchError, "was killed"),
        (Failed("bug", "m", "line 9"), EmbsearchError, "line 9"),
    ],
)
def test_what_keeps_it_from_training_is_an_error_and_no_verdict(answer, error, said):
    with pytest.raises(error, match=said):
        again(past(0.5), Told(*[answer] * 4))  # a killed worker's trial goes out three times more


def test_a_killed_worker_is_replaced_as_in_a_search():
    worker = Told(Died("killed", "worker 0 was killed"), measured(1, 0.5))
    found, _, stopped = again(past(0.5), worker)
    assert worker.segments == [(0, 1), (0, 1)]
    assert (found[0].identical, stopped) == (True, "")


def test_what_a_killed_one_left_goes_first_and_nothing_stays(tmp_path):
    left = tmp_path / "reproduce" / "s-t0007" / "model"
    left.mkdir(parents=True)
    with suppress(KeyError), workplace(tmp_path, past(0.5)) as folder:
        assert folder == left.parent
        assert list(folder.iterdir()) == []
        (folder / "weights").touch()
        raise KeyError
    assert not left.parent.exists()


def test_two_processes_do_not_train_one_trial_in_one_place(tmp_path):
    here = workplace(tmp_path, past(0.5))
    with (
        here,
        pytest.raises(StudyError, match="by another process"),
        workplace(tmp_path, past(0.5)),
    ):
        pass
    with workplace(tmp_path, past(0.5)):
        pass

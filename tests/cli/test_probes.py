"""From what the workers say to costs, by a worker that says what it is told to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embsearch.cli import probes
from embsearch.cli.probes import Probes
from embsearch.config.build import build, with_values
from embsearch.data.dataset import Dataset, texts_of
from embsearch.data.load import prepare_dataset
from embsearch.errors import EmbsearchError, UserError
from embsearch.evaluate import early
from embsearch.launch.base import Died, Evaluated, EvaluateJob, Failed, Points, Probed, ProbeJob
from embsearch.launch.inline import Inline
from embsearch.values import Reading

EDGE = {
    "measure": 2.5, "resume": 0.5, "checkpoint": 300, "model": 100, "texts": 48, "distinct": 40, "tokens": 400,
    "chunks": 1, "cached": 0, "halved": False, "peak": 1000,
}  # fmt: skip
POINTS = [
    ("train.batch_size", {"train.batch_size": 8}),
    ("train.batch_size", {"train.batch_size": 16}),
]


@pytest.fixture(scope="module")
def data(judgements_csv, tmp_path_factory):
    config = build({"data": {"path": str(judgements_csv)}})
    cache = prepare_dataset(config.data, tmp_path_factory.mktemp("cache"))
    return config, Dataset.load(cache), cache


def worker(job):
    if isinstance(job, EvaluateJob):
        return Evaluated({"auc": 0.5}, "fp32: told so", 3.0 if job.model else 2.0)
    if job.what == "edge":
        return Probed(EDGE)
    size = job.config["train"]["batch_size"]
    return Probed({"step": size / 10, "steps": 5, "begin": {8: 1.5, 16: 0.25}[size]})


def run(data, tmp_path, answer=worker, points=POINTS):
    asked = []

    def handler(job):
        asked.append(job)
        yield Points(())
        yield answer(job)

    handler.halting = False
    made = Probes(*data, tmp_path, Inline(handler))
    return *made.run(points, available=5000, command=1.0), asked


def test_costs_are_what_the_workers_measured(data, tmp_path):
    costs, machine, _ = run(data, tmp_path)
    assert [(s.params["train.batch_size"], s.step) for s in costs.speeds] == [(8, 0.8), (16, 1.6)]
    assert (costs.command, costs.begin, costs.resume) == (1.0, 0.25, 0.5)
    assert (costs.baseline, costs.measure) == (2.0, 2.5)  # all validation rows were measured
    assert costs.load == pytest.approx(
        1.25, abs=0.1
    )  # what the first trial of a fresh process takes longer
    assert (machine.batch, machine.workers, machine.compute) == (16, 1, "fp32: told so")
    assert (machine.peak, machine.available, machine.fits) == (1000, 5000, True)


def test_what_more_rows_take_is_reckoned_from_a_few(data, tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "FEW", 6)  # one query
    monkeypatch.setattr(probes, "MORE", 12)
    costs, _, asked = run(data, tmp_path)
    few, more, valid, test = (
        7,
        14,
        *(len(texts_of(getattr(data[1], split))) for split in ("valid", "test")),
    )
    assert costs.baseline == pytest.approx(2.0 * valid / more)
    assert costs.measure == pytest.approx(costs.baseline + 0.5)
    assert costs.test == pytest.approx(3.0 + (test - few) * 2.0 / more)
    rows = [job.most for job in asked if isinstance(job, EvaluateJob)]
    assert rows == [12, 12, 6]
    assert asked[-2].config["evaluate"]["max_rows"] == 12


def test_what_evaluations_will_read_is_reckoned_from_a_few_rows(data, tmp_path, monkeypatch):
    config, *rest = data
    monkeypatch.setattr(early, "FEWEST", 1)
    limited = with_values(config, {"evaluate.early_error": 0.08, "evaluate.at": [0.2, 0.5, 1.0]})

    def answer(job):
        said = worker(job)
        return (
            replace(said, readings=(Reading(1, 6, 0.08),)) if isinstance(job, EvaluateJob) else said
        )

    costs, _, _ = run((limited, *rest), tmp_path, answer)
    queries, rows = int(rest[0].valid.query.max()) + 1, len(rest[0].valid)
    assert [one.queries for one in costs.readings] == [
        1,
        4,
        queries,
    ]  # half the error asks for four times as many
    assert [one.error for one in costs.readings] == pytest.approx([0.08, 0.04, 0.08 / queries**0.5])
    assert costs.measured(1) == pytest.approx(2.5 - 2.0 * (1 - costs.readings[0].rows / rows))
    assert costs.measured(3) == 2.5


def test_every_probe_writes_in_a_folder_of_its_own_and_the_test_reads_the_last_model(
    data, tmp_path
):
    *_, asked = run(data, tmp_path)
    folders = [job.folder for job in asked if isinstance(job, ProbeJob)]
    assert folders == [str(tmp_path / "slot-0" / place) for place in ("speed-0", "speed-1", "edge")]
    assert asked[-1].model == str(tmp_path / "slot-0/edge/model")


@pytest.mark.parametrize(
    ("message", "error", "says"),
    [
        (Failed("data", "model.path=x: no such folder"), UserError, "model.path=x"),
        (Failed("out_of_memory", "one text"), UserError, "train.batch_size=16.*one"),
        (Died("killed", "by SIGKILL"), UserError, "(?s)SIGKILL.*train.chunk_tokens"),
        (Died("hung", "no sign of life"), EmbsearchError, "no sign of life"),
        (Failed("bug", "b", "Trace"), EmbsearchError, "Trace"),
    ],
)
def test_a_probe_that_fails_says_what_it_means(data, tmp_path, message, error, says):
    def answer(job):
        return message if isinstance(job, ProbeJob) and job.what == "edge" else worker(job)

    with pytest.raises(error, match=says) as raised:
        run(data, tmp_path, answer)
    assert type(raised.value) is error


def test_a_metric_that_the_data_do_not_give_is_refused(data, tmp_path):
    config, *rest = data
    other = build({"data": {"path": config.data.path}, "evaluate": {"objective": "acu"}})
    with pytest.raises(UserError, match="acu: no such metric"):
        run((other, *rest), tmp_path)

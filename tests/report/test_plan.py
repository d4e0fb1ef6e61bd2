"""The plan as people read it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embsearch.config.build import build
from embsearch.hpo.plan import Costs, Draw, Machine, Plan, Speed
from embsearch.report.plan import lines, size

MACHINE = Machine(
    compute="bf16: this CPU has bf16 matrix instructions (avx512_bf16 or amx)", workers=2, batch=128, texts=384,
    distinct=376, tokens=7814, chunks=5, cached=0, halved=False, peak=2_539_057_152, available=24_578_609_152,
    checkpoint=145_518_116, model=91_578_315, free=70_633_279_488,
)  # fmt: skip
COSTS = Costs(
    2.0,
    9.0,
    0.2,
    0.1,
    2.5,
    2.7,
    6.0,
    (Speed({"train.batch_size": 32}, 0.95), Speed({"train.batch_size": 128}, 3.2)),
)
DRAW = Draw(380.0, (12, 5, 2), 12, 80_000, 9, 600.0, 60.0, "stop.trials: all 12 trials exist")
CONFIG = build({
    "evaluate": {"at": [0.1, 0.5, 1.0]}, "train": {"texts": 19200},
    "stop": {"trials": 12, "seconds": 420, "target": 0.99}, "study": {"name": "shoes", "defaults": [{}]},
})  # fmt: skip


def plan(*draws):
    return Plan(
        draws=draws,
        costs=COSTS,
        workers=2,
        rungs=(1, 2),
        texts=(1920, 9600, 19200),
        most_texts=230_400,
        final=12.0,
        earliest=31.0,
    )


def text(machine=MACHINE, draws=(DRAW,), config=CONFIG, verbose=False):
    return "\n".join(lines(config, plan(*draws), machine, verbose))


def test_a_plan_in_full():
    assert (
        text()
        == """\
plan of study shoes on this machine: 2 workers
computing   in bf16: this CPU has bf16 matrix instructions (avx512_bf16 or amx)
trials      12: the default and 1 known point, then by gp
rungs       scheduler promotion; trials expected at each evaluation:
            1   10.0%       1,920 texts   12.0 trials  rung
            2   50.0%       9,600 texts    5.0 trials  rung
            3  100.0%      19,200 texts    2.0 trials
texts       80,000 expected; 230,400 at worst, if no trial is held back
steps       batch 32 0.95 s, batch 128 3.2 s, with every worker at work
time        6:20 expected
            start-up 0:11, final test 0:12; between them training 91%,
            evaluating and saving 9% (2.7 s each)
            stop.seconds=420 will not end it
            stop.target=0.99 may end it earlier, not before 0:31
then        the best one again with 2 fresh seeds: 38,400 texts, about 3:02 more
            (confirm.share=0.5)
memory      2.5 GB a worker, 5.1 GB of 24.6 GB available: fits
            the longest batch of 128: 384 texts, 376 distinct, 7,814 tokens in 5
            chunks, all kept at once, no gradient cache
disk        2.4 GB: 12 models of 92 MB, which MLflow links; at most 9
            checkpoints of 146 MB, gone when trials end; 70.6 GB free"""
    )


def test_a_range_is_told_where_draws_differ():
    far = replace(
        DRAW,
        seconds=480.0,
        reached=(12, 7, 2),
        texts=90_000,
        why="stop.seconds: 421 s of 420 s spent",
    )
    found = text(draws=(DRAW, far))
    for words in ("7:10 expected (6:30 to 7:50)", "85,000 expected (81,000 to 89,000)", "6.0 trials (5 to 7)",
                  "stop.seconds=420 ends it in 1 of 2 draws"):  # fmt: skip
        assert words in found


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"available": 5_000_000_000}, "5.1 GB of 5.0 GB available: DOES NOT FIT"),
        ({"free": 1_000_000_000}, "1.0 GB free: DOES NOT FIT"),
        (
            {"gpu": 9_000_000_000, "gpu_total": 16_000_000_000, "per_gpu": 2},
            "18.0 GB of 16.0 GB: DOES NOT FIT",
        ),
        (
            {"cached": 5, "halved": True},
            "5 chunks (halved until they fitted), gradients of all are cached",
        ),
        ({"cached": 2}, "5 chunks, gradients of the last 2 are cached"),
    ],
)
def test_what_does_not_fit_is_said_loudly(found, says):
    assert says in " ".join(text(replace(MACHINE, **found)).split())


def test_a_warm_up_without_time_is_a_note():
    warmup = (
        "the warm-up outlasts the first evaluation in 97 % of the draws, the whole trial in 80 %"
    )
    found = list(lines(CONFIG, plan(DRAW), MACHINE, warmup=warmup))
    assert [line for line in found if line not in text().splitlines()] == [
        "note        the warm-up outlasts the first evaluation in 97 % of the draws, the",
        "            whole trial in 80 %",
    ]


def test_what_was_measured_is_told_when_asked():
    found = text(verbose=True)
    assert (
        "seconds     command 2, load 9, begin 0.2, resume 0.1, baseline 2.5, measure 2.7," in found
    )


def test_every_line_fits_eighty_columns():
    long = replace(
        MACHINE, compute="bf16: " + "a long reason " * 20, halved=True, gpu=1, gpu_total=2
    )
    assert max(map(len, text(long).splitlines())) <= 80


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (12, "12 bytes"),
        (1500, "2 kB"),
        (91_578_315, "92 MB"),
        (5_078_114_304, "5.1 GB"),
        (2e12, "2,000 GB"),
    ],
)
def test_sizes_are_short(count, words):
    assert size(count) == words

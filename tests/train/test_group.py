"""Two processes compute a step together: the loss and the gradients of one, at the same batch."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed import TCPStore

sys.path.insert(0, str(Path(__file__).parent))

from second import TEN_SECONDS, compute
from test_step import ROWS, distance

from embsearch.config.catalogue import OBJECTIVES as NAMES
from embsearch.errors import Lost, OutOfMemory, TrialError
from embsearch.train import group as groups
from embsearch.train.group import ALONE, Group

pytestmark = pytest.mark.story  # its second process imports torch


class Pair:
    """This process and ``second.py``."""

    def __init__(self):
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        store = TCPStore(
            "127.0.0.1", port, None, True, TEN_SECONDS, False, master_listen_fd=listener.detach()
        )
        command = [sys.executable, str(Path(__file__).with_name("second.py")), str(port)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.group = Group(store, 0, 2, "cpu")

    def begin(self, task):
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()

    def __call__(self, task):
        """The step's loss, gradients and stepper here, and what the other process says."""
        self.begin(task)
        found = compute(self.group, task)
        return *found, json.loads(self.process.stdout.readline())

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.group.close()


@pytest.fixture(scope="module")
def pair(one_thread):
    made = Pair()
    yield made
    made.close()


@pytest.mark.parametrize("how", ["packed", "padded"])
@pytest.mark.parametrize("cache", ["never", "always"])
@pytest.mark.parametrize("objective", NAMES)
def test_loss_and_gradients_are_those_of_one_device(pair, tiny_bert, objective, cache, how):
    task = {
        "model": str(tiny_bert),
        "objective": objective,
        "cache": cache,
        "how": how,
        "chunk": 12,
    }
    expected, reference, _ = compute(ALONE, task)

    loss, found, _, said = pair(task)

    assert loss == said["loss"] == pytest.approx(expected, rel=1e-6)
    # supcon sums over all texts of the batch, in another order
    assert distance(found, reference) < (1e-5 if how == "packed" or objective == "supcon" else 1e-6)
    assert (
        sum(float(g.double().abs().sum()) for g in found.values()) == said["sum"]
    )  # the same bits in both


def test_a_negative_of_the_other_process_counts(pair, tiny_bert):
    """Each process has half of the texts, and a loss of its own half alone would be another one."""
    task = {"model": str(tiny_bert), "objective": "infonce"}
    whole = compute(ALONE, task)[0]
    half = compute(ALONE, task | {"rows": ROWS[:3]})[0]

    assert pair(task)[0] == pytest.approx(whole, rel=1e-6)
    assert abs(half - whole) > 1e-3


@pytest.mark.parametrize("rows", [[(0, 3, 4)], [(0, 3, 3)]])
def test_a_batch_of_a_few_texts_leaves_nobody_waiting(pair, tiny_bert, rows):
    task = {"model": str(tiny_bert), "rows": rows, "objective": "contrastive"}
    expected, reference, _ = compute(ALONE, task)

    loss, found, *_ = pair(task)

    assert loss == pytest.approx(expected, rel=1e-6)
    assert distance(found, reference) < 1e-5


def test_a_process_without_a_text_takes_part_all_the_same(pair, tiny_bert):
    task = {"model": str(tiny_bert), "objective": "contrastive", "rows": [(0, 0, 0)]}
    expected, reference, _ = compute(ALONE, task)

    loss, found, _, said = pair(task)

    assert loss == said["loss"] == pytest.approx(expected, rel=1e-6)
    assert found.keys() == reference.keys()


@pytest.mark.parametrize("cache", ["never", "always", "always, in the backward pass"])
@pytest.mark.parametrize("small", ["0", "1"])
def test_one_process_with_less_memory_goes_on_in_smaller_chunks(pair, tiny_bert, small, cache):
    cache, _, backward = cache.partition(", ")
    task = {"model": str(tiny_bert), "cache": cache, "dropout": 0.1}
    loss, _, stepper, said = pair(task | {"limits": {small: 12}, "only_backward": bool(backward)})
    calm = pair(task | {"dropout": 0.0})
    again = pair(task | {"dropout": 0.0, "limits": {small: 12}, "only_backward": bool(backward)})

    budgets = {"0": stepper.budget.chunk_tokens, "1": said["budget"]}
    assert budgets == {small: 8, "1" if small == "0" else "0": 4096}
    assert again[0] == pytest.approx(calm[0], rel=1e-6)
    assert distance(again[1], calm[1]) < 1e-5
    assert loss == said["loss"]


@pytest.mark.parametrize("small", ["0", "1"])
def test_one_process_in_which_a_text_does_not_fit_ends_the_step_in_all(pair, tiny_bert, small):
    task = {"model": str(tiny_bert), "limits": {small: 2}}
    pair.begin(task)

    with pytest.raises(
        OutOfMemory, match=rf"device {small} of 2: (one text of \d tokens does not fit|its log)"
    ):
        compute(pair.group, task)

    said = json.loads(pair.process.stdout.readline())
    assert said["error"] == "OutOfMemory"
    assert f"device {small} of 2" in said["message"]
    assert pair({"model": str(tiny_bert)})[0] > 0  # and the next step is in step again


@pytest.mark.parametrize("cache", ["never", "always"])
def test_dropout_is_a_function_of_seed_step_and_process(pair, tiny_bert, cache):
    task = {"model": str(tiny_bert), "dropout": 0.2, "cache": cache}
    loss, first, *_ = pair(task)
    torch.rand(7)
    again, second, *_ = pair(task)

    assert again == loss
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert pair(task | {"step": 1})[0] != loss
    assert pair(task | {"seed": 1})[0] != loss


def test_cached_gradients_are_those_of_the_same_dropout(pair, tiny_bert):
    task = {"model": str(tiny_bert), "dropout": 0.2, "chunk": 12}
    expected, reference, *_ = pair(task)

    loss, found, *_ = pair(task | {"cache": "always"})

    assert loss == expected
    assert distance(found, reference) < 1e-6


def test_processes_draw_different_masks():
    class Third(Group):
        def __init__(self, rank):
            self.rank, self.size = rank, 3

    def drawn(rank):
        Third(rank).reseed(0, 5)
        return torch.rand(4).tolist()

    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(rank)) for rank in range(3)}) == 3


@pytest.mark.parametrize("count", [0, 1, 2, 5, 64, 1000])
@pytest.mark.parametrize("size", [2, 3, 8])
def test_every_text_has_one_owner_and_all_have_about_as_many_tokens(count, size):
    class Some(Group):
        def __init__(self):
            self.rank, self.size = 0, size

    lengths = np.random.default_rng(count).integers(3, 60, count)

    shares = Some().shares(lengths)

    assert sorted(np.concatenate(shares).tolist()) == list(range(count))
    loads = [int(lengths[share].sum()) for share in shares]
    assert max(loads) - min(loads) <= 60


def test_what_the_first_one_finds_reaches_the_others_whole(monkeypatch):
    sent = []
    first, other = (object.__new__(Group) for _ in range(2))
    first.rank, other.rank = 0, 1
    first._broadcast = lambda tensor: sent.append(tensor.clone())
    other._broadcast = lambda tensor: tensor.copy_(sent.pop(0))
    for found in (True, {"val/auc": 0.1 + 0.2}, {"long": "文" * 1000}, float("nan")):
        told = first.of_first(lambda found=found: found)
        heard = other.of_first(lambda: 1 / 0)
        assert repr(heard) == repr(told)
        assert sent == []

    with pytest.raises(ZeroDivisionError):
        first.of_first(lambda: 1 / 0)
    with pytest.raises(TrialError, match="the process that leads raised ZeroDivisionError"):
        other.of_first(lambda: 1)


def test_gradients_are_added_in_buckets_that_hold_one_type_each(monkeypatch):
    monkeypatch.setattr(groups, "BUCKET", 40)
    kinds = [
        (4, torch.float32),
        (6, torch.float32),
        (6, torch.float64),
        (1, torch.float32),
        (99, torch.float32),
    ]
    parameters = [torch.nn.Parameter(torch.zeros(count, dtype=kind)) for count, kind in kinds]

    assert [[p.numel() for p in bucket] for bucket in groups._buckets(parameters)] == [
        [4, 6],
        [6],
        [1],
        [99],
    ]


def test_a_process_that_dies_in_a_step_is_lost(one_thread, tiny_bert, pair):
    """Last: it ends the pair."""
    task = {"model": str(tiny_bert)}
    pair.process.kill()
    pair.process.wait()

    with pytest.raises(Lost, match="the other processes of this trial are gone") as error:
        compute(pair.group, task)
    assert error.value.failure == "killed"

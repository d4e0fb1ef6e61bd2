"""A checkpoint holds everything that goes on, and is whole or not there."""

from __future__ import annotations

import resource
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from embsearch.errors import DamagedCheckpoint, UserError
from embsearch.train import checkpoint

POSITION = {
    "step": 3,
    "best": -float("inf"),
    "mean_loss": 0.1 + 0.2,
    "measurement": {"why": "", "last": False},
}


class Run:
    """A small model with dropout and its optimizer."""

    def __init__(self, width=4):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, width), nn.Dropout(0.5), nn.Linear(width, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, fused=True)

    def step(self, times):
        for _ in range(times):
            self.model(torch.ones(5, 3)).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return [p.tolist() for p in self.model.parameters()]

    def save(self, path, position=POSITION):
        checkpoint.save(path, self.model, self.optimizer, position)

    def load(self, path):
        return checkpoint.load(path, self.model, self.optimizer)


@contextmanager
def files_no_longer_than(size):
    """Writing past ``size`` bytes fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trial" / "checkpoint.safetensors"


def test_a_run_that_goes_on_from_its_checkpoint_ends_with_the_same_bits(path):
    run = Run()
    run.step(3)
    run.save(path)
    expected = run.step(4)

    again = Run()
    again.step(1)
    torch.manual_seed(99)

    assert again.load(path) == POSITION
    assert again.step(4) == expected


def test_a_checkpoint_before_the_first_step_is_one_too(path):
    run = Run()
    run.save(path)
    expected = run.step(2)

    again = Run()
    again.load(path)

    assert again.step(2) == expected


def test_frozen_parameters_are_not_kept(path):
    run = Run()
    run.model[0].requires_grad_(False)
    run.step(1)
    run.save(path)
    again = Run()
    again.model[0].requires_grad_(False)
    nn.init.zeros_(again.model[0].weight)

    again.load(path)

    assert not again.model[0].weight.any()
    assert torch.equal(again.model[2].weight, run.model[2].weight)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_torn_file_is_named_and_nothing_is_loaded(path, keep):
    Run().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    run = Run()
    before = run.step(1)

    with pytest.raises(DamagedCheckpoint, match="not a whole checkpoint") as caught:
        run.load(path)

    assert str(path) in str(caught.value)
    assert [p.tolist() for p in run.model.parameters()] == before


@pytest.mark.parametrize("place", [9, 300, -300, -1])
def test_a_byte_that_is_another_is_noticed_and_nothing_is_loaded(path, place):
    Run().save(path)
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)
    run = Run()
    before = run.step(1)

    with pytest.raises(DamagedCheckpoint, match="not a whole checkpoint"):
        run.load(path)

    assert [p.tolist() for p in run.model.parameters()] == before


def test_a_checkpoint_of_another_model_is_refused(path):
    Run(width=5).save(path)

    with pytest.raises(
        UserError, match="a checkpoint of another model; delete it to start this trial again"
    ):
        Run(width=4).load(path)


def test_a_disk_that_fills_up_leaves_the_old_checkpoint(path):
    run = Run()
    run.save(path)
    run.step(2)

    with files_no_longer_than(200), pytest.raises(OSError, match="File too large"):
        run.save(path, POSITION | {"step": 5})

    assert Run().load(path) == POSITION
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_saving_again_replaces_the_file(path):
    Run().save(path)
    Run().save(path, POSITION | {"step": 9})

    assert Run().load(path)["step"] == 9
    assert [p.name for p in path.parent.iterdir()] == [path.name]

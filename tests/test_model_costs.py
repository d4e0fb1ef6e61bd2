"""What a saved model costs, and what measuring it leaves as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from embsearch.config.load import compose
from embsearch.model_costs import CostMeter, megabytes, one_thread
from embsearch.tasks.catalogue import task_of
from embsearch.values import Measurement


def test_an_adapter_that_nothing_loads_is_no_part_of_the_size(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "1_Pooling").mkdir()
    for name, size in (("model", 3000), ("adapter/weights", 700), ("1_Pooling/config", 20)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert megabytes(tmp_path) == 0.00302


def test_threads_are_as_they_were_also_after_an_error():
    before = torch.get_num_threads()

    def fail():
        with one_thread():
            assert torch.get_num_threads() == 1
            raise ValueError("stop")

    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="stop"):
            fail()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_trials_first_measurement_has_costs_and_no_random_number_is_drawn(
    tiny_bert, judgements_csv, tmp_path
):
    words = [f"home={tmp_path}", f"data.path={judgements_csv}", f"model.path={tiny_bert}"]
    config = compose([*words, "device=cpu", "evaluate.costs=[dimension,latency]"])
    task = task_of(config)
    cache = task.prepare(config.data, tmp_path / "cache")
    trial = tmp_path / "trial"
    trial.mkdir()
    (trial / "model").symlink_to(tiny_bert)
    run = iter([Measurement(1, 1, 1, {}, 1.0), Measurement(2, 2, 2, {}, 2.0)])
    torch.manual_seed(5)
    before = torch.get_rng_state()
    measured = CostMeter().added_to(run, config, trial, task.load(Path(cache)), str(cache))
    first, second = measured
    assert list(first.costs) == ["dimension", "latency"]
    assert first.costs["dimension"] == 64
    assert 0 < first.costs["latency"] < 1000
    assert second.costs == {}
    assert torch.equal(torch.get_rng_state(), before)

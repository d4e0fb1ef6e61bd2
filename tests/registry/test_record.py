"""What promotion keeps and looks up: files, training rows, looks at the test rows."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from embsearch.config.schema import DataConfig, SplitConfig
from embsearch.data.load import load_dataset
from embsearch.registry import leak, looks
from embsearch.registry.candidate import Candidate
from embsearch.registry.files import files
from embsearch.track.digest import manifest
from embsearch.track.events import EventLog, read_events


@pytest.fixture
def model(tiny_bert, tmp_path):
    return shutil.copytree(tiny_bert, tmp_path / "model")


def test_files_that_are_as_recorded_pass_and_a_changed_one_is_named(model):
    kept = manifest(model)
    assert files(model, {"the study": kept}).passed
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    found = files(model, {"the study": kept, "MLflow": kept})
    assert not found.passed
    assert "model.safetensors: not what the study recorded" in found.words
    assert "not what MLflow recorded" in found.words


@pytest.mark.parametrize("name", ["pytorch_model.bin", "head.pkl", "2_Dense/model.PT", "modeling.py"])
def test_files_that_may_run_code_refuse_also_where_they_were_recorded(model, name):
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"")
    found = files(model, {"MLflow": manifest(model)})
    assert not found.passed
    assert f"{name}: a file that can run code" in found.words


def test_a_model_without_safetensors_has_no_weights(model):
    (model / "model.safetensors").unlink()
    assert "no safetensors" in files(model, {}).words


@pytest.fixture
def splits(judgements_csv, tmp_path):
    """The same rows, split in two ways."""
    config = DataConfig(path=str(judgements_csv))
    return [load_dataset(replace(config, split=SplitConfig(seed=seed)), tmp_path / "cache") for seed in (0, 1)]


def test_of_its_own_split_no_test_row_was_trained_on_and_of_another_some_were(splits):
    one, other = splits
    assert leak.share_seen(one, leak.trained_on(one)) == 0
    seen = leak.share_seen(one, leak.trained_on(other))
    pairs = {(other.texts[a], other.texts[t]) for a, t in _trained(other)}
    rows = [(one.texts[q], one.texts[t]) for q, t in zip(one.test.text, one.test.title, strict=True)]
    assert seen == pytest.approx(np.mean([row in pairs for row in rows]))
    assert seen > 0


def _trained(data):
    for anchor, positive, negative in zip(data.train.anchor, data.train.positive, data.train.negative, strict=True):
        yield anchor, positive
        if negative >= 0:
            yield anchor, negative


def test_looks_count_models_not_how_often_and_warn_from_the_third(tmp_path, splits):
    rows, others = map(looks.test_rows, splits)
    assert rows != others
    assert [looks.look(tmp_path, rows, model, "a study") for model in ("a", "b", "a", "c")] == [1, 2, 2, 3]
    assert looks.look(tmp_path, others, "a", "a study") == 1
    assert not looks.warning(2)
    assert looks.warning(3).startswith("3 models have been judged by these test rows")


@pytest.mark.parametrize(("trained_in", "data"), [((0, 0), "old"), ((0, 1), "old"), ((1, 1), "new")])
def test_a_trial_of_a_study_that_went_on_with_other_data_stands_for_those_it_was_trained_on(
    tmp_path, trained_in, data
):
    """``trained_in``: the sessions in which the trial began and ended; the second one has other data."""
    clock = SimpleNamespace(time=lambda: clock.now, now=0.0)
    study = EventLog(tmp_path / "events.jsonl", clock)
    trial = EventLog(tmp_path / "t" / "events.jsonl", clock)
    for session, fingerprint in enumerate(("old", "new")):
        clock.now = 100.0 * session + 1
        study.append("opened", data=fingerprint)
        clock.now += 10
        if trained_in[0] == session:
            trial.append("created", trial=0)
        clock.now += 10
        if trained_in[1] == session:
            trial.append("ended", state="complete")
    folder = SimpleNamespace(
        trial=lambda number: tmp_path / "t",
        log_of_kind=lambda kind: [e for e in read_events(study.path) if e["kind"] == kind],
    )
    asked = SimpleNamespace(folder=folder, trial=0, data=SimpleNamespace(fingerprint="new"))
    assert Candidate.opened.func(asked)["data"] == data

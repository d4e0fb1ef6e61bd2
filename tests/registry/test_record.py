"""What promotion keeps and looks up: files, training rows, looks at the test rows."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import append

from embsearch.config.schema import DataConfig, SplitConfig
from embsearch.data.load import load_dataset
from embsearch.errors import StudyError
from embsearch.history import events
from embsearch.history.log import EventLog, read_events
from embsearch.registry import leak, test_set_uses
from embsearch.registry.candidate import Candidate
from embsearch.registry.file_gate import files_gate
from embsearch.tasks.catalogue import task_named
from embsearch.track.digest import manifest

RETRIEVAL = task_named("retrieval")


@pytest.fixture
def model(tiny_bert, tmp_path):
    return shutil.copytree(tiny_bert, tmp_path / "model")


def test_files_that_are_as_recorded_pass_and_a_changed_one_is_named(model):
    kept = manifest(model)
    assert files_gate(model, {"the study": kept}).passed
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    found = files_gate(model, {"the study": kept, "MLflow": kept})
    assert not found.passed
    assert "model.safetensors: not what the study recorded" in found.words
    assert "not what MLflow recorded" in found.words


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "head.pkl", "2_Dense/model.PT", "modeling.py"]
)
def test_files_that_may_run_code_refuse_also_where_they_were_recorded(model, name):
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"")
    found = files_gate(model, {"MLflow": manifest(model)})
    assert not found.passed
    assert f"{name}: a file that can run code" in found.words


def test_a_model_without_safetensors_has_no_weights(model):
    (model / "model.safetensors").unlink()
    assert "no safetensors" in files_gate(model, {}).words


@pytest.fixture
def splits(judgements_csv, tmp_path):
    """The same rows, split in two ways."""
    config = DataConfig(path=str(judgements_csv))
    return [
        load_dataset(replace(config, split=SplitConfig(seed=seed)), tmp_path / "cache")
        for seed in (0, 1)
    ]


def test_of_its_own_split_no_test_row_was_trained_on_and_of_another_some_were(splits):
    one, other = splits
    assert leak.share_seen(RETRIEVAL, one, RETRIEVAL.training_keys(one)) == 0
    seen = leak.share_seen(RETRIEVAL, one, RETRIEVAL.training_keys(other))
    pairs = {(other.texts[a], other.texts[t]) for a, t in _trained(other)}
    rows = [
        (one.texts[q], one.texts[t]) for q, t in zip(one.test.text, one.test.title, strict=True)
    ]
    assert seen == pytest.approx(np.mean([row in pairs for row in rows]))
    assert seen > 0


def _trained(data):
    for anchor, positive, negative in zip(
        data.train.anchor, data.train.positive, data.train.negative, strict=True
    ):
        yield anchor, positive
        if negative >= 0:
            yield anchor, negative


def test_looks_count_models_not_how_often_and_warn_from_the_third(tmp_path, splits):
    rows, others = (test_set_uses.digest_of_rows(RETRIEVAL, data) for data in splits)
    assert rows != others
    assert [
        test_set_uses.note_use(tmp_path, rows, model, "a study") for model in ("a", "b", "a", "c")
    ] == [
        1,
        2,
        2,
        3,
    ]
    assert test_set_uses.note_use(tmp_path, others, "a", "a study") == 1
    assert not test_set_uses.warning(2)
    assert test_set_uses.warning(3).startswith("3 models have been judged by these test rows")


def test_a_model_that_was_trained_alone_counts_once_there_is_another_to_choose_it_over(tmp_path):
    def counted(model, alone=True):
        return test_set_uses.note_use(tmp_path, "rows", model, "a study", alone)

    assert [counted(model) for model in ("a", "a", "b", "c")] == [0, 0, 2, 3]
    assert counted("a", alone=False) == 3
    assert counted("d", alone=False) == 4


def test_a_look_that_an_older_embsearch_noted_after_ours_is_named_and_what_to_do(tmp_path):
    test_set_uses.note_use(tmp_path, "rows", "a", "a study")
    log = tmp_path / test_set_uses.FILE
    kept = log.read_bytes()
    theirs = '{"seq": 1, "time": 1, "kind": "looked", "rows": "rows", "model": "b", "by": "s"}\n'
    log.write_bytes(kept + theirs.encode())
    with pytest.raises(StudyError) as told:
        test_set_uses.note_use(tmp_path, "rows", "c", "a study")
    assert "line 2: it has no link, and the line before it has one: an older embsearch" in str(
        told.value
    )
    assert "Use one version of embsearch for this home, and delete the lines from 2 on" in str(
        told.value
    )
    log.write_bytes(kept)
    assert test_set_uses.note_use(tmp_path, "rows", "b", "the same command") == 2


@pytest.mark.parametrize(
    ("trained_in", "data"), [((0, 0), "old"), ((0, 1), "old"), ((1, 1), "new")]
)
def test_a_trial_of_a_study_that_went_on_with_other_data_stands_for_those_it_was_trained_on(
    tmp_path, trained_in, data
):
    """``trained_in``: the sessions in which the trial began and ended; the second one has other data."""
    clock = SimpleNamespace(time=lambda: clock.now, now=0.0)
    study = EventLog(tmp_path / "events.jsonl", clock)
    trial = EventLog(tmp_path / "t" / "events.jsonl", clock)
    for session, fingerprint in enumerate(("old", "new")):
        clock.now = 100.0 * session + 1
        append(study, "opened", name="s", data=fingerprint)
        clock.now += 10
        if trained_in[0] == session:
            append(trial, "created", trial=0, params={})
        clock.now += 10
        if trained_in[1] == session:
            append(trial, "ended", state="complete", reason="budget spent")
    folder = SimpleNamespace(
        trial=lambda number: tmp_path / "t",
        of_kind=lambda kind: events.of_kind(read_events(study.path), kind),
    )
    asked = SimpleNamespace(folder=folder, trial=0, data=SimpleNamespace(fingerprint="new"))
    assert Candidate.opened.func(asked).data == data

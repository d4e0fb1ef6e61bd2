"""One trial: it learns, measures where it was told to, keeps its best, and goes on with the same bits."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from embsearch.config.build import build, to_dict, with_values
from embsearch.data.augment import Augmenter, read_synonyms
from embsearch.data.batch import ClickGraph, batches
from embsearch.data.dataset import Dataset, sample
from embsearch.data.load import prepare_dataset
from embsearch.errors import DataError, Diverged
from embsearch.evaluate.score import score, similarity
from embsearch.launch.base import EvaluateJob, Failed, TrainJob, decode_job, encode
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.encoder import Encoder
from embsearch.tasks.catalogue import task_named
from embsearch.trial import trial, vectors_of
from embsearch.values import Segment
from embsearch.worker import Worker

CPU = choose("cpu", "fp32")
RETRIEVAL = task_named("retrieval")


@pytest.fixture(scope="module")
def cache(judgements_csv, tmp_path_factory):
    return prepare_dataset(
        build({"data": {"path": str(judgements_csv)}}).data, tmp_path_factory.mktemp("cache")
    )


@pytest.fixture(scope="module")
def data(cache):
    return Dataset.load(cache)


@pytest.fixture
def config(tiny_bert):
    values = {
        "model": {"path": str(tiny_bert), "dropout": 0.1},
        "train": {
            "texts": 960,
            "batch_size": 16,
            "lr": 3e-3,
            "warmup_steps": 2,
            "precision": "fp32",
        },
        "objective": {"name": "triplet"},  # works with batches of one, too
        "evaluate": {"at": [0.25, 0.5, 1.0]},
        "device": "cpu",
    }
    return build(values)


@pytest.fixture
def synonyms(tmp_path):
    file = tmp_path / "synonyms.tsv"
    file.write_text("red\tcrimson\nfast\trapid\nlamp\tlight\n")
    return file


def augmented(config, synonyms):
    values = {"drop": 0.3, "swap": 0.3, "synonym": 0.5, "synonyms": str(synonyms)}
    return with_values(config, {f"train.augment.{k}": v for k, v in values.items()})


def begin(
    config,
    cache,
    folder,
    worker=None,
    report=lambda step, at, metrics: None,
    halt=lambda: False,
    queries=(),
):
    """The trial's generator over a fresh encoder, and the encoder."""
    worker = worker or Worker()
    encoder, tokens = worker._encoder(config, worker.dataset(config, str(cache)), cache, CPU)
    return trial(
        config,
        worker.dataset(config, str(cache)),
        tokens,
        encoder,
        CPU,
        folder,
        report,
        halt,
        queries,
    ), encoder


def whole(config, cache, folder, queries=()):
    """Every measurement of an uninterrupted trial."""
    return list(begin(config, cache, folder, queries=queries)[0])


def auc(encoder, tokens, rows):
    return score(rows, similarity(rows, *vectors_of(RETRIEVAL, encoder, tokens, rows, CPU)))["auc"]


def metrics(measured):
    return [(m.rung, m.step, m.texts_seen, dict(m.metrics), m.last, m.why) for m in measured]


def sha256(folder):
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def weights(encoder):
    return [p.detach().clone() for p in encoder.parameters()]


def segment(config, cache, folder, number, at, until):
    return TrainJob(Segment(number, 0, at, until), to_dict(config), str(folder), str(cache))


def ended(worker, job):
    *_, last = worker(decode_job(json.loads(json.dumps(encode(job)))))
    assert not isinstance(last, Failed), last.traceback
    return last


# ---- it learns, and measures where it was told to --------------------------------------------


def test_a_trial_learns_what_the_rows_say(config, cache, data, tmp_path):
    run, encoder = begin(config, cache, tmp_path)
    untuned = auc(encoder, Worker()._encoder(config, data, cache, CPU)[1], data.valid)

    last = list(run)[-1]

    assert untuned < 0.65
    assert last.metrics["val/auc"] > untuned + 0.2


def test_there_is_one_measurement_at_each_share_of_the_budget(config, cache, tmp_path):
    found = whole(config, cache, tmp_path)

    assert [(m.rung, m.step, m.texts_seen) for m in found] == [
        (1, 5, 240),
        (2, 10, 480),
        (3, 20, 960),
    ]
    assert [(m.last, m.why) for m in found] == [(False, ""), (False, ""), (True, "budget spent")]


def test_shares_that_fall_on_one_step_are_measured_once(config, cache, tmp_path):
    config = with_values(config, {"train.texts": 96, "evaluate.at": [0.1, 0.2, 0.5, 1.0]})

    found = whole(config, cache, tmp_path)

    assert [(m.rung, m.step) for m in found] == [(3, 1), (4, 2)]


@pytest.mark.parametrize("size", [1, 7, 16, 100, 1000])
def test_the_budget_is_counted_in_texts_whatever_the_batch_size(
    config, cache, data, tmp_path, size
):
    texts = 600 if size < 16 else 3000
    config = with_values(
        config, {"train.batch_size": size, "train.texts": texts, "evaluate.at": [1.0]}
    )

    [last] = whole(config, cache, tmp_path)

    one_batch = 3 * min(size, len(data.train))
    assert texts <= last.texts_seen < texts + one_batch


def test_the_report_is_called_after_every_step(config, cache, tmp_path):
    seen = []

    list(
        begin(
            config,
            cache,
            tmp_path,
            report=lambda step, at, found: seen.append((step, *sorted(found))),
        )[0]
    )

    assert seen == [(n, "cost/texts_per_second", "train/loss", "train/lr") for n in range(1, 21)]


def test_the_model_folder_holds_the_best_evaluation(config, cache, data, tmp_path, monkeypatch):
    config = with_values(config, {"evaluate.at": [0.2, 0.4, 0.6, 0.8, 1.0]})
    spoils = lambda step, steps, warmup, train: 3e-3 if step < 0.6 * steps else 0.1  # noqa: E731
    monkeypatch.setattr("embsearch.trial.learning_rate", spoils)
    found = whole(config, cache, tmp_path)

    model = Encoder(pretrained.load(tmp_path / "model"))
    tokens = Worker()._encoder(config, data, cache, CPU)[1]
    again = auc(model, tokens, data.valid)

    values = [m.metrics["val/auc"] for m in found]
    assert values[-1] < max(values) - 0.1
    assert again == pytest.approx(max(values), abs=1e-6)


def test_early_evaluations_read_as_many_queries_as_they_are_told(config, cache, data, tmp_path):
    found = whole(config, cache, tmp_path, queries=[2, 4, 6])

    assert [m.rows for m in found] == [len(sample(data.valid, n)) for n in (2, 4, 6)]
    assert [m.rows for m in whole(config, cache, tmp_path / "all")] == [len(data.valid)] * 3


def test_a_model_that_was_best_on_few_rows_does_not_stand_above_one_measured_on_more(
    config, cache, tmp_path
):
    config = with_values(
        config, {"train.lr": 1e-12, "train.patience": 1, "evaluate.at": [0.2, 0.4, 0.6, 0.8, 1.0]}
    )
    values, models = [], []
    for measured in begin(config, cache, tmp_path, queries=[2, 3, 5, 5, 5])[0]:
        values.append(measured.metrics["val/auc"])
        models.append(sha256(tmp_path))

    assert values[2] < max(values)  # were rows not looked at, that evaluation's model would be kept
    assert len(set(models[:3])) == 3
    assert measured.why == "early stopping: no better auc in 1 evaluations"
    assert (measured.rung, models[3]) == (
        4,
        models[2],
    )  # on the same rows the better one stays, and patience counts


def test_a_trial_that_reads_more_at_every_rung_goes_on_with_the_same_bits(config, cache, tmp_path):
    queries = [2, 4, 6]
    expected = metrics(whole(config, cache, tmp_path / "calm", queries))
    for rung in (1, 2):
        list(islice(begin(config, cache, tmp_path / "cut", queries=queries)[0], rung))
    again = whole(config, cache, tmp_path / "cut", queries)

    assert metrics(again) == expected[1:]
    assert sha256(tmp_path / "cut") == sha256(tmp_path / "calm")


def test_a_saved_model_needs_nothing_of_ours(config, cache, data, tmp_path):
    last = whole(config, cache, tmp_path)[-1]
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    ids = np.unique(np.concatenate([data.valid.text, data.valid.title]))

    vectors = model.encode([data.texts[i] for i in ids], convert_to_numpy=True)

    assert score(data.valid, similarity(data.valid, ids, vectors))["auc"] == pytest.approx(
        last.metrics["val/auc"], abs=1e-6
    )


def test_a_trial_that_no_longer_improves_stops_early(config, cache, tmp_path):
    at = [n / 10 for n in range(1, 11)]
    config = with_values(config, {"train.patience": 2, "train.lr": 1e-12, "evaluate.at": at})

    found = whole(config, cache, tmp_path)

    assert [m.rung for m in found] == [1, 2, 3]
    assert found[-1].why == "early stopping: no better auc in 2 evaluations"


# ---- what goes wrong ---------------------------------------------------------------------------


def test_a_trial_that_diverges_says_so_before_the_step_is_applied(config, cache, tmp_path):
    config, after = with_values(config, {"train.lr": 1e30}), []
    run, encoder = begin(
        config, cache, tmp_path, report=lambda step, at, found: after.append(weights(encoder))
    )

    with pytest.raises(Diverged, match=r"at step 2 \(.*learning rate 1e\+30\)"):
        list(run)

    assert len(after) == 1
    assert all(torch.equal(a, b) for a, b in zip(weights(encoder), after[-1], strict=True))


def test_a_trial_that_diverges_in_the_step_before_its_evaluation_is_diverged_too(
    config, cache, tmp_path
):
    config = with_values(
        config, {"train.lr": 1e30, "train.warmup_steps": 0, "evaluate.at": [0.05, 1.0]}
    )

    with pytest.raises(Diverged, match="step 1"):
        whole(config, cache, tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_diverged_trial_is_classed_as_such_by_the_worker(config, cache, tmp_path):
    *_, last = Worker()(segment(with_values(config, {"train.lr": 1e30}), cache, tmp_path, 0, 0, 1))

    assert (type(last), last.failure) == (Failed, "diverged")


# ---- resume ------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", ["none", "anchors"])
@pytest.mark.parametrize("rung", [1, 2, 3])
def test_a_trial_dropped_after_any_rung_ends_with_the_same_bits(
    config, cache, tmp_path, synonyms, rung, changes
):
    config = augmented(config, synonyms) if changes == "anchors" else config
    expected = metrics(whole(config, cache, tmp_path / "calm"))

    first = list(islice(begin(config, cache, tmp_path / "cut")[0], rung))
    torch.manual_seed(12345)
    again = whole(config, cache, tmp_path / "cut")

    assert metrics(first) == expected[:rung]
    assert metrics(again) == expected[rung - 1 :]
    assert sha256(tmp_path / "cut") == sha256(tmp_path / "calm")


def test_a_trial_killed_between_two_evaluations_loses_only_that_segment(config, cache, tmp_path):
    expected = metrics(whole(config, cache, tmp_path / "calm"))

    def report(step, at, found):
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(begin(config, cache, tmp_path / "cut", report=report)[0])

    assert metrics(whole(config, cache, tmp_path / "cut")) == expected[1:]
    assert sha256(tmp_path / "cut") == sha256(tmp_path / "calm")


@pytest.mark.parametrize("changes", ["none", "anchors"])
@pytest.mark.parametrize("steps", [[1], [7], [19], [4, 6, 12, 13]])
def test_a_trial_halted_anywhere_goes_on_from_that_step_with_the_same_bits(
    config, cache, tmp_path, synonyms, steps, changes
):
    config = augmented(config, synonyms) if changes == "anchors" else config
    expected = metrics(whole(config, cache, tmp_path / "calm"))

    seen, found = [], []
    for step in [*steps, 99]:
        halts = partial(seen.__contains__, step)
        run, _ = begin(
            config, cache, tmp_path / "cut", report=lambda n, at, m: seen.append(n), halt=halts
        )
        found += metrics(run)
        assert seen[-1] == min(step, 20)
        torch.manual_seed(step)

    assert sorted(set(seen)) == list(range(1, 21))
    assert [m for n, m in enumerate(found) if m not in found[:n]] == expected
    assert sha256(tmp_path / "cut") == sha256(tmp_path / "calm")


def test_checkpoints_between_evaluations_make_a_crash_cheaper_and_change_no_bit(
    config, cache, tmp_path, monkeypatch
):
    expected = metrics(whole(config, cache, tmp_path / "calm"))
    monkeypatch.setattr("embsearch.trial.CHECKPOINT_EVERY", 0.0)
    monkeypatch.setattr("embsearch.trial.CHECKPOINT_SHARE", math.inf)
    first, again = [], []

    def report(step, at, found):
        first.append((step, at, found))
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(begin(config, cache, tmp_path / "cut", report=report)[0])
    run, _ = begin(config, cache, tmp_path / "cut", report=lambda *point: again.append(point))

    assert metrics(run) == expected[1:]
    assert sha256(tmp_path / "cut") == sha256(tmp_path / "calm")
    assert again[:2] == first[10:12]  # told once more: nobody knows whether they were heard
    assert [step for step, _, _ in again] == list(range(11, 21))


@pytest.mark.parametrize(
    "at", ["before the checkpoint", "after the checkpoint", "between two renames"]
)
def test_model_and_checkpoint_are_never_ahead_of_each_other(
    config, cache, tmp_path, monkeypatch, at
):
    config = with_values(
        config, {"train.lr": 2e-4}
    )  # every evaluation is better than the one before
    expected, models = [], []
    for measured in begin(config, cache, tmp_path / "calm")[0]:
        expected += metrics([measured])
        models.append(sha256(tmp_path / "calm"))
    list(islice(begin(config, cache, tmp_path / "cut")[0], 1))
    place, do = {
        "before the checkpoint": ("embsearch.trial.checkpoint.save", pretrained.disk.put),
        "after the checkpoint": ("embsearch.trial.pretrained.put", pretrained.put),
        "between two renames": ("embsearch.model.pretrained.disk.put", pretrained.disk.put),
    }[at]

    def die(source, target, *rest, **more):
        if place.endswith("save") or target == tmp_path / "cut" / "model":
            raise KeyboardInterrupt
        do(source, target)

    monkeypatch.setattr(place, die)
    with pytest.raises(KeyboardInterrupt):
        list(begin(config, cache, tmp_path / "cut")[0])
    monkeypatch.undo()
    run, _ = begin(config, cache, tmp_path / "cut")
    rung = next(run).rung

    assert rung == (1 if at == "before the checkpoint" else 2)
    assert sha256(tmp_path / "cut") == models[rung - 1]
    assert metrics(run) == expected[rung:]
    assert sha256(tmp_path / "cut") == models[2]
    assert len(set(models)) == 3
    assert list((tmp_path / "cut").glob(".*")) == []


def test_another_trial_in_between_on_the_same_worker_changes_no_bit(
    config, cache, tmp_path, synonyms
):
    config = augmented(config, synonyms)
    other = with_values(config, {"train.lr": 1e-3, "train.seed": 5, "model.dropout": 0.3})
    expected = metrics(whole(config, cache, tmp_path / "calm"))
    worker = Worker()

    found = []
    for rung in range(3):
        found.append(
            ended(worker, segment(config, cache, tmp_path / "a", 0, rung, rung + 1)).measurement
        )
        ended(worker, segment(other, cache, tmp_path / "b", 1, rung, rung + 1))

    assert [(m.rung, m.metrics) for m in found] == [
        (rung, values) for rung, _, _, values, _, _ in expected
    ]
    assert sha256(tmp_path / "a") == sha256(tmp_path / "calm")


@pytest.mark.parametrize("what", ["the untuned encoder", "a saved model"])
def test_an_evaluation_in_between_on_the_same_worker_changes_no_bit(config, cache, tmp_path, what):
    config = with_values(config, {"model.projection": 16})
    whole(config, cache, tmp_path / "calm")
    worker = Worker()
    model = str(tmp_path / "a" / "model") if what == "a saved model" else None
    job = EvaluateJob("valid", to_dict(config), str(cache), model)

    for rung in range(3):
        ended(worker, segment(config, cache, tmp_path / "a", 0, rung, rung + 1))
        ended(worker, job)

    assert sha256(tmp_path / "a") == sha256(tmp_path / "calm")


def test_a_trial_that_has_ended_says_its_last_word_again_and_no_more(config, cache, tmp_path):
    expected, before = metrics(whole(config, cache, tmp_path)), sha256(tmp_path)

    assert metrics(whole(config, cache, tmp_path)) == expected[-1:]
    assert sha256(tmp_path) == before


def test_equal_seeds_give_equal_bits_and_other_seeds_others(config, cache, tmp_path):
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        whole(
            with_values(config, {"train.seed": seed, "model.projection": 16}),
            cache,
            tmp_path / name,
        )

    assert sha256(tmp_path / "one") == sha256(tmp_path / "same") != sha256(tmp_path / "other")


def test_a_worker_keeps_its_encoder_for_trials_that_compute_alike(config, cache, data):
    """On a GPU it is packed, and has graphs, for one precision."""
    worker = Worker()
    first, _ = worker._encoder(config, data, cache, CPU)
    assert worker._encoder(config, data, cache, CPU)[0] is first
    assert (
        worker._encoder(config, data, cache, replace(CPU, autocast=torch.bfloat16))[0] is not first
    )


# ---- augmentation ------------------------------------------------------------------------------


@pytest.fixture
def augment(config, cache, data, synonyms):
    """A fresh augmenter at each call, and the batch with this number."""
    encoder, tokens = Worker()._encoder(config, data, cache, CPU)

    def make(seed=0):
        return Augmenter(
            augmented(config, synonyms).train.augment, data, tokens, encoder.model.tokenizer, seed
        )

    def number(at):
        return next(batches(data.train, ClickGraph(data), 16, seed=0, start=at))

    return make, number


def anchors(augmenter, batch):
    return [list(augmenter.tokens.row(batch.text_D[a])) for a in batch.anchor_B]


def test_what_changes_is_a_function_of_seed_and_step(augment):
    make, number = augment
    went_through = make()
    for step in range(3):
        last = went_through(number(step), step)
    begun_there, other = make(), make(seed=1)

    found = anchors(went_through, last)

    assert found == anchors(begun_there, begun_there(number(2), 2))
    assert found != anchors(other, other(number(2), 2))
    assert found != anchors(begun_there, begun_there(number(2), 3))


def test_only_anchors_change_and_nothing_else_of_the_batch(augment, data):
    make, number = augment
    augmenter, plain = make(), number(0)

    changed = augmenter(plain, 0)

    for of in ("positive_B", "negative_B", "title_C"):
        before, after = (b.text_D[getattr(b, of).numpy()] for b in (plain, changed))
        assert np.array_equal(before, after)
    assert (changed.text_D[changed.anchor_B.numpy()] >= len(data.texts)).all()
    assert torch.equal(changed.known_BC, plain.known_BC)
    assert changed.texts_seen == plain.texts_seen


def test_equal_anchors_stay_equal(augment):
    make, number = augment
    plain = replace(number(0), anchor_B=torch.tensor([0, 0, 1, 0] * 4))

    changed = make()(plain, 0)

    assert changed.anchor_B.view(4, 4)[:, [0, 1, 3]].unique().numel() == 1


def test_a_change_that_needs_a_token_the_table_no_longer_has_is_not_made(augment, data):
    make, number = augment
    augmenter = make()
    kept = set(np.unique(augmenter.known).tolist())

    for step in range(5):
        found = augmenter(number(step), step)
        assert {i for row in anchors(augmenter, found) for i in row} <= kept


def test_a_text_without_blanks_is_changed_by_character(config, data, cache, synonyms):
    tokens, model = Worker()._encoder(config, data, cache, CPU)[::-1]
    always = replace(augmented(config, synonyms).train.augment, drop=1.0, swap=0.0, synonym=0.0)
    augmenter = Augmenter(always, data, tokens, model.model.tokenizer, 0)

    found = {augmenter.change("运动手表", np.random.default_rng(n)) for n in range(50)}

    assert found == {"动手表", "运手表", "运动表", "运动手"}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, r"train\.augment\.synonyms=.*No such file.*expected a UTF-8 file, one group a line"),
        (b"\xff\xfe\x00", r"train\.augment\.synonyms=.*expected a UTF-8 file"),
        (
            b"red\tcrimson\n\nfast rapid\n",
            r"line 3: 'fast rapid' is alone; separate the words of a group by tabs",
        ),
    ],
    ids=["missing", "not UTF-8", "no tab"],
)
def test_a_synonym_file_at_fault_is_named_with_its_line(tmp_path, content, fault):
    file = tmp_path / "synonyms.tsv"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(DataError, match=fault):
        read_synonyms(file)


def test_synonyms_stand_for_each_other_whatever_their_case(tmp_path):
    file = tmp_path / "synonyms.tsv"
    file.write_text("\ufeffRed\tcrimson\tscarlet\n", encoding="utf-8")

    assert read_synonyms(file) == {
        "red": ["crimson", "scarlet"], "crimson": ["Red", "scarlet"], "scarlet": ["Red", "crimson"],
    }  # fmt: skip


def test_vectors_come_with_their_text_ids(config, cache, data):
    encoder, tokens = Worker()._encoder(config, data, cache, CPU)

    ids, vectors = vectors_of(RETRIEVAL, encoder, tokens, data.valid, CPU)

    assert ids.tolist() == sorted({*data.valid.text, *data.valid.title})
    assert vectors.shape == (len(ids), 64)
    assert math.isclose(np.linalg.norm(vectors[0]), 1, abs_tol=1e-5)

"""Several sets of data as one: ids, roles, and whose turn a batch is."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from embsearch.config.build import with_values
from embsearch.config.schema import AugmentConfig, Config, DataConfig, SetConfig, SplitConfig
from embsearch.config.sets import of_set
from embsearch.data.augment import Augmenter
from embsearch.data.dataset import queries_of, roles_of
from embsearch.data.several import turns
from embsearch.data.tokenise import cached, prompted
from embsearch.errors import ConfigError, DataError
from embsearch.study.fit_sets import fit_sets
from embsearch.tasks.catalogue import task_of


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Judged titles with a share of 3, and texts of two classes."""
    folder = tmp_path_factory.mktemp("several")
    words = [f"{a}{b}" for a in "abcdef" for b in "uvwxyz"]
    judged = [f"q{w},red {w},{g}" for w in words for g in (0, 1)]
    judged = [row.replace("red", "not", 1) if row.endswith("0") else row for row in judged]
    classes = [f"{w} one,first\n{w} two,second" for w in words]
    (folder / "titles.csv").write_text("\n".join(["query,title,grade", *judged]))
    (folder / "intents.csv").write_text("\n".join(["text,label", *classes]))
    sets = {
        "titles": SetConfig(path=str(folder / "titles.csv"), share=3),
        "intents": SetConfig(path=str(folder / "intents.csv"), format="classes"),
    }
    config = Config(data=DataConfig(sets=sets))
    task = task_of(config)
    return config, task, task.load(task.prepare(config.data, folder / "cache"))


def eights(config, seed):
    """Return the config with batches of eight rows."""
    return with_values(config, {"train.batch_size": 8, "train.seed": seed})


@given(
    shares=st.lists(st.floats(0.05, 20), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
    start=st.integers(0, 10**6),
    count=st.integers(1, 3000),
)
def test_every_set_has_its_share_of_any_stretch_to_within_a_few_batches(shares, seed, start, count):
    drawn = np.bincount(turns(shares, seed, np.arange(start, start + count)), minlength=len(shares))
    wanted = count * np.array(shares) / sum(shares)
    assert np.abs(drawn - wanted).max() <= 2 * math.log2(count + 1) + 2


def test_another_share_changes_few_turns_and_another_seed_all_of_them():
    number = np.arange(2000)
    one = turns([1.0, 1.0], 0, number)
    assert (one != turns([1.1, 1.0], 0, number)).mean() < 0.05
    assert (one != turns([1.0, 1.0], 1, number)).mean() > 0.05


def test_a_batch_is_of_one_set_and_its_texts_are_that_sets_own(both):
    config, task, data = both
    second = data.first["intents"]
    counts = {"titles": 0, "intents": 0}
    for batch in islice(task.batches(data, eights(config, 0)), 200):
        counts[batch.of] += 1
        assert ((batch.text_D >= second) == (batch.of == "intents")).all()
    assert counts["titles"] / 200 == pytest.approx(0.75, abs=0.02)


def test_the_rows_of_a_set_come_as_they_come_to_that_set_alone(both):
    config, task, data = both
    alone, own = task.tasks["titles"], data.sets["titles"]
    mine = (b for b in task.batches(data, eights(config, 3)) if b.of == "titles")
    for batch, other in islice(
        zip(mine, alone.batches(own, eights(of_set(config, "titles"), 3)), strict=False), 30
    ):
        assert batch.text_D.tolist() == other.text_D.tolist()
        assert batch.anchor_B.tolist() == other.anchor_B.tolist()


@pytest.mark.parametrize("start", [1, 7, 64])
def test_who_goes_on_from_a_batch_sees_the_same_batches(both, start):
    config, task, data = both
    whole = list(islice(task.batches(data, eights(config, 5)), start + 20))[start:]
    later = list(islice(task.batches(data, eights(config, 5), start), 20))
    assert [b.of for b in later] == [b.of for b in whole]
    assert all((a.text_D == b.text_D).all() for a, b in zip(later, whole, strict=True))


def test_the_budget_of_texts_is_met_by_the_shares(both):
    config, task, data = both
    steps = task.steps(data, 4000, 8)
    shown = sum(batch.texts_seen for batch in islice(task.batches(data, eights(config, 0)), steps))
    assert shown == pytest.approx(4000, rel=0.05)
    rows, texts = task.epoch(data)
    assert rows == len(data.train)
    assert 2 * rows <= texts <= 3 * rows


def test_ids_are_numbered_set_after_set_and_roles_are_the_sets_own(both):
    _, _, data = both
    titles, intents = data.sets["titles"], data.sets["intents"]
    assert data.texts == (*titles.texts, *intents.texts)
    names, role_N = roles_of(data)
    assert names == ["titles_query", "titles_document", "intents_query", "intents_document"]
    both_roles = np.concatenate([queries_of(titles), queries_of(intents)])
    assert (queries_of(data) == both_roles).all()
    texts = prompted(data, ["a: ", "b: ", "c: ", "d: "])
    assert texts[data.first["intents"]] == f"c: {intents.texts[0]}"
    assert {text[0] for text in texts} == {"a", "b", "c"}
    assert set(role_N[data.first["intents"] :].tolist()) == {2}


def test_an_anchor_that_augmentation_reads_again_keeps_the_prompt_of_its_set(
    both, tiny_bert, tmp_path
):
    config, task, data = both
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    tokens = cached(data, tokenizer, 32, tmp_path, ["red ", "", "blue ", ""])
    augment = Augmenter(AugmentConfig(swap=1.0), data, tokens, tokenizer, 0)
    for step, batch in enumerate(islice(task.batches(data, eights(config, 0)), 8)):
        found = augment(batch, step)  # queries of two words and less stay as they are
        for before, after in zip(batch.anchor_B.tolist(), found.anchor_B.tolist(), strict=True):
            row = tokens.row(batch.text_D[before]).tolist()
            assert list(augment.tokens.row(found.text_D[after])) == row
            assert tokenizer.decode(row[1:2]) == {"titles": "red", "intents": "blue"}[batch.of]


def test_equal_data_have_one_folder_whatever_else_is_asked(both, tmp_path):
    config, _, data = both
    sets = {n: replace(one, share=9.0, weight=3.0) for n, one in config.data.sets.items()}
    other = Config(data=DataConfig(sets=sets))
    assert task_of(other).load(task_of(other).prepare(other.data, tmp_path)).fingerprint == (
        data.fingerprint
    )


def test_faults_of_a_file_say_whose_set_it_is(both, tmp_path):
    config, _, _ = both
    sets = dict(config.data.sets)
    sets["intents"] = replace(sets["intents"], path=str(tmp_path / "gone.csv"))
    broken = Config(data=DataConfig(sets=sets))
    with pytest.raises((ConfigError, DataError), match=r"intents: data\.sets\.intents\.path="):
        task_of(broken).prepare(broken.data, tmp_path)


def test_rows_that_one_set_trains_on_and_another_tests_are_said(both, tmp_path):
    config, _, _ = both
    twice = replace(config.data.sets["titles"], split=SplitConfig(seed=1))
    sets = {"titles": config.data.sets["titles"], "again": twice}
    same = Config(data=DataConfig(sets=sets), home=str(tmp_path))
    _, notes = fit_sets(same)
    assert any(
        "% of the test rows of all sets are training rows of another set" in n for n in notes
    )
    _, notes = fit_sets(replace(config, home=str(tmp_path)))
    assert not any("training rows of another" in note for note in notes)


def test_a_set_without_test_rows_beside_one_that_has_some_is_refused(both, tmp_path):
    config, _, _ = both
    sets = dict(config.data.sets)
    split = replace(sets["titles"].split, test=0.0)
    sets["titles"] = replace(sets["titles"], split=split)
    odd = Config(data=DataConfig(sets=sets))
    task = task_of(odd)
    data = task.load(task.prepare(odd.data, tmp_path))
    with pytest.raises(ConfigError, match=r"data\.sets\.titles: has no test rows"):
        task.preflight(odd, {}, data)


def test_a_loss_that_a_set_cannot_learn_by_is_refused_by_its_name(both):
    config, task, data = both
    objective = replace(config.objective, name="triplet")
    with pytest.raises(ConfigError, match=r"data\.sets\.intents\.objective\.name=triplet: none"):
        task.preflight(replace(config, objective=objective), {}, data)

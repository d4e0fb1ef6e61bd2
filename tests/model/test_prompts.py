"""Prompts of a model folder: one role a text, and the same vectors as encode_query, encode_document."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embsearch.config.schema import ModelConfig, PromptsConfig
from embsearch.data.dataset import Dataset, JudgedRows, Triplets, queries_of
from embsearch.errors import ModelError
from embsearch.model import pretrained
from embsearch.model.prompts import say_prompts
from embsearch.model.texts import Texts
from embsearch.serve.encoder import TextEncoder
from embsearch.serve.requests import BadRequest, Limits, embeddings, invocation

PROMPTS = {"query": "red shoe ", "document": "blue lamp "}
TEXTS = ("shoe", "crimson shoe for kids", "lamp", "navy coat " * 40)
LIMITS = Limits(10, 1000)


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def dataset() -> Dataset:
    """Text 2 is a query and a title."""
    rows = JudgedRows(
        ids(0, 1), ids(0, 2), ids(2, 1), np.float32([1, 0]), np.array([True, False]), ids(-1, -1)
    )
    train = Triplets(ids(0, 2), ids(2, 3), ids(-1, 1), np.ones(2, np.float32))
    return Dataset(TEXTS, train, rows, rows, np.array([[0, 2], [2, 3]], np.int32), "f")


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    made = tmp_path / "e5-small"
    shutil.copytree(tiny_bert, made)
    file = made / "config_sentence_transformers.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | {"prompts": PROMPTS, "default_prompt_name": "document"}))
    return made


def test_a_text_of_both_roles_gets_a_second_id_as_title() -> None:
    data = dataset().by_role()
    assert data.texts == (*TEXTS, "lamp")
    assert data.train.positive.tolist() == [4, 3]
    assert data.train.negative.tolist() == [-1, 1]
    assert data.known.tolist() == [[0, 4], [2, 3]]
    assert data.test.title.tolist() == [4, 1]
    assert data.test.text.tolist() == [0, 2]
    assert queries_of(data).tolist() == [True, False, True, False, False]
    assert data.by_role() is data


def test_tokens_of_training_are_those_of_encode_query_and_encode_document(
    folder: Path, tmp_path: Path
) -> None:
    data = dataset().by_role()
    encoder = Texts.build(ModelConfig(path=str(folder)), 0)
    plain = Texts.build(
        ModelConfig(path=str(folder), prompts=PromptsConfig(query="", document="")), 0
    )
    found, none = (one.prepare(data, tmp_path / "cache") for one in (encoder, plain))
    assert encoder.model.prompts == PROMPTS
    assert encoder.model.default_prompt_name == "document"
    model = encoder.model
    for i, text in enumerate(data.texts):
        prompt = PROMPTS["query" if i in (0, 2) else "document"]
        own = model.tokenizer(prompt + text, truncation=True, max_length=model.max_seq_length)
        assert found.row(i).tolist() == own["input_ids"]
    assert none.row(0).tolist() != found.row(0).tolist()
    encoder.save(tmp_path / "saved")
    kept = json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text())
    assert kept["prompts"] == PROMPTS
    assert kept["default_prompt_name"] == "document"


def test_a_model_of_texts_of_one_role_says_that_every_text_is_a_query(
    folder: Path, tmp_path: Path
) -> None:
    """So index, server and sentence-transformers encode a text of any role as it was trained."""
    data = replace(dataset(), report={"format": "scored"})
    assert data.symmetric
    encoder = Texts.build(ModelConfig(path=str(folder)), 0)
    found = encoder.prepare(data, tmp_path / "cache")
    encoder.save(tmp_path / "saved")
    model = pretrained.load(tmp_path / "saved")
    text = PROMPTS["query"] + TEXTS[2]  # a title
    assert found.row(2).tolist() == model.tokenizer(text)["input_ids"]
    every = [
        model.encode_query(TEXTS[:3]),
        model.encode_document(TEXTS[:3]),
        model.encode(TEXTS[:3]),
    ]
    for vectors in every[1:]:
        np.testing.assert_allclose(vectors, every[0], atol=1e-6)


def test_the_encoder_of_every_verb_gives_the_vectors_of_sentence_transformers(folder: Path) -> None:
    encode, plain = TextEncoder.open(folder, "cpu"), pretrained.load(folder)
    theirs = {
        "query": plain.encode_query(list(TEXTS)),
        "document": plain.encode_document(list(TEXTS)),
        None: plain.encode(list(TEXTS)),
    }
    for role, vectors in theirs.items():
        np.testing.assert_allclose(encode(TEXTS, role).values, vectors, atol=1e-5)
    assert np.abs(theirs["query"] - theirs["document"]).max() > 1e-3


def test_pooling_that_leaves_prompts_out_is_refused_with_the_way_out(folder: Path) -> None:
    file = next(folder.glob("*Pooling/config.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"include_prompt": False}))
    config = ModelConfig(path=str(folder))
    with pytest.raises(ModelError, match="include_prompt: false"):
        pretrained.build(config)
    pretrained.build(replace(config, prompts=PromptsConfig(query="", document="")))


def test_prompts_in_use_are_said_and_those_of_a_family_are_proposed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ModelConfig(path=str(folder))
    say_prompts(config)
    assert capsys.readouterr().out == "prompts: queries 'red shoe ', documents 'blue lamp '\n"
    (folder / "config_sentence_transformers.json").unlink()
    say_prompts(config)
    said = capsys.readouterr().out
    assert 'model.prompts.query="query: "' in said
    assert 'model.prompts.document="passage: "' in said
    say_prompts(replace(config, prompts=PromptsConfig(query="", document="")))
    say_prompts(ModelConfig())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("asked", "role"),
    [("query", "query"), ("passage", "document"), ("search_document", "document"), (None, None)],
)
def test_a_request_names_a_role(asked: str | None, role: str | None) -> None:
    body = json.dumps({"input": ["a"], "input_type": asked}).encode()
    assert embeddings(body, LIMITS).role == role
    body = json.dumps({"inputs": ["a"], "params": asked and {"input_type": asked}}).encode()
    assert invocation(body, LIMITS).role == role


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(BadRequest, match="input_type: expected one of query, document"):
        embeddings(b'{"input": ["a"], "input_type": "title"}', LIMITS)
    with pytest.raises(BadRequest, match="prompt_name: expected a name, and no input_type"):
        embeddings(b'{"input": "a", "input_type": "query", "prompt_name": "query"}', LIMITS)

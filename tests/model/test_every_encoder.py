"""Every kind of encoder is loaded, trained, saved and loaded again as sentence-transformers does it."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_encoders
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import BoW, Router

from embsearch.config.build import build, with_values
from embsearch.config.schema import ModelConfig
from embsearch.data.dataset import Dataset, queries_of
from embsearch.data.load import prepare_dataset
from embsearch.errors import ModelError, Unfaithful
from embsearch.model import pretrained
from embsearch.model.device import choose, failure_of
from embsearch.model.embed import embed
from embsearch.model.encoder import Encoder
from embsearch.model.readers import readers
from embsearch.model.texts import Texts
from embsearch.serve.encoder import TextEncoder
from embsearch.trial import trial
from embsearch.worker import Worker

CPU = choose("cpu", "fp32")
NEAR = 1e-5
NOT_ADAPTED = {"static", "static with Dense", "Router: two transformers", "ALBERT"}
MODEL2VEC = {"model2vec": {}, "model2vec without modules.json": {"modules": False}}


@pytest.fixture(scope="module")
def cache(judgements_csv, tmp_path_factory):
    place = tmp_path_factory.mktemp("cache")
    return prepare_dataset(build({"data": {"path": str(judgements_csv)}}).data, place)


@pytest.fixture(scope="module")
def data(cache):
    return Dataset.load(cache)


def job(folder, **model):
    train = {"precision": "fp32", "texts": 3 * 48, "batch_size": 16, "lr": 1e-2}
    values = {"model": {"path": str(folder), **model}, "train": train, "device": "cpu"}
    return build(values | {"evaluate": {"at": [1.0]}, "objective": {"name": "triplet"}})


def by_role(encode, data):
    """The vectors of every text, as ``encode(texts, role)`` makes them of queries and documents."""
    queries, found = queries_of(data), [None] * len(data.texts)
    for role, ids in (("query", np.flatnonzero(queries)), ("document", np.flatnonzero(~queries))):
        for i, vector in zip(ids, encode([data.texts[i] for i in ids], role), strict=True):
            found[i] = vector
    return np.stack(found)


def own(folder, data):
    """The vectors of sentence-transformers' own encode, in fp32."""
    model = SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"dtype": torch.float32}
    ).float()
    if getattr(model.tokenizer, "pad_token", "") is None:
        model.tokenizer.pad_token = "</s>"

    def encode(texts, role):
        as_role = model.encode_query if role == "query" else model.encode_document
        return as_role(texts, show_progress_bar=False, normalize_embeddings=True)

    return by_role(encode, data)


def served(folder, data):
    encoder = TextEncoder.open(folder, "cpu")
    return unit(by_role(lambda texts, role: encoder(texts, role).values, data))


def unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        *((name, "none") for name in (*tiny_encoders.KINDS, *MODEL2VEC)),
        *((name, "lora") for name in tiny_encoders.KINDS if name not in NOT_ADAPTED),
    ],
)
def test_an_encoder_is_loaded_trained_saved_and_loaded_again(name, adapter, cache, data, tmp_path):
    if name in MODEL2VEC:
        folder = tiny_encoders.save_model2vec(data.texts, tmp_path, **MODEL2VEC[name])
    else:
        folder = tiny_encoders.save(name, data.texts, tmp_path)
    worker, config = Worker(), job(folder, adapter=adapter)
    every = np.arange(len(data.texts))

    assert worker.check(config, str(cache)) == []
    tower, inputs = worker._encoder(config, data, cache, CPU)
    untuned = unit(embed(tower, inputs, every, CPU))
    if name != "model2vec without modules.json":  # which sentence-transformers cannot load
        np.testing.assert_allclose(untuned, own(folder, data), rtol=0, atol=NEAR)

    run = trial(config, data, inputs, tower, CPU, tmp_path / "trial")
    assert next(run).step >= 3
    tuned, saved = unit(embed(tower, inputs, every, CPU)), tmp_path / "trial" / "model"

    assert np.abs(tuned - untuned).max() > 1e-3
    np.testing.assert_allclose(own(saved, data), tuned, rtol=0, atol=NEAR)
    np.testing.assert_allclose(served(saved, data), tuned, rtol=0, atol=NEAR)


@pytest.mark.parametrize("name", tiny_encoders.KINDS)
def test_texts_are_read_as_far_as_the_encoder_can(name, data, tmp_path):
    folder = tiny_encoders.save(name, data.texts, tmp_path)
    most = min(reader.most for reader in readers(pretrained.read(ModelConfig(str(folder)))))
    long = " ".join(data.texts)  # several hundred tokens, of which the last ones must count

    tower = Texts.build(ModelConfig(str(folder), max_length=min(most, 300)), 0)
    tower.save(tmp_path / "saved")

    texts, roles = [long, *data.texts[:3]], ["query"] * 4
    found = unit(embed(tower, tower.read(texts, roles), np.arange(4), CPU))
    saved = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    theirs = saved.encode_query(texts, normalize_embeddings=True)
    np.testing.assert_allclose(found, theirs, rtol=0, atol=NEAR)
    if most < 300:
        with pytest.raises(ModelError, match=rf"max_length={most + 1}: the encoder has {most} pos"):
            Texts.build(ModelConfig(str(folder), max_length=most + 1), 0)


class Forgetful(Encoder):
    """An encoder that saves another model than the one it has, from the second time on."""

    saves = 0

    def save(self, folder):
        super().save(folder)
        self.saves += 1
        if self.saves > 1:
            file = folder / "model.safetensors"
            zeros = {name: torch.zeros_like(t) for name, t in load_file(file).items()}
            save_file(zeros, file, metadata={"format": "pt"})


def test_a_trial_whose_saved_model_is_another_fails_and_keeps_the_older(
    cache, data, tmp_path, monkeypatch
):
    monkeypatch.setattr("embsearch.trial.CHECK_SHARE", 1.0)
    folder = tiny_encoders.save("T5", data.texts, tmp_path)
    config = with_values(job(folder), {"evaluate.at": (0.5, 1.0), "train.lr": 1e-4})
    tower = Forgetful(pretrained.build(config.model))
    run = trial(
        config, data, tower.prepare(data, tmp_path), tower, CPU, tmp_path / "trial", queries=(2, 99)
    )

    next(run)
    kept = (tmp_path / "trial" / "model" / "model.safetensors").read_bytes()
    with pytest.raises(Unfaithful, match=r"other vectors of this saved model .* T5EncoderModel"):
        next(run)

    assert (tmp_path / "trial" / "model" / "model.safetensors").read_bytes() == kept
    assert not [*(tmp_path / "trial").glob(".model*")]
    assert failure_of(Unfaithful(""))[0] == "bug"


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("static", {"freeze_layers": 1}, r"StaticEmbedding has no layers; use 0.*space=static"),
        ("static", {"pooling": "cls"}, "gives one vector a text, there is nothing to pool"),
        ("static", {"dropout": 0.1}, r"model\.dropout=0\.1: the encoder has no dropout"),
        ("static", {"max_length": 0}, r"model\.max_length=0: expected at least one token"),
        ("Router: static queries", {"pooling": "max"}, "there is nothing to pool; use keep"),
        ("Router: static queries", {"max_length": 65}, "the encoder has 64 positions"),
        ("static", {"adapter": "lora"}, "has 0 transformers; expected 1. Use model.adapter=none"),
        ("Router: two transformers", {"adapter": "lora"}, "has 2 transformers; expected 1"),
        ("ALBERT", {"adapter": "lora"}, "no stack of layers found in AlbertModel"),
        ("Router: two heads", {"freeze_layers": 3}, "the encoder has 2 layers"),
    ],
)
def test_settings_that_an_encoder_does_not_have_are_refused(name, settings, words, data, tmp_path):
    folder = tiny_encoders.save(name, data.texts, tmp_path)

    with pytest.raises(ModelError, match=words):
        Texts.build(ModelConfig(str(folder), **settings), 0)


def test_modules_that_read_texts_in_ways_of_their_own_are_named(data, tmp_path):
    words = BoW(tiny_encoders.words_of(data.texts))
    SentenceTransformer(modules=[words], device="cpu").save(str(tmp_path / "folder"))

    said = "BoW does not read texts here; Transformer and StaticEmbedding do"
    with pytest.raises(ModelError, match=said):
        Texts.build(ModelConfig(str(tmp_path / "folder")), 0)


def test_a_static_encoder_reads_as_many_tokens_as_it_is_told(data, tmp_path):
    folder = tiny_encoders.save("static", data.texts, tmp_path)

    pretrained.save(pretrained.build(ModelConfig(str(folder), max_length=1)), tmp_path / "one")

    model = SentenceTransformer(str(tmp_path / "one"), device="cpu")
    one, two = model.encode(["red", "red shoe"])
    np.testing.assert_allclose(one, two)
    served = TextEncoder.open(tmp_path / "one", "cpu")(["red", "red shoe"])
    assert served.tokens.tolist() == [1, 1]
    np.testing.assert_allclose(served.values, [one, two], atol=1e-6)


def test_a_quantised_model2vec_folder_is_unfolded_as_sentence_transformers_does(data, tmp_path):
    count = len(tiny_encoders.words_of(data.texts))
    folded = {
        "mapping": torch.arange(count) // 2,
        "weights": torch.linspace(0.5, 1.5, count, dtype=torch.float64),
    }
    folder = tiny_encoders.save_model2vec(data.texts, tmp_path, **folded)

    tower = Texts.build(ModelConfig(str(folder)), 0)
    found = embed(tower, tower.prepare(data, tmp_path), np.arange(len(data.texts)), CPU)

    assert tower.table.weight.dtype == torch.float32
    np.testing.assert_allclose(found, own(folder, data), rtol=0, atol=NEAR)


def test_a_router_without_a_route_for_queries_is_refused(data, tmp_path):
    routes = {"question": [tiny_encoders.static(data.texts, tmp_path)]}
    model = SentenceTransformer(modules=[Router(routes)], device="cpu")
    model.save(str(tmp_path / "folder"))

    with pytest.raises(
        ModelError, match=r"folder: its Router has no route for a query: .*'question'"
    ):
        Texts.build(ModelConfig(str(tmp_path / "folder")), 0)


def test_routes_of_different_widths_are_refused(data, tmp_path):
    routes = [[tiny_encoders.static(data.texts, tmp_path, width)] for width in (8, 16)]
    model = SentenceTransformer(modules=[Router.for_query_document(*routes)], device="cpu")
    model.save(str(tmp_path / "folder"))

    with pytest.raises(
        ModelError, match=r"the routes query and document .* different widths: \['16', '8'\]"
    ):
        Texts.build(ModelConfig(str(tmp_path / "folder")), 0)

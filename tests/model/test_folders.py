"""A model folder is more than its weights: what it says about its own use stays, or is refused before work begins."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tiny_encoders
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tiny_encoders import dense, random_norm
from torch import nn

from embsearch.config.build import build
from embsearch.config.schema import ModelConfig
from embsearch.data.dataset import Dataset
from embsearch.data.load import prepare_dataset
from embsearch.errors import ModelError
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.embed import embed
from embsearch.model.encoder import Encoder
from embsearch.serve.encoder import TextEncoder
from embsearch.worker import Worker

CPU = choose("cpu", "fp32")


@pytest.fixture(scope="module")
def cache(judgements_csv, tmp_path_factory):
    place = tmp_path_factory.mktemp("cache")
    return prepare_dataset(build({"data": {"path": str(judgements_csv)}}).data, place)


@pytest.fixture(scope="module")
def texts(cache):
    return list(Dataset.load(cache).texts)


BARE = {
    "plain": lambda bert: [Transformer(str(bert)), Pooling(64, "mean"), Normalize()],
    "LayerNorm": lambda bert: [
        Transformer(str(bert)), Pooling(64, "mean"), random_norm(64), Normalize(),
    ],
    "Normalize before Dense": lambda bert: [
        Transformer(str(bert)), Pooling(64, "mean"), Normalize(), dense(64, 24),
    ],
    "mean and cls side by side": lambda bert: [
        Transformer(str(bert)), Pooling(64, ("mean", "cls")), dense(128, 24), Normalize(),
    ],
}  # fmt: skip


def folder_of(name, bert, texts, place, **more):
    if name not in BARE:
        return tiny_encoders.save(name, texts, place, **more)
    model = SentenceTransformer(modules=BARE[name](bert), device="cpu", **more)
    model.save(str(place / "folder"), create_model_card=False)
    return place / "folder"


def job(folder, **model):
    values = {"model": {"path": str(folder), **model}, "train": {"precision": "fp32"}}
    return build(values | {"device": "cpu"})


def own(folder, texts):
    """The vectors of sentence-transformers' own encode, text by text, in fp32."""
    model = SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"dtype": torch.float32}, trust_remote_code=True
    )
    if model.tokenizer.pad_token is None:
        model.tokenizer.pad_token = "</s>"
    return model.encode(texts, batch_size=1, show_progress_bar=False)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("name", BARE)
def test_a_folder_is_used_trained_and_saved_as_it_says(
    name, adapter, bare_bert, cache, texts, tmp_path
):
    folder, worker = folder_of(name, bare_bert, texts, tmp_path), Worker()
    config = job(folder, dropout=0.0, adapter=adapter)

    assert worker.check(config, str(cache)) == []
    data = worker.dataset(config, str(cache))
    encoder, tokens = worker._encoder(config, data, cache, CPU)
    every = np.arange(len(texts))
    untuned = embed(encoder, tokens, every, CPU)
    np.testing.assert_allclose(unit(untuned), unit(own(folder, texts)), rtol=0, atol=1e-5)

    with torch.no_grad():
        for parameter in (p for p in encoder.parameters() if p.requires_grad):
            parameter += {"none": 0.01, "lora": 0.1}[adapter] * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(3)
            )
    tuned = embed(encoder, tokens, every, CPU)
    encoder.save(tmp_path / "saved")

    assert np.abs(unit(tuned) - unit(untuned)).max() > 1e-3
    np.testing.assert_allclose(own(tmp_path / "saved", texts), tuned, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        TextEncoder.open(tmp_path / "saved", "cpu")(texts).values, tuned, rtol=0, atol=1e-5
    )
    batch = SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(texts[:2])
    assert batch.shape == tuned[:2].shape


def test_the_default_settings_leave_a_plain_folder_as_it_is(tiny_bert, tmp_path):
    pretrained.save(pretrained.build(ModelConfig(str(tiny_bert))), tmp_path / "saved")

    for name in ("modules.json", "1_Pooling/config.json", "model.safetensors"):
        assert (tmp_path / "saved" / name).read_bytes() == (tiny_bert / name).read_bytes()


def test_a_width_that_the_folder_cuts_vectors_to_is_kept(bare_bert, cache, texts, tmp_path):
    folder = folder_of("plain", bare_bert, texts, tmp_path, truncate_dim=16)
    worker, config = Worker(), job(folder)
    assert worker.check(config, str(cache)) == []
    encoder, tokens = worker._encoder(config, worker.dataset(config, str(cache)), cache, CPU)

    assert encoder.encode(tokens, np.arange(3)).shape == (3, 16)
    encoder.save(tmp_path / "saved")
    assert TextEncoder.open(tmp_path / "saved", "cpu")(texts[:2]).values.shape == (2, 16)
    np.testing.assert_allclose(
        own(tmp_path / "saved", texts), own(folder, texts), rtol=0, atol=1e-6
    )


def test_a_projection_decides_the_width_instead(bare_bert, texts, tmp_path):
    folder = folder_of("plain", bare_bert, texts, tmp_path, truncate_dim=16)

    model = pretrained.build(ModelConfig(str(folder), projection=24))

    assert model.encode(["red shoe"]).shape == (1, 24)


def names(model):
    return [type(module).__name__ for module in model]


def test_prompts_and_similarity_of_a_folder_are_kept(bare_bert, texts, tmp_path):
    prompts = {"query": "query: ", "document": "passage: "}
    folder = folder_of(
        "plain", bare_bert, texts, tmp_path, prompts=prompts, similarity_fn_name="dot"
    )

    pretrained.save(pretrained.build(ModelConfig(str(folder), pooling="cls")), tmp_path / "saved")

    said = json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text())
    assert (said["prompts"], said["similarity_fn_name"]) == (prompts, "dot")


def test_settings_change_their_own_modules_and_leave_the_others(bare_bert, texts, tmp_path):
    folder = folder_of("LayerNorm", bare_bert, texts, tmp_path)
    inner = folder_of("Normalize before Dense", bare_bert, texts, tmp_path / "inner")

    def built(path=folder, **settings):
        return names(pretrained.build(ModelConfig(str(path), **settings)))[1:]

    assert built(pooling="cls") == ["Pooling", "LayerNorm", "Normalize"]
    assert built(pooling="pooler") == ["LayerNorm", "Normalize"]
    assert built(projection=8) == ["Pooling", "LayerNorm", "Dense", "Normalize"]
    assert built(normalize=False) == ["Pooling", "LayerNorm"]
    assert built(inner) == ["Pooling", "Normalize", "Dense", "Normalize"]
    assert built(inner, normalize=False) == ["Pooling", "Normalize", "Dense"]


@pytest.mark.parametrize(
    ("name", "pooling", "words"),
    [
        (
            "mean and cls side by side",
            "cls",
            "model.pooling=cls: Dense of .* fits the folder's own",
        ),
        ("WeightedLayerPooling", "pooler", "model.pooling=pooler: WeightedLayerPooling of"),
    ],
)
def test_a_pooling_that_the_other_modules_do_not_fit_is_refused(
    name, pooling, words, bare_bert, texts, tmp_path
):
    folder = folder_of(name, bare_bert, texts, tmp_path)

    with pytest.raises(ModelError, match=words):
        pretrained.build(ModelConfig(str(folder), pooling=pooling))


def test_a_folder_without_pooling_gets_the_mean_or_keeps_its_pooler(tiny_bert, tmp_path):
    pretrained.save(
        pretrained.build(ModelConfig(str(tiny_bert), pooling="pooler")), tmp_path / "pooler"
    )

    again = pretrained.build(ModelConfig(str(tmp_path / "pooler")))

    assert names(again) == ["Transformer", "Normalize"]
    with pytest.raises(ModelError, match="gives one vector a text, there is nothing to pool"):
        pretrained.build(ModelConfig(str(tmp_path / "pooler"), pooling="cls"))


@pytest.mark.parametrize(("name", "most"), [("plain", 64), ("RoBERTa", 33)])
def test_a_length_beyond_the_positions_is_refused(name, most, bare_bert, texts, tmp_path):
    folder = folder_of(name, bare_bert, texts, tmp_path)

    longest = pretrained.build(ModelConfig(str(folder), max_length=most))
    long = " ".join(texts * 3)

    assert np.isfinite(longest.encode([long])).all()
    with pytest.raises(
        ModelError, match=rf"max_length={most + 1}: the encoder has {most} positions"
    ):
        pretrained.build(ModelConfig(str(folder), max_length=most + 1))


def test_a_length_that_leaves_no_token_of_the_text_is_refused(tiny_bert):
    with pytest.raises(ModelError, match=r"model\.max_length=2: expected at least 3"):
        pretrained.build(ModelConfig(str(tiny_bert), max_length=2))


def test_a_folder_without_its_tokenizer_is_refused(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "without")
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / file).unlink(missing_ok=True)

    for load in (
        lambda: pretrained.build(ModelConfig(str(folder))),
        lambda: pretrained.load(folder),
    ):
        with pytest.raises(ModelError, match="it has no tokenizer"):
            load()


def test_an_encoder_that_knows_few_of_the_words_says_so(bare_bert, cache, texts, tmp_path):
    folder = folder_of("Llama without padding token", bare_bert, texts, tmp_path)
    words = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    words["model"]["vocab"] = {w if i < 8 else f"{w}_": i for w, i in vocabulary.items()}
    (folder / "tokenizer.json").write_text(json.dumps(words))

    said = list(Worker().check(job(folder), str(cache)))
    assert re.search(r"\d\d% of the tokens .* unknown .*\(<unk>\)", said[0])


def test_an_encoder_that_gives_all_texts_one_vector_is_refused(tiny_bert, cache, tmp_path):
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    nn.init.zeros_(model[0].auto_model.embeddings.word_embeddings.weight)
    nn.init.zeros_(model[0].auto_model.embeddings.position_embeddings.weight)
    model.save(str(tmp_path / "folder"))

    with pytest.raises(ModelError, match="every text gets the same vector"):
        Worker().check(job(tmp_path / "folder"), str(cache))


def test_a_tokenizer_of_another_model_is_refused(tiny_bert, cache, tmp_path):
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    model[0].auto_model.resize_token_embeddings(20)
    model.save(str(tmp_path / "folder"))

    with pytest.raises(ModelError, match="token table has 20 rows: they are not of one model"):
        Worker().check(job(tmp_path / "folder"), str(cache))


def test_a_module_that_is_lost_on_the_way_is_named(bare_bert, cache, texts, tmp_path, monkeypatch):
    folder = folder_of("LayerNorm", bare_bert, texts, tmp_path)
    whole = pretrained.build

    def without(config, seed):
        model = whole(config, seed)
        del model[2]
        return model

    monkeypatch.setattr(pretrained, "build", without)
    with pytest.raises(ModelError, match="its modules are Transformer, Pooling, LayerNorm, here "):
        Worker().check(job(folder), str(cache))


def test_the_check_draws_no_random_number_and_leaves_the_encoder_as_it_was(tiny_bert, cache):
    worker, config = Worker(), job(tiny_bert)
    data = worker.dataset(config, str(cache))
    encoder, tokens = worker._encoder(config, data, cache, CPU)
    before, state = embed(encoder, tokens, np.arange(9), CPU), torch.get_rng_state()

    assert worker.check(config, str(cache)) == []

    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(embed(encoder, tokens, np.arange(9), CPU), before)


def test_texts_that_are_cut_are_counted(tiny_bert, cache):
    said = Worker().check(job(tiny_bert, max_length=5), str(cache))

    assert said == ["96 of 192 texts are cut at 5 tokens; model.max_length=N reads more, up to 64"]


CODE = """from transformers import BertConfig, BertModel


class TinyConfig(BertConfig):
    model_type = "tiny_custom"


class TinyModel(BertModel):
    config_class = TinyConfig
"""


def test_an_encoder_with_its_own_code_is_loaded_again_as_the_study_was_told(
    tiny_bert, cache, tmp_path
):
    folder = shutil.copytree(tiny_bert, tmp_path / "custom")
    (folder / "modeling_tiny.py").write_text(CODE)
    said = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "modeling_tiny.TinyConfig", "AutoModel": "modeling_tiny.TinyModel"}
    said |= {"model_type": "tiny_custom", "architectures": ["TinyModel"], "auto_map": auto}
    (folder / "config.json").write_text(json.dumps(said))
    config, worker = job(folder, trust_remote_code=True), Worker()

    (line,) = worker.check(config, str(cache))
    encoder, _ = worker._encoder(config, worker.dataset(config, str(cache)), cache, CPU)
    encoder.save(tmp_path / "saved")
    found = worker.evaluate(config, str(cache), "test", str(tmp_path / "saved"), full=False)

    assert "'embsearch promote' will refuse" in line
    assert (
        found.metrics["auc"]
        == worker.evaluate(config, str(cache), "test", None, False).metrics["auc"]
    )
    with pytest.raises(ModelError, match=r"modeling_tiny\.py: a file that can run code"):
        worker.evaluate(job(folder), str(cache), "test", str(tmp_path / "saved"), full=False)


@pytest.mark.skipif(find_spec("peft") is None, reason="needs peft")
def test_the_adapter_of_a_folder_is_merged_and_all_may_learn(tiny_bert, cache, texts, tmp_path):
    from peft import LoraConfig, TaskType

    model = SentenceTransformer(str(tiny_bert), device="cpu")
    targets = ["query", "value"]
    model.add_adapter(
        LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, target_modules=targets, r=4)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, 0, 0.3)
    model.save(str(tmp_path / "folder"))
    said = Path(tmp_path / "folder" / "adapter_config.json")
    said.write_text(
        json.dumps(json.loads(said.read_text()) | {"base_model_name_or_path": str(tiny_bert)})
    )
    adapted = model.encode(texts, show_progress_bar=False)

    worker, config = Worker(), job(tmp_path / "folder")
    assert worker.check(config, str(cache)) == []
    encoder, _ = worker._encoder(config, worker.dataset(config, str(cache)), cache, CPU)
    encoder.save(tmp_path / "saved")

    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert not (tmp_path / "saved" / "adapter_config.json").exists()
    np.testing.assert_allclose(own(tmp_path / "saved", texts), adapted, rtol=0, atol=1e-5)
    assert np.abs(adapted - own(tiny_bert, texts)).max() > 1e-2


def test_an_encoder_of_which_nothing_learns_still_encodes(tiny_bert):
    encoder = Encoder(pretrained.load(tiny_bert))
    encoder.requires_grad_(False)

    assert not encoder.train().model.training

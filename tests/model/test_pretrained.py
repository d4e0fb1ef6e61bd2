"""Encoders built from a config: what goes on top, what is fixed, what is refused, and how they are kept."""

from __future__ import annotations

import json
import resource
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import BertModel, BertTokenizerFast

from embsearch.config.schema import ModelConfig
from embsearch.data.tokenise import tokenise
from embsearch.errors import ModelError
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.embed import embed
from embsearch.model.encoder import Encoder

TEXTS = ["red lamp x1", "fast", "tiny mobile boot y3 y4", "防水手表 phone", "unheard of"]
CPU = choose("cpu", "fp32")


def vectors(model, texts=TEXTS):
    return model.encode(texts, show_progress_bar=False)


def hidden(folder, texts=TEXTS):
    """The plain transformer's last hidden states, mask and pooler output: the reference for pooling."""
    batch = BertTokenizerFast.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = BertModel.from_pretrained(folder).eval()(**batch)
    return out.last_hidden_state, batch["attention_mask"].bool(), out.pooler_output


@contextmanager
def files_no_longer_than(size):
    """Writing past ``size`` bytes fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


POOLED = {
    "keep": lambda h, m, p: (h * m[..., None]).sum(1) / m.sum(1, keepdim=True),
    "mean": lambda h, m, p: (h * m[..., None]).sum(1) / m.sum(1, keepdim=True),
    "cls": lambda h, m, p: h[:, 0],
    "max": lambda h, m, p: h.masked_fill(~m[..., None], -torch.inf).amax(1),
    "lasttoken": lambda h, m, p: h[torch.arange(len(h)), m.sum(1) - 1],
    "pooler": lambda h, m, p: p,
}


@pytest.mark.parametrize("pooling", POOLED)
def test_each_pooling_equals_its_definition_on_the_plain_transformer(tiny_bert, pooling):
    model = pretrained.build(ModelConfig(str(tiny_bert), pooling=pooling, normalize=False))

    expected = POOLED[pooling](*hidden(tiny_bert))

    np.testing.assert_allclose(vectors(model), expected.numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("pooling", POOLED)
@pytest.mark.parametrize("projection", [None, 16])
def test_a_saved_encoder_loads_anywhere_with_the_same_vectors(
    tiny_bert, tmp_path, pooling, projection
):
    model = pretrained.build(ModelConfig(str(tiny_bert), pooling=pooling, projection=projection))

    pretrained.save(model, tmp_path / "model")
    found = vectors(SentenceTransformer(str(tmp_path / "model"), device="cpu"))

    assert found.shape == (len(TEXTS), projection or 64)
    np.testing.assert_allclose(found, vectors(model), rtol=0, atol=1e-6)


def test_a_model_with_the_pooler_leaves_those_built_after_it_alone(tiny_bert):
    before = vectors(pretrained.build(ModelConfig(str(tiny_bert), pooling="mean")))
    pretrained.build(ModelConfig(str(tiny_bert), pooling="pooler"))
    assert np.array_equal(
        vectors(pretrained.build(ModelConfig(str(tiny_bert), pooling="mean"))), before
    )


def test_the_pooler_is_refused_where_the_weights_have_none(tiny_bert, tmp_path):
    folder = tmp_path / "without"
    shutil.copytree(tiny_bert, folder)
    BertModel.from_pretrained(folder, add_pooling_layer=False).save_pretrained(folder)

    with pytest.raises(
        ModelError, match="holds no pooler weights, it would start from noise; use mean"
    ):
        pretrained.build(ModelConfig(str(folder), pooling="pooler"))


def test_a_projection_is_drawn_from_its_seed(tiny_bert):
    one, same, other = (
        pretrained.build(ModelConfig(str(tiny_bert), projection=16), seed) for seed in (7, 7, 8)
    )

    assert vectors(one).shape == (len(TEXTS), 16)
    assert np.array_equal(vectors(one), vectors(same))
    assert not np.allclose(vectors(one), vectors(other))


def test_a_projection_of_no_width_is_refused(tiny_bert):
    with pytest.raises(ModelError, match=r"model\.projection=0: expected a width of at least 1"):
        pretrained.build(ModelConfig(str(tiny_bert), projection=0))


def test_vectors_have_length_one_only_when_normalised(tiny_bert):
    length = {
        on: np.linalg.norm(
            vectors(pretrained.build(ModelConfig(str(tiny_bert), normalize=on))), axis=1
        )
        for on in (True, False)
    }

    np.testing.assert_allclose(length[True], 1, atol=1e-6)
    assert (length[False] > 2).all()


@pytest.mark.parametrize("count", [1, 2])
def test_frozen_layers_stay_as_they_are_and_the_others_move(tiny_bert, count):
    model = pretrained.build(ModelConfig(str(tiny_bert), freeze_layers=count, projection=8)).train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    model(model.preprocess(TEXTS))["sentence_embedding"][:, 0].sum().backward()
    optimizer.step()

    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    fixed = ["embeddings.", *(f"layer.{i}." for i in range(count))]
    expected = {n for n in before if "pooler" not in n and not any(f in n for f in fixed)}
    assert {n.removesuffix("key.bias") for n in moved} == {
        n.removesuffix("key.bias") for n in expected
    }


def test_more_frozen_layers_than_there_are_is_refused(tiny_bert):
    with pytest.raises(ModelError, match=r"model\.freeze_layers=3: the encoder has 2 layers"):
        pretrained.build(ModelConfig(str(tiny_bert), freeze_layers=3))


def test_freezing_everything_that_could_learn_is_refused(tiny_bert):
    with pytest.raises(ModelError, match=r"model\.freeze_layers=2 leaves nothing to train"):
        pretrained.build(ModelConfig(str(tiny_bert), freeze_layers=2))


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_dropout_is_set_in_every_layer(tiny_bert, rate):
    model = pretrained.build(ModelConfig(str(tiny_bert), dropout=rate))

    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {rate}


def test_without_dropout_training_and_evaluation_agree_and_with_it_they_differ(tiny_bert):
    torch.manual_seed(0)
    for rate, same in ((0.0, True), (0.4, False)):
        model = pretrained.build(ModelConfig(str(tiny_bert), dropout=rate))
        features = model.preprocess(TEXTS)
        with torch.no_grad():
            calm, busy = (
                m(dict(features))["sentence_embedding"] for m in (model.eval(), model.train())
            )
            calm = model.eval()(dict(features))["sentence_embedding"]
        assert torch.allclose(calm, busy, atol=1e-6) is same


def test_a_dropout_of_one_is_refused(tiny_bert):
    with pytest.raises(ModelError, match=r"model\.dropout=1\.0: a rate is at least 0 and below 1"):
        pretrained.build(ModelConfig(str(tiny_bert), dropout=1.0))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        ModelError, match=r"nowhere: no such folder; give a folder with config\.json or a hub name"
    ):
        pretrained.build(ModelConfig(str(tmp_path / "nowhere")))


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "*.json"])
def test_a_folder_without_weights_or_config_is_no_encoder(tiny_bert, tmp_path, missing):
    folder = tmp_path / "broken"
    shutil.copytree(tiny_bert, folder)
    for file in [*folder.rglob(missing)]:
        file.unlink()

    with pytest.raises(ModelError, match="cannot be loaded as an encoder") as caught:
        pretrained.build(ModelConfig(str(folder)))
    assert str(folder) in str(caught.value)


def test_a_file_that_is_not_weights_is_no_encoder(tiny_bert, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(tiny_bert, folder)
    (folder / "model.safetensors").write_text("not weights")

    with pytest.raises(
        ModelError, match=r"cannot be loaded as an encoder.*Expected a folder or hub name"
    ):
        pretrained.build(ModelConfig(str(folder)))


def test_weights_are_kept_as_safetensors_and_nothing_is_pickled(tiny_bert, tmp_path):
    pretrained.save(
        pretrained.build(ModelConfig(str(tiny_bert), projection=16)), tmp_path / "model"
    )

    suffixes = {file.suffix for file in (tmp_path / "model").rglob("*") if file.is_file()}

    assert ".safetensors" in suffixes
    assert suffixes <= {".safetensors", ".json", ".txt"}
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_saving_again_replaces_the_folder_whole(tiny_bert, tmp_path):
    pretrained.save(
        pretrained.build(ModelConfig(str(tiny_bert), projection=16)), tmp_path / "model"
    )
    pretrained.save(pretrained.build(ModelConfig(str(tiny_bert))), tmp_path / "model")

    assert len(json.loads((tmp_path / "model" / "modules.json").read_text())) == 3
    assert not [*(tmp_path / "model").glob("*Dense*")]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_disk_that_fills_up_leaves_the_old_model(tiny_bert, tmp_path):
    model = pretrained.build(ModelConfig(str(tiny_bert)))
    pretrained.save(model, tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    torch.nn.init.zeros_(next(model.parameters()))

    with files_no_longer_than(20_000), pytest.raises(OSError, match="File too large"):
        pretrained.save(model, tmp_path / "model")

    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_loading_what_is_no_model_says_so(tmp_path):
    with pytest.raises(
        ModelError, match=r"no sentence-transformers model here \(modules\.json is missing\)"
    ):
        pretrained.load(tmp_path)


def test_loading_a_damaged_model_names_the_folder(tiny_bert, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(ModelError, match=str(folder)):
        pretrained.load(folder)


def test_minilm_is_the_published_one_and_knows_what_is_alike():
    assert pretrained._sha256(
        pretrained.Path(pretrained.find(ModelConfig()), "model.safetensors")
    ) == ("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
    model = pretrained.build(ModelConfig("minilm"))
    texts = ["waterproof sports watch", "a watch for swimming", "phone charger cable"]
    tokens = tokenise(texts, model.tokenizer, model.max_seq_length)

    found = embed(Encoder(model), tokens, np.arange(3), CPU)

    reference = SentenceTransformer(pretrained.find(ModelConfig()), device="cpu").encode(texts)
    np.testing.assert_allclose(found, reference, rtol=0, atol=1e-5)
    assert found[0] @ found[1] > 0.5 > found[0] @ found[2]

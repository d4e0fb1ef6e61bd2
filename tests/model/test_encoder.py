"""The cut token table changes no vector, and what is saved is whole again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from embsearch.config.schema import ModelConfig
from embsearch.data.tokenise import tokenise
from embsearch.kernels.select import choose_kernel
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.embed import chunks, embed
from embsearch.model.encoder import Encoder

TEXTS = ["red lamp x1", "fast", "tiny mobile boot y3 y4", "red lamp x1", "fast small", "unheard"]
CPU = choose("cpu", "fp32")


def roberta(folder, specials=("<s>", "<pad>", "</s>", "<unk>")):
    """A tiny random RoBERTa with word tokens: its positions are counted from its padding id."""
    words = [*specials, *"a b c d red lamp x1 fast tiny mobile boot y3 y4 small".split()]  # noqa: SIM905
    words = {w: i for i, w in enumerate(words)}
    raw = Tokenizer(models.WordLevel(words, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.RobertaProcessing(
        ("</s>", words["</s>"]), ("<s>", words["<s>"])
    )
    PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=words["<pad>"], type_vocab_size=1,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=["bert", "roberta", "roberta with a late pad"])
def base(request, tiny_bert, tmp_path):
    if request.param == "bert":
        return tiny_bert
    late = ("a0", "a1", "a2", "<s>", "</s>", "<pad>", "<unk>")
    return (
        roberta(tmp_path / "base", late) if "late" in request.param else roberta(tmp_path / "base")
    )


@pytest.fixture(params=["padded", "packed"])
def encoder(request, base):
    encoder = Encoder(pretrained.build(ModelConfig(str(base))))
    if request.param == "packed":
        choose_kernel(encoder)
        assert encoder.packs
    return encoder


def read(encoder):
    return tokenise(TEXTS, encoder.model.tokenizer, encoder.model.max_seq_length)


def test_embed_equals_sentence_transformers_own_encode(base, encoder):
    found = embed(encoder, read(encoder), np.arange(len(TEXTS)), CPU, budget=12)

    expected = SentenceTransformer(str(base), device="cpu").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_embed_keeps_the_order_and_the_repetitions_asked_for(encoder):
    tokens = read(encoder)
    each = embed(encoder, tokens, np.arange(len(TEXTS)), CPU)

    found = embed(encoder, tokens, np.array([4, 0, 4, 2]), CPU)

    np.testing.assert_allclose(found, each[[4, 0, 4, 2]], rtol=0, atol=1e-6)


def test_embed_leaves_a_training_encoder_training(encoder):
    encoder.train()

    embed(encoder, read(encoder), np.array([0]), CPU)

    assert encoder.training
    assert encoder.model.training


def test_cutting_the_table_leaves_every_vector_as_it_was(encoder):
    tokens, every = read(encoder), np.arange(len(TEXTS))
    before, rows = embed(encoder, tokens, every, CPU), encoder.table.num_embeddings

    encoder.cut_table(np.unique(tokens.ids))

    assert encoder.table.num_embeddings < rows
    assert np.array_equal(embed(encoder, tokens, every, CPU), before)


def test_the_uncut_model_differs_only_in_the_rows_that_were_trained(encoder):
    original, tokens = encoder.table.weight.detach().clone(), read(encoder)
    encoder.cut_table(np.unique(tokens.ids))
    with torch.no_grad():
        encoder.table.weight += 1

    encoder.uncut()

    moved = (encoder.table.weight != original).any(1).nonzero().flatten().tolist()
    assert (
        set(np.unique(tokens.ids))
        <= set(moved)
        <= {*np.unique(tokens.ids), *encoder.model.tokenizer.all_special_ids}
    )


def test_saving_an_encoder_with_a_cut_table_saves_the_whole_one(encoder, tmp_path):
    tokens = read(encoder)
    rows = encoder.table.num_embeddings
    encoder.cut_table(np.unique(tokens.ids))
    cut = encoder.table

    pretrained.save(encoder.uncut(), tmp_path / "model")
    encoder.recut()

    again = Encoder(pretrained.load(tmp_path / "model"))
    if encoder.packs:
        choose_kernel(again)
    assert (again.table.num_embeddings, encoder.table) == (rows, cut)
    every = np.arange(len(TEXTS))
    assert np.array_equal(embed(again, tokens, every, CPU), embed(encoder, tokens, every, CPU))


def test_a_cut_table_that_is_frozen_stays_frozen(base):
    encoder = Encoder(pretrained.build(ModelConfig(str(base), freeze_layers=1)))

    encoder.cut_table(np.unique(read(encoder).ids))

    assert not encoder.table.weight.requires_grad


def test_chunks_hold_every_text_once_within_the_budget_longest_first():
    lengths = np.array([3, 9, 1, 4, 4, 7, 2])

    found = [lengths[take].tolist() for take in chunks(lengths, budget=12)]

    assert found == [[9], [7], [4, 4, 3], [2, 1]]


def test_a_text_longer_than_the_budget_is_a_chunk_of_its_own():
    assert [take.tolist() for take in chunks(np.array([3, 50]), budget=6)] == [[1], [0]]

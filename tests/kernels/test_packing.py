"""Texts end to end give the vectors and gradients of padded ones, or the model is left as it was."""

from __future__ import annotations

import kernel
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import DebertaV2Config, DebertaV2Model, ModernBertConfig, ModernBertModel

from embsearch.config.schema import ModelConfig
from embsearch.data.tokenise import Tokens
from embsearch.kernels import attention_interface, flash, select
from embsearch.kernels.select import choose_kernel
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.embed import chunks, embed
from embsearch.model.encoder import Encoder

CPU = choose("cpu", "fp32")
BY_FLASH = "texts without padding, by the flash kernel alone: it is for GPUs"
LENGTHS = np.array(
    [300, 40, 40, 7, 7, 7, 3, 257, 1]
)  # on both sides of where attention is written out


def minilm(**more):
    return Encoder(pretrained.build(ModelConfig("minilm", dropout=0.0, **more)))


def tokens_of(encoder):
    ids = np.random.default_rng(1).integers(1000, 2000, size=LENGTHS.sum()).astype(np.int32)
    return Tokens(ids, np.concatenate([[0], np.cumsum(LENGTHS)]))


def learned(encoder, packed):
    """Vectors and gradients of all texts in one chunk, longest first."""
    if packed and not encoder.packs:
        choose_kernel(encoder)
    encoder.train()
    tokens, (take,) = tokens_of(encoder), chunks(LENGTHS, 10**6, 0)
    plain = map(torch.from_numpy, tokens.padded(take, 0))
    vectors = encoder.encode(tokens, take) if packed else encoder(*plain)
    (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
    return vectors.detach(), torch.cat(
        [p.grad.flatten() for p in encoder.parameters() if p.grad is not None]
    )


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
def test_packed_texts_give_the_vectors_and_gradients_of_padded_ones(pooling):
    expected, reference = learned(minilm(pooling=pooling), packed=False)
    found, gradient = learned(minilm(pooling=pooling), packed=True)
    assert (found - expected).abs().max() < 1e-6
    assert (gradient - reference).norm() < 1e-5 * reference.norm()


def test_a_text_does_not_see_its_neighbours():
    encoder = minilm()
    choose_kernel(encoder)
    tokens = tokens_of(encoder)
    alone = np.concatenate(
        [embed(encoder, tokens, np.array([i]), CPU) for i in range(len(LENGTHS))]
    )
    np.testing.assert_allclose(
        embed(encoder, tokens, np.arange(len(LENGTHS)), CPU), alone, rtol=0, atol=1e-6
    )


def test_an_encoder_that_was_packed_is_saved_as_any_other(tmp_path):
    encoder = minilm()
    choose_kernel(encoder)
    pretrained.save(encoder.model, tmp_path / "model")
    assert attention_interface.NAME not in "".join(
        p.read_text() for p in (tmp_path / "model").rglob("*.json")
    )
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    vectors = plain.encode(["running shoes", "red lamp"])
    np.testing.assert_allclose(
        encoder.model.encode(["running shoes", "red lamp"]), vectors, rtol=0, atol=1e-6
    )


# ---- the GPU's kernel, by a stand-in; tests/kernels/test_gpu.py has the kernel itself -----------


def test_torchs_kernel_takes_what_it_is_given():
    taken = [a.name for a in torch.ops.aten._flash_attention_forward.default._schema.arguments]
    assert taken[:10] == [
        "query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal",
        "return_debug_mask",
    ]  # fmt: skip
    assert "scale" in taken


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
def test_by_the_gpus_kernel_texts_have_the_vectors_and_gradients_of_padded_ones(
    monkeypatch, pooling
):
    monkeypatch.setattr(flash, "varlen", kernel.varlen)
    expected, reference = learned(minilm(pooling=pooling), packed=False)
    encoder = minilm(pooling=pooling)
    assert choose_kernel(encoder, by_flash=True) == BY_FLASH
    found, gradient = learned(encoder, packed=True)
    assert (found - expected).abs().max() < 1e-6
    assert (gradient - reference).norm() < 1e-5 * reference.norm()


def test_a_kernel_that_takes_16_bits_alone_is_tried_in_them_both_ways(monkeypatch):
    """As torch's does; the stand-in takes any."""
    tried = []

    def varlen(q, *more):
        if q.dtype != torch.bfloat16:
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        tried.append(q.requires_grad)
        return kernel.varlen(q, *more)

    monkeypatch.setattr(flash, "varlen", varlen)
    assert choose_kernel(minilm(), by_flash=True) == BY_FLASH
    assert set(tried) == {False, True}


@pytest.mark.parametrize("which", ["sees neighbours", "torch's own, which is for GPUs"])
def test_where_the_gpus_kernel_is_wrong_or_not_there_texts_are_padded_and_that_is_said(
    monkeypatch, which
):
    def sees_neighbours(q, k, v, borders, *more):
        return kernel.varlen(q, k, v, borders[[0, -1]], int(borders[-1]), *more[1:])

    if which == "sees neighbours":
        monkeypatch.setattr(flash, "varlen", sees_neighbours)
    encoder = minilm()
    assert left_as_it_was(encoder, flash=True)
    why = (
        "without padding it gives other vectors"
        if which == "sees neighbours"
        else "NotImplementedError: "
    )
    assert choose_kernel(encoder, by_flash=True).startswith(f"texts padded: {why}")


def test_a_kernel_without_a_backward_pass_for_this_model_leaves_it_padded(monkeypatch):
    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *given):
            return kernel.varlen(*given)

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("head size 256 with dropout")

    monkeypatch.setattr(flash, "varlen", Forward.apply)
    encoder = minilm()
    assert left_as_it_was(encoder, flash=True)
    assert (
        choose_kernel(encoder, by_flash=True)
        == "texts padded: RuntimeError: head size 256 with dropout"
    )


def test_layers_that_look_only_near_by_leave_a_model_padded(monkeypatch, tiny_bert, tmp_path):
    monkeypatch.setattr(flash, "varlen", kernel.varlen)
    monkeypatch.setattr(select, "SAME", -1.0)  # whatever its vectors are
    shape = ModernBertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        global_attn_every_n_layers=2, local_attention=8, pad_token_id=0, cls_token_id=2, sep_token_id=3,
        bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    ModernBertModel(shape).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_bert / name).read_bytes())
    encoder = Encoder(pretrained.build(ModelConfig(str(tmp_path), pooling="mean")))
    assert left_as_it_was(encoder, flash=True)


def left_as_it_was(encoder, flash=False):
    before = encoder.model[0].auto_model.config._attn_implementation
    choose_kernel(encoder, flash)
    return not encoder.packs and encoder.model[0].auto_model.config._attn_implementation == before


def test_a_pooler_that_reads_the_first_token_of_the_sequence_stays_padded():
    assert left_as_it_was(minilm(pooling="pooler"))


def test_a_model_whose_attention_is_its_own_stays_padded(tiny_bert, tmp_path):
    shape = DebertaV2Config(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
    )  # fmt: skip
    DebertaV2Model(shape).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_bert / name).read_bytes())
    assert left_as_it_was(Encoder(pretrained.build(ModelConfig(str(tmp_path)))))


def test_unpadded_chunks_hold_every_text_once_within_the_budget():
    lengths = np.array([5, 1, 9, 4, 4, 2, 30])
    found = list(chunks(lengths, 10, 0))
    assert [lengths[take].tolist() for take in found] == [[30], [9], [5, 4], [4, 2, 1]]
    assert sorted(np.concatenate(found)) == list(range(7))

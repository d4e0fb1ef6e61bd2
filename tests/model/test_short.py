"""The kernel of short texts by Triton's interpreter, which has no bf16; tests/model/test_gpu.py has it on a GPU."""

from __future__ import annotations

import kernel
import numpy as np
import pytest
import torch

from embsearch.config.schema import ModelConfig
from embsearch.model import packing, pretrained
from embsearch.model.encoder import Encoder

pytest.importorskip("triton", reason="Triton is for Linux")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tests/model/test_gpu.py has the kernel itself")

from embsearch.model import short  # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("width", [16, 64])
def test_a_text_attends_to_itself_alone(width, causal):
    counts = [1, 3, 16, 17, 32, 33, 64, 100, 128]  # on both sides of where tiles and their rows end
    borders = torch.tensor([0, *counts]).cumsum(0, dtype=torch.int32)
    draw = torch.Generator().manual_seed(0)
    q, k, v, gradient = (torch.randn(sum(counts), 2, width, generator=draw).half() for _ in range(4))
    found = [t.requires_grad_() for t in (q, k, v)]
    mixed = short.attention(*found, borders, 0.2, 0.0, causal)
    precise = [t.detach().float().requires_grad_() for t in found]
    plain = kernel.varlen(*precise, borders, 128, 0.2, 0.0, causal)
    pairs = zip([mixed, *torch.autograd.grad(mixed, found, gradient)],
                [plain, *torch.autograd.grad(plain, precise, gradient.float())], strict=True)  # fmt: skip
    assert all((one.float() - other).norm() < 1e-3 * other.norm() for one, other in pairs)


@pytest.mark.parametrize("count", [24, 64])
def test_dropout_drops_its_share_anew_and_sends_gradients_back_by_the_same_draw(count):
    width, share = 64, 0.25
    query, key = (torch.randn(count, 4, width).half() for _ in range(2))
    value = torch.eye(width).half()[:count, None].repeat(1, 4, 1).requires_grad_()  # what is mixed are the weights
    borders, scale = torch.tensor([0, count], dtype=torch.int32), width**-0.5
    torch.manual_seed(0)
    mixed = short.attention(query, key, value, borders, scale, share, False)
    again = short.attention(query, key, value, borders, scale, share, False)
    torch.manual_seed(0)
    assert torch.equal(short.attention(query, key, value, borders, scale, share, False), mixed)
    whole = short.attention(query, key, value.detach(), borders, scale, 0.0, False)[..., :count].float()
    weights = mixed.detach()[..., :count].float()
    kept = weights > 0
    assert not torch.equal(kept, again[..., :count] > 0)
    assert abs(1 - kept.float().mean().item() - share) < 4 * (share * (1 - share) / kept.numel()) ** 0.5
    torch.testing.assert_close(weights[kept], whole[kept] / (1 - share), rtol=2e-3, atol=1e-4)
    draw = torch.randn_like(mixed)
    (gradient,) = torch.autograd.grad(mixed, value, draw)
    expected = torch.einsum("qhk,qhw->khw", weights, draw.float())
    assert (gradient.float() - expected).norm() < 2e-3 * expected.norm()


def test_it_is_tried_before_it_is_used(monkeypatch):
    short.check(32, CPU, torch.float16)
    true = short.attention
    monkeypatch.setattr(short, "attention", lambda q, *more: true(q * 1.1, *more))
    with pytest.raises(RuntimeError, match="other vectors or gradients"):
        short.check(32, CPU, torch.float16)


def test_where_it_cannot_be_used_the_flash_kernel_has_all_texts_and_the_reason_is_said(monkeypatch):
    def no_compiler(*given):
        raise RuntimeError("Failed to find C compiler\nmore")

    monkeypatch.setattr(short, "check", no_compiler)
    monkeypatch.setattr(packing.torch.random, "fork_rng", lambda devices: packing.nullcontext())
    packing.no_short.cache_clear()
    gpu = torch.device("cuda")
    assert packing.no_short(32, gpu) == "RuntimeError: Failed to find C compiler"
    assert packing.no_short(48, gpu) == "heads are 48 wide"
    monkeypatch.setattr(short, "check", lambda *given: None)
    assert packing.no_short(64, gpu) == ""
    packing.no_short.cache_clear()


def test_what_is_mostly_short():
    assert packing.mostly_short(np.array([32]))
    assert not packing.mostly_short(np.array([33]))
    assert packing.mostly_short(np.array([128, *[32] * 7]))
    assert not packing.mostly_short(np.array([128, *[32] * 6]))
    assert not packing.mostly_short(np.array([129, *[5] * 100]))


def test_chunks_of_mostly_short_texts_go_through_it_and_others_through_flash(tiny_bert, monkeypatch):
    monkeypatch.setattr(packing, "varlen", kernel.varlen)
    encoder = Encoder(pretrained.build(ModelConfig(str(tiny_bert), dropout=0.0)))
    encoder.pack(flash=True)
    encoder.train()
    few_long, many_long = np.array([40, *range(7, 0, -1)]), np.array([40, *range(6, 0, -1)])

    def learned(lengths):
        ids = np.random.default_rng(0).integers(5, 30, lengths.sum()).astype(np.int32)
        encoder.zero_grad(set_to_none=True)
        vectors = encoder.packed(ids, lengths)
        (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
        return vectors.detach(), torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])

    expected, reference = learned(few_long)
    used, true = [], short.attention
    monkeypatch.setattr(packing, "no_short", lambda width, device: "")
    monkeypatch.setattr(short, "attention", lambda q, *more: used.append(len(q)) or true(q, *more))
    found, gradient = learned(few_long)
    assert used == [few_long.sum()] * 2  # layers
    assert (found - expected).abs().max() < 1e-5
    assert (gradient - reference).norm() < 1e-4 * reference.norm()
    learned(many_long)
    assert len(used) == 2

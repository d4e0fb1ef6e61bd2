"""The kernel of short texts by Triton's interpreter, which has no bf16; tests/kernels/test_gpu.py has it on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext

import kernel
import numpy as np
import pytest
import torch

from embsearch.config.schema import ModelConfig
from embsearch.kernels import flash
from embsearch.kernels.select import choose_kernel
from embsearch.model import pretrained
from embsearch.model.encoder import Encoder

pytest.importorskip("triton", reason="Triton is for Linux")
if os.environ.get("TRITON_INTERPRET") != "1":  # conftest.py
    pytest.skip("tests/kernels/test_gpu.py has the kernel itself", allow_module_level=True)

from embsearch.kernels import short_attention

CPU = torch.device("cpu")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("width", [16, 64])
def test_a_text_attends_to_itself_alone(width, causal):
    counts = [1, 3, 16, 17, 32, 33, 64, 100, 128]  # on both sides of where tiles and their rows end
    borders = torch.tensor([0, *counts]).cumsum(0, dtype=torch.int32)
    draw = torch.Generator().manual_seed(0)
    q, k, v, gradient = (
        torch.randn(sum(counts), 2, width, generator=draw).half() for _ in range(4)
    )
    found = [t.requires_grad_() for t in (q, k, v)]
    mixed = short_attention.attention(*found, borders, 0.2, 0.0, causal)
    precise = [t.detach().float().requires_grad_() for t in found]
    plain = kernel.varlen(*precise, borders, 128, 0.2, 0.0, causal)
    pairs = zip([mixed, *torch.autograd.grad(mixed, found, gradient)],
                [plain, *torch.autograd.grad(plain, precise, gradient.float())], strict=True)  # fmt: skip
    assert all((one.float() - other).norm() < 1e-3 * other.norm() for one, other in pairs)


@pytest.mark.parametrize("count", [24, 64])
def test_dropout_drops_its_share_anew(count):
    width, share = 64, 0.25
    query, key = (torch.randn(count, 4, width).half() for _ in range(2))
    value = torch.eye(width).half()[:count, None].repeat(1, 4, 1)  # what is mixed are the weights
    borders, scale = torch.tensor([0, count], dtype=torch.int32), width**-0.5
    torch.manual_seed(0)
    mixed = short_attention.attention(query, key, value, borders, scale, share, False)
    again = short_attention.attention(query, key, value, borders, scale, share, False)
    torch.manual_seed(0)
    assert torch.equal(
        short_attention.attention(query, key, value, borders, scale, share, False), mixed
    )
    whole = short_attention.attention(query, key, value, borders, scale, 0.0, False)[
        ..., :count
    ].float()
    weights = mixed[..., :count].float()
    kept = weights > 0
    assert not torch.equal(kept, again[..., :count] > 0)
    assert (
        abs(1 - kept.float().mean().item() - share)
        < 4 * (share * (1 - share) / kept.numel()) ** 0.5
    )
    torch.testing.assert_close(weights[kept], whole[kept] / (1 - share), rtol=2e-3, atol=1e-4)
    assert not torch.equal(kept[:, 0], kept[:, 1])  # heads have draws of their own
    assert not torch.equal(kept[0], kept[1])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("count", [24, 64])
def test_gradients_go_back_by_the_draw_of_the_forward_pass(count, causal):
    width, share, scale = 64, 0.25, 0.2
    query, key, other, gradient = (torch.randn(count, 3, width).half() for _ in range(4))
    borders = torch.tensor([0, count], dtype=torch.int32)
    unit = torch.eye(width).half()[:count, None].repeat(1, 3, 1)
    torch.manual_seed(0)
    kept = (
        short_attention.attention(query, key, unit, borders, scale, share, causal)[..., :count] > 0
    ).transpose(0, 1)
    given = [t.requires_grad_() for t in (query, key, other)]
    torch.manual_seed(0)
    mixed = short_attention.attention(*given, borders, scale, share, causal)
    precise = [t.detach().float().requires_grad_() for t in given]
    scores = torch.einsum("qhw,khw->hqk", precise[0], precise[1]) * scale
    if causal:
        scores = scores.masked_fill(torch.ones(count, count, dtype=torch.bool).triu(1), -torch.inf)
    plain = torch.einsum("hqk,khw->qhw", scores.softmax(-1) * kept / (1 - share), precise[2])
    pairs = zip([mixed, *torch.autograd.grad(mixed, given, gradient)],
                [plain, *torch.autograd.grad(plain, precise, gradient.float())], strict=True)  # fmt: skip
    assert all((one.float() - two).norm() < 2e-3 * two.norm() for one, two in pairs)


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_tried_before_it_is_used(monkeypatch, causal):
    short_attention.check(32, causal, CPU, torch.float16)
    true = short_attention.attention
    monkeypatch.setattr(short_attention, "attention", lambda q, *more: true(q * 1.1, *more))
    with pytest.raises(RuntimeError, match="other vectors or gradients"):
        short_attention.check(32, causal, CPU, torch.float16)


def test_where_it_cannot_be_used_the_flash_kernel_has_all_texts_and_the_reason_is_said(monkeypatch):
    def no_compiler(*given):
        raise RuntimeError("Failed to find C compiler\nmore")

    monkeypatch.setattr(short_attention, "check", no_compiler)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())
    gpu, no_short = torch.device("cuda"), flash.why_not_short.__wrapped__  # which remembers nothing
    assert no_short(32, False, gpu) == "RuntimeError: Failed to find C compiler"
    assert no_short(48, False, gpu) == "heads are 48 wide"
    monkeypatch.setattr(short_attention, "check", lambda *given: None)
    assert no_short(64, False, gpu) == ""


COMPILE = """
import sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from embsearch.kernels import short_attention

fixed = {"W": 32, "ABOVE": 0, "MOST": short_attention.LONG, "DROPS": True, "CAUSAL": False}
kinds = {"borders_at": "*i32", "seed_at": "*i64", "heads": "i32", "scale": "fp32", "dropout": "fp32"}
for tile, warps in short_attention.TILES.items():
    for kernel in (short_attention._ahead, short_attention._back):
        names = kernel.arg_names
        constants = {name: (fixed | {"TILE": tile})[name] for name in names if name in {*fixed, "TILE"}}
        signature = {name: "constexpr" if name in constants else kinds.get(name, "*bf16") for name in names}
        made = compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", int(sys.argv[1]), 32),
                       options={"num_warps": warps, "num_stages": 1})
        print(tile, made.metadata.shared)
"""


@pytest.mark.parametrize(
    ("capability", "bytes_of_shared_memory"), [(80, 163 * 1024), (86, 99 * 1024), (90, 227 * 1024)]
)
def test_it_compiles_for_gpus_since_ampere(tmp_path, capability, bytes_of_shared_memory):
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(capability)], capture_output=True, text=True,
        env=clean | {"TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    needed = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(needed) == 2 * len(short_attention.TILES)
    assert max(needed) <= bytes_of_shared_memory


def test_what_is_mostly_short():
    assert flash.mostly_short(np.array([32]))
    assert not flash.mostly_short(np.array([33]))
    assert flash.mostly_short(np.array([128, *[32] * 7]))
    assert not flash.mostly_short(np.array([128, *[32] * 6]))
    assert not flash.mostly_short(np.array([129, *[5] * 100]))


def test_chunks_of_mostly_short_texts_go_through_it_and_others_through_flash(
    tiny_bert, monkeypatch
):
    monkeypatch.setattr(flash, "varlen", kernel.varlen)
    encoder = Encoder(pretrained.build(ModelConfig(str(tiny_bert), dropout=0.0)))
    choose_kernel(encoder, by_flash=True)
    encoder.train()
    few_long, many_long = np.array([40, *range(7, 0, -1)]), np.array([40, *range(6, 0, -1)])

    def learned(lengths):
        ids = np.random.default_rng(0).integers(5, 30, lengths.sum()).astype(np.int32)
        encoder.zero_grad(set_to_none=True)
        vectors = encoder.kernel.encode(ids, lengths)
        (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
        return vectors.detach(), torch.cat(
            [p.grad.flatten() for p in encoder.parameters() if p.grad is not None]
        )

    expected, reference = learned(few_long)
    used, true = [], short_attention.attention
    monkeypatch.setattr(flash, "why_not_short", lambda width, causal, device: "")
    monkeypatch.setattr(
        short_attention, "attention", lambda q, *more: used.append(len(q)) or true(q, *more)
    )
    found, gradient = learned(few_long)
    assert used == [few_long.sum()] * 2  # layers
    assert (found - expected).abs().max() < 1e-5
    assert (gradient - reference).norm() < 1e-4 * reference.norm()
    learned(many_long)
    assert len(used) == 2

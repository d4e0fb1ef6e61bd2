"""Adapters: they learn with every kernel, alone, and what is saved needs no peft."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from embsearch.cli.main import main
from embsearch.config.build import build, with_values
from embsearch.config.schema import LoraConfig, ModelConfig
from embsearch.data.dataset import Dataset
from embsearch.data.load import prepare_dataset
from embsearch.data.tokenise import Tokens
from embsearch.errors import ModelError
from embsearch.kernels import flash
from embsearch.kernels.attention_interface import switch_to_packed
from embsearch.kernels.graph_recording import GraphWeights
from embsearch.kernels.graph_sizes import Size
from embsearch.kernels.packing import joined
from embsearch.kernels.select import choose_kernel, perturbed, select
from embsearch.kernels.unpadded import UnpaddedKernel
from embsearch.model import lora, pretrained
from embsearch.model.device import choose
from embsearch.model.embed import embed
from embsearch.model.encoder import Encoder
from embsearch.trial import trial
from embsearch.worker import Worker
from tests.kernel import varlen
from tests.model.test_folders import folder_of

CPU = choose("cpu", "fp32")
LINEAR = 12  # layers of the tiny BERT that have one
TOKENS = Tokens(np.arange(5, 20, dtype=np.int32), np.array([0, 7, 12, 15]))
KINDS = ("BERT", "decoder")


@pytest.fixture(scope="module")
def cache(judgements_csv, tmp_path_factory):
    place = tmp_path_factory.mktemp("cache")
    return prepare_dataset(build({"data": {"path": str(judgements_csv)}}).data, place)


@pytest.fixture(scope="module")
def folders(tiny_bert, bare_bert, cache, tmp_path_factory):
    texts = list(Dataset.load(cache).texts)
    place = tmp_path_factory.mktemp("qwen")
    decoder = folder_of("decoder in 16 bits, padded on the left", bare_bert, texts, place)
    return {"BERT": tiny_bert, "decoder": decoder}


@pytest.fixture
def config(tiny_bert):
    values = {
        "model": {"path": str(tiny_bert), "dropout": 0.1, "adapter": "lora"},
        "train": {"texts": 144, "batch_size": 16, "lr": 3e-3, "precision": "fp32"},
        "objective": {"name": "infonce"},
        "evaluate": {"at": [0.34, 1.0]},
        "device": "cpu",
    }
    return build(values)


def built(folder, seed=0, moved=True, model=None, **settings):
    """An encoder without dropout whose adapters are no longer zero."""
    asked = ModelConfig(str(folder), adapter="lora", dropout=0.0, lora=LoraConfig(**settings))
    made = pretrained.build(replace(asked, **(model or {})), seed)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in made.named_parameters():
        if "lora_B" in name and moved:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    return made


def learning(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def begin(config, cache, folder, worker):
    data = worker.dataset(config, str(cache))
    encoder, tokens = worker._encoder(config, data, cache, CPU)
    return trial(config, data, tokens, encoder, CPU, folder), encoder, tokens


# ---- gradients -------------------------------------------------------------------------------


def plain(encoder):
    assert encoder.kernel is None


def packed(encoder):
    switch_to_packed(encoder.model[0])
    encoder.kernel = UnpaddedKernel(encoder.model, None)


def by_hand(encoder):
    select(encoder, CPU)
    assert encoder.kernel.stack is not None


def by_flash(encoder):
    """A GPU's kernel, with a stand-in for torch's attention (tests/kernel.py)."""
    choose_kernel(encoder, by_flash=True)
    assert encoder.kernel.recorded_sizes


def loss_of(encoder):
    vectors = encoder.encode(TOKENS, np.arange(3))
    return (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum()


@pytest.mark.parametrize(
    ("kind", "kernel"),
    [
        *(("BERT", kernel) for kernel in (plain, packed, by_hand, by_flash)),
        *(("decoder", kernel) for kernel in (plain, packed, by_flash)),
    ],
)
def test_every_adapter_gets_the_gradient_of_finite_differences(folders, kind, kernel, monkeypatch):
    monkeypatch.setattr(flash, "varlen", varlen)
    encoder = Encoder(built(folders[kind], rank=2))
    kernel(encoder)
    encoder.double().train()
    loss_of(encoder).backward()
    adapters = learning(encoder)
    assert len(adapters) == 2 * {"BERT": LINEAR, "decoder": 14}[kind]
    # norms of decoders compute in fp32 whatever they are given
    length, near = (1e-5, 1e-4) if kind == "BERT" else (1e-3, 1e-2)
    for name, parameter in adapters.items():
        with torch.no_grad():
            way = torch.randn(parameter.shape, dtype=torch.float64) * length
            parameter += way
            above = loss_of(encoder)
            parameter -= 2 * way
            below = loss_of(encoder)
            parameter += way
        expected = float(above - below) / 2
        assert abs(expected) > 1e-10, name
        assert float((parameter.grad * way).sum()) == pytest.approx(expected, rel=near), name


def test_a_step_that_is_recorded_on_a_gpu_has_the_gradients_of_every_adapter(
    tiny_bert, monkeypatch
):
    monkeypatch.setattr(flash, "varlen", varlen)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    encoder = Encoder(built(tiny_bert))
    by_flash(encoder)
    given = joined(TOKENS.ids, TOKENS.lengths)
    chunk = encoder.kernel._plain(Size.of(TOKENS.lengths))
    weights = GraphWeights(chunk, torch.float32)
    found = torch.func.functional_call(chunk, weights.leaves, (given,))
    gradient = torch.randn(found.shape)
    weights.keep(torch.autograd.grad(found, list(weights.leaves.values()), gradient))
    assert weights.agree(found, chunk(given), gradient)
    weights.hand_over()
    assert all(p.grad.any() for p in learning(encoder).values())


@pytest.mark.parametrize("kernel", [packed, by_hand])
def test_kernels_give_the_vectors_of_the_plain_path(tiny_bert, kernel):
    reference, encoder = Encoder(built(tiny_bert)), Encoder(built(tiny_bert))
    kernel(encoder)
    expected = reference.eval().encode(TOKENS, np.arange(3))
    assert torch.allclose(encoder.eval().encode(TOKENS, np.arange(3)), expected, atol=1e-6)


def test_layers_by_hand_are_not_for_adapters_with_dropout_but_packed_attention_is(tiny_bert):
    encoder = Encoder(built(tiny_bert, moved=False, dropout=0.2))
    assert select(encoder, CPU) == "texts without padding"
    assert encoder.kernel.stack is None
    encoder.train()
    loss_of(encoder).backward()
    assert all(p.grad.any() for n, p in learning(encoder).items() if "lora_B" in n)


# ---- what learns -----------------------------------------------------------------------------


def test_adapters_and_a_new_projection_learn_and_nothing_else(tiny_bert):
    model = built(tiny_bert, moved=False, model={"projection": 16})
    names = set(learning(model))
    assert {name for name in names if ".lora_" not in name} == {"2.linear.weight"}
    assert len(names) == 2 * LINEAR + 1
    assert not any("pooler" in name for name in names)


def test_frozen_layers_get_no_adapter_and_their_states_are_kept(tiny_bert):
    encoder = Encoder(built(tiny_bert, model={"freeze_layers": 1}))
    assert len(learning(encoder)) == LINEAR
    assert all(".layer.1." in name for name in learning(encoder))
    expected = encoder.eval().encode(TOKENS, np.arange(3))
    select(encoder, CPU)
    encoder.remember(TOKENS)
    assert encoder.frozen_states(TOKENS, np.arange(3)) is not None
    assert torch.allclose(encoder.encode(TOKENS, np.arange(3)), expected, atol=1e-6)


def test_a_fresh_adapter_changes_nothing_and_is_drawn_from_its_seed(tiny_bert):
    one, same, other = (built(tiny_bert, seed, moved=False) for seed in (3, 3, 4))
    texts = ["red shoe", "navy lamp new"]
    untuned = pretrained.build(ModelConfig(str(tiny_bert), dropout=0.0))
    assert np.array_equal(one.encode(texts), untuned.encode(texts))
    pairs = [
        (p, learning(same)[n], learning(other)[n])
        for n, p in learning(one).items()
        if "lora_A" in n
    ]
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in pairs)


def test_targets_are_names_joined_by_plus(tiny_bert):
    names = [
        name for name, _ in lora.adapted(built(tiny_bert, targets="query+attention.output.dense"))
    ]
    assert {name.partition("layer.")[2][2:] for name in names} == {
        "attention.self.query",
        "attention.output.dense",
    }
    with pytest.raises(
        ModelError, match=r"no linear layer is named q_proj; .* of: query, key, val"
    ):
        built(tiny_bert, targets="query+q_proj")
    with pytest.raises(ModelError, match=r"no linear layer above model\.freeze_layers=2"):
        built(tiny_bert, model={"freeze_layers": 2})


def test_what_an_adapter_adds_is_times_alpha_over_rank(tiny_bert):
    scales = [
        built(tiny_bert, rank=4, **more)[0].auto_model.encoder.layer[0].output.dense.scaling
        for more in ({}, {"alpha": 6.0})
    ]
    assert scales == [{"default": 2.0}, {"default": 1.5}]


# ---- trials ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_three_steps_dropped_in_between_end_with_the_bits_of_undisturbed_ones(
    config, cache, folders, kind, tmp_path
):
    config = with_values(config, {"model.path": str(folders[kind]), "model.lora.dropout": 0.1})
    run, encoder, tokens = begin(config, cache, tmp_path / "whole", Worker())
    untuned = embed(encoder, tokens, np.arange(5), CPU)
    base = {n: p.detach().clone() for n, p in encoder.named_parameters() if not p.requires_grad}
    first, last = run
    assert last.step == 3
    assert np.abs(embed(encoder, tokens, np.arange(5), CPU) - untuned).max() > 1e-3
    assert all(torch.equal(p, base[n]) for n, p in encoder.named_parameters() if n in base)

    run, _, _ = begin(config, cache, tmp_path / "cut", Worker())
    assert next(run).metrics == first.metrics
    run.close()
    run, _, _ = begin(config, cache, tmp_path / "cut", Worker())
    next(run)
    assert next(run).metrics == last.metrics
    files = [
        load_file(tmp_path / name / "model" / part)
        for part in ("model.safetensors", "adapter/adapter_model.safetensors")
        for name in ("whole", "cut")
    ]
    for one, other in (files[:2], files[2:]):
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_trials_on_one_worker_are_those_on_a_fresh_one_whatever_their_ranks_and_seeds(
    config, cache, tmp_path
):
    def values(worker, folder, **points):
        points = {path.replace("__", "."): value for path, value in points.items()}
        run, _, _ = begin(with_values(config, points), cache, tmp_path / folder, worker)
        return [m.metrics for m in run]

    worker = Worker()
    one = values(worker, "1")
    assert values(worker, "2", model__lora__rank=2) != one
    assert values(worker, "3", train__seed=1) != one
    assert values(worker, "4") == one == values(Worker(), "5")


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_merged_and_the_trial_goes_on_undisturbed(folders, kind, tmp_path):
    encoder = Encoder(built(folders[kind]))
    texts = ["red shoe", "navy lamp new 2024", "jet hat"]
    expected = encoder.model.eval().encode(texts)
    before = {n: (p, p.detach().clone()) for n, p in encoder.named_parameters()}
    draws = torch.get_rng_state()

    encoder.save(tmp_path / "model")

    now = dict(encoder.named_parameters())
    assert now.keys() == before.keys()
    assert all(now[n] is p and torch.equal(p, held) for n, (p, held) in before.items())
    assert torch.equal(torch.get_rng_state(), draws)
    saved = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert not any("lora" in name for name, _ in saved.named_parameters())
    np.testing.assert_allclose(saved.encode(texts), expected, rtol=0, atol=1e-5)

    alone = pretrained.build(ModelConfig(str(folders[kind]), dropout=0.0)).eval()
    PeftModel.from_pretrained(alone[0].auto_model, str(tmp_path / "model" / "adapter"))
    np.testing.assert_allclose(alone.encode(texts), expected, rtol=0, atol=1e-5)
    said = json.loads((tmp_path / "model" / "adapter" / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(folders[kind])


def test_weights_below_adapters_take_half_the_memory_where_bf16_has_all_their_bits(
    tiny_bert, tmp_path
):
    whole = SentenceTransformer(str(tiny_bert), device="cpu")
    whole.bfloat16().save(str(tmp_path / "published"))
    one, other = (Encoder(built(tmp_path / "published")) for _ in range(2))
    one.hold_frozen_in_bf16()
    held = [layer.base_layer.weight.dtype for _, layer in lora.adapted(one.model)]
    assert held == [torch.bfloat16] * LINEAR
    with torch.autocast("cpu", torch.bfloat16):
        for encoder in (one, other):
            loss_of(encoder.train()).backward()
    grads = [{n: p.grad for n, p in learning(encoder).items()} for encoder in (one, other)]
    assert all(torch.equal(grad, grads[1][name]) for name, grad in grads[0].items())
    for name, encoder in (("one", one), ("other", other)):
        encoder.save(tmp_path / name)
    bits = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other")]
    assert bits[0] == bits[1]

    lossy = Encoder(built(tiny_bert))
    lossy.hold_frozen_in_bf16()
    assert all(
        layer.base_layer.weight.dtype == torch.float32 for _, layer in lora.adapted(lossy.model)
    )


def test_a_checkpoint_holds_the_adapters_alone(config, cache, tmp_path):
    sizes = {}
    for adapter in ("none", "lora"):
        asked = with_values(
            config, {"model.path": "minilm", "model.adapter": adapter, "train.texts": 6}
        )
        run, _, _ = begin(
            with_values(asked, {"train.batch_size": 1}), cache, tmp_path / adapter, Worker()
        )
        next(run)
        sizes[adapter] = (tmp_path / adapter / "checkpoint.safetensors").stat().st_size
    assert sizes["lora"] < 0.05 * sizes["none"]


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["search", "model.adapter=lora"],
        ["search", "space=lora"],
        ["search", "+space.model.adapter={choices: [none, lora]}"],
        ["train", "model.adapter=lora"],
        ["evaluate", "model.adapter=lora"],
    ],
)
def test_without_peft_nothing_begins(
    words, tiny_bert, judgements_csv, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "peft", None)
    home = tmp_path / "home"
    asked = [f"home={home}", f"model.path={tiny_bert}", f"data.path={judgements_csv}"]
    assert main([*words, *asked, "launcher=inline", "track=none", "device=cpu"]) == 2
    assert "pip install 'embsearch[lora]'" in capsys.readouterr().err
    assert not (home / "studies").exists()


def test_noise_reaches_adapters_too(tiny_bert):
    model = built(tiny_bert, moved=False)
    with perturbed(model):
        assert all(p.any() for n, p in learning(model).items() if "lora_B" in n)
    assert not any(p.any() for n, p in learning(model).items() if "lora_B" in n)

"""The door to the kernels: who is let in, who stays on the plain path, and that gradients arrive."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig
from torch import nn

from embsearch.config.schema import ModelConfig
from embsearch.data.tokenise import Tokens
from embsearch.kernels import exact_types, select
from embsearch.kernels.select import perturbed
from embsearch.model import pretrained
from embsearch.model.device import choose
from embsearch.model.encoder import Encoder

CPU = choose("cpu", "fp32")
QUERY = "encoder.layer.0.attention.self.query"
NORM = "encoder.layer.0.output.LayerNorm"


class OwnLinear(nn.Linear):
    """A linear layer that does what nn.Linear does and a little more."""

    def forward(self, x):
        return super().forward(x) * 1.01


def lora(base):
    base.add_adapter(LoraConfig(r=4, target_modules=["query", "value"]))


def dora(base):
    base.add_adapter(LoraConfig(r=4, target_modules=["query", "value"], use_dora=True))


def swapped(base):
    attention, plain = base.get_submodule(QUERY.removesuffix(".query")), base.get_submodule(QUERY)
    attention.query = OwnLinear(plain.in_features, plain.out_features)
    attention.query.load_state_dict(plain.state_dict())


def hooked(base):
    base.get_submodule(NORM).register_forward_hook(lambda module, given, found: found * 1.01)


def before(base):
    base.get_submodule(NORM).register_forward_pre_hook(lambda module, given: None)


def parametrized(base):
    torch.nn.utils.parametrizations.weight_norm(base.get_submodule(QUERY))


def patched(base):
    base.get_submodule(QUERY).forward = lambda x: x


CHANGES = {
    dora: f"{QUERY}.lora_magnitude_vector.default is a DoraLinearLayer of peft.tuners.lora.dora",
    swapped: f"{QUERY} is a OwnLinear of {__name__}",
    hooked: f"{NORM} has hooks",
    before: f"{NORM} has hooks",
    parametrized: f"{QUERY} has parametrizations",
    patched: f"{QUERY} has another forward than its class",
}


def made(tiny_bert, change=lambda base: None):
    torch.manual_seed(0)
    encoder = Encoder(pretrained.build(ModelConfig(str(tiny_bert), dropout=0.0)))
    change(encoder.model.transformers_model)
    return encoder


def learned(encoder):
    """The vectors of three texts, and the gradients by name."""
    encoder.train()
    tokens = Tokens(np.arange(5, 20, dtype=np.int32), np.array([0, 7, 12, 15]))
    vectors = encoder.encode(tokens, np.arange(3))
    (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
    grads = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
    return vectors.detach(), grads


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_wrapped_swapped_or_hooked_gets_the_plain_path_and_the_reason_is_said(
    tiny_bert, change
):
    encoder = made(tiny_bert, change)
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    attention = encoder.model.transformers_model.config._attn_implementation
    assert select.select(encoder, CPU) == f"texts padded: {CHANGES[change]}"
    assert encoder.kernel is None
    assert encoder.model.transformers_model.config._attn_implementation == attention
    assert all(torch.equal(p, before[name]) for name, p in encoder.named_parameters())


@pytest.mark.parametrize(("change", "names"), [
    (dora, ["query.lora_B.default.weight", "value.lora_B.default.weight"]),
    (swapped, ["attention.self.query.weight"]),
    (hooked, ["output.LayerNorm.weight"]),
])  # fmt: skip
def test_they_get_their_gradients(tiny_bert, change, names):
    encoder, never_asked = made(tiny_bert, change), made(tiny_bert, change)
    select.select(encoder, CPU)
    vectors, grads = learned(encoder)
    expected, reference = learned(never_asked)
    assert torch.equal(vectors, expected)
    assert grads.keys() == reference.keys()
    for name in names:
        found = [n for n in grads if n.endswith(name)]
        assert found
        assert all(grads[n].abs().sum() > 0 for n in found)
    assert all(torch.equal(grads[n], reference[n]) for n in grads)


@pytest.fixture
def passed_over(monkeypatch):
    """Layers by hand that read the weights below adapters, as they would those of plain layers."""
    monkeypatch.setattr(select.bert.lora, "weight", lambda module: module.weight)


def test_perturbed_parameters_show_what_is_zero_at_first(tiny_bert, passed_over, monkeypatch):
    """Adapters that are passed over are noticed by trying."""
    encoder = made(tiny_bert, lora)
    tried, true = [], select._tried

    def counted(model, trial, in_bf16):
        tried.append(true(model, trial, in_bf16))
        return tried[-1]

    monkeypatch.setattr(select, "_tried", counted)
    select.select(encoder, CPU)
    assert tried[0] == select.OTHERS  # layers by hand
    _, grads = learned(encoder)
    assert any("query" in name for name in grads)


def test_without_noise_a_fresh_adapter_would_pass(tiny_bert, passed_over, monkeypatch):
    """What the noise is there for."""
    monkeypatch.setattr(select, "NOISE", 0.0)
    encoder = made(tiny_bert, lora)
    select.select(encoder, CPU)
    assert encoder.kernel.stack is not None


def test_perturbed_parameters_are_others_and_then_the_same_to_the_bit(tiny_bert):
    encoder = made(tiny_bert)
    held = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    draws = torch.get_rng_state()
    with perturbed(encoder.model):
        others = [n for n, p in encoder.named_parameters() if not torch.equal(p, held[n])]
    assert others == [name for name in held if "_embeddings" not in name]
    assert all(torch.equal(p, held[name]) for name, p in encoder.named_parameters())
    assert torch.equal(torch.get_rng_state(), draws)


def test_a_plain_encoder_gets_its_layers_by_hand_and_a_model_of_its_own_package_is_plain(tiny_bert):
    encoder = made(tiny_bert)
    assert select.select(encoder, CPU) == "texts without padding"
    assert encoder.kernel.stack is not None
    own = nn.Sequential(OwnLinear(2, 2))
    assert exact_types.not_plain(own, f"{__name__}.") == ""
    assert exact_types.not_plain(own, "other.") == f"0 is a OwnLinear of {__name__}"


def test_the_plain_path_can_be_read_without_kernels():
    code = """
import importlib, pkgutil, sys
import embsearch.model
for module in pkgutil.iter_modules(embsearch.model.__path__):
    importlib.import_module(f"embsearch.model.{module.name}")
print([name for name in sys.modules if name.startswith("embsearch.kernels")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

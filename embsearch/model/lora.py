"""LoRA: the weights stay fixed, and small adapters beside linear layers learn, by peft.

Hu et al. 2021, arXiv:2106.09685. They lie in the loaded model itself. Saved models are merged, so
that they load anywhere, with the adapter beside them. No torch at import: the command line asks
``check`` too. Shapes: a weight is (out, in), its adapter (out, rank) @ (rank, in) * alpha / rank.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from embsearch.config.schema import Config, ModelConfig
from embsearch.errors import ModelError
from embsearch.model.base_model import base_of

if TYPE_CHECKING:
    from peft.tuners.lora.layer import Linear as Adapted
    from torch import Tensor, nn

NAME = "default"  # peft's own name of an adapter


def check(config: Config) -> None:
    """Raise ModelError where this study may ask for adapters and peft is not installed."""
    searched = config.space.get("model.adapter") or {}
    if "lora" in (config.model.adapter, *searched.get("choices", ())):
        _need_peft()


def _need_peft() -> None:
    if find_spec("peft") is None:
        raise ModelError(
            "model.adapter=lora: the package peft is not installed. pip install 'embsearch[lora]', "
            "or leave model.adapter at none"
        )


def inject(base: nn.Module, layers: Iterable[nn.Module], config: ModelConfig, seed: int) -> None:
    """Put an adapter drawn from ``seed`` beside linear layers inside ``layers`` of ``base``.

    Nothing else of ``base`` learns afterwards. The vectors are the same until it is trained. Raises
    ModelError where no layer has such a name, and without peft.
    """
    _need_peft()
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    asked = config.lora
    torch.manual_seed(seed)
    made = LoraConfig(
        r=asked.rank,
        lora_alpha=2 * asked.rank if asked.alpha is None else asked.alpha,  # type: ignore[arg-type]
        lora_dropout=asked.dropout,
        target_modules=_targets(base, layers, config),
        base_model_name_or_path=base_of(config).name,
        task_type="FEATURE_EXTRACTION",
    )
    inject_adapter_in_model(made, base)


def _targets(base: nn.Module, layers: Iterable[nn.Module], config: ModelConfig) -> list[str]:
    from torch import nn

    inside = {id(module) for layer in layers for module in layer.modules()}
    found = [n for n, m in base.named_modules() if id(m) in inside and type(m) is nn.Linear]
    asked = config.lora.targets
    if asked != "all":
        ends = tuple(f".{end}" for end in asked.split("+"))
        lacking = [end for end in ends if not any(f".{name}".endswith(end) for name in found)]
        if lacking:
            known = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in found))
            raise ModelError(
                f"model.lora.targets={asked}: no linear layer is named {lacking[0][1:]}; expected "
                f"all, or names joined by '+', of: {known}"
            )
        found = [name for name in found if f".{name}".endswith(ends)]
    if not found:
        raise ModelError(
            f"model.adapter=lora: {type(base).__name__} of {config.path} has no linear layer above "
            f"model.freeze_layers={config.freeze_layers}; use model.adapter=none or freeze fewer"
        )
    return found


def adapted(model: nn.Module) -> list[tuple[str, Adapted]]:
    """Return the layers that have an adapter, by name."""
    return [(name, module) for name, module in model.named_modules() if _has_adapter(module)]


def _has_adapter(module: nn.Module) -> TypeGuard[Adapted]:
    kind = type(module)
    return f"{kind.__module__}.{kind.__qualname__}" == "peft.tuners.lora.layer.Linear"


def plain(module: nn.Module) -> nn.Module:
    """Return the layer below an adapter that only adds to its weight; else ``module``."""
    from torch import nn

    if (
        _has_adapter(module)
        and module.active_adapters == [NAME]
        and not (module.merged or module.disable_adapters or module.lora_variant)
        and type(module.lora_dropout[NAME]) is nn.Identity
        and module.lora_B[NAME].bias is None
    ):
        found: nn.Module = module.base_layer
        return found
    return module


def weight(module: nn.Module) -> Tensor:
    """Return a layer's weight with its adapter added, as autograd follows it."""
    import torch

    if not _has_adapter(module):
        return module.get_parameter("weight")
    own = module.base_layer.get_parameter("weight")
    with torch.autocast(own.device.type, enabled=False):
        both: Tensor = own + module.get_delta_weight(NAME)
    return both


def hold_in_bf16(model: nn.Module) -> None:
    """Hold weights below adapters in half the memory, where bf16 has all of their bits.

    That is so for encoders that were published in bf16. Under autocast nothing changes.
    """
    import torch

    for _, layer in adapted(model):
        own = layer.base_layer.get_parameter("weight")
        half = own.detach().bfloat16()
        if torch.equal(half.to(own.dtype), own):
            own.data = half


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Put plain layers in the place of adapted ones for a while, and say nothing of peft.

    The adapted ones are put back as they were: merging in place and back would round.
    """
    import torch
    from torch import nn

    own = adapted(model)
    held = {m: vars(m).pop("peft_config") for m in model.modules() if "peft_config" in vars(m)}
    try:
        for name, layer in own:
            with torch.no_grad():
                both = weight(layer)
            made = nn.Linear(both.shape[1], both.shape[0], device="meta")
            made.weight = nn.Parameter(both)
            made.register_parameter("bias", layer.base_layer._parameters["bias"])
            model.set_submodule(name, made)
        yield
    finally:
        for name, layer in own:
            model.set_submodule(name, layer)
        for module, configs in held.items():
            module.peft_config = configs


def save(model: nn.Module, folder: Path) -> None:
    """Write the adapter of ``model`` to ``folder`` as peft does; nothing where there is none."""
    for base in model.modules():
        if "peft_config" not in vars(base):
            continue
        from safetensors.torch import save_file

        config = copy.copy(vars(base)["peft_config"][NAME])
        config.inference_mode = True
        config.target_modules = sorted(config.target_modules)  # a set has another order each time
        config.save_pretrained(str(folder))
        tensors = {
            f"base_model.model.{name.replace(f'.{NAME}.', '.')}": tensor.detach().cpu().contiguous()
            for name, tensor in base.named_parameters()
            if f".{NAME}." in name
        }
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})

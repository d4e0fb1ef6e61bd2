"""An exported graph: how it is made, and how it is run without torch.

sentence-transformers' own backends need optimum, which does not take the transformers we train
with (docs/decisions/0022): torch writes the ONNX graph itself, ONNX Runtime quantises it, OpenVINO
converts it. Shapes: B texts, T tokens, E the width of the vector.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from embsearch.errors import ConfigError, ModelError, first_line
from embsearch.model import pretrained
from embsearch.model.prompts import CONFIG as PROMPTS
from embsearch.model.readers import LONGEST
from embsearch.model.routes import router_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "int8": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
}
GRAPH = {"onnx": "model.onnx", "int8": "model_int8.onnx", "openvino": "model.xml"}
INPUTS, OUTPUT = ("input_ids", "attention_mask"), "sentence_embedding"
BATCH = 32  # texts at once when it is compared

Encode = Callable[[Sequence[str]], np.ndarray]


class Graph(nn.Module):
    """Token ids and mask to vectors of length 1, whatever the model's last module leaves them at."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model, self.width = model, model.truncate_dim

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found = self.model({"input_ids": input_ids, "attention_mask": attention_mask})
        return nn.functional.normalize(found["sentence_embedding"][:, : self.width], dim=-1)


def check_installed(kind: str) -> None:
    """Raise ConfigError naming the packages that ``format=kind`` lacks."""
    missing = [name for name in NEEDS[kind] if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"format={kind}: needs {', '.join(missing)}; run: pip install 'embsearch[export]'"
        )


def write(model_folder: Path, kind: str, folder: Path) -> None:
    """Write the graph, its tokenizer and the model's prompts, in ``folder``.

    Raises ModelError where the model has no graph.
    """
    model = pretrained.load(model_folder)
    router = router_of(model)
    if model.transformers_model is None or router is not None:
        raise ModelError(
            f"{model_folder}: {type(router or model[0]).__name__} is not exported: a graph here is one "
            "transformer from tokens to vectors. Serve the model folder itself: embsearch serve, or "
            "SentenceTransformer(folder)"
        )
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"{model_folder}: {type(model.tokenizer).__name__} has no tokenizer.json, which a graph needs"
        )
    tokenizer = type(backend).from_str(backend.to_str())
    tokenizer.enable_truncation(model.max_seq_length or LONGEST)
    tokenizer.enable_padding(
        pad_id=model.tokenizer.pad_token_id or 0, pad_token=model.tokenizer.pad_token or "[PAD]"
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    prompts = {"prompts": model.prompts, "default_prompt_name": model.default_prompt_name}
    (folder / PROMPTS).write_text(json.dumps(prompts, ensure_ascii=False), encoding="utf-8")
    plain = folder / "model.onnx"
    try:
        _to_onnx(Graph(model).eval(), plain)
    except Exception as error:
        first = first_line(error)[:300]
        raise ModelError(
            f"{model_folder}: torch cannot write this model as a graph: {first}"
        ) from error
    if kind == "int8":
        _quantise(plain, folder / GRAPH[kind])
    if kind == "openvino":
        import openvino

        openvino.save_model(
            openvino.convert_model(plain), folder / GRAPH[kind], compress_to_fp16=False
        )
    if kind != "onnx":
        plain.unlink()


def open_graph(folder: Path, kind: str, threads: int) -> Encode:
    """Return a function from texts to (B, E) float32 by the exported files alone."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    run = (
        _openvino(folder / GRAPH[kind], threads)
        if kind == "openvino"
        else _onnx(folder / GRAPH[kind], threads)
    )

    def encode(texts: Sequence[str]) -> np.ndarray:
        order = sorted(
            range(len(texts)), key=lambda i: -len(texts[i])
        )  # near lengths together: less padding
        found: dict[int, np.ndarray] = {}
        for at in range(0, len(order), BATCH):
            take = order[at : at + BATCH]
            rows = tokenizer.encode_batch([texts[i] for i in take])
            ids, mask = (
                np.array([getattr(row, name) for row in rows], np.int64)
                for name in ("ids", "attention_mask")
            )
            found |= dict(zip(take, run(ids, mask), strict=True))
        return np.stack([found[i] for i in range(len(texts))])

    return encode


def _to_onnx(graph: nn.Module, file: Path) -> None:
    ids = torch.ones((2, 7), dtype=torch.long)
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            torch.inference_mode(False),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph,
                (ids, torch.ones_like(ids)),
                str(file),
                input_names=list(INPUTS),
                output_names=[OUTPUT],
                dynamic_shapes=dict.fromkeys(INPUTS, any_size),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        logging.disable(level)


def _quantise(plain: Path, file: Path) -> None:
    """Write weights of matrix products in 8 bits, a scale for each output; activations are scaled
    as they come.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(
            plain,
            file,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
        )
    finally:
        logging.disable(level)


Run = Callable[[np.ndarray, np.ndarray], np.ndarray]  # ids and mask to vectors


def _onnx(file: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, dict(zip(INPUTS, (ids, mask), strict=True)))[0]


def _openvino(file: Path, threads: int) -> Run:
    import openvino

    # without the hint it would compute in bf16 where the CPU can
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(str(file), "CPU", settings)
    return lambda ids, mask: model([ids, mask])[0]

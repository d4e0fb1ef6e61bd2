"""embsearch export: the champion as a graph that runs without torch, if it is still the same model.

embsearch export study=product_search format=onnx output=champion-onnx
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embsearch import __version__, disk
from embsearch.cli.encode import read_texts
from embsearch.cli.models import Chosen, chosen_or_champion
from embsearch.config.options import ExportOptions
from embsearch.config.schema import Config
from embsearch.errors import ConfigError, ModelError, Refused
from embsearch.history.folder import as_begun
from embsearch.study.fit_to_data import data_of
from embsearch.tasks.catalogue import task_of

if TYPE_CHECKING:
    import numpy as np

    from embsearch.serve.parity import Parity


def run(config: Config, options: ExportOptions) -> int:
    """Write the folder ``output``: graph, tokenizer, manifest, README.

    If the graph is another model: exit code 3, and no folder.
    """
    output = new_folder(options.output)
    if not options.input and not config.data.named:
        raise ConfigError(
            "export compares the graph with the model: give study=NAME for its test rows, or input=FILE"
        )
    texts = read_texts(options.input) if options.input else None

    from embsearch.serve.exported import GRAPH, check_installed, write

    check_installed(options.format)
    model = chosen_or_champion(config, options)
    if model.folder is None:
        raise ModelError(
            "checkpoint=untuned: export takes a saved model; name a folder, or one of the registry"
        )
    digest = model.digest()
    with disk.draft_of(output) as draft:
        print(f"{model.label} as {options.format} ...", flush=True)
        write(model.folder, options.format, draft)
        parity = compared(config, options.format, model.folder, draft, texts)
        print(describe(parity, options.format))
        refusals = parity.refusals(config.export)
        if refusals:
            raise Refused(f"format={options.format} is not exported: {'; '.join(refusals)}")
        write_description(draft, config, options.format, model, digest, parity)
        disk.put(draft, output)
    size = sum(file.stat().st_size for file in output.iterdir())
    print(
        f"{output}: {GRAPH[options.format]} and its tokenizer, {size / 1e6:.0f} MB; its README.md says how to load it"
    )
    return 0


def new_folder(output: str | None) -> Path:
    """Return the path of ``output``. Raises ConfigError if it is there already."""
    if not output:
        raise ConfigError("output: must be given, as output=champion-onnx; a folder is made there")
    folder = Path(output).expanduser()
    if folder.exists():
        raise ConfigError(f"output={folder}: already there; name a new folder")
    if not folder.parent.is_dir():
        raise ConfigError(f"output={folder}: there is no folder {folder.parent}; make it first")
    return folder


def compared(
    config: Config, kind: str, folder: Path, draft: Path, texts: list[str] | None
) -> Parity:
    """Measure parity on the texts of ``input``, or on the study's test rows."""
    import torch

    from embsearch.data.dataset import roles_of
    from embsearch.data.tokenise import prompted
    from embsearch.model import pretrained
    from embsearch.model.prompts import prompts_of
    from embsearch.serve.encoder import TextEncoder
    from embsearch.serve.exported import BATCH, open_graph
    from embsearch.serve.parity import on_rows, on_texts
    from embsearch.worker import use_all_cores

    use_all_cores()
    graph = open_graph(draft, kind, torch.get_num_threads())
    fast, plain = TextEncoder.open(folder, "cpu"), pretrained.load(folder)

    def exact(given: Sequence[str]) -> np.ndarray:
        return fast.as_they_are([(text, None) for text in given]).values

    def slow(given: Sequence[str]) -> np.ndarray:
        found: np.ndarray = plain.encode(
            list(given), prompt="", batch_size=BATCH, show_progress_bar=False
        )
        return found

    if texts is not None:
        return on_texts([text for text, _ in fast.prompted(texts, None)], exact, graph, slow)
    task, data = data_of(config)
    rows = task.rows(data, "test") or task.rows(data, "valid")
    given = prompted(data, prompts_of(plain, roles_of(data)[0]))
    items = [given[i] for i in task.items(rows)]
    return on_rows(task, items, rows, exact, graph, slow)


def describe(parity: Parity, kind: str) -> str:
    """Return the result of the comparison as a sentence."""
    found = parity.scored
    scored = ""
    if found is not None:
        scored = f"{found.metric.label} {found.graph:.4f}, fp32 {found.fp32:.4f}; "
    ratio = parity.speed / parity.speed_torch
    return (
        f"{parity.texts} texts: {scored}least similar vector {parity.min_cosine:.6f}; {kind} {parity.speed:.0f} "
        f"texts/s, SentenceTransformer.encode {parity.speed_torch:.0f} ({ratio:.2f} times)"
    )


def write_description(
    draft: Path, config: Config, kind: str, model: Chosen, digest: str, parity: Parity
) -> None:
    """Write README.md, export.json with the comparison, and manifest.json with every file's sha256."""
    from embsearch.track import digest as files

    scored = parity.scored
    metric = task_of(as_begun(config)).primary if scored is None else scored.metric
    about = {
        "model": model.version.uri if model.version else model.name,
        "digest": digest,
        "format": kind,
        "parity": parity.facts(metric),
        "embsearch": __version__,
    }
    (draft / "export.json").write_text(
        json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    readme = README.format(
        label=model.label, digest=digest, words=describe(parity, kind), load=LOAD[kind]
    )
    (draft / "README.md").write_text(readme, encoding="utf-8")
    found = files.manifest(draft)
    text = json.dumps({"digest": files.digest(found), "files": found}, indent=1) + "\n"
    (draft / "manifest.json").write_text(text, encoding="utf-8")


_ONNX = """session = onnxruntime.InferenceSession(folder + "/{file}", providers=["CPUExecutionProvider"])


def run(ids, mask):
    return session.run(None, {{"input_ids": ids, "attention_mask": mask}})[0]"""
_OPENVINO = """fp32 = {"INFERENCE_PRECISION_HINT": "f32"}  # not bf16, where the CPU has it
model = openvino.Core().compile_model(folder + "/model.xml", "CPU", fp32)


def run(ids, mask):
    return model([ids, mask])[0]"""
LOAD = {
    "onnx": ("onnxruntime", _ONNX.format(file="model.onnx")),
    "int8": ("onnxruntime", _ONNX.format(file="model_int8.onnx")),
    "openvino": ("openvino", _OPENVINO),
}
README = """# {label}

Texts to vectors of length 1 without torch. Written by embsearch from the model with sha256 {digest}.
Compared when it was written: {words}.

```python
import json

import numpy as np
import {load[0]}
from tokenizers import Tokenizer

folder = "."
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")  # cuts and pads as the model was trained
with open(folder + "/config_sentence_transformers.json", encoding="utf-8") as file:
    prompts = json.load(file)["prompts"]  # by role: query, document
{load[1]}


def encode(texts, role="document"):
    rows = tokenizer.encode_batch([(prompts.get(role) or "") + text for text in texts])
    ids, mask = (np.array([getattr(row, name) for row in rows], np.int64) for name in ("ids", "attention_mask"))
    return run(ids, mask)


print(encode(["running shoes"]).shape)
```

`manifest.json` has the sha256 of every file, `export.json` the model and the comparison.
"""

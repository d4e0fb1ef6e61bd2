"""embsearch index: titles encoded once and kept, for ``embsearch query``.

embsearch index study=product_search input=products.csv output=products.index
"""

from __future__ import annotations

import time
from pathlib import Path

from embsearch.cli.models import chosen_or_champion
from embsearch.cli.titles import titles
from embsearch.config.options import IndexOptions
from embsearch.config.schema import Config
from embsearch.errors import ConfigError, ModelError


def run(config: Config, options: IndexOptions) -> int:
    """Write the folder ``output``: titles, vectors, and which model made them."""
    output = folder_to_write(options.output)
    found = titles(config, options.input)
    model = chosen_or_champion(config, options)
    if model.folder is None:
        raise ModelError(
            "checkpoint=untuned: index takes a saved model; name a folder, or one of the registry"
        )
    about = {
        "model": str(model.version.uri if model.version else model.folder.resolve()),
        "digest": model.digest(),
    }
    print(f"{found.words}; encoded by {model.label}", flush=True)

    from embsearch.serve.encoder import TextEncoder
    from embsearch.serve.index import Index, unit_rows
    from embsearch.worker import use_all_cores

    use_all_cores()
    began = time.monotonic()
    encode = TextEncoder.open(model.folder, config.device)
    vectors = unit_rows(encode(found.texts, "document", options.prompt_name).values)
    Index(found.texts, vectors, about, found.classes).save(output)
    took = time.monotonic() - began
    print(f"{output}: {len(vectors)} vectors of width {vectors.shape[1]} in {took:.0f} s")
    print(f"next:  embsearch query index={output} {found.texts[0].split()[0]}")
    return 0


def folder_to_write(output: str | None) -> Path:
    """Return the path of ``output``: new, or an index that may be replaced. Raises ConfigError."""
    if not output:
        raise ConfigError("output: must be given, as output=products.index; a folder is made there")
    folder = Path(output).expanduser()
    if folder.exists() and not (folder / "index.json").exists():
        raise ConfigError(f"output={folder}: already there and no index; name a new folder")
    if not folder.parent.is_dir():
        raise ConfigError(f"output={folder}: there is no folder {folder.parent}; make it first")
    return folder

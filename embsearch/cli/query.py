"""embsearch query: the nearest titles of an index, alone or beside those of another encoder.

embsearch query index=products.index running shoes
embsearch query index=products.index study=product_search compare=untuned
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from embsearch.cli.encode import read_texts
from embsearch.cli.files import check_output, write_whole
from embsearch.cli.models import Chosen, chosen_or_champion, named
from embsearch.config.schema import Config
from embsearch.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    import numpy as np

    from embsearch.serve.index import Index

SHOWN = 10  # queries of a comparison that were not asked for one by one
Right = dict[str, set[str]]


def run(config: Config) -> int:
    """Print the titles; ``output=`` keeps them as JSON lines. Refuses an index of another model."""
    if not config.index:
        raise ConfigError("index: must be given, as index=products.index; 'embsearch index' makes it")
    if config.text and config.input:
        raise ConfigError(f"text={config.text} and input={config.input}: give one or the other")
    output = check_output(config.output, ".jsonl")

    from embsearch.serve.encoder import TextEncoder
    from embsearch.serve.index import Index
    from embsearch.worker import use_all_cores

    index = Index.load(Path(config.index).expanduser())
    model = of_index(config, index)
    texts, right = questions(config, index)
    use_all_cores()
    queries = TextEncoder.open(model.folder, config.device)(texts).values  # type: ignore[arg-type]  # of_index
    k = config.k or (3 if config.compare else 10)
    scores, ids = index.nearest(queries, k)
    if config.compare:
        from embsearch.cli.comparison import other_nearest, show

        label, theirs = other_nearest(config, index, texts, k)
        show(texts, [[index.titles[i] for i in row] for row in ids], theirs, (model.label, label), right)
    elif output is None:
        for text, row, numbers in zip(texts, scores, ids, strict=True):
            print(text)
            for place, (score, number) in enumerate(zip(row, numbers, strict=True), 1):
                print(f"  {place:3}  {score:.4f}  {index.titles[number]}")
    if output is not None:
        write_whole(output, lines(texts, index, scores, ids))
        print(f"{output}: {len(texts)} texts with {ids.shape[1]} titles each", file=sys.stderr)
    return 0


def of_index(config: Config, index: Index) -> Chosen:
    """The model that was asked for, which must be the one that made the index. Raises UserError."""
    model = chosen_or_champion(config) if config.checkpoint or config.trial is not None else _its_model(config, index)
    if model.folder is None:
        raise ModelError("checkpoint=untuned: did not make this index; compare=untuned shows it beside")
    if model.digest() != index.about["digest"]:
        raise DataError(
            f"index={config.index}: made by {index.about['model']} (sha256 {index.about['digest'][:12]}), and "
            f"{model.label} is another model ({model.digest()[:12]}): their vectors do not compare. Build the index "
            f"again with 'embsearch index', or ask with checkpoint={index.about['model'].removeprefix('models:/')}"
        )
    return model


def _its_model(config: Config, index: Index) -> Chosen:
    """The champion, where the index is of a registered model; else the folder that it names."""
    uri = str(index.about["model"])
    if not uri.startswith("models:/"):
        return named(config, uri)
    name = uri.removeprefix("models:/").rpartition("/")[0]
    return named(config, f"{name}@champion")


def questions(config: Config, index: Index) -> tuple[list[str], Right]:
    """The texts to look for, and which titles are known to be right for them."""
    if config.text:
        texts = [config.text]
    elif config.input or not config.compare or not (config.data.path or config.data.train):
        texts = read_texts(config.input)
    else:
        return of_study(config, index)
    return texts, (_judged(config) if config.compare and (config.data.path or config.data.train) else {})


def of_study(config: Config, index: Index) -> tuple[list[str], Right]:
    """Some of the study's test queries for which the index has a right title: drawn by ``seed``, not chosen."""
    import numpy as np

    known = set(index.titles)
    right = {query: titles & known for query, titles in _judged(config).items() if titles & known}
    if not right:
        raise DataError(
            f"index={config.index}: holds no title that is right for a test query of study {config.study.name}; "
            "give queries of your own: text=... or input=FILE"
        )
    drawn = np.random.default_rng(config.seed).permutation(len(right))[:SHOWN]
    return [list(right)[i] for i in sorted(drawn)], right


def _judged(config: Config) -> Right:
    from embsearch.data.load import load_dataset

    data = load_dataset(config.data, Path(config.home).expanduser().resolve() / "cache")
    rows = data.test if len(data.test) else data.valid
    right: Right = {}
    for query, title in zip(rows.text[rows.relevant], rows.title[rows.relevant], strict=True):
        right.setdefault(data.texts[query], set()).add(data.texts[title])
    return right


def lines(texts: list[str], index: Index, scores: np.ndarray, ids: np.ndarray) -> bytes:
    """One JSON object a text."""
    found = [
        {
            "text": text,
            "titles": [
                {"title": index.titles[i], "cosine": round(float(s), 6)} for s, i in zip(row, numbers, strict=True)
            ],
        }
        for text, row, numbers in zip(texts, scores, ids, strict=True)
    ]
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in found).encode()

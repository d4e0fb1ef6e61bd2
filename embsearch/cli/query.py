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
from embsearch.config.options import QueryOptions
from embsearch.config.schema import Config
from embsearch.errors import ConfigError, DataError, ModelError
from embsearch.study.fit_to_data import data_of

if TYPE_CHECKING:
    import numpy as np

    from embsearch.serve.index import Index

SHOWN = 10  # queries of a comparison that were not asked for one by one
Right = dict[str, set[str]]


def run(config: Config, options: QueryOptions) -> int:
    """Print the titles; ``output=`` keeps them as JSON lines. Refuses an index of another model."""
    if not options.index:
        raise ConfigError(
            "index: must be given, as index=products.index; 'embsearch index' makes it"
        )
    if options.text and options.input:
        raise ConfigError(f"text={options.text} and input={options.input}: give one or the other")
    if options.compare and options.prompt_name:
        raise ConfigError(f"prompt_name={options.prompt_name}: not of both encoders of compare")
    if options.compare and config.data.sets and not (options.text or options.input):
        raise ConfigError("compare: data.sets have no test queries in common; give text or input")
    output = check_output(options.output, ".jsonl")

    from embsearch.serve.encoder import TextEncoder
    from embsearch.serve.index import Index
    from embsearch.worker import use_all_cores

    index = Index.load(Path(options.index).expanduser())
    model = of_index(config, options, index)
    texts, right = questions(config, options, index)
    use_all_cores()
    encode = TextEncoder.open(model.folder, config.device)  # type: ignore[arg-type]  # of_index
    queries = encode(texts, "query", options.prompt_name).values
    k = options.k or (3 if options.compare else 10)
    scores, ids = index.nearest(queries, k)
    if options.compare:
        from embsearch.cli.comparison import other_nearest, show

        label, theirs = other_nearest(config, options.compare, index, texts, k)
        show(
            texts,
            [[index.titles[i] for i in row] for row in ids],
            theirs,
            (model.label, label),
            right,
        )
    elif output is None:
        for text, row, numbers in zip(texts, scores, ids, strict=True):
            print(text)
            for place, (score, number) in enumerate(zip(row, numbers, strict=True), 1):
                label = f"{index.classes[number]}  " if index.classes else ""
                print(f"  {place:3}  {score:.4f}  {label}{index.titles[number]}")
    if output is not None:
        write_whole(output, lines(texts, index, scores, ids))
        print(f"{output}: {len(texts)} texts with {ids.shape[1]} titles each", file=sys.stderr)
    return 0


def of_index(config: Config, options: QueryOptions, index: Index) -> Chosen:
    """Return the model that was asked for. Raises UserError unless it made the index."""
    if options.checkpoint or options.trial is not None:
        model = chosen_or_champion(config, options)
    else:
        model = _its_model(config, index)
    if model.folder is None:
        raise ModelError(
            "checkpoint=untuned: did not make this index; compare=untuned shows it beside"
        )
    if model.digest() != index.about["digest"]:
        raise DataError(
            f"index={options.index}: made by {index.about['model']} (sha256 {index.about['digest'][:12]}), and "
            f"{model.label} is another model ({model.digest()[:12]}): their vectors do not compare. Build the index "
            f"again with 'embsearch index', or ask with checkpoint={index.about['model'].removeprefix('models:/')}"
        )
    return model


def _its_model(config: Config, index: Index) -> Chosen:
    """Return the champion if the index is of a registered model, else the folder that it names."""
    uri = str(index.about["model"])
    if not uri.startswith("models:/"):
        return named(config, uri)
    name = uri.removeprefix("models:/").rpartition("/")[0]
    return named(config, f"{name}@champion")


def questions(config: Config, options: QueryOptions, index: Index) -> tuple[list[str], Right]:
    """Return the texts to look for, and the titles that are known to be right for them."""
    judged = options.compare and (config.data.path or config.data.train)
    if options.text:
        texts = [options.text]
    elif options.input or not judged:
        texts = read_texts(options.input)
    else:
        return of_study(config, options, index)
    if not judged:
        return texts, {}
    return texts, _judged(config)


def of_study(config: Config, options: QueryOptions, index: Index) -> tuple[list[str], Right]:
    """Draw by ``seed`` some of the study's test queries for which the index has a right title."""
    import numpy as np

    known = set(index.titles)
    right: Right = {}
    for query, titles in _judged(config).items():
        there = titles & known
        if there:
            right[query] = there
    if not right:
        raise DataError(
            f"index={options.index}: holds no title that is right for a test query of study {config.study.name}; "
            "give queries of your own: text=... or input=FILE"
        )
    drawn = np.random.default_rng(config.seed).permutation(len(right))[:SHOWN]
    return [list(right)[i] for i in sorted(drawn)], right


def _judged(config: Config) -> Right:
    from embsearch.data.dataset import JudgedRows

    task, data = data_of(config)
    rows = task.rows(data, "test")
    if not len(rows):
        rows = task.rows(data, "valid")
    right: Right = {}
    if not isinstance(rows, JudgedRows):  # no titles
        return right
    for query, title in zip(rows.text[rows.relevant], rows.title[rows.relevant], strict=True):
        right.setdefault(data.texts[query], set()).add(data.texts[title])
    return right


def lines(texts: list[str], index: Index, scores: np.ndarray, ids: np.ndarray) -> bytes:
    """Return one JSON object a text, as lines."""
    made = []
    for text, row, numbers in zip(texts, scores, ids, strict=True):
        titles = []
        for score, number in zip(row, numbers, strict=True):
            title = {"title": index.titles[number]}
            if index.classes:
                title["class"] = index.classes[number]
            titles.append({**title, "cosine": round(float(score), 6)})
        line = json.dumps({"text": text, "titles": titles}, ensure_ascii=False)
        made.append(f"{line}\n")
    return "".join(made).encode()

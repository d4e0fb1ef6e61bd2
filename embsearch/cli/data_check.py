"""embsearch data check: read, split and count the data, and say what was found."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

import numpy as np

from embsearch.config.folders import home_folder
from embsearch.config.options import Options
from embsearch.config.schema import Config
from embsearch.errors import ModelError
from embsearch.model.prompts import of_sets, say_prompts, used
from embsearch.study.fit_to_data import with_format
from embsearch.tasks.base import imported
from embsearch.tasks.catalogue import task_of

UNCUT = 1_000_000  # tokens: how long texts are, not how long the model lets them be


def run(config: Config, options: Options) -> int:
    """Print the report. The data stay in the cache, where a study of the same data finds them."""
    config, _ = with_format(config)
    task = task_of(config)
    dataset = task.load(task.prepare(config.data, home_folder(config.home) / "cache"))
    say_prompts(config.encoder, task.one_role)
    try:
        lengths = token_lengths(config)
    except ModelError as error:  # the data can be looked at without an encoder
        lengths = None
        print(f"embsearch: no token lengths: {error}", file=sys.stderr)
    own, _ = used(config.encoder)
    prompts = {str(role): prompt for role, prompt in own.items()} | of_sets(config.encoder, own)
    print(imported(task.checker)(dataset, lengths, prompts), end="")
    return 0


def token_lengths(config: Config) -> Callable[[Sequence[str]], np.ndarray]:
    """Count texts' tokens with the tokenizer of ``model.path``; the weights stay on disk."""
    from transformers import AutoTokenizer

    from embsearch.data.tokenise import tokenise
    from embsearch.model.pretrained import find

    logging.getLogger("transformers").setLevel(
        logging.ERROR
    )  # it warns of long texts; we count them
    path = find(config.model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=config.model.revision, trust_remote_code=config.model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model.path={config.model.path}: no tokenizer: {str(error).splitlines()[0]}"
        ) from error
    return lambda texts: tokenise(list(texts), tokenizer, UNCUT).lengths

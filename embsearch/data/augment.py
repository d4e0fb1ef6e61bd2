"""Small changes to the anchor while training, for small data: drop a word, swap two, a synonym.

The changes of a step are a function of (seed, step), so a resumed trial draws the same ones.
Changed anchors get new text ids behind the data's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from embsearch.config.schema import AugmentConfig
from embsearch.data.batch import Batch
from embsearch.data.dataset import Ids, TaskData, roles_of
from embsearch.data.tokenise import Tokens, pad_rows
from embsearch.errors import ConfigError, DataError


class GrowingTokens:
    """The data's tokens and, behind them, those of the present step's changed texts."""

    def __init__(self, base: Tokens) -> None:
        self._base, self._extra = base, list[list[int]]()
        self._count = len(base.offsets) - 1
        self.lengths = base.lengths

    def replace_extra(self, rows: list[list[int]]) -> None:
        """Put the tokens of this step's changed texts in place of the last step's."""
        self._extra = rows
        added = np.array([len(row) for row in rows], dtype=np.int64)
        self.lengths = np.concatenate([self._base.lengths, added]).astype(np.int64)

    def row(self, text: int) -> list[int] | Ids:
        """Return the token ids of one text."""
        return self._extra[text - self._count] if text >= self._count else self._base.row(text)

    def padded(self, take: Iterable[int], pad: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (B, T) ids and mask of the texts ``take``, T the longest of them."""
        return pad_rows([self.row(i) for i in take], pad)


class Augmenter:
    """Changes the anchors of a batch; hands it back as it is when nothing is asked for."""

    def __init__(
        self, config: AugmentConfig, data: TaskData, tokens: Any, tokenizer: Any, seed: int
    ) -> None:
        self.config, self.texts, self.tokenizer, self.seed = config, data.texts, tokenizer, seed
        self.on = max(config.drop, config.swap, config.synonym) > 0
        if self.on and tokenizer is None:
            raise ConfigError(
                "train.augment changes texts that one tokenizer reads: the items of this task are "
                "none, or its encoder has several routes; set its shares to 0"
            )
        self.prompts = tokens.prompts if self.on else ()
        self.role_N = roles_of(data)[1] if any(self.prompts) else None
        self.tokens: Any = GrowingTokens(tokens) if self.on else tokens
        self.longest = int(tokens.lengths.max()) if self.on and len(tokens.lengths) else 0
        self.synonyms = read_synonyms(Path(config.synonyms)) if config.synonyms else {}
        self.known = np.unique(tokens.ids) if self.on else np.empty(0, dtype=np.int32)

    def __call__(self, batch: Batch, step: int) -> Batch:
        if not self.on:
            return batch
        draw = np.random.default_rng([self.seed, step, 1])
        anchors, where = np.unique(batch.anchor_B.numpy(), return_inverse=True)
        ids = batch.text_D[anchors].tolist()
        changed = [self.change(self.texts[i], draw) for i in ids]
        if self.role_N is not None:
            before = [self.prompts[role] for role in self.role_N[ids]]
            changed = [prompt + text for prompt, text in zip(before, changed, strict=True)]
        rows = self.tokenizer(changed, truncation=True, max_length=self.longest)["input_ids"]
        # tokens that the study's texts do not hold are not in the cut table: keep the text as it was
        plain = [self.tokens.row(batch.text_D[a]) for a in anchors]
        rows = [
            r if np.isin(r, self.known).all() else list(p) for r, p in zip(rows, plain, strict=True)
        ]
        self.tokens.replace_extra(rows)
        first = len(self.texts)
        text_D = np.concatenate(
            [batch.text_D, np.arange(first, first + len(rows), dtype=batch.text_D.dtype)]
        )
        moved = len(batch.text_D) + where
        positive, negative, titles = (
            one.numpy() for one in (batch.positive_B, batch.negative_B, batch.title_C)
        )
        used = np.unique(np.concatenate([moved, titles]))
        again = np.full(len(text_D), -1)
        again[used] = np.arange(len(used))
        return replace(
            batch,
            text_D=text_D[used],
            anchor_B=batch.anchor_B.new_tensor(again[moved]),
            positive_B=batch.positive_B.new_tensor(again[positive]),
            negative_B=batch.negative_B.new_tensor(np.where(negative >= 0, again[negative], -1)),
            title_C=batch.title_C.new_tensor(again[titles]),
        )

    def change(self, text: str, draw: np.random.Generator) -> str:
        """Return one text with at most one change of each kind.

        A text without blanks is changed by character.
        """
        joint = " " if " " in text.strip() else ""
        words = text.split() if joint else list(text)
        if len(words) > 1 and draw.random() < self.config.synonym:
            at = [i for i, w in enumerate(words) if w.casefold() in self.synonyms]
            if at:
                i = int(draw.choice(at))
                words[i] = str(draw.choice(self.synonyms[words[i].casefold()]))
        if len(words) > 2 and draw.random() < self.config.swap:
            i = int(draw.integers(len(words) - 1))
            words[i], words[i + 1] = words[i + 1], words[i]
        if len(words) > 2 and draw.random() < self.config.drop:
            del words[int(draw.integers(len(words)))]
        return joint.join(words)


def read_synonyms(path: Path) -> dict[str, list[str]]:
    """Return word (casefolded) -> its alternatives. One group a line, tab-separated, UTF-8.

    Raises DataError naming the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"train.augment.synonyms={path}: {error}; expected a UTF-8 file, one group a line"
        ) from error
    table: dict[str, list[str]] = {}
    faults = []
    for number, line in enumerate(lines, 1):
        group = [w.strip() for w in line.split("\t") if w.strip()]
        if len(group) == 1:
            faults.append(
                f"{path}, line {number}: '{line.strip()}' is alone; separate the words of a group by tabs"
            )
        for word in group:
            table.setdefault(word.casefold(), []).extend(w for w in group if w != word)
    if faults:
        raise DataError(faults)
    return table

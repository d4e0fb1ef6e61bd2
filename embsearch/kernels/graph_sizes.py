"""Sizes of chunks, and how a chunk is filled up to a size that recurs.

A graph holds for one number of tokens and of texts. A chunk is filled up with texts that nobody
looks at. That changes rounding and which masks dropout draws, as a text sees only itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embsearch.kernels.flash import mostly_short

TOKENS, TEXTS, LONGEST = 256, 32, 128  # sizes are multiples of these, or more (Size.filled)
FILLER = 8  # tokens of a text that fills up, about


@dataclass(frozen=True)
class Size:
    """The size of a chunk.

    ``longest`` is what no text exceeds; ``short`` as ``flash.mostly_short`` says.
    """

    tokens: int
    texts: int
    longest: int
    short: bool

    @staticmethod
    def of(lengths: np.ndarray) -> Size:
        """Return the size of a chunk of such texts."""
        return Size(int(lengths.sum()), len(lengths), int(lengths.max()), mostly_short(lengths))

    def filled(self) -> Size:
        """Return a size that recurs, with room for a token in each further text.

        Such a text has about FILLER tokens at most. Tokens go up in steps of what the sum of so
        many lengths varies by, a share of about 1 / sqrt(texts), a quarter at most.
        """
        longest = LONGEST * 2 ** max(0, int(np.ceil(np.log2(self.longest / LONGEST))))
        spread = 2 ** int(np.ceil(np.log2(self.tokens / self.texts**0.5)))
        step = max(TOKENS, min(spread, _quarter(self.tokens)))
        texts = _up(self.texts + step // FILLER, max(TEXTS, _quarter(self.texts)))
        return Size(_up(self.tokens + texts - self.texts, step), texts, longest, self.short)


def _quarter(number: int) -> int:
    """Return a quarter of the largest power of two that is not above ``number``."""
    return int(2 ** (number.bit_length() - 1) // 4)


def _up(number: int, step: int) -> int:
    return int(-(-number // step) * step)


def fill(ids: np.ndarray, lengths: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and lengths with texts at the end that make them ``size``.

    Their tokens are of id 0.
    """
    tokens, texts = size.tokens - len(ids), size.texts - len(lengths)
    more = np.full(texts, tokens // texts)
    more[: tokens % texts] += 1
    filled = np.concatenate([ids, np.zeros(tokens, dtype=ids.dtype)])
    return filled, np.concatenate([lengths, more])

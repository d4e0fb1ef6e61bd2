"""Evidence that bytes which GB18030 can read are another code page.

GB18030 gives some meaning to almost any bytes. Chinese text has three marks that others lack:
its characters are common ones, their second bytes lie in the whole range, and they hold few kana
and are not all hangul in the Korean code page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

COMMON = 0.8  # least share of the Han characters that are common ones
KANA = 0.1  # greatest share of the East Asian characters that are kana
HANGUL = 0.9  # share of hangul from which on the text is Korean
LOW = 0.1  # least share of second bytes below those of the letters of alphabets


def not_chinese(data: bytes, text: str) -> str:
    """Return why ``text``, which GB18030 read from ``data``, is no Chinese, with the codec to try.

    Empty where it looks Chinese.
    """
    counts = Counter(char for char in text if not char.isascii())
    total = counts.total()
    kana = _share(counts, total, lambda char: "\u3040" <= char <= "\u30ff")
    if kana > KANA:
        return "it looks Japanese: try data.encoding=euc_jp or data.encoding=shift_jis"
    if _hangul(data) >= HANGUL:
        return "it looks Korean: try data.encoding=cp949"
    han = Counter({char: n for char, n in counts.items() if "\u3400" <= char <= "\u9fff"})
    if _share(han, han.total(), _common) < COMMON:
        return (
            "its characters would be rare ones: try data.encoding=big5, shift_jis, cp949, cp1251 "
            "or the codec that wrote it"
        )
    pairs = [char.encode("gb18030") for char in han.elements()]
    if len(pairs) > 10 and sum(pair[1] < 0xC0 for pair in pairs) < LOW * len(pairs):
        return "it looks like an alphabet: try data.encoding=koi8_r, cp1251 or cp1253"
    return ""


def _hangul(data: bytes) -> float:
    """Return the share of hangul where the Korean code page reads ``data``, else 0."""
    try:
        text = data.decode("cp949")
    except UnicodeDecodeError:
        return 0.0
    counts = Counter(char for char in text if not char.isascii())
    return _share(counts, counts.total(), lambda char: "\uac00" <= char <= "\ud7a3")


def _share(counts: Counter[str], total: int, holds: Callable[[str], bool]) -> float:
    return sum(n for char, n in counts.items() if holds(char)) / max(total, 1)


def _common(char: str) -> bool:
    """Return true for the first level of GB 2312 or of Big5: what is written every day."""
    simplified = char.encode("gb2312", "ignore")
    traditional = char.encode("big5", "ignore")
    return b"\xb0" <= simplified[:1] <= b"\xd7" or b"\xa4" <= traditional[:1] <= b"\xc6"

"""Bytes to text: UTF-8 with or without a byte order mark, GB18030, or the codec that was named.

GB18030 gives some meaning to almost any bytes, so a file is taken for it only when it looks
like Chinese: its high bytes come in runs, no line of it is good UTF-8, and its characters are
those of Chinese (codepages.py).
"""

from __future__ import annotations

import codecs
import re

from embsearch.data.codepages import not_chinese
from embsearch.errors import ConfigError, DataError

_RUN = re.compile(rb"[\x80-\xff]+")
_UTF8_CJK = re.compile(rb"(?:[\xe3-\xe9][\x80-\xbf]{2}){2}")
_REMEDY = (
    "save the file as UTF-8, or name its codec with data.encoding=gb18030 (or any Python codec)"
)


def decode(data: bytes, name: str, encoding: str = "auto") -> tuple[str, str]:
    """Return the text of a file and the codec that read it. Raises DataError with row and byte."""
    if encoding != "auto":
        return _named(data, name, encoding)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _named(data, name, "utf-16")
    if b"\0" in data:
        at = data.index(b"\0")
        raise DataError(
            f"{name}, row {_row(data, at)} (byte {at}): a zero byte, so this is no text; {_REMEDY}"
        )
    try:
        return data.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError as error:
        _refuse_mixed(data, name)
        return _gb18030(data, name, error), "gb18030"


def _named(data: bytes, name: str, encoding: str) -> tuple[str, str]:
    try:
        codec = codecs.lookup(encoding).name
    except LookupError:
        raise ConfigError(
            f"data.encoding={encoding}: no codec of this name; expected auto, utf-8, gb18030 or another "
            "that Python knows"
        ) from None
    try:
        return data.decode("utf-8-sig" if codec == "utf-8" else codec), codec
    except UnicodeError as error:
        at = error.start if isinstance(error, UnicodeDecodeError) else 0
        raise DataError(
            f"{name}, row {_row(data, at)} (byte {at}): {_bytes(data, at)} is not {codec}, which "
            f"data.encoding={encoding} asks for; set data.encoding=auto or the file's own codec"
        ) from None


def _refuse_mixed(data: bytes, name: str) -> None:
    """Refuse a file whose lines are good UTF-8 and others not: two files pasted together, which no
    codec reads.
    """
    good: int | None = None
    bad: tuple[int, int] | None = None
    at = 0
    for row, line in enumerate(data.split(b"\n"), start=1):
        if not line.isascii():
            try:
                line.decode("utf-8")
                if good is None and _UTF8_CJK.search(line):
                    good = row
            except UnicodeDecodeError as error:
                bad = bad or (row, at + error.start)
        if good and bad:
            break
        at += len(line) + 1
    if good and bad:
        raise DataError(
            f"{name}, row {bad[0]} (byte {bad[1]}): {_bytes(data, bad[1])} is not UTF-8, as row {good} is: the "
            f"file mixes encodings, and no single one reads it; {_REMEDY}"
        )


def _gb18030(data: bytes, name: str, not_utf8: UnicodeDecodeError) -> str:
    """Tell Chinese from Western text.

    A Western file has single high bytes among ASCII; Chinese has runs of them.
    """
    runs = _RUN.findall(data)
    try:
        text = data.decode("gb18030")
        if 2 * sum(len(run) == 1 for run in runs) <= len(runs):
            if why := not_chinese(text):
                raise DataError(
                    f"{name}, row {_row(data, not_utf8.start)} (byte {not_utf8.start}): not UTF-8, "
                    f"and GB18030 reads it, but {why}; or save the file as UTF-8. "
                    "If it is GB18030: data.encoding=gb18030"
                )
            return text
        at = not_utf8.start
    except UnicodeDecodeError as error:
        at = error.start
    first = not_utf8.start
    raise DataError(
        f"{name}, row {_row(data, at)} (byte {at}): {_bytes(data, at)} is neither UTF-8 (not from byte {first} on) "
        f"nor GB18030; {_REMEDY}; Western files are often data.encoding=cp1252"
    )


def _row(data: bytes, at: int) -> int:
    return data.count(b"\n", 0, at) + 1


def _bytes(data: bytes, at: int) -> str:
    return f"byte 0x{data[at]:02x}" if at < len(data) else "the end of the file"

"""Passwords in addresses: taken out at the door, kept by this process alone, never written anywhere.

``postgresql://me:secret@host/db`` becomes ``postgresql://me@host/db`` wherever a config is made, and in the words
of the command line before Hydra sees them, which quotes words in its errors. Whoever connects asks
``credentials``; whoever prints what others have worded asks ``masked``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

from embsearch.codec import Json

SETTINGS = ("study.storage", "track.uri")  # addresses that may carry a password
MASK = "***"

_known: dict[str, dict[str, str]] = {}  # by address without them: what connects beside it
_words: set[str] = set()  # passwords as they were typed, and as they are

_ADDRESS = re.compile(r"([A-Za-z][\w+.\-]*://)([^\s'\"]*)")
_HOST = r"(?:\[[^\]]*\]|[\w.%-]*)(?::\d+)?"
_NO_USER = re.compile(
    rf"{_HOST}(?:,{_HOST})*(?:/[^@?/]*)?\?[^=@]+="
)  # host/db?name=...: a later @ is the value's
_WHOLE = re.compile(r"[A-Za-z][\w+.\-]*://")
_WHOLE_PARAMETER = re.compile(r"([?&])((?:ssl)?password)=([^&]*)&?")
_PARAMETER = re.compile(r"([?&])((?:ssl)?password)=([^&#\s'\"]*)&?")


def without(text: str) -> str:
    """Return ``text`` with no password in its addresses, and remember these for ``credentials``."""
    return _ADDRESS.sub(lambda found: _without(found[1], found[2]), text)


def _without(scheme: str, rest: str, parameters: re.Pattern[str] | None = None) -> str:
    mine: dict[str, str] = {}

    def parameter(found: re.Match[str]) -> str:
        mine[found[2]] = _remembered(found[3])
        return found[1]

    rest = (parameters or _PARAMETER).sub(parameter, rest).rstrip("?&")
    if (parts := _userinfo(rest)) is not None:
        user, password, host = parts
        mine["password"] = _remembered(password)
        rest = f"{user}@{host}"
        if scheme.startswith(
            "http"
        ):  # MLflow takes both from the environment, and a name alone stands in their way
            mine["user"], rest = unquote(user), host
    address = scheme + rest
    if mine:
        _known[address] = _known.get(address, {}) | mine
    return address


def _userinfo(rest: str) -> tuple[str, str, str] | None:
    """Return user, password and what follows; None where there is no password.

    One that should have been quoted (with a / or an @ in it) is found all the same.
    """
    head, mark, query = rest.partition("?")
    if "@" in head and re.match(r"\w+=", query):  # a later one belongs to a parameter
        userinfo, at, host = head.rpartition("@")
        host += mark + query
    else:
        userinfo, at, host = rest.rpartition("@")
    user, colon, password = userinfo.partition(":")
    if not (at and colon) or (re.search(r"[/?#]", userinfo) and _NO_USER.match(userinfo)):
        return None
    return user, password, host


def _remembered(password: str) -> str:
    _words.update(
        word for word in (password, unquote(password)) if len(word) > 3
    )  # a shorter one is in every text
    return unquote(password)


def without_in_override(word: str) -> str:
    """Return a word of the command line without passwords; free text is left alone."""
    name, equals, value = word.partition("=")
    if not equals or "://" in name:
        return word
    quote_mark = value[0] if len(value) > 1 and value[0] in "'\"" and value[-1] == value[0] else ""
    bare = value[1:-1] if quote_mark else value
    if name.lstrip("+") in SETTINGS and _WHOLE.match(bare):
        return f"{name}={quote_mark}{_without_whole(bare)}{quote_mark}"
    return without(word)


def _without_whole(address: str) -> str:
    """Return an address without its password. The whole text is the address, quotes included."""
    scheme, _, rest = address.partition("://")
    return _without(f"{scheme}://", rest, _WHOLE_PARAMETER)


def taken_out(values: Json) -> Json:
    """Return the settings with no password in them; the same mapping where there was none."""
    for path in SETTINGS:
        room, _, leaf = path.partition(".")
        inside = values.get(room)
        if isinstance(inside, Mapping) and isinstance(inside.get(leaf), str):
            bare = (
                _without_whole(inside[leaf])
                if _WHOLE.match(inside[leaf])
                else without(inside[leaf])
            )
            if bare != inside[leaf]:
                values = {**values, room: {**inside, leaf: bare}}
    return values


def credentials(address: str) -> Mapping[str, str]:
    """Return what stood in the address: ``password``, and for http ``user``."""
    return _known.get(address, {})


def with_password(address: str) -> str:
    """Return the whole address again, for a library that takes it in no other way."""
    if (password := credentials(address).get("password")) is None:
        return address
    scheme, _, rest = address.partition("://")
    user, _, host = rest.rpartition("@")
    return f"{scheme}://{user}:{quote(password, safe='')}@{host}"


def masked(text: str) -> str:
    """Return somebody else's text, an error or a traceback, with no password in it."""
    for word in sorted(_words, key=len, reverse=True):
        text = text.replace(word, MASK)
    return _ADDRESS.sub(lambda found: _masked(found[1], found[2]), text)


def _masked(scheme: str, rest: str) -> str:
    rest = _PARAMETER.sub(lambda found: f"{found[1]}{found[2]}={MASK}&", rest).rstrip("&")
    if (parts := _userinfo(rest)) is not None:
        rest = f"{parts[0]}:{MASK}@{parts[2]}"
    return scheme + rest

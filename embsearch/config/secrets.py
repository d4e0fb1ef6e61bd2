"""Secrets: the one place that knows what they look like. They are in no file, log or message.

``postgresql://me:secret@host/db`` becomes ``postgresql://me@host/db`` wherever a config is made,
and in the words of the command line before Hydra sees them, which quotes words in its errors. Whoever
connects asks ``credentials``; whoever prints what others have worded asks ``masked``.

A secret of any other setting would be written to study.yaml, config.yaml and MLflow: typed, it is
refused (``check``). Read from the environment it is kept as ``${oc.env:NAME}``, and whoever needs
it asks ``revealed``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from urllib.parse import quote, unquote

from embsearch.codec import Json, JsonObject
from embsearch.errors import ConfigError

SETTINGS = ("study.storage", "track.uri")  # addresses that may carry a password
MASK = "***"
# What to do about a secret, by the beginning of its setting; and where a reference is read again.
LEAVE = "export it where this command starts, and leave it out here"
REMEDIES = {
    "track.uri": f"{LEAVE}: MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD",
    "study.storage": f"{LEAVE}: PGPASSWORD, or name a file in PGPASSFILE",
    "data.": "export it as NAME where this command starts, and write '${oc.env:NAME}' in its place",
    "launcher.setup": "export it as NAME where this command starts, and write '$NAME' in its place",
    "launcher.sbatch": f"{LEAVE}: sbatch hands the environment on",
    "": f"{LEAVE}, if it is needed at all",
}
REFERENCES = ("data.", "launcher.setup")

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
_USER = re.compile(r"([^/?#@:\s]+)@([^@/].*)")  # a token in place of a user, as http has it

# A name of a secret: of a parameter, a variable, an option. What refers to one ($NAME) is none.
_NAME = (
    r"(?:[\w-]*[_-])?(?:(?:ssl)?password|passwd|pwd|secret|token|api[_-]?key|apikey|awsaccesskeyid"
    r"|access[_-]?key(?:[_-]id)?|account[_-]?key|private[_-]?key|signature|sig|credentials?)"
)
_NAMED = re.compile(
    rf"((?<![\w-])(?:{_NAME}=|--{_NAME}\s+|(?:bearer|basic)\s+)[\"']?)"
    r"(?!\d{1,7}\b|true\b|false\b|none\b|null\b)([^\s\"'&,;#$`*<>(){}]{4,})",
    re.IGNORECASE,
)
_SECRET = re.compile(_NAME, re.IGNORECASE)
_SHAPE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|dapi[0-9a-f]{32}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,})|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_REFERENCE = re.compile(r"\$\{oc\.env:\s*(\w+)[^{}]*\}")


def secrets_in(text: str) -> list[str]:
    """Return every secret that stands in a text. A reference to one is none."""
    text = _REFERENCE.sub("$", text)
    found = [match[2] for match in _NAMED.finditer(text)]
    found += _SHAPE.findall(text)
    for scheme, rest in _ADDRESS.findall(text):
        parts = _userinfo(rest) or _user_alone(scheme, rest)
        if parts is not None and not parts[1].startswith(("$", MASK)):
            found.append(parts[1])
    return found


def noticed(text: str) -> list[str]:
    """Return every secret that stands in a text, and remember it for ``masked``."""
    found = secrets_in(text)
    for secret in found:
        _remembered(secret)
    return found


def check(values: Json, older: str) -> None:
    """Refuse secrets in settings that are written down. ``older``: text of the study's own config.

    What stands there already is warned of. Raises ConfigError naming every setting.
    """
    faults = []
    for path, text in leaves(values):
        found = noticed(text)
        if not found and (path.startswith(REFERENCES) or not refers(text)):
            continue
        remedy = next(words for start, words in REMEDIES.items() if path.startswith(start))
        if found and all(secret in older for secret in found):
            print(
                f"warning: {path} holds a secret, and so do files of this study since it began; "
                f"change it where it is valid. {remedy}",
                file=sys.stderr,
            )
        else:
            faults.append(f"{path}: holds a secret ({masked(text)[:80]}); {remedy}")
    if faults:
        raise ConfigError(faults)


def leaves(node: object, at: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and text of every text in a config."""
    if isinstance(node, str):
        yield at, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from leaves(value, f"{at}.{key}".lstrip("."))
    elif isinstance(node, list):
        for value in node:
            yield from leaves(value, at)


def referred(resolved: JsonObject, raw: object) -> JsonObject:
    """Return a composed config with ``${oc.env:NAME}`` again where a variable's value is a secret.

    ``raw``: the same before interpolation. SETTINGS stay: what connects asks ``credentials``.
    """
    known = {}
    for _, text in leaves(raw):
        for name in _REFERENCE.findall(text):
            known[name] = os.environ.get(name, "")
    return {key: _referred(value, known, key) for key, value in resolved.items()}


def _referred(node: object, known: Mapping[str, str], at: str) -> object:
    if isinstance(node, Mapping):
        return {key: _referred(value, known, f"{at}.{key}") for key, value in node.items()}
    if isinstance(node, list):
        return [_referred(value, known, at) for value in node]
    if not isinstance(node, str) or at in SETTINGS:
        return node
    found = noticed(node)
    for name, value in known.items():
        told = _SECRET.fullmatch(name)
        if told:
            _remembered(value)
        if len(value) > 3 and (found or told):
            node = node.replace(value, f"${{oc.env:{name}}}")
    return node


def refers(text: str) -> bool:
    """Return true where a text of the config refers to a variable of the environment."""
    return _REFERENCE.search(text) is not None


def revealed(text: str) -> str:
    """Return a text of the config with the values that it refers to. Raises ConfigError."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise ConfigError(f"{text}: the variable {found[1]} is not set; export {found[1]}=...")
        _remembered(os.environ[found[1]])
        return os.environ[found[1]]

    return _REFERENCE.sub(value, text)


def in_shell(text: str) -> str:
    """Return a line of shell that reads the variables which it refers to where it runs."""
    return _REFERENCE.sub(r"${\1}", text)


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
    elif (alone := _user_alone(scheme, rest)) is not None:
        mine["token"], rest = _remembered(alone[1]), alone[2]
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


def _user_alone(scheme: str, rest: str) -> tuple[str, str, str] | None:
    """Return what ``_userinfo`` does for a token that stands alone in front of a web host."""
    found = _USER.match(rest) if scheme.startswith("http") else None
    return None if found is None else ("", found[1], found[2])


def _remembered(password: str) -> str:
    _words.update(
        word for word in (password, unquote(password)) if len(word) > 3
    )  # a shorter one is in every text
    return unquote(password)


def without_in_override(word: str) -> str:
    """Return a word of the command line without the password of an address that is connected to.

    The secrets of other words are remembered: ``check`` will refuse them.
    """
    name, equals, value = word.partition("=")
    if not equals or "://" in name:
        return word
    noticed(value)
    quote_mark = value[0] if len(value) > 1 and value[0] in "'\"" and value[-1] == value[0] else ""
    bare = value[1:-1] if quote_mark else value
    if name.lstrip("+") in SETTINGS and _WHOLE.match(bare):
        return f"{name}={quote_mark}{_without_whole(bare)}{quote_mark}"
    return word


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
    """Return what stood in the address: ``password``, and for http ``user`` or ``token``."""
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
    text = _SHAPE.sub(MASK, _NAMED.sub(rf"\g<1>{MASK}", text))
    return _ADDRESS.sub(lambda found: _masked(found[1], found[2]), text)


def _masked(scheme: str, rest: str) -> str:
    rest = _PARAMETER.sub(lambda found: f"{found[1]}{found[2]}={MASK}&", rest).rstrip("&")
    if (parts := _userinfo(rest)) is not None:
        rest = f"{parts[0]}:{MASK}@{parts[2]}"
    elif (alone := _user_alone(scheme, rest)) is not None:
        rest = f"{MASK}@{alone[2]}"
    return scheme + rest

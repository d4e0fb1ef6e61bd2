"""The champion's alias moves, and every move stays in an append-only history.

MLflow keeps no history of aliases and has no compare-and-set (measured with MLflow 3.17): both are
done here. A move is written down before it is made, so a crash leaves the old champion or the new
one, never none, and whoever looks next can tell which. Moves from one home are kept apart by the
caller's lock; between two homes the later one wins, and the history says so.
"""

from __future__ import annotations

import getpass
import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from embsearch.codec import JsonObject
from embsearch.errors import EmbsearchError
from embsearch.registry.mlflow_registry import CHAMPION, by_alias
from embsearch.values import ModelVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREVIOUS = "previous"
HISTORY = "embsearch.history."


class AliasMoved(EmbsearchError):
    """The alias points elsewhere than when the candidate was judged; the champion is as it was."""


def move_champion(
    client: MlflowClient,
    name: str,
    version: int,
    expected: int | None,
    reason: str,
    begun: Callable[[], None] = lambda: None,
    **facts: object,
) -> ModelVersion:
    """Make ``version`` the champion and the old one ``previous``.

    ``begun`` is called once the move is written down and before it is made.

    ``expected`` is the champion's version when the candidate was judged, None for none; AliasMoved
    is raised where it is another by now. The same call again completes what a crash cut off.
    """
    settle_last_move(client, name)
    entry = {"version": version, "before": expected, "reason": reason, **facts}
    old = by_alias(client, name, CHAMPION)
    if old is not None and old.version == version:
        if not any(entry["version"] == version for entry in history(client, name)[-1:]):
            _write(client, name, {**entry, "state": "moved"})
        return old
    _expect(name, old, expected)
    client.get_model_version(name, str(version))  # exists, else raises before anything is changed
    number = _write(client, name, {**entry, "state": "moving"})
    begun()
    if old is not None:
        client.set_registered_model_alias(name, PREVIOUS, str(old.version))
    _expect(name, by_alias(client, name, CHAMPION), expected)
    client.set_registered_model_alias(name, CHAMPION, str(version))
    now = by_alias(client, name, CHAMPION)
    if now is None or now.version != version:
        raise AliasMoved(
            f"{name}@{CHAMPION} was set to version {version} and reads {now and now.version}: somebody else moved it"
        )
    _write(client, name, entries(client, name)[number] | {"state": "moved"}, number)
    return now


def settle_last_move(client: MlflowClient, name: str) -> JsonObject | None:
    """Write down whether the last move was made, where a process died before it could.

    Return that move if it was.
    """
    every = entries(client, name)
    if not every or every[max(every)]["state"] != "moving":
        return None
    last = max(every)
    now = by_alias(client, name, CHAMPION)
    made = now is not None and now.version == every[last]["version"]
    _write(client, name, every[last] | {"state": "moved" if made else "given up"}, last)
    return every[last] if made else None


def history(client: MlflowClient, name: str) -> list[JsonObject]:
    """Return every move of the champion that was made, the oldest first."""
    every = entries(client, name)
    now = by_alias(client, name, CHAMPION)
    made = [
        entry
        for _, entry in sorted(every.items())
        if entry["state"] == "moved"
        or (entry["state"] == "moving" and now and now.version == entry["version"])
    ]
    return [{key: value for key, value in entry.items() if key != "state"} for entry in made]


def aliases_after(moves: Mapping[int, JsonObject]) -> dict[str, int]:
    """Return the aliases as these entries left them, by number of the entry. A last move that was
    begun counts: it may have been seen.
    """
    found: dict[str, int] = {}
    for number, entry in sorted(moves.items()):
        if entry["state"] == "moved" or (entry["state"] == "moving" and number == max(moves)):
            if entry["before"] is not None:
                found[PREVIOUS] = entry["before"]
            found[CHAMPION] = entry["version"]
    return found


def entries(client: MlflowClient, name: str) -> dict[int, JsonObject]:
    """Return every entry by its number, moves that were not made too."""
    tags = client.get_registered_model(name).tags
    return {
        int(k.removeprefix(HISTORY)): json.loads(v)
        for k, v in tags.items()
        if k.startswith(HISTORY)
    }


def _write(client: MlflowClient, name: str, entry: JsonObject, number: int | None = None) -> int:
    """Append an entry, or replace the one with this ``number``. Return its number."""
    if number is None:
        number = max(entries(client, name), default=-1) + 1
        entry = {
            "time": int(time.time() * 1000),
            "by": f"{getpass.getuser()}@{socket.gethostname()}",
            **entry,
        }
    client.set_registered_model_tag(name, f"{HISTORY}{number}", text_of(entry))
    return number


def text_of(entry: JsonObject) -> str:
    """Return an entry as its tag holds it."""
    return json.dumps(entry, ensure_ascii=False)


def _expect(name: str, now: ModelVersion | None, expected: int | None) -> None:
    at = now.version if now else None
    if at != expected:
        raise AliasMoved(
            f"{name}@{CHAMPION} was version {expected} when the candidate was judged and is {at} now; promote again"
        )

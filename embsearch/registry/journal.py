"""The home's own record of its registry: versions and moves of champions, as MLflow had them.

The ``promoted`` events of the studies say what was promoted. Here is what they do not say: tags and
cards of the versions, and who rolled back when. Lines are only added, under ``registry.lock``; what
somebody changes in MLflow afterwards does not come here.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from embsearch.codec import JsonObject
from embsearch.config.folders import home_folder
from embsearch.config.schema import Config
from embsearch.history import events
from embsearch.history.log import EventLog, read_events
from embsearch.registry import alias_history
from embsearch.registry import mlflow_registry as registry
from embsearch.track.mlflow_model import DIGEST
from embsearch.track.mlflow_store import own_database

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILE = "registry.jsonl"


class Journal:
    """The last word on each version and each move. Raises StudyError where the file is damaged."""

    def __init__(self, config: Config) -> None:
        self._log = EventLog(home_folder(config.home) / FILE)
        self.versions: dict[str, dict[int, events.Registered]] = defaultdict(dict)
        self.moves: dict[str, dict[int, JsonObject]] = defaultdict(dict)
        for event in read_events(self._log.path):
            if isinstance(event, events.Registered):
                self.versions[event.name][event.version] = event
            elif isinstance(event, events.Moved):
                self.moves[event.name][event.number] = dict(event.entry)

    def note(self, client: MlflowClient, name: str, promoted: int | None = None) -> None:
        """Add what MLflow has of a model and this does not; the tags of a version that was promoted
        just now in any case, for it may have been before.
        """
        for version in registry.versions(client, name):
            found = client.get_model_version(name, str(version.version))
            noted = self.versions[name].get(version.version)
            card = found.description or ""
            new = noted is None or (card and not noted.text)
            if version.version == promoted and noted is not None:
                new = new or found.tags != noted.tags
            if DIGEST in found.tags and new:
                self._log.append(
                    events.Registered(
                        name=name,
                        version=version.version,
                        tags=found.tags,
                        text=card,
                    )
                )
        moves = self.moves[name]
        for number, entry in sorted(alias_history.entries(client, name).items()):
            if number not in moves or moves[number]["state"] != entry["state"]:
                self._log.append(events.Moved(name=name, number=number, entry=entry))


def note(config: Config, client: MlflowClient, name: str, promoted: int | None = None) -> None:
    """Note what the registry of this home has of a model. A server's is its own."""
    if own_database(config) is not None:
        Journal(config).note(client, name, promoted)


def settle_last_move(config: Config, client: MlflowClient, name: str) -> JsonObject | None:
    """Write down, here too, whether the last move was made, where a process died before it could.

    Return that move if it was.
    """
    cut = alias_history.settle_last_move(client, name)
    if own_database(config) is None:
        return cut
    every, journal = alias_history.entries(client, name), Journal(config)
    last = max(every, default=-1)
    begun = journal.moves[name].get(last, {}).get("state") == "moving"
    journal.note(client, name)
    return every[last] if begun and every[last]["state"] == "moved" else cut

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
    """What was noted, the last word on each version and each move. Raises StudyError where the file
    is damaged.
    """

    def __init__(self, config: Config) -> None:
        self._log = EventLog(home_folder(config.home) / FILE)
        self.versions: dict[str, dict[int, events.Registered]] = defaultdict(dict)
        self.moves: dict[str, dict[int, JsonObject]] = defaultdict(dict)
        for event in read_events(self._log.path):
            if isinstance(event, events.Registered):
                self.versions[event.name][event.version] = event
            elif isinstance(event, events.Moved):
                self.moves[event.name][event.number] = dict(event.entry)

    def note(self, client: MlflowClient, name: str) -> None:
        """Add what MLflow has of a model and this does not."""
        for one in registry.versions(client, name):
            if not one.digest:
                continue
            noted = self.versions[name].get(one.version)
            found = client.get_model_version(name, str(one.version))
            if noted is None or noted.tags[DIGEST] != one.digest or not noted.text:
                text = found.description or ""
                new = events.Registered(name=name, version=one.version, tags=found.tags, text=text)
                if noted is None or (noted.tags, noted.text) != (new.tags, new.text):
                    self.versions[name][one.version] = self._log.append(new)
        for number, entry in sorted(alias_history.entries(client, name).items()):
            noted_move = self.moves[name].get(number)
            if noted_move is None or noted_move["state"] == "moving" != entry["state"]:
                self._log.append(events.Moved(name=name, number=number, entry=entry))
                self.moves[name][number] = entry


def note(config: Config, client: MlflowClient, name: str) -> None:
    """Note what the registry of this home has of a model. A server's is its own."""
    if own_database(config) is not None:
        Journal(config).note(client, name)

"""The files that a job reads because its config names them.

This list is the only place that knows which settings are files. A launcher whose workers do not
see this machine's disk sends them along: a setting that names a new file or folder (an adapter, a
folder of images) is one more line here and no edit in launch/. The rows themselves are not in it:
a job reads the prepared data, whose folder it names itself (``cache``).
"""

from __future__ import annotations

from collections.abc import Mapping

from embsearch.codec import Json, JsonObject

# What the file is for, by its config path.
FILES = {
    "model.path": "the base encoder",
    "train.augment.synonyms": "the table of synonyms",
}


def files_of(config: Json) -> dict[str, str]:
    """Return the file or folder at every config path of FILES that is set."""
    found = {}
    for path in FILES:
        value: object = config
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value:
            found[path] = str(value)
    return found


def with_files(config: Json, files: Mapping[str, str]) -> JsonObject:
    """Return a copy of the config with other files at these config paths."""
    made = dict(config)
    for path, file in files.items():
        *sections, name = path.split(".")
        node = made
        for section in sections:
            node[section] = dict(node[section])
            node = node[section]
        node[name] = file
    return made

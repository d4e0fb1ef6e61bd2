"""embsearch history: every move of the champion."""

from __future__ import annotations

from datetime import datetime

from rich import box
from rich.console import Console
from rich.table import Table

from embsearch.config.options import Options
from embsearch.config.schema import Config
from embsearch.errors import ModelError


def run(config: Config, options: Options) -> int:
    """Print the moves, the newest last."""
    from embsearch.registry import alias_history
    from embsearch.registry import mlflow_registry as registry
    from embsearch.registry.candidate import registered_name
    from embsearch.registry.evidence import missing

    client, name = registry.registry(config), registered_name(config)
    every = registry.versions(client, name)
    if not every:
        raise ModelError(
            missing(config, client, name)
            or f"no model is named {name}; 'embsearch promote' registers one, 'embsearch status' "
            "lists studies"
        )
    table = Table("when", "champion", "before", "why", "by", box=box.SIMPLE_HEAD, pad_edge=False)
    for entry in alias_history.history(client, name):
        when = datetime.fromtimestamp(entry["time"] / 1000).strftime("%Y-%m-%d %H:%M:%S")
        before = "" if entry["before"] is None else f"version {entry['before']}"
        table.add_row(
            when, f"version {entry['version']}", before, entry["reason"], entry.get("by", "")
        )
    Console(soft_wrap=True).print(table)
    for version in every:
        if version.aliases:
            print(f"{', '.join(version.aliases)}: {version.uri}, sha256 {version.digest[:12]}")
    return 0

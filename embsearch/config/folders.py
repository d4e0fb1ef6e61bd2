"""Folders of the config files and of studies. Standard library only: ``--help`` reads this."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
GROUPS = (
    "data", "model", "objective", "train", "evaluate", "space",
    "sampler", "scheduler", "launcher", "track", "effort", "study",
)  # fmt: skip


def home_folder(home: str) -> Path:
    """Return a config's home as a whole path."""
    return Path(home).expanduser().resolve()


def default_home() -> str:
    """Return the home where a command names none, as conf/config.yaml has it."""
    return os.environ.get("EMBSEARCH_HOME", ".embsearch")


def conf_folder() -> Path:
    """Return the folder of config groups: beside the code in a wheel, at the top of the repository
    in a checkout.
    """
    return _shipped("conf")


def studies_folders() -> list[Path]:
    """Return the folders whose ``<name>/study.yaml`` is the option ``study=<name>``.

    The working directory's own comes first: it wins over a shipped study of the same name.
    """
    found: list[Path] = []
    for folder in (Path.cwd() / "studies", _shipped("studies")):
        if folder.is_dir() and folder.resolve() not in found:
            found.append(folder.resolve())
    return found


def studies_in(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/study.yaml"))


def group_options(config_dirs: list[Path] | None = None) -> dict[str, list[str]]:
    """Return each group with its options, as ``{"data": ["auto", "clicks", ...], ...}``."""
    folders = [conf_folder(), *(config_dirs or [])]
    options = {
        g: {file.stem for folder in folders for file in (folder / g).glob("*.yaml")} for g in GROUPS
    }
    options["study"].update(name for folder in studies_folders() for name in studies_in(folder))
    return {group: sorted(names) for group, names in options.items()}


def _shipped(name: str) -> Path:
    packaged = PACKAGE / f"_{name}"
    return packaged if packaged.is_dir() else PACKAGE.parent / name

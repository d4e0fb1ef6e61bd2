"""The model that a command names: ``trial=N``, or ``checkpoint=`` a folder, champion, NAME@ALIAS, NAME/VERSION."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from embsearch.config.folders import home_folder
from embsearch.config.options import TakesModel
from embsearch.config.schema import Config
from embsearch.errors import ConfigError, EmbsearchError, ModelError, did_you_mean
from embsearch.history.folder import StudyFolder
from embsearch.registry.origin import VERSION
from embsearch.track.unaltered import check, checked_trial
from embsearch.values import ModelVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient

UNTUNED = "untuned"


@dataclass(frozen=True)
class Chosen:
    """A model by its name, as it was asked for: ``product_search@champion``.

    ``folder`` is None for the untuned encoder, ``version`` for an unregistered model.
    """

    label: str
    folder: Path | None
    name: str = ""
    version: ModelVersion | None = None  # its files are those that were registered: checked

    def digest(self) -> str:
        """Return the sha256 over its files. Raises ModelError if one of them can run code."""
        assert self.folder is not None, self.label
        return self.version.digest if self.version else check(self.folder)


def chosen(config: Config, options: TakesModel) -> Chosen:
    """Return the model that ``checkpoint`` or ``trial`` names, else the untuned encoder. Raises
    UserError.
    """
    if options.checkpoint and options.trial is not None:
        raise ConfigError(
            f"checkpoint={options.checkpoint} and trial={options.trial}: name one model, not two"
        )
    if options.trial is not None:
        study = StudyFolder(config)
        folder = study.trial(options.trial)
        if not (folder / "model" / "modules.json").exists():
            known = []
            if folder.parent.exists():
                known = sorted(p.name for p in folder.parent.glob("t[0-9]*"))
            raise ModelError(
                f"trial={options.trial}: study {config.study.name} has no model of it in {folder}; "
                f"trials there: {', '.join(known) or 'none'}"
            )
        checked_trial(study, options.trial)
        return Chosen(
            f"trial {options.trial} of {config.study.name}",
            folder / "model",
            f"{config.study.name}-t{options.trial:04d}",
        )
    if options.checkpoint and options.checkpoint != UNTUNED:
        return named(config, options.checkpoint)
    return Chosen(f"untuned encoder {config.model.path}", None, UNTUNED)


def chosen_or_champion(config: Config, options: TakesModel) -> Chosen:
    """Return the model as ``chosen`` does, but the champion if the command names none."""
    if not options.checkpoint and options.trial is None:
        options = replace(options, checkpoint="champion")
    return chosen(config, options)


def named(config: Config, words: str) -> Chosen:
    """Return the model of ``checkpoint=words``. An alias is resolved here, once. Raises ModelError."""
    if words == "champion":
        from embsearch.registry.candidate import registered_name

        return _registered(config, words, registered_name(config), "champion", None)
    folder = Path(words).expanduser()
    if (folder / "modules.json").exists():
        return Chosen(str(folder), folder, folder.resolve().name)
    if (found := VERSION.fullmatch(words)) and not folder.exists():
        name, number, alias = found.groups()
        return _registered(config, words, name, alias, int(number) if number else None)
    raise ModelError(
        f"checkpoint={words}: no sentence-transformers model here (modules.json is missing); "
        "give a trial's model folder, champion, or NAME@ALIAS or NAME/VERSION of the registry"
    )


def _registered(
    config: Config, words: str, name: str, alias: str | None, number: int | None
) -> Chosen:
    from embsearch.registry import mlflow_registry as registry
    from embsearch.registry.evidence import verified

    client = registry.registry(config)
    known = {v.version: v for v in registry.versions(client, name)}
    version = known.get(number or 0) if alias is None else registry.by_alias(client, name, alias)
    if version is None:
        raise ModelError(
            f"checkpoint={words}: {_missing(config, client, name, alias, list(known.values()))}"
        )
    try:
        found = registry.files_of(client, version, home_folder(config.home) / "cache" / "models")
    except EmbsearchError as error:
        raise ModelError(str(error)) from error
    version = verified(config, found)
    label = f"{name} version {version.version}"
    if alias:
        return Chosen(f"{alias}, {label}", found.folder, f"{name}@{alias}", version)
    return Chosen(label, found.folder, f"{name}/{version.version}", version)


def _missing(
    config: Config, client: MlflowClient, name: str, alias: str | None, versions: list[ModelVersion]
) -> str:
    from embsearch.registry.evidence import missing

    if not versions and (gone := missing(config, client, name)):
        return gone
    if not versions:
        others = [model.name for model in client.search_registered_models(max_results=100)]
        promote = "run 'embsearch promote' for a finished study of this task, or name a folder: checkpoint=FOLDER"
        if alias == "champion" and not others:
            return f"no model named {name} has a champion yet; {promote}"
        there = "none is registered"
        if others:
            there = f"registered are {', '.join(others)}"
        return f"no model named {name}.{did_you_mean(name, others)} In this home {there}; {promote}"
    aliases = sorted(a for v in versions for a in v.aliases)
    numbers = f"versions {versions[0].version} to {versions[-1].version}"
    what = "no such version."
    if alias:
        what = f"no alias {alias}.{did_you_mean(alias, aliases)}"
    return f"model {name} has {what} It has {numbers}, aliases {', '.join(aliases) or 'none'}"

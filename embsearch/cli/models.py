"""Which model a command means: ``checkpoint=FOLDER``, ``checkpoint=champion``, or ``trial=N``."""

from __future__ import annotations

from pathlib import Path

from embsearch.config.schema import Config
from embsearch.errors import ConfigError, ModelError
from embsearch.folder import StudyFolder


def chosen(config: Config) -> tuple[str, Path | None]:
    """A label and the model's folder; None stands for the untuned encoder. Raises UserError."""
    if config.checkpoint and config.trial is not None:
        raise ConfigError(f"checkpoint={config.checkpoint} and trial={config.trial}: name one model, not two")
    if config.trial is not None:
        folder = StudyFolder(config).trial(config.trial)
        if not (folder / "model" / "modules.json").exists():
            known = sorted(p.name for p in folder.parent.glob("t[0-9]*")) if folder.parent.exists() else []
            raise ModelError(
                f"trial={config.trial}: study {config.study.name} has no model of it in {folder}; "
                f"trials there: {', '.join(known) or 'none'}"
            )
        return f"trial {config.trial} of {config.study.name}", folder / "model"
    if config.checkpoint == "champion":
        return champion(config)
    if config.checkpoint:
        folder = Path(config.checkpoint).expanduser()
        if not (folder / "modules.json").exists():
            raise ModelError(
                f"checkpoint={config.checkpoint}: no sentence-transformers model here (modules.json is missing); "
                "give a trial's model folder, or champion"
            )
        return str(folder), folder
    return f"untuned encoder {config.model.path}", None


def champion(config: Config) -> tuple[str, Path]:
    """The champion of the study's task. Raises ModelError where there is none."""
    from embsearch.registry import mlflow_registry as registry
    from embsearch.registry.candidate import registered_name

    name = registered_name(config)
    cache = Path(config.home).expanduser().resolve() / "cache" / "models"
    found = registry.champion(registry.registry(config), name, cache)
    if found is None:
        raise ModelError(
            f"checkpoint=champion: no model named {name} has a champion yet; run 'embsearch promote' for a "
            "finished study of this task first, or name a model folder: checkpoint=FOLDER"
        )
    return f"champion, {found.version.name} version {found.version.version}", found.folder

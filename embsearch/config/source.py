"""Sources of config files for Hydra: two of them, and the search path that names them.

``conf://<folder>`` is a folder of groups. It differs from Hydra's ``file://`` in one thing: under
``space`` a key may hold dots, ``train.lr: {low: 1e-5}``, and becomes the nested mapping that
overrides such as ``space.train.lr.high=1e-4`` and ``~space.train.lr`` can reach.

``studies://<folder>`` offers each ``<folder>/<name>/study.yaml`` as the option ``study=<name>``.

Both use Hydra's public plugin interface and are registered at run time, because a plugin found by
scanning ``hydra_plugins`` would join every other Hydra program of the same environment.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_origin

import yaml
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from embsearch.config import foreign
from embsearch.config.catalogue import COSTS, TOGETHER
from embsearch.config.folders import conf_folder, studies_folders, studies_in
from embsearch.config.settings import settings
from embsearch.errors import ConfigError

ALIASES = 20  # of a file, which each may double: a few lines would else take hours to read
LAST = "effort"  # the group that, given on the command line, overrides a study's own settings


def last_word(words: Sequence[str]) -> list[str]:
    """Return the overrides, each ``effort=quick`` followed by one that puts it behind the study.

    A study has the last word over every group, those named on the command line included: its file
    comes last. ``effort`` must stand before it, so that a study may choose one (``override /effort:
    thorough``) and still set its own ``train.texts``; but who types ``effort=quick`` means it.
    """
    found = []
    for word in words:
        found += _metric_and_costs(word)
        if word.startswith(f"{LAST}="):
            found.append(f"+{LAST}@_global_={word.partition('=')[2]}")
    return found


def _metric_and_costs(word: str) -> list[str]:
    """Return ``evaluate.objectives=[auc,latency]`` as the two settings that it means; another word
    as it is.
    """
    setting, _, value = word.partition("=")
    if setting != TOGETHER:
        return [word]
    names = [name.strip("' ") for name in value.strip("[]").split(",")]
    costs = [name for name in names if name in COSTS]
    metrics = [name for name in names if name not in COSTS]
    if len(metrics) > 1:
        known = ", ".join(COSTS)
        raise ConfigError(f"{word}: expected one metric, and costs beside it ({known})")
    words = [f"evaluate.costs=[{','.join(costs)}]"]
    words += [f"evaluate.objective={name}" for name in metrics]
    return words


class ConfSource(ConfigSource):
    """A folder of config groups."""

    @staticmethod
    def scheme() -> str:
        return "conf"

    def available(self) -> bool:
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        return Path(self.path, config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        return self._file(config_path).is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        found: list[str] = []
        for entry in sorted(Path(self.path, config_path).iterdir()):
            if entry.suffix == ".yaml" or entry.is_dir():
                self._list_add_result(
                    found, f"{config_path}/{entry.name}".strip("/"), entry.name, results_filter
                )
        return sorted(set(found))

    def load_config(self, config_path: str) -> ConfigResult:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        file = self._file(config_path)
        config, header = _read(file, group)
        if group == "study" and name != "default":
            _complete_study(config, header, name, file.parent)
        if group == "space" and header["package"] is None:
            header["package"] = "_global_" if "space" in config else "space"
        _expand_space(config, group, header)
        for key in map(str, config):
            if _takes_own_names(f"{group}.{key}") and isinstance(config[key], DictConfig):
                config[key]._set_flag("struct", False)
        return ConfigResult(
            provider=self.provider, path=self.full_path(), config=config, header=header
        )

    def _file(self, config_path: str) -> Path:
        return Path(self.path, self._normalize_file_name(config_path))


class StudySource(ConfigSource):
    """A folder of studies: ``<name>/study.yaml`` is the config ``study/<name>``."""

    @staticmethod
    def scheme() -> str:
        return "studies"

    def available(self) -> bool:
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", "study")

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        return group == "study" and self._file(name).is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "" and results_filter != ObjectType.CONFIG:
            return ["study"]
        if config_path == "study" and results_filter != ObjectType.GROUP:
            return studies_in(Path(self.path))
        return []

    def load_config(self, config_path: str) -> ConfigResult:
        name = config_path.removesuffix(".yaml").rpartition("/")[2]
        file = self._file(name)
        config, header = _read(file, "study")
        _say_what_it_hides(file)
        header["package"] = header["package"] or "_global_"
        _complete_study(config, header, name, file.parent)
        _expand_space(config, "study", header)
        return ConfigResult(
            provider=self.provider, path=self.full_path(), config=config, header=header
        )

    def _file(self, name: str) -> Path:
        return Path(self.path, name, "study.yaml")


class SearchPath(SearchPathPlugin):
    """The plugin that puts our sources on the search path, but only inside ``searching``."""

    config_dirs: Sequence[Path] | None = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if SearchPath.config_dirs is None:
            return
        for element in search_path.get_path():
            if element.provider == "main" and "://" not in element.path:
                element.path = f"conf://{element.path}"
        after = SearchPathQuery(provider="main", path=None)
        for folder in SearchPath.config_dirs:
            search_path.append("command-line", f"conf://{folder}", anchor=after)
        for folder in reversed(studies_folders()):
            search_path.append("studies", f"studies://{folder}", anchor=after)


@contextmanager
def searching(config_dirs: Sequence[str | Path] = ()) -> Iterator[None]:
    """Let Hydra read ``conf/`` and the studies through our sources, and ``config_dirs`` after them.

    Raises ConfigError for a folder that does not exist.
    """
    folders = [Path(folder).expanduser().absolute() for folder in config_dirs]
    missing = [
        f"--config-dir={folder}: no such folder" for folder in folders if not folder.is_dir()
    ]
    if missing:
        raise ConfigError(missing)
    for plugin in (ConfSource, StudySource, SearchPath):
        Plugins.instance().register(plugin)
    before = SearchPath.config_dirs
    SearchPath.config_dirs = folders
    try:
        yield
    finally:
        SearchPath.config_dirs = before


def expand(tree: Any) -> Any:
    """Return ``{"train.lr": {"low": 1}}`` as ``{"train": {"lr": {"low": 1}}}``; lists stay as they
    are.
    """
    if not isinstance(tree, Mapping):
        return tree
    expanded: dict[Any, Any] = {}
    for key, value in tree.items():
        value = expand(value)
        for part in reversed(key.split(".")[1:] if isinstance(key, str) else []):
            value = {part: value}
        _merge(expanded, key.split(".")[0] if isinstance(key, str) else key, value)
    return expanded


def _merge(into: dict[Any, Any], key: object, value: object) -> None:
    if isinstance(into.get(key), dict) and isinstance(value, dict):
        for k, v in value.items():
            _merge(into[key], k, v)
    else:
        into[key] = value


def _read(file: Path, group: str) -> tuple[DictConfig, dict[str, str | None]]:
    """Return the file's mapping and its header. Unlike Hydra's, the header may follow other
    comments. Raises ConfigError where the file is broken, or would act through Hydra.
    """
    if not file.is_file():
        raise ConfigLoadError(f"Config not found : {file}")
    try:
        text = file.read_text(encoding="utf-8-sig")
        aliases = [token for token in yaml.scan(text) if isinstance(token, yaml.AliasToken)]
        if len(aliases) > ALIASES:
            raise ConfigError(
                f"{file}: more than {ALIASES} aliases (*name); write ${{...}} instead"
            )
        config = OmegaConf.create(text) if text.strip() else OmegaConf.create({})
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{file}: expected a mapping of settings, got a list")
    lines = [line.strip() for line in text.splitlines()]
    header = ConfigSource._get_header_dict(
        "\n".join(
            line for line in lines if not line.startswith("#") or line.lstrip("# ").startswith("@")
        )
    )
    if not file.resolve().is_relative_to(conf_folder()):
        foreign.check_file(file, OmegaConf.to_yaml(config), group, header["package"])
    return config, header


def _say_what_it_hides(file: Path) -> None:
    """Say that a study of the working directory hides a shipped one of the same name."""
    for folder in studies_folders():
        other = folder / file.parent.name / file.name
        if other.is_file() and not other.samefile(file):
            print(
                f"study={file.parent.name} is {file} of this working directory, which hides "
                f"{other} that came with embsearch",
                file=sys.stderr,
            )


def _takes_own_names(path: str) -> bool:
    """Return True for a mapping: data.columns.anchor=... adds a name of the user's own."""
    return path in settings() and get_origin(settings()[path].kind) is Mapping


def _expand_space(config: DictConfig, group: str, header: Mapping[str, str | None]) -> None:
    """Put nested keys in place of dotted ones, wherever the file writes the space."""
    package = header["package"] or group.replace("/", ".")
    if package == "space":
        defaults = config.pop("defaults", None)
        nested = expand(OmegaConf.to_container(config, resolve=False))
        config.clear()
        config.update(nested)
        if defaults is not None:
            config.defaults = defaults
    elif isinstance(config.get("space"), DictConfig):
        config.space = expand(OmegaConf.to_container(config.space, resolve=False))


def _complete_study(
    config: DictConfig, header: Mapping[str, str | None], name: str, folder: Path
) -> None:
    """Add what every study has: below its own the settings of ``study/default``, name, folder."""
    if header["package"] == "_global_":
        if config.get("study") is None:
            config.study = {}
        study = config.study
    else:
        study = config
    if not isinstance(study, DictConfig):
        raise ConfigError(f"{folder}: study: expected a mapping of settings, got {study!r}")
    study.setdefault("name", name)
    study.setdefault("folder", str(folder.resolve()))
    defaults = config.get("defaults")
    if defaults is None:
        config.defaults = ["default"]
    elif not {"default", "/study/default"} & {item for item in defaults if isinstance(item, str)}:
        defaults.insert(0, "default")

"""Every file of conf/ and studies/ composes, builds, and has every setting."""

import pytest
from omegaconf import OmegaConf

from embsearch.config.build import paths, value_at
from embsearch.config.folders import GROUPS, conf_folder, group_options, studies_folders, studies_in
from embsearch.config.load import compose, compose_raw
from embsearch.config.settings import settings

REQUIRED = {("model", "custom"): ["model.path=./encoder"]}
OPTIONS = [
    (group, file.stem)
    for group in GROUPS
    for file in sorted((conf_folder() / group).glob("*.yaml"))
]
STUDIES = [name for folder in studies_folders() for name in studies_in(folder)]


def leaves(tree, prefix=""):
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if hasattr(value, "items") and path not in paths():
            yield from leaves(value, f"{path}.")
        else:
            yield path


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_builds_and_has_every_setting(group, option):
    overrides = [f"{group}={option}", *REQUIRED.get((group, option), [])]
    config = compose(overrides)
    assert set(leaves(compose_raw(overrides))) == set(paths())
    if group in ("objective", "sampler", "scheduler", "launcher"):
        assert getattr(config, group).name == option


@pytest.mark.parametrize(
    "words", ["mlflow", "none", "tensorboard", "[tensorboard]", "[wandb,mlflow]", "[]"]
)
def test_recorders_are_chosen_by_a_list(words):
    chosen = set(words.strip("[]").split(","))
    for overrides in (
        [f"track={words}"],
        ["track.uri=http://mlflow", f"track={words}", "study=product_search"],
    ):
        track = compose(overrides).track
        assert {
            name for name in ("mlflow", "tensorboard", "wandb") if getattr(track, name)
        } == chosen - {"none", ""}
        assert set(leaves(compose_raw(overrides))) == set(paths())


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_composes_and_has_every_setting(name):
    config = compose([f"study={name}"])
    assert config.study.name == name
    assert set(leaves(compose_raw([f"study={name}"]))) == set(paths())


def test_the_defaults_of_conf_are_those_of_the_schema(monkeypatch):
    monkeypatch.delenv("EMBSEARCH_HOME", raising=False)
    raw = compose_raw()
    declared = {path: one.default for path, one in settings().items() if path != "space"}
    assert {path: plain(OmegaConf.select(raw, path)) for path in declared} == declared


def plain(value):
    found = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return tuple(found) if isinstance(found, list) else found


def test_every_setting_can_be_overridden_without_a_plus():
    def same_again(value):
        return "null" if value is None else "''" if value == "" else str(value)

    raw = compose_raw()
    values = {path: OmegaConf.select(raw, path) for path in paths() if path != "space"}
    assert compose([f"{path}={same_again(value)}" for path, value in values.items()]) == compose()


@pytest.mark.parametrize("name", group_options()["space"])
def test_every_space_names_settings_and_contains_their_defaults(name):
    config = compose([f"space={name}"])
    for path, dimension in config.space.items():
        default = value_at(config, path)
        if path == "objective.name":  # auto: the data decide
            default = config.objective.loss
        if "choices" in dimension:
            assert default in dimension["choices"], path
        else:
            assert dimension["low"] <= default <= dimension["high"], path
        assert set(dimension.get("when", {})) <= set(config.space), path


def test_every_file_opens_with_the_command_that_uses_it():
    files = [*conf_folder().rglob("*.yaml")]
    assert [f.name for f in files if not f.read_text().startswith("# embsearch ")] == []


def test_home_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("EMBSEARCH_HOME", "/data/embsearch")
    assert compose().home == "/data/embsearch"

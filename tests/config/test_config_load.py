"""From the composed config to the typed one, and what tells two configs apart."""

import pytest

from embsearch.config.build import build, to_dict, with_values
from embsearch.config.load import compose, diff, digest, flatten, identity
from embsearch.config.schema import Config
from embsearch.errors import ConfigError


def test_a_space_is_kept_by_config_path():
    nested = {
        "train": {
            "lr": {"low": 1e-5, "high": 1e-3, "log": True},
            "l2": None,
            "texts": {"low": None, "high": None},
        },
        "objective": {
            "name": {"choices": ["triplet", "bce"]},
            "margin": {"low": 0.1, "high": 0.5, "when": {"objective": {"name": "triplet"}}},
        },
    }
    flat = {
        "train.lr": {"low": 1e-5, "high": 1e-3, "log": True},
        "objective.name": {"choices": ["triplet", "bce"]},
        "objective.margin": {"low": 0.1, "high": 0.5, "when": {"objective.name": ["triplet"]}},
    }
    assert flatten(nested) == flat
    assert flatten(flat) == flat


def test_every_entry_that_is_no_dimension_is_named_at_once():
    space = {
        "train": {
            "lr": 5,
            "l2": {"low": 0, "hihg": 1},
            "texts": {"choices": [1], "when": "triplet"},
        }
    }
    with pytest.raises(ConfigError) as error:
        flatten(space)
    assert list(error.value.faults) == [
        "space.train.lr=5: expected {low: ..., high: ...} or {choices: [...]}",
        "space.train.l2.hihg: expected one of low, high, log, step, choices, ordered, when, prior. "
        "Did you mean 'high'?",
        "space.train.texts.when='triplet': expected a mapping, as {objective.name: triplet}",
    ]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model=custom"], "model.path: must be given, as model.path=..."),
        (["home=${trian.lr}"], "home: Interpolation key 'trian.lr' not found"),
        (["home=${oc.env:NOT_SET_AT_ALL}"], "home: .*NOT_SET_AT_ALL"),
        (["train.lr=fast"], "train.lr='fast': expected a number"),
    ],
)
def test_what_cannot_be_resolved_is_a_config_error(overrides, says):
    with pytest.raises(ConfigError, match=says):
        compose(overrides)


def test_the_digest_changes_with_what_a_trial_means_and_with_nothing_else():
    plain = digest(compose())
    assert digest(compose(["train.lr=3e-4"])) != plain
    assert digest(compose(["space.train.lr.high=5e-4"])) != plain
    same = [
        "home=/x",
        "device=cpu",
        "launcher=inline",
        "track=none",
        "stop.trials=99",
        "study.on_drift=extend",
    ]
    assert digest(compose(same)) == plain


def test_the_digest_stays_when_a_study_folder_moves(tmp_path, monkeypatch):
    digests = set()
    for place in ("here", "there"):
        (tmp_path / place / "studies/shoes").mkdir(parents=True)
        (tmp_path / place / "studies/shoes/study.yaml").write_text(
            "data: {path: '${study.folder}/clicks.csv'}\n"
        )
        monkeypatch.chdir(tmp_path / place)
        config = compose(["study=shoes"])
        assert config.data.path == str(tmp_path / place / "studies/shoes/clicks.csv")
        digests.add(digest(config))
    assert len(digests) == 1


def test_a_difference_reads_as_one_line_a_setting():
    config = compose(["space=none"])
    other = with_values(config, {"train.lr": 3e-4, "data.path": "点击.csv"})
    assert diff(identity(config), identity(other)) == [
        'data.path: null -> "点击.csv"',
        "train.lr: 0.0002 -> 0.0003",
    ]
    assert diff({"a": 1}, {"b": {"c": 2}}) == ["a: 1 -> (not there)", "b.c: (not there) -> 2"]
    assert diff(to_dict(config), to_dict(config)) == []


def test_values_at_paths_leave_the_rest_as_it_was_and_are_checked_as_all_settings_are():
    config = build({"train": {"lr": 1e-4}, "evaluate": {"at": [0.5, 1.0]}, "device": "cpu"})
    found = with_values(
        config, {"train.batch_size": 64, "study.storage": "postgresql://me:secret@host/db"}
    )
    assert to_dict(found) == to_dict(config) | {
        "train": to_dict(config.train) | {"batch_size": 64},
        "study": to_dict(config.study) | {"storage": "postgresql://me@host/db"},
    }
    assert with_values(config, {"device": "cuda"}).device == "cuda"
    for path, words in (
        ("train.batch_sise", "train.batch_sise: no such setting. Did you mean 'train.batch_size'?"),
        ("nope", "nope: no such setting."), ("nope.lr", "nope: no such setting."),
        ("train.lr", "train.lr='fast': expected a number"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as found:
            with_values(config, {path: "fast"})
        assert words in str(found.value)


def test_a_metric_and_costs_may_be_given_together():
    together = compose(["evaluate.objectives=[auc, latency, size]"])
    assert together == compose(["evaluate.objective=auc", "evaluate.costs=[latency,size]"])
    assert compose(["evaluate.objectives=[dimension]"]).evaluate.objective == "auto"
    with pytest.raises(ConfigError, match=r"one metric, and costs beside it \(latency, size, dim"):
        compose(["evaluate.objectives=[auc,latencyy]"])


def test_a_study_without_costs_has_the_identity_that_it_had():
    assert "costs" not in identity(Config())["evaluate"]
    one, other = compose(["evaluate.costs=[size]"]), compose(["evaluate.costs=[latency]"])
    assert diff(identity(one), identity(other)) == ['evaluate.costs: ["size"] -> ["latency"]']

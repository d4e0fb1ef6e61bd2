"""From a run or a version back to its trial. What MLflow answers is given here; that promotion and the recorder leave
these tags is tested with them, and the way from end to end in stories/test_reproduce.py."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from embsearch.errors import StudyError
from embsearch.registry.origin import Origin, of_run, of_version


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    home = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{home / 'mlflow.db'}"
    return MlflowClient(uri, uri)


def run_with(client, tags):
    experiment = client.get_experiment_by_name("e")
    number = experiment.experiment_id if experiment else client.create_experiment("e")
    return client.create_run(number, tags=tags).info.run_id


def test_a_trials_run_says_its_study_and_number(client):
    run = run_with(
        client, {"embsearch.uid": "shop@20261124-083009.214/t0012", "embsearch.study": "shop"}
    )
    assert of_run(client, run) == Origin("shop", 12, "shop@20261124-083009.214")


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        (
            {"embsearch.uid": "shop@20261124-083009.214", "embsearch.study": "shop"},
            "the run of study shop",
        ),
        ({}, "no tag embsearch.uid"),
    ],
)
def test_another_run_is_refused(client, tags, words):
    run = run_with(client, tags)
    with pytest.raises(StudyError, match=words):
        of_run(client, run)


def test_a_version_says_its_study_trial_and_digest(client):
    client.create_registered_model("shop")
    tags = {"embsearch.study": "clicks", "embsearch.trial": "7", "embsearch.model_digest": "d" * 64}
    client.create_model_version("shop", "file:///nowhere", tags=tags)
    client.set_registered_model_alias("shop", "champion", "1")
    for uri in ("shop/1", "shop@champion", "models:/shop/1", "models:/shop@champion"):
        assert of_version(client, uri) == Origin("clicks", 7, digest="d" * 64)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("models:/shop", "expected NAME/VERSION"),
        ("models:/nobody/1", "nobody"),
        ("models:/bare/1", "no 'embsearch promote' made it"),
    ],
)
def test_what_is_no_promoted_version_is_refused(client, uri, words):
    if "bare" in uri:
        client.create_registered_model("bare")
        client.create_model_version("bare", "file:///nowhere")
    with pytest.raises(StudyError, match=words):
        of_version(client, uri)


def test_a_run_that_is_not_there_names_where_it_was_looked_for(client):
    with pytest.raises(StudyError, match=r"run=nope: .*MLflow is asked at sqlite:///"):
        of_run(client, "nope")

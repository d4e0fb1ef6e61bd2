"""optuna-dashboard opens a study's database as it is."""

from __future__ import annotations

import optuna
import pytest

from embsearch.cli.main import main


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Optuna's database of a replayed study of twelve trials."""
    home = tmp_path_factory.mktemp("dashboard") / "home"
    words = [
        f"home={home}",
        "study=product_search",
        "study.name=shown",
        "launcher=replay",
        "track=none",
    ]
    assert main(["search", *words, "stop.seconds=null"]) == 0
    return home / "optuna.db"


def test_the_dashboard_lists_the_study_with_every_trial_its_parameters_and_its_curve(database):
    from optuna_dashboard import wsgi
    from werkzeug.test import Client

    before = database.read_bytes()
    study = optuna.load_study(study_name="shown", storage=f"sqlite:///{database}")
    client = Client(wsgi(f"sqlite:///{database}"))
    assert client.get("/dashboard/").status_code == 200
    (listed,) = client.get("/api/studies").json["study_summaries"]
    assert listed["study_name"] == "shown"
    detail = client.get(f"/api/studies/{listed['study_id']}?after=0").json
    states = [trial["state"] for trial in detail["trials"]]
    assert len(states) == 12
    assert {"Complete", "Pruned"} == set(states)
    for trial, known in zip(detail["trials"], study.trials, strict=True):
        assert {p["name"] for p in trial["params"]} == set(known.params)
        assert {v["step"] for v in trial["intermediate_values"]} == set(known.intermediate_values)
    assert database.read_bytes() == before

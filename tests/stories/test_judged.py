"""Where the search reads some of the validation rows, all of them choose between the best models."""

from __future__ import annotations

import shutil

import pytest

pytestmark = pytest.mark.story
SOME = [
    *("sampler=gp", "confirm.winner=estimate", "evaluate.max_rows=16"),
    *("confirm.top_k=1", "confirm.seeds=1", "confirm.share=null"),
]


@pytest.fixture(scope="module")
def judged(tmp_path_factory, calm):
    home = calm.at(tmp_path_factory.mktemp("judged") / "home")
    assert home.run("search", *SOME) == 0
    return home


def test_the_best_models_read_all_rows_before_one_is_chosen(judged):
    events = judged.events("judged")
    values = {e["trial"]: e["metrics"]["auc"] for e in events}
    assert len(values) == len(events) >= 4  # three of the search at least, the soup
    assert 0 in values
    read = judged.events("measured", 0)[-1]["rows"]
    assert 0 < read < events[0]["rows"]
    best = judged.result["best"]
    assert values[best] == max(values.values())
    row = judged.result["table"][-1]
    assert (row["trial"], row["judged"]) == (best, values[best])
    searched = {n: value for n, value in values.items() if n < 6}
    (again,) = judged.events("confirmed")
    assert again["trial"] == max(searched, key=lambda n: (searched[n], n == 0))


def test_the_same_command_judges_nothing_again_and_a_killed_study_goes_on(judged, home, capsys):
    logs = judged.all_events()
    assert judged.run("search", *SOME) == 0
    assert judged.all_events() == logs

    shutil.copytree(judged.folder, home.folder)
    home.forget(0)
    assert home.run("search", *SOME) == 0
    assert home.events("judged") == [
        {k: v for k, v in e.items() if k not in ("link",)} for e in judged.events("judged")
    ]
    assert home.result["table"] == judged.result["table"]
    assert "on all" not in capsys.readouterr().err


def test_where_trials_read_all_rows_nothing_is_judged(calm):
    assert calm.events("judged") == []

"""Whole studies by the command line: they end, resume, refuse and promote as promised.

``calm`` and ``home`` train a tiny encoder. ``played`` and ``calmly_played`` play curves on a clock of their own: for
what is decided, logged or refused, whatever a trial measures.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import time

import numpy as np
import pytest

from embsearch.cli.main import main
from embsearch.history.log import EventLog, read_json
from embsearch.registry.test_set_uses import models_judged_by

CHINESE = """anchor(搜索词),positive(点击商品),negative(未点击商品)
防水运动手表,佳明Venu 2 防水运动手表,小米智能手环(非防水)
无线降噪耳机,Bose QuietComfort Ultra,华为快充数据线
"""


def seconds(clock):
    """Of the clock's words, as 1:02:03."""
    return sum(int(part) * 60**n for n, part in enumerate(reversed(clock.split(":"))))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No command may leave anything in the working directory."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []


@pytest.mark.story
def test_a_study_runs_to_its_end(calm):
    assert calm.trials == [f"t{n:04d}" for n in range(6)]
    states = [calm.events("ended", n)[0]["state"] for n in range(6)]
    assert states[0] == "complete"
    assert {"complete", "pruned"} == set(states)
    labels = [(r["label"], r["trial"], r.get("given")) for r in calm.result["table"]]
    assert labels == [("untuned encoder", None, None), ("best trial", 0, "default configuration")]
    untuned, best = (r["validation"] for r in calm.result["table"])
    assert untuned < best
    assert calm.result["why"] == "stop.trials: all 6 trials exist"
    for words in (
        "untuned encoder",
        "best trial (0),",
        "default configuration",
        "embsearch promote study.name=s",
    ):
        assert words in calm.out
    assert "…" not in calm.out  # the table fits 80 columns


@pytest.mark.story
def test_no_two_trials_are_alike_and_the_first_is_the_default(calm):
    assert len(set(calm.params())) == 6
    assert json.loads(calm.params()[0]) == {
        "train.lr": 1e-3, "train.batch_size": 64, "objective.name": "triplet", "objective.margin": 0.3,
    }  # fmt: skip


@pytest.mark.story
def test_a_decision_is_in_the_log_with_its_reason(calm):
    reasons = [e["reason"] for n in range(6) for e in calm.events("decided", n)]
    assert any("may go on" in r for r in reasons)
    assert all(reasons)


@pytest.mark.story
def test_ended_trials_leave_no_checkpoints(calm):
    assert list(calm.study.rglob("*checkpoint*")) == []
    assert list(calm.study.rglob(".*")) == []


@pytest.mark.story
def test_searching_a_finished_study_again_starts_nothing_and_says_so(calm, capsys):
    before = (calm.study / "events.jsonl").read_bytes()
    assert calm.run("search") == 0
    assert "nothing to do: this study had ended before" in capsys.readouterr().out
    assert (calm.study / "events.jsonl").read_bytes() == before


@pytest.mark.story
def test_status_tells_the_table_of_a_study_that_does_not_run(calm, capsys):
    assert calm.run("status") == 0
    out = capsys.readouterr().out
    for words in ("study s: not running", "6 of 6 trials ended", "untuned encoder", "best trial"):
        assert words in out
    assert main(["status", f"home={calm.folder}"]) == 0
    assert "s: 6 trials, last event" in capsys.readouterr().out


@pytest.mark.story
def test_a_coordinator_that_was_killed_goes_on_to_the_same_end(home, calm):
    for there, seconds in (
        (home.study, 0.3),
        (home.study / "trials", 1.2),
    ):  # while it begins, then while it trains
        process = home.start("search")
        while process.poll() is None and not there.exists():
            time.sleep(0.01)
        time.sleep(seconds)
        process.kill()
        process.communicate()
    process = home.start("search")
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert home.trials == calm.trials
    assert home.params() == calm.params()
    assert home.values() == calm.values()
    assert [r["auc"] for r in home.result["table"]] == [r["auc"] for r in calm.result["table"]]


# ---- a coordinator that dies right after an event ----------------------------------------------

SEEDS = ["study.seeds=2"]


MOMENT = ("seq", "time", "spent", "link")  # of an event; the link is a digest of it


def outcome(home):
    """Return what a study found and how: by trial the parameters, measurements, decisions and the end. Times are left
    out: what a death cost is trained again."""
    kinds = ("created", "measured", "repeated", "compared", "decided", "ended")
    told = [
        (
            number,
            {key: value for key, value in event.items() if key not in MOMENT},
        )
        for number in range(len(home.trials))
        for event in home.all_events(number)
        if event["kind"] in kinds
    ]
    return told, {key: home.result[key] for key in ("best", "table", "counts", "why")}


@pytest.fixture(scope="module")
def repeated(calmly_played, tmp_path_factory):
    """A study of two seeds, and after how many events each kind of event came for the first and the last time."""
    home = calmly_played.at(tmp_path_factory.mktemp("repeated") / "home")
    kinds, append = [], EventLog.append

    def noted(log, event, spent=None):
        kinds.append(event.kind)
        return append(log, event, spent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventLog, "append", noted)
        assert home.run("search", *SEEDS) == 0
    first = {kinds.index(kind) + 1 for kind in kinds}
    last = {len(kinds) - kinds[::-1].index(kind) for kind in kinds}
    home.deaths = sorted(first | last)
    assert set(kinds) >= {"opened", "baseline", "created", "segment", "measured", "repeated", "compared", "decided",
                          "ended", "tested", "closed"}  # fmt: skip
    return home


def dies(home, after, *words):
    """A search in a fork of this process, which ends as by kill -9 when it has logged so many events."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    append, left = EventLog.append, [after]

    def last(log, event, spent=None):
        placed = append(log, event, spent)
        left[0] -= 1
        if left[0] == 0:
            os._exit(9)
        return placed

    EventLog.append = last
    try:
        home.run("search", *words)
    finally:
        os._exit(1)  # it was to die before


@pytest.mark.story
def test_a_coordinator_that_dies_after_any_event_goes_on_to_the_same_end(repeated, tmp_path):
    for after in repeated.deaths:
        home = repeated.at(tmp_path / str(after))
        shutil.copytree(repeated.folder / "cache", home.folder / "cache")
        assert dies(home, after, *SEEDS) == 9
        assert home.run("search", *SEEDS) == 0
        assert outcome(home) == outcome(repeated), after
        assert len(home.events("closed")) == 1
        shutil.rmtree(home.folder)


def test_a_crash_between_a_measurement_and_its_decision_skips_no_decision(played, calmly_played):
    home = played
    shutil.copytree(calmly_played.folder, home.folder)
    decisions = {n: [e["decision"] for e in home.events("decided", n)] for n in range(6)}
    paused = next(
        n for n in range(6) if decisions[n] == ["pause"]
    )  # of 6 at the first rung, 2 go on
    home.forget(paused, "decided", "ended")
    assert home.run("search") == 0
    assert [e["decision"] for e in home.events("decided", paused)] == ["pause"]
    assert home.values() == calmly_played.values()


def test_a_crash_between_a_stop_and_its_end_lets_nothing_go_on(played):
    home = played
    words = ["scheduler=none", "stop.trials=1"]
    assert home.run("search", "stop.target=0.01", *words) == 0
    home.forget(0, "ended")
    assert home.run("search", *words) == 0
    assert home.events("ended", 0)[0]["state"] == "pruned"
    assert [rung for _, rung, _ in home.values()] == [1]


def test_extending_the_budget_goes_on_with_the_same_numbering(played):
    home = played
    assert home.run("search", "stop.trials=2") == 0
    first = home.params()
    assert home.run("search", "stop.trials=4") == 0
    assert home.trials == ["t0000", "t0001", "t0002", "t0003"]
    assert home.params()[:2] == first
    assert len(set(home.params())) == 4
    assert home.result["why"] == "stop.trials: all 4 trials exist"


def test_a_second_coordinator_is_refused_and_told_who_holds_the_study(played, capsys):
    process = played.start("search", "stop.trials=2000")  # is still there when asked
    try:
        while not played.events("baseline"):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        assert played.run("search") == 2
        assert f"study s is being run by process {process.pid} on" in capsys.readouterr().err
        assert played.run("status") == 0
        assert f"run by process {process.pid}" in capsys.readouterr().out
    finally:
        process.kill()
        process.communicate()


def test_another_config_is_refused_with_what_changed(played, capsys):
    home = played
    assert home.run("search", "stop.trials=1") == 0
    capsys.readouterr()
    changed = ["stop.trials=2", "train.l2=0.05", "space.train.lr.high=5e-3"]
    assert home.run("search", *changed) == 2
    err = capsys.readouterr().err
    assert "train.l2: 0.01 -> 0.05" in err
    assert "space.train.lr.high: 0.01 -> 0.005" in err
    assert "study.on_drift=extend" in err
    assert home.trials == ["t0000"]
    assert home.run("search", *changed, "study.on_drift=extend") == 0
    assert home.trials == ["t0000", "t0001"]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_a_range_may_be_narrowed_and_another_dropped_in_one_go_and_the_study_goes_on(
    played, sampler
):
    home, words = played, [f"sampler={sampler}", "sampler.startup_trials=3"]
    assert home.run("search", *words) == 0
    before = [json.loads(params) for params in home.params()]
    low = sorted(point["train.lr"] for point in before)[2]  # two trials lie outside of what follows
    words += [f"space.train.lr.low={low}", f"train.lr={low}", "~space.train.batch_size"]
    words += ["study.on_drift=extend"]
    assert home.run("search", *words, "stop.trials=9") == 0
    assert home.run("search", *words, "~space.objective.margin", "stop.trials=12") == 0
    points = [json.loads(params) for params in home.params()]
    assert points[:6] == before
    assert all(point["train.lr"] >= low for point in points[6:])
    assert not any("train.batch_size" in point for point in points[6:])
    assert not any("objective.margin" in point for point in points[9:])
    assert home.run("report") == home.run("status") == 0


def test_points_that_are_added_when_a_study_is_extended_are_tried_or_it_is_said(played, capsys):
    home = played
    assert home.run("search") == 0
    point = "{train.lr: 3e-3, train.batch_size: 32, objective.name: infonce, objective.temperature: 0.05}"
    added = [f"study.defaults=[{point}]", "study.on_drift=extend"]
    assert home.run("search", *added) == 0
    assert home.trials[-1] == "t0005"
    said = " ".join(capsys.readouterr().out.split())
    assert "1 point of study.defaults was not tried: stop.trials=7 has room" in said
    assert home.run("search", *added, "stop.trials=7") == 0
    (created,) = home.events("created", 6)
    assert created["origin"] == "given"
    assert (created["params"]["train.lr"], created["params"]["objective.temperature"]) == (
        3e-3,
        0.05,
    )
    labels = [row["label"] for row in home.result["table"]]
    assert "given point 6" in labels or home.result["best"] == 6
    assert home.run("search", *added, "stop.trials=8") == 0
    assert home.events("created", 7)[0]["params"] != created["params"]


def test_another_config_may_begin_a_study_of_its_own_and_go_on_with_it(played, capsys):
    home = played
    assert home.run("search", "stop.trials=1") == 0
    changed = ["train.l2=0.05", "study.on_drift=new"]
    assert home.run("search", *changed, "stop.trials=2") == 0
    (new,) = (p.name for p in home.study.parent.iterdir() if p.name != "s")
    assert f"study.name={new}" in capsys.readouterr().out
    assert home.trials == ["t0000"]
    assert home.run("search", *changed, "stop.trials=3") == 0
    assert sorted(p.name for p in (home.study.parent / new / "trials").iterdir()) == [
        "t0000",
        "t0001",
        "t0002",
    ]


@pytest.mark.story
def test_an_extended_study_measures_the_untuned_encoder_and_the_winner_as_it_is_now(home):
    assert home.run("search", "stop.trials=1") == 0
    assert home.run("search", "stop.trials=2", "evaluate.draws=60", "study.on_drift=extend") == 0
    first, second = home.events("baseline")
    assert first["config"] != second["config"]
    assert [e["label"] for e in home.events("tested")].count("untuned encoder") == 2
    assert len(list(home.study.glob("study*.yaml"))) == 2


def test_other_data_under_the_same_name_are_refused(played, tmp_path, judgements_csv, capsys):
    home = played
    mine = tmp_path / "mine.csv"
    mine.write_text(judgements_csv.read_text())
    words = [f"data.path={mine}"]
    assert home.run("search", "stop.trials=1", *words) == 0
    mine.write_text(judgements_csv.read_text().replace("crimson", "carmine"))
    capsys.readouterr()
    assert home.run("search", "stop.trials=2", *words) == 2
    assert "study s was begun with other data: their fingerprint was" in capsys.readouterr().err
    assert home.trials == ["t0000"]


def test_a_reached_target_ends_the_study(played):
    home = played
    assert home.run("search", "stop.target=0.01") == 0
    assert home.result["why"].startswith("stop.target: ")
    assert home.trials == ["t0000"]
    assert home.events("ended", 0)[0]["state"] == "pruned"


@pytest.mark.story
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(home, calm):
    process = home.start("search")
    while not home.study.joinpath("trials/t0001/events.jsonl").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on with this study" in err
    assert "Traceback" not in err
    assert home.run("search") == 0
    assert home.params() == calm.params()
    assert home.values().keys() == calm.values().keys()


@pytest.mark.story
def test_a_trial_that_diverges_fails_and_the_study_goes_on(home, capsys):
    words = [
        "space.train.lr={low: 1e-4, high: 1e9, log: true}",
        "study.defaults=[{train.lr: 1e9}]",
        "stop.trials=3",
    ]
    assert home.run("search", *words, "train.clip_norm=0") == 0
    assert home.result["counts"]["failed"] >= 1
    ended = home.events("ended", 1)[0]
    assert (ended["state"], ended["failure"]) == ("failed", "diverged")
    assert home.events("ended", 0)[0]["state"] == "complete"
    assert home.run("status") == 0
    assert "trial 1 failures: diverged; failed" in (out := capsys.readouterr().out)
    assert re.search(r"spent, failures: \d diverged", out)


@pytest.mark.story
def test_layers_that_the_encoder_lacks_stop_the_study_before_it_begins(home, capsys):
    assert home.run("search", "+space.model.freeze_layers={low: 0, high: 3}") == 2
    assert (
        "evaluating the untuned encoder: model.freeze_layers=3: the encoder has 2 layers"
        in capsys.readouterr().err
    )
    assert not home.study.exists()


@pytest.mark.story
def test_missing_weights_stop_the_study_before_it_begins(home, tiny_bert, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_bert.rglob("*.json"):
        (broken / file.name).write_bytes(file.read_bytes())
    assert home.run("search", f"model.path={broken}") == 2
    err = capsys.readouterr().err
    assert f"model.path={broken}: cannot be loaded as an encoder" in err
    assert not home.study.exists()
    assert home.run("search", "stop.trials=1") == 0


@pytest.mark.story
def test_two_chinese_rows_train_and_evaluate(home, tmp_path, capsys):
    pairs = tmp_path / "搜索.csv"
    pairs.write_text(CHINESE)
    words = [f"data.path={pairs}", "train.texts=30", "train.batch_size=32"]
    assert home.run("train", *words, f"output={tmp_path / 'mine'}") == 0
    assert (
        home.run(
            "evaluate",
            *words,
            f"checkpoint={tmp_path / 'mine'}",
            f"output={tmp_path / 'scores.json'}",
        )
        == 0
    )
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert 0 <= scores["auc"]["value"] <= 1
    assert home.run("evaluate", *words, f"output={tmp_path / 'untuned.json'}") == 0
    assert home.run("search", *words, "stop.trials=2") == 0
    assert home.trials == ["t0000", "t0001"]


@pytest.mark.serial
@pytest.mark.story
def test_a_plan_says_what_the_search_then_takes_and_leaves_nothing(home):
    words = ["launcher=local", "launcher.workers=2", "stop.trials=9"]
    taken = {}
    for verb in ("plan", "search"):
        started = time.monotonic()
        process = home.start(verb, *words)
        out, err = process.communicate()
        assert process.returncode == 0, err
        taken[verb] = time.monotonic() - started
        if verb == "plan":
            plan = out
            assert sorted(p.name for p in home.folder.iterdir()) == ["cache"]
    *lines, following = plan.splitlines()
    assert max(map(len, lines)) <= 80
    proposed = shlex.split(following.removeprefix("next:  "))
    assert proposed == ["embsearch", "search", *home.words, *words]
    expected = seconds(re.search(r"^time +([0-9:]+) expected", plan, re.M)[1])
    assert taken["search"] / 2 <= expected <= 2 * taken["search"], (plan, taken)

    reached = [float(n) for n in re.findall(r"texts +([0-9.]+) trials", plan)]
    really = [sum((t, rung, 0) in home.values() for t in home.trials) for rung in (1, 2, 3)]
    assert reached[0] == really[0] == 9
    assert all(abs(a - b) <= 3 for a, b in zip(reached, really, strict=True))
    texts = int(re.search(r"^texts +([0-9,]+) expected", plan, re.M)[1].replace(",", ""))
    spent = sum(home.events("measured", n)[-1]["texts_seen"] for n in range(9))
    assert spent / 2 <= texts <= 2 * spent
    assert texts <= int(re.search(r"([0-9,]+) at worst", plan)[1].replace(",", ""))


@pytest.mark.story
def test_from_search_to_champion(home, tmp_path, capsys):
    record = ["track=mlflow", "launcher=local", "launcher.workers=1", "stop.trials=3"]
    assert home.run("search", *record) == 0
    capsys.readouterr()
    assert home.run("promote", "track=mlflow") == 0
    assert "s version 1 is now champion: models:/s@champion" in capsys.readouterr().out

    assert (
        home.run(
            "evaluate", "track=mlflow", "checkpoint=champion", f"output={tmp_path / 'scores.json'}"
        )
        == 0
    )
    tested = home.result["table"][-1]
    assert json.loads((tmp_path / "scores.json").read_text())["auc"]["value"] == pytest.approx(
        tested["auc"]["value"]
    )

    texts = ["red lamp", "olive", "jet kettle for kids"]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    vectors = tmp_path / "vectors.npy"
    assert (
        home.run("encode", "track=mlflow", f"input={tmp_path / 'texts.txt'}", f"output={vectors}")
        == 0
    )
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(
        str(home.study / f"trials/t{tested['trial']:04d}/model"), device="cpu"
    ).encode(texts)
    assert np.abs(np.load(vectors) - theirs).max() <= 1e-5

    capsys.readouterr()
    assert home.run("promote", "track=mlflow") == 0
    assert "s version 1 was champion already" in capsys.readouterr().out
    worse = next(n for n in range(3) if n != tested["trial"])
    assert home.run("promote", "track=mlflow", f"trial={worse}") == 3
    said = capsys.readouterr()
    assert "not above promote.min_gain" in said.out
    assert f"trial {worse} is not promoted: refused by gain" in said.err
    assert home.run("promote", "track=mlflow") == 0
    assert "s version 1 was champion already" in capsys.readouterr().out


@pytest.mark.story
def test_a_look_at_the_test_rows_is_counted_where_models_can_be_chosen_by_it(home, calmly_played):
    assert not (calmly_played.folder / "looks.jsonl").exists()  # a replay reads no test rows
    rows = set()
    for rate, counted in (("1e-3", 0), ("2e-3", 2)):
        words = [w for w in home.words if not w.startswith(("space", "stop"))]
        assert main(["train", *words, f"train.lr={rate}", "train.texts=600"]) == 0
        rows |= {one["rows"] for one in read_json(home.folder / "looks.jsonl")}
        assert len(models_judged_by(home.folder, *rows)) == counted

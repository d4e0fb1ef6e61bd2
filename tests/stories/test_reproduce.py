"""embsearch reproduce: a trial is trained again from its record, in a worker process, and compared bit by bit."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import yaml
from home import rewrite as write_log
from safetensors.numpy import load_file, save_file

from embsearch.history.log import read_json as read_events
from embsearch.track.digest import digest, manifest

pytestmark = pytest.mark.story


@pytest.fixture
def copy(calm, home):
    """The calm study, for a test to damage."""
    shutil.copytree(calm.folder, home.folder)
    return home


def resumed(home):
    """A complete trial that had been paused, and went on from its checkpoint."""
    trials = range(len(home.trials))
    complete = [n for n in trials if home.events("ended", n)[0]["state"] == "complete"]
    return next(
        n for n in complete if any(e["decision"] == "pause" for e in home.events("decided", n))
    )


def rewrite(log, change):
    """The log with every event as ``change`` leaves it, as older versions wrote it."""
    events = read_events(log)
    for event in events:
        change(event)
    write_log(log, events)


def test_measurements_say_what_computed_them(calm):
    for number in range(6):
        for event in calm.events("measured", number):
            assert event["machine"].keys() == {"host", "cpu", "device", "threads", "precision"}
            assert event["machine"]["threads"] == 1
            assert event["machine"]["precision"] == "fp32"


def test_a_trial_that_was_paused_and_resumed_is_the_same_bit_by_bit_and_the_command_trains_nothing(
    home, tmp_path
):
    assert home.run("search", "sampler.seed=3", "stop.trials=7") == 0
    number, output = resumed(home), tmp_path / "again"
    code = (
        "import sys; from embsearch.cli.main import main; wrong = main(sys.argv[1:]); "
        "sys.exit(wrong or 'torch' in sys.modules)"
    )
    words = ["reproduce", *home.words, f"trial={number}", f"output={output}"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    old = manifest(home.study / f"trials/t{number:04d}/model")
    assert (
        f"identical: 3 of 3 evaluations, weights sha256 {old['model.safetensors']}" in done.stdout
    )
    assert done.stdout.count("none, in 13 metrics") == 3
    assert digest(manifest(output)) == digest(old)
    assert [p.name for p in (home.folder / "reproduce").iterdir() if p.is_dir()] == []


def test_a_pruned_trial_is_trained_to_where_it_stopped_and_of_several_seeds_the_first(copy, capsys):
    pruned = next(n for n in range(6) if copy.events("ended", n)[0]["state"] == "pruned")
    measured = copy.events("measured", pruned)
    path = copy.study / f"trials/t{pruned:04d}/config.yaml"
    config = yaml.safe_load(path.read_text())
    config["study"]["seeds"] = 3
    path.write_text(yaml.safe_dump(config))
    assert copy.run("reproduce", f"trial={pruned}") == 0
    out = capsys.readouterr().out
    assert f"identical: {len(measured)} of {len(measured)} evaluations, weights sha256" in out
    assert "study.seeds=3: this is its first run, with train.seed=0" in out


def test_a_change_of_packages_is_named_and_the_bits_are_still_compared(copy, capsys):
    """Not beyond the tolerance; that is in tests/report/test_reproduced.py."""

    def older(event):
        if event["kind"] == "opened":
            event["environment"]["packages"]["torch"] = "2.8.0"
        elif event["kind"] == "measured" and event["rung"] == 1:
            event["metrics"]["val/auc"] += 0.001

    rewrite(copy.study / "events.jsonl", older)
    assert copy.run("reproduce", "trial=0") == 0
    out = capsys.readouterr().out
    assert "changed since: torch 2.8.0 -> " in out
    assert "identical: 3 of 3" in out
    rewrite(copy.study / "trials/t0000/events.jsonl", older)
    assert copy.run("reproduce", "trial=0") == 0
    out = capsys.readouterr().out
    assert (
        "equal within 0.001 auc (tolerance 0.005), not bit by bit, because torch 2.8.0 -> " in out
    )


def test_a_model_that_was_changed_is_found_out(copy, capsys):
    file = copy.study / "trials/t0000/model/model.safetensors"
    weights = {name: array.copy() for name, array in load_file(file).items()}
    next(iter(weights.values())).flat[0] += 1e-6
    save_file(weights, file, metadata={"format": "pt"})
    assert copy.run("reproduce", "trial=0") == 0
    out = capsys.readouterr().out
    assert f"note: {file.parent} is not the model that the trial ended with, by its log" in out
    assert "identical: 3 of 3 evaluations, saved model's sha256" in out
    # older logs do not say which model it was
    rewrite(copy.study / "trials/t0000/events.jsonl", lambda event: None)
    rewrite(copy.study / "events.jsonl", lambda event: None)
    assert copy.run("reproduce", "trial=0") == 3
    assert "3 of 3 evaluations are identical, the saved model is not" in capsys.readouterr().out


def test_changed_data_are_refused_and_a_record_of_an_older_embsearch_says_what_it_lacks(
    copy, tmp_path, capsys
):
    text = copy.data.read_text()
    moved = tmp_path / "elsewhere" / copy.data.name
    moved.parent.mkdir()
    moved.write_text(text.replace("crimson shoe for kids,1", "crimson shoe for kids,0", 1))
    for number in range(6):
        config = copy.study / f"trials/t{number:04d}/config.yaml"
        config.write_text(config.read_text().replace(str(copy.data), str(tmp_path / "gone.csv")))
    copy.words = [w for w in copy.words if not w.startswith("data.path")]
    assert copy.run("reproduce", "trial=0", f"data.path={moved}") == 2  # before anything is trained
    err = capsys.readouterr().err
    assert "the data have changed since trial 0: their fingerprint was" in err
    assert "judgements.csv has other content: 288 rows then, 288 now" in err

    def older(event):
        event.pop("machine", None)
        if event["kind"] == "opened":
            event["environment"].pop("cpu")

    rewrite(copy.study / "events.jsonl", older)
    rewrite(copy.study / "trials/t0000/events.jsonl", older)
    assert (
        copy.run("reproduce", "trial=0", f"data.path={copy.data}") == 0
    )  # the old file, where it is now
    out = capsys.readouterr().out
    assert "changed since" not in out
    assert "does not say on which CPU and by how many threads it was trained: taken to be 1" in out
    assert "identical: 3 of 3" in out


def test_a_run_and_a_version_lead_back_to_their_trial(copy, capsys):
    from embsearch.config.load import compose
    from embsearch.registry.origin import of_run
    from embsearch.track.mlflow_store import connect

    copy.words.remove("track=none")
    locked = copy.study / "study.yaml"
    locked.write_text(locked.read_text().replace("mlflow: false", "mlflow: true"))
    assert copy.run("promote") == 0
    best = copy.result["best"]
    assert copy.run("reproduce", "checkpoint=champion") == 0
    out = capsys.readouterr().out
    assert f"trial {best} of s" in out
    weights = manifest(copy.study / f"trials/t{best:04d}/model")["model.safetensors"]
    assert f"weights sha256 {weights}" in out
    client = connect(compose([f"home={copy.folder}"]))
    runs = client.search_runs(
        [e.experiment_id for e in client.search_experiments()], "tags.`embsearch.trial` != ''"
    )
    run = next(r.info.run_id for r in runs if r.data.tags["embsearch.uid"].endswith("/t0000"))
    assert of_run(client, run).trial == 0
    shutil.rmtree(copy.study / "trials/t0000/model")
    assert copy.run("reproduce", f"run={run}") == 0
    assert "identical: 3 of 3 evaluations, saved model's sha256" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("trial=99", "study s has the trials 0 to 5"),
        ("trial=1 checkpoint=champion", "name one trial, not 2"),
        ("checkpoint=./model", "a folder does not say which trial it is of"),
        ("study.name=nobody", "study nobody is not in"),
        ("tolerance=-1", "must be 0 (only the same bits) or more"),
        ("trial=0 output=/nowhere/model", "there is no folder /nowhere"),
    ],
)
def test_what_cannot_be_trained_again_is_refused_at_once(copy, capsys, words, said):
    assert copy.run("reproduce", *words.split()) == 2
    assert said in capsys.readouterr().err


def test_a_trial_without_its_config_is_refused(copy, capsys):
    (copy.study / "trials/t0000/config.yaml").write_text("- 1\n")
    assert copy.run("reproduce", "trial=0") == 2
    assert "not the config that embsearch wrote" in capsys.readouterr().err

"""The page of a real small study, and two studies side by side, by the command line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html import unescape

import numpy as np
import pytest
from home import rewrite

from embsearch.cli.main import main
from embsearch.evaluate.examine import Examined

pytestmark = pytest.mark.story


def texts_of(html):
    """The page's own words: without styles, scripts and tags."""
    html = re.sub(r"<(style|script).*?</\1>", " ", html, flags=re.S)
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)))


@pytest.fixture(scope="module")
def copy(calm, tmp_path_factory):
    """The calm study in a home of its own that tests may damage, and beside it the same under another name."""
    home = calm.at(tmp_path_factory.mktemp("copy") / "home")
    shutil.copytree(calm.folder, home.folder)
    twin = home.folder / "studies" / "twin"
    shutil.copytree(home.study, twin)
    locked = (twin / "study.yaml").read_text()
    (twin / "study.yaml").write_text(re.sub(r"(?m)^(\s+)name: s$", r"\1name: twin", locked))
    return home


def test_a_study_that_ends_leaves_its_page(calm):
    html = (calm.study / "report.html").read_text()
    words = texts_of(html)
    best = calm.result["table"][-1]
    assert f"Trial {best['trial']} won: test AUC {best['auc']['value']:.4f}" in words
    assert "over the untuned encoder" in words
    for path, value in calm.events("created", best["trial"])[0]["params"].items():
        assert path in words
        assert (f"{value:.2g}" if isinstance(value, float) else str(value)) in words
    for row in calm.result["table"]:
        assert (
            f"{row['auc']['value']:.4f} ({row['auc']['low']:.4f} to {row['auc']['high']:.4f})"
            in words
        )
    for number in range(6):
        assert f"{number} {calm.events('ended', number)[0]['state']}" in words
        assert calm.events("ended", number)[0]["reason"] in words
    assert "Queries that moved" in words


def test_the_page_needs_nothing_beside_it(calm):
    html = (calm.study / "report.html").read_text()
    assert not re.findall(
        r"<link|<img|<iframe|@import|(?:src|href)=",
        re.sub(r"<script.*?</script>", "", html, flags=re.S),
    )
    assert len(html) < 6e6


def test_the_charts_hold_what_the_logs_say(calm):
    html = (calm.study / "report.html").read_text()
    payload = json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1]
    )
    tables = payload["tables"]
    curves = {(row["n"], row["rung"]): row["value"] for row in tables["curves"]}
    assert curves == {
        (n, e["rung"]): round(e["metrics"]["val/auc"], 5)
        for n in range(6)
        for e in calm.events("measured", n)
    }
    spent = sum(max(e["texts_seen"] for e in calm.events("measured", n)) for n in range(6))
    assert sum(row["texts"] for row in tables["budget"]) == spent
    assert [row["trials"] for row in tables["budget"]] == [
        sum(any(e["rung"] == rung for e in calm.events("measured", n)) for n in range(6))
        for rung in (1, 2, 3)
    ]
    for model in ("untuned encoder", "best trial"):
        for relevant in (True, False):
            here = [
                r["share"]
                for r in tables["scores"]
                if (r["model"], r["relevant"]) == (model, relevant)
            ]
            assert sum(here) == pytest.approx(1, abs=1e-3)
    named = {
        name
        for chart in payload["charts"]
        for name in re.findall(r'"data": {"name": "(\w+)"}', json.dumps(chart))
    }
    assert named <= tables.keys()


def test_report_measures_again_what_is_missing_and_says_the_same(copy, tmp_path, capsys):
    before = {path.name: Examined.load(path) for path in (copy.study / "tested").iterdir()}
    assert len(before) == 2  # the winner was given: it has one row
    shutil.rmtree(copy.study / "tested")
    page = tmp_path / "page.html"
    assert copy.run("report", f"output={page}", "--no-open") == 0
    assert f"study page: {page}" in capsys.readouterr().out
    for name, old in before.items():
        new = Examined.load(copy.study / "tested" / name)
        assert np.array_equal(old.place, new.place)
        assert np.allclose(old.similarity, new.similarity, atol=1e-6)
    first = texts_of((copy.study / "report.html").read_text())
    assert texts_of(page.read_text()).split("Made by")[0] == first.split("Made by")[0]


def test_a_page_is_made_also_where_the_models_and_the_data_are_gone(copy, tmp_path, capsys):
    shutil.copytree(copy.folder, tmp_path / "home")
    home = copy.at(tmp_path / "home")
    shutil.rmtree(home.folder / "cache")
    home.data = tmp_path / "gone.csv"
    locked = home.study / "study.yaml"
    locked.write_text(locked.read_text().replace(str(copy.data), str(home.data)))
    assert home.run("report", "--no-open") == 0
    assert "without scores of single rows" in capsys.readouterr().out
    words = texts_of((home.study / "report.html").read_text())
    assert "won: test AUC" in words
    assert "Queries that moved" not in words


def test_a_page_can_be_made_before_the_end_and_before_any_trial(copy, tmp_path):
    shutil.copytree(copy.folder, tmp_path / "home")
    home = copy.at(tmp_path / "home")
    log = home.study / "events.jsonl"
    rewrite(log, [e for e in home.all_events() if e["kind"] not in ("closed", "tested")])
    assert home.run("report", "--no-open") == 0
    words = texts_of((home.study / "report.html").read_text())
    assert re.search(
        r"Trial \d was ahead when the study stopped: validation auc [01]\.\d{4}", words
    )
    assert "embsearch search study.name=s" in words  # what goes on with it
    shutil.rmtree(home.study / "trials")
    rewrite(log, [e for e in home.all_events() if e["kind"] != "told"])
    assert home.run("report", "--no-open") == 0
    assert "Nothing was measured yet." in texts_of((home.study / "report.html").read_text())


def test_a_page_that_cannot_be_written_costs_the_study_nothing(home, capsys):
    assert home.run("search", "stop.trials=1") == 0
    (home.study / "report.html").unlink()
    (home.study / "report.html" / "kept").mkdir(parents=True)  # a folder where the page should be
    assert home.run("search", "stop.trials=2") == 0
    out, err = capsys.readouterr()
    assert "the study page could not be written" in err
    assert "best trial" in out
    assert home.result["finished"]
    assert (home.study / "report.html" / "kept").is_dir()


def test_report_refuses_what_it_cannot_write(copy, tmp_path, capsys):
    assert copy.run("report", "study.name=nobody", "--no-open") == 2
    assert "study nobody is not in" in capsys.readouterr().err
    assert copy.run("report", f"output={tmp_path}/page.pdf") == 2
    assert "expected a name ending in .html" in capsys.readouterr().err


def test_two_studies_stand_side_by_side(copy, tmp_path, capsys):
    page = tmp_path / "both.html"
    words = [w for w in copy.words if not w.startswith("study.name")]
    assert main(["compare", *words, "study.name=s", "study.name=twin", f"output={page}"]) == 0
    out = capsys.readouterr().out
    for part in ("validation auc", "test AUC (95 %)", "train.lr", "importance"):
        assert part in out
    assert re.search(
        r"\+0\.0000 \(\+0\.0000 to \+0\.0000\) AUC; trained on: s ([\d,]+) texts, its winner ([\d,]+); "
        r"twin \1 texts, its winner \2; the 95 % interval reaches 0: they cannot be told apart\.",
        out,
    )
    assert "twin's winner against s's on the same test rows" in texts_of(page.read_text())
    assert main(["compare", *words, "study.name=s"]) == 2
    assert "expected two studies or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb", ["status", "report output={} --no-open", "compare study.name=twin output={}"]
)
def test_looking_at_a_study_imports_neither_torch_nor_mlflow(copy, tmp_path, verb):
    code = (
        "import sys; from embsearch.cli.main import main; wrong = main(sys.argv[1:]); "
        "sys.exit(wrong or sorted({'torch', 'transformers', 'mlflow'} & set(sys.modules)) or 0)"
    )
    name, *more = verb.format(tmp_path / "page.html").split()
    done = subprocess.run(
        [sys.executable, "-c", code, name, *copy.words, *more], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_why_tells_a_trials_story_in_order(calm, capsys):
    assert calm.run("status", "trial=0", "--why") == 0
    lines = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("suggested: train.lr=0.001")
    assert "trains to evaluation 1 from the base weights" in lines[1]
    assert lines[-1].startswith("complete, best auc")
    assert any(
        line == "continue: trial 0 is the default configuration and runs to its end"
        for line in lines
    )
    assert calm.run("status", "trial=99", "--why") == 2
    assert "study s has the trials 0 to 5" in capsys.readouterr().err

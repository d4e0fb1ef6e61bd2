"""The Python API: the same study from a table, a notebook's cell, and the command line."""

import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import embsearch as es
from embsearch.cli.composition import composed
from embsearch.cli.main import main
from embsearch.config.options import Options
from embsearch.config.words import words_of
from embsearch.data.frames import words_of_data
from embsearch.errors import ConfigError, DataError, Refused, StudyError

pytestmark = pytest.mark.story
GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "python.md"


@pytest.fixture
def settings(home):
    """The home's words, as a notebook has them."""
    words = [word for word in home.words if not word.startswith(("data.path=", "study.name="))]
    return lambda *more, **settings: ((*words, *more), settings)


def test_a_table_is_searched_promoted_and_loaded_and_the_command_line_goes_on(
    home, settings, capsys
):
    frame = pd.read_csv(home.data)
    words, given = settings(stop={"trials": 3}, home=str(home.folder))
    study = es.search(frame, "s", *words, **given)
    assert list(study.trials.index) == [0, 1, 2]
    assert set(study.trials.columns) >= {"state", "value", "texts", "why", "train.lr"}
    assert study.best["value"] == study.trials["value"].max()
    table = study.table()
    assert {"untuned encoder", "best trial"} <= set(table.index)
    assert table.loc["best trial", "low"] <= table.loc["best trial", "auc"]
    assert "<iframe" in study.report()._repr_html_()
    assert "train.lr" in study._repr_html_()
    assert repr(study).startswith("<s: 3 of 3 trials ended")

    model = study.promote(min_gain=-1)
    vectors = model.encode_query(["shoes"])
    assert (es.load("s@champion", home=str(home.folder)).encode_query(["shoes"]) == vectors).all()
    with pytest.raises(Refused, match="is not promoted: refused by"):
        study.promote(trial=study.trials["value"].idxmin(), min_auc=1.0, min_gain=-1)

    capsys.readouterr()
    assert main(["search", "study.name=s", f"home={home.folder}", "stop.trials=4"]) == 0
    assert "all 4 trials exist" in capsys.readouterr().out
    assert len(study.trials) == 4
    again = es.search(frame.copy(), "s", *words, **{**given, "stop": {"trials": 4}})
    assert "nothing to do" in capsys.readouterr().out
    pd.testing.assert_frame_equal(again.trials, study.trials)
    with pytest.raises(StudyError, match=r"data\.path"):
        es.search(frame.iloc[1:], "s", *words, **given)
    with pytest.raises(StudyError, match="study other is not in"):
        es.open("other", home=str(home.folder))


def test_a_table_of_any_kind_is_the_same_file(tmp_path):
    frame = pd.DataFrame({"query": ["a", "b"], "positive": ["x", "y"]})
    import datasets

    kinds = (
        frame,
        frame.set_index([[5, 6]]),
        pa.Table.from_pandas(frame),
        datasets.Dataset.from_pandas(frame),
    )
    words = {tuple(words_of_data(kind, str(tmp_path))) for kind in kinds}
    assert len(words) == 1
    [[word]] = words
    assert len(list((tmp_path / "tables").iterdir())) == 1
    assert pd.read_parquet(word.removeprefix("data.path=").strip("'")).equals(frame)
    splits = words_of_data({"train": frame, "validation": frame}, str(tmp_path))
    assert [w.partition("=")[0] for w in splits] == ["data.train", "data.valid"]
    with pytest.raises(DataError, match="no such split: dev"):
        words_of_data({"dev": frame}, str(tmp_path))
    with pytest.raises(DataError, match="list: expected a pandas"):
        words_of_data([1, 2], str(tmp_path))
    with pytest.raises(DataError, match="columns of numbers or of texts"):
        words_of_data(pd.DataFrame({"query": ["a", 1]}), str(tmp_path))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"space": "small", "stop": {"trials": 3}}, ["space=small", "stop.trials=3"]),
        ({"train": {"lr": 1e-5}, "stop": {"seconds": None}}, ["train.lr=1e-05", "stop.seconds=null"]),
        ({"space": {"train.lr": {"high": 3e-4}}}, ["++space.train.lr.high=0.0003"]),
        ({"track": None, "evaluate": {"costs": np.array([])}}, ["track=none", "evaluate.costs=[]"]),
        ({"study": {"name": "a\\'b\\"}}, ["study.name='a\\\\\\'b\\\\'"]),
        (
            {"study": {"defaults": [{"train.lr": 1e-4}]}},
            ["study.defaults=[{train.lr: 0.0001}]"],
        ),
        ({"track": ["mlflow", "wandb"]}, ["track=[mlflow,wandb]"]),
        ({"data": {"columns": {"query": "it's"}}}, ["++data.columns.query='it\\'s'"]),
        ({"model": "some/hub-name"}, ["model.path='some/hub-name'"]),
        ({"evaluate": {"at": (0.5, 1), "pool": False}}, ["evaluate.at=[0.5,1]", "evaluate.pool=false"]),
    ],
)  # fmt: skip
def test_settings_become_the_words_of_a_command(given, words):
    assert words_of(given) == words
    composed(words, Options)  # Hydra reads them


def test_wrong_settings_are_refused_as_on_the_command_line(home, settings):
    words, given = settings(home=str(home.folder))
    with pytest.raises(ConfigError, match=r"train\.lrr.*Did you mean 'train\.lr'"):
        es.search(home.data, "s", *words, train={"lrr": 1}, **given)
    with pytest.raises(ConfigError, match=r"train\.lr=.*expected a number"):
        es.search(home.data, "s", *words, train={"lr": object()}, **given)
    assert not home.study.exists()


def cells_of(page):
    """The Python cells of a page, in order."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_cells_of_the_guide_run_in_a_notebook(tmp_path, tiny_bert, judgements_csv, monkeypatch):
    """With a tiny encoder and small data, in a kernel of its own."""
    monkeypatch.setenv("EMBSEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(tiny_bert, tmp_path / "my-encoder")
    shutil.copy(judgements_csv, tmp_path / "clicks.csv")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells_of(GUIDE)])
    client = NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    try:
        client.execute()
    except CellExecutionError as error:
        pytest.fail(str(error))
    shown = [output for cell in book.cells for output in cell.outputs]
    pages = [o.data["text/html"] for o in shown if "text/html" in o.get("data", {})]
    assert any("<iframe" in page for page in pages)
    assert any("widget" in kind for o in shown for kind in o.get("data", {}))  # the table of trials
    assert es.open("clicks", home=str(tmp_path / "home")).best["value"] > 0.6

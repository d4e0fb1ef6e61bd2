"""Bad input by the command line: exit 2, one message that says where, what and what to do, nothing left behind."""

from __future__ import annotations

import os

import pytest

from embsearch.cli.encode import read_texts
from embsearch.cli.main import main
from embsearch.launch.local import visible_gpus

DEFAULTS = ["data.path=rows.csv", "study.name=s", "device=cpu", "track=none", "launcher=inline", "train.texts=300",
            "train.batch_size=8", "space=none", "stop.trials=2"]  # fmt: skip
ROWS = "query,title,grade\n" + "".join(
    f"q{q},t{t},{int(t == q % 4)}\n" for q in range(12) for t in range(4)
)
FILES = {
    "p.csv": "anchor,positive\n" + "".join(f"q{q},t{q}\n" for q in range(12)),
    "v.csv": "anchor,positive,negative\n" + "".join(f"v{q},t{q},t{q + 1}\n" for q in range(6)),
}

# name: (command, files, what the message says)
BAD = {
    # the data file
    "no data": ("search data.path=null", {}, ["data.path"]),
    "file missing": ("search data.path=nope.csv", {}, ["nope.csv", "no such file"]),
    "file of another kind": ("search data.path=a.ods", {"a.ods": "PK"}, ["a.ods", "csv"]),
    "empty file": (
        "search data.path=a.csv",
        {"a.csv": ""},
        ["a.csv", "is empty", "expected a header and rows"],
    ),
    "a bad grade": (
        "search data.path=a.csv",
        {"a.csv": ROWS + "q1,t9,good\n"},
        ["a.csv, row 50", "grade 'good'", "data.on_bad_row=drop"],
    ),
    "an empty title": (
        "data check data.path=a.csv",
        {"a.csv": ROWS + "q1,,1\n"},
        ["a.csv, row 50", "title ''"],
    ),
    "not UTF-8": (
        "search data.path=a.csv data.encoding=utf-8",
        {"a.csv": b"query,title,grade\nq,\xff\xfe,1\n"},
        ["a.csv", "data.encoding"],
    ),
    "unknown column": (
        "search data.path=a.csv data.columns.title=titel",
        {"a.csv": ROWS},
        ["titel", "title"],
    ),
    "no column that says what is good": (
        "search data.path=a.csv",
        {"a.csv": "query,title\nq,t\n"},
        ["a.csv", "grade"],
    ),
    "nothing to learn from": (
        "search data.path=a.csv",
        {"a.csv": "query,title,grade\nq,t,0.5\np,t,0.5\n"},
        ["no triplets from", "data.derive.min_gap=1"],
    ),
    "splits that leave nothing": (
        "search data.split.valid=0.6 data.split.test=0.5",
        {},
        ["data.split.valid=0.6", "shares"],
    ),
    "given splits that are not": (
        "search data.split.by=given",
        {},
        ["data.split.by=given", "data.split.by=query"],
    ),
    # values
    "a word for a number": ("search train.lr=fast", {}, ["train.lr='fast'", "expected a number"]),
    "a broken batch": (
        "search train.batch_size=2.5",
        {},
        ["train.batch_size=2.5", "a whole number"],
    ),
    "a choice that is not": (
        "search objective.name=hinge",
        {},
        ["objective.name='hinge'", "one of auto, triplet"],
    ),
    "learning rate 0": ("search train.lr=0", {}, ["train.lr=0.0", "above 0"]),
    "a margin that cannot be met": (
        "train objective.margin=3",
        {},
        ["objective.margin=3.0", "differ by at most 2", "0.05 to 0.5"],
    ),
    "InfoNCE with nothing to choose from": (
        "train data.path=null data.train=p.csv data.valid=v.csv objective=infonce train.batch_size=1",
        FILES,
        ["train.batch_size=1", "2 or more"],
    ),
    "a searched batch with nothing to choose from": (
        "search data.path=null data.train=p.csv data.valid=v.csv objective=infonce space=none "
        "+space.train.batch_size={choices:[1,8],ordered:true}",
        FILES,
        ["train.batch_size=1", "2 or more"],
    ),
    "triplets without negatives": (
        "train data.path=null data.train=p.csv data.valid=v.csv objective=triplet",
        FILES,
        ["none of the", "objective.name=infonce"],
    ),
    "no trial": ("search stop.trials=0", {}, ["stop.trials=0", "at least 1"]),
    "evaluations that do not rise": (
        "search evaluate.at=[0.5,0.25,1.0]",
        {},
        ["evaluate.at", "must rise"],
    ),
    "a rung that is not": (
        "search scheduler.min_rung=9",
        {},
        ["scheduler.min_rung=9", "expected 1 to 5"],
    ),
    "a name that is a path": ("search study.name=../x", {}, ["study.name='../x'", "without '/'"]),
    # the space
    "a space with faults": (
        "search +space.train.lrr={low:1,high:2} +space.train.lr={low:1,high:0.5}",
        {},
        ["space.train.lrr", "Did you mean 'train.lr'?", "space.train.lr: the range is empty"],
    ),
    "data in the space": (
        "search +space.data.positive_grade={low:1,high:2}",
        {},
        ["space.data.positive_grade", "equal for all"],
    ),
    "a default outside the space": (
        "search train.lr=0.9 +space.train.lr={low:1e-5,high:1e-3}",
        {},
        ["space.train.lr", "train.lr=0.9", "widen the space"],
    ),
    "a first point outside the space": (
        "search study.defaults=[{objective.name:hinge}] space=small",
        {},
        ["study.defaults[0]", "objective.name='hinge'", "outside the choices"],
    ),
    # the model and the machine
    "a model folder that is not": (
        "search model.path=./nowhere",
        {},
        ["model.path=./nowhere", "no such folder"],
    ),
    "a model to be named": ("search model=custom", {}, ["model.path", "must be given"]),
    "a GPU that is not there": ("search device=cuda", {}, ["device=cuda", "cpu"]),
    "a device that is not": ("train device=tpu", {}, ["device=tpu", "expected auto, cpu, cuda"]),
    "too many layers to freeze": (
        "train model.freeze_layers=99",
        {},
        ["model.freeze_layers=99", "2 layers"],
    ),
    "a metric that is not": (
        "search evaluate.objective=acu",
        {},
        ["evaluate.objective=acu", "Did you mean 'auc'?", "ndcg_10"],
    ),
    "a home that is a file": ("search home=f", {"f": "x"}, ["f"]),
    # a plan finds what a search would
    "a plan with faults of the space, the scheduler and the data": (
        "plan data.path=a.csv scheduler.min_rung=9 +space.train.lr={low:1,high:0.5}",
        {"a.csv": ROWS + "q1,t9,good\n"},
        [
            "space.train.lr: the range is empty",
            "scheduler.min_rung=9",
            "a.csv, row 50: grade 'good'",
        ],
    ),
    "a plan of nothing to learn": (
        "plan data.path=null data.train=p.csv data.valid=v.csv space=none objective=bce "
        "+space.objective.name={choices:[triplet,bce]}",
        FILES,
        ["objective.name=triplet: none of the", "objective.name=bce: none of the"],
    ),
    "a plan without weights": (
        "plan model.path=./nowhere",
        {},
        ["model.path=./nowhere", "no such folder"],
    ),
    "a plan of a metric that is not": (
        "plan evaluate.objective=acu",
        {},
        ["evaluate.objective=acu", "'auc'"],
    ),
    # the other verbs
    "a study not begun": (
        "status study.name=nope",
        {},
        ["study nope", "not begun", "embsearch search"],
    ),
    "promoting a study not begun": (
        "promote study.name=nope",
        {},
        ["study nope", "has not ended", "embsearch search"],
    ),
    "two models": ("evaluate checkpoint=x trial=1", {}, ["checkpoint=x and trial=1", "one model"]),
    "a checkpoint that is not": (
        "evaluate checkpoint=./nope",
        {},
        ["checkpoint=./nope", "modules.json is missing"],
    ),
    "a trial that is not": ("evaluate trial=7", {}, ["trial=7", "no model"]),
    "no champion": (
        "evaluate checkpoint=champion",
        {},
        ["checkpoint=champion", "embsearch promote"],
    ),
    "output that is no JSON": ("evaluate output=x.txt", {}, ["output=x.txt", ".json"]),
    "a text file that is not": (
        "encode checkpoint=. input=nope.txt",
        {},
        ["input=nope.txt", "expected a text file"],
    ),
    "no texts": (
        "encode checkpoint=. input=e.txt",
        {"e.txt": ""},
        ["e.txt", "no texts", "expected one a line"],
    ),
    "an empty line": (
        "encode checkpoint=. input=e.txt",
        {"e.txt": "a\n\nb\n"},
        ["e.txt, line 2", "empty", "delete the line"],
    ),
    "texts not UTF-8": (
        "encode checkpoint=. input=e.txt",
        {"e.txt": b"a\n\xe9t\xe9\n"},
        ["e.txt, line 2", "0xe9", "UTF-8"],
    ),
    "vectors of another kind": (
        "encode checkpoint=. input=e.txt output=v.csv",
        {"e.txt": "a\n"},
        ["output=v.csv", ".npy or .jsonl"],
    ),
    "vectors to nowhere": (
        "encode input=e.txt output=no/v.npy",
        {"e.txt": "a\n"},
        ["output=no/v.npy", "no folder no"],
    ),
    "a model over another": (
        "train output=there",
        {"there": "x"},
        ["output=there", "already there"],
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "cwd"
    folder.mkdir()
    (folder / "rows.csv").write_text(ROWS)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EMBSEARCH_HOME", str(tmp_path / "home"))
    return folder


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_message_and_leaves_nothing(
    case, folder, tmp_path, tiny_bert, capsys
):
    command, files, says = BAD[case]
    if case == "a GPU that is not there" and visible_gpus():
        pytest.skip("this machine has a GPU")
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(os.listdir(folder))
    given = {word.partition("=")[0] for word in command.split()}
    words = [w for w in [*DEFAULTS, f"model.path={tiny_bert}"] if w.partition("=")[0] not in given]
    if "model=custom" in command:
        words = [w for w in words if not w.startswith("model.path=")]
    code = main([*command.split(), *words])
    err = capsys.readouterr().err
    assert code == 2, err
    for part in says:
        assert part in err, err
    assert "Traceback" not in err
    assert sorted(os.listdir(folder)) == before
    home, studies = tmp_path / "home", tmp_path / "home/studies"
    assert not studies.exists() or os.listdir(studies) == []
    if command.startswith("plan"):
        assert not home.exists() or os.listdir(home) == ["cache"]


@pytest.mark.story
def test_the_message_of_a_study_that_never_began_does_not_stop_the_next_run(
    folder, tmp_path, tiny_bert, judgements_csv, capsys
):
    # of the texts of rows.csv this encoder knows no word
    words = [*DEFAULTS, f"model.path={tiny_bert}", f"data.path={judgements_csv}"]
    assert main(["search", *words, "evaluate.objective=acu"]) == 2
    assert main(["search", *words, "train.l2=0.05", "stop.trials=1"]) == 0
    assert "ended by stop.trials" in capsys.readouterr().out


def test_a_line_break_within_a_text_is_none(folder):
    (folder / "t.txt").write_bytes("a\u2028b\r\nc\x0cd\n".encode())
    assert read_texts("t.txt") == ["a\u2028b", "c\x0cd"]

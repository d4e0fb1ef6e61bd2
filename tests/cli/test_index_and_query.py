"""``embsearch index`` and ``query``: what is found, what is refused, two encoders side by side."""

from __future__ import annotations

import json

import pytest

from embsearch.cli.main import main
from embsearch.cli.verbs import with_text
from embsearch.config.load import compose_options
from embsearch.config.options import QueryOptions

TITLES = ["crimson shoe for kids", "navy lamp new 2024", "olive coat", "金 灯"]


@pytest.fixture
def run(tmp_path, monkeypatch, tiny_bert, capsys):
    """A command in a folder of its own; its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "titles.csv").write_text(
        "id,title\n" + "".join(f"{n},{t}\n" for n, t in enumerate(TITLES))
    )

    def run(*words, checkpoint=tiny_bert):
        own = [
            f"home={tmp_path / 'home'}",
            "device=cpu",
            f"model.path={tiny_bert}",
            f"checkpoint={checkpoint}",
        ]
        code = main([*words, *own])
        return code, *capsys.readouterr()

    return run


def test_a_title_finds_itself_first(run):
    code, out, err = run("index", "input=titles.csv", "output=i")
    assert (code, "i: 4 vectors of width 64" in out) == (0, True), err
    code, out, _ = run("query", "index=i", "olive", "coat", "k=2")
    assert code == 0
    assert out.splitlines()[0] == "olive coat"
    assert out.splitlines()[1].split() == ["1", "1.0000", "olive", "coat"]
    assert len(out.splitlines()) == 3


def test_answers_to_a_file_of_texts_are_kept_as_json_lines(run, tmp_path):
    run("index", "input=titles.csv", "output=i")
    (tmp_path / "q.txt").write_text("金 灯\nolive coat\n")
    assert run("query", "index=i", "input=q.txt", "output=found.jsonl", "k=1")[0] == 0
    found = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [one["titles"][0]["title"] for one in found] == ["金 灯", "olive coat"]
    assert found[0]["titles"][0]["cosine"] == pytest.approx(1, abs=1e-5)


def test_an_index_of_another_model_is_refused(run, tmp_path, tiny_bert):
    from sentence_transformers import SentenceTransformer

    other = SentenceTransformer(str(tiny_bert), device="cpu")
    other[0].auto_model.embeddings.word_embeddings.weight.data += 0.1
    other.save(str(tmp_path / "other"))
    run("index", "input=titles.csv", "output=i")
    code, _, err = run("query", "index=i", "coat", checkpoint=tmp_path / "other")
    assert code == 2
    assert "their vectors do not compare. Build the index again" in err


def test_two_encoders_stand_side_by_side_with_what_is_known_to_be_right(
    run, tmp_path, judgements_csv, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "140")
    words = [f"data.path={judgements_csv}", "study.name=s"]
    assert run("index", "output=i", *words)[0] == 0
    code, out, err = run("query", "index=i", "compare=untuned", *words)
    assert code == 0, err
    assert "untuned encoder" in out
    assert "First title right: " in out
    assert "✓" in out
    assert sum(line.startswith("│ ") and " 1 " in line for line in out.splitlines()) == 10
    assert list((tmp_path / "home/cache/vectors").glob("*.npy"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("index output=i", "input: no titles"),
        ("index input=titles.csv", "output: must be given"),
        ("index input=titles.csv output=titles.csv", "already there and no index"),
        ("index input=titles.csv output=no/i", "there is no folder no"),
        ("index input=nope.csv output=i", "nope.csv: cannot be read"),
        ("index input=two.csv output=i", "two.csv, row 1: no column 'title'. The file has: a, b"),
        (
            "index input=two.csv output=i data.columns.title=c",
            "data.columns.title=c names a header that is not there",
        ),
        ("index input=gap.csv output=i", "gap.csv, row 3: the title is empty"),
        ("query coat", "index: must be given"),
        ("query index=nope coat", "index=nope: no index here"),
        ("query index=nope text=a input=b", "give one or the other"),
        ("query index=nope coat k=0", "k=0: must be at least 1"),
        ("query index=nope coat output=a.csv", "expected a name ending in .jsonl"),
    ],
)
def test_bad_input_is_told_and_leaves_nothing(run, tmp_path, words, says):
    (tmp_path / "two.csv").write_text("a,b\n1,2\n")
    (tmp_path / "gap.csv").write_text("title,b\nx,2\n,3\n")
    before = {p.name for p in tmp_path.iterdir()}
    code, _, err = run(*words.split())
    assert code == 2
    assert says in err
    assert {p.name for p in tmp_path.iterdir()} - before <= {"home"}


@pytest.mark.parametrize(
    "text",
    ["running shoes", "it's 50% {off}, [new]: $5", "back\\slash", "end\\", "a ${home} b", "鞋"],
)
def test_free_words_reach_the_verb_as_they_were_typed(text):
    typed = with_text(["index=i", *text.split(" ")])
    assert compose_options(typed, QueryOptions).text == text


def test_a_flag_and_its_value_are_not_text():
    assert with_text(["index=i", "red", "--cfg", "job", "shoe"]) == [
        "text='red shoe'",
        "index=i",
        "--cfg",
        "job",
    ]
    assert with_text(["index=i", "--cfg", "job"]) == ["index=i", "--cfg", "job"]

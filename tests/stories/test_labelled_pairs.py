"""Pairs with a label as QQP ships them: average precision chooses, the best F1 stands beside it."""

from __future__ import annotations

import pytest

from embsearch.cli.main import main
from tests.conftest import judgement_rows
from tests.stories.home import Home

pytestmark = pytest.mark.story


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_bert):
    folder = tmp_path_factory.mktemp("labelled")
    lines = ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"]
    for n, (one, other, grade, _) in enumerate(judgement_rows()):
        lines.append(f"{n}\t{2 * n}\t{2 * n + 1}\t{one}\t{other}\t{grade}")
    (folder / "quora.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    home = Home(folder / "home", tiny_bert, folder / "quora.tsv")
    home.words += ["evaluate.objective=average_precision", "stop.trials=2"]
    return home


def test_the_check_reads_judgements(home, capsys):
    assert home.run("data check") == 0
    said = capsys.readouterr().out
    assert "format      judgements" in said
    assert "query = question1, title = question2, grade = is_duplicate" in said


def test_average_precision_chooses_and_both_stand_in_the_final_test(home, capsys):
    assert home.run("search") == 0
    assert "average_precision" in capsys.readouterr().out
    tested = {event["label"]: event["metrics"] for event in home.events("tested")}
    best, untuned = tested["best trial"], tested["untuned encoder"]
    for name in ("average_precision", "best_f1", "auc"):
        assert best[name] > untuned[name]
    assert home.run("promote", "track.uri=null", "--dry-run") in (0, 3)
    assert "test AUC" in capsys.readouterr().out


def test_its_texts_are_indexed_from_the_study_alone_and_compared_with_the_untuned_encoder(
    home, capsys, tmp_path
):
    own = [f"home={home.folder}", "study.name=s", "study.task=s", "device=cpu", "trial=0"]
    assert main(["index", *own, f"output={tmp_path / 'i'}"]) == 0
    assert main(["query", *own, f"index={tmp_path / 'i'}", "compare=untuned"]) == 0
    assert "First title right: " in " ".join(capsys.readouterr().out.split())

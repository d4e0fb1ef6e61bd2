"""embsearch card: the README of a model says what the logs say and what its model does."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from embsearch.report.calibration import cut_at
from embsearch.track.digest import manifest

pytestmark = pytest.mark.story


@pytest.fixture(scope="module")
def copy(calm, tmp_path_factory):
    home = calm.at(tmp_path_factory.mktemp("copy") / "home")
    shutil.copytree(calm.folder, home.folder)
    return home


def printed(home, capsys, *words):
    assert home.run("card", *words) == 0
    return capsys.readouterr().out


def row(text, name):
    """The cells of the table row that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_card_is_of_the_best_trial_and_says_what_the_logs_say(copy, capsys):
    text = printed(copy, capsys)
    best = copy.result["table"][-1]
    number = best["trial"]
    assert f"# s: trial {number} of study s" in text
    auc = best["auc"]
    assert (
        row(text, "**this model**")[1]
        == f"{auc['value']:.4f} ({auc['low']:.4f} to {auc['high']:.4f})"
    )
    for path, value in copy.events("created", number)[0]["params"].items():
        assert row(text, path)[2] == (f"{value:.2g}" if isinstance(value, float) else str(value))
    sha = manifest(copy.study / f"trials/t{number:04d}/model")["model.safetensors"]
    assert f"sha256 of the weights: `{sha}`" in text
    assert copy.events("opened")[0]["data"] in text
    assert f"embsearch reproduce study.name=s home={copy.folder} trial={number}" in text
    assert (
        row(text, "train")[2] == f"{copy.events('opened')[0]['rows']['splits']['train']['rows']:,}"
    )
    assert "Texts are cut at 64 tokens" in text
    assert re.search(r"Letters of the study's texts: Latin \d+ %, CJK \d+ %", text)


def test_the_front_matter_is_what_the_hub_reads(copy, capsys):
    data = ModelCard(printed(copy, capsys)).data
    assert (data.base_model, data.library_name, data.license) == (
        str(copy.model),
        "sentence-transformers",
        "unknown",
    )
    assert "sentence-similarity" in data.tags


def test_the_threshold_is_chosen_on_validation_rows_and_measured_on_test_rows(copy, capsys):
    from embsearch.config.load import compose
    from embsearch.data.load import load_dataset
    from embsearch.evaluate.examine import Examined

    text = printed(copy, capsys)
    found = re.search(
        r"threshold: \*\*([\d.-]+)\*\*, the one with the highest F1 on the validation rows. On the test rows it has "
        r"precision ([\d.]+), recall ([\d.]+), F1 ([\d.]+)",
        text,
    )
    rows = load_dataset(compose(copy.words).data, copy.folder / "cache").test
    cut = cut_at(
        float(found[1]),
        Examined.load(copy.study / "tested/best_trial.npz").similarity,
        rows.relevant,
    )
    assert found.groups()[1:] == (f"{cut.precision:.3f}", f"{cut.recall:.3f}", f"{cut.f1:.3f}")


def test_a_trial_that_did_not_win_has_a_card_that_says_so(copy, tmp_path, capsys):
    best = copy.result["best"]
    other = next(n for n in range(1, 6) if n != best)
    path = tmp_path / "README.md"
    assert copy.run("card", f"trial={other}", f"output={path}") == 0
    text = path.read_text()
    assert capsys.readouterr().out == ""
    assert f"The study's best is trial {best}" in text
    assert row(text, "**this model**")[2].startswith(("+", "-"))
    assert row(text, "**this model**")[4:] == ["", ""]  # recall among all titles was not measured
    assert copy.run("evaluate", f"trial={other}") == 0  # measures the same
    assert row(text, "**this model**")[1][:6] in capsys.readouterr().out


def test_without_its_data_a_card_has_what_the_record_holds(copy, tmp_path, capsys):
    shutil.copytree(copy.folder, tmp_path / "home")
    home = copy.at(tmp_path / "home")
    shutil.rmtree(home.folder / "cache")
    locked = home.study / "study.yaml"
    locked.write_text(locked.read_text().replace(str(copy.data), str(tmp_path / "gone.csv")))
    assert home.run("card") == 0
    out, err = capsys.readouterr()
    assert out.startswith("---\n")
    assert "without scores of single rows" in err
    assert "**this model**" in out
    assert "threshold" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("study.name=nobody", "study nobody is not in"),
        ("trial=99", "study s has the trials 0 to 5"),
        ("output=card.html", "expected a name ending in .md"),
    ],
)
def test_what_has_no_card_is_refused(copy, capsys, words, said):
    assert copy.run("card", *words.split()) == 2
    assert said in capsys.readouterr().err


def test_a_study_that_goes_on_has_no_card_yet_and_a_model_that_is_gone_none(copy, tmp_path, capsys):
    shutil.copytree(copy.folder, tmp_path / "home")
    home = copy.at(tmp_path / "home")
    shutil.rmtree(home.study / "trials/t0000/model")
    assert home.run("card", "trial=0") == 2
    assert "has no model of it" in capsys.readouterr().err
    home.forget(0, "ended")
    assert home.run("card") == 2
    assert "study s has not ended" in capsys.readouterr().err


def test_a_card_of_a_study_that_was_measured_imports_no_torch(copy, capsys):
    printed(copy, capsys)  # what is missing is measured now
    code = (
        "import sys; from embsearch.cli.main import main; wrong = main(sys.argv[1:]); "
        "sys.exit(wrong or sorted({'torch', 'transformers', 'mlflow'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "card", *copy.words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

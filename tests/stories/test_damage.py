"""Bytes that changed after they were written: made again from what is whole, or refused by name. The measure is
the undisturbed study. benchmarks/damage.py does it to every file and every command."""

from __future__ import annotations

import re
import shutil

import pytest

pytestmark = pytest.mark.story


@pytest.fixture
def copy(home, calm):
    shutil.copytree(calm.folder, home.folder)
    return home


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def scores(home, capsys, *words):
    """The numbers that ``evaluate`` prints of trial 1, and what it says beside them."""
    capsys.readouterr()
    code = home.run("evaluate", "trial=1", *words)
    out, err = capsys.readouterr()
    return code, re.findall(r"\d\.\d{4}", out), err


@pytest.mark.parametrize("name", ["arrays.npz", "dataset.json", "ids.npy", "offsets.npy"])
def test_what_the_cache_holds_is_made_again_and_said(copy, capsys, name):
    usual = scores(copy, capsys)
    assert usual[0] == 0
    assert len(usual[1]) > 3
    (path,) = (copy.folder / "cache").rglob(name)
    whole = path.read_bytes()
    for damage in (lambda: flip(path), lambda: path.write_bytes(b""), path.unlink):
        damage()
        code, numbers, err = scores(copy, capsys)
        assert (code, numbers) == usual[:2]
        assert f"{path.parent}: {name} is" in err
        assert "it is made again" in err
        assert path.read_bytes() == whole
        assert "made again" not in scores(copy, capsys)[2]


def test_a_cache_of_an_older_version_is_made_again(copy, capsys):
    usual = scores(copy, capsys)
    for sums in (copy.folder / "cache").rglob("SHA256SUMS"):
        sums.unlink()
    code, numbers, err = scores(copy, capsys)
    assert (code, numbers) == usual[:2]
    assert "SHA256SUMS cannot be read; it is made again" in err


def test_a_cache_that_is_gone_costs_a_study_nothing(copy, calm):
    shutil.rmtree(copy.folder / "cache")
    copy.forget(3, "ended")
    assert copy.run("search") == 0
    assert copy.values() == calm.values()


@pytest.mark.parametrize("verb", ["evaluate", "encode", "index", "promote"])
def test_a_model_that_is_not_the_one_that_its_log_has_is_refused(copy, capsys, verb, tmp_path):
    best = copy.result["best"]
    model = copy.study / f"trials/t{best:04d}/model"
    flip(model / "model.safetensors")
    (tmp_path / "texts.txt").write_text("red shoe\n")
    words = {
        "encode": [f"input={tmp_path}/texts.txt"],
        "index": [f"input={tmp_path}/texts.txt", f"output={tmp_path}/index"],
    }.get(verb, [])
    assert copy.run(verb, f"trial={best}", *words) in (2, 3)
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said
    assert "model.safetensors" in said or str(model) in said
    assert "sha256" in said
    assert not (tmp_path / "index").exists()


def test_reproduce_makes_a_damaged_model_again(copy, capsys, tmp_path):
    model = copy.study / "trials/t0001/model"
    flip(model / "model.safetensors")
    assert copy.run("evaluate", "trial=1") == 2
    told = capsys.readouterr().err
    assert f"{model}: sha256 over its files is" in told
    command = re.search(r"'embsearch (reproduce .*) output=FOLDER'", told).group(1)
    assert copy.run(*command.split(), f"output={tmp_path}/again") == 0
    shutil.rmtree(model)
    shutil.copytree(tmp_path / "again", model)
    assert scores(copy, capsys)[0] == 0

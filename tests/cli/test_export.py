"""An exported graph is the model or is not exported; its README's lines load it without torch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from embsearch.cli.main import main
from embsearch.track.digest import manifest

TEXTS = ["red shoe", "crimson shoe for kids", "黄 灯", "never seen " * 40]
PACKAGES = {"onnx": "onnxruntime", "int8": "onnxruntime", "openvino": "openvino"}


@pytest.fixture
def run(tmp_path, monkeypatch, tiny_bert, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")

    def run(*words):
        own = [f"home={tmp_path / 'home'}", "device=cpu", f"checkpoint={tiny_bert}"]
        code = main(["export", *words, *own])
        return code, *capsys.readouterr()

    return run


@pytest.mark.story
@pytest.mark.parametrize("kind", PACKAGES)
def test_a_graph_gives_the_models_vectors_by_the_lines_of_its_readme(
    kind, run, tmp_path, tiny_bert
):
    pytest.importorskip("onnxscript")
    pytest.importorskip(PACKAGES[kind])
    code, out, err = run(
        f"format={kind}", "input=texts.txt", "output=graph", "export.min_cosine=0.95"
    )
    assert code == 0, err
    assert re.search(rf"4 texts: least similar vector \d\.\d+; {kind} \d+ texts/s", out)
    kept = json.loads((tmp_path / "graph/manifest.json").read_text())["files"]
    assert kept == {
        name: sha for name, sha in manifest(tmp_path / "graph").items() if name != "manifest.json"
    }

    lines = re.search(r"```python\n(.*?)```", (tmp_path / "graph/README.md").read_text(), re.S)[1]
    lines += f"\nimport sys\nassert 'torch' not in sys.modules\nnp.save('found.npy', encode({TEXTS!r}))\n"
    subprocess.run([sys.executable, "-c", lines], check=True, cwd=tmp_path / "graph", timeout=120)
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(tiny_bert), device="cpu").encode(TEXTS)
    found = np.load(tmp_path / "graph/found.npy")
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    if kind == "int8":
        assert (found * expected).sum(axis=1).min() > 0.95
    else:
        np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.story
def test_a_graph_that_is_another_model_is_refused_and_leaves_nothing(
    run, tmp_path, judgements_csv, monkeypatch
):
    pytest.importorskip("onnxscript")
    from embsearch.serve import exported

    def spoilt(*given):
        encode = exported_open(*given)
        return lambda texts: np.roll(encode(texts), 1, axis=0)

    exported_open = exported.open_graph
    monkeypatch.setattr(exported, "open_graph", spoilt)
    before = set(tmp_path.iterdir())
    code, out, err = run(f"data.path={judgements_csv}", "study.name=s", "output=graph")
    assert code == 3, err
    assert "is not exported: the least similar vector has cosine" in err
    assert "below export.min_cosine=0.99" in err
    assert "AUC" in out
    assert set(tmp_path.iterdir()) - before == {tmp_path / "home"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("input=texts.txt", "output: must be given"),
        ("input=texts.txt output=texts.txt", "output=texts.txt: already there"),
        ("input=texts.txt output=no/graph", "there is no folder no"),
        ("output=graph", "give study=NAME for its test rows, or input=FILE"),
        (
            "input=texts.txt output=graph format=tflite",
            "format='tflite': expected one of onnx, openvino, int8",
        ),
        ("input=nope.txt output=graph", "input=nope.txt: No such file"),
    ],
)
def test_bad_input_is_told_and_leaves_nothing(run, tmp_path, words, says):
    before = set(tmp_path.iterdir())
    code, _, err = run(*words.split())
    assert code == 2
    assert says in err
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "home"}


def test_a_package_that_is_missing_is_told_with_the_command_that_installs_it(run, monkeypatch):
    from embsearch.serve import exported

    monkeypatch.setattr(exported, "find_spec", lambda name: None if name == "openvino" else True)
    code, _, err = run("input=texts.txt", "output=graph", "format=openvino")
    assert code == 2
    assert "format=openvino: needs openvino; run: pip install 'embsearch[export]'" in err


def test_a_folder_with_pickled_weights_is_not_exported(tmp_path, tiny_bert, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a\n")
    shutil.copytree(tiny_bert, tmp_path / "model")
    (tmp_path / "model/pytorch_model.bin").write_bytes(b"\x80")
    words = ["checkpoint=model", "input=texts.txt", "output=graph", f"home={tmp_path / 'home'}"]
    assert main(["export", *words]) == 2
    assert "pytorch_model.bin: a file that can run code" in capsys.readouterr().err

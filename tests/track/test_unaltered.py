"""A changed, missing or added file, and one that could run code, is told before anything is loaded."""

from __future__ import annotations

import json
import shutil

import pytest

from embsearch.errors import ModelError
from embsearch.track.digest import digest, manifest
from embsearch.track.unaltered import check


@pytest.fixture
def registered(tmp_path, tiny_bert):
    """A model's folder as it lies in the registry, and its digest."""
    folder = tmp_path / "artifacts" / "model.sentence_transformer"
    shutil.copytree(tiny_bert, folder)
    files = manifest(folder)
    (folder.parent / "manifest.json").write_text(
        json.dumps({"digest": digest(files), "files": files})
    )
    return folder, digest(files)


def test_what_was_registered_passes(registered):
    folder, expected = registered
    assert check(folder, expected) == check(folder) == expected


def flip(folder):
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (flip, "model.safetensors: its sha256 is"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: is missing"),
        (
            lambda folder: (folder / "more.json").write_text("{}"),
            "more.json: is not one of the registered files",
        ),
    ],
)
def test_a_file_that_is_not_as_it_was_is_named(registered, tamper, says):
    folder, expected = registered
    tamper(folder)
    with pytest.raises(ModelError) as caught:
        check(folder, expected)
    assert says in str(caught.value)
    assert "nothing was loaded" in str(caught.value)


def test_a_manifest_that_was_changed_along_with_the_weights_does_not_help(registered):
    folder, expected = registered
    flip(folder)
    files = manifest(folder)
    (folder.parent / "manifest.json").write_text(
        json.dumps({"digest": digest(files), "files": files})
    )
    with pytest.raises(ModelError, match="the registered version has"):
        check(folder, expected)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "1_Pooling/head.pt", "training_args.PKL", "modeling.py"]
)
def test_a_file_that_can_run_code_is_refused(registered, name):
    folder, _ = registered
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="can run code"):
        check(folder)


def test_a_module_of_somebody_elses_code_is_refused(registered):
    folder, _ = registered
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "os.system"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(
        ModelError, match=r"class os\.system is not one of sentence-transformers' own"
    ):
        check(folder)

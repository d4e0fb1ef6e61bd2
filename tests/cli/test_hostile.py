"""Config files, config folders, flags and model folders of somebody who means harm: nothing in them runs.

Whatever would run makes a file or folder ``marker``.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil

import pytest

from embsearch.cli.main import main
from embsearch.cli.verbs import VERBS
from embsearch.config.folders import studies_folders
from embsearch.model.files import faults_of_base, faults_of_saved
from embsearch.track.digest import manifest


class Marker:
    """A pickle that makes a folder ``marker`` when it is read."""

    def __reduce__(self):
        return os.mkdir, ("marker",)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The working directory, with a pickle in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBSEARCH_HOME", str(tmp_path / "home"))
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Marker()))
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_the_marker_is_made_by_whoever_reads_the_pickle(place):
    pickle.loads((place / "x.pkl").read_bytes())
    assert (place / "marker").is_dir()


READS = "{_target_: pandas.read_pickle, filepath_or_buffer: x.pkl}"
LOGS = "{version: 1, handlers: {x: {class: logging.FileHandler, filename: marker}}, root: {handlers: [x]}}"
BOMB = "a0: &a0 [1, 2]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
STUDY = "studies/evil/study.yaml"
GLOBAL = "# @package _global_\n"
EVIL = ["study=evil"]
MINE = ["--config-dir", "mine"]

# files, words of the command line, what is named
CONFIGS = {
    "a callback in a study": (
        {STUDY: f"{GLOBAL}hydra: {{callbacks: {{x: {READS}}}}}\n"}, EVIL, "study.yaml: hydra.callbacks"),
    "a callback by the file's header": (
        {STUDY: f"# @package hydra.callbacks\nx: {READS}\n"}, EVIL, "@package hydra.callbacks"),
    "a callback of a folder, chosen by a study": (
        {STUDY: f"{GLOBAL}defaults: [{{override /hydra/callbacks: x}}]\n",
         "mine/hydra/callbacks/x.yaml": f"x: {READS}\n"},
        [*MINE, *EVIL], "defaults: hydra/callbacks"),
    "a callback of a folder, chosen by a word": (
        {"mine/hydra/callbacks/x.yaml": f"x: {READS}\n"}, [*MINE, "+hydra/callbacks=x"], "hydra/callbacks"),
    "a space that a study moves to Hydra": (
        {STUDY: f"{GLOBAL}defaults: [{{/space@hydra.callbacks: x}}]\n", "mine/space/x.yaml": "x: {low: 1}\n"},
        [*MINE, *EVIL], "defaults: space@hydra.callbacks"),
    "a space that a word moves to Hydra": (
        {"mine/space/x.yaml": "x: {low: 1}\n"}, [*MINE, "+space@hydra.callbacks=x"], "space@hydra.callbacks"),
    "a callback of words alone": (
        {}, ["+hydra.callbacks.x._target_=pandas.read_pickle", "+hydra.callbacks.x.filepath_or_buffer=x.pkl"],
        "hydra.callbacks.x._target_"),
    "a callback of a whole config": (
        {"mine/evil.yaml": f"defaults: [config]\nhydra: {{callbacks: {{x: {READS}}}}}\n"},
        [*MINE, "--config-name", "evil"], "evil.yaml: hydra.callbacks"),
    "a logger in a study": ({STUDY: f"{GLOBAL}hydra: {{job_logging: {LOGS}}}\n"}, EVIL, "hydra.job_logging"),
    "a logger of a folder": (
        {"mine/hydra/hydra_logging/x.yaml": f"# @package _group_\n{LOGS}\n"}, [*MINE, "hydra/hydra_logging=x"],
        "hydra/hydra_logging"),
    "a folder to write in": (
        {STUDY: f"{GLOBAL}hydra: {{run: {{dir: marker}}, output_subdir: marker}}\n"}, EVIL,
        "hydra.run, hydra.output_subdir"),
    "variables of the environment": (
        {STUDY: f"{GLOBAL}hydra: {{job: {{env_set: {{LD_PRELOAD: x.so}}}}}}\n"}, EVIL, "hydra.job"),
    "more places of configs": ({}, ["hydra.searchpath=[pkg://evil]"], "hydra.searchpath"),
    "a launcher of Hydra": (
        {STUDY: f"{GLOBAL}defaults: [{{override /hydra/launcher: x}}]\n"}, EVIL, "defaults: hydra/launcher"),
    "a target among the columns": ({STUDY: f"{GLOBAL}data: {{columns: {READS}}}\n"}, EVIL,
        "study.yaml: _target_: names code"),
    "a target in a word": ({}, ["data.columns={_target_: os.getcwd}"], "names code to run"),
    "a resolver": ({STUDY: f"{GLOBAL}study: {{question: '${{eval:1+1}}'}}\n"}, EVIL, "${eval:...} is no resolver"),
    "an object of Python": (
        {STUDY: f"{GLOBAL}study: {{question: !!python/object/apply:os.mkdir [marker]}}\n"}, EVIL, "not valid YAML"),
    "aliases that grow": ({STUDY: GLOBAL + BOMB}, EVIL, "study.yaml: more than 20 aliases"),
    "an alias of itself": ({STUDY: f"{GLOBAL}study: &a {{question: *a}}\n"}, EVIL, "study.yaml: "),
    "lists in lists": ({STUDY: f"{GLOBAL}study: {'[' * 5000}\n"}, EVIL, "study.yaml: not valid YAML"),
    "a pickled config": ({}, ["--experimental-rerun", "x.pkl"], "--experimental-rerun: no such flag"),
    "a part of a flag": ({}, ["--experimental=x.pkl"], "--experimental: no such flag"),
    "a folder by a part of a flag": ({}, ["--config-di=mine"], "--config-di: no such flag"),
}  # fmt: skip


@pytest.mark.parametrize("more", [[], ["--cfg", "hydra"], ["--info", "config"]], ids=str)
@pytest.mark.parametrize("case", CONFIGS)
def test_no_config_runs_code(case, more, place, capfd):
    files, words, says = CONFIGS[case]
    for name, text in files.items():
        write(place / name, text)
    assert main(["status", *words, *more]) == 2
    assert says in capfd.readouterr().err
    assert not (place / "marker").exists()
    assert "LD_PRELOAD" not in os.environ


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_no_verb_reads_a_study_with_a_callback(verb, place, capfd):
    files, words, says = CONFIGS["a callback in a study"]
    write(place / STUDY, files[STUDY])
    assert main([*verb.split(), *words]) == 2
    assert says in capfd.readouterr().err
    assert not (place / "marker").exists()


def test_a_config_of_the_users_own_may_repeat_what_ours_says(place, capfd):
    shipped = (studies_folders()[-1].parent / "conf" / "config.yaml").read_text(encoding="utf-8")
    write(place / "mine/own.yaml", shipped.replace("trials: 20", "trials: 7"))
    words = ["status", "--config-dir", "mine", "--config-name", "own", "--cfg", "job", "-p", "stop"]
    assert main(words) == 0
    assert "trials: 7" in capfd.readouterr().out


def test_a_study_that_hides_a_shipped_one_is_named(place, capfd):
    write(place / "studies/product_search/study.yaml", f"{GLOBAL}study: {{task: mine}}\n")
    assert main(["status", "study=product_search", "--cfg", "job"]) == 0
    assert f"{place}/studies/product_search/study.yaml of this working directory, which hides" in (
        capfd.readouterr().err
    )


def dump(folder, name, content):
    write(folder / name, json.dumps(content))


def module(folder, kind, path="2_Evil"):
    found = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    dump(folder, "modules.json", [*found, {"idx": 9, "name": "9", "path": path, "type": kind}])


def pickled(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    shutil.copy("x.pkl", folder / name)


def without_weights(folder, name):
    (folder / "model.safetensors").unlink()
    pickled(folder, name)


def linked(folder, name, to):
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def elsewhere(folder):
    pickled(folder.parent, "other/pytorch_model.bin")
    linked(folder, "1_Pooling", "../other")


def pipe(folder):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def decoy(folder):
    (folder / "model.safetensors").rename(folder / "decoy.safetensors")
    pickled(folder, "pytorch_model.bin")


def own_code(folder):
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    dump(folder, "config.json", said | {"auto_map": {"AutoModel": "modeling_evil.Evil"}})
    write(folder / "modeling_evil.py", "import os\nos.mkdir('marker')\n")


FOLDERS = {
    "a pickle alone": (lambda f: without_weights(f, "pytorch_model.bin"), "pytorch_model.bin"),
    "a pickle beside other safetensors": (decoy, "pytorch_model.bin"),
    "a checkpoint of torch": (lambda f: without_weights(f, "model.pt"), "model.pt"),
    "a pickle of a Dense": (lambda f: pickled(f, "2_Dense/pytorch_model.bin"), "2_Dense/pytorch_model.bin"),
    "a pickle of an adapter": (lambda f: pickled(f, "adapter_model.bin"), "adapter_model.bin"),
    "a pickle of any kind": (lambda f: pickled(f, "vocabulary.PKL"), "vocabulary.PKL"),
    "shards that are pickles": (
        lambda f: dump(f, "model.safetensors.index.json", {"weight_map": {"a": "evil.bin"}}), "names evil.bin"),
    "shards of another folder": (
        lambda f: dump(f, "model.safetensors.index.json", {"weight_map": {"a": "../b.safetensors"}}), "names ../b"),
    "a module that is a command": (lambda f: module(f, "os.system"), "class os.system"),
    "a module found behind sentence-transformers": (
        lambda f: module(f, "sentence_transformers.util.misc.importlib.import_module"), "importlib.import_module"),
    "a module of another folder": (
        lambda f: module(f, "sentence_transformers.models.Dense", "../other"), "module at ../other"),
    "a route that is a command": (
        lambda f: dump(f, "router_config.json", {"types": {"query_0_Evil": "subprocess.Popen"}}), "subprocess.Popen"),
    "an activation that is a command": (
        lambda f: dump(f, "2_Dense/config.json", {"activation_function": "os.getcwd"}), "class os.getcwd"),
    "a tokenizer of other code": (
        lambda f: dump(f, "2_Words/wordembedding_config.json", {"tokenizer_class": "evil.Words"}), "evil.Words"),
    "code that a config names": (own_code, "modeling_evil.py: a file that can run code"),
    "a link to another folder": (elsewhere, "1_Pooling: a link to a folder"),
    "a link round in a circle": (lambda f: linked(f, "again", "."), "again: a link to a folder"),
    "a link to nothing": (lambda f: linked(f, "model.safetensors", "gone"), "a link to nothing"),
    "a link to a device": (lambda f: linked(f, "model.safetensors", "/dev/zero"), "neither a file nor a folder"),
    "a pipe that nobody writes": (pipe, "neither a file nor a folder"),
}  # fmt: skip


@pytest.fixture
def folder(place, tiny_bert):
    """A copy of a tiny encoder's folder."""
    return shutil.copytree(tiny_bert, place / "model")


@pytest.mark.parametrize("case", FOLDERS)
def test_no_model_folder_is_read_that_runs_code(case, folder, place):
    spoil, says = FOLDERS[case]
    assert faults_of_base(folder) == faults_of_saved(folder) == []
    spoil(folder)
    for faults in (faults_of_base(folder), faults_of_saved(folder)):
        assert says in "\n".join(faults)
        assert all(str(folder) in fault for fault in faults)
    assert not (place / "marker").exists()


MODEL_VERBS = {
    "encode": "encode checkpoint=model input=texts.txt output=o.npy",
    "evaluate a model": "evaluate checkpoint=model data.path=rows.csv",
    "export": "export checkpoint=model input=texts.txt output=o",
    "index": "index checkpoint=model input=texts.txt output=o",
    "serve": "serve checkpoint=model serve.port=0",
    "evaluate a base": "evaluate model.path=model data.path=rows.csv",
    "search": "search model.path=model data.path=rows.csv launcher=inline stop.trials=1",
    "train": "train model.path=model data.path=rows.csv output=o",
    "plan": "plan model.path=model data.path=rows.csv",
    "data check": "data check model.path=model data.path=rows.csv",
}


@pytest.mark.parametrize("verb", MODEL_VERBS)
def test_every_verb_that_reads_a_model_refuses_one_that_runs_code(
    verb, folder, place, judgements_csv, capfd
):
    shutil.copy(judgements_csv, place / "rows.csv")
    (place / "texts.txt").write_text("red shoe\n")
    without_weights(folder, "pytorch_model.bin")
    own_code(folder)
    assert main(MODEL_VERBS[verb].split()) == (0 if verb == "data check" else 2)  # without lengths
    err = capfd.readouterr().err
    assert "pytorch_model.bin" in err
    assert "modeling_evil.py: a file that can run code" in err
    assert not (place / "marker").exists()
    assert not (place / "o").exists()


def test_a_folder_as_the_hub_has_it_is_read(folder, place):
    """Its cache is links to blobs; pickles and scripts that nobody reads lie beside safetensors."""
    blobs = place / "models--a--b" / "blobs"
    snapshot = place / "models--a--b" / "snapshots" / "1f3a"
    blobs.mkdir(parents=True)
    for name in ("pytorch_model.bin", "openvino/openvino_model.bin", "openvino/openvino_model.xml"):
        pickled(folder, name)
    write(folder / "train_script.py", "import torch\n")
    write(folder / "tf_model.h5", "")
    for i, (name, sha) in enumerate(manifest(folder).items()):
        (folder / name).rename(blobs / f"{i}")
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (2 + name.count("/"))
        (snapshot / name).symlink_to(f"{up}blobs/{i}")
        assert manifest(snapshot)[name] == sha
    assert faults_of_base(snapshot) == []


def test_what_the_user_trusts_is_read(folder):
    own_code(folder)
    module(folder, "modeling_evil.Evil")
    assert faults_of_base(folder, trusted=True) == faults_of_saved(folder, trusted=True) == []

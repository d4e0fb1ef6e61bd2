"""A model with prompts from search to champion: every door gives the vectors that the champion's own
``encode_query`` and ``encode_document`` give, within 1e-5.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from urllib.request import Request, urlopen

import numpy as np
import pytest

from benchmarks.serve import serving
from embsearch.config.load import compose
from embsearch.registry import mlflow_registry
from tests.stories.home import Home

pytestmark = pytest.mark.story
PROMPTS = {"query": "red shoe ", "document": "blue lamp "}  # of words that the encoder tells apart
TEXTS = ["shoe", "crimson shoe for kids", "金 灯", "navy coat new 2024", "olive hat " * 20]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tiny_bert):
    """Return the tiny encoder with prompts, as a folder of the E5 family has them."""
    made = tmp_path_factory.mktemp("prompts") / "e5-tiny"
    shutil.copytree(tiny_bert, made)
    file = made / "config_sentence_transformers.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | {"prompts": PROMPTS}))
    return made


@pytest.fixture(scope="module")
def shop(encoder, judgements_csv):
    home = Home(encoder.parent / "home", encoder, judgements_csv)
    home.words += ["track=mlflow", "stop.trials=2"]
    assert home.run("search") == 0
    assert home.run("promote") == 0
    return home


@pytest.fixture(scope="module")
def champion(shop):
    """Return the folder of the champion as the registry keeps it."""
    config = compose([f"home={shop.folder}", "study.task=s"])
    client = mlflow_registry.registry(config)
    found = mlflow_registry.champion(client, "s", shop.folder / "cache")
    return found.folder


@pytest.fixture(scope="module")
def expected(champion):
    """Return the vectors of TEXTS by role, as sentence-transformers gives them."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(champion), device="cpu")
    options = {"normalize_embeddings": True, "show_progress_bar": False}
    found = {
        "query": model.encode_query(TEXTS, **options),
        "document": model.encode_document(TEXTS, **options),
        None: model.encode(TEXTS, **options),
    }
    assert np.abs(found["query"] - found["document"]).max() > 0.05, "the prompts do not matter"
    return found


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return file


def unit(vectors):
    vectors = np.asarray(vectors)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("role", ["query", "document"])
def test_encode_as_a_role(role, shop, expected, texts, tmp_path):
    output = tmp_path / "v.npy"
    assert shop.run("encode", f"as={role}", f"input={texts}", f"output={output}") == 0
    np.testing.assert_allclose(unit(np.load(output)), expected[role], atol=1e-5)


def test_the_index_holds_documents_and_is_asked_with_queries(
    shop, expected, texts, tmp_path, capsys
):
    index, found = tmp_path / "i", tmp_path / "found.jsonl"
    assert shop.run("index", f"input={texts}", f"output={index}") == 0
    np.testing.assert_allclose(np.load(index / "vectors.npy"), expected["document"], atol=1e-5)
    assert shop.run("query", f"index={index}", f"input={texts}", f"output={found}", "k=1") == 0
    answers = [json.loads(line)["titles"][0]["cosine"] for line in found.open(encoding="utf-8")]
    cosines = expected["query"] @ expected["document"].T
    np.testing.assert_allclose(answers, cosines.max(axis=1), atol=1e-5)


def test_the_server_takes_roles_and_names_of_prompts(shop, champion, expected):
    words = [f"checkpoint={champion}", f"home={shop.folder}", "device=cpu"]
    with serving(words, threads=1) as (port, _):
        server = f"http://127.0.0.1:{port}/v1"

        def embed(**asked):
            body = json.dumps({"input": TEXTS, **asked}).encode()
            headers = {"content-type": "application/json"}
            request = Request(f"{server}/embeddings", body, headers)
            with urlopen(request, timeout=60) as reply:
                rows = json.load(reply)["data"]
            return unit([row["embedding"] for row in rows])

        for role in ("query", "document"):
            np.testing.assert_allclose(embed(input_type=role), expected[role], atol=1e-5)
            np.testing.assert_allclose(embed(prompt_name=role), expected[role], atol=1e-5)
        np.testing.assert_allclose(embed(), expected[None], atol=1e-5)


def test_an_exported_graph_by_the_lines_of_its_readme(shop, champion, expected, texts, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    graph = tmp_path / "graph"
    words = ("export", "format=onnx", f"checkpoint={champion}", f"output={graph}")
    assert shop.run(*words, f"input={texts}") == 0
    lines = re.search(r"```python\n(.*?)```", (graph / "README.md").read_text(), re.S)[1]
    for role in ("query", "document"):
        save = f"\nnp.save({role + '.npy'!r}, encode({TEXTS!r}, {role!r}))\n"
        subprocess.run([sys.executable, "-c", lines + save], check=True, cwd=graph, timeout=120)
        np.testing.assert_allclose(unit(np.load(graph / f"{role}.npy")), expected[role], atol=1e-5)


def test_the_card_says_which_prompts_stand_where(shop, capsys):
    assert shop.run("card") == 0
    assert "'red shoe ' before queries, 'blue lamp ' before documents." in capsys.readouterr().out


def test_the_untuned_encoder_is_measured_behind_its_prompts(shop, capsys):
    def untuned(*words):
        capsys.readouterr()
        assert shop.run("evaluate", "checkpoint=untuned", *words) == 0
        return capsys.readouterr().out

    without = untuned("model.prompts.query=''", "model.prompts.document=''", "study.name=none")
    assert untuned() != without

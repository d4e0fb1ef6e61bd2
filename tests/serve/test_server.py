"""A real server process with a tiny model: right answers under load, clear refusals, a clean end.

The same at full size, with MiniLM and against sentence-transformers: benchmarks/serve.py.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
TEXTS = [
    "red shoe",
    "crimson shoe for kids",
    "黄 灯",
    "blue lamp",
    "never seen " * 20,
    "navy coat",
    "kettle",
]


def load_benchmark():
    spec = importlib.util.spec_from_file_location(
        "benchmark_serve", ROOT / "benchmarks" / "serve.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


bench = load_benchmark()


@pytest.fixture(scope="module")
def port(tiny_bert, tmp_path_factory):
    """A server that the module's tests share; leaving it checks that SIGTERM ends it with exit code 0."""
    home = tmp_path_factory.mktemp("serve")
    words = [
        f"checkpoint={tiny_bert}",
        f"home={home}",
        "device=cpu",
        "serve.max_rows=50",
        "serve.max_mb=0.2",
    ]
    with bench.serving(words, threads=1) as (port, _):
        yield port


@pytest.fixture(scope="module")
def reference(tiny_bert):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_bert), device="cpu")


def post(port, path, body, kind="application/json"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": kind})
    try:
        with urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def test_sixteen_clients_get_right_vectors_and_a_reason_for_what_is_malformed(port, reference):
    asked, messages = bench.questions(TEXTS, 300, 4, seed=0)
    seen = asyncio.run(bench.ask(port, messages, 16))
    assert seen.wrong == []
    assert seen.statuses == {200: 297, 400: 3}
    expected = [reference.encode(request, show_progress_bar=False) for request in asked]
    assert bench.compare(seen, asked, expected) < 1e-5


def test_pairs_get_their_cosine_in_json_and_in_csv(port, reference):
    query, title = reference.encode(TEXTS[:2], show_progress_bar=False)
    cosine = pytest.approx(query @ title / np.linalg.norm(query) / np.linalg.norm(title), abs=1e-6)
    row = {"query": TEXTS[0], "title": TEXTS[1]}
    assert post(port, "/invocations", {"inputs": [row]}) == (200, {"predictions": [cosine]})
    csv = f"query,title\n{TEXTS[0]},{TEXTS[1]}\n".encode()
    assert post(port, "/invocations", csv, "text/csv") == (200, {"predictions": [cosine]})


def test_openais_client_is_answered(port, reference):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    for encoding in ("float", "base64"):
        found = client.embeddings.create(
            input=TEXTS[:2], model="tiny_bert", encoding_format=encoding
        )
        assert [one.index for one in found.data] == [0, 1]
        assert found.usage.prompt_tokens == 4 + 6
        got = [one.embedding for one in found.data]
        if encoding == "base64":
            import base64

            got = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in got]
        np.testing.assert_allclose(np.array(got), reference.encode(TEXTS[:2]), atol=1e-6)
    with pytest.raises(openai.NotFoundError, match="is not served here; expected tiny_bert"):
        client.embeddings.create(input="a", model="text-embedding-3-small")
    with pytest.raises(openai.BadRequestError, match="input, row 2: is empty"):
        client.embeddings.create(input=["a", ""], model="tiny_bert")


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "says"),
    [
        (
            "/invocations",
            {"inputs": ["a"] * 51},
            "application/json",
            400,
            "51 rows; expected at most 50",
        ),
        (
            "/invocations",
            b'{"inputs": ["' + b"a" * 200_000,
            "application/json",
            413,
            "longer than 0.2 MB",
        ),
        ("/invocations", b"text\n\n", "text/csv", 400, "no rows"),
        (
            "/invocations",
            b"a",
            "text/plain",
            415,
            "expected content-type application/json or text/csv",
        ),
        (
            "/invocations",
            b"PAR1",
            "application/vnd.apache.parquet",
            415,
            "got 'application/vnd.apache.parquet'",
        ),
        (
            "/v1/embeddings",
            {"input": 5},
            "application/json",
            400,
            "expected a text or a list of texts, got 5",
        ),
        ("/v1/embeddings", b"a", "text/plain", 415, "expected content-type application/json"),
    ],
)
def test_what_is_refused_says_why(port, path, body, kind, status, says):
    found, answer = post(port, path, body, kind)
    assert found == status
    assert says in json.dumps(answer)


def test_the_server_says_what_it_serves_and_that_it_lives(port):
    with urlopen(f"http://127.0.0.1:{port}/version", timeout=10) as answer:
        about = json.load(answer)
    assert about["model"] == "tiny_bert"
    assert about["version"] is None
    assert len(about["digest"]) == 64
    assert urlopen(f"http://127.0.0.1:{port}/ping", timeout=10).status == 200


def serve(*words):
    command = [
        sys.executable,
        "-m",
        "embsearch.cli.main",
        "serve",
        "serve.port=0",
        "device=cpu",
        *words,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_folder_with_pickled_weights_is_not_loaded(tiny_bert, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    done = serve(f"checkpoint={folder}", f"home={tmp_path}")
    assert done.returncode == 2
    assert "pytorch_model.bin: a file that can run code" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(port, tiny_bert, tmp_path):
    done = serve(f"checkpoint={tiny_bert}", f"home={tmp_path}", f"serve.port={port}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"serve.port={port}: Address already in use; expected" in done.stderr

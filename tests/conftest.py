"""A tiny encoder and tiny data that it can learn, for every test that trains."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():  # Triton's kernels by its interpreter; to be set before anybody imports it
    os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parent))  # postgres.py; pytest's importlib mode adds no folder

# A title names the colour in another word than the query does, and the thing in the same one: an
# untrained encoder sees half of the match, a trained one all of it.
COLOURS = {"red": "crimson", "blue": "navy", "green": "olive", "white": "ivory", "black": "jet", "黄": "金"}
THINGS = ("shoe", "lamp", "coat", "cup", "hat", "kettle", "灯", "鞋")
ENDINGS = ("for kids", "new 2024")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}


def judgement_rows() -> list[tuple[str, str, int, str]]:
    """48 queries, each with two right titles and four wrong ones: (query, title, grade, category)."""
    rows = []
    for (colour, other), thing in product(COLOURS.items(), THINGS):
        draw = np.random.default_rng(len(rows))
        wrong_things = draw.choice([t for t in THINGS if t != thing], 2, replace=False)
        wrong_colours = draw.choice([c for c in COLOURS.values() if c != other], 2, replace=False)
        right = [f"{other} {thing} {ending}" for ending in ENDINGS]
        wrong = [f"{other} {t} {ENDINGS[0]}" for t in wrong_things] + [f"{c} {thing} new" for c in wrong_colours]
        rows += [
            (f"{colour} {thing}", title, grade, thing)
            for grade, titles in ((1, right), (0, wrong))
            for title in titles
        ]
    return rows


@pytest.fixture(scope="session", autouse=True)
def _plain_threads() -> Iterator[None]:
    """One thread in this process and in those that tests start; results depend on it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            patch.setenv(name, "1")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield


@pytest.fixture(scope="session")
def one_thread() -> None:
    """Torch on one thread, without importing it for tests that do not use it."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def vocabulary() -> list[str]:
    """Every word and Chinese character of ``judgement_rows``, and some that no text holds."""
    words = sorted({word for row in judgement_rows() for text in row[:2] for word in text.split()})
    return [*SPECIAL, *words, "never", "seen", "##s", "手", "表"]


@pytest.fixture(scope="session")
def bare_bert(tmp_path_factory: pytest.TempPathFactory, vocabulary: list[str], one_thread: None) -> Path:
    """A transformers folder: BERT of two layers, 64 wide, with its pooler; random seeded weights."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoders") / "bare_bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(vocabulary), **SHAPE)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert(bare_bert: Path) -> Path:
    """A sentence-transformers folder: ``bare_bert``, mean pooling, vectors of length 1."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    folder = bare_bert.with_name("tiny_bert")
    modules = [Transformer(str(bare_bert)), Pooling(SHAPE["hidden_size"], "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="session")
def judgements_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``judgement_rows`` as a file with the columns query, title, grade, category."""
    path = tmp_path_factory.mktemp("data") / "judgements.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("query", "title", "grade", "category"), *judgement_rows()])
    return path


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Slurm of two CPUs on this machine, from Debian's packages."""
    sys.path.insert(0, str(Path(__file__).parent))  # slurm.py; pytest's importlib mode adds no folder
    from slurm import MISSING, Cluster

    if MISSING:
        pytest.skip(f"no {', '.join(MISSING)} on this machine; Debian: apt-get install slurmctld slurmd munge")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A PostgreSQL of this session's own; the test is skipped where it is not installed."""
    from postgres import postgres

    with postgres() as server:
        yield server


@pytest.fixture
def pg(postgres_server: Any) -> Iterator[Any]:
    """The same (tests/postgres.py), running; a test may kill it."""
    yield postgres_server
    postgres_server.be_there()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of a fresh profile that reaches nothing but this machine; ``page.strayed`` lists what it tried."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1500, "height": 1400})
        page.strayed = []

        def local_only(route: Any) -> None:
            if route.request.url.startswith(("http://127.0.0.1:", "data:", "blob:", "file:")):
                route.continue_()
            else:
                page.strayed.append(route.request.url)
                route.abort()

        page.route("**/*", local_only)
        yield page
        browser.close()

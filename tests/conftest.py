"""A tiny encoder and tiny data that it can learn, for every test that trains.

Tests run in several processes (pytest-xdist). The tests of a file stay together in one process, and so do the
tests that need a server of the same name: its ports, its two CPUs and its addresses are not shared.
"""

from __future__ import annotations

import csv
import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if (
    not torch.cuda.is_available()
):  # Triton's kernels by its interpreter; to be set before anybody imports it
    os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(
    0, str(Path(__file__).parent)
)  # postgres.py; pytest's importlib mode adds no folder

# A title names the colour in another word than the query does, and the thing in the same one: an
# untrained encoder sees half of the match, a trained one all of it.
COLOURS = {
    "red": "crimson",
    "blue": "navy",
    "green": "olive",
    "white": "ivory",
    "black": "jet",
    "黄": "金",
}
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

# Fixtures, and launchers that tests have as parameters, by the server that they start.
SERVERS = {
    "slurm_cluster": "slurm",
    "slurm": "slurm",
    "ray_cluster": "ray",
    "ray": "ray",
    "ray_store": "ray",
    "postgres_server": "postgresql",
    "server": "mlflow",
    "plain": "mlflow",
    "guarded": "mlflow",
}


KERNELS = {"kernels", "test_memory.py"}  # folders and files


def needs_of(item: pytest.Item) -> set[str]:
    """Return the names of a test's fixtures, and of the launcher that it has as a parameter."""
    callspec = getattr(item, "callspec", None)
    params = callspec.params if callspec is not None else {}
    needs = {name for name in getattr(item, "fixturenames", ()) if name not in params}
    return needs | {params[name] for name in ("launcher", "trainer", "kind") if name in params}


def servers_of(item: pytest.Item) -> set[str]:
    """Return the names of the servers that a test starts, by its marker and by what it needs."""
    marked = {name for marker in item.iter_markers("cluster") for name in marker.args}
    return marked | {SERVERS[name] for name in needs_of(item) if name in SERVERS}


def rank(item: pytest.Item) -> int:
    """Return the place in line: what takes longest begins first, so that no process ends alone."""
    markers = [marker.name for marker in item.iter_markers()]
    return next(
        (place for place, name in enumerate(("cluster", "story", "kernel")) if name in markers), 3
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, a browser or a worker process, and say which tests stay together in one process."""
    for item in items:
        servers, needs = servers_of(item), needs_of(item)
        for name in servers:
            item.add_marker(pytest.mark.cluster(name))
        if "page" in needs:
            item.add_marker("browser")
        if "local" in needs:
            item.add_marker("story")
        if KERNELS & set(item.path.parts):
            item.add_marker("kernel")
        file = f"{item.path.parent.name}/{item.path.stem}"
        item.add_marker(pytest.mark.xdist_group(min(servers, default=file)))
    items.sort(key=rank)


def judgement_rows() -> list[tuple[str, str, int, str]]:
    """48 queries, each with two right titles and four wrong ones: (query, title, grade, category)."""
    rows = []
    for (colour, other), thing in product(COLOURS.items(), THINGS):
        draw = np.random.default_rng(len(rows))
        wrong_things = draw.choice([t for t in THINGS if t != thing], 2, replace=False)
        wrong_colours = draw.choice([c for c in COLOURS.values() if c != other], 2, replace=False)
        right = [f"{other} {thing} {ending}" for ending in ENDINGS]
        wrong = [f"{other} {t} {ENDINGS[0]}" for t in wrong_things] + [
            f"{c} {thing} new" for c in wrong_colours
        ]
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


@pytest.fixture(autouse=True)
def _one_thread_again() -> None:
    """Verbs that work alone take all cores of their process; the next test does not."""
    torch.set_num_threads(1)


Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes a folder once for all processes of this run: ``once(name, fill)`` returns it, filled by the first."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def made(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def vocabulary() -> list[str]:
    """Every word and Chinese character of ``judgement_rows``, and some that no text holds."""
    words = sorted({word for row in judgement_rows() for text in row[:2] for word in text.split()})
    return [*SPECIAL, *words, "never", "seen", "##s", "手", "表"]


@pytest.fixture(scope="session")
def encoders(once: Once, vocabulary: list[str], one_thread: None) -> Path:
    """The folder of ``bare_bert`` and ``tiny_bert``."""

    def fill(folder: Path) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import (
            Normalize,
            Pooling,
            Transformer,
        )
        from transformers import BertConfig, BertModel, BertTokenizerFast

        bare = folder / "bare_bert"
        bare.mkdir()
        (bare / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        BertTokenizerFast(vocab=str(bare / "vocab.txt"), model_max_length=64).save_pretrained(bare)
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(vocabulary), **SHAPE)).save_pretrained(bare)
        modules = [Transformer(str(bare)), Pooling(SHAPE["hidden_size"], "mean"), Normalize()]
        SentenceTransformer(modules=modules, device="cpu").save(str(folder / "tiny_bert"))

    return once("encoders", fill)


@pytest.fixture(scope="session")
def bare_bert(encoders: Path) -> Path:
    """A transformers folder: BERT of two layers, 64 wide, with its pooler; random seeded weights."""
    return encoders / "bare_bert"


@pytest.fixture(scope="session")
def tiny_bert(encoders: Path) -> Path:
    """A sentence-transformers folder: ``bare_bert``, mean pooling, vectors of length 1."""
    return encoders / "tiny_bert"


@pytest.fixture(scope="session")
def judgements_csv(once: Once) -> Path:
    """``judgement_rows`` as a file with the columns query, title, grade, category."""

    def fill(folder: Path) -> None:
        with (folder / "judgements.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("query", "title", "grade", "category"), *judgement_rows()])

    return once("data", fill) / "judgements.csv"


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Slurm of two CPUs on this machine, from Debian's packages."""
    sys.path.insert(
        0, str(Path(__file__).parent)
    )  # slurm.py; pytest's importlib mode adds no folder
    from slurm import MISSING, Cluster

    if MISSING:
        pytest.skip(
            f"no {', '.join(MISSING)} on this machine; Debian: apt-get install slurmctld slurmd munge"
        )
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


CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of a fresh profile that reaches nothing but this machine; ``page.strayed`` lists what it tried."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
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

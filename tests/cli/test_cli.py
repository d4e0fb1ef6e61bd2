"""The command line: help, suggestions, exit codes, Hydra's own flags."""

import logging
import os
import subprocess
import sys
import time
import types

import pytest

from embsearch import __version__
from embsearch.cli.main import main
from embsearch.cli.verbs import VERBS
from embsearch.config.options import TellsMore
from embsearch.errors import DataError, Refused


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def verb(monkeypatch):
    """``verb(name, run)`` puts a verb in place of the real one."""

    def install(name, run):
        module = types.ModuleType("verb")
        module.run = run
        monkeypatch.setitem(sys.modules, f"embsearch.cli.{name}", module)

    return install


def raises(error):
    def run(config, options):
        raise error

    return run


def test_a_verb_gets_the_typed_config_and_returns_the_exit_code(verb, empty_folder):
    seen = []
    verb("search", lambda config, options: seen.append((config, options)) or 7)
    assert main(["search", "train.lr=2e-4", "data.path=点击 (1).csv", "--verbose"]) == 7
    config, options = seen[0]
    assert config.train.lr == 2e-4
    assert config.data.path == "点击 (1).csv"
    assert options == TellsMore(verbose=True)
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (
            DataError(["a.csv, row 2: empty", "a.csv, row 9: empty"]),
            2,
            "embsearch: a.csv, row 9: empty",
        ),
        (Refused("no gain"), 3, "embsearch: no gain"),
        (KeyboardInterrupt(), 130, "embsearch: interrupted"),
    ],
)
def test_what_is_raised_on_purpose_is_told_without_a_traceback(verb, capsys, error, code, says):
    verb("search", raises(error))
    assert main(["search"]) == code
    err = capsys.readouterr().err
    assert says in err.splitlines()
    assert "Traceback" not in err


def test_a_bug_shows_its_traceback(verb, capsys):
    verb("search", raises(ZeroDivisionError("oh")))
    assert main(["search"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("serach", "Did you mean 'search'?"),
        ("data chek", "Did you mean 'data check'?"),
        ("study=x", "the verb comes first, as 'embsearch search study=x'"),
        ("search trian.lr=1", "Did you mean 'train.lr'?"),
        ("search lr=1", "Did you mean 'train.lr'?"),
        ("search modle=minilm", "Did you mean 'model'?"),
        ("search model=minlm", "Did you mean 'model=minilm'?"),
        ("search effort=quik", "Did you mean 'effort=quick'?"),
        ("search study=shose", "Did you mean 'study=shoes'?"),
        ("search study=shose", "Available options in 'study'"),
        ("search shoes", "Did you mean 'study=shoes'?"),
        ("search space.train.lrr.high=1", "Did you mean 'space.train.lr.high'?"),
        ("search ~space.train.lrr", "Did you mean 'space.train.lr'?"),
        (
            "search space.train.clip_norm.high=1",
            "'+space.train.clip_norm={low: ..., high: ...}' adds it",
        ),
        ("search data.path=a(1).csv", "needs quotes of its own: \"data.path='a(1).csv'\""),
        ("search train.lr=1,2", "put it in the space"),
        ("search --multirun", "embsearch searches by itself"),
        ("search hydra.mode=MULTIRUN", "embsearch searches by itself"),
        ("search --cfg jub", "invalid choice: 'jub'"),
        ("search --config-dir nope", "nope: no such folder"),
        ("search --config-name nope", "Cannot find primary config 'nope'"),
        ("search train.lr=fast", "embsearch: train.lr='fast': expected a number"),
        ("search device=gpu", "embsearch: device=gpu: expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_mistake_is_named_with_what_was_probably_meant(words, says, empty_folder, capsys):
    (empty_folder / "studies/shoes").mkdir(parents=True)
    (empty_folder / "studies/shoes/study.yaml").write_text("stop: {trials: 3}\n")
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize("words", [["--help"], [], *([*v.name.split(), "--help"] for v in VERBS)])
def test_help_shows_usage_examples_groups_settings_and_flags(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    for part in (
        "usage: embsearch",
        "examples",
        "space contrastive, lora, none, seed, small, static",
        "effort normal, quick, thorough",
        "main settings",
        "--cfg job",
    ):
        assert part in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 112


def test_help_shows_defaults_with_their_comments(capsys):
    main(["search", "-h"])
    out = " ".join(capsys.readouterr().out.split())
    assert "train.texts=38400 the budget: texts shown, three a triplet" in out
    assert "objective.name=auto auto | triplet | contrastive | infonce | bce | supcon" in out


@pytest.mark.slow
def test_the_examples_of_the_help_compose(capsys):
    for verb in VERBS:
        for example in verb.examples:
            assert main([*verb.name.split(), *example.split(), "--cfg", "job"]) == 0, (
                example,
                capsys.readouterr().err,
            )


def test_help_answers_within_a_second_and_imports_nothing_heavy():
    code = (
        "import sys; from embsearch.cli.main import main; main(['search', '--help']); "
        "sys.exit(sorted({'hydra', 'omegaconf', 'torch', 'pandas', 'numpy', 'yaml'} & set(sys.modules)) or 0)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert (done.returncode, done.stderr) == (0, "")
    assert min(seconds) < 1.0


def test_the_version_is_ours(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"embsearch {__version__}\n"


def test_hydra_shows_the_config_of_a_verb_and_of_none(capsys, empty_folder):
    assert main(["search", "--cfg", "job", "--package", "train", "train.lr=3e-4"]) == 0
    assert "lr: 0.0003" in capsys.readouterr().out
    assert main(["--cfg", "job", "--resolve"]) == 0
    assert "mlflow: true" in capsys.readouterr().out
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize("words", ["search --info", "search", "search trian.lr=1", "--hydra-help"])
def test_the_process_is_left_as_it_was(words, verb, capsys):
    verb("search", lambda config, options: 0)
    root = logging.getLogger()
    other = logging.getLogger("another.library")

    def state():
        return list(sys.argv), dict(os.environ), root.level, list(root.handlers), other.disabled

    before = state()
    main(words.split())
    assert state() == before


def test_hydra_says_how_the_config_was_composed(capsys):
    assert main(["search", "--info"]) == 0
    out = capsys.readouterr().out
    assert "space/contrastive" in out
    assert "conf://" in out
    assert main(["--hydra-help"]) == 0
    assert "Hydra" in capsys.readouterr().out


def test_a_folder_of_the_users_own_is_read_with_dotted_keys(verb, empty_folder):
    (empty_folder / "my/space").mkdir(parents=True)
    (empty_folder / "my/space/mine.yaml").write_text("train.lr: {low: 1e-5, high: 2e-5}\n")
    seen = []
    verb("search", lambda config, options: seen.append(config.space) or 0)
    words = ["search", "--config-dir", "my", "space=mine", "space.train.lr.high=3e-5"]
    assert main(words) == 0
    assert seen == [{"train.lr": {"low": 1e-5, "high": 3e-5}}]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("embsearch ", sorted({verb.name.split()[0] for verb in VERBS})),
        ("embsearch se", ["search", "serve"]),
        ("embsearch data ", ["check"]),
        ("embsearch serach mod", []),
        ("embsearch search mod", ["model.", "model="]),
        ("embsearch search model=b", ["model=bert"]),
        ("embsearch data check data.spl", ["data.split."]),
        ("embsearch search study=sh", ["study=shoes"]),
        ("embsearch search study=shoes space.train.l", ["space.train.l2.", "space.train.lr."]),
    ],
)
def test_tab_completes_verbs_groups_options_and_settings(
    line, offered, monkeypatch, empty_folder, capsys
):
    (empty_folder / "studies/shoes").mkdir(parents=True)
    (empty_folder / "studies/shoes/study.yaml").write_text("stop: {trials: 3}\n")
    monkeypatch.setenv("COMP_LINE", line)
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == offered


def test_completion_installs_for_the_command(capsys):
    assert main(["-sc", "install=bash"]) == 0
    assert capsys.readouterr().out.strip().endswith("hydra_bash_completion embsearch")

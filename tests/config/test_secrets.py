"""Passwords in addresses never leave the process."""

from __future__ import annotations

import pytest

from embsearch.cli.main import main
from embsearch.config import secrets
from embsearch.config.build import build, to_dict
from embsearch.config.load import compose
from embsearch.errors import ConfigError


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch):
    """Passwords of other tests, such as the word secret, are masked in no message of these."""
    monkeypatch.setattr(secrets, "_words", set())


@pytest.mark.parametrize(
    ("typed", "kept", "found"),
    [
        ("postgresql://me:s3cret@db/x", "postgresql://me@db/x", {"password": "s3cret"}),
        ("postgresql://me:s%40crets@db:5433/x?sslmode=require", "postgresql://me@db:5433/x?sslmode=require",
         {"password": "s@crets"}),
        ("postgresql://me:p@ss/w?rd#@db/x", "postgresql://me@db/x", {"password": "p@ss/w?rd#"}),
        ("postgresql:///x?host=/tmp&password=s3cret&user=me", "postgresql:///x?host=/tmp&user=me",
         {"password": "s3cret"}),
        ("http://me:s3cret@mlflow:5000/at", "http://mlflow:5000/at", {"user": "me", "password": "s3cret"}),
    ],
)  # fmt: skip
def test_a_password_is_taken_out_of_an_address_and_kept_for_whoever_connects(typed, kept, found):
    assert secrets.without(typed) == kept
    assert secrets.credentials(kept) == found
    assert "***" in secrets.masked(f"cannot connect to {typed}")
    assert found["password"] not in secrets.masked(
        f"cannot connect to {typed}, {found['password']} is wrong"
    )


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me@db:5432/x", "postgresql://db:5432/x?application_name=a@b", "postgresql:///x?service=prod",
        "sqlite:////home/me/mlflow.db", "http://mlflow:5000", "postgresql://one:5432,two:5433/x?user=me@there",
    ],
)  # fmt: skip
def test_an_address_without_one_stays_as_it_is(address):
    assert secrets.without(address) == secrets.masked(address) == address


def test_free_text_is_left_alone():
    words = ["write to http://me:please@example.org", "text=http://me:please@example.org"]
    assert [secrets.without_in_override(word) for word in words] == words


def test_a_config_holds_none_and_goes_on_finding_it():
    config = build(
        {"study": {"storage": "postgresql://me:s3cret@db/x"}, "track": {"uri": "http://a:b4dly@h"}}
    )
    assert (config.study.storage, config.track.uri) == ("postgresql://me@db/x", "http://h")
    again = build(to_dict(config))
    assert secrets.credentials(again.study.storage) == {"password": "s3cret"}


def test_a_library_that_takes_a_password_in_no_other_way_gets_the_whole_address():
    kept = secrets.without("postgresql://me:s%2Fcret@db/mlflow")
    assert secrets.with_password(kept) == "postgresql://me:s%2Fcret@db/mlflow"
    assert secrets.with_password("sqlite:///x") == "sqlite:///x"


WRONG = [
    ["search", "study.storag=postgresql://me:t0psecret@db/x"],  # Hydra proposes the whole word with a +
    ["search", "study.storage=postgresql://me:t0psecret@db/x", "train.lrr=1"],
    ["search", "study.storage=postgresql://me:t0psecret@db/x?sslmode={require"],  # no override at all
    ["search", "study.storage=mysql://me:t0psecret@db/x", "data.path=none.csv"],
    ["search", "stop.trials=postgresql://me:t0psecret@db/x"],  # a value of the wrong type
    ["search", "++study={storage: 'postgresql://me:t0psecret@db/x', name: 7}", "train.lr=x"],
    ["serach", "study.storage=postgresql://me:t0psecret@db/x"],
    ["search", "study.storage=postgresql://me:t0psecret@db/x", "--cfg", "job"],
    ["search", "study.storage=postgresql://me:t0psecret@db/x", "--info", "all"],
    ["status", "track.uri=http://me:t0psecret@mlflow:5000", "study.name=none"],
]  # fmt: skip


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_what_hydra_and_we_print_of_the_command_line_has_no_password(
    words, capfd, tmp_path, monkeypatch
):
    monkeypatch.setenv("EMBSEARCH_HOME", str(tmp_path))
    assert main(words) == (0 if "--cfg" in words or "--info" in words else 2)
    out, err = capfd.readouterr()
    assert "t0psecret" not in out + err
    assert len(out + err) > 30


@pytest.mark.parametrize("source", ["file", "variable"])
def test_what_hydra_shows_of_files_and_variables_has_none_either(
    source, capfd, tmp_path, monkeypatch
):
    monkeypatch.setenv("DATABASE", "postgresql://me:t0psecret@db/x")
    address = "${oc.env:DATABASE}" if source == "variable" else "postgresql://me:t0psecret@db/x"
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.yaml").write_text(f"storage: {address}\n")
    words = ["search", "--config-dir", str(tmp_path), "study=mine"]
    assert main([*words, "--cfg", "job", "--resolve"]) == 0
    out, err = capfd.readouterr()
    assert "postgresql://me:***@db/x" in out
    assert "t0psecret" not in out + err
    assert main([*words, "train.lr=x"]) == 2
    assert "t0psecret" not in "".join(capfd.readouterr())


def test_a_bug_s_traceback_has_none(capfd, monkeypatch):
    monkeypatch.setattr(
        "embsearch.cli.status.run", lambda config, options: 1 / 0 if connect("me:t0psecret") else 0
    )
    assert main(["status", "study.storage=postgresql://me:t0psecret@db/x"]) == 1
    err = capfd.readouterr().err
    assert "ZeroDivisionError" in err
    assert "t0psecret" not in err


def connect(login):
    return login


@pytest.mark.parametrize(
    ("address", "bare", "password"),
    [
        ("postgresql://me:it's@host/db", "postgresql://me@host/db", "it's"),
        ("postgresql://me:se cr@host/db", "postgresql://me@host/db", "se cr"),
        ("postgresql://h/db?password=a#b", "postgresql://h/db", "a#b"),
        (
            "postgresql://h/db?password=a'b&sslmode=require",
            "postgresql://h/db?sslmode=require",
            "a'b",
        ),
        (
            "postgresql://me:one@h/db?application_name=a@b",
            "postgresql://me@h/db?application_name=a@b",
            "one",
        ),
    ],
)
def test_whatever_stands_in_a_whole_address_belongs_to_it(address, bare, password):
    """As libpq reads it; in free text a quote or a space ends an address."""
    assert secrets.taken_out({"study": {"storage": address}}) == {"study": {"storage": bare}}
    assert secrets.credentials(bare)["password"] == password
    quote = '"' if "'" in address else "'"
    for word in (f"study.storage={address}", f"+study.storage={quote}{address}{quote}"):
        assert secrets.without_in_override(word) == word.replace(address, bare)


TOKEN = "hf_AbCdEfGhIjKlMnOpQrSt"
PLAIN = "zq7Xw2plm9"  # no shape tells it; its place does


@pytest.mark.parametrize(
    "text",
    [
        f"http://{PLAIN}@host/x", f"https://me:{PLAIN}@host/x", f"s3://key:{PLAIN}@bucket/x", f"http://h/?token={PLAIN}",
        f"https://h/x.csv?v=1&api_key={PLAIN}", f"https://h/x?X-Amz-Signature={PLAIN}&y=2", f"az://h/x?sig={PLAIN}",
        f"export WANDB_API_KEY={PLAIN}", f"MY_TOKEN='{PLAIN}' run", f"login --password {PLAIN}",
        f"curl -H 'Authorization: Bearer {PLAIN}' h", f"AWS_SECRET_ACCESS_KEY={PLAIN}",
    ],
)  # fmt: skip
def test_a_secret_is_known_by_its_place(text):
    assert secrets.secrets_in(text) == [PLAIN]
    assert PLAIN not in secrets.masked(text)


@pytest.mark.parametrize(
    "text",
    [TOKEN, "sk-proj-AbCdEfGhIjKlMnOp", "AKIAABCDEFGHIJKLMNOP", "ghp_AbCdEfGhIjKlMnOpQrStUv",
     "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.s1gnature"],
)  # fmt: skip
def test_a_secret_is_known_by_its_shape(text):
    assert secrets.secrets_in(f"a note of {text} here") == [text]
    assert text not in secrets.masked(f"a note of {text} here")


@pytest.mark.parametrize(
    "text",
    [
        "https://medium.com/@user/x", "hf://datasets/org/name@main/x.csv", "postgresql://me@db/x", "ray://head:10001",
        "export WANDB_API_KEY=$WANDB_API_KEY", "export HF_TOKEN=$(cat ~/.token)", "source ~/.secrets",
        "export TOKENIZERS_PARALLELISM=false", "HF_TOKEN_PATH=/home/me/token", "is max_token=512 enough?",
        "https://h/x?token=${oc.env:T}", "s3://${oc.env:K}:${oc.env:S}@b/x", "https://${oc.env:T}@h/x",
        "token: mean or cls?",
    ],
)  # fmt: skip
def test_what_only_refers_to_a_secret_or_has_none_is_let_pass(text):
    assert secrets.secrets_in(text) == []


TYPED = {
    "track.uri: a parameter": ["track.uri=http://host/?token=T"],
    "study.storage: a parameter": ["study.storage=postgresql://h/db?api_key=T"],
    "data.path: a parameter": ["data.path=https://host/rows.csv?token=T"],
    "data.path: a user": ["data.path=https://T@host/rows.csv"],
    "data.path: a password": ["data.path=s3://key:T@bucket/rows.csv"],
    "data.train: a signature": ["data.train='https://h/x.csv?X-Amz-Signature=T'"],
    "model.path: a user": ["model.path=https://T@huggingface.co/a/b"],
    "launcher.setup: a variable": ["launcher=slurm", "launcher.setup=['export WANDB_API_KEY=T']"],
    "launcher.setup: a header": ["launcher=slurm", 'launcher.setup=["curl -H \'Authorization: Bearer T\' h"]'],
    "launcher.sbatch: a variable": ["launcher=slurm", "launcher.sbatch.export='ALL,HF_TOKEN=T'"],
    "launcher.sbatch: of the environment": ["launcher=slurm", "launcher.sbatch.comment='token=${oc.env:MINE}'"],
    "launcher.address: a password": ["launcher=ray", "launcher.address=ray://me:T@head:10001"],
    "study.question: a token": ["study.question='as T says'"],
    "track.experiment: a token": ["track.experiment=T"],
}  # fmt: skip


@pytest.mark.parametrize("place", [*TYPED, "a study file", "a folder's file"])
def test_a_secret_that_would_be_written_down_is_refused_with_what_to_do(
    place, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBSEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MINE", TOKEN)
    words = [word.replace("=T", f"={TOKEN}").replace("//T@", f"//{TOKEN}@").replace(":T@", f":{TOKEN}@")
             .replace(" T", f" {TOKEN}") for word in TYPED.get(place, [])]  # fmt: skip
    setting = place.partition(":")[0]
    if place not in TYPED:
        folder = tmp_path / ("studies/mine" if place == "a study file" else "conf/study")
        folder.mkdir(parents=True)
        name = "study.yaml" if place == "a study file" else "mine.yaml"
        text = f"# @package _global_\ndata: {{path: 'https://h/x.csv?token={TOKEN}'}}\n"
        (folder / name).write_text(text)
        words, setting = (
            [*([] if name == "study.yaml" else ["--config-dir", "conf"]), "study=mine"],
            "data.path",
        )
    assert main(["search", *words]) == 2
    out, err = capfd.readouterr()
    assert f"{setting}" in err
    assert "holds a secret" in err
    assert "export" in err
    assert TOKEN not in out + err
    assert not (tmp_path / "home").exists()


def test_a_token_in_front_of_a_host_goes_to_mlflow_alone(monkeypatch):
    import os

    from embsearch.track.mlflow_store import give_credentials

    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
    config = compose([f"track.uri=http://{PLAIN}@host:5000"])
    assert config.track.uri == "http://host:5000"
    give_credentials(config.track.uri)
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == PLAIN
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")


def test_what_the_environment_holds_is_kept_as_a_reference(monkeypatch):
    monkeypatch.setenv("ROWS_TOKEN", PLAIN)
    monkeypatch.setenv("ROWS", f"https://me:{PLAIN}@host/rows.csv")
    words = ["launcher=slurm", "launcher.setup=['export WANDB_API_KEY=${oc.env:ROWS_TOKEN}']"]
    config = compose([*words, "data.path='https://host/x.csv?token=${oc.env:ROWS_TOKEN}'"])
    assert config.data.path == "https://host/x.csv?token=${oc.env:ROWS_TOKEN}"
    assert secrets.revealed(config.data.path) == f"https://host/x.csv?token={PLAIN}"
    assert [secrets.in_shell(line) for line in config.launcher.setup] == [
        "export WANDB_API_KEY=${ROWS_TOKEN}"
    ]
    assert PLAIN not in str(to_dict(config))
    assert compose(["data.path=${oc.env:ROWS}"]).data.path == "${oc.env:ROWS}"
    assert compose(["data.path='https://h/${oc.env:ROWS_TOKEN}/x.csv'"]).data.path == (
        "https://h/${oc.env:ROWS_TOKEN}/x.csv"
    )
    monkeypatch.delenv("ROWS_TOKEN")
    with pytest.raises(ConfigError, match="the variable ROWS_TOKEN is not set"):
        secrets.revealed(config.data.path)


def test_a_variable_without_a_secret_is_written_as_its_value(monkeypatch):
    monkeypatch.setenv("ROWS", "/data/rows.csv")
    assert compose(["data.path=${oc.env:ROWS}"]).data.path == "/data/rows.csv"


def test_a_study_that_holds_one_since_it_began_goes_on_with_a_warning(tmp_path, capfd):
    words = [f"home={tmp_path}", "study.name=old", f"data.path='https://h/x.csv?token={PLAIN}'"]
    with pytest.raises(ConfigError, match=r"data\.path: holds a secret"):
        compose(words)
    (tmp_path / "studies/old").mkdir(parents=True)
    (tmp_path / "studies/old/study.yaml").write_text(f"path: https://h/x.csv?token={PLAIN}\n")
    assert compose(words).data.path.endswith(PLAIN)
    assert "warning: data.path holds a secret" in capfd.readouterr().err

"""Passwords in addresses never leave the process."""

from __future__ import annotations

import pytest

from embsearch.cli.main import main
from embsearch.config import secrets
from embsearch.config.build import build, to_dict


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
    assert [secrets.without_in_override(word) for word in words] == [
        words[0],
        "text=http://example.org",
    ]


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

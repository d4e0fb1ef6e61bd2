"""Optuna's database in a real PostgreSQL: shared, refused in words, killed, and cut off at every commit."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
from helpers import append
from postgres import PASSWORD

from embsearch.cli.main import main
from embsearch.config import secrets
from embsearch.config.build import build
from embsearch.errors import ConfigError, StudyError
from embsearch.history.folder import StudyFolder
from embsearch.track import optuna_follower
from embsearch.track.optuna_follower import OptunaFollower

SPACE = {"train.lr": {"low": 1e-5, "high": 1e-3, "log": True}}


AT = (0.5, 1.0)


def config(address, home="one"):
    return build(
        {
            "home": str(HOMES / home),
            "study": {"storage": address},
            "space": SPACE,
            "evaluate": {"at": AT},
        }
    )


HOMES = Path(tempfile.gettempdir()) / f"embsearch-homes-{os.getpid()}"


@pytest.fixture(autouse=True)
def _homes():
    shutil.rmtree(HOMES, ignore_errors=True)
    yield
    shutil.rmtree(HOMES, ignore_errors=True)


def follower(address, home="one"):
    """Return what follows the logs of a home's study into the database."""
    mine = config(address, home)
    optuna_follower.ready(mine)
    return OptunaFollower(mine, StudyFolder(mine).path)


def log(home, first, last, value=None):
    """Write the logs of trials that came to their end."""
    folder = StudyFolder(config(None, home))
    if first == 0:
        append(folder.log, "opened", name="default")
    for number in range(first, last):
        rate = 1e-5 * (number + 1) if value is None else value
        trial = folder.trial_log(number)
        append(trial, "created", trial=number, params={"train.lr": rate})
        for rung in (1, 2):
            end = {"last": True, "why": "at its end"} if rung == 2 else {}
            append(trial, "measured", rung=rung, step=rung, texts_seen=rung, seconds=1.0,
                   metrics={"val/auc": rate * rung / 2}, **end)  # fmt: skip
        append(trial, "ended", state="complete", reason="at its end", value=rate)


def history(one, home, first, last):
    """Log trials and bring the database up to date."""
    log(home, first, last)
    assert one.sync() == 0, one.problem


def name_of(home="one"):
    return f"default@{StudyFolder(config(None, home)).home_id}"


def there(address, name):
    """Of every trial in the database: all that there is."""
    study = optuna.load_study(
        study_name=name, storage=address.replace("postgresql:", "postgresql+psycopg:")
    )
    return [
        (t.number, t.state.name, t.params, t.values, t.intermediate_values, t.user_attrs)
        for t in study.trials
    ]


@pytest.fixture(autouse=True)
def _no_password_of_another_test(monkeypatch):
    monkeypatch.setattr(secrets, "_known", {})


@pytest.fixture
def address(pg):
    return pg.address(pg.database())


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_an_address_is_taken_as_people_write_it(scheme, address):
    history(follower(address.replace("postgresql", scheme, 1)), "one", 0, 2)
    assert [row[:2] for row in there(address, name_of())] == [(0, "COMPLETE"), (1, "COMPLETE")]


def test_homes_with_a_study_of_the_same_name_do_not_see_each_other(address):
    history(follower(address, "one"), "one", 0, 3)
    history(follower(address, "two"), "two", 0, 2)
    assert [len(there(address, name_of(home))) for home in ("one", "two")] == [3, 2]
    study = optuna.load_study(
        study_name=name_of(), storage=address.replace("postgresql:", "postgresql+psycopg:")
    )
    assert study.user_attrs["home"] == str(HOMES / "one")
    shutil.rmtree(StudyFolder(config(address, "two")).path)  # and a new one of this name begins
    log("two", 0, 1, value=5e-4)
    assert follower(address, "two").sync() == 0
    assert [row[2] for row in there(address, name_of("two"))] == [{"train.lr": 5e-4}]
    assert len(there(address, name_of("one"))) == 3


def test_coordinators_that_start_together_make_the_tables_once(address):
    here = Path(__file__).parent
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; import test_optuna_postgresql as t; from pathlib import Path\n"
        "t.HOMES = Path(sys.argv[3]); t.history(t.follower(*sys.argv[4:]), sys.argv[5], 0, 1)"
    )
    command = [sys.executable, "-c", code, str(here), str(here.parent), str(HOMES), address]
    processes = [
        subprocess.Popen([*command, f"home{n}"], stderr=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    assert [process.communicate()[1] for process in processes] == [""] * 4
    assert (
        len(optuna.get_all_study_names(address.replace("postgresql:", "postgresql+psycopg:"))) == 4
    )


def test_libpq_s_own_ways_to_give_a_password_go_on_working(pg, monkeypatch, tmp_path):
    name = pg.database()
    bare = pg.address(name, password=None)
    with monkeypatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        follower(bare)
    (tmp_path / "pgpass").write_text(
        f"127.0.0.1:{pg.port}:*:{pg.user}:{PASSWORD.replace(':', chr(92) + ':')}\n"
    )
    (tmp_path / "pgpass").chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
        follower(bare)
    (tmp_path / "services").write_text(
        f"[mine]\nhost=127.0.0.1\nport={pg.port}\nuser={pg.user}\ndbname={name}\npassword={PASSWORD}\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    follower("postgresql:///?service=mine")


REFUSED = {
    "password": (
        lambda pg: pg.address("postgres", "b4dsecret"),
        r"password authentication failed.*~/\.pgpass",
    ),
    "no password": (lambda pg: pg.address("postgres", None), r"no password supplied.*PGPASSWORD"),
    "database": (
        lambda pg: pg.address("nowhere"),
        r'database "nowhere" does not exist; create it with createdb',
    ),
    "port": (
        lambda pg: pg.address("x").replace(str(pg.port), "1"),
        r"127.0.0.1:1/x: .*refused.*check host and port",
    ),
    "host": (
        lambda pg: "postgresql://no.such.host/x",
        r"no\.such\.host:5432/x: .*check the host's name",
    ),
    "service": (lambda pg: "postgresql:///?service=none", r'service "none" not found; name it in'),
    "encryption": (
        lambda pg: pg.address("postgres") + "?sslmode=require",
        r"does not support SSL.*see sslmode",
    ),
    "parameter": (
        lambda pg: pg.address("postgres") + "?ssl_mode=require",
        r'invalid URI query parameter: "ssl_mode"',
    ),
    "kind": (
        lambda pg: "mysql://me@h/x",
        r"study\.storage=mysql://me@h/x: expected postgresql://user@host:5432/dat",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_at_the_start_is_said_at_once_and_nothing_is_written(
    what, pg, tmp_path, capfd, judgements_csv
):
    address, said = REFUSED[what]
    words = [
        f"study.storage={address(pg)}",
        f"data.path={judgements_csv}",
        f"home={tmp_path}",
        "track=none",
    ]
    began = time.monotonic()
    assert main(["search", *words, "launcher=replay", "study.name=s"]) == 2
    assert time.monotonic() - began < 20
    err = capfd.readouterr().err
    assert re.search(said, err), err
    assert "secret" not in err
    assert "s3cr3t" not in err
    assert not (tmp_path / "studies" / "s").exists()


def test_a_user_who_may_not_make_tables_is_told_what_to_grant(pg):
    name = pg.database()
    pg.sql("DROP ROLE IF EXISTS guest")
    pg.sql("CREATE ROLE guest LOGIN PASSWORD 'guest-secret'")
    with pytest.raises(
        StudyError, match=r"permission denied for schema public.*GRANT CREATE ON SCHEMA public"
    ):
        follower(pg.address(name, "guest-secret", "guest"))


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "embsearch.track.optuna_postgresql", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'embsearch\[postgresql\]'"):
        follower("postgresql://me@h/x")


def test_a_database_that_is_killed_and_started_again_is_brought_up_to_date(pg, address):
    one = follower(address)
    history(one, "one", 0, 3)
    pg.kill()
    log("one", 3, 5)
    assert one.sync() == one.pending > 0
    assert f"PostgreSQL at {address.partition('@')[2]}: " in one.problem
    assert "see whether it runs there, check host and port" in one.problem
    pg.start()
    assert (one.sync(), one.problem) == (0, "")
    pg.kill()
    pg.start()  # the connection of before is made anew, at the second try at the latest
    log("one", 5, 6)
    one.sync()
    assert (one.sync(), one.problem) == (0, "")
    assert [row[:2] for row in there(address, name_of())] == [(n, "COMPLETE") for n in range(6)]


def test_a_copy_of_a_home_that_went_on_elsewhere_is_replaced_by_the_logs_that_sync(address):
    """Two coordinators on copies of one home have one study in the database: it is as the last one's logs."""
    history(follower(address), "one", 0, 1)
    shutil.copytree(HOMES / "one", HOMES / "copy")
    log("copy", 1, 2, value=5e-4)
    assert follower(address, "copy").sync() == 0
    history(follower(address), "one", 1, 3)
    assert [row[2]["train.lr"] for row in there(address, name_of())] == [
        1e-5,
        2e-5,
        3.0000000000000004e-5,
    ]


class Cut:
    """A way to the database that breaks once, at the ``at``-th commit: before it has come there, or after it,
    so that it was done and nobody heard. Counts commits."""

    def __init__(self, port, at=None, done=True):
        self._to, self._at, self._done, self.commits, self._begun = port, at, done, 0, False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def begin(self):
        self._begun = True

    def _serve(self):
        while True:
            client, _ = self._server.accept()
            there = socket.create_connection(("127.0.0.1", self._to))
            threading.Thread(target=self._there, args=(client, there), daemon=True).start()
            threading.Thread(target=self._pass, args=(there, client), daemon=True).start()

    def _there(self, client, there):
        for data in received(client):
            if self._begun and b"COMMIT\0" in data:
                self.commits += 1
                if self.commits - 1 == self._at:
                    client.shutdown(socket.SHUT_RDWR)
                    if self._done:
                        there.sendall(data)
                        time.sleep(0.05)
                    break
            there.sendall(data)
        with suppress(OSError):
            there.shutdown(socket.SHUT_RDWR)

    def _pass(self, there, client):
        with suppress(OSError):
            for data in received(there):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


def received(sock):
    with suppress(OSError):
        while data := sock.recv(65536):
            yield data


def a_short_study(address, home, begin):
    """Made anew over an old one; trials that end in every way."""
    one = follower(address, home)
    begin()
    log(home, 0, 2)
    tried = [one.sync()]
    folder = StudyFolder(config(address, home))
    ends = [{"state": "pruned", "value": 0.1}, {"state": "failed", "failure": "diverged"}]
    for number, end in enumerate(ends, 2):
        trial = folder.trial_log(number)
        append(trial, "created", trial=number, params={"train.lr": 1e-4})
        tried.append(one.sync())
        append(
            trial, "measured", rung=1, step=1, texts_seen=1, seconds=1.0, metrics={"val/auc": 0.1}
        )
        append(trial, "ended", reason="too low", **end)
        tried.append(one.sync())
    assert one.sync() == 0
    return tried


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done, not heard"])
def test_a_database_that_is_cut_off_at_any_commit_ends_as_if_nothing_had_been(done, pg, address):
    """Every third commit of either kind; the two kinds begin elsewhere."""

    def played(at):
        home = f"home{at}"
        log(home, 0, 1, value=9e-4)  # an older study of that name
        assert follower(address, home).sync() == 0
        shutil.rmtree(StudyFolder(config(address, home)).path)
        way = Cut(pg.port, at, done)
        tried = a_short_study(address.replace(f":{pg.port}/", f":{way.port}/"), home, way.begin)
        return way.commits, tried, there(address, name_of(home))

    commits, tried, expected = played(None)
    assert commits > 15
    assert tried == [0] * 5
    unnoticed = []
    for at in range(done, commits, 3):
        more, tried, found = played(at)
        assert found == expected, at
        assert more > at  # it was cut off
        if not any(tried):
            unnoticed.append(at)
    # Optuna itself asks again to begin a trial. Where the first request was done, too, that is
    # noticed: the trial is there twice.
    assert len(unnoticed) <= (0 if done else len(expected))

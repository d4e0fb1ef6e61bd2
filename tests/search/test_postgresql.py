"""Optuna's database in a real PostgreSQL: shared, refused in words, killed, and cut off at every commit."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
from postgres import PASSWORD

from embsearch.cli.main import main
from embsearch.config import secrets
from embsearch.config.build import build
from embsearch.errors import ConfigError, StudyError
from embsearch.search import database, patience
from embsearch.search.scheduler import make
from embsearch.search.space import parse
from embsearch.search.storage import OptunaView
from embsearch.values import Outcome

SPACE = {"train.lr": {"low": 1e-5, "high": 1e-3, "log": True}}


class Told:
    """A view's ``wait``: what it said, and what is to happen when the database is found to be away."""

    def __init__(self, when_away=lambda: None):
        self.lines, self._when_away = [], when_away

    def __call__(self, line, seconds):
        if line:
            self.lines.append(line)
        if "does not answer" in line:
            self._when_away()
        time.sleep(min(seconds, 0.2))


def config(address):
    return build({"study": {"storage": address}, "space": SPACE})


def view(address, home="one", wait=None, new=False, checked=lambda: None):
    mine = config(address)
    store = database.of(mine.study.storage, Path("/homes") / home, f"id-of-{home}")
    store.check()
    checked()
    return OptunaView(store, mine, parse(mine.space, mine), new=new, wait=wait or Told())


def history(optuna_view, first, last):
    scheduler = make(config(None))
    for number in range(first, last):
        suggestion, _ = optuna_view.ask(number, {}, scheduler)
        value = suggestion.params["train.lr"]
        optuna_view.tell(number, Outcome("complete", "at its end", value), {1: value / 2, 2: value})


def there(address, name):
    """Of every trial in the database: all that there is."""
    study = optuna.load_study(study_name=name, storage=address.replace("postgresql:", "postgresql+psycopg:"))
    return [(t.number, t.state.name, t.params, t.values, t.intermediate_values, t.user_attrs) for t in study.trials]


@pytest.fixture(autouse=True)
def _no_password_of_another_test(monkeypatch):
    monkeypatch.setattr(secrets, "_known", {})


@pytest.fixture
def address(pg):
    return pg.address(pg.database())


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_an_address_is_taken_as_people_write_it(scheme, address):
    optuna_view = view(address.replace("postgresql", scheme, 1))
    history(optuna_view, 0, 2)
    assert [row[:2] for row in there(address, "default@id-of-one")] == [(0, "COMPLETE"), (1, "COMPLETE")]


def test_homes_with_a_study_of_the_same_name_do_not_see_each_other(address):
    one, two = view(address, "one"), view(address, "two")
    history(one, 0, 3)
    history(two, 0, 2)
    assert (len(one.study.trials), len(two.study.trials)) == (3, 2)
    assert one.study.user_attrs["home"] == "/homes/one"
    assert len(view(address, "one").study.trials) == 3
    assert view(address, "two", new=True).study.trials == []
    assert len(view(address, "one").study.trials) == 3


def test_coordinators_that_start_together_make_the_tables_once(address):
    here = Path(__file__).parent
    code = "import sys; sys.path[:0] = sys.argv[1:3]; import test_postgresql as t; t.view(*sys.argv[3:])"
    command = [sys.executable, "-c", code, str(here), str(here.parent), address]
    processes = [subprocess.Popen([*command, f"home{n}"], stderr=subprocess.PIPE, text=True) for n in range(4)]
    assert [process.communicate()[1] for process in processes] == [""] * 4
    assert len(optuna.get_all_study_names(address.replace("postgresql:", "postgresql+psycopg:"))) == 4


def test_libpq_s_own_ways_to_give_a_password_go_on_working(pg, monkeypatch, tmp_path):
    name = pg.database()
    bare = pg.address(name, password=None)
    with monkeypatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        view(bare)
    (tmp_path / "pgpass").write_text(f"127.0.0.1:{pg.port}:*:{pg.user}:{PASSWORD.replace(':', chr(92) + ':')}\n")
    (tmp_path / "pgpass").chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
        view(bare)
    (tmp_path / "services").write_text(
        f"[mine]\nhost=127.0.0.1\nport={pg.port}\nuser={pg.user}\ndbname={name}\npassword={PASSWORD}\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    view("postgresql:///?service=mine")


REFUSED = {
    "password": (lambda pg: pg.address("postgres", "b4dsecret"), r"password authentication failed.*~/\.pgpass"),
    "no password": (lambda pg: pg.address("postgres", None), r"no password supplied.*PGPASSWORD"),
    "database": (lambda pg: pg.address("nowhere"), r'database "nowhere" does not exist; create it with createdb'),
    "port": (lambda pg: pg.address("x").replace(str(pg.port), "1"), r"127.0.0.1:1/x: .*refused.*check host and port"),
    "host": (lambda pg: "postgresql://no.such.host/x", r"no\.such\.host:5432/x: .*check the host's name"),
    "service": (lambda pg: "postgresql:///?service=none", r'service "none" not found; name it in'),
    "encryption": (lambda pg: pg.address("postgres") + "?sslmode=require", r"does not support SSL.*see sslmode"),
    "parameter": (
        lambda pg: pg.address("postgres") + "?ssl_mode=require",
        r'invalid URI query parameter: "ssl_mode"',
    ),
    "kind": (lambda pg: "mysql://me@h/x", r"study\.storage=mysql://me@h/x: expected postgresql://user@host:5432/dat"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_at_the_start_is_said_at_once_and_nothing_is_written(what, pg, tmp_path, capfd, judgements_csv):
    address, said = REFUSED[what]
    words = [f"study.storage={address(pg)}", f"data.path={judgements_csv}", f"home={tmp_path}", "track=none"]
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
    with pytest.raises(StudyError, match=r"permission denied for schema public.*GRANT CREATE ON SCHEMA public"):
        view(pg.address(name, "guest-secret", "guest"))


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "embsearch.search.postgresql", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'embsearch\[postgresql\]'"):
        view("postgresql://me@h/x")


def test_a_database_that_is_killed_and_started_again_is_waited_for(pg, address):
    told = Told(when_away=pg.start)
    optuna_view = view(address, wait=told)
    history(optuna_view, 0, 3)
    pg.kill()
    history(optuna_view, 3, 5)
    where = f"PostgreSQL at {address.partition('@')[2]}"
    assert [line.partition(" (")[0].partition(" after")[0] for line in told.lines] == [
        f"{where} does not answer", f"{where} answers again",
    ]  # fmt: skip
    assert "; waiting up to 30 min" in told.lines[0]
    pg.kill()
    pg.start()  # nobody notices: the connection of before is made anew
    history(optuna_view, 5, 6)
    assert len(told.lines) == 2
    assert [row[:2] for row in there(address, "default@id-of-one")] == [(n, "COMPLETE") for n in range(6)]


def test_patience_ends_with_what_to_do(pg, address, monkeypatch):
    optuna_view = view(address)
    monkeypatch.setattr(patience, "PATIENCE", 0.3)
    pg.kill()
    with pytest.raises(StudyError, match=r"has not answered for 0 min .*refused.*run the same command again"):
        history(optuna_view, 0, 1)


def test_two_coordinators_on_copies_of_one_home_are_told(address):
    one, two = view(address), view(address)
    history(one, 0, 1)
    with pytest.raises(StudyError, match="is another one using a copy of this home"):
        history(two, 0, 1)


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


def a_short_study(address, home, checked):
    """Made anew over an old one; a trial that waits, suggestions, ends of every kind."""
    optuna_view = view(address, home, new=True, checked=checked)
    optuna_view.enqueue([{"train.lr": 1e-4}])
    history(optuna_view, 0, 2)
    scheduler = make(config(None))
    for number, outcome in enumerate(
        [Outcome("pruned", "too low", 0.1), Outcome("failed", "NaN", None, "diverged")], 2
    ):
        optuna_view.ask(number, {}, scheduler)
        optuna_view.tell(number, outcome, {1: 0.1})


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done, not heard"])
def test_a_study_that_is_cut_off_at_any_commit_ends_as_if_nothing_had_been(done, pg, address):
    """Every third commit of either kind; the two kinds begin elsewhere."""

    def played(at):
        home = f"home{at}"
        history(view(address, home), 0, 1)  # an older study of that name
        way = Cut(pg.port, at, done)
        a_short_study(address.replace(f":{pg.port}/", f":{way.port}/"), home, way.begin)
        return way.commits, there(address, f"default@id-of-{home}")

    commits, expected = played(None)
    assert commits > 15
    for at in range(done, commits, 3):
        assert played(at)[1] == expected, at

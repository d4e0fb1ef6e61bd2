"""A real server process with a tiny model, and clients that mean harm: each is refused with a status and a reason,
and others are answered meanwhile. What others feel, with MiniLM and 1,000 slow clients: benchmarks/abuse.py."""

from __future__ import annotations

import gzip
import io
import json
import re
import socket
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.applications import Starlette

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # not a package

from serve import serving

from embsearch.cli.serve import api_key, hosts
from embsearch.config.schema import ServeConfig
from embsearch.errors import ConfigError
from embsearch.serve import connections
from embsearch.serve.batcher import Batcher

KEY = "a key of 16 bytes or more"
JSON = {"content-type": "application/json"}
LONG = json.dumps({"inputs": ["red shoe " * 30] * 900}).encode()


def words(model, home, *more):
    return [
        f"checkpoint={model}", f"home={home}", "device=cpu", "serve.read_timeout=2", "serve.max_rows=8000",
        "serve.max_tokens=60000", "serve.max_waiting=3", "serve.api_key_env=EMBSEARCH_TEST_KEY", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def server(tiny_bert, tmp_path_factory):
    """The port and process of a server; leaving it checks that SIGTERM ends it with exit code 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBSEARCH_TEST_KEY", KEY)
        with serving(words(tiny_bert, tmp_path_factory.mktemp("home")), threads=1) as found:
            yield found


@pytest.fixture
def port(server):
    return server[0]


def ask(port, body=b'{"inputs": ["red shoe"]}', path="/invocations", key=KEY, host=None, **more):
    """Return status, headers and body of an answer."""
    headers = JSON | {name.replace("_", "-"): value for name, value in more.items()}
    headers |= {"authorization": f"Bearer {key}"} if key else {}
    headers |= {"host": host} if host else {}
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST" if body else "GET", path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()


def sent(port, data):
    """Return a connection that has sent these bytes."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(data)
    return connection


def head(length):
    return (
        f"POST /invocations HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


def rest(connection):
    found = b""
    while piece := connection.recv(65536):
        found += piece
    return found.decode()


def counted(port, name):
    return float(
        re.search(rf"^{name} ([\d.e+]+)$", ask(port, None, "/metrics")[2], re.MULTILINE)[1]
    )


def parquet_bomb():
    file = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array(["a"] * 2_000_000)}), file, compression="zstd")
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "more", "status", "says"),
    [
        (parquet_bomb, {"content_type": "application/vnd.apache.parquet"}, 415, "expected content-type"),
        (lambda: gzip.compress(b" " * 50_000_000), {"content_encoding": "gzip"}, 415, "'gzip' is not read"),
        (lambda: b'{"inputs": [' + b"{}," * 1_300_000, {}, 400, "more than 64064 values"),
        (lambda: b'{"inputs": ' + b"[" * 3_900_000, {}, 400, "more than 64064 values"),
        (lambda: b"text\n" + b"a\n" * 1_900_000, {"content_type": "text/csv"}, 400, "8001 rows; expected at most"),
        (lambda: b"," * 3_900_000, {"content_type": "text/csv"}, 400, "line 1: more than 65636 characters"),
        (lambda: LONG.replace(b"shoe", b"shoe " * 40), {}, 413, "longer than 4 MB (serve.max_mb)"),
        (lambda: LONG, {}, 200, "predictions"),
        (lambda: json.dumps({"inputs": ["red shoe " * 40] * 1000}).encode(), {}, 413, "more than 60000 tokens"),
    ],
)  # fmt: skip
def test_a_bomb_is_refused_before_it_is_unpacked(server, body, more, status, says):
    port, process = server
    ask(port, LONG)  # what a request within all limits takes
    before, made = process.memory_info().rss, body()
    found, _, answer = ask(port, made, **more)
    assert (found, says in answer) == (status, True), answer[:300]
    assert process.memory_info().rss < 1.3 * before


def test_who_is_silent_slow_or_does_not_read_loses_the_connection_and_nobody_else_does(port):
    half = [sent(port, head(17)[:60]), sent(port, head(17) + b'{"inputs": ["a"]')]
    silent = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(600)]
    lazy = socket.socket()
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.connect(("127.0.0.1", port))
    many = json.dumps({"inputs": [f"red {i}" for i in range(8000)]}).encode()
    lazy.sendall(head(len(many)) + many)
    assert ask(port, None, "/ping", key=None)[0] == 200
    assert ask(port)[0] == 200
    for connection in (*half, silent[0], silent[-1]):
        answer = rest(connection)
        assert answer.startswith("HTTP/1.1 408 Request Timeout\r\n")
        assert answer.endswith("was not there after 2 seconds (serve.read_timeout)")
    time.sleep(3)
    answer = rest(lazy)
    assert 0 < len(answer) < int(re.search(r"content-length: (\d+)", answer)[1])
    for connection in (*half, *silent, lazy):
        connection.close()


def test_a_stranger_gets_no_vectors(port):
    assert ask(port, host="evil.example")[0::2] == (400, "Invalid host header")
    assert ask(port, host=f"localhost:{port}")[0] == 200
    for key in (None, "wrong", "ключ".encode().decode("latin-1")):
        status, headers, says = ask(port, key=key)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert says == "expected the header 'authorization: Bearer KEY'"
    assert ask(port, None, "/metrics", key=None)[0] == 401
    assert [ask(port, None, path, key=None)[0] for path in ("/live", "/ready", "/ping")] == [
        200
    ] * 3
    assert [ask(port, None, path)[0] for path in ("/docs", "/redoc", "/openapi.json")] == [404] * 3
    assert ask(port, None, "/version")[0] == 200


def test_a_client_that_goes_away_takes_its_work_along(port):
    before = counted(port, "embsearch_texts_total")
    sent(port, head(len(LONG)) + LONG).close()
    until = time.monotonic() + 30
    while counted(port, "embsearch_waiting_requests"):
        assert time.monotonic() < until
    assert ask(port)[0] == 200
    assert counted(port, "embsearch_texts_total") - before < 900
    assert (
        'embsearch_requests_total{path="/invocations",status="499"}'
        in ask(port, None, "/metrics")[2]
    )


def test_a_full_queue_says_when_to_ask_again(port):
    waiting = [sent(port, head(len(LONG)) + LONG) for _ in range(3)]
    until = time.monotonic() + 30
    while ask(port, None, "/ready", key=None)[0] != 503:
        assert time.monotonic() < until
    status, headers, says = ask(port)
    assert status == 429
    assert 1 <= int(headers["retry-after"]) <= 60
    assert "3 requests" in json.loads(says)["message"]
    for connection in waiting:
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        connection.close()
    assert ask(port)[0] == 200


@pytest.mark.parametrize(("grace", "status"), [(20, b"HTTP/1.1 200 OK"), (0, b"HTTP/1.1 503 Se")])
def test_sigterm_answers_what_is_in_flight(tiny_bert, tmp_path, monkeypatch, grace, status):
    monkeypatch.setenv("EMBSEARCH_TEST_KEY", KEY)
    more = (f"serve.grace={grace}", "serve.max_waiting=9")
    with serving(words(tiny_bert, tmp_path, *more), threads=1) as (port, process):
        flying = [sent(port, head(len(LONG)) + LONG) for _ in range(6)]
        while counted(port, "embsearch_waiting_requests") < 6:
            pass
        process.terminate()
        began = time.monotonic()
        answers = [connection.recv(15) for connection in flying]
        assert set(answers) <= {b"HTTP/1.1 200 OK", status}  # some were ready by then
        assert answers[-1] == status
        assert time.monotonic() - began < grace + 5


def test_of_too_many_silent_connections_the_longest_gives_way(monkeypatch):
    monkeypatch.setattr(connections, "MOST", 3)
    batcher = Batcher(lambda texts: None, 1, 1)
    listening = socket.create_server(("127.0.0.1", 0))
    server = connections.Server(Starlette(), batcher, 1, 20)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    port = listening.getsockname()[1]
    silent = []
    for _ in range(5):
        silent.append(socket.create_connection(("127.0.0.1", port), timeout=10))
        time.sleep(0.05)
    assert rest(silent[0]).startswith("HTTP/1.1 503 Service Unavailable\r\n")
    assert rest(silent[1]).endswith("this one waited longest")
    silent[2].sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert silent[2].recv(12) == b"HTTP/1.1 404"
    server.should_exit = True
    thread.join(10)
    batcher.close()


def test_the_key_is_read_from_the_environment_alone(monkeypatch):
    monkeypatch.setenv("NAME", " secret\n")
    assert api_key(ServeConfig(api_key_env="NAME")) == "secret"
    assert api_key(ServeConfig()) is None
    monkeypatch.setenv("NAME", "")
    with pytest.raises(ConfigError, match=r"serve.api_key_env=NAME: .* export it"):
        api_key(ServeConfig(api_key_env="NAME"))


def test_by_default_this_machines_own_names_are_hosts():
    assert {"localhost", "127.0.0.1", "[::1]", socket.gethostname()} <= set(hosts(ServeConfig()))
    assert hosts(ServeConfig(allowed_hosts=("*.example.com",))) == ("*.example.com",)
    with pytest.raises(
        ConfigError, match=r"serve.allowed_hosts: 'a\*' is no host; expected a name"
    ):
        hosts(ServeConfig(allowed_hosts=("a.example", "a*")))

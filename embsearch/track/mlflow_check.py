"""A check before a study begins: can its MLflow server take the record?

An answer that will not change by itself is the user's to mend, now rather than after a night. A
server that does not answer is no fault: the study goes on, and its record is brought later. Nothing
here imports mlflow, which takes seconds. The requests are those of its client, with the same
credentials and certificates.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from embsearch.codec import Json
from embsearch.config import secrets
from embsearch.config.schema import Config
from embsearch.errors import UserError
from embsearch.track.mlflow_store import experiment_name, give_credentials

OLDEST = (3, 13)  # as in pyproject.toml: older ones let strangers read files
API = "/api/2.0/mlflow/experiments/"
TIMEOUT = 5.0  # seconds for one request
# Plugins that sign requests, which this check could not.
OWN_WAYS = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")


class _NoAnswer(Exception):
    """A server that does not answer now, and may later."""


def check(config: Config) -> str:
    """Return a line to show if the server does not answer, else the empty string.

    Raises UserError if it will never take the record.
    """
    uri = (config.track.uri or "").rstrip("/")
    if not (config.track.mlflow and uri.startswith("http")) or any(map(os.environ.get, OWN_WAYS)):
        return ""
    give_credentials(config.track.uri or "")
    server = _Server(uri, min(config.track.timeout, TIMEOUT))
    try:
        server.check_version()
        _check_experiment(server, experiment_name(config))
    except _NoAnswer as error:
        return (
            f"MLflow at {uri} does not answer ({error}); the study goes on, "
            "'embsearch sync' brings it what it lacks"
        )
    return ""


class _Server:
    """A client that turns wrong answers into errors."""

    def __init__(self, uri: str, timeout: float) -> None:
        import requests

        self.uri, self._timeout = uri, timeout
        self._session = requests.Session()
        user, password = login()
        if user and password:
            self._session.auth = (user, password)
        elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            self._session.headers["Authorization"] = f"Bearer {token}"
        if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
            self._session.verify = False
        elif bundle := os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"):
            self._session.verify = bundle
        self._session.cert = os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH")

    def check_version(self) -> None:
        """Raise UserError if MLflow is too old. A server of another make may not say its version."""
        status, text, _ = self._ask("GET", "/version")
        found = re.fullmatch(r"(\d+)\.(\d+)\.\S+", text.strip()) if status == 200 else None
        if found and (int(found[1]), int(found[2])) < OLDEST:
            raise UserError(
                f"track.uri={self.uri}: MLflow {found[0]} is too old, expected {OLDEST[0]}.{OLDEST[1]} or newer: "
                "older ones let strangers read files. On the server: pip install --upgrade mlflow"
            )

    def call(self, method: str, what: str, /, **content: str) -> tuple[str, Json]:
        """Return MLflow's error code, or the empty string, and the answer.

        Raises UserError if the answer is not MLflow's.
        """
        status, _, answer = self._ask(method, API + what, **content)
        if not isinstance(answer, dict) or (status != 200 and "error_code" not in answer):
            raise UserError(
                f"track.uri={self.uri}: not an MLflow server: {API + what} answers with status {status} and no JSON; "
                "expected the address that 'mlflow server' says, as http://mlflow.example:5000"
            )
        return ("" if status == 200 else str(answer["error_code"])), answer

    def _ask(self, method: str, path: str, /, **content: str) -> tuple[int, str, object]:
        import requests

        in_address = method == "GET"
        try:
            answer = self._session.request(
                method,
                self.uri + path,
                params=content if in_address else None,
                json=None if in_address else content,
                timeout=self._timeout,
                allow_redirects=False,
            )
        except requests.exceptions.SSLError as error:
            raise UserError(
                f"track.uri={self.uri}: no secure connection: {_reason(error)}; name the authority's certificate in "
                "MLFLOW_TRACKING_SERVER_CERT_PATH, or, if it is http, write http://"
            ) from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise UserError(
                f"track.uri={self.uri}: {error}; expected an address as http://mlflow.example:5000"
            ) from None
        except requests.RequestException as error:
            raise _NoAnswer(_reason(error)) from None
        self._check_status(answer.status_code, answer.text)
        try:
            return answer.status_code, answer.text, answer.json()
        except ValueError:
            return answer.status_code, answer.text, None

    def _check_status(self, status: int, text: str) -> None:
        if status >= 500 or status in (408, 429):
            raise _NoAnswer(f"status {status}")
        host = urlsplit(self.uri).netloc
        if status == 403 and "Invalid Host header" in text:
            raise UserError(
                f"track.uri={self.uri}: MLflow refuses the host name {host} (status 403, Invalid Host header); start "
                f"it with --allowed-hosts '{host},localhost:*', or give an address that it allows"
            )
        if status == 401:
            user, password = login()
            whose = (
                f"user {user} is not known there or the password is wrong"
                if user and password
                else "no login given"
            )
            raise UserError(
                f"track.uri={self.uri}: MLflow asks for a login (status 401): {whose}; set MLFLOW_TRACKING_USERNAME "
                "and MLFLOW_TRACKING_PASSWORD"
            )
        if status in (301, 302, 303, 307, 308):
            raise UserError(
                f"track.uri={self.uri}: not an MLflow server: it sends us elsewhere (status {status}), as a login "
                "page does; expected the address of MLflow itself, or a token in MLFLOW_TRACKING_TOKEN"
            )
        if status == 403:
            raise UserError(
                f"track.uri={self.uri}: user {login()[0] or 'without a name'} may not do that (status 403, "
                f"{' '.join(text.split())[:100]}); have EDIT granted on the experiment, or name another one with "
                "track.experiment=..., or another user in MLFLOW_TRACKING_USERNAME"
            )


def _check_experiment(server: _Server, name: str) -> None:
    """Raise UserError unless the experiment is there or can be made, and may be written to."""
    error, answer = server.call("GET", "get-by-name", experiment_name=name)
    made = error == "RESOURCE_DOES_NOT_EXIST"
    if made:
        refused, answer = server.call("POST", "create", name=name)
        if refused not in ("", "RESOURCE_ALREADY_EXISTS"):
            raise UserError(
                f"track.uri={server.uri}: MLflow does not make the experiment {name} ({refused}: "
                f"{answer.get('message')}); name another one with track.experiment=..., or ask who runs the server"
            )
        error, answer = server.call("GET", "get-by-name", experiment_name=name)
    if error:
        raise UserError(
            f"track.uri={server.uri}: MLflow says {error} of experiment {name}: {answer.get('message')}"
        )
    experiment = answer["experiment"]
    # Without a tag this only asks for the permission to write.
    server.call("POST", "set-experiment-tag", experiment_id=experiment["experiment_id"])
    location = str(experiment.get("artifact_location", ""))
    if _out_of_reach(location, server.uri):
        if made:  # an experiment keeps its location, so this one must not keep the name
            number = experiment["experiment_id"]
            server.call(
                "POST", "update", experiment_id=number, new_name=f"{name} (no artifacts) {number}"
            )
            server.call("POST", "delete", experiment_id=number)
        raise UserError(
            f"track.uri={server.uri}: experiment {name} keeps its files in {location}, a folder of the server's that "
            "this machine does not have or may not write to. Start the server with --serve-artifacts and "
            "--artifacts-destination, without --default-artifact-root"
            + (
                ""
                if made
                else "; an experiment keeps its place, so name a new one then: track.experiment=..."
            )
        )


def _out_of_reach(location: str, uri: str) -> bool:
    """Return True if files would go to a folder that is not here.

    The experiment's own folder is made by its first file. If the server is on this machine, so is
    the folder of all experiments.
    """
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return False
    path = Path(unquote(parts.path))
    if not path.is_absolute():
        return True
    near = urlsplit(uri).hostname in ("localhost", "127.0.0.1", "::1")
    for place in (path, path.parent, path.parent.parent)[: 3 if near else 2]:
        if place.is_dir() and place != Path("/"):
            return not os.access(place, os.W_OK)
    return True


def login() -> tuple[str | None, str | None]:
    """Return user and password as MLflow finds them: the environment, then its file."""
    file = configparser.ConfigParser(interpolation=None)
    file.read(Path("~/.mlflow/credentials").expanduser())
    kept: Mapping[str, str] = dict(file["mlflow"]) if file.has_section("mlflow") else {}
    user, password = (
        os.environ.get(name) or kept.get(name.lower())
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    )
    return user, password


def _reason(error: Exception) -> str:
    """Return the innermost reason: requests, urllib3 and the socket each wrap it once."""
    text = " ".join(str(error).split())
    inner = re.findall(r"(?:\[Errno -?\d+\]|\[SSL[^\]]*\]|timed out)[^')\"]*", text)
    return secrets.masked((inner[-1] if inner else text)[:200])

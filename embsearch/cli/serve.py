"""embsearch serve: the champion behind HTTP, pinned to the version that it is now.

embsearch serve study=product_search
curl http://127.0.0.1:8000/invocations -H 'content-type: application/json' -d '{"inputs": ["running shoes"]}'
"""

from __future__ import annotations

import os
import signal
import socket
import sys

import psutil

from embsearch.cli.models import Chosen, chosen_or_champion
from embsearch.config.options import TakesModel
from embsearch.config.schema import Config, ServeConfig
from embsearch.errors import ConfigError, ModelError

# Seconds that the model waits for the interpreter while connections are at work: it asks at each
# operation, and with 0.005, as usual, a wave of clients slows it down several times.
TURN = 0.0005


def run(config: Config, options: TakesModel) -> int:
    """Check the files, load them, listen until Ctrl-C or SIGTERM."""
    key, allowed = api_key(config.serve), hosts(config.serve)
    listening = listen(config)
    model = chosen_or_champion(config, options)
    if model.folder is None:
        raise ModelError(
            "checkpoint=untuned: serve takes a saved model; name a folder, or one of the registry"
        )
    digest = model.digest()
    print(told(model, digest), flush=True)

    from embsearch.serve.app import Served, make_app
    from embsearch.serve.connections import Server
    from embsearch.worker import use_all_cores

    use_all_cores()
    sys.setswitchinterval(TURN)
    number = model.version.version if model.version else None
    served = Served(model.folder, digest, names(model), number)
    app, batcher = make_app(served, config.serve, config.device, allowed, key)
    address = f"http://{listening.getsockname()[0]}:{listening.getsockname()[1]}"
    print(
        f"listening on {address}: POST /invocations, POST /v1/embeddings, GET /version, /live, "
        f"/ready, /metrics; {'with' if key else 'without'} a key; Ctrl-C ends it"
    )
    body = '{"inputs": ["running shoes"]}'
    print(
        f"try:   curl {address}/invocations -H 'content-type: application/json' -d '{body}'"
        + (f' -H "authorization: Bearer ${config.serve.api_key_env}"' if key else ""),
        flush=True,
    )
    for which in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            which, lambda *_: None
        )  # uvicorn's answer to both; it raises them again at its end
    Server(app, batcher, config.serve.grace, config.serve.read_timeout).run(sockets=[listening])
    batcher.close()
    print("ended", flush=True)
    return 0


def api_key(serve: ServeConfig) -> str | None:
    """Return the key that requests must bring, if any. Raises ConfigError."""
    if serve.api_key_env is None:
        return None
    key = os.environ.get(serve.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"serve.api_key_env={serve.api_key_env}: the environment has no such variable, or it "
            "is empty; export it where this command starts, as KEY=$(openssl rand -hex 32)"
        )
    return key


def hosts(serve: ServeConfig) -> tuple[str, ...]:
    """Return the names that requests may call the server by; by default this machine's own.

    Raises ConfigError.
    """
    for name in serve.allowed_hosts:
        if "*" in name.removeprefix("*.") and name != "*":
            raise ConfigError(
                f"serve.allowed_hosts: {name!r} is no host; expected a name, an address, "
                "'*.example.com' for all names below one, or '*' for every name"
            )
    if serve.allowed_hosts:
        return serve.allowed_hosts
    own = [
        one.address.partition("%")[0]
        for ones in psutil.net_if_addrs().values()
        for one in ones
        if one.family in (socket.AF_INET, socket.AF_INET6)
    ]
    names = (serve.host, "localhost", "127.0.0.1", "::1", socket.gethostname(), *own)
    return tuple(f"[{name}]" if ":" in name else name for name in names)


def told(model: Chosen, digest: str) -> str:
    """Return a sentence about the model that is served, and for how long that holds."""
    if model.version is None:
        return f"{model.label}: sha256 {digest[:12]} over its files; not registered, so nothing to compare it with"
    return (
        f"{model.name} is version {model.version.version}; its files are those registered (sha256 {digest[:12]}). "
        "An alias that moves later changes nothing here: start again for that"
    )


def names(model: Chosen) -> tuple[str, ...]:
    """Return the names of the model that a request may use."""
    if model.version is None:
        return (model.name,)
    return tuple(
        dict.fromkeys(
            (f"{model.version.name}/{model.version.version}", model.name, model.version.name)
        )
    )


def listen(config: Config) -> socket.socket:
    """Return the socket, bound before the model is loaded. Raises ConfigError."""
    serve = config.serve
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            serve.host, serve.port, type=socket.SOCK_STREAM
        )[0]
        taken = socket.socket(family, kind)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(2048)  # bound alone, another server could bind it too
    except OSError as error:
        raise ConfigError(
            f"serve.host={serve.host} serve.port={serve.port}: {error.strerror or error}; expected an address of "
            "this machine and a free port, or serve.port=0 for any"
        ) from error
    return taken

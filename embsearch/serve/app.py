"""The HTTP server: MLflow's /invocations and OpenAI's /v1/embeddings around one model.

Every request passes the same door: its host and key, its body within limits of its own and of all
that wait, then rows that are checked one by one. What is refused has a status and a reason. All
that waits is encoded together (batcher.py) and written by Arrow; a client that goes away takes its
work with it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    SimpleUser,
)
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from embsearch import __version__
from embsearch.codec import JsonObject
from embsearch.config.schema import ServeConfig
from embsearch.errors import OutOfMemory
from embsearch.serve import answers
from embsearch.serve.batcher import Batcher
from embsearch.serve.encoder import Asked, TextEncoder, Vectors, cosines, pairs
from embsearch.serve.metrics import GONE, Counted, Metrics
from embsearch.serve.requests import (
    BadRequest,
    Embeddings,
    Limits,
    Refusal,
    csv_table,
    embeddings,
    invocation,
)
from embsearch.track.unaltered import check

ALIVE = ("/live", "/ping", "/health")
ASKED = ("/invocations", "/v1/embeddings")
PATHS = (*ALIVE, *ASKED, "/ready", "/metrics", "/version")
JSON, CSV = "application/json", "text/csv"
LARGE = 65_536  # bytes of a body that another thread reads, so that others are answered meanwhile
SHORT = 16_384  # bytes of a body that may always come in
EXPANDS = 4  # bytes of a text in memory, of one byte in a body
A_NUMBER = 16  # bytes of a vector's number in memory, written in an answer too
Work = Callable[[str, bytes], Coroutine[None, None, bytes]]
Form = Callable[[Refusal], JsonObject]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Served:
    """The model that is served.

    ``names`` are the words for it that a request may use, the first one in answers.
    """

    folder: Path
    digest: str
    names: tuple[str, ...]
    version: int | None = None


def make_app(
    served: Served, config: ServeConfig, device: str, hosts: tuple[str, ...], key: str | None
) -> tuple[Starlette, Batcher]:
    """Return the app, its model loaded, and what must be closed after it.

    ``hosts``: names that a request may call the server by. ``key``: what it must bring, if
    anything. Raises ModelError where the files are not those that were registered.
    """
    check(served.folder, served.digest)
    encoder = TextEncoder.open(served.folder, device)
    threads = config.threads or torch.get_num_threads()
    batcher = Batcher(
        encoder.as_they_are, config.batch, config.max_tokens, lambda: torch.set_num_threads(threads)
    )
    service = Service(served, config, encoder, batcher)
    named = Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    asks_key = Middleware(AuthenticationMiddleware, backend=Key(key), on_error=_without_key)
    keyed = [asks_key] if key else []
    door = [named, *keyed]
    routes = [
        *(Route(path, service.live) for path in ALIVE),
        Route("/ready", service.ready),
        Route("/metrics", service.counts, middleware=keyed),
        Route("/version", service.about, middleware=door),
        *(
            Route(path, answer, methods=["POST"], middleware=door)
            for path, answer in zip(ASKED, (service.invocations, service.openai), strict=True)
        ),
    ]
    counted = Middleware(Counted, metrics=service.metrics)
    return Starlette(routes=routes, middleware=[counted]), batcher


class Key(AuthenticationBackend):
    """The key that ``authorization: Bearer KEY`` must bring."""

    def __init__(self, key: str | None) -> None:
        self._key = (key or "").encode()

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        """Return who asks. Raises AuthenticationError."""
        scheme, _, given = conn.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("latin-1"), self._key)
        if scheme.lower() != "bearer" or not same:
            raise AuthenticationError("expected the header 'authorization: Bearer KEY'")
        return AuthCredentials(), SimpleUser("client")


class Service:
    """The answers, and what waits for one."""

    def __init__(
        self, served: Served, config: ServeConfig, encoder: TextEncoder, batcher: Batcher
    ) -> None:
        self.metrics = Metrics(PATHS)
        self._served, self._config, self._encoder, self._batcher = served, config, encoder, batcher
        self._limits = Limits(config.max_rows, config.max_chars)
        first = batcher.submit(encoder.prompted(["ready?"], None)).result()
        self._width = first.values.shape[1]
        self._room = int(config.max_waiting_mb * 1e6)
        self._requests = self._waiting = 0  # requests that wait, and their bytes
        self._reading = 0  # bytes of bodies that come in
        self._other = ThreadPoolExecutor(1, "large")
        self._seconds = 1.0  # that the last answer took

    async def live(self, request: Request) -> Response:
        """Answer 200 while the model's thread runs."""
        return PlainTextResponse("\n", 200 if self._batcher.alive else 500)

    async def ready(self, request: Request) -> Response:
        """Answer 200 while one more request would be taken."""
        if self._requests >= self._config.max_waiting or self._waiting > self._room:
            return PlainTextResponse(str(self._busy()), 503)
        return await self.live(request)

    async def counts(self, request: Request) -> Response:
        """Answer with Prometheus's text."""
        now = {
            "waiting_requests": ("gauge", "Requests that wait for vectors.", self._requests),
            "waiting_bytes": ("gauge", "Memory of their bodies and answers.", self._waiting),
            "batches_total": ("counter", "Batches that were encoded.", self._batcher.batches),
            "texts_total": ("counter", "Texts that were encoded.", self._batcher.texts),
            "tokens_total": ("counter", "Tokens that were encoded.", self._batcher.tokens),
            "memory_bytes": ("gauge", "Memory of the process.", psutil.Process().memory_info().rss),
        }
        return PlainTextResponse(self.metrics.text(now), media_type="text/plain; version=0.0.4")

    async def about(self, request: Request) -> Response:
        """Answer which model this is."""
        served = self._served
        about = {"model": served.names[0], "version": served.version, "digest": served.digest}
        return _json({**about, "embsearch": __version__})

    async def invocations(self, request: Request) -> Response:
        """Answer as MLflow does."""
        return await self._answer(request, (JSON, CSV), self._predictions, _mlflow_error)

    async def openai(self, request: Request) -> Response:
        """Answer as OpenAI does."""
        return await self._answer(request, (JSON,), self._embeddings, _openai_error)

    async def _answer(
        self, request: Request, kinds: tuple[str, ...], work: Work, form: Form
    ) -> Response:
        """Answer, or say why not. ``kinds``: content types of a body."""
        began = time.monotonic()
        try:
            kind = _kind(request, kinds)
            body = await self._body(request)
            with self._waits(EXPANDS * len(body), requests=1):
                task = work(kind, body)
                del body  # its texts remain
                found = await _unless_gone(request, task)
            self._seconds = time.monotonic() - began
            return Response(found, media_type=JSON)
        except OutOfMemory as error:
            return _refused(Refusal(str(error), 503), form)
        except Refusal as refusal:
            return _refused(refusal, form)
        except ClientDisconnect:
            return Response(status_code=GONE)

    async def _predictions(self, kind: str, body: bytes) -> bytes:
        read = csv_table if kind == CSV else invocation
        rows = await self._aside(len(body), read, body, self._limits)
        del body
        alone = rows.titles is None
        asked = (
            self._encoder.prompted(rows.texts, rows.role) if alone else pairs(self._encoder, rows)
        )
        async with self._vectors(asked) as found:
            values = found.values if alone else cosines(found.values)
            return await self._aside(values.nbytes, answers.predictions, values)

    async def _embeddings(self, kind: str, body: bytes) -> bytes:
        asked = await self._aside(len(body), embeddings, body, self._limits)
        del body
        names = self._served.names
        if asked.model is not None and asked.model not in names:
            why = f"model: {asked.model[:60]!r} is not served here; expected {', '.join(names)}"
            raise BadRequest(why, 404, "model")
        async with self._vectors(_prompted(self._encoder, asked)) as found:
            tokens = int(found.tokens.sum())
            values = found.values
            return await self._aside(
                values.nbytes, answers.openai, values, tokens, names[0], asked.base64
            )

    async def _body(self, request: Request) -> bytes:
        """Return the body, read no further than it may be long. Raises Refusal."""
        pieces, length = [], 0
        given = request.headers.get("content-length", "")
        self._check_length(int(given) if given.isdigit() else 0)
        try:
            async for piece in request.stream():
                length += len(piece)
                self._reading += len(piece)
                self._check_length(length)
                pieces.append(piece)
        finally:
            self._reading -= length
        return b"".join(pieces)

    def _check_length(self, length: int) -> None:
        """Refuse a body that is too long, or long while others that come in take all the room.

        Short ones pass, so that long ones that stand still keep nobody out.
        """
        if length > self._config.max_mb * 1e6:
            raise BadRequest(
                f"the body is longer than {self._config.max_mb:g} MB (serve.max_mb); send fewer "
                "rows a request",
                413,
            )
        if length > SHORT and self._reading > max(length, self._room // EXPANDS):
            raise self._busy()

    @contextmanager
    def _waits(self, size: int, requests: int = 0) -> Iterator[None]:
        """Count a request, or bytes of one, among what waits; a lone request may take any room.

        Raises Refusal.
        """
        lone = self._requests + requests == 1
        if not lone and (
            self._waiting + size > self._room
            or self._requests + requests > self._config.max_waiting
        ):
            raise self._busy()
        self._requests += requests
        self._waiting += size
        try:
            yield
        finally:
            self._requests -= requests
            self._waiting -= size

    @asynccontextmanager
    async def _vectors(self, asked: list[Asked]) -> AsyncIterator[Vectors]:
        """Yield the vectors of texts. They count among what waits. Raises Refusal."""
        with self._waits(len(asked) * self._width * A_NUMBER):
            yield await self._batcher(asked)

    async def _aside(self, size: int, work: Callable[..., Found], *words: object) -> Found:
        """Do work on many bytes in another thread, so that others are answered meanwhile.

        It is one thread, so that no number of large requests takes the processors from the model.
        """
        if size <= LARGE:
            return work(*words)
        return await asyncio.get_running_loop().run_in_executor(self._other, work, *words)

    def _busy(self) -> Refusal:
        return Refusal(
            f"{self._requests} requests of {self._waiting / 1e6:.0f} MB wait (serve.max_waiting, "
            "serve.max_waiting_mb); ask again later",
            429,
            retry_after=min(60, math.ceil(self._seconds)),
        )


async def _unless_gone(request: Request, work: Coroutine[None, None, bytes]) -> bytes:
    """Return what ``work`` finds; cancel it where the client goes away: raises ClientDisconnect."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


def _prompted(encoder: TextEncoder, asked: Embeddings) -> list[Asked]:
    """Return the texts behind the prompt that is asked for. Raises BadRequest."""
    if asked.prompt_name is None:
        return encoder.prompted(asked.texts, asked.role)
    if asked.prompt_name not in encoder.prompts:
        known = ", ".join(encoder.prompts)
        raise BadRequest(
            f"prompt_name: expected one of {known}, got {asked.prompt_name[:60]!r}",
            param="prompt_name",
        )
    prompt = encoder.prompts[asked.prompt_name] or ""
    return [(prompt + text, asked.role) for text in asked.texts]


def _kind(request: Request, kinds: tuple[str, ...]) -> str:
    """Return what a body is. Raises BadRequest unless it is plain and one of ``kinds``."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        raise BadRequest(f"expected content-type {' or '.join(kinds)}, got {kind[:60]!r}", 415)
    packed = request.headers.get("content-encoding", "identity")
    if packed != "identity":
        raise BadRequest(f"content-encoding {packed[:60]!r} is not read; send plain bytes", 415)
    return kind


def _json(body: JsonObject, status: int = 200) -> Response:
    return Response(json.dumps(body, ensure_ascii=False), status, media_type=JSON)


def _refused(refusal: Refusal, form: Form) -> Response:
    answer = _json(form(refusal), refusal.status)
    if refusal.retry_after:
        answer.headers["retry-after"] = str(refusal.retry_after)
    return answer


def _without_key(connection: HTTPConnection, error: AuthenticationError) -> Response:
    return PlainTextResponse(str(error), 401, {"www-authenticate": "Bearer"})


def _mlflow_error(refusal: Refusal) -> JsonObject:
    code = "BAD_REQUEST" if refusal.status < 429 else "RESOURCE_EXHAUSTED"
    return {"error_code": code, "message": str(refusal)}


def _openai_error(refusal: Refusal) -> JsonObject:
    kind = "invalid_request_error" if refusal.status < 429 else "server_error"
    body = {"message": str(refusal), "type": kind, "param": refusal.param, "code": None}
    return {"error": body}

"""Connections that must bring their requests in time: uvicorn limits neither header nor body.

uvicorn's ``limit_concurrency`` counts silent connections too and then refuses those that ask, so a
few hundred silent ones would lock everybody out. Here the longest silent one gives way instead.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from http import HTTPStatus
from typing import ClassVar

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from embsearch.serve.batcher import Batcher

MOST = 4096  # connections whose client is waited for
SPARE = 5  # seconds after the grace time for the batch at hand and for answers on their way


class Server(uvicorn.Server):
    """uvicorn, which at the end gives the batcher ``grace`` seconds for what waits."""

    def __init__(self, app: ASGIApp, batcher: Batcher, grace: float, patience: float) -> None:
        self._batcher, self._grace = batcher, grace
        super().__init__(
            uvicorn.Config(
                app, http=protocol(patience), ws="none", lifespan="off", log_level="error",
                access_log=False, server_header=False, proxy_headers=False,
                timeout_graceful_shutdown=round(grace + SPARE),
            )
        )  # fmt: skip

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._batcher.end(self._grace)
        await super().shutdown(sockets)


def protocol(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with time limits, for one server.

    As many files as the system lets this process have open may be open from now on.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    class Limited(Connection):
        patience = seconds
        most = MOST if hard == resource.RLIM_INFINITY else min(MOST, hard // 2)
        awaited: ClassVar[dict[Connection, asyncio.TimerHandle]] = {}

    return Limited


class Connection(H11Protocol):
    """A connection whose client has ``patience`` seconds while it is the client's turn: for the
    header and body of a request, since connecting or since the last answer; and to read an answer.
    """

    patience: ClassVar[float]
    most: ClassVar[int]
    awaited: ClassVar[dict[Connection, asyncio.TimerHandle]]  # the longest first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()
        if len(self.awaited) > self.most:
            first = next(iter(self.awaited))
            first._refuse(
                503, "too many connections wait for their clients; this one waited longest"
            )

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        """Start the time if it is the client's turn, stop it if not."""
        reads = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if not reads and not self.flow.write_paused:
            self._forget()
        elif self not in self.awaited:
            why = f"the request was not there after {self.patience:g} seconds (serve.read_timeout)"
            self.awaited[self] = self.loop.call_later(self.patience, self._refuse, 408, why)

    def _forget(self) -> None:
        if timer := self.awaited.pop(self, None):
            timer.cancel()

    def _refuse(self, status: int, why: str) -> None:
        """Say why, if no answer has begun or waits to be read, and close."""
        self._forget()
        begun = self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE)
        if begun or self.flow.write_paused:
            self.transport.abort()
            return
        head = [("content-type", "text/plain"), ("content-length", str(len(why)))]
        reason = HTTPStatus(status).phrase.encode()
        for event in (
            h11.Response(
                status_code=status, headers=[*head, ("connection", "close")], reason=reason
            ),
            h11.Data(data=why.encode()),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

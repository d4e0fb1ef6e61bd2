"""The HTTP server: MLflow's scoring server around our pyfunc, with a fast way through it.

MLflow's app answers /ping and /health, and CSV and Parquet on /invocations. JSON goes by
another way, with the same bodies and answers: checked row by row, encoded together with what
else waits, written by Arrow. Beside it stand /v1/embeddings, as OpenAI has it, and /version,
which names the model instead of MLflow.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fastapi import FastAPI, Request, Response

from embsearch import __version__
from embsearch.codec import JsonObject
from embsearch.config.schema import ServeConfig
from embsearch.errors import OutOfMemory
from embsearch.serve import answers
from embsearch.serve.batcher import Batcher
from embsearch.serve.encoder import Asked, TextEncoder, cosines, pairs
from embsearch.serve.requests import BadRequest, Embeddings, Limits, embeddings, invocation
from embsearch.track.mlflow_store import be_quiet

if TYPE_CHECKING:
    from embsearch.serve.pyfunc import Texts

JSON = "application/json"
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Served:
    """The model that is served.

    ``names`` are the words for it that a request may use, the first one in answers.
    """

    folder: Path
    digest: str
    names: tuple[str, ...]
    version: int | None = None


def make_app(served: Served, config: ServeConfig, device: str) -> tuple[FastAPI, Batcher]:
    """Return the app, its model loaded, and what must be closed after it. Raises ModelError."""
    from mlflow.pyfunc import scoring_server

    pyfunc = _load(served, config, device)
    model: Texts = pyfunc.unwrap_python_model()
    threads = config.threads or torch.get_num_threads()
    batcher = Batcher(model.run, config.batch, lambda: torch.set_num_threads(threads))
    model.run = lambda texts: batcher.submit(texts).result()  # one owner of the model
    app: FastAPI = scoring_server.init(pyfunc)
    _add_routes(app, served, config, batcher, model.encode)
    return app, batcher


def _load(served: Served, config: ServeConfig, device: str) -> Any:
    """Return our pyfunc by MLflow's own loader, from code."""
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    import mlflow.pyfunc

    settings = {
        "folder": str(served.folder.resolve()),
        "digest": served.digest,
        "device": device,
        "max_rows": config.max_rows,
        "max_chars": config.max_chars,
    }
    code = Path(__file__).with_name("pyfunc.py")
    draft = tempfile.mkdtemp(prefix="embsearch-serve-")
    try:
        be_quiet()  # it would like a signature, which would take one form of rows alone
        pins = [f"embsearch=={__version__}"]
        mlflow.pyfunc.save_model(
            f"{draft}/model", python_model=str(code), model_config=settings, pip_requirements=pins
        )
        return mlflow.pyfunc.load_model(f"{draft}/model")
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _add_routes(
    app: FastAPI, served: Served, config: ServeConfig, batcher: Batcher, encoder: TextEncoder
) -> None:
    limits = Limits(config.max_rows, config.max_chars)
    theirs = _take_route(app, "/invocations")
    _take_route(app, "/version")
    about = json.dumps(
        {
            "model": served.names[0],
            "version": served.version,
            "digest": served.digest,
            "embsearch": __version__,
        }
    ).encode()

    async def version() -> Response:
        return Response(about, media_type=JSON)

    async def invocations(request: Request) -> Response:
        try:
            body = await _body(request, config.max_mb)
            if not _is_json(request):
                return await theirs(request)
            rows = invocation(body, limits)
            alone = rows.titles is None
            asked = encoder.prompted(rows.texts, rows.role) if alone else pairs(encoder, rows)
            found = (await batcher(asked)).values
            answer = answers.predictions(found if alone else cosines(found))
            return Response(answer, media_type=JSON)
        except BadRequest as error:
            return _refused(error.status, {"error_code": "BAD_REQUEST", "message": str(error)})
        except OutOfMemory as error:
            return _refused(503, {"error_code": "RESOURCE_EXHAUSTED", "message": str(error)})

    async def openai(request: Request) -> Response:
        try:
            body = await _body(request, config.max_mb)
            if not _is_json(request):
                raise BadRequest(f"expected content-type {JSON}", status=415)
            asked = embeddings(body, limits)
            if asked.model is not None and asked.model not in served.names:
                known = ", ".join(served.names)
                why = f"model: {asked.model[:60]!r} is not served here; expected {known}"
                raise BadRequest(why, 404, "model")
            found = await batcher(_prompted(encoder, asked))
            answer = answers.openai(
                found.values, int(found.tokens.sum()), served.names[0], asked.base64
            )
            return Response(answer, media_type=JSON)
        except BadRequest as error:
            return _refused(
                error.status, _openai_error("invalid_request_error", str(error), error.param)
            )
        except OutOfMemory as error:
            return _refused(503, _openai_error("server_error", str(error), None))

    app.add_api_route("/version", version, methods=["GET"])
    app.add_api_route("/invocations", invocations, methods=["POST"])
    app.add_api_route("/v1/embeddings", openai, methods=["POST"])


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


def _take_route(app: FastAPI, path: str) -> Handler:
    """Remove one of MLflow's routes; what answered it."""
    route: Any = next(route for route in app.router.routes if getattr(route, "path", "") == path)
    app.router.routes.remove(route)
    handler: Handler = route.endpoint
    return handler


async def _body(request: Request, most_mb: float) -> bytes:
    """Return the body, read no further than it may be long."""
    most = int(most_mb * 1e6)
    too_long = BadRequest(
        f"the body is longer than {most_mb:g} MB (serve.max_mb); send fewer rows a request", 413
    )
    given = request.headers.get("content-length", "")
    if given.isdigit() and int(given) > most:
        raise too_long
    pieces, length = [], 0
    async for piece in request.stream():
        length += len(piece)
        if length > most:
            raise too_long
        pieces.append(piece)
    request._body = b"".join(pieces)  # where MLflow's handler looks for it
    return request._body


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == JSON


def _refused(status: int, body: JsonObject) -> Response:
    return Response(json.dumps(body, ensure_ascii=False), status_code=status, media_type=JSON)


def _openai_error(kind: str, message: str, param: str | None) -> JsonObject:
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}

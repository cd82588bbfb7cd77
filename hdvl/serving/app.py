"""The application: its endpoints, and what starts and stops with it."""

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from hdvl.serving.body import read_json
from hdvl.serving.endpoints import Endpoints
from hdvl.serving.errors import APIError
from hdvl.serving.metrics import Metrics
from hdvl.serving.middleware import Observed
from hdvl.serving.schema import ChatCompletionRequest, CompletionRequest, TilesRequest, parse
from hdvl.serving.served import ServedModel
from hdvl.serving.settings import Settings
from hdvl.serving.web import add_page
from hdvl.version import __version__

logger = logging.getLogger("hdvl.serving")


def create_app(
    models: Sequence[ServedModel], settings: Settings | None = None, *, page: bool = True
) -> FastAPI:
    """The server of ``models`` as an ASGI application.

    Args:
        models: at least one model; their names differ.
        settings: bounds and permissions.
        page: whether there is the web page at ``/``.

    Raises:
        ValueError: there is no model, or two have one name.
    """
    settings = settings or Settings()
    by_name = {served.id: served for served in models}
    if not models or len(by_name) < len(models):
        raise ValueError(
            f"models must be one or more with names of their own, got {[m.id for m in models]}"
        )
    endpoints, metrics = Endpoints(by_name, settings), Metrics(models)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for served in models:
            served.start()
        yield
        endpoints.draining = True
        for served in models:
            served.stop()

    # FastAPI's pages of documentation load scripts from elsewhere; /openapi.json holds the same.
    app = FastAPI(
        title="hdvl", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    _add_state(app, endpoints, metrics)
    _add_generation(app, endpoints)
    _add_errors(app)
    if page:
        add_page(app)
    paths = frozenset(str(getattr(route, "path", "")) for route in app.routes)
    app.add_middleware(Observed, settings=settings, metrics=metrics, paths=paths)
    app.state.endpoints = endpoints
    return app


def _add_state(app: FastAPI, endpoints: Endpoints, metrics: Metrics) -> None:
    created = int(time.time())

    @app.get("/health", summary="Whether the server runs")
    async def health() -> Response:
        if all(served.healthy for served in endpoints.models.values()):
            return JSONResponse({"status": "ok"})
        raise APIError(503, "the engine has stopped; its log says why; restart the server")

    @app.get("/ready", summary="Whether the server takes requests")
    async def ready() -> Response:
        if endpoints.draining:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok", "models": list(endpoints.models)})

    @app.get("/metrics", summary="Metrics for Prometheus")
    async def read_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def entry(name: str) -> dict[str, Any]:
        llm = endpoints.models[name].pipe.model.llm
        entry = {"id": name, "object": "model", "created": created, "owned_by": "hdvl"}
        return {**entry, "max_model_len": llm.context}

    @app.get("/v1/models", summary="The models that are served")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [entry(name) for name in endpoints.models]}

    @app.get("/v1/models/{name:path}", summary="One of the models")
    async def model(name: str) -> dict[str, Any]:
        return entry(endpoints.model_of(name).id)


def _add_generation(app: FastAPI, endpoints: Endpoints) -> None:
    def body(kind: type[Any]) -> dict[str, Any]:
        schema = kind.model_json_schema()
        content = {"application/json": {"schema": schema}}
        return {"requestBody": {"required": True, "content": content}}

    @app.post(
        "/v1/chat/completions",
        summary="Answer a conversation",
        openapi_extra=body(ChatCompletionRequest),
    )
    async def chat(request: Request) -> Response:
        _refuse_when_draining(endpoints)
        fields = await read_json(request, endpoints.settings)
        return await endpoints.chat(request, parse(ChatCompletionRequest, fields))

    @app.post("/v1/completions", summary="Go on with a text", openapi_extra=body(CompletionRequest))
    async def complete(request: Request) -> Response:
        _refuse_when_draining(endpoints)
        fields = await read_json(request, endpoints.settings)
        return await endpoints.complete(request, parse(CompletionRequest, fields))

    @app.post(
        "/v1/tiles",
        summary="How images are cut, and their tokens",
        openapi_extra=body(TilesRequest),
    )
    async def tiles(request: Request) -> Response:
        fields = await read_json(request, endpoints.settings)
        return await endpoints.tiles(request, parse(TilesRequest, fields))


def _refuse_when_draining(endpoints: Endpoints) -> None:
    if endpoints.draining:
        raise APIError(503, "the server is stopping; ask another one", headers={"Retry-After": "5"})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(APIError)
    async def refused(request: Request, error: APIError) -> Response:
        return JSONResponse(error.body, error.status, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        text = f"{request.method} {request.url.path[:200]}: {error.detail}"
        return JSONResponse(APIError(error.status_code, text).body, error.status_code)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        logger.error("a request failed", exc_info=error)
        body = APIError(500, "the server failed; its log says why", code="internal_error").body
        return JSONResponse(body, 500)

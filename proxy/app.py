"""The application: settings in, an ASGI app out. What has a lifetime is opened in the lifespan and handed to the routes as typed state."""

from collections import deque
from functools import partial
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from proxy.api.anthropic.batches import message_batches_routes
from proxy.api.anthropic.routes import anthropic_routes, is_messages
from proxy.api.anthropic.routes import error_response as messages_error
from proxy.api.elastic.routes import elastic_routes, is_elastic
from proxy.api.elastic.routes import error_response as elastic_error
from proxy.api.http.middleware import HttpMiddleware, HttpOptions
from proxy.api.http.responses import REPORT_HEADERS
from proxy.api.openai.batches import batches_routes
from proxy.api.openai.files import files_routes
from proxy.api.openai.responses.routes import responses_routes
from proxy.api.openai.routes import chat_routes, model_routes, render_error, unrouted
from proxy.backends.narrative.webhooks import PATH as WEBHOOK_PATH
from proxy.backends.narrative.webhooks import take_delivery
from proxy.catalog import load_catalog
from proxy.console.routes import RECENT_REQUESTS, console_routes
from proxy.errors import ProxyError
from proxy.lifecycle import Lifecycle
from proxy.logs import current_request
from proxy.metrics import Metrics, show_metrics
from proxy.services import keys_of, open_services
from proxy.settings import Settings
from proxy.storage import Store
from proxy.tracing import tracer_of

_LIMITS: Final = ("limit", "remaining", "reset")
_EXPOSED_HEADERS: Final = (
    "x-request-id",
    "request-id",
    *REPORT_HEADERS,
    "x-should-retry",
    "retry-after",
    "openai-processing-ms",
    "server-timing",
    *(f"x-ratelimit-{name}-{what}" for name in _LIMITS for what in ("requests", "tokens")),
    *(f"anthropic-ratelimit-{what}-{name}" for name in _LIMITS for what in ("requests", "tokens")),
)


def create_app(settings: Settings, *, sandbox: bool = False) -> Starlette:
    """The proxy as an ASGI application; with `sandbox`, on an embedded one. Raises CatalogError: the model table cannot be used."""
    catalog = load_catalog(settings.chat.models_file, default_model=settings.chat.default_model)
    options = HttpOptions(
        Lifecycle(settings.server.shutdown_grace_s, resumable=settings.state.url is not None),
        Metrics(),
        settings.server.cors_origins,
        _EXPOSED_HEADERS,
        _render_error,
        deque(maxlen=RECENT_REQUESTS if settings.console.enabled else 0),
        keys_of(settings),
        tracer_of(settings.tracing),
    )
    app = Starlette(
        routes=[
            *chat_routes(),
            *responses_routes(),
            *files_routes(),
            *batches_routes(),
            *message_batches_routes(),
            *anthropic_routes(),
            *model_routes(),
            *elastic_routes(),
            *(console_routes() if settings.console.enabled else ()),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", show_metrics),
            Route(WEBHOOK_PATH, take_delivery, methods=["POST"]),
        ],
        lifespan=partial(open_services, settings, catalog, options, sandbox),
    )
    app.router.redirect_slashes = False
    # One middleware, which renders errors too, in place of Starlette's stack: every layer is memory of each request that waits.
    app.middleware_stack = HttpMiddleware(app.router.app, options)
    app.state.metrics, app.state.lifecycle = options.metrics, options.lifecycle
    return app


def _render_error(scope: Scope, error: ProxyError | HTTPException) -> Response:
    if is_elastic(scope):
        return elastic_error(scope, error)
    if isinstance(error, HTTPException):
        error = unrouted(scope, error)
        current_request().code = error.code or error.type
    if is_messages(scope):
        return messages_error(scope, error)
    return render_error(scope, error)


async def healthz(request: Request) -> Response:
    """The process is alive. Free: no key, no upstream call."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """The process takes requests: 503 while it drains. Free: no key, no upstream call.

    `degraded`: the shared state is away, and this replica serves on by itself.
    """
    lifecycle: Lifecycle = request.app.state.lifecycle
    if lifecycle.draining:
        return JSONResponse(
            {"status": "draining"}, status_code=503, headers={"retry-after": "2", "x-should-retry": "true"}
        )
    store: Store = request.app.state.store
    return JSONResponse({"status": "ready" if store.healthy else "degraded"})

"""The application: settings in, an ASGI app out. What has a lifetime is opened in the lifespan and handed to the routes as typed state."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypedDict

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from proxy.access.callers import Door, PassThrough, SharedToken
from proxy.catalog import load_catalog
from proxy.chat.dialects import Dialects
from proxy.chat.narrative import NarrativeUpstream
from proxy.chat.routes import chat_routes, render_error, render_unrouted
from proxy.chat.services import ChatServices
from proxy.errors import ProxyError
from proxy.middleware import RequestLog
from proxy.narrative import ClientOptions, Jobs, NarrativeClient
from proxy.sandbox import SANDBOX_DATA_PLANE, SandboxOptions, serve_sandbox
from proxy.settings import Settings, config_folder
from proxy.translate.messages import HistoryRules
from proxy.translate.plan import PlanRules
from proxy.translate.schema import Limits

_EXPOSED_HEADERS = (
    "x-request-id",
    "x-narrative-job-id",
    "x-proxy-model",
    "x-proxy-ignored",
    "x-proxy-adjusted",
    "x-should-retry",
    "retry-after",
    "openai-processing-ms",
)


class State(TypedDict):
    """What the lifespan hands to every request."""

    chat: ChatServices


@dataclass(frozen=True, slots=True)
class _Account:
    """The Narrative that is called, and who may have it called."""

    url: str
    api_key: str
    door: Door


def create_app(settings: Settings, *, sandbox: bool = False) -> Starlette:
    """The proxy as an ASGI application.

    Args:
        settings: all of them, validated.
        sandbox: run on an embedded sandbox of its own instead of Narrative; no account is used.

    Raises:
        CatalogError: the model table cannot be used.
    """
    catalog = load_catalog(settings.chat.models_file or config_folder() / "models.toml")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[State]:
        async with AsyncExitStack() as stack:
            account = await _open_sandbox(settings, stack) if sandbox else _narrative(settings)
            client = await stack.enter_async_context(
                NarrativeClient(account.api_key, environment=account.url, options=_client_options(settings))
            )
            app.state.jobs = jobs = await stack.enter_async_context(Jobs())
            upstream = NarrativeUpstream(
                catalog,
                _plan_rules(settings),
                client,
                jobs,
                Dialects(),
                deadline_s=settings.jobs.deadline_s,
                repair_tries=settings.chat.repair_tries,
            )
            yield {"chat": ChatServices(settings, catalog, account.door, upstream)}

    app = Starlette(
        routes=[*chat_routes(), Route("/healthz", healthz), Route("/readyz", readyz)],
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=settings.server.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=_EXPOSED_HEADERS,
            ),
            Middleware(RequestLog),
        ],
        exception_handlers={ProxyError: render_error, HTTPException: render_unrouted},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


async def healthz(request: Request) -> Response:
    """The process is alive. Free: no key, no upstream call."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """The process takes requests. Free: no key, no upstream call."""
    return JSONResponse({"status": "ready"})


async def _open_sandbox(settings: Settings, stack: AsyncExitStack) -> _Account:
    options = SandboxOptions(pending_s=settings.sandbox.pending_s, running_s=settings.sandbox.running_s)
    running = await stack.enter_async_context(serve_sandbox(options))
    return _Account(running.url, "sandbox", SharedToken(_client_keys(settings), SANDBOX_DATA_PLANE))


def _narrative(settings: Settings) -> _Account:
    narrative = settings.narrative
    if narrative.api_key is None:
        # The client's own token takes this one's place in every call.
        return _Account(narrative.environment, "", PassThrough(narrative.data_plane_id))
    door = SharedToken(_client_keys(settings), narrative.data_plane_id or "")
    return _Account(narrative.environment, narrative.api_key.get_secret_value(), door)


def _client_keys(settings: Settings) -> tuple[str, ...]:
    return tuple(key.get_secret_value() for key in settings.server.api_keys)


def _client_options(settings: Settings) -> ClientOptions:
    narrative = settings.narrative
    return ClientOptions(
        connect_timeout=narrative.connect_timeout_s,
        read_timeout=narrative.read_timeout_s,
        max_connections=narrative.max_connections,
    )


def _plan_rules(settings: Settings) -> PlanRules:
    chat = settings.chat
    return PlanRules(
        efforts=settings.thinking.model_dump(),
        history=HistoryRules(strict=chat.strict_history, media_placeholder=chat.media == "placeholder"),
        schema_limits=Limits(**settings.schemas.model_dump()),
        headroom_tokens=chat.headroom_tokens,
        max_choices=chat.max_choices,
        max_tools=chat.max_tools,
        reasoning_object=chat.reasoning_object,
    )

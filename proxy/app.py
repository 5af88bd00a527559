"""The application: settings in, an ASGI app out. What has a lifetime is opened in the lifespan and handed to the routes as typed state."""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TypedDict

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Lifespan, Scope

from proxy.access.authentication import (
    ANONYMOUS,
    AllowedOrigins,
    Authenticator,
    TokenVerifier,
    caller_id,
    is_loopback,
    unauthenticated,
)
from proxy.access.keys import Keys
from proxy.access.limits import Quota, RateLimits
from proxy.api.anthropic.batches import MESSAGES, MessagesLines, message_batches_routes
from proxy.api.anthropic.routes import anthropic_routes, is_messages
from proxy.api.anthropic.routes import error_response as messages_error
from proxy.api.elastic.routes import ElasticServices, elastic_routes, is_elastic
from proxy.api.elastic.routes import error_response as elastic_error
from proxy.api.http.batches import BatchServices
from proxy.api.http.middleware import HttpMiddleware, HttpOptions, RequestRecord
from proxy.api.http.requests import ApiServices, parse_object
from proxy.api.http.responses import REPORT_HEADERS
from proxy.api.openai.batches import batches_routes, line_apis
from proxy.api.openai.files import files_routes
from proxy.api.openai.responses.background import Background
from proxy.api.openai.responses.routes import ResponsesServices, responses_routes
from proxy.api.openai.responses.store import ResponseStore
from proxy.api.openai.routes import (
    chat_routes,
    decode_streamed,
    error_response,
    model_routes,
    unrouted,
)
from proxy.backends.anthropic import AnthropicBackend
from proxy.backends.narrative.backend import NarrativeBackend
from proxy.backends.narrative.client import ClientOptions, NarrativeClient
from proxy.backends.narrative.events import EndedElsewhere, Event, JobsOptions
from proxy.backends.narrative.fallbacks import Fallbacks
from proxy.backends.narrative.jobs import Jobs
from proxy.backends.narrative.webhooks import PATH as WEBHOOK_PATH
from proxy.backends.narrative.webhooks import Webhooks, take_delivery, webhook_options
from proxy.batches.engine import running_batches
from proxy.batches.files import FileStore, Vault
from proxy.batches.lines import BatchOptions
from proxy.batches.records import BatchRecords
from proxy.catalog import load_catalog
from proxy.console.routes import RECENT_REQUESTS, ConsoleServices, console_routes
from proxy.errors import InvalidApiKey, PermissionDenied, ProxyError, UpstreamError
from proxy.inference.endpoints import Endpoint, Endpoints
from proxy.inference.idempotency import Idempotency
from proxy.inference.request import Rules
from proxy.inference.router import Router
from proxy.lifecycle import Lifecycle, drain_on_signals
from proxy.metrics import Metrics, show_metrics
from proxy.schemas import SchemaLimits
from proxy.settings import NarrativeSettings, Settings, config_folder
from proxy.storage import Storage, Store, open_storage
from proxy.storage.cipher import Cipher
from proxy.tracing import Tracer, tracer_of

_WORKERS = 1
"""Threads for what takes long to compute. They share the interpreter with the event loop: it waits longer with each, and none is faster."""
_TOKEN_CHECK_S = 10.0
_BATCH_SHARE = 0.9
"""Part of `jobs.max_in_flight` beyond which batches begin nothing: the rest is for requests that somebody waits for."""
_EXPOSED_HEADERS = (
    "x-request-id",
    "request-id",
    *REPORT_HEADERS,
    "x-should-retry",
    "retry-after",
    "openai-processing-ms",
    "server-timing",
    *(f"x-ratelimit-{name}-{what}" for name in ("limit", "remaining", "reset") for what in ("requests", "tokens")),
    *(
        f"anthropic-ratelimit-{what}-{name}"
        for name in ("limit", "remaining", "reset")
        for what in ("requests", "tokens")
    ),
)


class State(TypedDict):
    """What the lifespan hands to every request."""

    api: ApiServices
    responses: ResponsesServices
    batches: BatchServices
    elastic: ElasticServices
    console: ConsoleServices


def create_app(settings: Settings, *, sandbox: bool = False) -> Starlette:
    """The proxy as an ASGI application.

    Args:
        settings: all of them, validated.
        sandbox: run on an embedded sandbox of its own instead of Narrative; no account is used.

    Raises:
        CatalogError: the model table cannot be used.
    """
    catalog = load_catalog(
        settings.chat.models_file or config_folder() / "models.toml", default_model=settings.chat.default_model
    )
    rules = _rules(settings)
    metrics = Metrics()
    recent: deque[RequestRecord] = deque(maxlen=RECENT_REQUESTS)
    tracer = tracer_of(settings.tracing)
    lifecycle = Lifecycle(settings.server.shutdown_grace_s, resumable=settings.state.url is not None)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[State]:
        """Opened from the storage up, and closed in reverse."""
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_WORKERS, thread_name_prefix="worker"))
        async with AsyncExitStack() as stack:
            storage = await stack.enter_async_context(
                open_storage(
                    settings.access.home(),
                    _plain(settings.state.url),
                    settings.state.prefix,
                    metrics.state_failed,
                    response_bytes=settings.responses.memory_bytes,
                    # What a sandbox was asked must not go on at Narrative after a restart.
                    batch_bytes=settings.batches.memory_bytes if settings.batches.in_memory or sandbox else None,
                )
            )
            app.state.store = store = storage.live
            await stack.enter_async_context(tracer.opened(store) if tracer else nullcontext())
            account = await _open_sandbox(settings, stack) if sandbox else settings.narrative
            own_token = _plain(account.api_key) or ""
            options = ClientOptions(
                account.connect_timeout_s, account.read_timeout_s, max_connections=account.max_connections
            )
            client = await stack.enter_async_context(
                NarrativeClient(own_token, environment=account.environment, options=options, observe=metrics.observe)
            )
            keys = Keys(storage.durable, settings.access.home())
            authenticator = _authenticator(settings, account, keys, client, sandbox=sandbox)
            app.state.jobs = jobs = await stack.enter_async_context(
                Jobs(
                    _jobs_options(settings),
                    observe=metrics.observe if tracer is None else partial(_observe, metrics, tracer),
                    store=store,
                )
            )
            narrative = NarrativeBackend(
                catalog,
                rules,
                client,
                jobs,
                store,
                Fallbacks(),
                lifecycle,
                metrics,
                deadline_s=settings.jobs.deadline_s,
                repair_tries=settings.chat.repair_tries,
                tracer=tracer,
            )
            _watch(metrics, lifecycle, jobs, store)
            lifecycle.on_drain(jobs.drain)
            app.state.webhooks = None
            if settings.webhooks.public_url and own_token:
                app.state.webhooks = await stack.enter_async_context(
                    Webhooks(jobs, client, webhook_options(settings.webhooks.public_url, own_token), store)
                )
            stack.enter_context(drain_on_signals(lifecycle))
            anthropic = AnthropicBackend(settings.anthropic, rules, settings.jobs.deadline_s, tracer)
            stack.push_async_callback(anthropic.aclose)
            limits = RateLimits(store, wait_s=settings.access.wait_s, lease_s=settings.jobs.deadline_s + 60.0)
            secret = Cipher(_plain(settings.access.secret_key), settings.access.home() / "secret.key")
            endpoints = Endpoints(storage.durable, secret)
            usual = _usual_quota(settings)
            router = Router(
                catalog,
                endpoints,
                {"narrative": narrative, "anthropic": anthropic},
                limits,
                rules,
                usual=usual,
                own_token=bool(own_token),
            )
            stack.push_async_callback(router.aclose)
            backend = await stack.enter_async_context(Idempotency(router, store, settings.state, metrics.repeated))
            services = ApiServices(settings, rules, catalog, authenticator, endpoints, backend)
            background = Background(
                backend, ResponseStore(storage.responses, secret, settings.responses), rules, settings
            )
            stack.push_async_callback(background.aclose)
            responses = ResponsesServices(services, background)
            # The lines of batches go the way of all requests; their submissions are recorded where a restart does not lose them.
            lines = replace(router, backends={**router.backends, "narrative": replace(narrative, store=storage.lines)})
            stack.push_async_callback(lines.aclose)
            batches = await stack.enter_async_context(
                running_batches(_batch_options(responses, storage, Vault(secret), lines, jobs), metrics)
            )
            lifecycle.on_drain(batches.drain)
            yield {
                "api": services,
                "responses": responses,
                "batches": BatchServices(services, batches),
                "elastic": ElasticServices(
                    settings,
                    rules,
                    catalog,
                    authenticator,
                    endpoints,
                    backend,
                    decode_chat=partial(decode_streamed, rules=rules, reasoning_object=settings.chat.reasoning_object),
                    verify={"narrative": partial(_verify_narrative, client), "anthropic": anthropic.verify},
                    own_token=bool(own_token),
                    own_plane=account.data_plane_id,
                ),
                "console": ConsoleServices(
                    authenticator,
                    catalog,
                    rules,
                    client,
                    recent,
                    # Keys from the settings have full access, including to other keys' requests; as does everyone where no key is needed.
                    frozenset({ANONYMOUS, *(caller_id(key) for key in _client_keys(settings))}),
                    settings.server,
                    limits,
                    usual,
                ),
            }

    other_keys = (settings.narrative.api_key, settings.elastic.admin_key, settings.access.secret_key)

    app = _App(
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
        lifespan=lifespan,
        options=HttpOptions(
            lifecycle,
            metrics,
            settings.server.cors_origins,
            _EXPOSED_HEADERS,
            partial(_render_error, settings.chat.paid_failure_status),
            (*_client_keys(settings), *filter(None, map(_plain, other_keys))),
            recent if settings.console.enabled else None,
            tracer,
        ),
    )
    app.router.redirect_slashes = False
    app.state.metrics, app.state.lifecycle = metrics, lifecycle
    return app


def _render_error(paid_failure_status: int, scope: Scope, error: ProxyError | HTTPException) -> Response:
    if is_elastic(scope):
        return elastic_error(scope, error)
    if isinstance(error, HTTPException):
        error = unrouted(scope, error)
    if is_messages(scope):
        return messages_error(scope, error)
    return error_response(error, paid_failure_status=paid_failure_status)


class _App(Starlette):
    """One middleware, which renders errors too, in place of Starlette's stack: every layer is memory of each request that waits."""

    def __init__(self, routes: Sequence[BaseRoute], lifespan: Lifespan["_App"], options: HttpOptions) -> None:
        super().__init__(routes=routes, lifespan=lifespan)
        self._options = options

    def build_middleware_stack(self) -> ASGIApp:
        return HttpMiddleware(self.router.app, self._options)


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


def _observe(metrics: Metrics, tracer: Tracer, event: Event) -> None:
    metrics.observe(event)
    if isinstance(event, EndedElsewhere):
        tracer.settle(event.job_id, "webhook")


def _watch(metrics: Metrics, lifecycle: Lifecycle, jobs: Jobs, store: Store) -> None:
    metrics.watch("proxy_requests_in_flight", "Requests being answered.", lambda: lifecycle.in_flight)
    metrics.watch("proxy_jobs_in_flight", "Jobs that are waited for.", lambda: jobs.in_flight)
    metrics.watch("proxy_submissions_waiting", "Submissions that wait for a place.", lambda: jobs.queued)
    metrics.watch(
        "proxy_accounts_led",
        "Accounts whose jobs this replica reads, for the others too.",
        lambda: sum(membership.leads for membership in jobs.memberships),
    )
    metrics.watch("proxy_state_healthy", "1 unless the shared state is away.", lambda: store.healthy)


async def _open_sandbox(settings: Settings, stack: AsyncExitStack) -> NarrativeSettings:
    from proxy.sandbox import SANDBOX_DATA_PLANE, SandboxOptions, serve_sandbox  # noqa: PLC0415 - 10 MB for few servers

    running = await stack.enter_async_context(serve_sandbox(SandboxOptions(**settings.sandbox.model_dump())))
    account = {"environment": running.url, "api_key": SecretStr(secrets.token_urlsafe(24))}
    return settings.narrative.model_copy(update={**account, "data_plane_id": SANDBOX_DATA_PLANE})


def _authenticator(
    settings: Settings, account: NarrativeSettings, keys: Keys, client: NarrativeClient, *, sandbox: bool
) -> Authenticator:
    server = settings.server
    loopback = is_loopback(server.host)
    # On an address that others reach anyway, the origin of a web page makes no difference.
    origins = AllowedOrigins(frozenset(server.cors_origins), frozenset(server.allowed_hosts)) if loopback else None
    if not account.api_key:
        tokens = TokenVerifier(partial(_check_token, client))
        return Authenticator((), account.data_plane_id, keys, tokens, "never", origins)
    served = unauthenticated(settings, sandbox=sandbox)
    return Authenticator(_client_keys(settings), account.data_plane_id, keys, None, served, origins)


async def _check_token(client: NarrativeClient, token: str) -> None:
    """One cheap call with a client's token. Raises InvalidApiKey when Narrative does not know it; a 403 is for later calls to judge."""
    deadline = asyncio.get_running_loop().time() + _TOKEN_CHECK_S
    try:
        await client.with_api_key(token).list_jobs(type="model_inference", per_page=1, deadline=deadline)
    except PermissionDenied:
        return
    except UpstreamError as error:
        if error.code != "narrative_unauthorized":
            raise
        raise InvalidApiKey(error.message) from error


def _client_keys(settings: Settings) -> tuple[str, ...]:
    return tuple(key.get_secret_value() for key in settings.server.api_keys)


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


async def _verify_narrative(client: NarrativeClient, endpoint: Endpoint, api_key: str | None) -> None:
    own = client if api_key is None else client.with_api_key(api_key)
    await own.list_jobs(type="model_inference", data_plane_id=endpoint.data_plane_id, per_page=1)


def _batch_options(
    responses: ResponsesServices, storage: Storage, vault: Vault, lines: Router, jobs: Jobs
) -> BatchOptions:
    services = responses.api
    settings, server = services.settings, services.settings.server
    return BatchOptions(
        settings=settings.batches,
        files=FileStore(storage.batches, vault, settings.batches),
        records=BatchRecords(storage.batches, vault, settings.batches),
        vault=vault,
        backend=lines,
        lines=storage.lines,
        apis={**line_apis(services, responses), MESSAGES: MessagesLines(services)},
        parse=partial(parse_object, max_values=server.max_body_values),
        max_line_bytes=server.max_body_bytes,
        room=lambda: not jobs.queued and jobs.in_flight < _BATCH_SHARE * settings.jobs.max_in_flight,
        current=services.authenticator.current,
    )


def _usual_quota(settings: Settings) -> Quota:
    access = settings.access
    return Quota(
        requests=access.requests_per_minute or None,
        tokens=access.tokens_per_minute or None,
        jobs=access.jobs_in_flight or None,
    )


def _jobs_options(settings: Settings) -> JobsOptions:
    jobs = settings.jobs
    return JobsOptions(
        max_in_flight=jobs.max_in_flight,
        queue_timeout=jobs.place_wait_s,
        max_submissions=jobs.max_submissions,
        in_doubt=jobs.in_doubt,
        reads_per_second=jobs.reads_per_second,
    )


def _rules(settings: Settings) -> Rules:
    chat = settings.chat
    return Rules(
        efforts=settings.thinking.model_dump(),
        headroom_tokens=chat.headroom_tokens,
        max_choices=chat.max_choices,
        max_tools=chat.max_tools,
        strict_history=chat.strict_history,
        media_placeholder=chat.media == "placeholder",
        drop_hosted_tools=chat.hosted_tools == "drop",
        schema_limits=SchemaLimits(**settings.schemas.model_dump()),
    )

"""What the app opens: storage, backends, authentication, limits and batches, each made of its settings; and how they are connected."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Final, TypedDict

from pydantic import SecretStr
from starlette.applications import Starlette

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
from proxy.api.anthropic.batches import MESSAGES, MessagesLines
from proxy.api.elastic.routes import ElasticServices
from proxy.api.http.middleware import HttpOptions
from proxy.api.http.requests import ApiServices, parse_object
from proxy.api.openai.batches import CHAT, RESPONSES, OpenAILines
from proxy.api.openai.responses.background import Background
from proxy.api.openai.responses.store import ResponseStore
from proxy.api.openai.routes import decode_streamed
from proxy.backends.anthropic import AnthropicBackend
from proxy.backends.narrative.backend import NarrativeBackend
from proxy.backends.narrative.client import ClientOptions, NarrativeClient
from proxy.backends.narrative.events import EndedElsewhere, Event, JobsOptions
from proxy.backends.narrative.fallbacks import Fallbacks
from proxy.backends.narrative.jobs import Jobs
from proxy.backends.narrative.webhooks import Webhooks, webhook_options
from proxy.batches.engine import Batches, running_batches
from proxy.batches.files import FileStore, Vault
from proxy.batches.lines import BatchOptions
from proxy.batches.records import BatchRecords
from proxy.catalog import Catalog
from proxy.console.routes import ConsoleServices
from proxy.errors import InvalidApiKey, PermissionDenied, UpstreamError
from proxy.inference.backend import Backend
from proxy.inference.endpoints import Endpoint, Endpoints
from proxy.inference.idempotency import Idempotency
from proxy.inference.request import Rules
from proxy.inference.router import Router
from proxy.lifecycle import drain_on_signals
from proxy.schemas import SchemaLimits
from proxy.settings import NarrativeSettings, Settings
from proxy.storage import Storage, Store, open_storage
from proxy.storage.cipher import Cipher

_BATCH_SHARE: Final = 0.9
"""Part of `jobs.max_in_flight` beyond which batches begin nothing: the rest is for requests that somebody waits for."""


class State(TypedDict):
    """What the lifespan hands to every request. `webhooks` is None where completions of jobs are only polled."""

    webhooks: Webhooks | None
    api: ApiServices
    responses: Background
    batches: Batches
    elastic: ElasticServices
    console: ConsoleServices


@asynccontextmanager
async def open_services(
    settings: Settings, catalog: Catalog, options: HttpOptions, sandbox: bool, app: Starlette
) -> AsyncIterator[State]:
    """The lifespan of the app: opened from the storage up, and closed in reverse. With `sandbox`, jobs run on an embedded one instead of
    Narrative.
    """
    # One thread for what takes long to compute: it shares the interpreter with the event loop, which would wait longer with more.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="worker"))
    lifecycle, metrics, tracer = options.lifecycle, options.metrics, options.tracer
    access, rules, home = settings.access, _rules(settings), settings.access.home()
    usual = Quota(
        requests=access.requests_per_minute or None,
        tokens=access.tokens_per_minute or None,
        jobs=access.jobs_in_flight or None,
    )
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(
            open_storage(
                home,
                _plain(settings.state.url),
                settings.state.prefix,
                metrics.state_errors.inc,
                response_bytes=settings.responses.memory_bytes,
                # What a sandbox was asked must not go on at Narrative after a restart.
                batch_bytes=settings.batches.memory_bytes if settings.batches.in_memory or sandbox else None,
            )
        )
        store = app.state.store = storage.live
        await stack.enter_async_context(tracer.opened(store) if tracer else nullcontext())
        account = await _open_sandbox(settings, stack) if sandbox else settings.narrative
        own_token = _plain(account.api_key) or ""
        client, jobs = await _open_jobs(settings, account, options, store, stack)
        webhooks = None
        if settings.webhooks.public_url and own_token:
            webhooks = await stack.enter_async_context(
                Webhooks(jobs, client, webhook_options(settings.webhooks.public_url, own_token), store)
            )
        stack.enter_context(drain_on_signals(lifecycle))
        narrative = NarrativeBackend(
            catalog,
            rules,
            client,
            jobs,
            store,
            Fallbacks(),
            lifecycle,
            metrics.spent,
            metrics.further_job,
            deadline_s=settings.jobs.deadline_s,
            repair_tries=settings.chat.repair_tries,
            tracer=tracer,
        )
        anthropic = AnthropicBackend(settings.anthropic, rules, settings.jobs.deadline_s, tracer)
        stack.push_async_callback(anthropic.aclose)
        authenticator = _authenticator(settings, account, Keys(storage.durable, home), client, sandbox=sandbox)
        limits = RateLimits(store, wait_s=access.wait_s, lease_s=settings.jobs.deadline_s + 60.0)
        secret = Cipher(_plain(access.secret_key), home / "secret.key")
        endpoints = Endpoints(storage.durable, secret)
        backends: dict[str, Backend] = {"narrative": narrative, "anthropic": anthropic}
        router = Router(catalog, endpoints, backends, limits, rules, usual=usual, own_token=bool(own_token))
        stack.push_async_callback(router.aclose)
        backend = await stack.enter_async_context(Idempotency(router, store, settings.state, metrics.repeated))
        common = (settings, rules, catalog, authenticator, endpoints, backend)
        api = ApiServices(*common)
        background = Background(api, ResponseStore(storage.responses, secret, settings.responses))
        stack.push_async_callback(background.aclose)
        # The lines of batches go the way of all requests; their submissions are recorded where a restart does not lose them.
        lines = replace(router, backends={**backends, "narrative": replace(narrative, store=storage.lines)})
        stack.push_async_callback(lines.aclose)
        batches = await stack.enter_async_context(
            running_batches(_batch_options(background, storage, Vault(secret), lines, jobs), metrics)
        )
        lifecycle.on_drain(batches.drain)
        elastic = ElasticServices(
            *common,
            decode_chat=partial(decode_streamed, api),
            verify={"narrative": partial(_verify_narrative, client), "anthropic": anthropic.verify},
            own_token=bool(own_token),
            own_plane=account.data_plane_id,
        )
        # Keys from the settings have full access, including to other keys' requests; as does everyone where no key is needed.
        operators = frozenset({ANONYMOUS, *map(caller_id, _client_keys(settings))})
        yield {
            "webhooks": webhooks,
            "api": api,
            "responses": background,
            "batches": batches,
            "elastic": elastic,
            "console": ConsoleServices(*common, client, options.records, operators, limits, usual),
        }


def keys_of(settings: Settings) -> tuple[str, ...]:
    """Every key of the settings, which no response may repeat."""
    others = (settings.narrative.api_key, settings.elastic.admin_key, settings.access.secret_key)
    return (*_client_keys(settings), *filter(None, map(_plain, others)))


async def _open_jobs(
    settings: Settings, account: NarrativeSettings, options: HttpOptions, store: Store, stack: AsyncExitStack
) -> tuple[NarrativeClient, Jobs]:
    lifecycle, metrics, tracer = options.lifecycle, options.metrics, options.tracer
    calls = ClientOptions(account.connect_timeout_s, account.read_timeout_s, max_connections=account.max_connections)
    key, environment = _plain(account.api_key) or "", account.environment
    client = await stack.enter_async_context(
        NarrativeClient(key, environment=environment, options=calls, observe=metrics.observe)
    )

    def observe(event: Event) -> None:
        metrics.observe(event)
        if tracer is not None and isinstance(event, EndedElsewhere):
            tracer.settle(event.job_id, "webhook")

    limits = settings.jobs.model_dump(exclude={"deadline_s", "place_wait_s"})
    jobs_options = JobsOptions(queue_timeout=settings.jobs.place_wait_s, **limits)
    observed = observe if tracer else metrics.observe
    jobs = await stack.enter_async_context(Jobs(jobs_options, observe=observed, store=store))
    metrics.watch("proxy_requests_in_flight", "Requests being answered.", lambda: lifecycle.in_flight)
    metrics.watch("proxy_jobs_in_flight", "Jobs that are waited for.", lambda: jobs.in_flight)
    metrics.watch("proxy_submissions_waiting", "Submissions that wait for a place.", lambda: jobs.queued)
    led = "Accounts whose jobs this replica reads, for the others too."
    metrics.watch("proxy_accounts_led", led, lambda: sum(membership.leads for membership in jobs.memberships))
    metrics.watch("proxy_state_healthy", "1 unless the shared state is away.", lambda: store.healthy)
    lifecycle.on_drain(jobs.drain)
    return client, jobs


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
    deadline = asyncio.get_running_loop().time() + 10.0
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
    client = client.with_api_key(api_key)
    await client.list_jobs(type="model_inference", data_plane_id=endpoint.data_plane_id, per_page=1)


def _batch_options(background: Background, storage: Storage, vault: Vault, lines: Router, jobs: Jobs) -> BatchOptions:
    services = background.api
    settings, server = services.settings, services.settings.server
    return BatchOptions(
        settings=settings.batches,
        files=FileStore(storage.batches, vault, settings.batches),
        records=BatchRecords(storage.batches, vault, settings.batches),
        vault=vault,
        backend=lines,
        lines=storage.lines,
        apis={
            **{endpoint: OpenAILines(background, endpoint) for endpoint in (CHAT, RESPONSES)},
            MESSAGES: MessagesLines(services),
        },
        parse=partial(parse_object, max_values=server.max_body_values),
        max_line_bytes=server.max_body_bytes,
        room=lambda: not jobs.queued and jobs.in_flight < _BATCH_SHARE * settings.jobs.max_in_flight,
        current=services.authenticator.current,
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

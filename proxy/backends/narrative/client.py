"""A typed client for Narrative's inference jobs. It is the one layer that retries calls.

It uses aiohttp directly, which costs far less CPU time a call than httpx. Source: shared contract `narrative.md`.
"""

import asyncio
import copy
import hashlib
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Self, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import certifi
from yarl import URL

from proxy.backends.narrative import failures
from proxy.backends.narrative import types as wire
from proxy.backends.narrative.events import Observer, Retried, UpstreamCalled, ignore
from proxy.backends.narrative.failures import Operation, Refusal
from proxy.errors import JobTimeout, ProxyError, RateLimited, UpstreamError

_SUBMIT_RETRY_TIMEOUT: Final = 45.0
"""Seconds for which a submission is retried at most, even when the deadline is later: somebody waits for its first byte."""
# With these errors nothing can have reached Narrative.
_NEVER_SENT: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How the client connects, how long it waits and how it retries. Seconds.

    Args:
        read_timeout: longest silence while an answer is awaited or read.
        pool_timeout: longest wait for a free connection and for connecting.
        total_timeout: longest time one request may take from start to last byte.
        max_answer_bytes: a longer answer is not read to its end and counts as unreadable.
        retry_timeout: how long a call is retried when the caller names no deadline.
        first_backoff: longest first pause between attempts; it doubles each time. The pause is a random part of it.
    """

    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    pool_timeout: float = 10.0
    total_timeout: float = 60.0
    max_connections: int = 100
    max_answer_bytes: int = 64 * 1024 * 1024
    retry_timeout: float = 30.0
    first_backoff: float = 0.25
    max_backoff: float = 8.0


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, with its path relative to the base URL, query included, and its JSON; and how to read its answer.

    `parse` reads the body of a 2xx answer: None for JSON that is something else, ValueError for no JSON.
    """

    operation: Operation
    method: str
    path: str
    parse: Callable[[bytes], T | None]
    content: bytes | None = field(default=None, repr=False)
    job_id: str | None = None


@dataclass(eq=False, slots=True)
class _Connections:
    """What a client shares with its light copies: one bounded pool, without cookies, so that callers share no session."""

    session: aiohttp.ClientSession | None = None
    closed: bool = False
    date: tuple[str, float] = "", 0.0
    """The latest `Date` header, "" before the first, and when it came, in seconds since 1970."""


class NarrativeClient:
    """Calls Narrative with one API key. Every call raises `ProxyError`s only, by the table in docs/client.md.

    Args:
        environment: `prod`, `dev` or a base URL.
        observe: called with an event for every request and retry, for metrics; it must be quick and must not raise.
    """

    def __init__(
        self,
        api_key: str,
        *,
        environment: str = "prod",
        options: ClientOptions | None = None,
        observe: Observer = ignore,
    ) -> None:
        self.base_url = wire.BASE_URLS.get(environment, environment).rstrip("/")
        self._options = options or ClientOptions()
        self._observe = observe
        self._connections = _Connections()
        self._submissions: set[asyncio.Task[wire.Job]] = set()
        self._owner = self._retries = True
        self._use(api_key)

    def _use(self, api_key: str) -> None:
        if not api_key.isascii() or not api_key.isprintable():
            message = "the Narrative API key holds characters that no header can carry"
            raise UpstreamError(message, code="narrative_unauthorized")
        self._api_key = api_key
        self.account = hashlib.sha256(f"{self.base_url}\0{api_key}".encode()).hexdigest()[:32]
        """A digest of base URL and API key: calls with the same account share Narrative's limits."""

    def with_api_key(self, api_key: str | None) -> Self:
        """A light copy for another caller's token, which shares the connections and closes nothing; for None, this client itself."""
        if api_key is None:
            return self
        light = copy.copy(self)
        light._owner = False
        light._use(api_key)
        return light

    def without_retries(self) -> Self:
        """A light copy that tries each call once, for callers that have a schedule of their own."""
        light = copy.copy(self)
        light._owner = light._retries = False
        return light

    def redact(self, text: str) -> str:
        """A text of Narrative's as one short line without the API key."""
        return failures.clean(text, self._api_key)

    @property
    def clock_ahead(self) -> float | None:
        """Seconds by which Narrative's clock is ahead of ours, to about a second; None before it showed its time."""
        date, at = self._connections.date
        try:
            return failures.http_date(date) - at
        except ValueError:
            return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections, which ends the requests in flight. A light copy closes nothing."""
        if self._owner:
            self._connections.closed = True
            if self._connections.session is not None:
                await self._connections.session.close()

    async def run_model_inference(self, request: wire.RunRequest, *, deadline: float | None = None) -> wire.Job:
        """Enqueue one inference; the job is pending, and knows its id. It is retried only where nothing can have been enqueued.

        A caller that is cancelled leaves the submission to finish by itself: cancelled in the middle, it would have an unknown outcome.
        After the deadline (loop time; None means `options.retry_timeout` from now) nothing is tried any more.

        Raises UpstreamError `narrative_submit_unknown`: a job may exist but no id came back; JobTimeout: nothing was sent in time.
        """
        task = asyncio.create_task(self.enqueue(request, deadline=deadline))
        self._submissions.add(task)
        task.add_done_callback(self._submissions.discard)
        return await asyncio.shield(task)

    async def enqueue(
        self, request: wire.RunRequest, *, deadline: float | None = None, abandoned: Callable[[], bool] = bool
    ) -> wire.Job:
        """`run_model_inference` for a caller that is never cancelled. Nothing is sent again once `abandoned()` is true."""
        content = wire.encoded(request)
        call = Call(Operation.SUBMIT, "POST", "/model-inference/run", wire.parse_record, content)
        accepted = await self._call(call, deadline, abandoned)
        if accepted.name is None:
            raise failures.failed(Operation.SUBMIT, "Narrative's answer to the submission names no job")
        return wire.Job(accepted.name)

    async def get_job(self, job_id: str, *, deadline: float | None = None) -> wire.Job:
        """`GET /jobs/{job_id}`. Raises UpstreamError `narrative_job_lost` when Narrative does not know it."""

        def parse(body: bytes) -> wire.Job | None:
            job = wire.parse_record(body).job()
            return job if job is not None and job.id.casefold() == job_id.casefold() else None

        path = f"/jobs/{quote(job_id, safe='')}"
        return await self._call(Call(Operation.READ_JOB, "GET", path, parse, job_id=job_id), deadline)

    async def wait_for(self, job: wire.Job, *, timeout: float = 60.0) -> wire.Job:  # noqa: ASYNC109  the deadline of many reads
        """The job once it has ended, whatever its end; it is read again and again. To run many jobs, use `Jobs`.

        Raises JobTimeout: it did not end within `timeout` seconds; it goes on at Narrative and can be waited for again.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        while not job.ended:
            age = loop.time() - started
            pause = min(max(0.1, 0.5 * age), 2.0)
            if age + pause >= timeout:
                raise JobTimeout(f"Job {job.id} did not end in time", job_id=job.id)
            await asyncio.sleep(pause)
            job = await self.get_job(job.id, deadline=started + timeout)
        return job

    async def list_jobs(  # noqa: PLR0913  one argument a query parameter
        self,
        *,
        type: str | None = None,
        state: str | None = None,
        data_plane_id: str | None = None,
        per_page: int | None = None,
        offset: int | None = None,
        order_by: str | None = None,
        deadline: float | None = None,
    ) -> wire.JobPage:
        """`GET /jobs`: one page of at most 500 of the company's jobs, newest created first by default; `offset` skips records.

        `order_by` is `created_at_asc`, `created_at_desc`, `updated_at_asc` or `updated_at_desc`.
        """
        query: dict[str, str | int | None] = {"type": type, "state": state, "data_plane_id": data_plane_id}
        query |= {"per_page": per_page and min(per_page, 500), "offset": offset, "order_by": order_by}
        path = f"/jobs?{urlencode({name: value for name, value in query.items() if value is not None})}"
        return await self._call(Call(Operation.LIST_JOBS, "GET", path, wire.parse_page), deadline)

    async def create_webhook(self, request: wire.WebhookRequest) -> wire.Webhook:
        """`POST /webhooks`: subscribe. A repeat after a lost answer can leave a second subscription behind."""
        content = wire.encoded(request)
        return await self._call(Call(Operation.WEBHOOKS, "POST", "/webhooks", _parse_webhook, content))

    async def get_webhook(self, webhook_id: str) -> wire.Webhook:
        """`GET /webhooks/{id}`. Raises UpstreamError `narrative_webhook_lost` when there is none."""
        return await self._call(
            Call(Operation.WEBHOOKS, "GET", f"/webhooks/{quote(webhook_id, safe='')}", _parse_webhook)
        )

    async def list_webhooks(self) -> list[wire.Webhook]:
        """`GET /webhooks`: the subscriptions that can be read."""
        return await self._call(Call(Operation.WEBHOOKS, "GET", "/webhooks", wire.parse_webhooks))

    async def archive_webhook(self, webhook_id: str) -> None:
        """`DELETE /webhooks/{id}`. Raises UpstreamError `narrative_webhook_lost` when there is none."""
        await self._call(Call(Operation.WEBHOOKS, "DELETE", f"/webhooks/{quote(webhook_id, safe='')}", bytes))

    async def _call(self, call: Call[T], deadline: float | None = None, abandoned: Callable[[], bool] = bool) -> T:
        options, loop = self._options, asyncio.get_running_loop()
        started, submits = loop.time(), call.operation is Operation.SUBMIT
        end = started + options.retry_timeout if deadline is None else deadline
        if end <= started:
            raise JobTimeout("the deadline passed before Narrative was asked", job_id=call.job_id)
        retry_until = min(end, started + _SUBMIT_RETRY_TIMEOUT) if submits else end
        attempt = rate_limited = 0
        while True:
            try:
                return read_answer(call, *await self._send(call, end), self._api_key)
            except ProxyError as error:
                refusal = failures.refusal_of(error)
                asked = refusal.retry_after if refusal else None
                rate_limited += isinstance(error, RateLimited) and asked is None  # 429s without `Retry-After`
                backoff = min(options.first_backoff * 2.0**attempt, options.max_backoff)
                pause = max(random.uniform(0.0, backoff), asked or 0.0)  # noqa: S311  jitter
                attempt += 1
                exhausted = submits and rate_limited >= 5
                too_late = loop.time() + pause >= retry_until
                if not self._retries or error.retry_after is None or exhausted or too_late or abandoned():
                    raise
                self._observe(Retried(call.operation, pause))
                await asyncio.sleep(pause)
                if abandoned() or loop.time() >= retry_until:
                    raise

    async def _send(self, call: Call[Any], end: float) -> tuple[int, Mapping[str, str], bytes | None]:
        """Status, headers and body of one answer; no body when it breaks off or is too long: the status alone may say enough."""
        shared, options = self._connections, self._options
        timeout = min(options.total_timeout, end - asyncio.get_running_loop().time())
        if shared.closed or timeout <= 0:
            reason = "the client is closed" if shared.closed else "the deadline has passed"
            raise failures.failed(call.operation, f"Narrative could not be reached ({reason})", call.job_id, sent=False)
        session = shared.session or self._open_session()
        headers = {"Authorization": f"Bearer {self._api_key}", "Accept": "application/json"}
        if call.content is not None:
            headers["Content-Type"] = "application/json"
        status, started = None, time.monotonic()
        try:
            async with session.request(
                call.method,
                URL(f"{self.base_url}{call.path}", encoded=True),
                data=call.content,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=timeout,
                    connect=options.pool_timeout,
                    sock_connect=options.connect_timeout,
                    sock_read=options.read_timeout,
                ),
            ) as response:
                if date := response.headers.get("date"):
                    shared.date = date, time.time()
                body = await _read_body(response, options.max_answer_bytes)
                status = response.status
                return status, response.headers, body
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # OSError includes every timeout; ValueError an answer that is no HTTP at all.
            sent, reason = not isinstance(error, _NEVER_SENT), type(error).__name__
            message = f"Narrative {'did not answer' if sent else 'could not be reached'} ({reason})"
            raise failures.failed(call.operation, message, call.job_id, sent=sent) from None
        finally:
            self._observe(UpstreamCalled(call.operation, status, time.monotonic() - started))

    def _open_session(self) -> aiohttp.ClientSession:
        tls: ssl.SSLContext | bool = True
        if self.base_url.startswith("https:"):
            tls = ssl.create_default_context()
            tls.load_verify_locations(certifi.where())
        # An idle connection is not kept for long: a POST on one that the other side just closed has an unknown outcome.
        connector = aiohttp.TCPConnector(ssl=tls, limit=self._options.max_connections, keepalive_timeout=15.0)
        self._connections.session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._connections.session


async def _read_body(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    body = bytearray()
    try:
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > limit:
                response.close()
                return None
    except (aiohttp.ClientError, OSError):
        return None
    return bytes(body)


def _parse_webhook(body: bytes) -> wire.Webhook:
    return wire.Webhook.model_validate(wire.parse_json(body))


def read_answer(call: Call[T], status: int, headers: Mapping[str, str], body: bytes | None, secret: str) -> T:
    """The body of a 2xx answer, parsed; `body` is None when it broke off or was too long.

    Raises ProxyError: that of `failures.refused` for another answer, without the API key `secret`; else the body cannot be read.
    """
    if not 200 <= status < 300:
        refusal = Refusal(
            status, failures.words_of(body or b"", secret), failures.retry_after(headers.get("retry-after"))
        )
        raise failures.refused(call.operation, refusal, call.job_id) from refusal
    try:
        if body is not None:
            if (parsed := call.parse(body)) is not None:
                return parsed
            if call.operation is Operation.READ_JOB:
                message = f"Narrative's record of job {call.job_id} could not be read"
                raise UpstreamError(
                    message, code=failures.UNREADABLE, retry_after=failures.DEFAULT_RETRY_AFTER, job_id=call.job_id
                )
    except (ValueError, RecursionError):
        pass
    raise failures.failed(call.operation, "Narrative's answer could not be read", call.job_id)

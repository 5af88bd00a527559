"""The lowest rung: one HTTP request, in a task of its own, with an outcome that is a value, never an exception.

A caller that is cancelled leaves its request to finish by itself: an HTTP call cancelled in the middle can lose its place
in the connection pool, and a submission cancelled in the middle would have an unknown outcome.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from proxy.backends.narrative.events import Observer, UpstreamCalled, ignore
from proxy.backends.narrative.options import ClientOptions

log = logging.getLogger(__name__)

# aiohttp's own errors for "no connection was made". httpx-aiohttp also names a connection lost after sending
# `ConnectTimeout`, so the original error decides.
_NO_CONNECTION: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)
_NO_CONNECTION_HTTPX: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)


class Operation(Enum):
    """What is asked; it decides what a silence means."""

    SUBMIT = auto()
    READ_JOB = auto()
    LIST_JOBS = auto()
    WEBHOOKS = auto()


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `path` is relative to the base URL, `content` is JSON."""

    operation: Operation
    method: str
    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `whole` is false when the body was cut off or longer than allowed; `body` is then empty."""

    status: int
    headers: httpx.Headers
    body: bytes = field(repr=False)
    whole: bool = True


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Nothing came back. `sent` is false only when nothing can have reached Narrative."""

    reason: str
    sent: bool


Outcome = Answer | NoAnswer


class Transport:
    """Sends requests to one base URL over one bounded pool of connections, shared by all copies of a client."""

    def __init__(
        self, base_url: str, options: ClientOptions, http: httpx.AsyncClient | None = None, observe: Observer = ignore
    ) -> None:
        self.observe = observe
        self.base_url = base_url.rstrip("/")
        self.options = options
        self._owns_http = http is None
        self._http = http or _http_client(options)
        self.clock_ahead: float | None = None
        """Seconds by which Narrative's clock is ahead of ours, to about a second; None before it told its time."""
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Requests on their way."""
        return len(self._tasks)

    async def send(self, call: Call, token: str, deadline: float | None = None) -> Outcome:
        """Send one request and wait for its outcome, at most until `deadline` (loop time).

        Cancelling the wait, or letting the deadline pass, leaves the request running.
        """
        if self._closed:
            return NoAnswer("the client is closed", sent=False)
        loop = asyncio.get_running_loop()
        left = None if deadline is None else deadline - loop.time()
        if left is not None and left <= 0:
            return NoAnswer("the deadline has passed", sent=False)
        task = loop.create_task(self._exchange(call, token))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task}, timeout=left)
        if not task.done():
            return NoAnswer("no answer came before the deadline", sent=True)
        return NoAnswer("the client was closed", sent=True) if task.cancelled() else task.result()

    async def _exchange(self, call: Call, token: str) -> Outcome:
        started = time.monotonic()
        outcome = await self._attempt(call, token)
        status = outcome.status if isinstance(outcome, Answer) else None
        self.observe(UpstreamCalled(call.operation.name.lower(), status, time.monotonic() - started))
        return outcome

    async def _attempt(self, call: Call, token: str) -> Outcome:
        try:
            async with asyncio.timeout(self.options.total_timeout):
                return await self._request(call, token)
        except (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError, ValueError) as error:
            # OSError includes the TimeoutError of `total_timeout`; ValueError an answer that is no HTTP at all.
            return NoAnswer(type(error).__name__, sent=not _never_sent(error))

    async def _request(self, call: Call, token: str) -> Answer:
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        if call.content is not None:
            headers["Content-Type"] = "application/json"
        request = self._http.build_request(
            call.method,
            self.base_url + call.path,
            params=dict(call.params) or None,
            content=call.content,
            headers=headers,
            timeout=_timeouts(self.options),
        )
        response = await self._http.send(request, stream=True, auth=None, follow_redirects=False)
        self._set_clock(response.headers.get("date"))
        try:
            body = await self._read(response)
        finally:
            await response.aclose()
        return Answer(response.status_code, response.headers, body or b"", whole=body is not None)

    async def _read(self, response: httpx.Response) -> bytes | None:
        """The body, or None when it breaks off or is too long: the status alone may still tell enough."""
        pieces: list[bytes] = []
        size = 0
        try:
            async for piece in response.aiter_bytes():
                size += len(piece)
                if size > self.options.max_answer_bytes:
                    return None
                pieces.append(piece)
        except (httpx.HTTPError, aiohttp.ClientError, OSError):
            return None
        return b"".join(pieces)

    def _set_clock(self, date: str | None) -> None:
        try:
            told = parsedate_to_datetime(date) if date else None
        except ValueError:
            return
        if told is not None and told.tzinfo is not None:
            self.clock_ahead = told.timestamp() - time.time()

    async def aclose(self) -> None:
        """Wait a little for requests on their way, cancel the rest, and close the pool."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=self.options.closing_grace)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if left:
            log.warning("closed the Narrative client with %d requests unanswered", len(left))
        if self._owns_http:
            await self._http.aclose()


def _never_sent(error: Exception) -> bool:
    origin = error if isinstance(error, aiohttp.ClientError) else error.__cause__
    if isinstance(origin, aiohttp.ClientError):
        return isinstance(origin, _NO_CONNECTION)
    return isinstance(error, _NO_CONNECTION_HTTPX)


def _timeouts(options: ClientOptions) -> httpx.Timeout:
    return httpx.Timeout(
        connect=options.connect_timeout,
        read=options.read_timeout,
        write=options.write_timeout,
        pool=options.pool_timeout,
    )


def _http_client(options: ClientOptions) -> httpx.AsyncClient:
    """A client that keeps no cookies, so that callers who share it cannot share a session, and reads no environment."""
    tls = httpx.create_ssl_context()

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=tls, limit=options.max_connections, keepalive_timeout=options.keepalive)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)

    return httpx.AsyncClient(
        transport=AiohttpTransport(verify=tls, client=session),
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        trust_env=False,
    )

"""One HTTP request to Narrative, with an outcome that is a value, never an exception.

It uses aiohttp directly: a GET costs a twentieth of httpx's CPU time, and a quarter of that of httpx's types over aiohttp.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Final
from urllib.parse import urlencode

import aiohttp
import certifi
from yarl import URL

from proxy.backends.narrative.events import Observer, UpstreamCalled, ignore

log = logging.getLogger(__name__)

# With these errors nothing can have reached Narrative.
_NEVER_SENT: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How the client connects, how long it waits and how it retries. Seconds."""

    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    """Longest silence while an answer is awaited or read."""
    pool_timeout: float = 10.0
    """Longest wait for a free connection and for connecting."""
    total_timeout: float = 60.0
    """Longest time one request may take from start to last byte."""
    max_connections: int = 100
    keepalive: float = 15.0
    """How long an idle connection is kept. Short: a POST on one that the other side just closed has an unknown outcome."""
    max_answer_bytes: int = 64 * 1024 * 1024
    """A longer answer is not read to its end and counts as unreadable."""
    patience: float = 30.0
    """How long a call is retried when the caller names no deadline."""
    submit_patience: float = 45.0
    """How long a submission is retried at most, even when the deadline is later: somebody waits for its first byte."""
    max_rate_limited: int = 5
    """Attempts at a submission that are answered 429 without `Retry-After`."""
    first_backoff: float = 0.25
    """Longest first pause between attempts; it doubles each time. The pause is a random part of it."""
    max_backoff: float = 8.0
    closing_grace: float = 5.0
    """How long `aclose` waits for requests in flight before it closes their connections."""


class Operation(Enum):
    """What is asked; it decides what a missing answer means."""

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
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    whole: bool = True


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Nothing came back. `sent` is false only when nothing can have reached Narrative."""

    reason: str
    sent: bool


Outcome = Answer | NoAnswer


class Transport:
    """Sends requests to one base URL over one bounded pool of connections, shared by all copies of a client.

    It keeps no cookies, so that callers who share it cannot share a session, and reads no proxy settings.
    """

    def __init__(self, base_url: str, options: ClientOptions | None = None, observe: Observer = ignore) -> None:
        self.observe = observe
        self.base_url = base_url.rstrip("/")
        self.options = options or ClientOptions()
        self.clock_ahead: float | None = None
        """Seconds by which Narrative's clock is ahead of ours, to about a second; None before it showed its time."""
        self._session: aiohttp.ClientSession | None = None
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    async def send(self, call: Call, token: str, deadline: float | None = None) -> Outcome:
        """Send one request and wait for its outcome, at most until `deadline` (loop time) or `total_timeout`."""
        if self._closed:
            return NoAnswer("the client is closed", sent=False)
        timeout = self.options.total_timeout
        if deadline is not None:
            timeout = min(timeout, deadline - asyncio.get_running_loop().time())
            if timeout <= 0:
                return NoAnswer("the deadline has passed", sent=False)
        started = time.monotonic()
        self._in_flight += 1
        self._idle.clear()
        outcome: Outcome = NoAnswer("cancelled", sent=True)
        try:
            outcome = await self._request(call, token, timeout)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # OSError includes every timeout; ValueError an answer that is no HTTP at all.
            outcome = NoAnswer(type(error).__name__, sent=not isinstance(error, _NEVER_SENT))
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()
            status = outcome.status if isinstance(outcome, Answer) else None
            self.observe(UpstreamCalled(call.operation.name.lower(), status, time.monotonic() - started))
        return outcome

    async def _request(self, call: Call, token: str, timeout: float) -> Answer:  # noqa: ASYNC109  aiohttp enforces it
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        if call.content is not None:
            headers["Content-Type"] = "application/json"
        query = f"?{urlencode(call.params)}" if call.params else ""
        async with self._open_session().request(
            call.method,
            URL(f"{self.base_url}{call.path}{query}", encoded=True),
            data=call.content,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                total=timeout,
                connect=self.options.pool_timeout,
                sock_connect=self.options.connect_timeout,
                sock_read=self.options.read_timeout,
            ),
        ) as response:
            self._set_clock(response.headers.get("date"))
            body = await self._read(response)
            return Answer(response.status, response.headers, body or b"", whole=body is not None)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes | None:
        """The body, or None when it breaks off or is too long: the status alone may still say enough."""
        pieces: list[bytes] = []
        size = 0
        try:
            async for piece in response.content.iter_any():
                size += len(piece)
                if size > self.options.max_answer_bytes:
                    response.close()
                    return None
                pieces.append(piece)
        except (aiohttp.ClientError, OSError):
            return None
        return b"".join(pieces)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            tls: ssl.SSLContext | bool = True
            if self.base_url.startswith("https:"):
                tls = ssl.create_default_context()
                tls.load_verify_locations(certifi.where())
            connector = aiohttp.TCPConnector(
                ssl=tls, limit=self.options.max_connections, keepalive_timeout=self.options.keepalive
            )
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    def _set_clock(self, date: str | None) -> None:
        try:
            shown = parsedate_to_datetime(date) if date else None
        except ValueError:
            return
        if shown is not None and shown.tzinfo is not None:
            self.clock_ahead = shown.timestamp() - time.time()

    async def aclose(self) -> None:
        """Wait a little for requests in flight, then close all connections, which ends the rest."""
        self._closed = True
        try:
            async with asyncio.timeout(self.options.closing_grace):
                await self._idle.wait()
        except TimeoutError:
            log.warning("closed the Narrative client with %d requests unanswered", self._in_flight)
        if self._session is not None:
            await self._session.close()

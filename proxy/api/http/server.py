"""The HTTP server: uvicorn with h11, and bounds on how long and how often clients may keep connections without making use of them.

    a connection that                         is closed after
    sends no request, or part of its headers  `header_timeout_s` (408)
    sends a body slowly                       `body_timeout_s`, and a second more for each KiB that came (408)
    does not read its response                `send_timeout_s` without progress
    is idle between requests                  `keep_alive_s`

At `max_connections` the one that has waited longest for a whole request is closed for a new one, so that these keep nobody out.

Of requests that arrive at once, only a few begin in each turn of the event loop, first come, first served, so that a burst of thousands
does not hold up the streams that are open and the probes of an orchestrator.
"""

import asyncio
import json
import sys
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, Literal

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from proxy.settings import Settings

_HARD_LIMIT_S: Final = 5
"""Seconds that clients who do not read have once everything is answered; the grace period before it is the app's (`proxy/lifecycle.py`)."""
_LAST_CHANCE_S: Final = 1.0
_BODY_BYTES_PER_SECOND: Final = 1024
_STARTS_PER_TURN: Final = 8
"""Requests that begin in one turn of the event loop; each takes about half a millisecond until it waits for something."""
_OWN_DESCRIPTORS: Final = 128
"""Kept for files, the store and the connections of listeners, beside those to upstreams."""

log = structlog.get_logger(__name__)


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration of a server with the limits that the settings ask for.

    Args:
        max_connections: of one process, where it is not that of the settings.
        options: further options of `uvicorn.Config`, such as a factory.
    """

    def __init__(self, app: Any, settings: Settings, *, max_connections: int | None = None, **options: Any) -> None:
        super().__init__(
            app,
            # Not httptools: it drops the body of a request that offers an upgrade, as Java's HTTP client does with every first one.
            http=_Connection,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here goes by a client's address
            host=settings.server.host,
            port=settings.server.port,
            workers=settings.server.workers,
            timeout_keep_alive=settings.server.keep_alive_s,
            timeout_graceful_shutdown=_HARD_LIMIT_S,
            **options,
        )
        self.limits = settings.server
        self.send_timeout_s = settings.chat.send_timeout_s
        self.max_connections = max_connections or settings.server.max_connections
        self.waiting: dict[_Connection, None] = {}
        """Connections whose client has sent no whole request yet, the one that has waited longest first."""
        self.starts = _Starts()


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns what is left for clients' connections besides the process's own."""
    if sys.platform == "win32":
        return 10_000
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 1 << 20) if hard != resource.RLIM_INFINITY else 1 << 20
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(soft - _OWN_DESCRIPTORS, 16)


class _Starts:
    """Which requests may begin in this turn of the event loop."""

    def __init__(self) -> None:
        self._left = _STARTS_PER_TURN
        self._queue: deque[_Connection] = deque()

    def take(self, connection: "_Connection") -> bool:
        """Whether the connection's request may begin now; else `begin` is called in a later turn."""
        if self._left == _STARTS_PER_TURN:
            connection.loop.call_soon(self._next_turn, connection.loop)
        if self._left:
            self._left -= 1
            return True
        self._queue.append(connection)
        return False

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = max(_STARTS_PER_TURN - len(self._queue), 0)
        for _ in range(min(_STARTS_PER_TURN, len(self._queue))):
            self._queue.popleft().begin()
        if self._left < _STARTS_PER_TURN:
            loop.call_soon(self._next_turn, loop)


@dataclass(slots=True, eq=False)
class Client:
    """Whether the client of one request is still there; where it has `left`, the task that is `answering` is cancelled.

    Each scope has one, as `proxy.client`: a task that waits for `http.disconnect` takes 2 KB of each request that waits.
    Under another server requests go on without their clients.
    """

    answering: asyncio.Task[None] | None = None
    left: bool = False

    def leave(self) -> None:
        """Called by the server."""
        self.left = True
        if self.answering is not None:
            self.answering.cancel()


class _Event(asyncio.Event):
    """An event for few waiters: the base class makes room for 64 of them at once, 760 bytes, of which each connection has two."""

    def __init__(self, *, value: bool) -> None:
        self._value = value
        self._waiters: list[asyncio.Future[bool]] = []  # type: ignore[assignment]


class _Connection(H11Protocol):
    """One client's connection."""

    config: ServerConfig
    # In slots, since the base class has nearly as many attributes as instances can share the layout of: beyond that each takes 1.2 KB.
    __slots__ = ("_body_bytes", "_client", "_overdue", "_read_timer", "_reading", "_unread", "_write_timer")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection; at the limit the one that has waited longest for a request makes room."""
        super().connection_made(transport)
        self.flow._is_writable_event = _Event(value=True)
        self._reading: Literal["headers", "body", "nothing"] = "nothing"  # what the client has to send in time
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._body_bytes, self._overdue = 0, False
        self._unread = b""  # the beginning of a request that waits for its turn
        waiting = self.config.waiting
        if len(self.connections) > self.config.max_connections:
            if not waiting:
                self._refuse(503, "The server has too many connections.")
                return
            oldest = next(iter(waiting))
            del waiting[oldest]
            self.connections.discard(oldest)
            oldest.transport.abort()
        waiting[self] = None
        self._expect("headers")

    def data_received(self, data: bytes) -> None:
        """Read on, now or, where a request begins, when it is its turn."""
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and data.startswith(b"POST ") and not self.config.starts.take(self):
            self._unread = data
            self.transport.pause_reading()
            self.config.waiting.pop(self, None)
            self._expect("nothing")
            return
        self._read(data)

    def begin(self) -> None:
        """Read the request that had to wait for its turn."""
        data, self._unread = self._unread, b""
        if data and not self.transport.is_closing():
            self.config.waiting[self] = None
            self.transport.resume_reading()
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Read on, and give the client time for what it has to send next."""
        super().data_received(data)
        self._body_bytes += len(data)
        match self.conn.their_state:
            case h11.IDLE:
                self._expect("headers")
            case h11.SEND_BODY:
                self._expect("body")
            case _:
                self.config.waiting.pop(self, None)
                self._expect("nothing")

    def handle_events(self) -> None:
        """Give each request that begins what its task works with."""
        cycle = self.cycle
        super().handle_events()
        if self.cycle is not cycle:  # its task has not begun
            self.cycle.message_event = _Event(value=self.cycle.message_event.is_set())
            self._client = self.scope["proxy.client"] = Client()  # type: ignore[typeddict-unknown-key]

    def on_response_complete(self) -> None:
        """The client may send another request."""
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE:
            self.config.waiting[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop every timer."""
        self._unread = b""
        self.config.waiting.pop(self, None)
        self._expect("nothing")
        if self._write_timer is not None:
            self._cancel_write_timer()
        super().connection_lost(exc)
        if self.cycle is not None and not self.cycle.response_complete:
            self._client.leave()

    def pause_writing(self) -> None:
        """The client reads more slowly than the response is written."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self._cancel_write_timer()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also that of a client that has not read its response."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # a plain close would wait for a client that does not read
        else:
            super().timeout_keep_alive_handler()

    def _expect(self, what: Literal["headers", "body", "nothing"]) -> None:
        if what == self._reading:
            return
        self._reading = what
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
        if what != "nothing":
            limits = self.config.limits
            timeout = limits.header_timeout_s if what == "headers" else limits.body_timeout_s
            self._body_bytes, self._overdue = 0, False
            self._read_timer = self.loop.call_later(timeout, self._read_timed_out, timeout)

    def _read_timed_out(self, allowed: float) -> None:
        earned = self.config.limits.body_timeout_s + self._body_bytes / _BODY_BYTES_PER_SECOND
        if self._reading == "body" and (self.flow.read_paused or earned > allowed):
            # The application does not read on, or the client sends fast enough.
            wait = max(earned - allowed, 1.0)
            self._read_timer = self.loop.call_later(wait, self._read_timed_out, allowed + wait)
            return
        if not self._overdue:
            # On a busy server the rest may have arrived, and not been read.
            self._overdue = True
            self._read_timer = self.loop.call_later(_LAST_CHANCE_S, self._read_timed_out, allowed)
            return
        log.debug("a client did not send its request in time", waited_for=self._reading)
        self._refuse(408, f"The request's {self._reading} did not arrive in time.")

    def _refuse(self, status: int, message: str) -> None:
        """Answer what no application will, and close."""
        self._expect("nothing")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._client.leave()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
            body = json.dumps({"error": error}).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
                ("retry-after", "1"),
            ]
            for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch_writing(self) -> None:
        self._cancel_write_timer()
        unsent = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self.config.send_timeout_s, self._write_timed_out, unsent)

    def _write_timed_out(self, unsent: int) -> None:
        if self.transport.get_write_buffer_size() < unsent:
            self._watch_writing()
        else:
            log.info("a client stopped reading its response")
            self.transport.abort()

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

"""Shutdown: requests in flight are finished within a grace period, and nothing new is begun.

    SIGTERM      `readyz` fails, new requests and those without a job are answered 503, those with one go on
    all ended    the server stops, once no request has come for a moment
    grace over   what is left is answered with an error, also inside streams; then the server stops
    again        the grace period is over

The listener stays open until then: a load balancer learns from `readyz` that it must send nothing more.
"""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

import structlog

from proxy.errors import Overloaded

_LAST_ERRORS_S: Final = 2.0
"""Seconds that the last errors may take to be written."""
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_QUIET_S: Final = 0.3
_CHECK_EVERY_S: Final = 0.05
_RETRY_AFTER_S: Final = 2.0

log = structlog.get_logger(__name__)


class Lifecycle:
    """Counts the requests in flight, and drains the process.

    Args:
        grace_s: seconds that requests in flight are given.
        resumable: whether a retry on another replica can take up what is left unfinished: then clients are asked to retry.
    """

    def __init__(self, grace_s: float, *, resumable: bool = False) -> None:
        self._grace_s = grace_s
        self._resumable = resumable
        self.draining = False
        """No new requests are taken."""
        self.in_flight = 0
        """Requests that are being answered."""
        self._over = False
        self._task: asyncio.Task[None] | None = None
        self._cancel_when_over: set[asyncio.Task[object]] = set()
        self._on_drain: list[Callable[[], None]] = []
        self._last_arrival = 0.0

    def enter(self) -> Overloaded | None:
        """Count a new request, unless the process drains: then the error for it, since nothing was begun and a retry elsewhere can help."""
        self._last_arrival = time.monotonic()
        if self.draining:
            return Overloaded("The server is shutting down.", retry_after=_RETRY_AFTER_S)
        self.in_flight += 1
        return None

    def leave(self) -> None:
        """A request that was counted has ended."""
        self.in_flight -= 1

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Have something called when the process begins to drain, such as the refusal of all that waits in a queue."""
        self._on_drain.append(callback)

    def drain(self, then: Callable[[], None]) -> None:
        """Take nothing new, and call `then` when everything is answered. May be called once."""
        log.info("draining", in_flight=self.in_flight, grace_s=self._grace_s)
        self.draining = True
        self._task = asyncio.create_task(self._drain(then))
        for callback in self._on_drain:
            callback()

    def _overloaded(self) -> Overloaded:
        return Overloaded("The server is shutting down.", retry_after=_RETRY_AFTER_S if self._resumable else None)

    def end_grace(self) -> None:
        """End the grace period now."""
        self._over = True
        while self._cancel_when_over:
            self._cancel_when_over.pop().cancel()

    async def _drain(self, then: Callable[[], None]) -> None:
        await _until(lambda: not self.in_flight or self._over, self._grace_s)
        if self.in_flight:
            log.warning("the grace period is over", in_flight=self.in_flight)
            self.end_grace()
            await _until(lambda: not self.in_flight, _LAST_ERRORS_S)
        # A request that is on its way gets an answer and not a broken connection.
        self._last_arrival = time.monotonic()
        await _until(lambda: time.monotonic() >= self._last_arrival + _QUIET_S, _LAST_ERRORS_S)
        then()


@dataclass(slots=True)
class UnlessOver:
    """Around work of the current task that is cancelled when the grace period is over. Raises Overloaded: it is.

    A class, since thousands wait in it: a generator takes eight times the memory.
    """

    _lifecycle: Lifecycle
    _task: asyncio.Task[object] = field(init=False)
    _cancelled_before: int = field(init=False)

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be cancelled")
        if self._lifecycle._over:
            raise self._lifecycle._overloaded()
        self._task, self._cancelled_before = task, task.cancelling()
        self._lifecycle._cancel_when_over.add(task)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        lifecycle, task = self._lifecycle, self._task
        ours = task not in lifecycle._cancel_when_over  # `end_grace` took it out when it cancelled it
        lifecycle._cancel_when_over.discard(task)
        # A client that left at the same time cancels the task as well: then it stays cancelled.
        if isinstance(error, asyncio.CancelledError) and ours and task.uncancel() <= self._cancelled_before:
            raise lifecycle._overloaded() from None


async def _until(condition: Callable[[], bool], most_s: float) -> None:
    end = time.monotonic() + most_s
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110  these conditions have no event
        await asyncio.sleep(_CHECK_EVERY_S)


@contextmanager
def drain_on_signals(lifecycle: Lifecycle) -> Iterator[None]:
    """Have the server's own handlers of stop signals called only once the process is drained.

    Does nothing outside the main thread, where there are no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    handlers = {number: handler for number in _STOP_SIGNALS if callable(handler := signal.getsignal(number))}
    seen: set[int] = set()

    def _stop(number: int, frame: FrameType | None) -> None:
        handler = handlers[signal.Signals(number)]
        if number in seen:
            loop.call_soon_threadsafe(lifecycle.end_grace)
        elif not seen:
            loop.call_soon_threadsafe(lifecycle.drain, lambda: handler(number, None))
        # SIGINT followed by SIGTERM is one stop: a terminal sends SIGINT to all processes, and the parent of workers then SIGTERM.
        seen.add(number)

    for number in handlers:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

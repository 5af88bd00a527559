"""Responses that take long: JSON that is waited for, and streams of server-sent events. Both notice at once that their client left.

    what happens           the last bytes of a stream              `on_close`
    all events were sent   `end`                                   delivered
    the run fails          an error event                          not delivered
    the client leaves      none                                    not delivered; the waiting is cancelled
    a bug                  an error event: internal_error          not delivered

A client that does not read is not waited for longer than the server's send timeout (`proxy/api/http/server.py`).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.errors import InternalError, ProxyError

T = TypeVar("T")
COMMENT: Final = b": waiting\n"
"""A heartbeat that every reader of server-sent events skips."""
_MOST_PIECES: Final = 300
"""Events that an answer is cut into, about; see `proxy/inference/result.py`."""

log = structlog.get_logger(__name__)


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which is cancelled at once when the client leaves.

    The request's body must have been read: what the client sends after it can only be that it is gone.

    Raises:
        ClientDisconnect: it left.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        await _cancel(task, gone)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a response needs of the answer that it delivers.

    Attributes:
        headers: asked for when the status is sent.
        error: the bytes of a failure after that: a whole body, or the last event of a stream.
        on_close: called once, with whether the whole answer was sent.
    """

    headers: Callable[[], Mapping[str, str]]
    error: Callable[[ProxyError], bytes]
    on_close: Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """Times of a stream, in seconds.

    Attributes:
        heartbeat_s: after so long without an event a heartbeat is sent; 0 is never.
        spread_s: events that are known at once are spread over this time at most.
        heartbeat: a heartbeat's bytes.
    """

    heartbeat_s: float = 0.0
    spread_s: float = 0.0
    heartbeat: Callable[[], bytes] = lambda: COMMENT


async def json_response(
    request: Request, body: Coroutine[Any, Any, bytes], delivery: Delivery, keep_alive_s: float = 0.0
) -> Response:
    """The response to an accepted request, once its body is known, or with blanks ahead of it from `keep_alive_s` on.

    The blanks keep connections from being taken for idle. The first one settles the status, so that a failure after it is an error
    object in a 200.

    Args:
        keep_alive_s: seconds between the blanks; 0 is none.

    Raises:
        ClientDisconnect: the client left before the first blank.
        ProxyError: of `body`, before the first blank.
    """
    task = asyncio.create_task(unless_disconnected(request.receive, body))
    try:
        await asyncio.wait({task}, timeout=keep_alive_s or None)
        if not task.done():
            return _KeptAlive(task, delivery, keep_alive_s)
        return _Whole(task.result(), delivery)
    except BaseException:
        await _cancel(task)
        delivery.on_close(False)
        raise


class _Whole(Response):
    """A body, and what is to be called once it was sent, or could not be."""

    media_type = "application/json"

    def __init__(self, body: bytes, delivery: Delivery) -> None:
        super().__init__(body, headers=delivery.headers())
        self._delivery = delivery

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = False
        try:
            await super().__call__(scope, receive, send)
            sent = True
        finally:
            self._delivery.on_close(sent)


class _KeptAlive(Response):
    """Blanks until the body is there, then the body."""

    media_type = "application/json"

    def __init__(self, task: asyncio.Task[bytes], delivery: Delivery, every_s: float) -> None:
        super().__init__(headers={**delivery.headers(), "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._task, self._delivery, self._every_s = task, delivery, every_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = False
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while not self._task.done():
                await send({"type": "http.response.body", "body": b" ", "more_body": True})
                await asyncio.wait({self._task}, timeout=self._every_s)
            await send({"type": "http.response.body", "body": self._json(), "more_body": False})
            sent = self._task.exception() is None
        except ClientDisconnect:
            log.info("the client left before its answer")
        finally:
            await _cancel(self._task)
            self._delivery.on_close(sent)

    def _json(self) -> bytes:
        try:
            return self._task.result()
        except ProxyError as error:
            log.warning("answer failed after its status was sent", code=error.code, job=error.job_id)
            return self._delivery.error(error)


class EventStream(Response):
    """A stream of server-sent events, written as fast as its client reads.

    Args:
        batches: events, encoded; each item of a batch is one whole event. A batch is iterated lazily, and the next event is asked for
            only after the one before was handed to the connection: code behind a `yield` runs once its event was sent.
        end: the last event of a stream that did not fail.
    """

    media_type = "text/event-stream"

    def __init__(
        self, batches: AsyncGenerator[Iterable[bytes], None], end: bytes, delivery: Delivery, pace: Pace
    ) -> None:
        unbuffered = {"cache-control": "no-cache, no-store, no-transform", "x-accel-buffering": "no"}
        super().__init__(headers={**delivery.headers(), **unbuffered})
        del self.headers["content-length"]
        self._batches, self._end, self._delivery, self._pace = batches, end, delivery, pace
        self._sent = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(data: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await unless_disconnected(receive, self._write(write))
        except ClientDisconnect:
            log.info("the client left its stream")
        finally:
            self._delivery.on_close(self._sent)

    async def _write(self, write: Callable[..., Coroutine[Any, Any, None]]) -> None:
        try:
            await self._write_events(write)
            await write(self._end)
            self._sent = True
        except ProxyError as error:
            log.warning("stream failed", code=error.code, job=error.job_id)
            await write(self._delivery.error(error))
        except Exception:
            log.exception("stream failed")
            await write(self._delivery.error(InternalError("The server had an error while answering.")))
        await write(b"", False)

    async def _write_events(self, write: Callable[..., Coroutine[Any, Any, None]]) -> None:
        pace, left = self._pace, self._pace.spread_s
        pause = left / _MOST_PIECES
        waiting = asyncio.create_task(anext(self._batches, None))
        try:
            while True:
                done, _ = await asyncio.wait({waiting}, timeout=pace.heartbeat_s or None)
                if not done:
                    await write(pace.heartbeat())
                    continue
                batch = waiting.result()
                if batch is None:
                    return
                for event in batch:
                    await write(event)
                    left -= pause
                    # A client that reads fast never makes `write` wait: others get their turn here.
                    await asyncio.sleep(pause if left > 0 else 0)
                waiting = asyncio.create_task(anext(self._batches, None))
        finally:
            await _cancel(waiting)
            await self._batches.aclose()


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Have tasks end, whatever their outcome."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

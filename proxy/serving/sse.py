"""A stream's bytes: events, heartbeats, and every way a stream can end, in the voice of the face it is for.

    what happens           the last bytes                          what becomes of the jobs
    all jobs end           finish chunks, usage, the end event     read
    a job fails            an error event                          paid; no repeat is invited
    the deadline passes    an error event with code 504's          left to end by themselves, logged
    the client leaves      none                                    left; the waiting stops at once
    the server drains      finish within the grace period, else    left
                           an error event
    a bug                  an error event: internal_error          left

Source: contracts `heroku-chat.md` and `elastic-inference.md`, what they say of streams.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from proxy.errors import InternalError, ProxyError
from proxy.serving.upstream import Answer
from proxy.serving.waiting import abandon
from proxy.settings import ChatSettings
from proxy.translate.chunks import heartbeat_after
from proxy.wire.openai import Chunk

_COMMENT = b": waiting\n"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Voice:
    """How a face writes a stream. Every item of bytes is one whole event.

    Attributes:
        chunk: the events that tell of a chunk; none where the face leaves it out.
        error: the last event of a stream that failed.
        done: the last event of one that did not.
    """

    chunk: Callable[[Chunk], Iterable[bytes]]
    error: Callable[[ProxyError], bytes]
    done: bytes


def event_stream(answer: Answer, settings: ChatSettings, voice: Voice) -> EventSourceResponse:
    """The response that streams an answer whose request was accepted."""
    return _Stream(
        answer,
        _events(answer, settings, voice),
        headers={**answer.headers, "cache-control": "no-cache, no-store, no-transform"},
        sep="\n",
        ping=0,  # the library's own pings would end in an empty line
        send_timeout=settings.send_timeout_s,
    )


class _Stream(EventSourceResponse):
    """Closes its answer however it ends, begun or not."""

    def __init__(self, answer: Answer, content: AsyncIterator[bytes], **options: Any) -> None:
        super().__init__(content, **options)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close(delivered=False)


async def _events(answer: Answer, settings: ChatSettings, voice: Voice) -> AsyncIterator[bytes]:
    """Each item is one whole event, or one comment line."""
    batches = answer.batches()
    waiting = asyncio.create_task(anext(batches, None))
    last: Chunk | None = None
    try:
        while True:
            if not await _done(waiting, settings.heartbeat_s):
                beats = (
                    () if settings.heartbeat_style == "comment" or last is None else voice.chunk(heartbeat_after(last))
                )
                for beat in beats or (_COMMENT,):
                    yield beat
                continue
            batch = waiting.result()
            if batch is None:
                break
            for last in batch:
                for event in voice.chunk(last):
                    yield event
            waiting = asyncio.create_task(anext(batches, None))
        yield voice.done
        answer.close(delivered=True)
    except ProxyError as error:
        log.warning("stream failed", code=error.code, job=error.job_id)
        yield voice.error(error)
    except Exception:
        log.exception("stream failed")
        yield voice.error(InternalError("The server had an error while answering."))
    finally:
        abandon(waiting)


async def _done(task: asyncio.Task[Any], heartbeat_s: float) -> bool:
    """Wait until a task is done or a heartbeat is due (never, when that is 0)."""
    done, _ = await asyncio.wait({task}, timeout=heartbeat_s or None)
    return bool(done)

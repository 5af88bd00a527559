"""A stream's bytes: events, heartbeats, and every way a stream can end.

    what happens           the last bytes                          what becomes of the jobs
    all jobs end           finish chunks, usage, event: done       read
    a job fails            data: {"error": …}                      paid; no repeat is invited
    the deadline passes    data: {"error": …} with code 504's      left to end by themselves, logged
    the client leaves      none                                    left; the waiting stops at once
    the server drains      finish within the grace period, else    left
                           data: {"error": …}
    a bug                  data: {"error": internal_error}         left

Source: contract `heroku-chat.md`, section Stream.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import structlog
from sse_starlette import EventSourceResponse

from proxy.chat.errors import error_answer
from proxy.chat.jsonbytes import json_line
from proxy.chat.upstream import Answer
from proxy.chat.waiting import abandon
from proxy.errors import InternalError, ProxyError
from proxy.settings import ChatSettings
from proxy.translate.chunks import heartbeat_after
from proxy.wire.openai import Chunk

_DONE = b"event: done\ndata: [DONE]\n\n"
_COMMENT = b": waiting\n"

log = structlog.get_logger(__name__)


def event_stream(answer: Answer, settings: ChatSettings) -> EventSourceResponse:
    """The response that streams an answer whose request was accepted."""
    return EventSourceResponse(
        _events(answer, settings),
        headers={**answer.headers, "cache-control": "no-cache, no-store, no-transform"},
        sep="\n",
        ping=0,  # the library's own pings would end in an empty line
        send_timeout=settings.send_timeout_s,
    )


async def _events(answer: Answer, settings: ChatSettings) -> AsyncIterator[bytes]:
    """Each item is one whole event, or one comment line."""
    batches = answer.batches()
    waiting = asyncio.create_task(anext(batches, None))
    last: Chunk | None = None
    try:
        while True:
            if not await _done(waiting, settings.heartbeat_s):
                beat = None if settings.heartbeat_style == "comment" else last
                yield _COMMENT if beat is None else _event(heartbeat_after(beat))
                continue
            batch = waiting.result()
            if batch is None:
                break
            for last in batch:
                yield _event(last)
            waiting = asyncio.create_task(anext(batches, None))
        yield _DONE
    except ProxyError as error:
        log.warning("stream failed", code=error.code, job=error.job_id)
        yield _event(error_answer(error))
    except Exception:
        log.exception("stream failed")
        yield _event(error_answer(InternalError("The server had an error while answering.")))
    finally:
        abandon(waiting)


async def _done(task: asyncio.Task[Any], heartbeat_s: float) -> bool:
    """Wait until a task is done or a heartbeat is due (never, when that is 0)."""
    done, _ = await asyncio.wait({task}, timeout=heartbeat_s or None)
    return bool(done)


def _event(value: object) -> bytes:
    return b"data: " + json_line(value) + b"\n\n"

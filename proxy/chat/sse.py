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
from collections.abc import AsyncIterator, Mapping
from typing import Any

import structlog
from sse_starlette import EventSourceResponse

from proxy.chat.answering import Answering
from proxy.chat.errors import error_answer
from proxy.chat.jsonbytes import json_line
from proxy.chat.waiting import abandon
from proxy.errors import InternalError, ProxyError
from proxy.settings import ChatSettings
from proxy.translate.chunks import closing_chunks, heartbeat_chunk, opening_chunks
from proxy.translate.reply import Stamp, completion

_DONE = b"event: done\ndata: [DONE]\n\n"
_COMMENT = b": waiting\n"

log = structlog.get_logger(__name__)


def event_stream(
    answering: Answering, stamp: Stamp, settings: ChatSettings, headers: Mapping[str, str]
) -> EventSourceResponse:
    """The response that streams an answer whose jobs are submitted."""
    return EventSourceResponse(
        _events(answering, stamp, settings),
        headers={**headers, "cache-control": "no-cache, no-store, no-transform"},
        sep="\n",
        ping=0,  # the library's own pings would end in an empty line
        send_timeout=settings.send_timeout_s,
    )


async def _events(answering: Answering, stamp: Stamp, settings: ChatSettings) -> AsyncIterator[bytes]:
    """Each item is one or more whole events, or one comment line."""
    plan = answering.plan
    endings = asyncio.create_task(answering.endings())
    try:
        yield b"".join(_event(chunk) for chunk in opening_chunks(stamp, plan.choices, include_usage=plan.include_usage))
        while not await _done(endings, settings.heartbeat_s):
            if settings.heartbeat_style == "comment":
                yield _COMMENT
            else:
                yield _event(heartbeat_chunk(stamp, include_usage=plan.include_usage))
        whole = completion(plan, stamp, endings.result())
        for chunk in closing_chunks(whole, include_usage=plan.include_usage):
            yield _event(chunk)
        yield _DONE
    except ProxyError as error:
        log.warning("stream failed", code=error.code, job=error.job_id)
        yield _event(error_answer(error))
    except Exception:
        log.exception("stream failed")
        yield _event(error_answer(InternalError("The server had an error while answering.")))
    finally:
        abandon(endings)


async def _done(task: asyncio.Task[Any], heartbeat_s: float) -> bool:
    """Wait until a task is done or a heartbeat is due (never, when that is 0)."""
    done, _ = await asyncio.wait({task}, timeout=heartbeat_s or None)
    return bool(done)


def _event(value: object) -> bytes:
    return b"data: " + json_line(value) + b"\n\n"

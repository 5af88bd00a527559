"""Routes of stored responses: to retrieve them, whole or as events, to cancel and delete them, and to list the items of their input."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from proxy.access.authentication import Caller
from proxy.api.http.requests import enter, query_number, terms_of
from proxy.api.http.responses import COMMENT, EVENT_STREAM, json_response, report_headers
from proxy.api.openai.responses.background import Background
from proxy.api.openai.responses.encode import FINAL, failed, input_item
from proxy.api.openai.responses.store import StoredResponse
from proxy.api.openai.responses.stream import begin_events, end_events, event_bytes
from proxy.api.openai.routes import page_response
from proxy.batches.files import computed
from proxy.errors import InvalidRequest, Overloaded, ProxyError
from proxy.inference.backend import Report

_LARGE_BYTES: Final = 64 * 1024
_STORE_AWAY_S: Final = 60.0
"""How long a stream of a background response outlasts an outage of the store."""


async def retrieve(request: Request) -> Response:
    """`GET /v1/responses/{id}`: a stored response, or with `stream=true` its events after `starting_after`."""
    background, caller, stored = await _find(request)
    stored = await background.revived(stored, caller)
    if request.query_params.get("stream", "").lower() not in ("true", "1"):
        return await computed(stored.size, partial(json_response, stored.response))
    after = query_number(request, "starting_after", -1, 2**31, least=0)
    _, heartbeat_s = terms_of(request.headers, background.api.settings.chat.heartbeat_s)
    return stream_of(background, stored, caller, heartbeat_s, after)


async def cancel(request: Request) -> Response:
    """`POST /v1/responses/{id}/cancel`: a background response is cancelled, unless it has ended. Its job runs on, and is paid."""
    background, caller, stored = await _find(request)
    if not stored.response["background"]:
        raise InvalidRequest("Only background responses can be cancelled.", param="response_id")
    response, cancelled = await background.cancel(stored, caller)
    adjusted = "background: the job runs on at Narrative, and is paid; its result is dropped"
    return json_response(response, report_headers(Report(adjusted=(adjusted,))) if cancelled else None)


async def delete(request: Request) -> Response:
    """`DELETE /v1/responses/{id}`: it is removed from the store; a job of it runs on."""
    background, _, stored = await _find(request)
    await background.store.remove(stored.id)
    return json_response({"id": stored.response["id"], "object": "response", "deleted": True})


async def list_input_items(request: Request) -> Response:
    """`GET /v1/responses/{id}/input_items`: the items of its own request, in pages."""
    _, _, stored = await _find(request)
    if stored.input is None:
        message = "The items of this response were too large to be kept."
        raise InvalidRequest(message, param="response_id", code="input_not_stored")
    # In a thread: there may be 50,000.
    items = await asyncio.to_thread(lambda: [input_item(stored.id, *each) for each in enumerate(stored.input or ())])
    return page_response(request, items, oldest_first=True)


async def _find(request: Request) -> tuple[Background, Caller, StoredResponse]:
    """Raises ResponseNotFound."""
    background: Background = request.state.responses
    _, caller = await enter(request)
    return background, caller, await background.store.find(request.path_params["id"], caller)


def stream_of(
    background: Background, stored: StoredResponse, caller: Caller, heartbeat_s: float, after: int = -1
) -> Response:
    """The events of a stored response, from the one that follows `after`; live while it is being worked on."""
    media_type, *headers = EVENT_STREAM
    return StreamingResponse(
        _events_of(background, stored, caller, heartbeat_s, after),
        media_type=media_type.decode(),
        headers={name.decode(): value.decode() for name, value in headers},
    )


async def _events_of(
    background: Background, stored: StoredResponse, caller: Caller, heartbeat_s: float, after: int
) -> AsyncIterator[bytes]:
    """Heartbeats are comments, so that every reader finds the same numbers."""
    number, large = -1, stored.size >= _LARGE_BYTES
    for event in begin_events(stored.response, large=large):
        number = event["sequence_number"]
        if number > after:
            yield await asyncio.to_thread(event_bytes, event) if large else event_bytes(event)
    response, until = stored.response, math.inf
    try:
        while response["status"] not in FINAL:
            try:
                ended, until = await background.ended(stored, caller, heartbeat_s), math.inf
            except Overloaded as error:  # the store is away; the response goes on without it
                until = min(until, time.monotonic() + _STORE_AWAY_S)
                if time.monotonic() >= until:
                    raise
                await asyncio.sleep(error.retry_after or 1.0)
                ended = None
            if ended is None:
                yield COMMENT
            else:
                response = ended
    except ProxyError as error:
        response = failed(response, error)
    for event in end_events(response, number + 1):
        if event["sequence_number"] > after:
            yield await asyncio.to_thread(event_bytes, event) if large and "response" in event else event_bytes(event)
            await asyncio.sleep(0)

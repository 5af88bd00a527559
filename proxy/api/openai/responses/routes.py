"""Routes of the Responses API, each with and without `/v1` and a trailing slash."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from proxy.access.authentication import Caller, presented_keys
from proxy.api.http.requests import LARGE_BYTES, computed, enter, query_number, read_request, terms_of
from proxy.api.http.responses import (
    COMMENT,
    EVENT_STREAM,
    RunResponse,
    StreamResponse,
    WholeResponse,
    json_response,
    report_headers,
)
from proxy.api.openai.encode import error_body
from proxy.api.openai.responses.background import API, Background, DecodedRequest
from proxy.api.openai.responses.decode import turn_of
from proxy.api.openai.responses.encode import FINAL, failed, finished, input_item
from proxy.api.openai.responses.store import StoredResponse, response_id
from proxy.api.openai.responses.stream import ResponseStreamEncoder, begin_events, end_events, event_bytes
from proxy.api.openai.routes import page_response, route
from proxy.errors import InvalidRequest, Overloaded, PaidFailure, ProxyError, UnknownUrl
from proxy.inference.backend import Report, Run
from proxy.inference.idempotency import Terms
from proxy.inference.request import JsonObject
from proxy.inference.result import Event, Result
from proxy.schemas.values import json_bytes
from proxy.settings import ChatSettings

_BEGIN_AFTER_S: Final = 0.5
"""How long the upstream may take to refuse a request before its stream begins."""
_BYTES_PER_TOKEN: Final = 4

_STORE_AWAY_S: Final = 60.0
"""How long a stream of a background response outlasts an outage of the store."""


def responses_routes() -> list[Route]:
    """All of them."""
    return [
        *route("/responses", create, "POST"),
        *route("/responses", no_sockets, "GET"),
        *route("/responses/input_tokens", count_tokens, "POST"),
        *route("/responses/compact", not_served, "POST"),
        *route("/responses/{id}", retrieve, "GET"),
        *route("/responses/{id}", delete, "DELETE"),
        *route("/responses/{id}/cancel", cancel, "POST"),
        *route("/responses/{id}/input_items", list_input_items, "GET"),
        *(
            Route(f"{prefix}/conversations{rest}", not_served, methods=["GET", "POST", "DELETE"])
            for prefix in ("/v1", "")
            for rest in ("", "/{rest:path}")
        ),
    ]


# ---------------------------------------------------------------- create


async def create(request: Request) -> RunResponse | Response:
    """`POST /v1/responses`: whole, streamed, or in the background. Whatever can be refused is refused before a response begins."""
    background, caller, asked = await _read(request)
    settings = background.api.settings
    heartbeat_s = settings.chat.heartbeat_s if asked.reply.stream else settings.chat.keepalive_json_s
    terms, heartbeat_s = terms_of(request.headers, heartbeat_s)
    turn = turn_of(asked.raw)
    if terms.key is None and turn is not None:
        terms = replace(terms, key=f"turn:{turn}:{asked.digest}", derived_ttl_s=settings.state.adopt_ttl_s)
    credential = "".join(presented_keys(request.headers)[:1])
    if asked.reply.background:
        stored = await background.start(asked, caller, terms, credential)
        make = partial(stream_of, background, stored, caller, heartbeat_s)
        response = make() if asked.reply.stream else json_response(stored.response)
        response.headers.update(report_headers(Report(ignored=asked.request.ignored, adjusted=asked.request.adjusted)))
        return response
    answer = _ResponseRun(background, asked, caller, terms, credential)
    if asked.reply.stream:
        return _ResponseStream(answer, heartbeat_s, settings.chat)
    return WholeResponse(answer.start, answer.body, error_body, heartbeat_s)


async def count_tokens(request: Request) -> Response:
    """`POST /v1/responses/input_tokens`: an estimate, without a job. It may leave the model out."""
    *_, asked = await _read(request, may_name_no_model=True)
    tokens = max(1, asked.request.body_bytes // _BYTES_PER_TOKEN)
    return json_response({"object": "response.input_tokens", "input_tokens": tokens})


async def _read(request: Request, *, may_name_no_model: bool = False) -> tuple[Background, Caller, DecodedRequest]:
    """The services, the caller and the decoded body.

    Raises:
        ProxyError: the caller is not known, the body is wrong, it refers to what is not stored, or there is no such model.
    """
    background: Background = request.state.responses
    api, caller = await enter(request)
    raw, size, _ = await read_request(request, partial(api.find, caller=caller))
    if may_name_no_model and raw.get("model") is None:
        raw["model"] = api.catalog.cards[0].id
    return background, caller, await background.decoded(raw, size, caller)


class _ResponseRun:
    """One request on its way to a response that is not in the background; as a run, one whose response is stored before it is delivered."""

    def __init__(
        self, background: Background, asked: DecodedRequest, caller: Caller, terms: Terms, credential: str
    ) -> None:
        self.asked, self.terms = asked, terms
        self.id = ""
        """The hexadecimal part of its id; empty until it is accepted."""
        self.accepted: Callable[[], None] = lambda: None
        self._background, self._caller, self._credential = background, caller, credential
        self._run: Run
        self._response: JsonObject = {}

    async def start(self) -> Run:
        """Have the request accepted. Raises ProxyError."""
        asked = self.asked
        self._run = await self._background.api.backend.start(
            asked.request, self._caller, self.terms, api=API, body=asked.digest, accepted=self._accepted
        )
        return self

    def _accepted(self, place: str) -> None:
        if not self.id:
            self.id = response_id(self._credential, place)
            self.accepted()

    def refused(self) -> None:
        """Give the response an id although its request was not accepted."""
        self.id = self.id or response_id(self._credential, self.asked.digest)

    def seal(self, text: str) -> str:
        """Seal a reasoning trace."""
        return self._background.store.seal(self._caller, text)

    async def stored(self, response: JsonObject) -> JsonObject:
        """Store a whole response; returns it as it is to be sent."""
        self._response = await self._background.stored(self.id, response, self.asked, self._caller)
        return self._response

    def body(self, result: Result) -> bytes:
        """The JSON of the response, once there is a result."""
        return json_bytes(self._response)

    # ------------------------------------------------------------ as a run: see `proxy.inference.backend.Run`

    @property
    def report(self) -> Report:
        """See `Run`."""
        report = self._run.report
        if self.asked.reply.store and self._response.get("store") is False:
            sentence = "store: false, as the response could not be stored"
            report = replace(report, adjusted=(*report.adjusted, sentence))
        return report

    async def result(self) -> Result:
        """See `Run`; the response is stored."""
        result = await self._run.result()
        whole = finished(self.id, result, self.asked.reply, self.seal, int(time.time()))
        await self.stored(whole)
        return result

    def events(self) -> AsyncIterator[Iterable[Event]]:
        """See `Run`."""
        return self._run.events()

    def close(self, *, delivered: bool) -> None:
        """See `Run`."""
        self._run.close(delivered=delivered)


class _ResponseStream(StreamResponse):
    """The server-sent events of a response.

    They begin when the upstream has accepted the request, or does not answer at once: until then a refusal is a status. Whatever breaks
    after that, the last event is terminal.
    """

    delivered_by_choices = False

    def __init__(self, answer: _ResponseRun, heartbeat_s: float, chat: ChatSettings) -> None:
        self._running = answer
        self._events = ResponseStreamEncoder(answer.asked.reply, answer.seal)
        chunks = chat.model_copy(update={"heartbeat_style": "chunk"})
        super().__init__(answer.start, self._events, heartbeat_s, chunks)

    async def _write_all(self, send: Send) -> None:
        answer, opening = self._running, None

        async def open_later() -> None:
            await asyncio.sleep(_BEGIN_AFTER_S)
            await self._open(send)

        def accepted() -> None:
            nonlocal opening
            opening = asyncio.create_task(open_later())

        answer.accepted = accepted
        try:
            run = await self._accepted()
        except PaidFailure:
            # Of what has a status Codex repeats each request four times more than of what ends a stream.
            if answer.terms.derived_ttl_s:
                answer.refused()
                await self._open(send)
            raise
        finally:
            if opening is not None and not self._begun:
                opening.cancel()
        await self._open(send)
        await self._write_events(run, send)
        response = await answer.stored(self._events.finished(int(time.time())))
        await self._write(self._events.finish(response), send)

    async def _open(self, send: Send) -> None:
        if not self._held:
            self._held.append(self._events.begin(self._running.id, int(time.time())))
        await super()._open(send)


# ---------------------------------------------------------------- stored responses


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
    number, large = -1, stored.size >= LARGE_BYTES
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


# ---------------------------------------------------------------- what is not served


async def not_served(request: Request) -> Response:
    """Raises UnknownUrl."""
    raise UnknownUrl(
        "Conversations and compaction are not served here: send the items, or `previous_response_id`, to POST /v1/responses."
    )


async def no_sockets(request: Request) -> Response:
    """Raises UnknownUrl."""
    raise UnknownUrl("WebSockets are not served here: stream the response of POST /v1/responses.")

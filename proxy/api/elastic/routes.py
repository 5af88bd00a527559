"""Routes of Elastic's inference API, and its inference calls. Source: contract `elastic-inference.md`."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from proxy.api.elastic.codec import (
    ChatEncoder,
    CompletionBody,
    CompletionEncoder,
    completion_digest,
    completion_requests,
    error_out,
    error_status,
    timeout_seconds,
)
from proxy.api.elastic.endpoints import ElasticServices, delete_endpoint, get_endpoints, inference_call, put_endpoint
from proxy.api.http.middleware import shown_path
from proxy.api.http.requests import read_object, terms_of, validated
from proxy.api.http.responses import (
    RunResponse,
    StreamEncoder,
    StreamResponse,
    WholeResponse,
    json_response,
)
from proxy.errors import (
    InvalidApiKey,
    InvalidRequest,
    ProxyError,
    error_headers,
)
from proxy.inference.backend import Report, Run
from proxy.inference.idempotency import Terms
from proxy.inference.result import Event, Result, result_events

API: Final = "elastic"
"""Its name in the digests of equal requests."""
_PATH: Final = "/_inference"
_COMPATIBLE: Final = re.compile(r"application/vnd\.elasticsearch\+json\s*;\s*compatible-with=\d{1,3}")

Handler = Callable[[Request, ElasticServices], Awaitable[RunResponse | Response]]


def elastic_routes() -> list[Route]:
    """All of them."""
    routes: list[tuple[str, Handler, str]] = [
        ("/_inference", get_endpoints, "GET"),
        ("/_inference/chat_completion/{inference_id}/_stream", partial(stream, chat=True), "POST"),
    ]
    for path in ("/_inference/{inference_id}", "/_inference/{task_type}/{inference_id}"):
        routes += [
            (path, get_endpoints, "GET"),
            (path, put_endpoint, "PUT"),
            (path, delete_endpoint, "DELETE"),
            (f"{path}/_stream", stream, "POST"),
            (path, complete, "POST"),
        ]
    return [Route(path, _ElasticEndpoint(handler), methods=[method]) for path, handler, method in routes]


class _ElasticEndpoint:
    """An ASGI application of a handler, whose responses have Elastic's headers."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def _send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                _mark(MutableHeaders(scope=message), scope)
            await send(message)

        request = Request(scope, receive, send)
        response = await self._handler(request, request.state.elastic)
        await response(scope, receive, _send_on)


def _mark(headers: MutableHeaders, scope: Scope) -> None:
    accepted = _COMPATIBLE.search(Headers(scope=scope).get("accept", ""))
    if accepted and headers.get("content-type") == "application/json":
        headers["content-type"] = accepted[0]
    headers["x-elastic-product"] = "Elasticsearch"


def is_elastic(scope: Scope) -> bool:
    """Whether a request is for this API, whatever else is wrong with it."""
    return bool(scope["path"] == _PATH or scope["path"].startswith("/_inference/"))


def error_response(scope: Scope, error: ProxyError | HTTPException) -> Response:
    """The response to a request that failed before its first byte was sent, or whose path or method is not served."""
    if isinstance(error, HTTPException):
        path = shown_path(scope["path"])
        error = InvalidRequest(f"no handler found for uri [{path}] and method [{scope['method']}]")
    headers = error_headers(error)
    del headers["x-should-retry"]  # the status says it
    if isinstance(error, InvalidApiKey):
        headers["www-authenticate"] = 'ApiKey, Bearer, Basic realm="narrative-proxy"'
    response = json_response(error_out(error), headers, error_status(error))
    _mark(response.headers, scope)
    return response


# ---------------------------------------------------------------- inference


async def complete(request: Request, services: ElasticServices) -> RunResponse:
    """Answer every input, each by a request of its own."""
    caller, inference_id = await inference_call(request, services)
    if request.path_params.get("task_type") == "chat_completion":
        raise InvalidRequest("The [chat_completion] task type only supports streaming: use the _stream API.")
    body = await read_object(request, lambda value, _: validated(CompletionBody, value), services.settings.server)
    requests = completion_requests(inference_id, body, stream=False)
    terms, _ = _terms(request, heartbeat_s=0.0)
    if len(requests) > 1:
        terms = replace(terms, key=None)  # one key cannot stand for several requests
    starts = [
        partial(services.backend.start, asked, caller, terms, api=API, body=completion_digest(asked))
        for asked in requests
    ]

    async def _start() -> Run:
        return _JoinedRun(starts)

    def _encode(result: Result) -> bytes:
        return orjson.dumps({"completion": [{"result": choice.text or ""} for choice in result.choices]})

    return WholeResponse(_start, _encode, lambda error: orjson.dumps(error_out(error)))


class _JoinedRun:
    """Several requests that are answered together: each gives one choice; see `proxy.inference.backend.Run`."""

    def __init__(self, starts: Sequence[Callable[[], Awaitable[Run]]]) -> None:
        self._starts = starts
        self._runs: list[Run] = []

    @property
    def report(self) -> Report:
        """That of the request which was accepted last."""
        return self._runs[-1].report if self._runs else Report()

    async def result(self) -> Result:
        """Wait for all of them. The first error cancels the rest."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answer(start)) for start in self._starts]
        except ExceptionGroup as errors:
            error = errors.exceptions[0]
            if len(self._starts) > 1 and isinstance(error, ProxyError):
                error.retry_after = None  # a retry may pay again for the others
            raise error from None
        results = [task.result() for task in tasks]
        return replace(results[0], choices=tuple(result.choices[0] for result in results))

    async def events(self) -> AsyncIterator[Iterable[Event]]:
        """All at once, since nothing streams several answers."""
        yield result_events(await self.result())

    def close(self, *, delivered: bool) -> None:
        """Close those that were accepted."""
        for run in self._runs:
            run.close(delivered=delivered)

    async def _answer(self, start: Callable[[], Awaitable[Run]]) -> Result:
        run = await start()
        self._runs.append(run)
        return await run.result()


async def stream(request: Request, services: ElasticServices, *, chat: bool = False) -> RunResponse:
    """Stream the answer to one input, as pieces of its text; or a chat completion, always with its usage, as Elasticsearch has it."""
    caller, inference_id = await inference_call(request, services)
    settings = services.settings
    encoder: StreamEncoder = CompletionEncoder()
    if chat:
        asked, chunks, digest = await read_object(
            request, lambda body, size: services.decode_chat({**body, "model": inference_id}, size), settings.server
        )
        encoder = ChatEncoder(chunks)
    else:
        body = await read_object(request, lambda value, _: validated(CompletionBody, value), settings.server)
        (asked,) = completion_requests(inference_id, body, stream=True)
        digest = completion_digest(asked)
    terms, heartbeat_s = _terms(request, heartbeat_s=settings.chat.heartbeat_s)
    start = partial(services.backend.start, asked, caller, terms, api=API, body=digest)
    return StreamResponse(start, encoder, heartbeat_s, settings.chat)


def _terms(request: Request, *, heartbeat_s: float) -> tuple[Terms, float]:
    terms, heartbeat_s = terms_of(request.headers, heartbeat_s)
    timeout_s = min(terms.timeout_s, timeout_seconds(request.query_params.get("timeout")))
    return replace(terms, timeout_s=timeout_s), heartbeat_s

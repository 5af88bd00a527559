"""Routes of Elastic's inference API: its endpoints, who may use and change them, inference calls. Source: contract
`elastic-inference.md`."""

import asyncio
import hmac
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from proxy.access.authentication import Caller, is_loopback, presented_keys
from proxy.api.elastic.codec import (
    ChatEncoder,
    CompletionBody,
    CompletionEncoder,
    completion_digest,
    completion_requests,
    decode_endpoint,
    encode_endpoint,
    error_out,
    error_status,
    exists_already,
    timeout_seconds,
)
from proxy.api.http.middleware import ApiRoute, shown_path
from proxy.api.http.requests import ApiServices, read_object, terms_of, validated
from proxy.api.http.responses import RunResponse, StreamEncoder, StreamResponse, WholeResponse, json_response
from proxy.errors import (
    InvalidApiKey,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    ProxyError,
    UpstreamError,
    error_headers,
)
from proxy.inference.backend import Report, Run
from proxy.inference.endpoints import Endpoint, ServiceName
from proxy.inference.idempotency import Terms
from proxy.inference.request import Request as InferenceRequest
from proxy.inference.result import Event, Result, result_events

API: Final = "elastic"
"""Its name in the digests of equal requests."""
_PATH: Final = "/_inference"
_COMPATIBLE: Final = re.compile(r"application/vnd\.elasticsearch\+json\s*;\s*compatible-with=\d{1,3}")
_REFUSALS: Final = ("narrative_unauthorized", "narrative_rejected", "anthropic_rejected", "endpoint_unauthorized")

Verify = Callable[[Endpoint, str | None], Awaitable[None]]
"""(endpoint, its credential) → nothing, when its service accepts the credential. Raises ProxyError."""
DecodeChat = Callable[[dict[str, Any], int], tuple[InferenceRequest, StreamEncoder, str]]
"""(an OpenAI chat request's body, its bytes) → the request, OpenAI's encoder of its stream, a digest of the body. Raises InvalidRequest."""


@dataclass(frozen=True, slots=True)
class ElasticServices(ApiServices):
    """What the routes work with in addition; `request.state.elastic`.

    Attributes:
        decode_chat: decodes the bodies of chat completions.
        verify: a small call to each service.
        own_token: whether the proxy has a Narrative token for endpoints that bring none.
        own_plane: where the admin's own jobs run.
    """

    decode_chat: DecodeChat
    verify: Mapping[ServiceName, Verify]
    own_token: bool
    own_plane: str | None


def elastic_routes() -> list[Route]:
    """All of them."""
    routes: list[Route] = [
        _ElasticRoute("/_inference", get_endpoints, "GET", error_response),
        _ElasticRoute(
            "/_inference/chat_completion/{inference_id}/_stream", partial(stream, chat=True), "POST", error_response
        ),
    ]
    for path in ("/_inference/{inference_id}", "/_inference/{task_type}/{inference_id}"):
        routes += [
            _ElasticRoute(path, get_endpoints, "GET", error_response),
            _ElasticRoute(path, put_endpoint, "PUT", error_response),
            _ElasticRoute(path, delete_endpoint, "DELETE", error_response),
            _ElasticRoute(f"{path}/_stream", stream, "POST", error_response),
            _ElasticRoute(path, complete, "POST", error_response),
        ]
    return routes


class _ElasticRoute(ApiRoute):
    """A route whose responses have Elastic's headers."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def _send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                _mark(MutableHeaders(scope=message), scope)
            await send(message)

        await super().handle(scope, receive, _send_on)


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


# ---------------------------------------------------------------- who may do what


async def _enter(request: Request, *, changes: bool = False) -> tuple[ElasticServices, Caller]:
    """The services, and the caller; the admin may do all that clients may.

    Args:
        changes: it is to create or delete endpoints. On a loopback address clients may, while there is no admin key.

    Raises:
        InvalidApiKey: no key, or not a known one.
        PermissionDenied: it may not, or its token is passed through to Narrative, and gives no access to endpoints.
    """
    services: ElasticServices = request.state.elastic
    admin_key = services.settings.elastic.admin_key
    expected = b"" if admin_key is None else admin_key.get_secret_value().encode()
    if expected and any(hmac.compare_digest(key.encode(), expected) for key in presented_keys(request.headers)):
        return services, Caller(None, services.own_plane, id="admin")
    caller = await services.authenticator.authenticate(request.headers)
    if not caller.endpoints:
        raise PermissionDenied("Inference endpoints need one of the proxy's own keys.")
    if changes and (admin_key is not None or not is_loopback(services.settings.server.host)):
        what = "the admin key" if admin_key is not None else "an admin key here: set PROXY_ADMIN_KEY"
        raise PermissionDenied(f"Creating and deleting inference endpoints needs {what}.")
    return services, caller


async def inference_call(request: Request) -> tuple[ElasticServices, Caller, str]:
    """Who calls which endpoint. Both task types generate text: either URL serves an endpoint of either."""
    services, caller = await _enter(request)
    inference_id, task_type = _named(request)
    if task_type not in (None, "completion", "chat_completion"):
        raise InvalidRequest(
            f"Task type [{task_type[:40]}] is not served; expected completion or chat_completion.", param="task_type"
        )
    await _find(services, inference_id, caller=caller)
    return services, caller, inference_id


async def _find(
    services: ElasticServices, inference_id: str, task_type: str | None = None, caller: Caller | None = None
) -> Endpoint:
    """Raises PermissionDenied, before anything reveals whether there is such an endpoint, ModelNotFound, or InvalidRequest where it is of
    another type than the URL says."""
    if caller is not None and not caller.may_use({inference_id}):
        raise PermissionDenied(f"This API key has no access to the inference endpoint [{inference_id[:100]}].")
    endpoint = await services.endpoints.find(inference_id)
    if endpoint is None:
        raise ModelNotFound(f"Inference endpoint not found [{inference_id[:100]}]")
    if task_type not in (None, endpoint.task_type):
        raise InvalidRequest(
            f"Requested task type [{task_type[:40]}] does not match the inference endpoint's task type [{endpoint.task_type}].",
            param="task_type",
        )
    return endpoint


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params.get("inference_id", "_all"), request.path_params.get("task_type")


# ---------------------------------------------------------------- endpoints


async def get_endpoints(request: Request) -> Response:
    """One endpoint by its id; or all that the caller may use, those of a task type where the URL names one."""
    services, caller = await _enter(request)
    inference_id, task_type = _named(request)
    if inference_id != "_all":
        found = [await _find(services, inference_id, task_type, caller)]
    else:
        found = [
            endpoint
            for endpoint in await services.endpoints.all()
            if caller.may_use_endpoint(endpoint.id) and task_type in (None, endpoint.task_type)
        ]
    return json_response({"endpoints": [encode_endpoint(endpoint) for endpoint in found]})


async def put_endpoint(request: Request) -> Response:
    """Create an endpoint: nothing is stored before its credentials were seen to work."""
    services, _ = await _enter(request, changes=True)
    inference_id, task_type = _named(request)
    kind, now = task_type or "completion", int(time.time())
    endpoint, key = await read_object(
        request, lambda body, _: decode_endpoint(kind, inference_id, body, services.catalog, now=now)
    )
    if endpoint.service == "narrative" and key is None and not services.own_token:
        raise InvalidRequest("Invalid `service_settings.api_key`: it is required.", param="service_settings.api_key")
    if await services.endpoints.find(inference_id):
        raise exists_already(inference_id)
    fallback, param = endpoint.fallback, "service_settings.fallback"
    if fallback is not None and (fallback == inference_id or not await services.endpoints.find(fallback)):
        try:
            services.catalog.match(fallback)
        except ModelNotFound:
            message = f"Invalid `{param}`: there is no model and no other inference endpoint [{fallback[:100]}]."
            raise InvalidRequest(message, param=param) from None
    if services.settings.elastic.verify_on_create:
        # What is wrong with the credentials is the caller's to correct; that the service is down is not.
        try:
            await services.verify[endpoint.service](endpoint, key)
        except (InvalidRequest, InvalidApiKey, PermissionDenied, UpstreamError) as error:
            if isinstance(error, UpstreamError) and error.code not in _REFUSALS:
                raise
            message = (
                "Could not complete inference endpoint creation, as the validation call to the service failed: "
                f"{error.message}"
            )
            raise InvalidRequest(message, param="service_settings") from error
    if not await services.endpoints.add(endpoint, key):
        raise exists_already(inference_id)
    return json_response(encode_endpoint(endpoint))


async def delete_endpoint(request: Request) -> Response:
    """Delete an endpoint and its credential; `dry_run` only looks whether it is there."""
    services, _ = await _enter(request, changes=True)
    inference_id, task_type = _named(request)
    await _find(services, inference_id, task_type)
    if request.query_params.get("dry_run") in ("true", ""):
        return json_response({"acknowledged": False})
    await services.endpoints.remove(inference_id)
    return json_response({"acknowledged": True})


# ---------------------------------------------------------------- inference


async def complete(request: Request) -> RunResponse:
    """Answer every input, each by a request of its own."""
    services, caller, inference_id = await inference_call(request)
    if request.path_params.get("task_type") == "chat_completion":
        raise InvalidRequest("The [chat_completion] task type only supports streaming: use the _stream API.")
    body = await read_object(request, lambda value, _: validated(CompletionBody, value))
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


async def stream(request: Request, *, chat: bool = False) -> RunResponse:
    """Stream the answer to one input, as pieces of its text; or a chat completion, always with its usage, as Elasticsearch has it."""
    services, caller, inference_id = await inference_call(request)
    encoder: StreamEncoder = CompletionEncoder()
    if chat:
        asked, chunks, digest = await read_object(
            request, lambda body, size: services.decode_chat({**body, "model": inference_id}, size)
        )
        encoder = ChatEncoder(chunks)
    else:
        body = await read_object(request, lambda value, _: validated(CompletionBody, value))
        (asked,) = completion_requests(inference_id, body, stream=True)
        digest = completion_digest(asked)
    terms, heartbeat_s = _terms(request, heartbeat_s=services.settings.chat.heartbeat_s)
    start = partial(services.backend.start, asked, caller, terms, api=API, body=digest)
    return StreamResponse(start, encoder, heartbeat_s, services.settings.chat)


def _terms(request: Request, *, heartbeat_s: float) -> tuple[Terms, float]:
    terms, heartbeat_s = terms_of(request.headers, heartbeat_s)
    timeout_s = min(terms.timeout_s, timeout_seconds(request.query_params.get("timeout")))
    return replace(terms, timeout_s=timeout_s), heartbeat_s

"""Routes of Elastic's inference API. Source: contract `elastic-inference.md`."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.access.authentication import Caller
from proxy.api.elastic.authentication import ElasticAuthenticator
from proxy.api.elastic.codec import (
    ChatEncoder,
    Chunks,
    CompletionEncoder,
    completion_digest,
    completion_requests,
    timeout_seconds,
)
from proxy.api.elastic.endpoints import check_task_type, decode_endpoint, encode_endpoint, exists_already, not_found
from proxy.api.elastic.errors import error_out, error_response
from proxy.api.elastic.types import CompletionBody
from proxy.api.http.bodies import read_model, read_object
from proxy.api.http.headers import heartbeat_interval, terms_of
from proxy.api.http.json_text import json_bytes
from proxy.api.http.middleware import shown_path
from proxy.api.http.responses import Delivery, json_response, unless_disconnected
from proxy.api.http.runs import StreamEncoder, report_headers, reported, stream_response
from proxy.catalog import Catalog
from proxy.errors import InvalidApiKey, InvalidRequest, ModelNotFound, PermissionDenied, ProxyError, UpstreamError
from proxy.inference.backend import Run
from proxy.inference.endpoints import Endpoint, Endpoints, ServiceName
from proxy.inference.idempotency import Idempotency, Terms
from proxy.inference.request import Request as InferenceRequest
from proxy.settings import Settings

API: Final = "elastic"
"""Its name in the digests of equal requests."""
CLIENT_CLOSED_REQUEST: Final = 499
_COMPATIBLE: Final = re.compile(r"application/vnd\.elasticsearch\+json\s*;\s*compatible-with=\d{1,3}")
_REFUSALS: Final = frozenset(
    {"narrative_unauthorized", "narrative_rejected", "anthropic_rejected", "endpoint_unauthorized"}
)

Verify = Callable[[Endpoint, str | None], Awaitable[None]]
"""(endpoint, its credential) → nothing, when its service accepts the credential. Raises ProxyError."""
DecodeChat = Callable[[dict[str, Any], int], tuple[InferenceRequest, Chunks, str]]
"""(an OpenAI chat request's body, its bytes) → the request, the chunks of its stream, a digest of the body. Raises InvalidRequest."""


@dataclass(frozen=True, slots=True)
class ElasticServices:
    """What the routes work with: opened by the app's lifespan, the same for every request; `request.state.elastic`.

    Attributes:
        decode_chat: decodes the bodies of chat completions.
        verify: a small call to each service.
        own_token: whether the proxy has a Narrative token for endpoints that bring none.
    """

    settings: Settings
    catalog: Catalog
    authenticator: ElasticAuthenticator
    endpoints: Endpoints
    backend: Idempotency
    decode_chat: DecodeChat
    verify: Mapping[ServiceName, Verify]
    own_token: bool


Handler = Callable[[Request, ElasticServices], Awaitable[Response]]
_Asked = tuple[InferenceRequest, str]
"""A request, and the digest of its body."""


def elastic_routes() -> list[Route]:
    """All of them. Whatever else is under their path gets an error in Elastic's shape, too."""
    routes = [
        ("/_inference", list_endpoints, ["GET"]),
        ("/_inference/{inference_id}", get_endpoint, ["GET"]),
        ("/_inference/{task_type}/{inference_id}", get_endpoint, ["GET"]),
        ("/_inference/{inference_id}", put_endpoint, ["PUT"]),
        ("/_inference/{task_type}/{inference_id}", put_endpoint, ["PUT"]),
        ("/_inference/{inference_id}", delete_endpoint, ["DELETE"]),
        ("/_inference/{task_type}/{inference_id}", delete_endpoint, ["DELETE"]),
        ("/_inference/chat_completion/{inference_id}/_stream", stream_chat, ["POST"]),
        ("/_inference/{inference_id}/_stream", stream_completion, ["POST"]),
        ("/_inference/{task_type}/{inference_id}/_stream", stream_completion, ["POST"]),
        ("/_inference/{inference_id}", complete, ["POST"]),
        ("/_inference/{task_type}/{inference_id}", complete, ["POST"]),
        ("/_inference", unrouted, ["PUT", "POST", "DELETE", "PATCH"]),
        ("/_inference/{rest:path}", unrouted, ["GET", "PUT", "POST", "DELETE", "PATCH"]),
    ]
    return [Route(path, _elastic(handler), methods=methods) for path, handler, methods in routes]


def _elastic(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A handler whose errors and headers are Elastic's."""

    async def endpoint(request: Request) -> Response:
        try:
            response = await handler(request, request.state.elastic)
        except ClientDisconnect:
            response = Response(status_code=CLIENT_CLOSED_REQUEST)
        except ProxyError as error:
            response = error_response(error)
        asked = _COMPATIBLE.search(request.headers.get("accept", ""))
        if asked and response.media_type == "application/json":
            response.headers["content-type"] = asked[0]
        response.headers["x-elastic-product"] = "Elasticsearch"
        return response

    return endpoint


# ---------------------------------------------------------------- endpoints


async def list_endpoints(request: Request, services: ElasticServices) -> Response:
    return await _listed(services, await services.authenticator.caller(request.headers), None)


async def get_endpoint(request: Request, services: ElasticServices) -> Response:
    caller = await services.authenticator.caller(request.headers)
    inference_id, task_type = _named(request)
    if inference_id == "_all":
        return await _listed(services, caller, task_type)
    endpoint = await _find(services, inference_id, caller)
    check_task_type(endpoint, task_type)
    return _json({"endpoints": [encode_endpoint(endpoint)]})


async def put_endpoint(request: Request, services: ElasticServices) -> Response:
    """Create an endpoint: nothing is stored before its credentials were seen to work."""
    await services.authenticator.check_admin(request.headers)
    inference_id, task_type = _named(request)
    endpoint, key = await read_object(
        request,
        lambda body, _: decode_endpoint(
            task_type or "completion", inference_id, body, services.catalog, now=int(time.time())
        ),
        services.settings.server,
    )
    if endpoint.service == "narrative" and key is None and not services.own_token:
        raise InvalidRequest("Invalid `service_settings.api_key`: it is required.", param="service_settings.api_key")
    if await services.endpoints.find(inference_id):
        raise exists_already(inference_id)
    await _check_fallback(services, endpoint)
    if services.settings.elastic.verify_on_create:
        await _verify(services, endpoint, key)
    if not await services.endpoints.add(endpoint, key):
        raise exists_already(inference_id)
    return _json(encode_endpoint(endpoint))


async def delete_endpoint(request: Request, services: ElasticServices) -> Response:
    await services.authenticator.check_admin(request.headers)
    inference_id, task_type = _named(request)
    endpoint = await services.endpoints.find(inference_id)
    if endpoint is None:
        raise not_found(inference_id)
    check_task_type(endpoint, task_type)
    if request.query_params.get("dry_run") in ("true", ""):
        return _json({"acknowledged": False})
    await services.endpoints.remove(inference_id)
    return _json({"acknowledged": True})


async def _listed(services: ElasticServices, caller: Caller, task_type: str | None) -> Response:
    found = [
        encode_endpoint(endpoint)
        for endpoint in await services.endpoints.all()
        if caller.may_use_endpoint(endpoint.id) and task_type in (None, endpoint.task_type)
    ]
    return _json({"endpoints": found})


async def _find(services: ElasticServices, inference_id: str, caller: Caller) -> Endpoint:
    """Raises PermissionDenied before anything reveals whether there is such an endpoint; ModelNotFound."""
    if not caller.may_use({inference_id}):
        raise PermissionDenied(f"This API key has no access to the inference endpoint [{inference_id[:100]}].")
    endpoint = await services.endpoints.find(inference_id)
    if endpoint is None:
        raise not_found(inference_id)
    return endpoint


async def _check_fallback(services: ElasticServices, endpoint: Endpoint) -> None:
    """Raises InvalidRequest: the fallback is neither a model nor another endpoint."""
    name = endpoint.fallback
    if name is None or (name != endpoint.id and await services.endpoints.find(name)):
        return
    try:
        services.catalog.find(name)
    except ModelNotFound:
        param = "service_settings.fallback"
        message = f"Invalid `{param}`: there is no model and no other inference endpoint [{name[:100]}]."
        raise InvalidRequest(message, param=param) from None


async def _verify(services: ElasticServices, endpoint: Endpoint, key: str | None) -> None:
    """Try the credentials. What is wrong with them is the caller's to correct; that the service is down is not."""
    try:
        await services.verify[endpoint.service](endpoint, key)
    except (InvalidRequest, InvalidApiKey, PermissionDenied, UpstreamError) as error:
        if isinstance(error, UpstreamError) and error.code not in _REFUSALS:
            raise
        raise InvalidRequest(
            "Could not complete inference endpoint creation, as the validation call to the service failed: "
            f"{error.message}",
            param="service_settings",
        ) from error


# ---------------------------------------------------------------- inference


async def complete(request: Request, services: ElasticServices) -> Response:
    """Answer every input, each by a request of its own."""
    caller, inference_id = await _inference_call(request, services)
    if request.path_params.get("task_type") == "chat_completion":
        raise InvalidRequest("The [chat_completion] task type only supports streaming: use the _stream API.")
    body = await read_model(request, CompletionBody, services.settings.server)
    requests = completion_requests(inference_id, body, stream=False)
    terms = _terms(request, heartbeat_s=0.0)
    if len(requests) > 1:
        terms = replace(terms, key=None)  # one key cannot stand for several requests
    runs: list[Run] = []

    async def answer(asked: InferenceRequest) -> str:
        run = await services.backend.start(asked, caller, terms, api=API, body=completion_digest(asked))
        runs.append(run)
        with reported(run):
            return (await run.result()).choices[0].text or ""

    async def answers() -> bytes:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(answer(asked)) for asked in requests]
        except ExceptionGroup as errors:
            error = errors.exceptions[0]
            if len(requests) > 1 and isinstance(error, ProxyError):
                error.retry_after = None  # a retry may pay again for the others
            raise error from None
        return json_bytes({"completion": [{"result": task.result()} for task in tasks]})

    def headers() -> dict[str, str]:
        return {name: value for run in runs for name, value in report_headers(run.report).items()}

    def close(delivered: bool) -> None:
        for run in runs:
            run.close(delivered=delivered)

    return await json_response(request, answers(), Delivery(headers, lambda error: json_bytes(error_out(error)), close))


async def stream_completion(request: Request, services: ElasticServices) -> Response:
    caller, inference_id = await _inference_call(request, services)
    body = await read_model(request, CompletionBody, services.settings.server)
    (asked,) = completion_requests(inference_id, body, stream=True)
    return await _streamed(request, services, caller, (asked, completion_digest(asked)), CompletionEncoder())


async def stream_chat(request: Request, services: ElasticServices) -> Response:
    """A chat completion, always with its usage in the last chunk, as Elasticsearch has it."""
    caller, inference_id = await _inference_call(request, services)

    def work(body: dict[str, Any], body_bytes: int) -> tuple[InferenceRequest, Chunks, str]:
        return services.decode_chat({**body, "model": inference_id}, body_bytes)

    asked, chunks, digest = await read_object(request, work, services.settings.server)
    return await _streamed(request, services, caller, (asked, digest), ChatEncoder(chunks))


async def _streamed(
    request: Request, services: ElasticServices, caller: Caller, asked: _Asked, encoder: StreamEncoder
) -> Response:
    chat = services.settings.chat
    terms = _terms(request, heartbeat_s=heartbeat_interval(request.headers, chat.heartbeat_s))
    start = services.backend.start(asked[0], caller, terms, api=API, body=asked[1])
    return stream_response(request, await unless_disconnected(request.receive, start), encoder, chat)


async def _inference_call(request: Request, services: ElasticServices) -> tuple[Caller, str]:
    """Who calls which endpoint. Both task types generate text: either URL serves an endpoint of either."""
    caller = await services.authenticator.caller(request.headers)
    inference_id, task_type = _named(request)
    if task_type not in (None, "completion", "chat_completion"):
        raise InvalidRequest(
            f"Task type [{task_type[:40]}] is not served; expected completion or chat_completion.", param="task_type"
        )
    endpoint = await _find(services, inference_id, caller)
    return caller, endpoint.id


async def unrouted(request: Request, services: ElasticServices) -> Response:
    raise InvalidRequest(f"no handler found for uri [{shown_path(request.url.path)}] and method [{request.method}]")


def _terms(request: Request, *, heartbeat_s: float) -> Terms:
    terms = terms_of(request.headers, heartbeat_s=heartbeat_s)
    return replace(terms, timeout_s=min(terms.timeout_s, timeout_seconds(request.query_params.get("timeout"))))


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["inference_id"], request.path_params.get("task_type")


def _json(value: object) -> Response:
    return Response(json_bytes(value), media_type="application/json")

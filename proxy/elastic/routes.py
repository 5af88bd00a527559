"""The Elastic face's routes. Source: contract `elastic-inference.md`."""

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.access.authentication import Caller
from proxy.api.http.bodies import read_body, read_model
from proxy.api.http.completions import StreamEncoding, stream_response
from proxy.api.http.headers import heartbeat_interval, terms_of
from proxy.api.http.json_text import json_bytes
from proxy.api.http.middleware import shown_path
from proxy.api.http.responses import unless_disconnected
from proxy.elastic.asking import (
    CHAT_ENCODING,
    COMPLETION_ENCODING,
    chat_request,
    completion_requests,
    read_timeout,
)
from proxy.elastic.errors import error_response
from proxy.elastic.management import check_fallback, check_task_type, exists_already, not_found, read_endpoint, show
from proxy.elastic.services import ElasticServices
from proxy.endpoints.endpoint import Endpoint
from proxy.errors import InvalidApiKey, InvalidRequest, PermissionDenied, ProxyError, UpstreamError
from proxy.serving.upstream import Terms
from proxy.serving.waiting import together
from proxy.wire.elastic import ChatCompletionBody, CompletionBody
from proxy.wire.openai import ChatRequest

M = TypeVar("M", bound=BaseModel)
Handler = Callable[[Request, ElasticServices], Awaitable[Response]]
_COMPATIBLE = re.compile(r"application/vnd\.elasticsearch\+json\s*;\s*compatible-with=\d+")
_REFUSALS = frozenset({"narrative_unauthorized", "narrative_rejected", "anthropic_rejected", "endpoint_unauthorized"})


def elastic_routes() -> list[Route]:
    """All of them. What is none of them gets Elastic's shape of error, too."""
    return [
        Route("/_inference", _face(list_endpoints), methods=["GET"]),
        Route("/_inference/{inference_id}", _face(get_endpoint), methods=["GET"]),
        Route("/_inference/{task_type}/{inference_id}", _face(get_endpoint), methods=["GET"]),
        Route("/_inference/{inference_id}", _face(put_endpoint), methods=["PUT"]),
        Route("/_inference/{task_type}/{inference_id}", _face(put_endpoint), methods=["PUT"]),
        Route("/_inference/{inference_id}", _face(delete_endpoint), methods=["DELETE"]),
        Route("/_inference/{task_type}/{inference_id}", _face(delete_endpoint), methods=["DELETE"]),
        Route("/_inference/chat_completion/{inference_id}/_stream", _face(stream_chat), methods=["POST"]),
        Route("/_inference/{inference_id}/_stream", _face(stream_completion), methods=["POST"]),
        Route("/_inference/{task_type}/{inference_id}/_stream", _face(stream_completion), methods=["POST"]),
        Route("/_inference/{inference_id}", _face(complete), methods=["POST"]),
        Route("/_inference/{task_type}/{inference_id}", _face(complete), methods=["POST"]),
        Route("/_inference", _face(unrouted), methods=["PUT", "POST", "DELETE", "PATCH"]),
        Route("/_inference/{rest:path}", _face(unrouted), methods=["GET", "PUT", "POST", "DELETE", "PATCH"]),
    ]


def _face(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A handler whose errors and headers are Elastic's."""

    async def endpoint(request: Request) -> Response:
        try:
            response = await handler(request, request.state.elastic)
        except ProxyError as error:
            response = error_response(error, _media_type(request))
        response.headers["x-elastic-product"] = "Elasticsearch"
        return response

    return endpoint


# ---------------------------------------------------------------- endpoints


async def list_endpoints(request: Request, services: ElasticServices) -> Response:
    caller = await services.authenticator.caller(request.headers)
    return await _listed(request, services, caller, None)


async def get_endpoint(request: Request, services: ElasticServices) -> Response:
    caller = await services.authenticator.caller(request.headers)
    inference_id, task_type = _named(request)
    if inference_id == "_all":
        return await _listed(request, services, caller, task_type)
    endpoint = await _find(services, inference_id, caller)
    check_task_type(endpoint, task_type)
    return _json(request, {"endpoints": [show(endpoint)]})


async def put_endpoint(request: Request, services: ElasticServices) -> Response:
    """Create an endpoint: nothing is stored before its credentials were seen to work."""
    await services.authenticator.check_admin(request.headers)
    inference_id, task_type = _named(request)
    body = await read_body(request, services.settings.server.max_body_bytes)
    endpoint, key = read_endpoint(task_type or "completion", inference_id, body, services.catalog, now=int(time.time()))
    if endpoint.service == "narrative" and key is None and not services.own_token:
        raise InvalidRequest("Invalid `service_settings.api_key`: it is required.", param="service_settings.api_key")
    if await services.endpoints.find(inference_id):
        raise exists_already(inference_id)
    if endpoint.fallback is not None:
        found = await services.endpoints.find(endpoint.fallback)
        check_fallback(endpoint.fallback, found, inference_id, services.catalog)
    if services.settings.elastic.verify_on_create:
        await _verify(services, endpoint, key)
    if not await services.endpoints.add(endpoint, key):
        raise exists_already(inference_id)
    return _json(request, show(endpoint))


async def delete_endpoint(request: Request, services: ElasticServices) -> Response:
    await services.authenticator.check_admin(request.headers)
    inference_id, task_type = _named(request)
    endpoint = await services.endpoints.find(inference_id)
    if endpoint is None:
        raise not_found(inference_id)
    check_task_type(endpoint, task_type)
    if request.query_params.get("dry_run") in ("true", ""):
        return _json(request, {"acknowledged": False})
    await services.endpoints.remove(inference_id)
    return _json(request, {"acknowledged": True})


async def _listed(request: Request, services: ElasticServices, caller: Caller, task_type: str | None) -> Response:
    found = [
        show(endpoint)
        for endpoint in await services.endpoints.all()
        if caller.may_use_endpoint(endpoint.id) and task_type in (None, endpoint.task_type)
    ]
    return _json(request, {"endpoints": found})


async def _find(services: ElasticServices, inference_id: str, caller: Caller) -> Endpoint:
    """Raises PermissionDenied before anything tells whether there is such an endpoint; ModelNotFound."""
    if not caller.may_use({inference_id}):
        raise PermissionDenied(f"This API key has no access to the inference endpoint [{inference_id[:100]}].")
    endpoint = await services.endpoints.find(inference_id)
    if endpoint is None:
        raise not_found(inference_id)
    return endpoint


async def _verify(services: ElasticServices, endpoint: Endpoint, key: str | None) -> None:
    """Try the credentials. What is wrong with them is the caller's to mend; that the service is away is not."""
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
    caller, inference_id = await _asked(request, services)
    if request.path_params.get("task_type") == "chat_completion":
        raise InvalidRequest("The [chat_completion] task type only supports streaming: use the _stream API.")
    body = await _body(request, services, CompletionBody)
    requests = completion_requests(inference_id, body, stream=False)
    terms = _terms(request, services, stream=False)
    if len(requests) > 1:
        terms = replace(terms, key=None)  # one key cannot stand for several requests
    try:
        answers = await unless_disconnected(
            request.receive, together(_answer(services, each, caller, terms) for each in requests)
        )
    except ProxyError as error:
        if len(requests) > 1:
            error.retry_after = None  # a repeat would pay again for the others
        raise
    results = [{"result": text} for text, _ in answers]
    response = _json(request, {"completion": results})
    for _, headers in answers:
        response.headers.update(headers)
    return response


async def _answer(
    services: ElasticServices, chat: ChatRequest, caller: Caller, terms: Terms
) -> tuple[str, dict[str, str]]:
    """The text of an answer, and its headers."""
    answer = await services.upstream.accept(chat, caller, terms)
    delivered = False
    try:
        completion = await answer.whole()
        delivered = True
        return completion["choices"][0]["message"]["content"] or "", dict(answer.headers)
    finally:
        answer.close(delivered=delivered)


async def stream_completion(request: Request, services: ElasticServices) -> Response:
    caller, inference_id = await _asked(request, services)
    body = await _body(request, services, CompletionBody)
    (chat,) = completion_requests(inference_id, body, stream=True)
    return await _streamed(request, services, chat, caller, COMPLETION_ENCODING)


async def stream_chat(request: Request, services: ElasticServices) -> Response:
    caller, inference_id = await _asked(request, services)
    body = await _body(request, services, ChatCompletionBody)
    return await _streamed(request, services, chat_request(inference_id, body), caller, CHAT_ENCODING)


async def _streamed(
    request: Request, services: ElasticServices, chat: ChatRequest, caller: Caller, encoding: StreamEncoding
) -> Response:
    terms = _terms(request, services, stream=True)
    answer = await unless_disconnected(request.receive, services.upstream.accept(chat, caller, terms))
    return stream_response(answer, request.headers, services.settings.chat, encoding)


async def _asked(request: Request, services: ElasticServices) -> tuple[Caller, str]:
    """Who asks which endpoint. Both task types there are generate text: either URL serves an endpoint of either."""
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


def _terms(request: Request, services: ElasticServices, *, stream: bool) -> Terms:
    heartbeat_s = heartbeat_interval(request.headers, services.settings.chat.heartbeat_s) if stream else 0.0
    terms = terms_of(request.headers, heartbeat_s=heartbeat_s)
    timeout = read_timeout(request.query_params.get("timeout"))
    return terms if timeout is None else replace(terms, patience_s=min(terms.patience_s, timeout))


async def _body(request: Request, services: ElasticServices, model: type[M]) -> M:
    server = services.settings.server
    return await read_model(request, model, max_bytes=server.max_body_bytes, max_values=server.max_body_values)


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["inference_id"], request.path_params.get("task_type")


def _json(request: Request, value: object) -> Response:
    return Response(json_bytes(value), media_type=_media_type(request))


def _media_type(request: Request) -> str:
    """The one the client asked for."""
    asked = _COMPATIBLE.search(request.headers.get("accept", ""))
    return asked[0] if asked else "application/json"

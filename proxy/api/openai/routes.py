"""Routes of the Chat Completions API, each with and without `/v1` and a trailing slash, so that nothing is ever redirected."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from proxy.api.http.middleware import ApiRoute, shown_path
from proxy.api.http.requests import (
    ApiServices,
    computed,
    enter,
    page_of,
    read_request,
    request_digest,
    terms_of,
    validated,
)
from proxy.api.http.responses import RunResponse, StreamResponse, WholeResponse, json_response
from proxy.api.openai.decode import ChatReply, decode
from proxy.api.openai.encode import ChatStreamEncoder, completion_body, error_body
from proxy.api.openai.types import ChatRequest
from proxy.catalog import ModelCard
from proxy.errors import InvalidRequest, MethodNotAllowed, PaidFailure, ProxyError, UnknownUrl, error_headers
from proxy.inference.endpoints import Endpoint, usable_models
from proxy.inference.request import JsonObject
from proxy.inference.request import Request as InferenceRequest

API: Final = "openai"
"""Its name in the digests of equal requests."""
_SERVED: Final = "Chat completions are served at POST /v1/chat/completions, responses at POST /v1/responses, messages at POST /v1/messages."


def chat_routes() -> list[Route]:
    """Those of chat completions."""
    return route("/chat/completions", chat_completions, "POST")


def model_routes() -> list[Route]:
    """Those of models, in OpenAI's shape."""
    return [
        *route("/models", list_models, "GET"),
        *(Route(f"{prefix}/models/{{model:path}}", retrieve_model, methods=["GET"]) for prefix in ("/v1", "")),
    ]


def route(path: str, endpoint: Callable[[Request], Awaitable[RunResponse | Response]], method: str) -> list[Route]:
    """The routes of a path that is written without `/v1`."""
    return [
        ApiRoute(f"{prefix}{path}{slash}", endpoint, method, render_error)
        for prefix in ("/v1", "")
        for slash in ("", "/")
    ]


# ---------------------------------------------------------------- chat completions


async def chat_completions(request: Request) -> RunResponse:
    """`POST /v1/chat/completions`, whole or streamed. Whatever can be refused is refused before a response begins."""
    services, caller = await enter(request)
    body, size, _ = await read_request(request, partial(services.find, caller=caller))
    chat = services.settings.chat
    decoded, reply, digest = await computed(size, partial(decode_body, services, body, size))
    heartbeat_s = chat.heartbeat_s if reply.stream else chat.keepalive_json_s
    terms, heartbeat_s = terms_of(request.headers, heartbeat_s)
    start = partial(services.backend.start, decoded, caller, terms, api=API, body=digest)
    if reply.stream:
        return StreamResponse(start, ChatStreamEncoder(reply), heartbeat_s, chat)
    return WholeResponse(start, partial(completion_body, reply), error_body, heartbeat_s)


def decode_body(services: ApiServices, body: JsonObject, size: int) -> tuple[InferenceRequest, ChatReply, str]:
    """A body's request, what its reply looks like, and its digest; done in a thread where it is large. Raises InvalidRequest."""
    how = services.settings.chat.reasoning_object
    decoded, reply = decode(validated(ChatRequest, body), services.rules, size, reasoning_object=how)
    return decoded, reply, request_digest(body)


def decode_streamed(
    services: ApiServices, body: JsonObject, size: int
) -> tuple[InferenceRequest, ChatStreamEncoder, str]:
    """The same for another API that streams chat completions as this one's chunks, always with their usage."""
    decoded, reply, digest = decode_body(services, {**body, "stream": True}, size)
    return decoded, ChatStreamEncoder(replace(reply, include_usage=True)), digest


# ---------------------------------------------------------------- models


async def list_models(request: Request) -> Response:
    """`GET /v1/models`: every model that the caller may use once, under its public name, then every named endpoint."""
    services, caller = await enter(request)
    usable = await usable_models(caller, services.catalog, services.endpoints)
    models = [_model_out(name, found) for name, found in usable]
    return json_response({"object": "list", "data": models}, {"vary": "anthropic-version"})


async def retrieve_model(request: Request) -> Response:
    """`GET /v1/models/{id}`: one model under the name that was asked for."""
    services, caller = await enter(request)
    name = request.path_params["model"].removesuffix("/")
    return json_response(_model_out(name, await services.find(name, caller)), {"vary": "anthropic-version"})


def _model_out(name: str, found: ModelCard | Endpoint) -> JsonObject:
    """When a model was made is not known; a fixed time serves clients that sort by it."""
    if isinstance(found, Endpoint):
        return {"id": name, "object": "model", "created": found.created_at, "owned_by": found.service}
    return {"id": name, "object": "model", "created": 0, "owned_by": found.owned_by}


# ---------------------------------------------------------------- lists


def page_response(
    request: Request, items: Sequence[JsonObject], default: int = 20, most: int = 100, *, oldest_first: bool = False
) -> Response:
    """A page of a list. `oldest_first`: the items are, and the query may ask for either order. Raises InvalidRequest."""
    if oldest_first:
        order = request.query_params.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidRequest("Invalid `order`: expected 'asc' or 'desc'.", param="order")
        items = items if order == "asc" else items[::-1]
    return json_response({"object": "list", **page_of(request, items, default, most)})


# ---------------------------------------------------------------- errors


def error_response(error: ProxyError, *, paid_failure_status: int = PaidFailure.status) -> Response:
    """The whole response to a request that failed before its first byte was sent."""
    status = paid_failure_status if isinstance(error, PaidFailure) else error.status
    return Response(error_body(error), status, error_headers(error), "application/json")


def render_error(scope: Scope, error: ProxyError) -> Response:
    """The same with the status that the settings choose for jobs that failed."""
    services: ApiServices = scope["state"]["api"]
    return error_response(error, paid_failure_status=services.settings.chat.paid_failure_status)


def unrouted(scope: Scope, error: HTTPException) -> ProxyError:
    """The refusal of a URL, or of a method, that is not served. The message names the URLs that are."""
    what = f"{scope['method']} {shown_path(scope['path'])}"
    if error.status_code == 405:
        refusal: ProxyError = MethodNotAllowed(f"Method not allowed: {what}. {_SERVED}")
    else:
        refusal = UnknownUrl(f"Unknown URL: {what}. {_SERVED}")
    refusal.headers = dict(error.headers or {})
    return refusal

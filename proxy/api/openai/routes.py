"""Routes of the Chat Completions API, each with and without `/v1` and a trailing slash, so that nothing is ever redirected."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.access.authentication import Authenticator, Caller
from proxy.api.http.bodies import read_object, validated
from proxy.api.http.headers import heartbeat_interval, terms_of
from proxy.api.http.json_text import json_bytes, json_line
from proxy.api.http.responses import unless_disconnected
from proxy.api.http.runs import stream_response, whole_response
from proxy.api.openai.decode import ChatReply, ReasoningObject, body_digest, decode
from proxy.api.openai.encode import ChunkStream, completion
from proxy.api.openai.errors import error_body, error_event
from proxy.api.openai.types import ChatRequest, Chunk, ModelInfo, ModelList
from proxy.catalog import Catalog, ModelCard
from proxy.errors import ModelNotFound, PermissionDenied, ProxyError
from proxy.inference.endpoints import Endpoint, Endpoints
from proxy.inference.idempotency import Idempotency
from proxy.inference.request import Request as InferenceRequest
from proxy.inference.request import Rules
from proxy.inference.result import Event
from proxy.settings import Settings

API = "openai"
"""Its name in the digests of equal requests."""


@dataclass(frozen=True, slots=True)
class OpenAIServices:
    """What the routes work with: opened by the app's lifespan, the same for every request; `request.state.openai`."""

    settings: Settings
    catalog: Catalog
    authenticator: Authenticator
    endpoints: Endpoints
    backend: Idempotency
    rules: Rules


def openai_routes() -> list[Route]:
    """All of them."""
    return [
        *_route("/chat/completions", chat_completions, "POST"),
        *_route("/models", list_models, "GET"),
        *(Route(f"{prefix}/models/{{model:path}}", retrieve_model, methods=["GET"]) for prefix in ("/v1", "")),
    ]


def _route(path: str, endpoint: Callable[[Request], Awaitable[Response]], method: str) -> list[Route]:
    return [
        Route(f"{prefix}{path}{slash}", endpoint, methods=[method]) for prefix in ("/v1", "") for slash in ("", "/")
    ]


# ---------------------------------------------------------------- chat completions


async def chat_completions(request: Request) -> Response:
    """`POST /v1/chat/completions`, whole or streamed. Whatever can be refused is refused before a response begins."""
    services: OpenAIServices = request.state.openai
    caller = await services.authenticator.authenticate(request.headers)
    chat = services.settings.chat
    decoder = chat_decoder(services.rules, chat.reasoning_object)
    decoded, reply, digest = await read_object(request, decoder, services.settings.server)
    heartbeat_s = chat.heartbeat_s if reply.stream else chat.keepalive_json_s
    terms = terms_of(request.headers, heartbeat_s=heartbeat_interval(request.headers, heartbeat_s))
    start = services.backend.start(decoded, caller, terms, api=API, body=digest)
    run = await unless_disconnected(request.receive, start)
    if reply.stream:
        return stream_response(request, run, ChatStreamEncoder(reply), chat)
    return await whole_response(
        request,
        run,
        lambda result: json_bytes(completion(result, reply)),
        error=error_body,
        keep_alive_s=chat.keepalive_json_s,
    )


def chat_decoder(
    rules: Rules, reasoning_object: ReasoningObject
) -> Callable[[dict[str, Any], int], tuple[InferenceRequest, ChatReply, str]]:
    """(a body, its bytes) → the request, its reply, and the digest of the body."""

    def work(body: dict[str, Any], body_bytes: int) -> tuple[InferenceRequest, ChatReply, str]:
        chat_request = validated(ChatRequest, body)
        decoded, reply = decode(chat_request, rules, body_bytes, reasoning_object=reasoning_object)
        return decoded, reply, body_digest(body)

    return work


def stream_decoder(
    rules: Rules, reasoning_object: ReasoningObject
) -> Callable[[dict[str, Any], int], tuple[InferenceRequest, ChunkStream, str]]:
    """The same for another API that streams chat completions as this one's chunks, always with their usage."""
    decode_chat = chat_decoder(rules, reasoning_object)

    def work(body: dict[str, Any], body_bytes: int) -> tuple[InferenceRequest, ChunkStream, str]:
        decoded, reply, digest = decode_chat({**body, "stream": True}, body_bytes)
        return decoded, ChunkStream(replace(reply, include_usage=True)), digest

    return work


class ChatStreamEncoder:
    """The bytes of one stream; see `proxy.api.http.runs.StreamEncoder`."""

    end = b"event: done\ndata: [DONE]\n\n"

    def __init__(self, reply: ChatReply) -> None:
        self._stream = ChunkStream(reply)

    def encode(self, event: Event) -> Iterator[bytes]:
        for chunk in self._stream.chunks(event):
            yield _event(chunk)

    def heartbeat(self) -> bytes:
        chunk = self._stream.heartbeat()
        return _event(chunk) if chunk else b""

    def error(self, error: ProxyError) -> bytes:
        return error_event(error)


def _event(chunk: Chunk) -> bytes:
    return b"data: " + json_line(chunk) + b"\n\n"


# ---------------------------------------------------------------- models


async def list_models(request: Request) -> Response:
    """`GET /v1/models`: every model that the caller may use once, under its public name, then every named endpoint."""
    services: OpenAIServices = request.state.openai
    caller = await services.authenticator.authenticate(request.headers)
    models = [
        _of_card(card.public_name, card) for card in services.catalog.cards if caller.may_use({card.id, *card.names})
    ]
    endpoints = [
        _of_endpoint(endpoint) for endpoint in await services.endpoints.all() if caller.may_use_endpoint(endpoint.id)
    ]
    listed: ModelList = {"object": "list", "data": [*models, *endpoints]}
    return Response(json_bytes(listed), media_type="application/json")


async def retrieve_model(request: Request) -> Response:
    """`GET /v1/models/{id}`: one model under the name that was asked for."""
    services: OpenAIServices = request.state.openai
    caller = await services.authenticator.authenticate(request.headers)
    name = request.path_params["model"].removesuffix("/")
    return Response(json_bytes(await _model(name, services, caller)), media_type="application/json")


async def _model(name: str, services: OpenAIServices, caller: Caller) -> ModelInfo:
    """
    Raises:
        ModelNotFound: there is none of that name.
        PermissionDenied: the caller may not use it, whether or not there is one.
    """
    if name not in services.catalog.by_name and caller.may_use_endpoint(name):
        endpoint = await services.endpoints.find(name)
        if endpoint is not None:
            return _of_endpoint(endpoint)
    try:
        card = services.catalog.find(name)
    except ModelNotFound:
        if caller.may_use({name}):
            raise
        card = None
    if card is None or not caller.may_use({name, card.id, *card.names}):
        raise PermissionDenied(f"This API key has no access to the model `{name[:100]}`.", param="model")
    return _of_card(name, card)


def _of_card(name: str, card: ModelCard) -> ModelInfo:
    """`created` is not known; a fixed time serves clients that sort by it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": card.owned_by}


def _of_endpoint(endpoint: Endpoint) -> ModelInfo:
    return {"id": endpoint.id, "object": "model", "created": endpoint.created_at, "owned_by": endpoint.service}

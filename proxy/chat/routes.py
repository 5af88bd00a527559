"""The OpenAI face's routes, each with and without `/v1` and a trailing slash, so that nothing is ever redirected."""

from collections.abc import Awaitable, Callable
from typing import cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.api.http.json_text import json_bytes
from proxy.api.http.middleware import shown_path
from proxy.chat.completions import chat_completions
from proxy.chat.errors import error_response
from proxy.chat.models import model_info, model_list
from proxy.chat.services import ChatServices
from proxy.errors import MethodNotAllowed, ProxyError, UnknownUrl

Endpoint = Callable[[Request], Awaitable[Response]]
_CHAT_URL = "POST /v1/chat/completions"


async def list_models(request: Request) -> Response:
    services: ChatServices = request.state.chat
    caller = await services.authenticator.authenticate(request.headers)
    return _json(model_list(services.catalog, await services.endpoints.all(), caller))


async def retrieve_model(request: Request) -> Response:
    services: ChatServices = request.state.chat
    caller = await services.authenticator.authenticate(request.headers)
    name = request.path_params["model"].removesuffix("/")
    card = services.catalog.by_name.get(name)
    endpoint = await services.endpoints.find(name) if card is None and caller.endpoints else None
    return _json(model_info(name, card or endpoint, services.catalog, caller))


def chat_routes() -> list[Route]:
    """All of them."""
    return [
        *_route("/chat/completions", chat_completions, "POST"),
        *_route("/models", list_models, "GET"),
        *(Route(f"{prefix}/models/{{model:path}}", retrieve_model, methods=["GET"]) for prefix in ("/v1", "")),
    ]


async def render_error(request: Request, error: Exception) -> Response:
    """Any error of ours, in OpenAI's shape."""
    return error_response(cast(ProxyError, error))


async def render_unrouted(request: Request, error: Exception) -> Response:
    """A URL or method that is not served, in OpenAI's shape; the message names what is."""
    error = cast(HTTPException, error)
    what = f"{request.method} {shown_path(request.url.path)}"
    if error.status_code == 405:
        refusal: ProxyError = MethodNotAllowed(
            f"Method not allowed: {what}. Chat completions are served at {_CHAT_URL}."
        )
    else:
        refusal = UnknownUrl(f"Unknown URL: {what}. This server speaks the Chat Completions API, at {_CHAT_URL}.")
    return error_response(refusal, error.headers)


async def render_nothing(request: Request, error: Exception) -> Response:
    """The client left before its answer: 499 is counted, and nobody receives it."""
    return Response(status_code=499)


def _route(path: str, endpoint: Endpoint, method: str) -> list[Route]:
    return [
        Route(f"{prefix}{path}{slash}", endpoint, methods=[method]) for prefix in ("/v1", "") for slash in ("", "/")
    ]


def _json(value: object) -> Response:
    return Response(json_bytes(value), media_type="application/json")

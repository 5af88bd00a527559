"""Routes of the Messages API. Source: contract `anthropic-messages.md`.

Its model list has the URL of OpenAI's: requests with the header `anthropic-version` get this API's.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from proxy.access.authentication import Caller
from proxy.api.anthropic.decode import WIRE, MessagesReply, body_digest, decode
from proxy.api.anthropic.encode import MessageStream, error_out, error_status, message_body
from proxy.api.anthropic.types import MessagesRequest
from proxy.api.http.middleware import ApiRoute
from proxy.api.http.requests import (
    ApiServices,
    computed,
    enter,
    page_of,
    read_request,
    terms_of,
    validated,
)
from proxy.api.http.responses import RunResponse, StreamResponse, WholeResponse, json_response, report_headers
from proxy.catalog import ModelCard
from proxy.errors import ModelNotFound, ProxyError, error_headers
from proxy.inference.backend import Report
from proxy.inference.endpoints import Endpoint, usable_models
from proxy.inference.request import JsonObject, Rules
from proxy.inference.request import Request as InferenceRequest

API: Final = "anthropic"
"""Its name in the digests of equal requests."""
_VERSION: Final = "anthropic-version"
_NATIVE_HEADERS: Final = (_VERSION, "anthropic-beta")
_SESSION: Final = "x-claude-code-session-id"
_MAX_HEADER: Final = 2_000
_PATH: Final = "/v1/messages"
_MODELS: Final = "/v1/models"
PAGE: Final = (20, 1000, ("after_id", "before_id"))
"""The usual and the largest page of a list, and the query's names of the items that it follows or precedes."""
_ANY_LENGTH: Final = 2**31 - 1
_CREATED: Final = "2025-10-01T00:00:00Z"
"""Of models: when they were made is not known."""


class _VersionedRoute(Route):
    """A route for requests that name this API's version."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if _names_version(scope) else (Match.NONE, {})


def anthropic_routes() -> list[Route]:
    """All of them; they stand before those of other APIs."""
    return [
        *(ApiRoute(f"{_PATH}{slash}", messages, "POST", error_response) for slash in ("", "/")),
        *(Route(f"{_PATH}/count_tokens{slash}", count_tokens, methods=["POST"]) for slash in ("", "/")),
        *(_VersionedRoute(f"{_MODELS}{slash}", list_models, methods=["GET"]) for slash in ("", "/")),
        _VersionedRoute(f"{_MODELS}/{{model:path}}", retrieve_model, methods=["GET"]),
    ]


def is_messages(scope: Scope) -> bool:
    """Whether a request is for this API, whatever else is wrong with it."""
    path = scope["path"]
    return path == _PATH or path.startswith(f"{_PATH}/") or (path.startswith(_MODELS) and _names_version(scope))


def _names_version(scope: Scope) -> bool:
    return any(name == _VERSION.encode() for name, _ in scope["headers"])


# ---------------------------------------------------------------- messages


class _MessageResponse(StreamResponse):
    """Clients of this API read a stream up to its last event, and repeat the request without it."""

    delivered_by_choices = False


async def messages(request: Request) -> RunResponse:
    """`POST /v1/messages`, whole or streamed. A stream is held back for a while, so that a failure keeps its status."""
    services, caller, decoded, reply, digest = await _read(request, {})
    settings, headers = services.settings, request.headers
    longest_s = (
        max(settings.messages.hold_s, settings.chat.heartbeat_s) if reply.stream else settings.chat.keepalive_json_s
    )
    terms, most_s = terms_of(headers, longest_s)
    session = headers.get(_SESSION, "")[:_MAX_HEADER]
    if session:  # Claude Code marks no repeat; within one session an equal request is taken for one.
        terms = replace(terms, client=f"{terms.client} {session}", is_retry=True, in_session=True)
    start = partial(services.backend.start, decoded, caller, terms, api=API, body=digest)
    if not reply.stream:
        encode = partial(message_body, reply)

        def error_body(error: ProxyError) -> bytes:
            return orjson.dumps(error_out(error, request.state.request_id))

        return WholeResponse(start, encode, error_body, most_s, _report_headers)
    return _MessageResponse(
        start,
        MessageStream(reply, request.state.request_id),
        min(settings.chat.heartbeat_s, most_s),
        settings.chat.model_copy(update={"heartbeat_style": "chunk"}),
        hold_s=min(settings.messages.hold_s, most_s),
        headers=_report_headers,
    )


async def count_tokens(request: Request) -> Response:
    """`POST /v1/messages/count_tokens`: an estimate, without a job."""
    _, _, decoded, reply, _ = await _read(request, {"max_tokens": _ANY_LENGTH})
    if decoded.native is None and decoded.refusal is not None:
        raise decoded.refusal
    return json_response({"input_tokens": reply.input_tokens})


async def _read(
    request: Request, fixed: Mapping[str, Any]
) -> tuple[ApiServices, Caller, InferenceRequest, MessagesReply, str]:
    """The caller and the decoded body, with `fixed` fields whatever it has in them. Raises ProxyError.

    A request that no upstream of this API can get does without its native form.
    """
    services, caller = await enter(request)
    body, size, found = await read_request(request, partial(find_card, services=services, caller=caller))
    work = partial(decode_body, {**body, **fixed}, size, rules=services.rules)
    decoded, reply, digest = await computed(size, work)
    return services, caller, for_model(decoded, found, request.headers), reply, digest


def for_model(
    decoded: InferenceRequest, found: ModelCard | Endpoint | None, headers: Mapping[str, str]
) -> InferenceRequest:
    """A request for what its model's name means: without its native form where no upstream of this API can get it."""
    reaches_api = found and (found.fallback or (isinstance(found, Endpoint) and found.service == WIRE))
    if decoded.native is None or not reaches_api:
        return replace(decoded, native=None)
    sent = {name: headers[name][:_MAX_HEADER] for name in _NATIVE_HEADERS if name in headers}
    return replace(decoded, native=replace(decoded.native, headers=sent))


def decode_body(body: JsonObject, body_bytes: int, *, rules: Rules) -> tuple[InferenceRequest, MessagesReply, str]:
    """A body's request, what its reply looks like, and its digest; done in a thread where it is large. Raises InvalidRequest."""
    decoded, reply = decode(validated(MessagesRequest, body), body, rules, body_bytes)
    return decoded, reply, body_digest(body)


async def find_card(name: str, services: ApiServices, caller: Caller) -> ModelCard | Endpoint:
    """What a model's name means to a caller. Raises ModelNotFound in this API's words, PermissionDenied."""
    try:
        return await services.find(name, caller)
    except ModelNotFound:
        raise ModelNotFound(f"model: {name[:100]}", param="model") from None


# ---------------------------------------------------------------- models


async def list_models(request: Request) -> Response:
    """`GET /v1/models`: every model and named endpoint that the caller may use, in pages."""
    services, caller = await enter(request)
    usable = await usable_models(caller, services.catalog, services.endpoints)
    listed = [_model_out(name, found) for name, found in usable]
    return json_response(page_of(request, listed, *PAGE), {"vary": _VERSION})


async def retrieve_model(request: Request) -> Response:
    """`GET /v1/models/{id}`: one model under the name that was asked for."""
    services, caller = await enter(request)
    name = request.path_params["model"].removesuffix("/")
    return json_response(_model_out(name, await find_card(name, services, caller)), {"vary": _VERSION})


def _model_out(name: str, found: ModelCard | Endpoint) -> JsonObject:
    created = _CREATED
    if isinstance(found, Endpoint) and found.created_at:
        created = rfc3339(datetime.fromtimestamp(found.created_at, UTC))
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": created,
        "lifecycle": "active",
        "max_input_tokens": None,
        "max_tokens": None,
        "capabilities": None,
    }


# ---------------------------------------------------------------- headers and errors


def rfc3339(time: datetime) -> str:
    """A time, in UTC, as this API writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def limit_headers(limits: Mapping[str, str], now: datetime) -> dict[str, str]:
    """OpenAI's `x-ratelimit-*` headers by this API's names, with a time in place of a duration."""
    headers: dict[str, str] = {}
    for name, value in limits.items():
        match name.split("-"):
            case ["x", "ratelimit", "reset", kind]:  # rounded up: a client that comes then must not be too early
                at = now + timedelta(seconds=float(value.removesuffix("s")) + 1)
                headers[f"anthropic-ratelimit-{kind}-reset"] = rfc3339(at)
            case ["x", "ratelimit", what, kind]:
                headers[f"anthropic-ratelimit-{kind}-{what}"] = value
    return headers


def _report_headers(report: Report) -> dict[str, str]:
    own = replace(report, rate_limits=limit_headers(report.rate_limits, datetime.now(UTC)))
    return report_headers(own)


def error_response(scope: Scope, error: ProxyError) -> Response:
    """The whole response to a request that failed before its first byte was sent."""
    headers = {name: value for name, value in error_headers(error).items() if not name.startswith("x-ratelimit-")}
    headers |= limit_headers(error.headers, datetime.now(UTC))
    return json_response(error_out(error, scope["state"]["request_id"]), headers, error_status(error))

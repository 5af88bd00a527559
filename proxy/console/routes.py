"""The console's files, and three small calls, each of which asks for the same key as a chat request does.

The files come with headers that let a browser load nothing from elsewhere and run nothing but these files.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from proxy.access.authentication import Caller
from proxy.access.limits import Quota, RateLimits
from proxy.api.anthropic import routes as messages
from proxy.api.http.requests import ApiServices, credentials_digest, read_object, validated
from proxy.api.http.responses import json_response
from proxy.api.openai.decode import decode as decode_chat
from proxy.api.openai.responses.decode import Decoding
from proxy.api.openai.responses.decode import decode as decode_response
from proxy.api.openai.responses.types import ResponsesRequest
from proxy.api.openai.types import ChatRequest
from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.prompt import prepare
from proxy.errors import InvalidRequest
from proxy.inference.endpoints import Endpoint, find_model
from proxy.inference.request import JsonObject, Rules
from proxy.inference.request import Request as InferenceRequest
from proxy.inference.router import check
from proxy.logs import RequestRecord
from proxy.schemas import Budget

RECENT_REQUESTS: Final = 200
"""Requests that are remembered."""
_UNKNOWN_PLANE: Final = "(the data plane)"
_SHOWN_TAG: Final = "rid:(a new one for each submission)"
FOLDER: Final = Path(__file__).parent / "static"

HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

# Not left to the machine's own table, which may know no modules, or other ones.
_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class ConsoleServices(ApiServices):
    """What the calls need in addition; `request.state.console`.

    Attributes:
        client: carries the proxy's own token; callers with tokens of their own get a copy of it.
        recent: the last requests of this process, without their content; the middleware fills them in.
        operators: ids of the callers who are shown everyone's requests; others are shown their own.
        usual: the limits of callers whose keys have none of their own.
    """

    client: NarrativeClient
    recent: deque[RequestRecord]
    operators: frozenset[str]
    limits: RateLimits
    usual: Quota


def console_routes() -> list[BaseRoute]:
    """All of them."""
    return [
        # Relative, so that it also holds behind a prefix.
        Route("/console", RedirectResponse("console/", headers={"cache-control": "no-cache"}), methods=["GET"]),
        Route("/console/api/plan", plan, methods=["POST"]),
        Route("/console/api/recent", recent, methods=["GET"]),
        Route("/console/api/jobs/{id}", job, methods=["GET"]),
        Mount("/console", Pages(directory=FOLDER, html=True)),
    ]


async def plan(request: Request) -> Response:
    """What would be submitted for a request to `path`, a query parameter: its first job, before anything is known of the answer. No job
    is made, and stored responses are not read. Raises ProxyError as the request would be refused, or where there is no such path.
    """
    services: ConsoleServices = request.state.console
    decode = _DECODERS.get(request.query_params.get("path", _CHAT))
    if decode is None:
        raise InvalidRequest(f"Invalid `path`: expected one of {', '.join(_DECODERS)}.", param="path")
    caller = await services.authenticator.authenticate(request.headers)
    # It makes no job, but is work: it counts as a request.
    await services.limits.enter([caller.rule(services.usual)], tokens=0, jobs=0)
    decoded = await read_object(request, partial(decode, services.rules))
    if decoded.refusal is not None:
        raise decoded.refusal
    check(decoded, services.rules)
    found = await find_model(decoded.model, caller, services.catalog, services.endpoints)
    if isinstance(found, Endpoint):
        raise InvalidRequest("Jobs are planned for models, not for named endpoints.", param="model")
    budget = Budget()

    def _plan() -> Response:
        prepared = prepare(decoded, found.card, services.rules, budget=budget)
        run = prepared.body(caller.data_plane_id or _UNKNOWN_PLANE, _SHOWN_TAG)
        body = {"run": msgspec.to_builtins(run), "jobs": decoded.choices}
        adjusted = [sentence for sentence in (found.adjusted, *prepared.adjusted) if sentence]
        return _json({**body, "ignored": prepared.ignored, "adjusted": adjusted})

    try:
        return await asyncio.to_thread(_plan)
    except asyncio.CancelledError:
        budget.abandon()
        raise


_CHAT: Final = "/v1/chat/completions"
_DECODERS: Final[Mapping[str, Callable[[Rules, JsonObject, int], InferenceRequest]]] = {
    _CHAT: lambda rules, body, size: decode_chat(validated(ChatRequest, body), rules, size)[0],
    "/v1/messages": lambda rules, body, size: messages.decode_body(body, size, rules=rules)[0],
    "/v1/responses": lambda rules, body, size: decode_response(
        validated(ResponsesRequest, body), body, size, Decoding(rules)
    )[0],
}


async def recent(request: Request) -> Response:
    """The last requests that this process answered: everyone's to operators, one's own to others."""
    services: ConsoleServices = request.state.console
    owner = _owner(services, await services.authenticator.authenticate(request.headers), request)
    names = ("at", "method", "request_id", "route", "status", "model", "jobs", "ms")
    entries = [{name: getattr(entry, name) for name in names} for entry in seen_by(services.recent, owner)]
    return _json({"everyone": owner is None, "requests": entries})


async def job(request: Request) -> Response:
    """State and times of a job that was submitted for a request the caller may see; nothing of its content. Raises ProxyError."""
    services: ConsoleServices = request.state.console
    caller = await services.authenticator.authenticate(request.headers)
    job_id = request.path_params["id"]
    visible = seen_by(services.recent, _owner(services, caller, request))
    if not any(job_id in record.jobs for record in visible):
        raise InvalidRequest("No recent request of yours had that job submitted.", param="id")
    found = await services.client.with_api_key(caller.upstream_key).get_job(job_id)
    names = ("id", "state", "created_at", "ended_at")
    return _json({name: getattr(found, name) for name in names})


def seen_by(records: Iterable[RequestRecord], owner: str | None) -> list[RequestRecord]:
    """Those that came with credentials of that digest, the newest first; all of them for None."""
    return [record for record in reversed([*records]) if owner is None or record.owner == owner]


def _owner(services: ConsoleServices, caller: Caller, request: Request) -> str | None:
    return None if caller.id in services.operators else credentials_digest(request.headers)


def _json(value: object) -> Response:
    return json_response(value, {"cache-control": "no-store"})


class Pages(StaticFiles):
    """Serves the console's files. A browser asks each time whether they changed."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """With the headers of all files, and types that do not depend on the machine."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        response.headers["content-type"] = _TYPES.get(PurePath(full_path).suffix, "text/plain; charset=utf-8")
        return response

"""The console's routes: its files, and three small calls. Each call asks for the same key as a chat request does."""

import asyncio
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from proxy.access.authentication import Caller
from proxy.api.http.bodies import read_object, validated
from proxy.api.http.headers import credentials_digest
from proxy.api.http.json_text import json_bytes
from proxy.api.openai.decode import decode
from proxy.api.openai.types import ChatRequest
from proxy.backends.narrative.prompt import prepare
from proxy.console.pages import Pages
from proxy.console.services import ConsoleServices
from proxy.errors import InvalidRequest, PermissionDenied
from proxy.inference.request import Request as InferenceRequest
from proxy.inference.router import check
from proxy.schemas import Budget

UNKNOWN_PLANE = "(the data plane)"
_SHOWN_TAG = "rid:(a new one for each submission)"


def console_routes() -> list[BaseRoute]:
    """All of them."""
    return [
        Route("/console", to_the_page, methods=["GET"]),
        Route("/console/api/plan", plan, methods=["POST"]),
        Route("/console/api/recent", recent, methods=["GET"]),
        Route("/console/api/jobs/{id}", job, methods=["GET"]),
        Mount("/console", Pages()),
    ]


async def to_the_page(request: Request) -> Response:
    """`/console` → `/console/`, relative, so that it also holds behind a prefix."""
    return RedirectResponse("console/", headers={"cache-control": "no-cache"})


async def plan(request: Request) -> Response:
    """What would be submitted for a chat request: its first job, before anything is known of the answer. No job is made.

    Raises:
        ProxyError: as the chat request would be refused before its submission.
    """
    services: ConsoleServices = request.state.console
    caller = await services.authenticator.authenticate(request.headers)
    # It makes no job, but is work: it counts as a request.
    await services.limits.enter([caller.rule(services.usual)], tokens=0, jobs=0)

    def work(body: dict[str, Any], body_bytes: int) -> InferenceRequest:
        decoded, _ = decode(validated(ChatRequest, body), services.rules, body_bytes)
        check(decoded, services.rules)
        return decoded

    decoded = await read_object(request, work, services.server)
    found = services.catalog.match(decoded.model)
    if not caller.may_use({decoded.model, found.card.id, *found.card.names}):
        raise PermissionDenied("This API key has no access to that model.", param="model")
    budget = Budget()
    try:
        prepared = await asyncio.to_thread(prepare, decoded, found.card, services.rules, budget=budget)
    except asyncio.CancelledError:
        budget.abandon()
        raise
    run = prepared.body(caller.data_plane_id or UNKNOWN_PLANE, _SHOWN_TAG)
    return _json(
        {
            "run": run.model_dump(mode="json", exclude_none=True),
            "jobs": decoded.choices,
            "ignored": prepared.ignored,
            "adjusted": (*((found.adjusted,) if found.adjusted else ()), *prepared.adjusted),
        }
    )


async def recent(request: Request) -> Response:
    """The last requests that this process answered: everyone's to operators, one's own to others."""
    services: ConsoleServices = request.state.console
    owner = _owner(services, await services.authenticator.authenticate(request.headers), request)
    entries = [{**asdict(entry), "owner": None} for entry in services.recent.seen_by(owner)]
    return _json({"everyone": owner is None, "requests": entries})


async def job(request: Request) -> Response:
    """State and times of a job that was submitted for one of the requests the caller may see; nothing of its content.

    Raises:
        InvalidRequest: there is no such request.
    """
    services: ConsoleServices = request.state.console
    caller = await services.authenticator.authenticate(request.headers)
    job_id = request.path_params["id"]
    if not services.recent.has_job(job_id, _owner(services, caller, request)):
        raise InvalidRequest("No recent request of yours had that job submitted.", param="id")
    own, key = services.client, caller.upstream_key
    found = await (own if key is None else own.with_api_key(key)).get_job(job_id)
    names = ("id", "state", "created_at", "ended_at")
    return _json({name: getattr(found, name) for name in names})


def _owner(services: ConsoleServices, caller: Caller, request: Request) -> str | None:
    return None if caller.id in services.operators else credentials_digest(request.headers)


def _json(value: object) -> Response:
    return Response(json_bytes(value), media_type="application/json", headers={"cache-control": "no-store"})

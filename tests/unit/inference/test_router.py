"""From a name to the backend that serves it: permissions, limits, fallbacks, and what is released whatever happens."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from proxy.access.authentication import Caller
from proxy.access.limits import Quota, RateLimits
from proxy.catalog import Catalog, ModelCard
from proxy.errors import (
    InvalidApiKey,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PaidFailure,
    PermissionDenied,
    ProxyError,
    RateLimited,
    UpstreamError,
)
from proxy.inference.backend import Record, RunOptions
from proxy.inference.endpoints import Endpoint, TaskDefaults
from proxy.inference.request import Request, Rules, Sampling, Tool
from proxy.inference.result import Ended, fold
from proxy.inference.router import Router, check
from proxy.storage import MemoryStore
from tests.unit.inference.fakes import ME, FakeBackend, asking

DOWN = UpstreamError("down", code="narrative_unavailable", retry_after=1)
CARDS = (
    ModelCard(id="id.first", names=("first",), max_tokens=9, fallback="second"),
    ModelCard(id="id.second", names=("second",), max_tokens=9, requests_per_minute=1, fallback="first"),
)
DEFAULTS = TaskDefaults(max_tokens=100, temperature=0.5, top_k=3)
PLANE = "11111111-2222-4333-8444-555555555555"
OPTIONS = RunOptions()
RULES = Rules()


class StoredEndpoints:
    def __init__(self, *endpoints: Endpoint) -> None:
        self.by_name = {endpoint.id: endpoint for endpoint in endpoints}

    async def find(self, name: str) -> Endpoint | None:
        return self.by_name.get(name)

    async def api_key(self, endpoint: Endpoint) -> str | None:
        return endpoint.sealed_key and f"clear {endpoint.sealed_key}"


ENDPOINTS = StoredEndpoints(
    Endpoint(
        id="mine", task_type="completion", service="anthropic", model_id="claude", sealed_key="k", defaults=DEFAULTS
    ),
    Endpoint(id="planed", task_type="completion", service="narrative", model_id="first", data_plane_id=PLANE),
    Endpoint(
        id="backed", task_type="completion", service="anthropic", model_id="claude", sealed_key="k", fallback="first"
    ),
)


class Routing:
    """A router with a backend for each service."""

    def __init__(self, **fields: Any) -> None:
        self.narrative, self.anthropic = FakeBackend(), FakeBackend()
        options: dict[str, Any] = {"usual": Quota(), "own_token": True, "rules": RULES, **fields}
        backends = {"narrative": self.narrative, "anthropic": self.anthropic}
        self.router = Router(Catalog(CARDS), ENDPOINTS, backends, limits(), **options)

    async def start(self, request: Request, caller: Caller = ME, options: RunOptions = OPTIONS) -> Any:
        return await self.router.start(request, caller, options)


def limits() -> RateLimits:
    return RateLimits(MemoryStore(), wait_s=0)


@pytest.fixture
def routing() -> Routing:
    return Routing()


# ---------------------------------------------------------------- checks


def tool(name: str, index: int = 0) -> Tool:
    return Tool(name, path=f"tools[{index}].function")


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (asking(choices=9), "n"),
        (asking(tools=tuple(tool(f"t{n}", n) for n in range(513))), "tools"),
        (asking(tools=(tool("a"), tool(" ", 1))), "tools[1].function.name"),
        (asking(tools=(tool("a"), tool("b", 1), tool("a", 2))), "tools[2].function.name"),
        (asking(tools=tuple(Tool(f"t{n}", path=f"functions[{n}]") for n in range(513))), "functions"),
    ],
)
async def test_what_every_api_refuses(routing: Routing, request_: Request, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await routing.start(request_)
    assert caught.value.param == param
    assert not routing.narrative.started


def test_the_most_that_is_accepted() -> None:
    check(asking(choices=8, tools=tuple(tool(f"t{n}", n) for n in range(512))), Rules())


# ---------------------------------------------------------------- names and permissions


async def test_the_backend_gets_the_id_of_the_model(routing: Routing) -> None:
    for name in ("first", "id.first", "FIRST"):
        run = await routing.start(asking(name))
        assert routing.narrative.started[-1][0].model == "id.first"
        assert run.report.served_by == ""


async def test_another_model_than_the_one_asked_for_is_reported() -> None:
    routing = Routing()
    old = Catalog((CARDS[0].model_copy(update={"replaces": ("older",)}), CARDS[1]))
    routing.router = replace(routing.router, catalog=old)
    await routing.start(asking("older", adjusted=("temperature: lowered to 1",)))
    asked = routing.narrative.started[0][0]
    assert asked.model == "id.first"
    assert asked.adjusted == (
        "temperature: lowered to 1",
        "model: served by first, the successor of the one asked for",
    )


async def test_a_key_learns_nothing_of_models_it_may_not_use(routing: Routing) -> None:
    caller = Caller(None, "plane", models=frozenset({"first"}))
    for name in ("second", "no-such-model", "mine"):
        with pytest.raises(PermissionDenied):
            await routing.start(asking(name), caller)
    with pytest.raises(ModelNotFound):
        await routing.start(asking("no-such-model"))


async def test_a_caller_without_access_to_named_endpoints_finds_none(routing: Routing) -> None:
    with pytest.raises(ModelNotFound):
        await routing.start(asking("mine"), Caller("token", "plane", endpoints=False))


async def test_holders_of_our_keys_cannot_spend_a_token_the_proxy_does_not_have() -> None:
    routing = Routing(own_token=False)
    with pytest.raises(PermissionDenied):
        await routing.start(asking("first"))
    await routing.start(asking("first"), Caller("a token", "plane"))


# ---------------------------------------------------------------- named endpoints


async def test_an_endpoint_is_served_with_its_own_model_credential_and_defaults(routing: Routing) -> None:
    await routing.start(asking("mine"))
    request, caller, _ = routing.anthropic.started[0]
    assert (request.model, request.max_tokens) == ("claude", 100)
    assert request.sampling == Sampling(temperature=0.5, top_k=3)
    assert caller.upstream_key == "clear k"


@pytest.mark.parametrize(
    ("fields", "max_tokens", "sampling"),
    [
        ({"max_tokens": 5}, 5, Sampling(temperature=0.5, top_k=3)),
        ({"sampling": Sampling(top_p=0.1)}, 100, Sampling(top_p=0.1, top_k=3)),
        ({"sampling": Sampling(temperature=0.0)}, 100, Sampling(temperature=0.0, top_k=3)),
        ({"sampling": Sampling(top_k=9, stop=("x",))}, 100, Sampling(temperature=0.5, top_k=9, stop=("x",))),
    ],
)
async def test_a_request_overrides_defaults(
    routing: Routing, fields: dict[str, Any], max_tokens: int, sampling: Sampling
) -> None:
    await routing.start(asking("mine", **fields))
    request = routing.anthropic.started[0][0]
    assert (request.max_tokens, request.sampling) == (max_tokens, sampling)


async def test_an_endpoint_runs_on_its_data_plane_if_the_key_may(routing: Routing) -> None:
    for caller in (ME, replace(ME, bound_plane=PLANE)):
        await routing.start(asking("planed"), caller)
        assert routing.narrative.started[-1][1].data_plane_id == PLANE
    with pytest.raises(PermissionDenied):
        await routing.start(asking("planed"), replace(ME, bound_plane="another"))


async def test_credentials_of_an_endpoint_that_are_refused_are_not_the_clients_fault(routing: Routing) -> None:
    routing.anthropic.errors["claude"] = InvalidApiKey("no")
    routing.narrative.errors["id.first"] = InvalidApiKey("no")
    with pytest.raises(UpstreamError) as caught:
        await routing.start(asking("mine"))
    assert caught.value.code == "endpoint_unauthorized"
    with pytest.raises(InvalidApiKey):
        await routing.start(asking("first"))


# ---------------------------------------------------------------- fallbacks


async def test_while_a_backend_is_down_the_fallback_serves(routing: Routing) -> None:
    routing.narrative.errors["id.first"] = DOWN
    run = await routing.start(asking("first"))
    assert run.report.served_by == "second"
    assert [request.model for request, _, _ in routing.narrative.started] == ["id.first", "id.second"]
    # The second one's fallback was asked already.
    assert [options.retry_s for _, _, options in routing.narrative.started] == [3.0, math.inf]


async def test_an_endpoints_fallback_is_asked_with_the_callers_own_credential(routing: Routing) -> None:
    routing.anthropic.errors["claude"] = UpstreamError("down", code="anthropic_unavailable")
    run = await routing.start(asking("backed"))
    assert run.report.served_by == "first"
    assert routing.narrative.started[0][1] == ME


async def test_a_fallback_has_fields_of_its_own_in_the_record(routing: Routing) -> None:
    routing.narrative.errors["id.first"] = DOWN
    record = Record("run:1", UUID(int=1), 60.0, resumable=False)
    await routing.start(asking("first"), options=RunOptions(5.0, record))
    used = [options.record for _, _, options in routing.narrative.started]
    assert used[0] == record
    assert used[1] == replace(record, prefix="second:", seed=used[1].seed)
    assert used[1].seed != record.seed


@pytest.mark.parametrize(
    "error",
    [
        ModelNotFound("no"),
        InvalidApiKey("no"),
        RateLimited("no", retry_after=1),
        UpstreamError("a job may exist", code="narrative_submit_unknown"),
        PaidFailure("failed", code="narrative_job_failed"),
        Overloaded("too much here", retry_after=1),
    ],
)
async def test_nothing_else_is_a_reason_to_fall_back(routing: Routing, error: ProxyError) -> None:
    routing.narrative.errors["id.first"] = error
    with pytest.raises(type(error)):
        await routing.start(asking("first"))
    assert len(routing.narrative.started) == 1


async def test_fallbacks_in_a_circle_end_with_the_backends_error(routing: Routing) -> None:
    routing.narrative.errors = {"id.first": DOWN, "id.second": DOWN}
    with pytest.raises(UpstreamError):
        await routing.start(asking("first"))
    assert len(routing.narrative.started) == 2


async def test_a_fallback_counts_against_its_own_limit(routing: Routing) -> None:
    routing.narrative.errors["id.first"] = DOWN
    await routing.start(asking("first"))
    with pytest.raises(RateLimited):
        await routing.start(asking("first"))


async def test_a_fallback_is_not_used_for_a_key_that_may_not_use_it(routing: Routing) -> None:
    routing.narrative.errors["id.first"] = DOWN
    with pytest.raises(UpstreamError):
        await routing.start(asking("first"), Caller(None, "plane", models=frozenset({"first"})))


# ---------------------------------------------------------------- limits

ONE_JOB = Caller(None, "plane", id="one", quota=Quota(jobs=1, tokens=10_000))


@pytest.mark.parametrize("way", ["result", "events", "close", "cancel"])
@pytest.mark.parametrize("fails", ["never", "at once", "later"])
async def test_leases_are_released_however_a_run_ends(routing: Routing, fails: str, way: str) -> None:
    error = PaidFailure("broken", code="narrative_job_failed")
    routing.narrative.errors = {"id.first": error} if fails == "at once" else {}
    routing.narrative.later = {"id.first": error} if fails == "later" else {}
    refused: list[PaidFailure] = []
    for _ in range(3):
        try:
            run = await routing.start(asking("first"), ONE_JOB)
            with pytest.raises(RateLimited):
                await routing.start(asking("first"), ONE_JOB)
            await _end(run, way, routing)
        except PaidFailure as caught:
            refused.append(caught)
    assert all("x-ratelimit-limit-tokens" in each.headers for each in refused if fails == "at once")
    assert len(refused) == (3 if fails == "at once" or (fails == "later" and way in ("result", "events")) else 0)


async def _end(run: Any, way: str, routing: Routing) -> None:
    match way:
        case "result":
            await run.result()
        case "events":
            result = fold([event async for batch in run.events() for event in batch])
            assert result.usage.total_tokens == 40
        case "close":
            run.close(delivered=False)
            assert routing.narrative.runs[-1].closed == [False]
            await routing.router.aclose()
        case "cancel":
            routing.narrative.runs[-1].hold = asyncio.Event()
            task = asyncio.create_task(run.result())
            await routing.narrative.runs[-1].awaited.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("way", ["result", "events"])
async def test_the_tokens_used_are_counted_in_place_of_the_estimate(way: str) -> None:
    routing = Routing()
    caller = Caller(None, "plane", id="counted", quota=Quota(tokens=1_000))
    run = await routing.start(asking("first", body_bytes=400, max_tokens=700), caller)
    assert left(run.report.rate_limits) == 200
    await _end(run, way, routing)
    run = await routing.start(asking("first", body_bytes=40, max_tokens=50), caller)
    assert left(run.report.rate_limits) == 1_000 - 40 - 60


def left(headers: Mapping[str, str]) -> int:
    return int(headers["x-ratelimit-remaining-tokens"])


async def test_the_last_event_is_passed_on(routing: Routing) -> None:
    run = await routing.start(asking("first"))
    events = [event async for batch in run.events() for event in batch]
    assert isinstance(events[-1], Ended)


async def test_the_usual_quota_holds_for_keys_without_their_own() -> None:
    routing = Routing(usual=Quota(requests=1))
    await routing.start(asking("first"))
    with pytest.raises(RateLimited):
        await routing.start(asking("first"))
    await routing.start(asking("first"), replace(ME, id="other", quota=Quota(requests=5)))
    await routing.start(asking("first"), replace(ME, id="other", quota=Quota(requests=5)))

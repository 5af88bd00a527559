"""Webhooks that come twice, late, out of order, without results, from someone else, or not at all."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.backends.narrative.events import JobEnded, ReliabilityChanged, UpstreamCalled
from proxy.backends.narrative.webhooks import WebhookOptions, Webhooks
from proxy.sandbox import RunningSandbox, SandboxOptions, serve_sandbox
from proxy.storage import Store, open_storage
from tests.faults.running import OPTIONS, Engine, engine, request
from tests.redis_server import serve_redis
from tests.serving import serve
from tests.waiting import until

FEW_READS = 0.2
"""A second: so few that webhooks are always first."""
Delivery = tuple[dict[str, str], str | None, bytes]


@dataclass
class Inbox:
    """A route that hands deliveries to the loop of the test, through what a test puts in between."""

    loop: asyncio.AbstractEventLoop
    meddle: Callable[[Delivery], list[Delivery]] = lambda delivery: [delivery]
    hooks: Webhooks | None = None
    receipts: list[int] = field(default_factory=list)
    taken: list[Delivery] = field(default_factory=list)

    async def route(self, asked: Request) -> Response:
        delivery = (dict(asked.headers), asked.query_params.get("token"), await asked.body())
        self.loop.call_soon_threadsafe(self.take, delivery)
        return Response(status_code=204)

    def take(self, delivery: Delivery) -> None:
        self.taken.append(delivery)
        assert self.hooks is not None
        self.receipts += [self.hooks.deliver(*each) for each in self.meddle(delivery)]


@asynccontextmanager
async def subscribed(
    options: SandboxOptions | None = None, *, reads: float = 50, store: Store | None = None
) -> AsyncIterator[tuple[Engine, Inbox, RunningSandbox]]:
    engine_options = replace(OPTIONS, reads_per_second=reads)
    inbox = Inbox(asyncio.get_running_loop())
    app = Starlette(routes=[Route("/hook", inbox.route, methods=["POST"])])
    with serve(app) as url:
        async with (
            serve_sandbox(options or SandboxOptions(pending_s=0.01)) as sandbox,
            engine(sandbox.url, engine_options, store=store) as running,
        ):
            inbox.hooks = Webhooks(running.jobs, running.client, WebhookOptions(f"{url}/hook", name="test"))
            async with inbox.hooks as hooks:
                await hooks.subscribed.wait()
                yield running, inbox, sandbox


def sources(running: Engine) -> list[str]:
    return [event.source for event in running.events if isinstance(event, JobEnded)]


def reads(running: Engine) -> int:
    return sum(isinstance(event, UpstreamCalled) and event.operation == "read_job" for event in running.events)


def twice(delivery: Delivery) -> list[Delivery]:
    return [delivery, delivery]


def twice_with_other_keys(delivery: Delivery) -> list[Delivery]:
    headers, token, body = delivery
    other = {**headers, "idempotency-key": headers["idempotency-key"] + "again"}
    return [delivery, (other, token, body)]


def after_an_older_state(delivery: Delivery) -> list[Delivery]:
    headers, token, body = delivery
    older = json.loads(body)
    older["data"]["state"] = "running"
    return [({**headers, "idempotency-key": "older"}, token, json.dumps(older).encode()), delivery]


def before_an_older_state(delivery: Delivery) -> list[Delivery]:
    return after_an_older_state(delivery)[::-1]


@pytest.mark.parametrize("meddle", [twice, twice_with_other_keys, after_an_older_state, before_an_older_state])
async def test_deliveries_may_come_twice_and_out_of_order(meddle: Callable[[Delivery], list[Delivery]]) -> None:
    async with subscribed(reads=FEW_READS) as (running, inbox, _):
        inbox.meddle = meddle
        await asyncio.gather(*(running.run(0.2) for _ in range(10)))
        assert set(sources(running)) == {"webhook"}
        assert len(sources(running)) == 10
        assert set(inbox.receipts) == {204}


async def test_a_delivery_without_a_result_makes_the_job_be_read() -> None:
    async with subscribed(SandboxOptions(pending_s=0.01, webhook_results=False), reads=FEW_READS) as (running, _, _):
        texts = await asyncio.gather(*(running.run(0.5) for _ in range(10)))
        assert all(texts)
        assert set(sources(running)) == {"webhook"}


async def test_a_delivery_is_published_to_the_replica_that_waits_which_need_not_read_the_job() -> None:
    few_reads = replace(OPTIONS, reads_per_second=FEW_READS)
    with serve_redis() as url:
        async with (
            open_storage(Path("unused"), url, "replicas:") as here,
            open_storage(Path("unused"), url, "replicas:") as there,
            subscribed(reads=FEW_READS, store=here.live) as (_, _, sandbox),
            engine(sandbox.url, few_reads, store=there.live) as other,
        ):

            async def is_published() -> bool:
                await other.run(0.2)
                return "webhook" in sources(other)

            await until(is_published)
            before = reads(other)
            await asyncio.gather(*(other.run(0.2) for _ in range(20)))
            assert reads(other) <= before + 2
            assert sources(other)[-20:].count("webhook") >= 18


@pytest.mark.parametrize("way", ["header", "bearer", "none"])
async def test_the_secret_may_travel_in_a_header_as_bearer_or_in_the_url(way: Any) -> None:
    async with subscribed(SandboxOptions(pending_s=0.01, webhook_secret=way), reads=FEW_READS) as (running, inbox, _):
        if way != "none":
            inbox.meddle = lambda delivery: [(delivery[0], None, delivery[2])]
        await running.run(0.5)
        assert sources(running) == ["webhook"]


async def test_forged_deliveries_change_nothing() -> None:
    async with subscribed() as (running, inbox, _):
        job = await running.jobs.submit(request(30.0), running.client, deadline=asyncio.get_running_loop().time() + 60)
        assert inbox.hooks is not None
        body = json.dumps({"id": "x", "type": "job.completed", "data": forged(job.id)}).encode()
        for headers, token in [
            ({}, None),
            ({}, ""),
            ({}, "guess"),
            ({"x-narrative-webhook-secret": ""}, None),
            ({"x-narrative-webhook-secret": "guess"}, "guess"),
            ({"authorization": "Bearer "}, None),
            ({"authorization": "Basic guess"}, None),
            ({"authorization": "Bearer gü\xdfss"}, "\u2603"),
        ]:
            assert inbox.hooks.deliver(headers, token, body) == 401
        assert running.count(JobEnded) == 0


def forged(job_id: str) -> dict[str, Any]:
    return {"job_id": job_id, "state": "completed", "result": {"structured_output": {"text": "forged"}}}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"data": 5}', b"[" * 100_000, b"\xff"])
async def test_genuine_nonsense_is_unreadable_and_harmless(body: bytes) -> None:
    async with subscribed() as (running, inbox, _):
        await running.run(0.0)
        await until(lambda: inbox.taken)  # a read may have noticed the end before the delivery came
        headers, token, _ = inbox.taken[0]
        assert inbox.hooks is not None
        assert inbox.hooks.deliver(headers, token, body) == 400


async def test_deliveries_for_other_parties_jobs_are_taken_and_forgotten() -> None:
    async with subscribed() as (running, inbox, _):
        await running.client.run_model_inference(request(0.0))
        await until(lambda: inbox.receipts)
        assert set(inbox.receipts) == {204}
        assert running.count(JobEnded) == 0


async def test_webhooks_that_prove_themselves_replace_reads_and_are_demoted_when_they_stop() -> None:
    async with subscribed() as (running, inbox, _):
        for _ in range(3):
            await asyncio.gather(*(running.run(0.3) for _ in range(8)))
        while ReliabilityChanged("webhook", reliable=True) not in running.events:
            await running.run(0.3)
        inbox.meddle = lambda _: []
        while ReliabilityChanged("webhook", reliable=False) not in running.events:
            await asyncio.gather(*(running.run(0.3) for _ in range(8)))
        before = running.count(UpstreamCalled)
        await asyncio.gather(*(running.run(0.3) for _ in range(8)))
        assert running.count(UpstreamCalled) > before


async def test_the_subscription_is_archived_at_the_end_and_what_a_crash_left_behind_at_the_start() -> None:
    async with serve_sandbox() as sandbox, engine(sandbox.url) as running:
        options = WebhookOptions("http://127.0.0.1:9/hook", name="test")
        crashed = Webhooks(running.jobs, running.client, options)
        await crashed.__aenter__()
        await crashed.subscribed.wait()
        [left] = await running.client.list_webhooks()
        async with Webhooks(running.jobs, running.client, options) as hooks:
            await hooks.subscribed.wait()
            active = [hook for hook in await running.client.list_webhooks() if hook.status != "archived"]
            assert len(active) == 1
            assert active[0].id != left.id
        await crashed.__aexit__(None, None, None)
        assert all(hook.status == "archived" for hook in await running.client.list_webhooks())


async def test_a_subscription_that_was_archived_by_someone_else_is_made_again() -> None:
    async with serve_sandbox() as sandbox, engine(sandbox.url) as running:
        options = WebhookOptions("http://127.0.0.1:9/hook", name="test", check_every=0.05)
        async with Webhooks(running.jobs, running.client, options) as hooks:
            await hooks.subscribed.wait()
            [first] = await running.client.list_webhooks()
            await running.client.archive_webhook(first.id)

            async def subscribed_again() -> bool:
                return any(hook.status != "archived" for hook in await running.client.list_webhooks())

            await until(subscribed_again)


async def test_without_the_right_to_webhooks_jobs_are_followed_by_reads() -> None:
    async with (
        serve_sandbox(SandboxOptions(pending_s=0.01, running_s=0.1, webhooks=False)) as sandbox,
        engine(sandbox.url) as running,
    ):
        options = WebhookOptions("http://127.0.0.1:9/hook", name="test", retry_first=0.01)
        async with Webhooks(running.jobs, running.client, options):
            await asyncio.gather(*(running.run(0.1) for _ in range(5)))


def test_neither_token_nor_secret_is_shown() -> None:
    options = WebhookOptions("https://proxy.example/hook", name="test", token="very-secret")
    assert "very-secret" not in repr(options)

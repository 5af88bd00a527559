"""Webhooks: one subscription for all replicas, forged deliveries turned away, and news for whichever replica waits for the job."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.jobs import Jobs
from proxy.backends.narrative.webhooks import MAX_BODY_BYTES, Webhooks, webhook_options
from proxy.storage import ALONE, Membership, MemoryStore
from tests.conftest import Deployment
from tests.faults.relay import relay_to
from tests.redis_server import serve_redis
from tests.waiting import until

PATH = "/narrative/webhook"


@asynccontextmanager
async def subscribed(make_deployment: Any, replicas: int = 1, **environ: str) -> AsyncIterator[list[Deployment]]:
    """Houses on the sandbox of the first one, whose public address leads to the first."""
    async with relay_to(0) as relay:
        environ = {"PROXY_WEBHOOKS__PUBLIC_URL": f"http://127.0.0.1:{relay.port}", **environ}
        first: Deployment = await asyncio.to_thread(make_deployment, environ, running_s=0.3)
        relay.target = int(first.url.rsplit(":", 1)[1])
        others = [
            await asyncio.to_thread(make_deployment, {**environ, "NARRATIVE_ENVIRONMENT": first.sandbox_url})
            for _ in range(replicas - 1)
        ]
        await until(lambda: subscriptions(first))
        yield [first, *others]


async def subscriptions(deployment: Deployment) -> list[Any]:
    async with httpx.AsyncClient(headers={"authorization": "Bearer narrative-token"}) as client:
        found = (await client.get(f"{deployment.sandbox_url}/webhooks")).json()
    listed = found if isinstance(found, list) else found["records"]
    return [webhook for webhook in listed if webhook.get("status") != "archived"]


async def news(deployment: Deployment, source: str) -> int:
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{deployment.url}/metrics")).text
    found = re.search(rf'proxy_ends_noticed_total{{source="{source}"}} (\d+)', text)
    return int(found[1]) if found else 0


async def ask_until_told_by_webhook(deployment: Deployment) -> None:
    body = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": "Hello!"}]}
    async with (
        asyncio.timeout(60),
        httpx.AsyncClient(headers={"authorization": "Bearer test-key"}, timeout=30) as client,
    ):
        while not await news(deployment, "webhook"):
            answers = await asyncio.gather(
                *(client.post(f"{deployment.url}/v1/chat/completions", json=body) for _ in range(5))
            )
            assert {answer.status_code for answer in answers} == {200}


async def test_an_end_is_noticed_by_webhook(make_deployment: Any) -> None:
    async with subscribed(make_deployment) as [deployment]:
        await ask_until_told_by_webhook(deployment)


async def test_a_delivery_to_one_replica_reaches_the_one_that_waits(make_deployment: Any) -> None:
    with serve_redis() as url:
        async with subscribed(make_deployment, replicas=2, PROXY_STATE__URL=url) as [first, second]:
            assert len(await subscriptions(first)) == 1
            await ask_until_told_by_webhook(second)
            assert await news(first, "webhook") == 0


class Away(MemoryStore):
    """A shared store that is away: whoever asks leads."""

    healthy = False
    asked = 0

    async def join(self, role: str, *, may_lead: bool = True) -> Membership:
        self.asked += 1
        return ALONE


async def test_while_the_shared_state_is_away_nobody_takes_the_subscription_over(deployment: Deployment) -> None:
    store = Away()
    async with NarrativeClient("narrative-token", environment=deployment.sandbox_url) as client, Jobs() as jobs:
        options = replace(webhook_options("http://127.0.0.1:1", "narrative-token"), elect_every=0.01)
        before = await subscriptions(deployment)
        async with Webhooks(jobs, client, options, store):
            await until(lambda: store.asked >= 5)
            assert await subscriptions(deployment) == before
            store.healthy = True
            await until(lambda: subscribed_anew(deployment, before))
        assert await subscriptions(deployment) == before


async def subscribed_anew(deployment: Deployment, before: list[Any]) -> bool:
    return len(await subscriptions(deployment)) == len(before) + 1


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer guess"}, {"x-narrative-webhook-secret": "guess"}])
async def test_a_forged_delivery_is_turned_away(make_deployment: Any, headers: dict[str, str]) -> None:
    async with subscribed(make_deployment) as [deployment], httpx.AsyncClient(base_url=deployment.url) as client:
        for token in ("", "?token=guess"):
            assert (await client.post(f"{PATH}{token}", json={"data": {}}, headers=headers)).status_code == 401


async def test_the_body_of_a_forged_delivery_is_not_waited_for(make_deployment: Any) -> None:
    async with subscribed(make_deployment) as [deployment]:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(deployment.url.rsplit(":", 1)[1]))
        writer.write(f"POST {PATH}?token=guess HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n".encode())
        async with asyncio.timeout(30):
            assert b" 401 " in await reader.readline()
        writer.close()


@pytest.mark.parametrize(("size", "status"), [(MAX_BODY_BYTES, 204), (MAX_BODY_BYTES + 1, 413)])
async def test_a_genuine_delivery_is_read_up_to_a_bound(make_deployment: Any, size: int, status: int) -> None:
    async with subscribed(make_deployment) as [deployment], httpx.AsyncClient(base_url=deployment.url) as client:
        token = webhook_options(deployment.environ["PROXY_WEBHOOKS__PUBLIC_URL"], "narrative-token").token
        body = b'{"data": {"job_id": "none", "state": "completed", "input": ""}}'
        body = body[:-3] + b" " * (size - len(body)) + body[-3:]
        assert (await client.post(PATH, params={"token": token}, content=body)).status_code == status


def test_without_a_public_url_there_is_no_such_route(deployment: Deployment) -> None:
    assert deployment.http.post(PATH, json={}).status_code == 404

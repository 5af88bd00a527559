"""Clients that leave: in either mode the waiting stops at once and nothing leaks."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.conftest import Deployment
from tests.scripts import script
from tests.waiting import until

ENDLESS = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": script(state="running")}]}
HEADERS = {"authorization": "Bearer test-key"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_waiting_at_once(make_deployment: Any, stream: bool) -> None:
    deployment: Deployment = make_deployment()
    async with httpx.AsyncClient(base_url=deployment.url, headers=HEADERS) as client:
        calls = [
            asyncio.create_task(client.post("/v1/chat/completions", json={**ENDLESS, "stream": stream}))
            for _ in range(5)
        ]
        await until(lambda: deployment.in_flight() == 5)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: deployment.in_flight() == 0)
        answer = await client.post(
            "/v1/chat/completions", json={**ENDLESS, "messages": [{"role": "user", "content": "hi"}]}
        )
        assert answer.status_code == 200


async def test_many_abandoned_requests_leave_no_job_in_flight(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    async with httpx.AsyncClient(
        base_url=deployment.url, headers=HEADERS, limits=httpx.Limits(max_connections=50)
    ) as client:
        for _ in range(4):
            calls = [
                asyncio.create_task(client.post("/v1/chat/completions", json={**ENDLESS, "stream": index % 2 == 0}))
                for index in range(50)
            ]
            await until(lambda: deployment.in_flight() == 50)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await until(lambda: deployment.in_flight() == 0)


async def test_a_client_that_leaves_while_it_sends_is_no_fault_of_ours(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    host, port = deployment.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer test-key\r\n"
        b"content-length: 1000\r\n\r\n{"
    )
    await writer.drain()
    writer.transport.abort()

    async def counted() -> bool:
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{deployment.url}/metrics")).text
        assert 'status="500"' not in text
        return 'status="499"' in text

    await until(counted)

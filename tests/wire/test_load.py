"""More than the server may have in flight: a bounded wait, then a 503 that says when to come again."""

import asyncio
from typing import Any

import httpx

from tests.scripts import script
from tests.waiting import until


async def test_who_finds_no_place_is_told_when_to_come_again_and_makes_no_job(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_JOBS__MAX_IN_FLIGHT": "2", "PROXY_JOBS__PLACE_WAIT_S": "0.1"})
    endless = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": script(state="running")}]}
    async with httpx.AsyncClient(base_url=deployment.url, headers={"authorization": "Bearer test-key"}) as client:
        waiting = [asyncio.create_task(client.post("/v1/chat/completions", json=endless)) for _ in range(2)]
        await until(lambda: deployment.in_flight() == 2)
        refused = await client.post("/v1/chat/completions", json=endless)
        for call in waiting:
            call.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert refused.status_code == 503
    assert refused.json()["error"]["type"] == "overloaded_error"
    assert refused.headers["x-should-retry"] == "true"
    assert int(refused.headers["retry-after"]) >= 1
    assert deployment.jobs_submitted() == 2

"""Every tenth answer to a submission is lost after the job was enqueued: each request is answered, and each is paid once."""

import asyncio
from collections import Counter
from typing import Any

import httpx

from proxy.sandbox import Fault
from tests.conftest import Deployment

REQUESTS = 2_000
AT_ONCE = 200


async def test_two_thousand_requests_with_lost_answers_are_two_thousand_answers_and_jobs(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment(pending_s=0.1, running_s=0.1)
    deployment.sandbox.state.faults.add(Fault(kind="close", operation="run", handled=True, every=10))
    places = asyncio.Semaphore(AT_ONCE)

    async with httpx.AsyncClient(
        base_url=deployment.url,
        headers={"authorization": "Bearer test-key"},
        timeout=120,
        limits=httpx.Limits(max_connections=AT_ONCE, keepalive_expiry=1.0),  # sooner than the server's
    ) as client:

        async def ask(number: int) -> httpx.Response:
            body = {
                "model": "claude-4-5-haiku",
                "messages": [{"role": "user", "content": f"Say {number}."}],
                "stream": number % 4 == 0,
            }
            async with places:
                return await client.post("/v1/chat/completions", json=body)

        answers = await asyncio.gather(*(ask(number) for number in range(REQUESTS)))

    assert Counter(answer.status_code for answer in answers) == {200: REQUESTS}
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers[::4])
    assert len({answer.headers["x-narrative-job-id"] for answer in answers}) == REQUESTS
    assert deployment.jobs_submitted() == REQUESTS
    assert deployment.sandbox.state.store.calls["run"] == REQUESTS, "nothing was submitted twice"
    tags = Counter(tag for job in deployment.submissions() for tag in job["tags"] if tag.startswith("rid:"))
    assert set(tags.values()) == {1}

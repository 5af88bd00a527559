"""The span of a job whose replica was killed is sent by the replica that learns of the job's end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import redis

from proxy.backends.narrative.webhooks import webhook_options
from tests.faults.test_replicas import Site, a_client, persistent, site
from tests.otlp import Receiver, receiver
from tests.redis_server import serve_redis
from tests.waiting import until

PUBLIC = "http://127.0.0.1:9"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@asynccontextmanager
async def killed(running_s: float) -> AsyncIterator[tuple[Site, Receiver, asyncio.Task[httpx.Response]]]:
    """Two replicas, of which the first was killed with a job in flight, and its client, which asks the second one in its place."""
    with receiver() as collector, serve_redis() as url:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "PROXY_WEBHOOKS__PUBLIC_URL": PUBLIC,
            "PROXY_STATE__URL": url,
        }
        with site(running_s, **environ) as here, redis.Redis.from_url(url) as state:
            async with a_client() as client:
                traced = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
                ask = asyncio.create_task(persistent(client, here.urls, "Hello!", **traced))
                await until(lambda: state.keys("*span:*"))
                here.processes[0].kill()
                yield here, collector, ask
                ask.cancel()
                await asyncio.gather(ask, return_exceptions=True)


async def test_a_retry_that_takes_up_the_job_brings_both_spans() -> None:
    async with killed(2.0) as (here, collector, ask):
        assert (await ask).status_code == 200
        original, server, job = await collector.wait_for(3)
        assert here.enqueued == 1
    assert {span.trace for span in collector.spans} == {TRACE}
    assert server.links == job.links == [(TRACE, original.span)]
    assert original["narrative.job.id"] == job["narrative.job.id"]
    assert (original["narrative.job.taken_up"], job["narrative.job.taken_up"]) == (False, True)
    assert original["narrative.job.noticed_by"] == "replica"
    assert original.ended >= job.ended
    assert original.parent not in ("", server.span), "that of the replica that was killed"


async def test_webhooks_at_another_replica_end_the_span_once() -> None:
    async with killed(600.0) as (here, collector, ask):
        ask.cancel()
        (job,) = here.sandbox.state.store.jobs()
        delivery = {"data": {"job_id": job.id, "state": "completed"}}
        token = webhook_options(PUBLIC, "narrative-token").token
        async with httpx.AsyncClient() as narrative:
            for _ in range(3):
                answer = await narrative.post(
                    f"{here.urls[1]}/narrative/webhook", params={"token": token}, json=delivery
                )
                assert answer.status_code == 204
        await until(lambda: [span for span in collector.spans if span["narrative.job.id"]])
    (original,) = [span for span in collector.spans if span["narrative.job.id"]]
    assert (original.trace, original["narrative.job.id"]) == (TRACE, job.id)
    assert original["narrative.job.noticed_by"] == "webhook"

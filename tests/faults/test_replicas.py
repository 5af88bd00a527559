"""Two replicas on one Redis: what one of them was doing when it died is taken up by the other, and paid once."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest

from proxy.sandbox import SANDBOX_DATA_PLANE, Fault, SandboxOptions, create_sandbox
from tests.conftest import Deployment
from tests.faults.relay import relay_to
from tests.messages_client import SESSION, asking
from tests.messages_folding import fold_messages, stream_events
from tests.processes import running
from tests.redis_server import serve_redis
from tests.scripts import script
from tests.serving import serve
from tests.waiting import until

ENDLESS = script(state="running")
RETRY_AFTER_S = 0.2
"""Seconds after which clients repeat a request, about as SDKs do."""


@dataclass
class Site:
    """A sandbox, a Redis, and replicas of the proxy in processes of their own."""

    sandbox: Any
    urls: list[str]
    processes: list[subprocess.Popen[str]]

    @property
    def enqueued(self) -> int:
        return int(self.sandbox.state.store.enqueued)

    async def submitted(self, jobs: int) -> None:
        await until(lambda: self.enqueued >= jobs)


@contextmanager
def site(running_s: float, **environ: str) -> Iterator[Site]:
    with ExitStack() as stack:
        sandbox = create_sandbox(SandboxOptions(pending_s=0.0, running_s=running_s))
        settings = {
            "NARRATIVE_ENVIRONMENT": stack.enter_context(serve(sandbox)),
            "NARRATIVE_API_KEY": "narrative-token",
            "NARRATIVE_DATA_PLANE_ID": SANDBOX_DATA_PLANE,
            "PROXY_API_KEYS": "test-key",
            "PROXY_STATE__URL": stack.enter_context(serve_redis()),
            "PROXY_SERVER__LOG_LEVEL": "error",
            "PROXY_ACCESS__FOLDER": stack.enter_context(TemporaryDirectory()),
            **environ,
        }
        started = [stack.enter_context(running("serve", "--port", "0", **settings)) for _ in range(2)]
        yield Site(sandbox, [url for url, _ in started], [process for _, process in started])


@asynccontextmanager
async def a_client() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(headers={"authorization": "Bearer test-key"}, timeout=60, limits=limits) as client:
        yield client


async def persistent(client: httpx.AsyncClient, urls: list[str], content: str, **headers: str) -> httpx.Response:
    """Ask the replicas in turn, as an SDK repeats, until one answers for good."""
    body = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": content}]}
    answers: list[httpx.Response | None] = []

    async def answered() -> bool:
        tries = len(answers)
        repeat = {"x-stainless-retry-count": str(tries)} if tries else {}
        try:
            url = f"{urls[tries % len(urls)]}/v1/chat/completions"
            answers.append(await client.post(url, json=body, headers={**headers, **repeat}))
        except httpx.TransportError:
            answers.append(None)
        return answers[-1] is not None and answers[-1].headers.get("x-should-retry") != "true"

    await until(answered, pause_s=RETRY_AFTER_S)
    assert answers[-1] is not None
    return answers[-1]


@pytest.mark.parametrize("keys", [True, False], ids=["with keys", "the SDKs' own retries"])
async def test_a_replica_that_is_killed_under_load_loses_no_job_and_pays_none_twice(keys: bool) -> None:
    with site(0.5) as here:
        # Some submissions are on their way, taken by Narrative but not yet answered, when the replica dies.
        here.sandbox.state.faults.add(Fault(kind="slow", operation="run", handled=True, delay_s=1.5, every=3))
        async with a_client() as client:
            asks = [
                asyncio.create_task(
                    persistent(
                        client, here.urls, f"Hello {number}!", **({"idempotency-key": f"k{number}"} if keys else {})
                    )
                )
                for number in range(60)
            ]
            await here.submitted(30)
            here.processes[0].send_signal(signal.SIGKILL)
            answers = await asyncio.gather(*asks)
        assert [answer.status_code for answer in answers] == [200] * 60, [answer.text for answer in answers]
        assert len({answer.json()["id"] for answer in answers}) == 60
        assert here.enqueued == 60


async def test_a_repeat_of_claude_code_takes_up_the_job_of_a_killed_replica_without_a_mark() -> None:
    body = asking("Hello!", stream=True)
    with site(1.0) as here:
        async with a_client() as client:
            headers = {SESSION: "one", "x-stainless-retry-count": "0"}
            first = asyncio.create_task(client.post(f"{here.urls[0]}/v1/messages", json=body, headers=headers))
            await here.submitted(1)
            here.processes[0].send_signal(signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                await first
            answer = await client.post(f"{here.urls[1]}/v1/messages", json=body, headers=headers)
        assert (answer.status_code, fold_messages(stream_events(answer.content))["stop_reason"]) == (200, "end_turn")
        assert here.enqueued == 1


async def test_what_a_stopping_replica_cuts_off_is_taken_up_by_the_other() -> None:
    with site(4.0, PROXY_SERVER__SHUTDOWN_GRACE_S="0") as here:
        async with a_client() as client:
            asks = [asyncio.create_task(persistent(client, here.urls, f"Hello {number}!")) for number in range(10)]
            await here.submitted(10)
            here.processes[0].send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*asks)
        assert [answer.status_code for answer in answers] == [200] * 10, [answer.text for answer in answers]
        assert here.enqueued == 10


async def test_requests_with_one_key_on_two_replicas_share_one_job() -> None:
    with site(0.5) as here:
        async with a_client() as client:
            asks = [persistent(client, [here.urls[n % 2]], "Hello!", **{"idempotency-key": "k"}) for n in range(10)]
            answers = await asyncio.gather(*asks)
            assert len({answer.json()["id"] for answer in answers}) == 1
            url = f"{here.urls[1]}/v1/chat/completions"
            other = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": "Other."}]}
            assert (await client.post(url, json=other, headers={"idempotency-key": "k"})).status_code == 422
        assert here.enqueued == 1


async def test_without_redis_each_replica_serves_on_by_itself_and_says_that_it_is_degraded(
    make_deployment: Any,
) -> None:
    with serve_redis() as url:
        async with relay_to(int(url.rsplit(":", 1)[1].partition("/")[0])) as relay:
            make = make_deployment
            deployment: Deployment = await asyncio.to_thread(
                make, {"PROXY_STATE__URL": f"redis://127.0.0.1:{relay.port}/0"}
            )
            async with a_client() as client:
                before = await persistent(client, [deployment.url], "Before.", **{"idempotency-key": "before"})
                relay.cut()
                asks = [
                    persistent(client, [deployment.url], f"{n}", **{"idempotency-key": f"{n % 10}"}) for n in range(10)
                ]
                assert {answer.status_code for answer in await asyncio.gather(*asks)} == {200}
                again = await persistent(client, [deployment.url], "Before.", **{"idempotency-key": "before"})
                assert again.json() == before.json()
                ready = await client.get(f"{deployment.url}/readyz")
                assert (ready.status_code, ready.json()) == (200, {"status": "degraded"})
                metrics = (await client.get(f"{deployment.url}/metrics")).text
                assert "proxy_state_healthy 0.0" in metrics
                assert "proxy_state_errors_total 0.0" not in metrics
                relay.mend()

                async def is_whole_again() -> bool:
                    return bool((await client.get(f"{deployment.url}/readyz")).json() == {"status": "ready"})

                await until(is_whole_again)
            assert deployment.jobs_submitted() == 11

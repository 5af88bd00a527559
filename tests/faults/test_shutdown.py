"""SIGTERM: what is in flight is answered, nothing new is begun, and no request ends without an answer or a proper error."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest

from proxy.sandbox import SANDBOX_DATA_PLANE, SandboxOptions, create_sandbox
from tests.processes import running
from tests.scripts import script
from tests.serving import serve
from tests.waiting import until

HEADERS = {"authorization": "Bearer test-key"}
ENDLESS = script(state="running")


class Pair:
    """A proxy in a process of its own, and the sandbox it runs on."""

    def __init__(self, sandbox: Any, url: str, process: subprocess.Popen[str]) -> None:
        self.store = sandbox.state.store
        self.url = url
        self.process = process

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def pair(running_s: float, *arguments: str, **environ: str) -> Iterator[Pair]:
    sandbox = create_sandbox(SandboxOptions(pending_s=0.0, running_s=running_s))
    with serve(sandbox) as sandbox_url, TemporaryDirectory() as folder:
        environ = {
            "NARRATIVE_ENVIRONMENT": sandbox_url,
            "NARRATIVE_API_KEY": "narrative-token",
            "NARRATIVE_DATA_PLANE_ID": SANDBOX_DATA_PLANE,
            "PROXY_API_KEYS": "test-key",
            "PROXY_SERVER__LOG_LEVEL": "error",
            "PROXY_ACCESS__FOLDER": folder,
            **environ,
        }
        with running("serve", "--port", "0", *arguments, **environ) as (url, process):
            yield Pair(sandbox, url, process)


def client_of(pair: Pair) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=pair.url, headers=HEADERS, timeout=30, limits=httpx.Limits(max_connections=200))


def chat(client: httpx.AsyncClient, content: str, stream: bool = False) -> asyncio.Task[httpx.Response]:
    body = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": content}], "stream": stream}
    return asyncio.create_task(client.post("/v1/chat/completions", json=body))


async def submitted(pair: Pair, jobs: int) -> None:
    await until(lambda: pair.store.enqueued >= jobs)


async def in_flight(client: httpx.AsyncClient, jobs: int) -> None:
    async def counted() -> bool:
        return f"proxy_jobs_in_flight {jobs}.0" in (await client.get("/metrics")).text

    await until(counted)


async def ready(client: httpx.AsyncClient) -> None:
    """Workers begin to listen after their parent has printed the address."""

    async def listens() -> bool:
        try:
            await client.get("/readyz")
        except httpx.ConnectError:
            return False
        return True

    await until(listens)


async def draining(client: httpx.AsyncClient) -> httpx.Response:
    answers: list[httpx.Response] = []

    async def refused() -> bool:
        answers.append(await client.get("/readyz"))
        return answers[-1].status_code != 200

    await until(refused)
    return answers[-1]


async def exited(pair: Pair) -> int:
    return await asyncio.to_thread(pair.process.wait, 30)


def last_event(answer: httpx.Response) -> str:
    return answer.text.strip().split("data: ")[-1]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_what_is_in_flight_is_answered_before_the_process_ends(workers: str) -> None:
    with pair(1.5, "--workers", workers) as server:
        async with client_of(server) as client:
            await ready(client)
            asks = [chat(client, f"Hello {index}!", stream=index % 2 == 1) for index in range(40)]
            await submitted(server, 40)
            server.stop()
            answers = await asyncio.gather(*asks)
        assert [answer.status_code for answer in answers] == [200] * 40
        assert all(last_event(answer) == "[DONE]" for answer in answers[1::2])
        assert await exited(server) == 0
    assert server.store.enqueued == 40


async def test_nothing_new_is_begun_and_readyz_says_so() -> None:
    with pair(2.0) as server:
        async with client_of(server) as client:
            first = chat(client, "Hello!")
            await submitted(server, 1)
            server.stop()
            ready = await draining(client)
            assert ready.status_code == 503
            assert ready.json() == {"status": "draining"}
            refused = await chat(client, "Too late.")
            assert refused.status_code == 503
            assert refused.json()["error"]["type"] == "overloaded_error"
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["x-should-retry"] == "true"
            assert refused.headers["connection"] == "close"
            assert (await client.get("/healthz")).status_code == 200
            assert (await first).status_code == 200
        await exited(server)
    assert server.store.enqueued == 1


@pytest.mark.parametrize("twice", [False, True], ids=["grace period over", "second signal"])
async def test_what_does_not_end_in_time_ends_with_a_proper_error_also_inside_streams(twice: bool) -> None:
    """Trap: uvicorn waits for streams for ever, sse-starlette cuts them at once."""
    with pair(0.0, PROXY_SERVER__SHUTDOWN_GRACE_S="30" if twice else "1") as server:
        async with client_of(server) as client:
            plain, stream = chat(client, ENDLESS), chat(client, ENDLESS, stream=True)
            await in_flight(client, 2)
            server.stop()
            await draining(client)
            if twice:
                server.stop()
            plainly, streamed = await plain, await stream
        assert plainly.status_code == 503
        assert plainly.json()["error"]["type"] == "overloaded_error"
        assert plainly.headers["x-narrative-job-id"]
        assert plainly.headers["x-should-retry"] == "false", (
            "nobody could take up the job: a repeat would be paid again"
        )
        assert streamed.status_code == 200
        assert json.loads(last_event(streamed))["error"]["type"] == "overloaded_error"
        assert await exited(server) == 0


async def test_under_load_no_request_ends_without_an_answer_or_a_proper_error() -> None:
    with pair(0.3, PROXY_SERVER__SHUTDOWN_GRACE_S="20") as server:
        answers: list[httpx.Response] = []

        async def ask_until_refused(client: httpx.AsyncClient, number: int) -> None:
            answer = None
            while answer is None or answer.status_code == 200:
                try:
                    answer = await chat(client, f"Hello {number}!", stream=number % 2 == 1)
                except httpx.ConnectError:
                    return  # the process has ended, and nothing was sent
                answers.append(answer)

        async with client_of(server) as client:
            asking = [asyncio.create_task(ask_until_refused(client, number)) for number in range(20)]
            await submitted(server, 60)
            server.stop()
            await asyncio.gather(*asking)
        for answer in answers:
            if answer.status_code == 200:
                assert last_event(answer) == "[DONE]" or answer.json()["choices"]
            else:
                assert answer.status_code == 503
                assert answer.json()["error"]["type"] == "overloaded_error"
        assert len(answers) >= 60
        assert server.store.enqueued == sum(answer.status_code == 200 for answer in answers)


async def test_requests_that_wait_for_their_turn_to_submit_are_refused_at_once_and_never_submitted() -> None:
    with pair(
        1.0, PROXY_SERVER__SHUTDOWN_GRACE_S="20", PROXY_JOBS__MAX_IN_FLIGHT="2", PROXY_JOBS__PLACE_WAIT_S="60"
    ) as server:
        async with client_of(server) as client:
            first = [chat(client, ENDLESS) for _ in range(2)]
            await in_flight(client, 2)
            waiting = [chat(client, "Hello!", stream=index == 0) for index in range(4)]

            async def all_wait() -> bool:
                return "proxy_submissions_waiting 4.0" in (await client.get("/metrics")).text

            await until(all_wait)
            server.stop()
            for refused in await asyncio.gather(*waiting):
                assert refused.status_code == 503
                assert refused.json()["error"]["type"] == "overloaded_error"
                assert int(refused.headers["retry-after"]) >= 1
                assert refused.headers["x-should-retry"] == "true"
            assert not any(task.done() for task in first), "the grace period goes on for those with a job"
            server.stop()
            await asyncio.gather(*first)
        await exited(server)
    assert server.store.enqueued == 2

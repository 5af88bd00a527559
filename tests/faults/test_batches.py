"""A batch whose owner is killed, again and again, while submissions are lost and jobs fail: a row for each line, a job for each that needs one."""

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest

from proxy.sandbox import SANDBOX_DATA_PLANE, Fault, SandboxOptions, create_sandbox
from tests.batching import chat, ended, line, rows, start
from tests.conftest import Deployment
from tests.faults.relay import relay_to
from tests.processes import running
from tests.redis_server import serve_redis
from tests.scripts import script
from tests.serving import serve
from tests.waiting import until

LINES = 120


@contextmanager
def site(redis: bool) -> Iterator[tuple[Any, dict[str, str]]]:
    """A sandbox, and the settings of proxies in front of it that share what they store."""
    with ExitStack() as stack:
        sandbox = create_sandbox(SandboxOptions(pending_s=0.0, running_s=0.2))
        settings = {
            "NARRATIVE_ENVIRONMENT": stack.enter_context(serve(sandbox)),
            "NARRATIVE_API_KEY": "narrative-token",
            "NARRATIVE_DATA_PLANE_ID": SANDBOX_DATA_PLANE,
            "PROXY_API_KEYS": "test-key",
            "PROXY_SERVER__LOG_LEVEL": "error",
            "PROXY_ACCESS__FOLDER": stack.enter_context(TemporaryDirectory()),
            "PROXY_BATCHES__MAX_IN_FLIGHT": "10",
        }
        if redis:
            settings["PROXY_STATE__URL"] = stack.enter_context(serve_redis())
        yield sandbox, settings


def client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"authorization": "Bearer test-key"}, timeout=60)


def lines() -> list[str]:
    """One in ten fails; two are refused before there is a job, and two ask for two choices."""
    found = []
    for number in range(LINES):
        body = chat(script(fail="the model fell over")) if number % 10 == 3 else chat(f"Hello {number}")
        if number in (50, 90):
            body["model"] = "nobody"
        if number in (60, 91):
            body["n"] = 2
        found.append(line(f"c{number}", body))
    return found


@pytest.mark.parametrize("redis", [True, False], ids=["two replicas on a Redis", "restarts on one machine"])
async def test_an_owner_that_is_killed_twice_loses_no_line_and_pays_none_twice(redis: bool) -> None:
    with site(redis) as (sandbox, settings), ExitStack() as stack:
        sandbox.state.faults.add(Fault(kind="reset", operation="run", handled=True, every=20))
        enqueued = lambda: int(sandbox.state.store.enqueued)  # noqa: E731
        url, process = stack.enter_context(running("serve", "--port", "0", **settings))
        with client(url) as http:
            batch = await asyncio.to_thread(start, http, lines())
        for jobs in (LINES // 4, LINES // 2):
            following = stack.enter_context(running("serve", "--port", "0", **settings)) if redis else None
            await until(lambda jobs=jobs: enqueued() >= jobs)  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            url, process = following or stack.enter_context(running("serve", "--port", "0", **settings))
        with client(url) as http:
            batch = await asyncio.to_thread(ended, http, batch["id"])
            answers = await asyncio.to_thread(rows, http, batch["output_file_id"])
            errors = await asyncio.to_thread(rows, http, batch["error_file_id"])
        assert batch["status"] == "completed"
        assert answers.keys() | errors.keys() == {f"c{number}" for number in range(LINES)}
        assert not answers.keys() & errors.keys()
        codes = Counter(row["response"]["body"]["error"]["code"] for row in errors.values())
        assert codes == {"narrative_job_failed": 12, "model_not_found": 2}
        assert batch["request_counts"] == {"total": LINES, "completed": LINES - 14, "failed": 14}
        assert enqueued() == LINES - 2 + 2


async def test_a_stopped_server_gives_its_batches_to_the_next_at_once() -> None:
    with site(redis=False) as (sandbox, settings):
        with running("serve", "--port", "0", PROXY_SERVER__SHUTDOWN_GRACE_S="0", **settings) as (url, process):
            with client(url) as http:
                batch = await asyncio.to_thread(start, http, lines())
            await until(lambda: sandbox.state.store.enqueued >= 20)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 30) == 0
        with running("serve", "--port", "0", **settings) as (url, _), client(url) as http:
            batch = await asyncio.to_thread(ended, http, batch["id"])
            assert batch["request_counts"] == {"total": LINES, "completed": LINES - 14, "failed": 14}
        assert sandbox.state.store.enqueued == LINES


async def test_a_batch_goes_on_when_redis_is_back(make_deployment: Any) -> None:
    with serve_redis() as url:
        async with relay_to(int(url.rsplit(":", 1)[1].partition("/")[0])) as relay:
            redis = f"redis://127.0.0.1:{relay.port}/0"
            deployment: Deployment = await asyncio.to_thread(
                make_deployment, {"PROXY_STATE__URL": redis, "PROXY_BATCHES__MAX_IN_FLIGHT": "4"}, running_s=0.2
            )
            batch = await asyncio.to_thread(start, deployment.http, lines())
            await until(lambda: deployment.jobs_submitted() >= 20)
            relay.cut()
            await until(lambda: not deployment.app.state.store.healthy)
            answer = await asyncio.to_thread(deployment.http.get, f"/v1/batches/{batch['id']}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "state_unavailable")
            relay.mend()
            await until(lambda: deployment.app.state.store.healthy)
            batch = await asyncio.to_thread(ended, deployment.http, batch["id"])
        assert batch["request_counts"] == {"total": LINES, "completed": LINES - 14, "failed": 14}
        assert deployment.jobs_submitted() == LINES

"""Background responses over two replicas of which one is killed: all must end, and each must cost one job.

    python -m benchmarks.bench_background [--responses 1000] [--running 3] [--kill-after 0.5]

Two proxies share a Redis (`redis-server` must be installed) and the sandbox as upstream, whose jobs take `--running` seconds. Clients
begin the responses at both replicas, as the SDKs repeat: every failed request goes to the other replica with `x-stainless-retry-count`.
When `--kill-after` of the responses have begun, one replica gets SIGKILL. Then every response is polled every two seconds at either
replica until it has ended.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.servers import free_port, serve_proxy, serve_upstream

POLL_S, PAUSE_S, TIMEOUT_S = 2.0, 0.2, 120.0
KEY = {"authorization": "Bearer any"}


@contextmanager
def serve_redis() -> Iterator[str]:
    """An empty Redis; gives its URL."""
    if shutil.which("redis-server") is None:
        raise SystemExit("redis-server is not installed")
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(10)


@dataclass
class Clients:
    """What clients of the replicas do, and how long it took them. Times in seconds."""

    http: aiohttp.ClientSession
    urls: list[str]
    begun: int = 0
    repeats: int = 0
    answers_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    async def respond(self, number: int) -> None:
        """Begin a response and poll it to its end."""
        body = {"model": "claude-4-5-haiku", "input": f"Hello {number}!", "background": True}
        started = time.perf_counter()
        response = await self._ask("POST", "/v1/responses", number, body)
        self.answers_s.append(time.perf_counter() - started)
        self.begun += 1
        until = time.monotonic() + TIMEOUT_S
        while response["status"] in ("queued", "in_progress") and time.monotonic() < until:
            await asyncio.sleep(POLL_S)
            response = await self._ask("GET", f"/v1/responses/{response['id']}", number)
        self.statuses[response["status"]] += 1

    async def _ask(self, method: str, path: str, first: int, body: Any = None) -> Any:
        tries = 0
        while True:
            url = self.urls[(first + tries) % len(self.urls)]
            headers = {**KEY, "x-stainless-retry-count": str(tries)} if tries else KEY
            try:
                async with self.http.request(method, f"{url}{path}", json=body, headers=headers) as answer:
                    text = await answer.text()
                    if answer.headers.get("x-should-retry") != "true":
                        return json.loads(text) if answer.status == 200 else {"status": f"HTTP {answer.status}"}
            except (aiohttp.ClientError, OSError):
                pass
            tries += 1
            self.repeats += 1
            await asyncio.sleep(PAUSE_S)


async def measure(urls: list[str], pid: int, responses: int, kill_after: float) -> Clients:
    """Run all clients, and kill a replica meanwhile."""
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200), timeout=timeout) as http:
        clients = Clients(http, urls)
        running = [asyncio.create_task(clients.respond(number)) for number in range(responses)]
        while clients.begun < responses * kill_after:
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        await asyncio.gather(*running)
    return clients


async def jobs_of(upstream: str) -> int:
    """How many jobs there are."""
    url = f"{upstream}/jobs?per_page=1"
    async with aiohttp.ClientSession() as http, http.get(url, headers=KEY) as answer:
        return int((await answer.json())["total_records"])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=1_000)
    parser.add_argument("--running", type=float, default=3.0, help="seconds a job runs")
    parser.add_argument("--kill-after", type=float, default=0.5, help="share of the responses that have begun")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8_192, hard), hard))
    with ExitStack() as stack:
        upstream = stack.enter_context(serve_upstream(options.running))
        settings = {
            "PROXY_STATE__URL": stack.enter_context(serve_redis()),
            "PROXY_ACCESS__FOLDER": stack.enter_context(tempfile.TemporaryDirectory()),
            "PROXY_SERVER__ALLOW_UNAUTHENTICATED": "always",
            "PROXY_SERVER__LOG_LEVEL": "error",
        }
        replicas = [stack.enter_context(serve_proxy(upstream, settings)) for _ in range(2)]
        started = time.perf_counter()
        urls = [replica.url for replica in replicas]
        clients = asyncio.run(measure(urls, replicas[0].pid, options.responses, options.kill_after))
        elapsed = time.perf_counter() - started
        jobs = asyncio.run(jobs_of(upstream.url))
    ranked = sorted(clients.answers_s)
    print("| responses | ended as | jobs | repeats | POST p50 s | POST max s | all ended after s |")
    print("|---|---|---|---|---|---|---|")
    ends = ", ".join(f"{status} {count}" for status, count in clients.statuses.most_common())
    print(
        f"| {options.responses} | {ends} | {jobs} | {clients.repeats} | {ranked[len(ranked) // 2]:.2f} | {ranked[-1]:.2f} | {elapsed:.1f} |"
    )
    if clients.statuses != {"completed": options.responses} or jobs != options.responses:
        sys.exit(1)


if __name__ == "__main__":
    main()

"""What many waiting requests cost: memory and CPU time for each, how soon the ends of their jobs are noticed, and refusals.

    python -m benchmarks.bench_waiting [--sizes 1000,10000] [--median 5]

All requests arrive at once at a proxy with one worker; their jobs run on a sandbox in a process of its own and take a lognormal time
around `--median` seconds. The delay of notice is from a job's end, by the sandbox's clock, to the last byte of the response; both
processes share this machine's clock. Memory is the worker's resident memory while all requests wait, above its idle value. Another
process asks for `/healthz` meanwhile, ten times a second on one connection. The run ends by itself when every request is answered.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import multiprocessing
import random
import re
import resource
import statistics
import time
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event as EventType

import httpx
import uvloop

from benchmarks.servers import Connection, Server, chat_request, serve_proxy, serve_upstream

SIGMA = 0.6
PROCESSES = multiprocessing.get_context("spawn")
HEAD = """\
| requests | answered | refused | elapsed s | KB each | CPU-ms each | noticed p50 ms | p95 ms | healthz worst ms |
|---|---|---|---|---|---|---|---|---|"""
_JOB = re.compile(rb"\r\nx-narrative-job-id: ([0-9a-f-]+)")


@dataclass
class Seen:
    """What happened to the requests of one size."""

    answered: dict[str, float] = field(default_factory=dict)
    """Job id → when its response was complete, in seconds since 1970."""
    refused: int = 0
    memory_mb: float = 0.0


def body(number: int, seconds: float) -> bytes:
    """A request whose job takes so many seconds."""
    text = f'Hello {number}! [[sandbox {{"delay": {seconds:.3f}}}]]'
    return json.dumps({"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": text}]}).encode()


async def ask(server: Server, request: bytes, seen: Seen) -> None:
    """One request on a connection of its own."""
    try:
        connection = await Connection.open(server.port)
        response = await connection.ask(request)
    except OSError:
        seen.refused += 1
        return
    connection.close()
    job = _JOB.search(response)
    if response.startswith(b"HTTP/1.1 200") and job:
        seen.answered[job[1].decode()] = time.time()
    else:
        seen.refused += 1


async def watch(server: Server, seen: Seen) -> None:
    """The most memory, until cancelled."""
    while True:
        seen.memory_mb = max(seen.memory_mb, server.memory_mb())
        await asyncio.sleep(0.25)


def probe(port: int, stop: EventType, worst_s: "Queue[float]") -> None:
    """Ask for `/healthz` until `stop` is set, then put the longest time; a process of its own, so that the clients' load does not count."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    longest = 0.0
    while not stop.wait(0.1):
        started = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        longest = max(longest, time.perf_counter() - started)
    worst_s.put(longest)


async def ended_at(upstream: Server) -> dict[str, float]:
    """When each job ended, in seconds since 1970, by the upstream's own records."""
    found: dict[str, float] = {}
    async with httpx.AsyncClient(base_url=upstream.url, headers={"authorization": "Bearer any"}, timeout=60) as client:
        offset = 0
        while True:
            page = await client.get("/jobs", params={"per_page": 500, "offset": offset})
            records = page.json()["records"]
            for record in records:
                found[record["job_id"]] = datetime.fromisoformat(record["ended_at"]).timestamp()
            if not records:
                return found
            offset += len(records)


async def measure(server: Server, upstream: Server, size: int, median: float) -> str:
    """Send `size` requests at once; the row of the table."""
    random.seed(size)
    requests = [chat_request(server.port, body(i, random.lognormvariate(0, SIGMA) * median)) for i in range(size)]
    seen = Seen()
    idle, cpu, started = server.memory_mb(), server.cpu_s(), time.perf_counter()
    watching = asyncio.create_task(watch(server, seen))
    stop, worst_s = PROCESSES.Event(), PROCESSES.Queue()
    prober = PROCESSES.Process(target=probe, args=(server.port, stop, worst_s))
    prober.start()
    await asyncio.gather(*(ask(server, request, seen) for request in requests))
    elapsed, cpu = time.perf_counter() - started, server.cpu_s() - cpu
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    stop.set()
    healthz_s = worst_s.get(timeout=60)
    prober.join()
    ends = await ended_at(upstream)
    delays = sorted(at - ends[job] for job, at in seen.answered.items() if job in ends)
    p50, p95 = statistics.median(delays), delays[int(len(delays) * 0.95)]
    return (
        f"| {size:,} | {len(seen.answered):,} | {seen.refused:,} | {elapsed:.1f} | {(seen.memory_mb - idle) * 1e3 / size:.1f} "
        f"| {cpu / size * 1e3:.2f} | {p50 * 1e3:.0f} | {p95 * 1e3:.0f} | {healthz_s * 1e3:.0f} |"
    )


def main() -> None:
    """Measure every size on servers of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000")
    parser.add_argument("--median", type=float, default=5.0, help="seconds a job takes")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(HEAD)
    for size in map(int, options.sizes.split(",")):
        with (
            serve_upstream() as upstream,
            serve_proxy(upstream) as server,
        ):
            print(uvloop.run(measure(server, upstream, size, options.median)), flush=True)


if __name__ == "__main__":
    main()

"""How soon the end of a job is noticed, and at what cost, for 1 to 10,000 jobs in flight.

    python -m benchmarks.bench_jobs [--sizes 1,10,100,1000,10000] [--modes direct,polling,webhooks] [--seconds 20]

Three ways are compared against the sandbox, which runs in a process of its own: each job polled every 2 s by its caller
(direct), the engine with list polls and single reads (polling), the engine with webhooks (webhooks). Durations are lognormal around 5 s.
Up to 1,000 jobs a new one is submitted whenever one ends; more are submitted first and then end within some seconds of each
other. Small sizes run in several independent engines, so that there is enough to measure; reads a second are per engine.

    python -m benchmarks.bench_jobs --modes polling,replicas --redis redis://127.0.0.1:6379/0

compares one engine with three that share the jobs and a Redis (replicas); reads a second are those of all three together.
"""

import argparse
import asyncio
import contextlib
import functools
import gc
import itertools
import random
import resource
import statistics
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from proxy.backends.narrative.client import ClientOptions, NarrativeClient
from proxy.backends.narrative.events import Event, JobEnded, JobsOptions, UpstreamCalled
from proxy.backends.narrative.jobs import Jobs
from proxy.backends.narrative.types import InferenceConfig, Job, RunMessage, RunRequest, TextBlock
from proxy.backends.narrative.webhooks import WebhookOptions, Webhooks
from proxy.errors import ProxyError
from proxy.sandbox import SANDBOX_DATA_PLANE, SandboxOptions, serve_sandbox
from proxy.storage import Store
from proxy.storage.outages import FailOpen
from proxy.storage.redis import RedisStore

MEDIAN, SIGMA = 5.0, 0.6
PENDING = 0.05
WARM_UP = 8.0
ENGINES = {1: 16, 10: 4}
WAVE_FROM = 5_000
SUBMISSIONS_A_SECOND = 300
DEADLINE = 300.0
REPLICAS = 3

Run = Callable[[RunRequest], Awaitable[Job]]


@dataclass
class Measured:
    """What one engine did."""

    delays: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    since: float = 0.0

    def observe(self, event: Event) -> None:
        now = time.monotonic()
        match event:
            case UpstreamCalled(operation="read_job" | "list_jobs"):
                self.reads.append(now)
            case JobEnded(delay=float(delay), source=source) if now >= self.since:
                self.delays.append(delay)
                self.sources[source] += 1


@dataclass(frozen=True)
class Row:
    mode: str
    size: int
    jobs: int
    reads: float
    peak: int
    p50: float
    p95: float
    worst: float
    memory: float | None
    errors: str
    sources: str

    def __str__(self) -> str:
        memory = "" if self.memory is None else f"{self.memory:.1f}"
        return (
            f"| {self.mode} | {self.size:,} | {self.jobs:,} | {self.reads:.1f} | {self.peak} | {self.p50:.0f} | {self.p95:.0f} "
            f"| {self.worst:.0f} | {memory} | {self.errors} | {self.sources} |"
        )


HEAD = (
    "| mode | in flight | jobs measured | reads/s | most reads in 1 s | p50 ms | p95 ms | worst ms | KB/job | errors | noticed by |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def request(seconds: float) -> RunRequest:
    """A job that takes `seconds`."""
    text = f'hello [[sandbox {{"delay": {max(seconds - PENDING, 0.0):.3f}}}]]'
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    return RunRequest(
        data_plane_id=SANDBOX_DATA_PLANE,
        model="anthropic.claude-haiku-4.5",
        messages=(RunMessage(role="user", content=(TextBlock(text=text),)),),
        inference_config=InferenceConfig(output_format_schema=schema),
        tags=(f"rid:{uuid.uuid4()}",),
    )


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


# ---------------------------------------------------------------- the three ways


@contextlib.asynccontextmanager
async def direct(url: str, measured: Measured) -> AsyncIterator[Run]:
    options = ClientOptions(max_connections=256, retry_timeout=DEADLINE, pool_timeout=60)
    async with NarrativeClient("key", environment=url, options=options, observe=measured.observe) as client:

        async def run(body: RunRequest) -> Job:
            job = await client.run_model_inference(body)
            while not job.ended:
                await asyncio.sleep(2.0)
                job = await client.get_job(job.id)
            delay = time.time() - job.ended_at.timestamp() if job.ended_at else 0.0
            measured.observe(JobEnded(job.id, "", job.state, "read", 0.0, delay))
            return job

        yield run


@contextlib.asynccontextmanager
async def engine(
    url: str, measured: Measured, key: str | None = None, store: Store | None = None
) -> AsyncIterator[tuple[Jobs, NarrativeClient]]:
    key = key or f"key-{uuid.uuid4()}"
    options = JobsOptions(max_in_flight=20_000)
    async with (
        NarrativeClient(key, environment=url, observe=measured.observe) as client,
        Jobs(options, observe=measured.observe, store=store) as jobs,
    ):
        yield jobs, client


def runs(jobs: Jobs, client: NarrativeClient) -> Run:
    def run(body: RunRequest) -> Awaitable[Job]:
        return jobs.run(body, client, deadline=asyncio.get_running_loop().time() + DEADLINE)

    return run


@contextlib.asynccontextmanager
async def polling(url: str, measured: Measured) -> AsyncIterator[Run]:
    async with engine(url, measured) as (jobs, client):
        yield runs(jobs, client)


@contextlib.asynccontextmanager
async def replicas(url: str, measured: Measured, redis: str) -> AsyncIterator[Run]:
    key = f"key-{uuid.uuid4()}"
    async with contextlib.AsyncExitStack() as stack:
        engines = []
        for _ in range(REPLICAS):
            store = FailOpen(await stack.enter_async_context(RedisStore(redis, f"bench-{key}:")))
            engines.append(runs(*await stack.enter_async_context(engine(url, measured, key, store))))
        turns = itertools.cycle(engines)

        def run(body: RunRequest) -> Awaitable[Job]:
            return next(turns)(body)

        yield run


@contextlib.asynccontextmanager
async def webhooks(url: str, measured: Measured) -> AsyncIterator[Run]:
    async with engine(url, measured) as (jobs, client):
        holder: list[Webhooks] = []
        async with receiver(holder) as receiver_url:
            options = WebhookOptions(receiver_url, name=str(uuid.uuid4()))
            async with Webhooks(jobs, client, options) as hooks:
                holder.append(hooks)
                await hooks.subscribed.wait()
                yield runs(jobs, client)


@contextlib.asynccontextmanager
async def receiver(holder: list[Webhooks]) -> AsyncIterator[str]:
    """The smallest route that takes deliveries."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        token = scope["query_string"].decode().removeprefix("token=")
        status = holder[0].deliver(headers, token, body)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    server = uvicorn.Server(
        uvicorn.Config(app, port=0, lifespan="off", log_level="critical", access_log=False, timeout_keep_alive=60)
    )
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        await task


Mode = Callable[[str, Measured], contextlib.AbstractAsyncContextManager[Run]]
MODES: dict[str, Mode] = {"direct": direct, "polling": polling, "webhooks": webhooks}


# ---------------------------------------------------------------- the loads


def durations(seed: int) -> Iterator[float]:
    source = random.Random(seed)
    return (source.lognormvariate(0.0, SIGMA) * MEDIAN for _ in itertools.count())


async def steady(run: Run, size: int, seconds: float, measured: Measured, seed: int) -> float | None:
    """Keeps `size` jobs in flight for `seconds` after a warm-up; returns KB a job."""
    lengths = durations(seed)
    before = resident()
    measured.since = time.monotonic() + WARM_UP
    end = measured.since + seconds

    async def caller(first: float) -> None:
        await asyncio.sleep(first)
        while time.monotonic() < end:
            try:
                await run(request(next(lengths)))
            except ProxyError as error:
                measured.errors[error.code or type(error).__name__] += 1

    callers = [asyncio.create_task(caller(WARM_UP / 2 * place / size)) for place in range(size)]
    await asyncio.sleep(max(measured.since - time.monotonic(), 0))
    memory = resident() - before
    await asyncio.sleep(max(end - time.monotonic(), 0))
    measured.reads = [at for at in measured.reads if measured.since <= at < end]
    reads = measured.reads
    measured.reads = []
    await asyncio.gather(*callers)
    measured.reads = reads
    return memory / size / 1024 if size >= 1000 else None


async def wave(run: Run, size: int, measured: Measured, seed: int) -> tuple[float, float]:
    """Submits `size` jobs, which then all end around the median after the last submission; KB a job, and seconds."""
    lengths = durations(seed)
    before = resident()
    start = time.monotonic()
    calm = start + size / SUBMISSIONS_A_SECOND + 2.0
    measured.since = calm

    async def caller(place: int) -> None:
        await asyncio.sleep(place / SUBMISSIONS_A_SECOND)
        try:
            await run(request(max(calm - time.monotonic(), 0) + next(lengths)))
        except ProxyError as error:
            measured.errors[error.code or type(error).__name__] += 1

    callers = [asyncio.create_task(caller(place)) for place in range(size)]
    await asyncio.sleep(calm - time.monotonic())
    memory = resident() - before
    await asyncio.gather(*callers)
    measured.reads = [at for at in measured.reads if at >= calm]
    return memory / size / 1024, time.monotonic() - calm


async def measure(name: str, mode: Mode, url: str, size: int, seconds: float) -> Row:
    engines = ENGINES.get(size, 1)
    all_measured = [Measured() for _ in range(engines)]
    gc.collect()
    memory: float | None = None
    async with contextlib.AsyncExitStack() as stack:
        run = [await stack.enter_async_context(mode(url, measured)) for measured in all_measured]
        if size >= WAVE_FROM:
            memory, seconds = await wave(run[0], size, all_measured[0], seed=size)
        else:
            loads = (steady(run[at], size, seconds, all_measured[at], seed=at) for at in range(engines))
            memory = (await asyncio.gather(*loads))[0]
    return row(name, size, all_measured, seconds, memory)


def row(mode: str, size: int, all_measured: list[Measured], seconds: float, memory: float | None) -> Row:
    delays = sorted(1000 * delay for measured in all_measured for delay in measured.delays)
    reads = sum(len(measured.reads) for measured in all_measured) / len(all_measured) / seconds
    peaks = [count for measured in all_measured for count in per_second(measured.reads)]
    return Row(
        mode=mode,
        size=size,
        jobs=len(delays),
        reads=reads,
        peak=max(peaks, default=0),
        p50=statistics.median(delays),
        p95=delays[int(0.95 * (len(delays) - 1))],
        worst=delays[-1],
        memory=memory,
        errors=counted(sum((measured.errors for measured in all_measured), Counter())) or "0",
        sources=counted(sum((measured.sources for measured in all_measured), Counter())),
    )


def counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def per_second(times: list[float]) -> list[int]:
    first = min(times, default=0.0)
    return [len(list(group)) for _, group in itertools.groupby(sorted(times), key=lambda at: int(at - first))]


# ---------------------------------------------------------------- processes


async def serve() -> None:
    """The sandbox, until standard input closes."""
    options = SandboxOptions(pending_s=PENDING, max_jobs=200_000, retention_s=900)
    async with serve_sandbox(options) as sandbox:
        print(sandbox.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextlib.asynccontextmanager
async def sandbox_process() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.bench_jobs",
        "--serve",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.stdin.close()
        await process.wait()


async def main(sizes: list[int], modes: dict[str, Mode], seconds: float) -> None:
    print(HEAD, flush=True)
    for name, mode in modes.items():
        for size in sizes:
            async with sandbox_process() as url:
                print(await measure(name, mode, url, size, seconds), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,10,100,1000,10000")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--redis", default="redis://127.0.0.1:6379/0", help="for the mode `replicas`")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    if given.serve:
        uvloop.run(serve())
    else:
        known = MODES | {"replicas": functools.partial(replicas, redis=given.redis)}
        chosen = {name: known[name] for name in given.modes.split(",")}
        uvloop.run(main([int(size) for size in given.sizes.split(",")], chosen, given.seconds))

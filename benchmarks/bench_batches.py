"""What a batch costs, and that its lines are paid once, whatever dies.

    python -m benchmarks.bench_batches [--lines 10000] [--redis redis://127.0.0.1:6379/0] [crash] [company] [memory]

    crash      lines on a sandbox that loses one answer to a submission in twenty, one job in a hundred fails, and the owner is killed twice
    company    interactive requests without and with a batch beside them, and GET /v1/batches/{id} meanwhile
    memory     the proxy's resident memory while a file of 20 MiB is uploaded and validated, above its idle value

Without `--redis` everything is kept in the file of a single machine, and a killed proxy is started again. The sandbox and the proxies are
processes of their own on this machine.
"""

import argparse
import contextlib
import json
import math
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.servers import Server, serve, serve_proxy
from proxy.sandbox import Fault, SandboxOptions, create_sandbox

ENDED = ("failed", "completed", "cancelled", "expired")
CHAT = "/v1/chat/completions"
MIB = 1 << 20


def line(number: int, content: str) -> bytes:
    """A line of a batch."""
    body = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": content}]}
    return json.dumps({"custom_id": f"c{number}", "method": "POST", "url": CHAT, "body": body}).encode()


def client(server: Server) -> httpx.Client:
    """A client of a proxy."""
    return httpx.Client(base_url=server.url, headers={"authorization": "Bearer any-key"}, timeout=60)


def begin(http: httpx.Client, content: bytes) -> str:
    """The id of a batch of that file."""
    file = http.post("/v1/files", files={"file": ("requests.jsonl", content)}, data={"purpose": "batch"}).json()
    body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    id_: str = http.post("/v1/batches", json=body).json()["id"]
    return id_


def until(holds: Callable[[], bool], pause_s: float = 0.1) -> None:
    """Wait until something holds."""
    while not holds():
        time.sleep(pause_s)


@contextlib.contextmanager
def faulty_sandbox(lost: float, running_s: float) -> Iterator[Server]:
    """A sandbox that takes a share of the submissions and closes the connection instead of answering."""
    command = f"{sys.executable} -m benchmarks.bench_batches --sandbox {{port}} --lost {lost} --running {running_s}"
    with serve(command, ready="/enqueued") as server:
        yield server


def run_sandbox(port: int, lost: float, running_s: float) -> None:
    """Serve it until a signal."""
    app = create_sandbox(SandboxOptions(pending_s=0.0, running_s=running_s))
    if lost:
        app.state.faults.add(Fault(kind="close", operation="run", handled=True, probability=lost))

    async def enqueued(_: Request) -> JSONResponse:
        return JSONResponse(app.state.store.enqueued)

    app.router.routes.append(Route("/enqueued", enqueued))
    uvicorn.run(app, port=port, log_level="error", access_log=False)


def crash(lines: int, settings: dict[str, str]) -> None:
    """A row for each line, and a job for each row that needed one."""
    fails = '[[sandbox {"fail": "the model fell over"}]]'
    content = b"\n".join(line(n, fails if n % 100 == 7 else f"Hello {n}!") for n in range(lines))
    with faulty_sandbox(0.05, 0.1) as sandbox, contextlib.ExitStack() as stack:
        ask = httpx.Client()

        def count() -> int:
            return int(ask.get(f"{sandbox.url}/enqueued").text)

        started = time.monotonic()
        proxies = [
            stack.enter_context(serve_proxy(sandbox, settings))
            for _ in range(3 if "PROXY_STATE__URL" in settings else 1)
        ]
        with client(proxies[0]) as http:
            id_ = begin(http, content)
        for share in (0.3, 0.6):
            while count() < share * lines:
                time.sleep(0.1)
            killed = proxies.pop(0)
            os.kill(killed.pid, signal.SIGKILL)
            if not proxies:
                proxies.append(stack.enter_context(serve_proxy(sandbox, settings)))
        with client(proxies[-1]) as http:
            batch: dict[str, Any] = {}
            while batch.get("status") not in ENDED:
                time.sleep(0.5)
                batch = http.get(f"/v1/batches/{id_}").json()
            elapsed = time.monotonic() - started
            found: list[str] = []
            for name in ("output_file_id", "error_file_id"):
                rows = http.get(f"/v1/files/{batch[name]}/content").text.splitlines()
                found += [json.loads(row)["custom_id"] for row in rows]
        print(
            f"| {batch['status']} | {len(found)} | {len(found) - len(set(found))} | {count()} |"
            f" {batch['request_counts']['failed']} | {elapsed:.0f} | {lines / elapsed:.0f} |"
        )


def interactive(server: Server, seconds: float) -> list[float]:
    """Seconds of requests by ten clients."""
    took: list[float] = []
    end = time.monotonic() + seconds

    def ask() -> None:
        body = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": "Hello!"}]}
        with client(server) as http:
            while (begun := time.monotonic()) < end:
                answer = http.post(CHAT, json=body)
                took.append(time.monotonic() - begun if answer.status_code == 200 else math.inf)

    with ThreadPoolExecutor(10) as threads:
        for future in [threads.submit(ask) for _ in range(10)]:
            future.result()
    return took


def p95(values: list[float]) -> float:
    """The 95th percentile, in milliseconds."""
    return statistics.quantiles(values, n=20)[-1] * 1000


def company(lines: int, settings: dict[str, str]) -> None:
    """What a batch costs those who wait."""
    content = b"\n".join(line(n, f"Hello {n}!") for n in range(lines))
    with faulty_sandbox(0.0, 0.5) as sandbox, serve_proxy(sandbox, settings) as proxy, client(proxy) as http:
        interactive(proxy, 3)
        alone = interactive(proxy, 10)
        id_ = begin(http, content)
        until(lambda: http.get(f"/v1/batches/{id_}").json()["request_counts"]["completed"] > 0)
        reads: list[float] = []
        stop = threading.Event()

        def read() -> None:
            with client(proxy) as other:
                while not stop.wait(0.05):
                    begun = time.monotonic()
                    other.get(f"/v1/batches/{id_}").raise_for_status()
                    reads.append(time.monotonic() - begun)

        reader = threading.Thread(target=read)
        beside = []
        reader.start()
        beside = interactive(proxy, 10)
        stop.set()
        reader.join()
        batch = http.get(f"/v1/batches/{id_}").json()
        running = batch["status"] == "in_progress"
        quiet = []
        http.post(f"/v1/batches/{id_}/cancel")
        until(lambda: http.get(f"/v1/batches/{id_}").json()["status"] in ENDED)
        for _ in range(200):
            begun = time.monotonic()
            http.get(f"/v1/batches/{id_}").raise_for_status()
            quiet.append(time.monotonic() - begun)
        print(
            f"| {p95(alone):.0f} | {p95(beside):.0f} | {p95(beside) / p95(alone):.2f} |"
            f" {batch['request_counts']['completed']}{'' if running else ' (ended)'} |"
            f" {statistics.median(quiet) * 1000:.1f} | {p95(quiet):.1f} | {p95(reads):.1f} |"
        )


def memory(settings: dict[str, str]) -> None:
    """What a file costs while it arrives and is read."""
    words = [f"{random.randrange(1 << 24):x}" for _ in range(20_000)]
    content = b"\n".join(line(n, " ".join(random.choices(words, k=280))) for n in range(10_000))[: 20 * MIB]
    wrong = content[: content.rindex(b"\n")] + b"\nno json"
    with faulty_sandbox(0.0, 0.5) as sandbox, serve_proxy(sandbox, settings) as proxy, client(proxy) as http:
        begin(http, line(0, "Hello!"))
        interactive(proxy, 1)
        idle, most, stop = proxy.memory_mb(), 0.0, threading.Event()

        def watch() -> None:
            nonlocal most
            while not stop.wait(0.005):
                most = max(most, proxy.memory_mb())

        watcher = threading.Thread(target=watch)
        watcher.start()
        begun = time.monotonic()
        id_ = begin(http, wrong)
        uploaded = time.monotonic() - begun
        until(lambda: http.get(f"/v1/batches/{id_}").json()["status"] == "failed", 0.01)
        elapsed = time.monotonic() - begun
        stop.set()
        watcher.join()
        print(
            f"| {len(wrong) / MIB:.1f} | {uploaded:.2f} | {elapsed - uploaded:.2f} | {idle:.0f} |"
            f" {(most - idle) * 1e6 / MIB:.1f} |"
        )


def main() -> None:
    """Read the arguments, and print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="crash, company, memory; all by default")
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--redis")
    parser.add_argument("--sandbox", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--lost", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--running", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sandbox:
        run_sandbox(given.sandbox, given.lost, given.running)
        return
    parts = given.parts or ["crash", "company", "memory"]
    with tempfile.TemporaryDirectory() as folder:
        settings = {"PROXY_SERVER__LOG_LEVEL": "error"}
        if given.redis:
            settings |= {"PROXY_STATE__URL": given.redis, "PROXY_SECRET_KEY": "a passphrase for benchmarks"}

        def fresh(part: str) -> dict[str, str]:
            return settings | {
                "PROXY_ACCESS__FOLDER": str(Path(folder) / part),
                "PROXY_STATE__PREFIX": f"{part}{time.time()}:",
                "PROXY_SERVER__ALLOW_UNAUTHENTICATED": "always",
            }

        if "crash" in parts:
            print("| status | rows | twice | jobs | failed | elapsed s | lines/s |\n|---|---|---|---|---|---|---|")
            crash(given.lines, fresh("crash"))
        if "company" in parts:
            print(
                "| p95 alone ms | beside a batch ms | ratio | lines meanwhile | GET p50 ms | GET p95 ms | GET p95 ms beside |"
            )
            print("|---|---|---|---|---|---|---|")
            company(given.lines, fresh("company"))
        if "memory" in parts:
            print("| file MiB | uploaded s | validated s | idle MB | most MiB above |\n|---|---|---|---|---|")
            memory(fresh("memory"))


if __name__ == "__main__":
    main()

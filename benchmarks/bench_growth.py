"""Whether memory grows with the number of requests served.

    python -m benchmarks.bench_growth [--requests 100000] [--connections 32]

Short questions, whole and streamed in turn, on a proxy with one worker and an upstream that answers at once; the worker's resident memory
after each tenth of them. The run ends by itself.
"""

import argparse
import asyncio
import itertools

import uvloop

from benchmarks.bench_chat import plain, streamed
from benchmarks.servers import Connection, Server, chat_request, serve_proxy, serve_upstream


async def send(server: Server, numbers: "itertools.count[int]", end: int) -> None:
    """Send requests on one connection until their numbers reach `end`."""
    connection = await Connection.open(server.port)
    while (number := next(numbers)) < end:
        body = streamed(number) if number % 2 else plain(number)
        response = await connection.ask(chat_request(server.port, body))
        if not response.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(response[:500].decode("utf-8", "replace"))
    connection.close()


async def measure(server: Server, requests: int, connections: int) -> None:
    """Print a row for each tenth of the requests."""
    print("| requests | RSS MB | CPU-ms each |\n|---|---|---|")
    for end in range(requests // 10, requests + 1, requests // 10):
        cpu, numbers = server.cpu_s(), itertools.count(end - requests // 10)
        await asyncio.gather(*(send(server, numbers, end) for _ in range(connections)))
        each = (server.cpu_s() - cpu) / (requests // 10) * 1e3
        print(f"| {end:,} | {server.memory_mb():.1f} | {each:.2f} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    with serve_upstream() as upstream, serve_proxy(upstream) as server:
        uvloop.run(measure(server, options.requests, options.connections))


if __name__ == "__main__":
    main()

"""Requests a second, latency, and CPU time for each request of one worker.

    python -m benchmarks.bench_chat [--api chat,responses,messages] [--seconds 5] [--runs 3] [--cases plain,streamed,agent]
        [--upstream COMMAND]
    python -m benchmarks.bench_chat --against 'COMMAND --port {port}'

The upstream is the sandbox in a process of its own, with jobs that end at once, or what `--upstream` starts. `--against` measures
a second server in the same run, started by the command with its port in place of `{port}` and the upstream's URL in place of
`{upstream}`. Every body differs in one number, so that no request equals another. `agent` is a request such as coding agents send:
40 tools and 122 messages, 160 KB. `--api` names the APIs that are measured, one after the other in each run; their requests say the same.

CPU-ms is user plus system time of the worker, divided by requests: on a shared machine it is steadier than requests a second. Figures
are medians of the runs.
"""

import argparse
import asyncio
import itertools
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.servers import Connection, Server, post_request, serve, serve_proxy, serve_upstream

CASES = {"plain": (1, 32, 256), "streamed": (1, 32, 256), "agent": (8,)}
AGENT_BYTES, AGENT_TOOLS, AGENT_MESSAGES = 166_000, 40, 122
CALLS = Path("tests/data/tool-calls.jsonl")

HEAD = """\
| server | API | case | connections | requests/s | p50 ms | p99 ms | CPU-ms | RSS MB | failed |
|---|---|---|---|---|---|---|---|---|---|"""

Body = Callable[[int], bytes]


@dataclass(frozen=True)
class Row:
    """One measured run."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    memory_mb: float
    failed: int


def plain(number: int) -> bytes:
    """A short question."""
    return json.dumps(
        {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": f"Hello {number}!"}]}
    ).encode()


def streamed(number: int) -> bytes:
    """The same, streamed."""
    return plain(number)[:-1] + b', "stream": true}'


def agent() -> Body:
    """Requests of a coding agent: tools, those of `tests/data` repeated under other names, and a history of calls and results."""
    samples = [json.loads(line) for line in CALLS.read_text("utf-8").split("\n") if line]
    tools = [tool["function"] for sample in samples for tool in sample["tools"]]
    offered: list[dict[str, Any]] = [
        {"type": "function", "function": {**tool, "name": f"{tool['name']}_{number}"}}
        for number, tool in zip(range(AGENT_TOOLS), itertools.cycle(tools), strict=False)
    ]
    names = [tool["function"]["name"] for tool in offered]
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You are a coding agent. " * 200}]
    filler = max((AGENT_BYTES - len(json.dumps(offered)) - 16_000) // (AGENT_MESSAGES // 3), 100)
    for turn in range((AGENT_MESSAGES - 2) // 3):
        call = {
            "id": f"call_{turn}",
            "type": "function",
            "function": {"name": names[turn % len(names)], "arguments": "{}"},
        }
        messages += [
            {"role": "user", "content": f"Step {turn}. " + "word " * 20},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "line of output\n" * (filler // 17)},
        ]
    messages = messages[: AGENT_MESSAGES - 1]
    base = {"model": "claude-4-5-haiku", "tools": offered, "messages": messages}

    def body(number: int) -> bytes:
        return json.dumps({**base, "messages": [*messages, {"role": "user", "content": f"Thanks {number}."}]}).encode()

    return body


def as_chat(body: bytes) -> bytes:
    """A chat request is one."""
    return body


def as_responses(body: bytes) -> bytes:
    """The same for the Responses API."""
    asked = json.loads(body)
    asked["input"] = [item for message in asked.pop("messages") for item in _items(message)]
    if tools := asked.get("tools"):
        asked["tools"] = [{"type": "function", **tool["function"]} for tool in tools]
    return json.dumps(asked).encode()


def _items(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if message["role"] == "tool":
        yield {"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]}
    elif message["content"] is not None:
        yield {"role": message["role"], "content": message["content"]}
    for call in message.get("tool_calls", ()):
        yield {"type": "function_call", "call_id": call["id"], **call["function"]}


def as_messages(body: bytes) -> bytes:
    """The same for the Messages API."""
    chat = json.loads(body)
    asked: dict[str, Any] = {"model": chat["model"], "max_tokens": 4096, "messages": [], "stream": chat.get("stream")}
    for message in chat["messages"]:
        role, content = message["role"], message["content"]
        blocks = [{"type": "text", "text": content}] if content is not None else []
        for call in message.get("tool_calls", ()):
            blocks.append({"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": {}})
        if role == "system":
            asked["system"] = content
        elif role == "tool":
            result = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": content}
            asked["messages"].append({"role": "user", "content": [result]})
        else:
            asked["messages"].append({"role": role, "content": blocks})
    if tools := [tool["function"] for tool in chat.get("tools", ())]:
        asked["tools"] = [
            {
                "name": tool["name"],
                "description": tool.get("description") or "",
                "input_schema": tool.get("parameters") or {"type": "object"},
            }
            for tool in tools
        ]
    return json.dumps(asked).encode()


APIS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "chat": ("/v1/chat/completions", as_chat),
    "responses": ("/v1/responses", as_responses),
    "messages": ("/v1/messages", as_messages),
}
"""Each API's path, and how it writes a chat request."""


async def load(  # noqa: PLR0917
    server: Server, api: str, body: Body, connections: int, seconds: float, numbers: Iterator[int]
) -> Row:
    """Keep so many connections busy for so long."""
    path, written = APIS[api]
    requests = (post_request(server.port, path, written(body(number))) for number in numbers)
    opened = [await Connection.open(server.port) for _ in range(connections)]
    failed = 0
    times: list[float] = []

    async def work(connection: Connection, until: float) -> None:
        nonlocal failed
        while time.perf_counter() < until:
            request = next(requests)
            started = time.perf_counter()
            response = await connection.ask(request)
            times.append(time.perf_counter() - started)
            failed += not response.startswith(b"HTTP/1.1 200")

    await asyncio.gather(*(work(connection, time.perf_counter() + 1.0) for connection in opened))
    times.clear()
    failed, cpu, started = 0, server.cpu_s(), time.perf_counter()
    await asyncio.gather(*(work(connection, started + seconds) for connection in opened))
    elapsed, cpu = time.perf_counter() - started, server.cpu_s() - cpu
    for connection in opened:
        connection.close()
    ranked = sorted(times)
    return Row(
        len(times) / elapsed,
        ranked[len(ranked) // 2] * 1e3,
        ranked[int(len(ranked) * 0.99)] * 1e3,
        cpu / len(times) * 1e3,
        server.memory_mb(),
        failed,
    )


def median_of(rows: list[Row]) -> str:
    """The medians of several runs as cells of a table."""

    def median(value: Callable[[Row], float]) -> float:
        return statistics.median(value(row) for row in rows)

    return (
        f"{median(lambda row: row.rate):,.0f} | {median(lambda row: row.p50_ms):.1f} | {median(lambda row: row.p99_ms):.1f} "
        f"| {median(lambda row: row.cpu_ms):.2f} | {median(lambda row: row.memory_mb):.0f} | {sum(row.failed for row in rows)}"
    )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--api", default="chat", help="APIs, separated by commas: " + ", ".join(APIS))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cases", default="plain,streamed,agent")
    parser.add_argument("--connections", type=int, default=0, help="only this number")
    parser.add_argument("--upstream", help="command of another upstream, `{port}` in it")
    parser.add_argument("--against", help="command of a second server")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8_192, hard), hard))
    bodies: dict[str, Body] = {"plain": plain, "streamed": streamed, "agent": agent()}
    print(f"agent request: {len(bodies['agent'](0)):,} bytes", file=sys.stderr)
    with ExitStack() as stack:
        upstream = stack.enter_context(serve(options.upstream, ready="/jobs") if options.upstream else serve_upstream())
        servers = {"proxy": stack.enter_context(serve_proxy(upstream))}
        if options.against:
            command = options.against.replace("{upstream}", upstream.url)
            servers["other"] = stack.enter_context(serve(command, ready="/v1/models"))
        print(HEAD)
        numbers = itertools.count()
        for case in options.cases.split(","):
            for connections in (options.connections,) if options.connections else CASES[case]:
                rows: dict[tuple[str, str], list[Row]] = {}
                for _ in range(options.runs):
                    for name, api in itertools.product(servers, options.api.split(",")):
                        run = load(servers[name], api, bodies[case], connections, options.seconds, numbers)
                        rows.setdefault((name, api), []).append(uvloop.run(run))
                for (name, api), measured in rows.items():
                    print(f"| {name} | {api} | {case} | {connections} | {median_of(measured)} |", flush=True)


if __name__ == "__main__":
    main()

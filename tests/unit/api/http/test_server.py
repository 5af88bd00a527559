"""How many requests of a burst begin in one turn of the event loop."""

import asyncio
import socket
from collections import Counter

import uvicorn
from starlette.types import Receive, Scope, Send

from proxy.api.http.server import ServerConfig
from proxy.settings import Settings
from tests.waiting import until

POST = b"POST /work HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
BURST = 200


class Turns:
    """Counts turns of the event loop until it is stopped."""

    def __init__(self) -> None:
        self.number = 0
        self.stopped = False

    def next(self) -> None:
        self.number += 1
        if not self.stopped:
            asyncio.get_running_loop().call_soon(self.next)


async def test_of_a_burst_only_a_few_requests_begin_in_each_turn_of_the_loop() -> None:
    turns, begun = Turns(), Counter[int]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            begun[turns.number] += 1
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    listener = socket.create_server(("127.0.0.1", 0), backlog=BURST)
    server = uvicorn.Server(ServerConfig(app, Settings(), lifespan="off"))
    serving = asyncio.create_task(server.serve([listener]))
    await until(lambda: server.started)
    connections = [await asyncio.open_connection(*listener.getsockname()) for _ in range(BURST)]
    _, gone = await asyncio.open_connection(*listener.getsockname())

    turns.next()
    for _, writer in connections:
        writer.write(POST)
    gone.write(POST)
    gone.transport.abort()
    answers = [await reader.readuntil(b"\r\n\r\n") for reader, _ in connections]
    turns.stopped = True

    assert all(answer.startswith(b"HTTP/1.1 204 ") for answer in answers)
    assert BURST <= begun.total() <= BURST + 1
    assert max(begun.values()) <= 8
    for _, writer in connections:
        writer.close()
    server.should_exit = True
    await serving

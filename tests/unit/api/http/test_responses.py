"""Streams and waited-for JSON without a server: order, backpressure, and what becomes of a run whose client leaves."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from proxy.api.http.responses import Delivery, EventStream, Pace, unless_disconnected
from proxy.errors import Overloaded, ProxyError
from tests.waiting import until

AT_ONCE = Pace()


class Client:
    """An ASGI connection; `reads` lets that many messages through, None all."""

    def __init__(self, reads: int | None = None) -> None:
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self._reads = asyncio.Semaphore(10**9 if reads is None else reads)

    async def send(self, message: Message) -> None:
        await self._reads.acquire()
        self.sent.append(message)

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


class Stream:
    """A stream of numbered events, and what became of it."""

    def __init__(self, events: int, error: Exception | None = None, pace: Pace = AT_ONCE) -> None:
        self.made = 0
        self.closed: list[bool] = []
        self.ended = False

        def batch() -> Iterable[bytes]:
            while self.made < events:
                self.made += 1
                yield b"%d " % self.made

        async def batches() -> AsyncGenerator[Iterable[bytes], None]:
            try:
                yield batch()
                if error:
                    raise error
            finally:
                self.ended = True

        def render(error: ProxyError) -> bytes:
            return f"error {error.code or error.type}".encode()

        delivery = Delivery(headers=lambda: {"x-a": "b"}, error=render, on_close=self.closed.append)
        self.response = EventStream(batches(), b"end", delivery, pace)

    def to(self, client: Client) -> asyncio.Task[None]:
        return asyncio.create_task(self.response({"type": "http"}, client.receive, client.send))


async def test_events_are_sent_in_order_and_then_the_end() -> None:
    stream, client = Stream(3), Client()
    await stream.to(client)
    assert client.body() == b"1 2 3 end"
    assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert stream.closed == [True]


async def test_an_event_is_made_only_when_the_one_before_was_taken() -> None:
    stream, client = Stream(1000), Client(reads=4)
    task = stream.to(client)
    await until(lambda: len(client.sent) == 4)
    assert stream.made <= 4, "the status and three events were taken, and one waits"
    client.gone.set()
    await task
    assert stream.made <= 4
    assert stream.closed == [False]
    assert stream.ended


@pytest.mark.parametrize(
    ("error", "last"),
    [(Overloaded("busy"), b"error overloaded_error"), (RuntimeError("a bug"), b"error internal_error")],
)
async def test_a_failure_is_the_last_event(error: Exception, last: bytes) -> None:
    stream, client = Stream(1, error), Client()
    await stream.to(client)
    assert client.body() == b"1 " + last
    assert stream.closed == [False]


async def test_events_can_be_spread_and_others_run_in_between() -> None:
    stream, client = Stream(20, pace=Pace(spread_s=0.3)), Client()
    task = stream.to(client)
    await until(lambda: stream.made > 0)
    assert stream.made < 20
    await task
    assert client.body().endswith(b"20 end")


async def test_a_stream_lets_others_run_between_its_events_however_fast_its_client_reads() -> None:
    stream, client = Stream(1000), Client()
    task = stream.to(client)
    seen: set[int] = set()
    while not task.done():
        seen.add(stream.made)
        await asyncio.sleep(0)
    assert len(seen) > 900


async def test_work_is_cancelled_and_has_ended_when_its_client_leaves() -> None:
    client, ended = Client(), asyncio.Event()

    async def work() -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(unless_disconnected(client.receive, work()))
    await asyncio.sleep(0)
    client.gone.set()
    with pytest.raises(ClientDisconnect):
        await task
    assert ended.is_set()

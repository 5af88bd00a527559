"""Streams and waited-for JSON without a server: order, backpressure, and what becomes of a run whose client leaves."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Scope

from proxy.api.http.responses import COMMENT, StreamResponse, WholeResponse, report_headers
from proxy.api.http.server import Client
from proxy.errors import JobTimeout, Overloaded, ProxyError
from proxy.inference.backend import Report, Run
from proxy.inference.result import Event, Result, Started, TextDelta, Usage
from proxy.settings import ChatSettings
from tests.waiting import OtherTurns, until


class Reader(Client):
    """A client, as an ASGI application sees it; `reads` lets that many messages through, None all."""

    def __init__(self, reads: int | None = None) -> None:
        super().__init__()
        self.sent: list[Message] = []
        self.scope: Scope = {"type": "http", "proxy.client": self}
        self._reads = asyncio.Semaphore(10**9 if reads is None else reads)

    async def send(self, message: Message) -> None:
        await self._reads.acquire()
        self.sent.append(message)

    async def receive(self) -> Message:
        raise AssertionError("the body was read")

    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


class NumberedRun:
    """A run of numbered texts, and what became of it."""

    report = Report(model="m")

    def __init__(self, events: int = 0, error: Exception | None = None, waits: bool = False) -> None:
        self.made = 0
        self.closed: list[bool] = []
        self.begun = asyncio.Event()
        self.ended = False
        self._events, self._error, self._waits = events, error, waits

    async def result(self) -> Result:
        try:
            self.begun.set()
            if self._waits:
                await asyncio.Event().wait()
            if self._error:
                raise self._error
            return Result("r", 1, "f", (), Usage())
        finally:
            self.ended = True

    async def events(self) -> AsyncIterator[Iterable[Event]]:
        try:
            yield self._batch()
            if self._error:
                raise self._error
        finally:
            self.ended = True

    def close(self, *, delivered: bool) -> None:
        self.closed.append(delivered)

    def _batch(self) -> Iterator[Event]:
        while self.made < self._events:
            self.made += 1
            yield TextDelta(0, f"{self.made} ")


class Encoder:
    """Texts as they are."""

    end = b"end"

    def encode(self, event: Event) -> Iterator[bytes]:
        if isinstance(event, TextDelta):
            yield event.text.encode()

    def heartbeat(self) -> bytes:
        return b""

    def error(self, error: ProxyError) -> bytes:
        return f"error {error.code or error.type}".encode()


class Stream(NumberedRun):
    """A stream of a numbered run."""

    def __init__(
        self, events: int, error: Exception | None = None, pace_ms: int = 0, hold_s: float = 0, heartbeat_s: float = 0
    ) -> None:
        super().__init__(events, error)
        chat = ChatSettings(stream_pace_ms=pace_ms)
        self.response = StreamResponse(self._started, Encoder(), heartbeat_s, chat, hold_s=hold_s)

    async def _started(self) -> Run:
        return self

    def to(self, client: Reader) -> asyncio.Task[None]:
        return asyncio.create_task(self.response(client.scope, client.receive, client.send))


def whole(run: NumberedRun, keep_alive_s: float = 0.0) -> WholeResponse:
    async def start() -> Run:
        return run

    return WholeResponse(start, lambda result: result.id.encode(), Encoder().error, keep_alive_s)


async def test_events_are_sent_in_order_and_then_the_end() -> None:
    stream, client = Stream(3), Reader()
    await stream.to(client)
    assert client.body() == b"1 2 3 end"
    assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert stream.closed == [True]


async def test_an_event_is_made_only_when_the_one_before_was_taken() -> None:
    stream, client = Stream(1000), Reader(reads=4)
    task = stream.to(client)
    await until(lambda: len(client.sent) == 4)
    assert stream.made <= 4, "the status and three events were taken, and one waits"
    client.leave()
    await task
    assert stream.made <= 4
    assert stream.closed == [False]
    assert stream.ended


@pytest.mark.parametrize(
    ("error", "last"),
    [(Overloaded("busy"), b"error overloaded_error"), (RuntimeError("a bug"), b"error internal_error")],
)
async def test_a_failure_is_the_last_event(error: Exception, last: bytes) -> None:
    stream, client = Stream(1, error), Reader()
    await stream.to(client)
    assert client.body() == b"1 " + last
    assert stream.closed == [False]


async def test_events_can_be_spread_and_others_run_in_between() -> None:
    stream, client = Stream(20, pace_ms=300), Reader()
    task = stream.to(client)
    await until(lambda: stream.made > 0)
    assert stream.made < 20
    await task
    assert client.body().endswith(b"20 end")


async def test_a_stream_lets_others_run_between_its_events_however_fast_its_client_reads() -> None:
    turns = OtherTurns()

    class Fast(Reader):
        async def send(self, message: Message) -> None:
            turns.step()
            await super().send(message)

    await Stream(1000).to(Fast())
    assert turns.count > 900


async def test_the_waiting_is_cancelled_and_has_ended_when_the_client_leaves() -> None:
    run, client = NumberedRun(waits=True), Reader()
    task = asyncio.create_task(whole(run)(client.scope, client.receive, client.send))
    await run.begun.wait()
    client.leave()
    with pytest.raises(ClientDisconnect):
        await task
    assert run.ended
    assert run.closed == [False]
    assert client.sent == []


async def test_a_request_that_is_being_accepted_is_cancelled_when_its_client_leaves() -> None:
    client, ended = Reader(), asyncio.Event()

    async def start() -> Run:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    response = WholeResponse(start, lambda result: b"", Encoder().error, keep_alive_s=0.001)
    task = asyncio.create_task(response(client.scope, client.receive, client.send))
    loop = asyncio.get_running_loop()
    later = loop.time() + 0.02
    await until(lambda: loop.time() > later)
    assert client.sent == [], "nothing is sent before the request was accepted"
    client.leave()
    with pytest.raises(ClientDisconnect):
        await task
    assert ended.is_set()


async def test_a_blank_that_is_due_as_the_answer_begins_is_not_sent() -> None:
    """It would be one byte more than the length that was announced."""
    client = Reader(reads=0)  # the head waits for the client to read
    response = whole(NumberedRun(), keep_alive_s=0.001)
    task = asyncio.create_task(response(client.scope, client.receive, client.send))
    await until(lambda: response._complete)
    idle = asyncio.create_task(response._idle(client.send))
    for _ in range(10):
        client._reads.release()
    await asyncio.gather(task, idle)
    assert client.body() == b"r"


async def test_a_whole_answer_takes_no_more_task_and_is_delivered_with_its_report() -> None:
    run, client = NumberedRun(), Reader()
    before = asyncio.all_tasks()
    made: set[asyncio.Task[Any]] = set()

    async def start() -> Run:
        made.update(asyncio.all_tasks() - before)
        return run

    await WholeResponse(start, lambda result: b"[1]", Encoder().error)(client.scope, client.receive, client.send)
    assert not made
    assert client.body() == b"[1]"
    headers = dict(client.sent[0]["headers"])
    assert headers == {b"content-type": b"application/json", b"content-length": b"3", b"x-proxy-model": b"m"}
    assert run.closed == [True]


async def test_a_server_that_does_not_say_when_clients_leave_is_answered_too() -> None:
    run, client = NumberedRun(), Reader()
    await whole(run)({"type": "http"}, client.receive, client.send)
    assert client.body() == b"r"
    assert run.closed == [True]


async def test_an_error_before_the_answer_carries_the_report() -> None:
    run, client = NumberedRun(error=Overloaded("busy")), Reader()
    with pytest.raises(Overloaded) as caught:
        await whole(run)(client.scope, client.receive, client.send)
    assert caught.value.headers == {"x-proxy-model": "m"}
    assert run.closed == [False]


async def test_a_held_stream_that_fails_before_it_says_anything_keeps_its_status() -> None:
    stream, client = Stream(0, JobTimeout("Late."), hold_s=60), Reader()
    with pytest.raises(JobTimeout) as raised:
        await stream.to(client)
    assert client.sent == []
    assert stream.closed == [False]
    assert raised.value.headers == report_headers(stream.report)


async def test_a_held_stream_begins_with_its_first_words() -> None:
    stream, client = Stream(2, JobTimeout("Late."), hold_s=60), Reader()
    await stream.to(client)
    assert client.sent[0]["status"] == 200
    assert client.body() == b"1 2 error job_timeout"


async def test_a_held_stream_begins_when_its_time_is_over() -> None:
    class Waiting(Stream):
        async def events(self) -> AsyncIterator[Iterable[Event]]:
            yield (Started("id", 0, "", 1),)
            await over.wait()
            yield self._batch()

    over = asyncio.Event()
    stream, client = Waiting(2, hold_s=0.02, heartbeat_s=0.01), Reader()
    task = stream.to(client)
    await until(lambda: len(client.sent) > 2)
    assert client.body().startswith(COMMENT)
    over.set()
    await task
    assert client.body().endswith(b"1 2 end")


async def test_a_held_stream_that_says_nothing_ends_as_one() -> None:
    stream, client = Stream(0, hold_s=60), Reader()
    await stream.to(client)
    assert client.body() == b"end"


async def test_a_request_that_is_cancelled_is_not_taken_for_a_client_that_left() -> None:
    run, client = NumberedRun(waits=True), Reader()
    task = asyncio.create_task(whole(run)(client.scope, client.receive, client.send))
    await until(lambda: client.answering is not None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert run.closed == [False]


async def test_a_request_that_is_cancelled_as_its_client_leaves_stays_cancelled() -> None:
    run, client = NumberedRun(waits=True), Reader()
    task = asyncio.create_task(whole(run)(client.scope, client.receive, client.send))
    await until(lambda: client.answering is not None)
    client.leave()
    task.cancel()
    with pytest.raises((asyncio.CancelledError, ClientDisconnect)):
        await task
    assert run.closed == [False]
    assert run.ended

"""A backend whose answers the test decides."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from proxy.access.authentication import Caller
from proxy.errors import ProxyError
from proxy.inference.backend import Report, RunOptions
from proxy.inference.request import Message, Request, Text
from proxy.inference.result import Choice, Event, Result, Usage, result_events

ME = Caller(None, "plane", id="me")


def asking(model: str = "first", **fields: Any) -> Request:
    return Request(model, (Message("user", (Text("hi"),), "messages[0]"),), **fields)


def answer(text: str = "Hello", id: str = "0a1b") -> Result:
    return Result(id, 1_700_000_000, "fp", (Choice(text),), Usage(10, 30, 40))


class FakeRun:
    """Answers, or fails with `error` once its request was accepted. `closed` is what `close` was called with; `awaited` is set when `result` is called."""

    def __init__(self, result: Result, error: ProxyError | None = None, hold: asyncio.Event | None = None) -> None:
        self.report = Report(model="id", job_ids=("job-1",), adjusted=("a", "b"))
        self.closed: list[bool] = []
        self.awaited = asyncio.Event()
        self._result = result
        self._error = error
        self.hold = hold

    async def result(self) -> Result:
        self.awaited.set()
        if self.hold:
            await self.hold.wait()
        if self._error:
            raise self._error
        return self._result

    async def events(self) -> AsyncIterator[Iterable[Event]]:
        events = list(result_events(self._result))
        yield iter(events[:2])
        if self.hold:
            await self.hold.wait()
        if self._error:
            raise self._error
        yield iter(events[2:])

    def close(self, *, delivered: bool) -> None:
        self.closed.append(delivered)


class FakeBackend:
    """Refuses the models in `errors`, and has the runs of those in `later` fail.

    Attributes:
        started: the requests that came, with their options.
        runs: of those that were accepted.
    """

    def __init__(self) -> None:
        self.errors: dict[str, ProxyError] = {}
        self.later: dict[str, ProxyError] = {}
        self.started: list[tuple[Request, Caller, RunOptions]] = []
        self.runs: list[FakeRun] = []
        self.hold: asyncio.Event | None = None

    async def start(self, request: Request, caller: Caller, options: RunOptions) -> FakeRun:
        self.started.append((request, caller, options))
        if request.model in self.errors:
            raise self.errors[request.model]
        run = FakeRun(answer(id=f"{len(self.runs):04x}"), self.later.get(request.model), self.hold)
        self.runs.append(run)
        return run

"""A Narrative with faults: the sandbox behind a layer that loses, delays and spoils what passes."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.sandbox import JobStore, SandboxOptions, create_sandbox
from tests.serving import serve

Fault = Callable[["Passing"], "Answer | None"]
"""Gives the answer to send instead of the sandbox's, None to leave it as it is."""
Edit = Callable[[Any], Any]
"""Gives the JSON to send instead of the sandbox's."""


@dataclass(frozen=True)
class Answer:
    """An answer to send. `cut` leaves the body unfinished; `never` sends nothing at all."""

    status: int = 502
    body: bytes = b"<html>Bad Gateway</html>"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    cut: bool = False
    never: bool = False


@dataclass(frozen=True)
class Passing:
    """A request: its operation (run, get_job, list_jobs, webhooks) and how many of that operation came before."""

    operation: str
    number: int
    token: str


@dataclass
class Meddler:
    """Set `before` to answer without the sandbox, `after` to lose what it answered, `edits` to change it, and
    `delays` to answer that many seconds after it did, by operation."""

    app: Starlette
    before: dict[str, Fault] = field(default_factory=dict)
    after: dict[str, Fault] = field(default_factory=dict)
    edits: dict[str, Edit] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    tokens: list[tuple[str, str]] = field(default_factory=list)

    @property
    def store(self) -> JobStore:
        store: JobStore = self.app.state.store
        return store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        passing = self._passing(scope)
        answer = self._judge(self.before, passing)
        if answer is None:
            status, body = await _call(self.app, scope, receive)
            # A Narrative that is slow on purpose: its answer takes the time that the test sets.
            await asyncio.sleep(self.delays.get(passing.operation, 0.0))
            answer = self._judge(self.after, passing)
            if answer is None:
                edit = self.edits.get(passing.operation)
                body = json.dumps(edit(json.loads(body))).encode() if edit and status == 200 else body
                answer = Answer(status, body, ((b"content-type", b"application/json"),))
        await _send(answer, receive, send)

    def _passing(self, scope: Scope) -> Passing:
        operation = _operation(scope["path"])
        token = dict(scope["headers"]).get(b"authorization", b"").decode()
        self.tokens.append((operation, token))
        self.counts[operation] += 1
        return Passing(operation, self.counts[operation] - 1, token)

    @staticmethod
    def _judge(faults: dict[str, Fault], passing: Passing) -> Answer | None:
        fault = faults.get(passing.operation)
        return fault(passing) if fault else None


@dataclass(frozen=True)
class Served:
    url: str
    meddler: Meddler

    @property
    def store(self) -> JobStore:
        return self.meddler.store


@contextmanager
def fickle_narrative(options: SandboxOptions | None = None) -> Iterator[Served]:
    """Serves one in a thread of its own."""
    meddler = Meddler(create_sandbox(options))
    with serve(meddler) as url:
        yield Served(url, meddler)


def first(count: int, answer: Answer) -> Fault:
    """The first `count` requests of an operation get `answer`."""
    return lambda passing: answer if passing.number < count else None


def every(step: int, answer: Answer) -> Fault:
    """Each `step`-th request of an operation gets `answer`."""
    return lambda passing: answer if passing.number % step == 0 else None


def always(answer: Answer) -> Fault:
    return lambda _: answer


def _operation(path: str) -> str:
    if path == "/model-inference/run":
        return "run"
    if path.startswith("/webhooks"):
        return "webhooks"
    return "list_jobs" if path == "/jobs" else "get_job"


async def _call(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[int, bytes]:
    messages: list[Message] = []

    async def keep(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, keep)
    body = b"".join(message.get("body", b"") for message in messages)
    return messages[0]["status"], body


async def _send(answer: Answer, receive: Receive, send: Send) -> None:
    if answer.never:
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    length = len(answer.body) + (10 if answer.cut else 0)
    headers = [*answer.headers, (b"content-length", str(length).encode())]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": answer.cut})

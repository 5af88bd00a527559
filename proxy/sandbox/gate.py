"""Stands before the sandbox's endpoints and makes calls go wrong as `Faults` says."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.sandbox.connection import Connection
from proxy.sandbox.faults import Fault, Faults, Operation
from proxy.sandbox.jsontext import dumps
from proxy.sandbox.refusal import Refusal

LAG = "sandbox.lag"
"""Key of the scope: how many seconds behind lists are."""

_HTML = "<html><head><title>{status}</title></head><body><center><h1>{status}</h1></center></body></html>"
_GARBAGE = '\ufffd\x00{"job_id": <<<'


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass(frozen=True)
class _Call:
    """A call whose request has been read, so that it can be carried out or not, now or later."""

    app: ASGIApp
    scope: Scope
    receive: Receive
    send: Send
    body: bytes

    @property
    def connection(self) -> Connection:
        return Connection(self.receive, self.send)

    async def pass_on(self, **extra: Any) -> None:
        """Lets the app answer."""
        await self.app({**self.scope, **extra}, self._replaying(), self.send)

    async def answer(self) -> _Answer:
        """Lets the app answer to us alone."""
        sent: list[Message] = []

        async def keep(message: Message) -> None:
            sent.append(message)

        await self.app(self.scope, self._replaying(), keep)
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return _Answer(sent[0]["status"], tuple(sent[0]["headers"]), body)

    def _replaying(self) -> Receive:
        messages = iter([{"type": "http.request", "body": self.body, "more_body": False}])

        async def receive() -> Message:
            message = next(messages, None)
            return await self.receive() if message is None else message

        return receive


class FaultGate:
    """Plain ASGI, outermost: it needs the server's own `send`.

    Args:
        app: what answers when nothing goes wrong.
        faults: what goes wrong.
    """

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._fault(scope) if self._faults else None
        if fault is None:
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        if body is not None:
            await self._play(fault, _Call(self._app, scope, receive, send, body))

    def _fault(self, scope: Scope) -> Fault | None:
        if scope["type"] != "http":
            return None
        operation, job_id = _operation(scope["path"])
        return self._faults.pick(operation, job_id) if operation else None

    async def _play(self, fault: Fault, call: _Call) -> None:
        match fault.kind:
            case "close" | "reset":
                await self._cut(fault, call)
            case "slow" | "stuck":
                await self._hold(fault, call)
            case "lag":
                await call.pass_on(**{LAG: fault.delay_s})
            case _:
                answered = fault.handled or fault.kind != "status"
                answer = await call.answer() if answered else None
                await _send(call.send, _changed(fault, answer, self._faults.random))

    async def _cut(self, fault: Fault, call: _Call) -> None:
        await self._begin(fault, call)
        if fault.kind == "reset":
            await call.connection.reset()
        else:
            await call.connection.close()

    async def _hold(self, fault: Fault, call: _Call) -> None:
        answer = await self._begin(fault, call)
        left = await self._wait(call, fault.delay_s if fault.kind == "slow" else None)
        if answer is None and not (left and fault.kind == "stuck"):
            # A slow server does not notice that nobody waits for it.
            await call.pass_on()
        elif answer is not None and fault.at_byte is not None:
            await call.send({"type": "http.response.body", "body": answer.body[fault.at_byte :]})
        elif answer is not None:
            await _send(call.send, answer)

    async def _begin(self, fault: Fault, call: _Call) -> _Answer | None:
        """Carries the call out and sends a part of the answer, as far as the fault lets it."""
        if not fault.handled and fault.at_byte is None:
            return None
        answer = await call.answer()
        if fault.at_byte is not None:
            await _send_part(call.send, answer, fault.at_byte)
        return answer

    async def _wait(self, call: _Call, seconds: float | None) -> bool:
        """Waits for the time to pass, the faults to end, or the client to leave, which gives True."""
        loop = asyncio.get_running_loop()
        freed = asyncio.Event()
        forget = self._faults.on_clear(lambda: loop.call_soon_threadsafe(freed.set))
        leaving = asyncio.create_task(call.connection.left())
        waits = {asyncio.create_task(freed.wait()), leaving}
        try:
            done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return leaving in done
        finally:
            forget()
            for wait in waits:
                wait.cancel()


async def _read(receive: Receive) -> bytes | None:
    """The body of a request; None when the client left before its end."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


def _operation(path: str) -> tuple[Operation | None, str | None]:
    parts = path.strip("/").split("/")
    match parts:
        case ["model-inference", "run"]:
            return "run", None
        case ["jobs"]:
            return "list_jobs", None
        case ["jobs", job_id]:
            return "get_job", job_id
        case ["webhooks", *_]:
            return "webhooks", None
        case _:
            return None, None


def _changed(fault: Fault, answer: _Answer | None, random: Random) -> _Answer:
    if fault.kind == "status" or answer is None:
        return _canned(fault)
    if fault.kind == "truncated":
        return replace(answer, body=answer.body[: len(answer.body) // 2 if fault.at_byte is None else fault.at_byte])
    if fault.kind == "garbage":
        return replace(answer, body=_text(fault.body or _GARBAGE))
    if answer.status != 200:
        return answer
    return replace(answer, body=orjson.dumps(_RETOLD[fault.kind](orjson.loads(answer.body), fault, random)))


def _canned(fault: Fault) -> _Answer:
    body, kind = fault.body, b"application/json"
    if body is None and fault.status in (502, 504):
        # These come from the gateway in front, which knows nothing of JSON.
        body = _HTML.format(status=fault.status)
    elif body is None:
        body = Refusal(fault.status, "This fault was asked for").body
    if isinstance(body, str):
        kind = b"text/html"
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fault.headers.items()]
    return _Answer(fault.status, ((b"content-type", kind), *headers), _text(body))


def _text(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else dumps(body)


def _without_results(told: dict[str, Any], _: Fault, __: Random) -> dict[str, Any]:
    if "records" in told:
        return {**told, "records": [{**record, "result": None} for record in told["records"]]}
    return {**told, "result": None} if "result" in told else told


def _lossy(told: dict[str, Any], fault: Fault, random: Random) -> dict[str, Any]:
    kept = [record for record in told.get("records", []) if random.random() >= fault.share]
    return {**told, "records": kept} if "records" in told else told


def _repeated(told: dict[str, Any], _: Fault, __: Random) -> dict[str, Any]:
    return {**told, "records": [*told["records"], *told["records"]]} if "records" in told else told


_RETOLD: Mapping[str, Callable[[dict[str, Any], Fault, Random], dict[str, Any]]] = {
    "no_result": _without_results,
    "lost_records": _lossy,
    "repeated_records": _repeated,
}


async def _send(send: Send, answer: _Answer) -> None:
    await send(_start(answer))
    await send({"type": "http.response.body", "body": answer.body})


async def _send_part(send: Send, answer: _Answer, upto: int) -> None:
    """The headers of the whole answer, and the beginning of its body."""
    await send(_start(answer))
    await send({"type": "http.response.body", "body": answer.body[:upto], "more_body": True})


def _start(answer: _Answer) -> Message:
    headers = [(name, value) for name, value in answer.headers if name != b"content-length"]
    length = (b"content-length", str(len(answer.body)).encode())
    return {"type": "http.response.start", "status": answer.status, "headers": [*headers, length]}

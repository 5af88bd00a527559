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
_GARBAGE = '\x00{"job_id": <<<'


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


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
        else:
            await self._play(fault, scope, receive, send)

    def _fault(self, scope: Scope) -> Fault | None:
        if scope["type"] != "http":
            return None
        operation, job_id = _operation(scope["path"])
        return self._faults.pick(operation, job_id) if operation else None

    async def _play(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        match fault.kind:
            case "close" | "reset":
                await self._cut(fault, scope, receive, send)
            case "slow" | "stuck":
                await self._hold(fault, scope, receive, send)
            case "lag":
                await self._app({**scope, LAG: fault.delay_s}, receive, send)
            case _:
                answered = fault.handled or fault.kind != "status"
                answer = await self._answer(scope, receive) if answered else None
                await _send(send, _changed(fault, answer, self._faults.random))

    async def _cut(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        connection = Connection(receive, send)
        if fault.handled or fault.at_byte is not None:
            answer = await self._answer(scope, receive)
            if fault.at_byte is not None:
                await _send_part(send, answer, fault.at_byte)
        if fault.kind == "reset":
            await connection.reset()
        else:
            await connection.close()

    async def _hold(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        answer = None
        if fault.handled or fault.at_byte is not None:
            answer = await self._answer(scope, receive)
            if fault.at_byte is not None:
                await _send_part(send, answer, fault.at_byte)
        if fault.kind == "slow":
            await asyncio.sleep(fault.delay_s)
        elif await self._stuck(Connection(receive, send), request_is_read=answer is not None):
            return
        if answer is None:
            await self._app(scope, receive, send)
        elif fault.at_byte is not None:
            await send({"type": "http.response.body", "body": answer.body[fault.at_byte :]})
        else:
            await _send(send, answer)

    async def _stuck(self, connection: Connection, *, request_is_read: bool) -> bool:
        """Waits for the client to leave, which gives True, or for the faults to end."""
        loop = asyncio.get_running_loop()
        freed = asyncio.Event()
        forget = self._faults.on_clear(lambda: loop.call_soon_threadsafe(freed.set))
        waits = [asyncio.create_task(freed.wait())]
        if request_is_read:
            waits.append(asyncio.create_task(connection.left()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return not freed.is_set()
        finally:
            forget()
            for wait in waits:
                wait.cancel()

    async def _answer(self, scope: Scope, receive: Receive) -> _Answer:
        """Lets the app answer, to itself."""
        sent: list[Message] = []

        async def keep(message: Message) -> None:
            sent.append(message)

        await self._app(scope, receive, keep)
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return _Answer(sent[0]["status"], tuple(sent[0]["headers"]), body)


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

"""Makes calls go wrong as `Faults` says, before they reach the sandbox's endpoints or after."""

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.sandbox.faults import Fault, Faults, SandboxOperation
from proxy.sandbox.http import SandboxError

LAG = "sandbox.lag"
"""Key of the ASGI scope: how many seconds old lists are."""

_HTML = "<html><head><title>{status}</title></head><body><center><h1>{status}</h1></center></body></html>"
_GARBAGE = '\ufffd\x00{"job_id": <<<'
_NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

_OPERATIONS: Mapping[tuple[str, int], SandboxOperation] = {
    ("model-inference", 2): "run",
    ("jobs", 1): "list_jobs",
    ("jobs", 2): "get_job",
    ("webhooks", 1): "webhooks",
    ("webhooks", 2): "webhooks",
}
"""First segment of the path and number of segments → the operation."""


@dataclass(frozen=True)
class _ReceivedCall:
    """A call whose request has been read, so that it can be carried out or not, now or later."""

    app: ASGIApp
    scope: Scope
    receive: Receive
    send: Send
    body: bytes

    async def response(self, **extra: Any) -> Response:
        """Carries the call out without sending the response; `extra` goes into the scope."""
        request = iter([{"type": "http.request", "body": self.body, "more_body": False}])
        sent: list[Message] = []

        async def replay() -> Message:
            message = next(request, None)
            return await self.receive() if message is None else message

        async def keep(message: Message) -> None:
            sent.append(message)

        await self.app({**self.scope, **extra}, replay, keep)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent[0]["headers"]}
        del headers["content-length"]  # the body may be changed
        return Response(b"".join(message.get("body", b"") for message in sent[1:]), sent[0]["status"], headers)

    async def respond(self, response: Response) -> None:
        await response(self.scope, self.receive, self.send)

    async def disconnect(self, *, reset: bool) -> None:
        """Closes or resets (RST) the connection; what was sent before has left. It needs uvicorn around the sandbox."""
        # ASGI cannot end a connection. uvicorn's `send` is a method of the object that holds the transport.
        transport: Any = self.send.__self__.transport  # type: ignore[attr-defined]
        if not reset:
            transport.close()
        else:
            for _ in range(1_000):
                if not transport.get_write_buffer_size():
                    break
                await asyncio.sleep(0)
            own = transport.get_extra_info("socket")
            # Without lingering, closing sends RST. The option is set on a duplicate: event loops guard the original.
            with socket.fromfd(own.fileno(), own.family, own.type) as duplicate:
                duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            transport.abort()
        while (await self.receive())["type"] != "http.disconnect":
            pass


class FaultMiddleware:
    """Plain ASGI; it must be outermost, because it needs the server's own `send`."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = None
        if self._faults and scope["type"] == "http":
            first, *rest = scope["path"].strip("/").split("/")
            operation = _OPERATIONS.get((first, 1 + len(rest)))
            fault = self._faults.pick(operation, rest[0] if rest else None) if operation else None
        if fault is None:
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        if body is not None:
            await self._apply(fault, _ReceivedCall(self._app, scope, receive, send, body))

    async def _apply(self, fault: Fault, call: _ReceivedCall) -> None:
        response = await call.response() if fault.handled else None
        match fault.kind:
            case "close" | "reset":
                await call.disconnect(reset=fault.kind == "reset")
            case "slow" | "stuck":
                await self._wait(fault.delay_s if fault.kind == "slow" else None)
                # A slow server does not notice that nobody waits for it.
                await call.respond(response or await call.response())
            case "lag":
                await call.respond(await call.response(**{LAG: fault.delay_s}))
            case "status":
                await call.respond(_scripted(fault))
            case _:
                response = response or await call.response()
                await call.respond(_changed(fault, response, self._faults.random))

    async def _wait(self, seconds: float | None) -> None:
        """Waits for the time to pass, or the faults to end."""
        loop = asyncio.get_running_loop()
        cleared = asyncio.Event()
        cancel = self._faults.on_clear(lambda: loop.call_soon_threadsafe(cleared.set))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await cleared.wait()
        cancel()


async def _read(receive: Receive) -> bytes | None:
    """The body of a request; None when the client left before its end."""
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(bytes(message.get("body", b"")))
        if not message.get("more_body"):
            return b"".join(chunks)


def _scripted(fault: Fault) -> Response:
    body = fault.body
    if body is None and fault.status in (502, 504):
        # These come from the gateway in front, which does not write JSON.
        body = _HTML.format(status=fault.status)
    return SandboxError(fault.status, "This fault was asked for", body=body, headers=fault.headers).response()


def _changed(fault: Fault, response: Response, random: Random) -> Response:
    body = bytes(response.body)
    if fault.kind == "truncated":
        body = body[: len(body) // 2 if fault.at_byte is None else fault.at_byte]
    elif fault.kind == "garbage":
        body = str(fault.body or _GARBAGE).encode()
    else:
        content = orjson.loads(body) if response.status_code == 200 else {}
        if "records" in content:
            content["records"] = _changed_records(fault, content["records"], random)
        elif "state" in content and fault.kind in ("no_result", "patch"):
            [content] = _changed_records(fault, [content], random)
        body = orjson.dumps(content) if content else body
    return Response(body, response.status_code, media_type="application/json")


def _changed_records(fault: Fault, records: list[Any], random: Random) -> list[Any]:
    match fault.kind:
        case "no_result":
            return [{**record, "result": None} for record in records]
        case "patch":
            return [_merged(record, fault.body) for record in records]
        case "lost_records":
            return [record for record in records if random.random() >= fault.share]
        case _:
            return [*records, *records]


def _merged(value: Any, patch: Mapping[str, Any]) -> Any:
    """A record with a patch: objects are merged, anything else replaces what was there."""
    merged = dict(value) if isinstance(value, Mapping) else {}
    for name, part in patch.items():
        merged[name] = _merged(merged.get(name), part) if isinstance(part, Mapping) else part
    return merged

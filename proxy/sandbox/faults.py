"""Faults that a test or benchmark asks for, and the middleware that makes calls go wrong accordingly."""

import asyncio
import contextlib
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.sandbox.http import SandboxError

SandboxOperation = Literal["run", "get_job", "list_jobs", "webhooks", "deliveries"]

CallFault = Literal["close", "reset", "status", "slow", "stuck", "truncated", "garbage"]
RecordFault = Literal["lag", "no_result", "patch", "lost_records", "repeated_records"]
DeliveryFault = Literal["twice", "late", "lost"]

_DELIVERY_FAULTS = frozenset(get_args(DeliveryFault))
_MAX_FAULTS = 1_000


class Fault(BaseModel):
    """One thing that goes wrong, to every call or to those that meet all its conditions; docs/sandbox.md describes the
    fields. Times are in seconds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: CallFault | RecordFault | DeliveryFault
    operation: SandboxOperation | None = None
    job_id: str | None = None
    times: int | None = Field(default=None, ge=1)
    for_s: float | None = Field(default=None, gt=0)
    every: int | None = Field(default=None, ge=1)
    probability: float | None = Field(default=None, ge=0, le=1)
    after: int = Field(default=0, ge=0)
    handled: bool = False
    status: int = Field(default=503, ge=400, le=599)
    body: Any = None
    headers: dict[str, str] = {}
    delay_s: float = Field(default=1.0, ge=0)
    at_byte: int | None = Field(default=None, ge=0)
    share: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        of_delivery = self.kind in _DELIVERY_FAULTS
        if self.operation is not None and (self.operation == "deliveries") != of_delivery:
            raise ValueError(f"{self.kind} {'happens' if of_delivery else 'does not happen'} to deliveries")
        if self.kind == "patch" and not isinstance(self.body, dict):
            raise ValueError("patch needs an object as body")
        return self

    def concerns(self, operation: SandboxOperation, job_id: str | None) -> bool:
        """Whether this may happen to a call of that operation, about that job."""
        if (operation == "deliveries") != (self.kind in _DELIVERY_FAULTS):
            return False
        return self.operation in (None, operation) and self.job_id in (None, job_id)


@dataclass
class _ActiveFault:
    fault: Fault
    until: float | None
    seen: int = 0
    fired: int = 0

    def is_spent(self, now: float) -> bool:
        """Whether it cannot happen any more, by its `for_s` or its `times`."""
        out_of_time = self.until is not None and now >= self.until
        return out_of_time or (self.fault.times is not None and self.fired >= self.fault.times)


class Faults:
    """The faults in force at one sandbox, which may be changed at any time, from any thread.

    `seed` starts the generator behind `probability` and `share`; `fired` counts how often each kind happened.
    """

    def __init__(self, seed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._active: tuple[_ActiveFault, ...] = ()
        self._on_clear: set[Callable[[], object]] = set()
        self.random = random.Random(seed)  # noqa: S311 - faults, no secrets
        self.fired: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._active)

    def add(self, *faults: Fault) -> None:
        """Adds faults after those in force. Raises ValueError when there would be more than 1,000."""
        if len(self._active) + len(faults) > _MAX_FAULTS:
            raise ValueError(f"at most {_MAX_FAULTS} faults")
        now = self._clock()
        added = (_ActiveFault(fault, None if fault.for_s is None else now + fault.for_s) for fault in faults)
        self._active = (*self._active, *added)

    def clear(self) -> None:
        """Ends all faults; calls that are stuck continue."""
        self._active = ()
        for callback in tuple(self._on_clear):
            callback()

    def active(self) -> list[Fault]:
        """Those that may still happen."""
        self._drop_spent()
        return [each.fault for each in self._active]

    def pick(self, operation: SandboxOperation, job_id: str | None = None) -> Fault | None:
        """The fault that happens to a call, which is counted by this."""
        self._drop_spent()
        for each in self._active:
            if each.fault.concerns(operation, job_id) and self._happens(each):
                each.fired += 1
                self.fired[each.fault.kind] += 1
                return each.fault
        return None

    def on_clear(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Calls `callback` whenever all faults end; returns a function that cancels this."""
        self._on_clear.add(callback)
        return lambda: self._on_clear.discard(callback)

    def _happens(self, each: _ActiveFault) -> bool:
        fault = each.fault
        each.seen += 1
        number = each.seen - fault.after
        if number <= 0 or (fault.every is not None and number % fault.every):
            return False
        return fault.probability is None or self.random.random() < fault.probability

    def _drop_spent(self) -> None:
        now = self._clock()
        if any(each.is_spent(now) for each in self._active):
            self._active = tuple(each for each in self._active if not each.is_spent(now))


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

        async def _replay() -> Message:
            message = next(request, None)
            return await self.receive() if message is None else message

        async def _keep(message: Message) -> None:
            sent.append(message)

        await self.app({**self.scope, **extra}, _replay, _keep)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent[0]["headers"]}
        del headers["content-length"]  # the body may be changed
        return Response(b"".join(message.get("body", b"") for message in sent[1:]), sent[0]["status"], headers)

    async def respond(self, response: Response) -> None:
        """Sends a response to the call."""
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


def _changed(fault: Fault, response: Response, random: random.Random) -> Response:
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


def _changed_records(fault: Fault, records: list[Any], random: random.Random) -> list[Any]:
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

"""Faults that a test or benchmark asks for, and what makes calls go wrong accordingly."""

import asyncio
import math
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import orjson
from pydantic import BaseModel, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.sandbox.http import SandboxError

SandboxOperation = Literal["run", "get_job", "list_jobs", "webhooks", "deliveries"]

CallFault = Literal["close", "reset", "status", "slow", "stuck", "truncated", "garbage"]
RecordFault = Literal["lag", "no_result", "patch", "lost_records", "repeated_records"]
DeliveryFault = Literal["twice", "late", "lost"]

_DELIVERY_FAULTS = frozenset(get_args(DeliveryFault))
_MAX_FAULTS = 1_000


class Fault(BaseModel, extra="forbid", frozen=True):
    """One thing that goes wrong, to every call or to those that meet all its conditions; docs/sandbox.md describes the
    fields. Times are in seconds.
    """

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


@dataclass
class _ActiveFault:
    fault: Fault
    until: float
    seen: int = 0
    fired: int = 0


class Faults:
    """The faults in force at one sandbox, which may be changed at any time, from any thread.

    `seed` starts the generator behind `probability` and `share`; `fired` counts how often each kind happened. `cleared` is
    done when all faults have been ended, and another future then takes its place.
    """

    def __init__(self, seed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._active: tuple[_ActiveFault, ...] = ()
        self.cleared: Future[None] = Future()
        self.random = random.Random(seed)  # noqa: S311 - faults, no secrets
        self.fired: Counter[str] = Counter()

    def add(self, *faults: Fault) -> None:
        """Adds faults after those in force. Raises ValueError when there would be more than 1,000."""
        if len(self._active) + len(faults) > _MAX_FAULTS:
            raise ValueError(f"at most {_MAX_FAULTS} faults")
        now = self._clock()
        self._active += tuple(_ActiveFault(fault, now + (fault.for_s or math.inf)) for fault in faults)

    def clear(self) -> None:
        """Ends all faults; calls that are stuck continue."""
        self._active = ()
        cleared, self.cleared = self.cleared, Future()
        cleared.set_result(None)

    def active(self) -> list[Fault]:
        """Those that may still happen."""
        now = self._clock()
        left = tuple(
            each
            for each in self._active
            if now < each.until and (each.fault.times is None or each.fired < each.fault.times)
        )
        if len(left) < len(self._active):
            self._active = left
        return [each.fault for each in left]

    def pick(self, operation: SandboxOperation, job_id: str | None = None) -> Fault | None:
        """The fault that happens to a call, which is counted by this."""
        self.active()
        for each in self._active:
            fault = each.fault
            if (operation == "deliveries") != (fault.kind in _DELIVERY_FAULTS):
                continue
            if fault.operation not in (None, operation) or fault.job_id not in (None, job_id):
                continue
            each.seen += 1
            number = each.seen - fault.after
            if number <= 0 or (fault.every is not None and number % fault.every):
                continue
            if fault.probability is None or self.random.random() < fault.probability:
                each.fired += 1
                self.fired[fault.kind] += 1
                return fault
        return None


_HTML = "<html><head><title>{status}</title></head><body><center><h1>{status}</h1></center></body></html>"
_GARBAGE = '\ufffd\x00{"job_id": <<<'
_NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


async def apply_fault(
    fault: Fault, faults: Faults, request: Request, answer: Callable[[Request], Awaitable[Response]]
) -> Response:
    """What a call is answered with when a fault happens to it; `answer` carries the call out."""
    await request.body()  # so that the call can be carried out or not, now or later
    response = await answer(request) if fault.handled else None
    match fault.kind:
        case "close" | "reset":
            return _Disconnect(fault.kind)
        case "slow" | "stuck":
            cleared = asyncio.wrap_future(faults.cleared)
            await asyncio.wait([cleared], timeout=fault.delay_s if fault.kind == "slow" else None)
            # A slow server does not notice that nobody waits for it.
            return response or await answer(request)
        case "lag":
            request.state.lag_s = fault.delay_s
            return await answer(request)
        case "status":
            # 502 and 504 come from the gateway in front, which does not write JSON.
            html = _HTML.format(status=fault.status) if fault.status in (502, 504) else None
            body = html if fault.body is None else fault.body
            return SandboxError(fault.status, "This fault was asked for", body=body, headers=fault.headers).response()
    response = response or await answer(request)
    changed = _changed(fault, bytes(response.body), response.status_code, faults.random)
    return Response(changed, response.status_code, media_type="application/json")


class _Disconnect(Response):
    """Closes or resets (RST) the connection in place of a response. It needs uvicorn around the sandbox."""

    def __init__(self, kind: Literal["close", "reset"]) -> None:
        super().__init__()
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # ASGI cannot end a connection. uvicorn's `receive`, which Starlette hands on, is a method of the object with the transport.
        transport: Any = receive.__self__.transport  # type: ignore[attr-defined]
        if self._kind == "close":
            transport.close()
        else:
            own = transport.get_extra_info("socket")
            # Without lingering, closing sends RST. The option is set on a duplicate: event loops guard the original.
            with socket.fromfd(own.fileno(), own.family, own.type) as duplicate:
                duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass


def _changed(fault: Fault, body: bytes, status: int, random: random.Random) -> bytes:
    if fault.kind == "truncated":
        return body[: len(body) // 2 if fault.at_byte is None else fault.at_byte]
    if fault.kind == "garbage":
        return str(fault.body or _GARBAGE).encode()
    content = orjson.loads(body) if status == 200 else {}
    if "records" in content:
        content["records"] = _changed_records(fault, content["records"], random)
    elif "state" in content and fault.kind in ("no_result", "patch"):
        [content] = _changed_records(fault, [content], random)
    return orjson.dumps(content) if content else body


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


def _merged(value: Any, patch: Any) -> Any:
    """A record with a patch: objects are merged, anything else replaces what was there."""
    if not isinstance(patch, Mapping):
        return patch
    old = value if isinstance(value, Mapping) else {}
    return {**old, **{name: _merged(old.get(name), part) for name, part in patch.items()}}

"""Faults that a test or benchmark asks for: what goes wrong, in which calls, how often."""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

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

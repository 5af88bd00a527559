"""Faults that a test or benchmark asks for: what goes wrong, in which calls, how often (docs/sandbox.md, Faults)."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Operation = Literal["run", "get_job", "list_jobs", "webhooks", "deliveries"]

CallKind = Literal["close", "reset", "status", "slow", "stuck", "truncated", "garbage"]
ListKind = Literal["lag", "no_result", "lost_records", "repeated_records"]
DeliveryKind = Literal["twice", "late", "reordered", "forged", "lost"]

_DELIVERY_KINDS = frozenset({"twice", "late", "reordered", "forged", "lost"})
_MOST = 1_000


class Fault(BaseModel):
    """One thing that goes wrong. All that is said about when must hold; nothing said means every call.

    Attributes:
        kind: what happens. To calls: `close` (the connection ends without an answer), `reset` (it is torn down),
            `status` (another answer), `slow`, `stuck` (no answer until the client leaves), `truncated` (JSON cut short
            in a whole HTTP answer), `garbage`. To what lists and jobs say: `lag` (as it was `delay_s` ago), `no_result`,
            `lost_records`, `repeated_records`. To deliveries: `twice`, `late`, `reordered`, `forged`, `lost`.
        operation: the calls it happens to; None is all but deliveries.
        job_id: only to calls and deliveries about this job.
        times: it happens so often, then no more.
        for_s: it happens for so many seconds from when it was set.
        every: it happens to every Nth call.
        probability: it happens by chance, from the seeded generator.
        after: so many calls pass unharmed first.
        handled: the call is carried out before things go wrong (a job was enqueued), rather than not at all.
        status: of `status`.
        body: of `status` and `garbage`: text goes out as it is, anything else as JSON.
        headers: of `status`, such as `Retry-After`.
        delay_s: of `slow`, `late`, `lag`; and the longest that `reordered` holds a delivery back.
        at_byte: of `reset`, `close`, `slow` and `stuck`: goes wrong after the headers and so many bytes of the body (the call
            is handled, then); of `truncated`: the length that is left, half by default.
        share: of `lost_records`: the part of the records that is lost.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: CallKind | ListKind | DeliveryKind
    operation: Operation | None = None
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
    def _operation_fits(self) -> Self:
        of_delivery = self.kind in _DELIVERY_KINDS
        if of_delivery and self.operation not in (None, "deliveries"):
            raise ValueError(f"{self.kind} happens to deliveries")
        if not of_delivery and self.operation == "deliveries":
            raise ValueError(f"{self.kind} does not happen to deliveries")
        return self

    def concerns(self, operation: Operation, job_id: str | None) -> bool:
        """Whether a call is of the kind that this may happen to."""
        if (operation == "deliveries") != (self.kind in _DELIVERY_KINDS):
            return False
        return self.operation in (None, operation) and self.job_id in (None, job_id)


class FaultList(BaseModel):
    """The body of `PUT /sandbox/faults`: these faults instead of all others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    faults: list[Fault] = Field(max_length=_MOST)
    seed: int | None = None


@dataclass
class _Rule:
    fault: Fault
    until: float | None
    seen: int = 0
    fired: int = 0


class Faults:
    """The faults in force at one sandbox. May be changed at any time, from any thread.

    Args:
        seed: of the generator behind `probability` and `share`.
        clock: seconds, for `for_s`.

    Attributes:
        fired: how often each kind happened.
    """

    def __init__(self, seed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rules: tuple[_Rule, ...] = ()
        self._releases: set[Callable[[], object]] = set()
        self.random = random.Random(seed)  # noqa: S311 - faults, no secrets
        self.fired: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._rules)

    def add(self, *faults: Fault) -> None:
        """Puts faults in force, after those that are. Where several would happen to a call, the first does.

        Raises:
            ValueError: there would be too many.
        """
        if len(self._rules) + len(faults) > _MOST:
            raise ValueError(f"at most {_MOST} faults")
        now = self._clock()
        rules = (_Rule(fault, None if fault.for_s is None else now + fault.for_s) for fault in faults)
        self._rules = (*self._rules, *rules)

    def replace(self, faults: Iterable[Fault], *, seed: int | None = None) -> None:
        """Puts these in force instead of all others.

        Args:
            faults: the new ones.
            seed: starts the generator anew.
        """
        self.clear()
        if seed is not None:
            self.random.seed(seed)
        self.add(*faults)

    def clear(self) -> None:
        """Ends all faults; calls that are stuck go on."""
        self._rules = ()
        for release in tuple(self._releases):
            release()

    def active(self) -> list[Fault]:
        """Those that may still happen."""
        self._drop_spent()
        return [rule.fault for rule in self._rules]

    def pick(self, operation: Operation, job_id: str | None = None) -> Fault | None:
        """The fault that happens to a call, which is counted; None as a rule."""
        self._drop_spent()
        for rule in self._rules:
            if rule.fault.concerns(operation, job_id) and self._happens(rule):
                rule.fired += 1
                self.fired[rule.fault.kind] += 1
                return rule.fault
        return None

    def on_clear(self, release: Callable[[], object]) -> Callable[[], None]:
        """Calls `release` when all faults end; gives a function that takes this back."""
        self._releases.add(release)
        return lambda: self._releases.discard(release)

    def _happens(self, rule: _Rule) -> bool:
        fault = rule.fault
        rule.seen += 1
        number = rule.seen - fault.after
        if number <= 0 or (fault.every is not None and number % fault.every):
            return False
        return fault.probability is None or self.random.random() < fault.probability

    def _drop_spent(self) -> None:
        now = self._clock()
        if any(_spent(rule, now) for rule in self._rules):
            self._rules = tuple(rule for rule in self._rules if not _spent(rule, now))


def _spent(rule: _Rule, now: float) -> bool:
    out_of_time = rule.until is not None and now >= rule.until
    return out_of_time or (rule.fault.times is not None and rule.fired >= rule.fault.times)

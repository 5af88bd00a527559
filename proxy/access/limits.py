"""Limits: requests and tokens a minute, jobs in flight; counted in the store that replicas share.

All limits of a request are checked and taken in one atomic step. Requests and tokens are leases of 60 seconds, so that no 60 seconds ever
contain more than the limit. Tokens are estimated before the request runs, and settled when its usage is known. Jobs are leases that end
with the request.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from uuid import uuid4

from pydantic import BaseModel, Field

from proxy.errors import RateLimited
from proxy.storage import Level, Limit, Store

MINUTE_S = 60.0
_RECHECK_S = 0.05


class Quota(BaseModel, frozen=True, extra="forbid"):
    """What one scope may use: requests a minute, tokens a minute (prompt and answer together) and jobs in flight. None is no limit."""

    requests: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    jobs: int | None = Field(default=None, ge=1)


NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True)
class Rule:
    """One quota and the scope that shares it, such as `caller:key_0123`, `model:gpt-4.1`, `endpoint:support-bot`."""

    scope: str
    quota: Quota


@dataclass(slots=True)
class Lease:
    """What a request takes of its limits. Must be released. Only the first call that knows the tokens counts them.

    `headers` are OpenAI's `x-ratelimit-*`, of the tightest rule; empty where nothing is limited.
    """

    headers: Mapping[str, str]
    _store: Store
    _id: str = ""
    _taken: list[Limit] = field(default_factory=list)

    async def release(self, tokens: int = 0) -> None:
        """End the lease of its jobs, and count the tokens that were used in place of the estimate; 0: that is not known."""
        for limit in self._pop("jobs"):
            await self._store.resize(limit.counter, self._id, 0)
        for limit in self._pop("tokens") if tokens else ():
            if tokens < limit.amount:
                await self._store.resize(limit.counter, self._id, tokens)
            elif tokens > limit.amount:  # the excess counts from now on: the estimate's minute may have passed
                excess = tokens - limit.amount
                await self._store.resize(limit.counter, f"{self._id}:excess", excess, ttl_s=limit.ttl_s)

    def _pop(self, kind: str) -> list[Limit]:
        popped = [limit for limit in self._taken if _kind(limit) == kind]
        self._taken = [limit for limit in self._taken if limit not in popped]
        return popped


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Admits requests within their limits, after `wait_s` seconds at most where a limit frees soon.

    A job's lease ends after `lease_s` seconds even if nobody released it.
    """

    store: Store
    wait_s: float = 2.0
    lease_s: float = 900.0

    async def enter(self, rules: Sequence[Rule], *, tokens: int, jobs: int) -> Lease:
        """Count a request against every rule, waiting a little where a limit frees soon.

        Args:
            tokens: an estimate of what it will use. More than a whole limit is admitted when nothing else counts against that limit.
            jobs: how many it runs at a time.

        Raises:
            RateLimited: some limit has no room for it; `retry_after` says when it might, its headers what is left.
        """
        taken = [
            Limit(f"{kind}:{rule.scope}", most, min(amount, most), ttl_s)
            for rule in rules
            for kind, most, amount, ttl_s in (
                ("requests", rule.quota.requests, 1, MINUTE_S),
                ("tokens", rule.quota.tokens, tokens, MINUTE_S),
                ("jobs", rule.quota.jobs, jobs, self.lease_s),
            )
            if most is not None
        ]
        if not taken:
            return Lease({}, self.store)
        lease = uuid4().hex
        give_up = time.monotonic() + self.wait_s
        while True:
            acquired, levels = await self.store.acquire(lease, taken)
            headers = _headers(taken, levels)
            if acquired:
                return Lease(headers, self.store, lease, taken)
            waits = [
                # A job may end at any time.
                min(level.wait_s, _RECHECK_S) if _kind(limit) == "jobs" else level.wait_s
                for limit, level in zip(taken, levels, strict=True)
            ]
            wait_s, short = max(zip(waits, taken, strict=True), key=itemgetter(0))
            pause = min(max(wait_s, _RECHECK_S), MINUTE_S)
            if time.monotonic() + pause > give_up:
                unit = "jobs in flight" if _kind(short) == "jobs" else f"{_kind(short)} a minute"
                error = RateLimited(f"Rate limit reached: {short.most} {unit}.", retry_after=max(wait_s, 1.0))
                error.headers.update(headers)
                raise error
            await asyncio.sleep(pause)


def _kind(limit: Limit) -> str:
    """Requests, tokens or jobs."""
    return limit.counter.partition(":")[0]


def _headers(taken: Sequence[Limit], levels: Sequence[Level]) -> dict[str, str]:
    """OpenAI's headers for the tightest limit of requests, and the tightest of tokens."""
    headers = {}
    for kind in ("requests", "tokens"):
        pairs = [pair for pair in zip(taken, levels, strict=True) if _kind(pair[0]) == kind]
        if pairs:
            limit, level = min(pairs, key=lambda pair: pair[0].most - pair[1].used)
            headers[f"x-ratelimit-limit-{kind}"] = str(limit.most)
            headers[f"x-ratelimit-remaining-{kind}"] = str(max(limit.most - level.used, 0))
            headers[f"x-ratelimit-reset-{kind}"] = f"{level.reset_s:.3f}s"
    return headers

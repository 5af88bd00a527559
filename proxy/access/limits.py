"""Limits: requests and tokens a minute, jobs in flight. Counted by the `limits` library, here or in a Redis that replicas share.

Requests are counted in a moving window: never more than the limit in any 60 seconds. Tokens are estimated at the door and settled when
the answer tells their number; they are counted in two weighted windows, since a moving one would need an entry a token.
While the Redis cannot be reached, each replica counts for itself.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import StorageError
from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import BlockingConnectionPool, Redis

from proxy.access.places import MemoryPlaces, Places, RedisPlaces
from proxy.errors import RateLimited

Storage = MemoryStorage | RedisStorage
T = TypeVar("T")
MINUTE_S = 60.0
_RECHECK_S = 0.05
_CLEANING_S = 5.0
_NO_LIMIT = 2**53
log = structlog.get_logger(__name__)


class Quota(BaseModel):
    """What one scope may use. None is no limit.

    Attributes:
        requests: a minute.
        tokens: a minute, prompt and answer together.
        jobs: in flight at a time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    jobs: int | None = Field(default=None, ge=1)


NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True)
class Rule:
    """One quota and whom it holds for together.

    Attributes:
        scope: such as `key:key_0123`, `model:gpt-4.1`, `endpoint:support-bot`.
    """

    scope: str
    quota: Quota


@dataclass(slots=True)
class Ticket:
    """A request that was let in. Must be released once; may be settled before.

    Attributes:
        headers: OpenAI's `x-ratelimit-*`, of the tightest rule; empty where nothing is limited.
        counts_tokens: whether its settling matters to anyone.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    counts_tokens: bool = False
    _settle: Callable[[int], Awaitable[None]] | None = None
    _release: Callable[[], Awaitable[None]] | None = None

    async def settle(self, tokens: int) -> None:
        """Count the tokens that were really used in place of the estimate. Once only; further calls do nothing."""
        settle, self._settle = self._settle, None
        if settle is not None:
            await settle(tokens)

    async def release(self) -> None:
        """Give the places of its jobs back. Further calls do nothing."""
        release, self._release = self._release, None
        if release is not None:
            await release()


@dataclass(frozen=True, slots=True)
class _Shortage:
    """Why a request cannot be let in now, and seconds until it might."""

    what: str
    wait_s: float


class RateLimits:
    """Lets requests in, or not.

    Args:
        redis_url: where replicas count together; None counts here.
        prefix: start of every name in Redis.
        wait_s: how long a request may wait for a place that frees soon, in seconds.
        lease_s: after how many seconds a job's place is free even if nobody gave it back.
    """

    def __init__(
        self, redis_url: str | None = None, *, prefix: str = "", wait_s: float = 2.0, lease_s: float = 900.0
    ) -> None:
        self._all = [_Counters(_CalmMemory(), MemoryPlaces())]
        self._redis: Redis | None = None
        if redis_url is not None:
            pool = BlockingConnectionPool.from_url(
                redis_url, max_connections=32, timeout=5, socket_connect_timeout=1.0, socket_timeout=2.0
            )
            self._redis = Redis.from_pool(pool)
            storage = RedisStorage(
                f"async+{redis_url}",
                implementation="redispy",
                wrap_exceptions=True,
                key_prefix=f"{prefix}limits",
                connection_pool=pool,  # type: ignore[arg-type]  # it takes one, and says otherwise
            )
            self._all.insert(0, _Counters(storage, RedisPlaces(self._redis, prefix)))
        self._away_until = 0.0
        self._wait_s = wait_s
        self._lease_s = lease_s

    async def aclose(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    async def enter(self, rules: Sequence[Rule], *, tokens: int, jobs: int) -> Ticket:
        """Count a request against every rule, waiting a little where a place frees soon.

        Args:
            tokens: an estimate of what it will use.
            jobs: how many it runs at a time.

        Raises:
            RateLimited: some rule has no place for it; `retry_after` says when it might, its headers what is left.
        """
        rules = [rule for rule in rules if rule.quota != NO_QUOTA]
        if not rules:
            return Ticket()
        give_up = time.monotonic() + self._wait_s
        while True:
            entered = await self._shared(lambda counters: counters.enter(rules, tokens, jobs, self._lease_s))
            if isinstance(entered, Ticket):
                return entered
            pause = min(max(entered.wait_s, _RECHECK_S), MINUTE_S)
            if time.monotonic() + pause > give_up:
                error = RateLimited(f"Rate limit reached: {entered.what}.", retry_after=max(entered.wait_s, 1.0))
                error.headers.update(await self._shared(lambda counters: counters.headers(rules)))
                raise error
            await asyncio.sleep(pause)

    async def _shared(self, work: Callable[["_Counters"], Awaitable[T]]) -> T:
        """Work on the shared counters, or on our own while those cannot be reached."""
        shared, own = self._all[0], self._all[-1]
        if shared is own or time.monotonic() < self._away_until:
            return await work(own)
        try:
            return await work(shared)
        except StorageError as error:
            if time.monotonic() >= self._away_until:
                log.warning("limits are counted by this process alone", error=type(error.storage_error).__name__)
            self._away_until = time.monotonic() + 1.0
            return await work(own)


class _CalmMemory(MemoryStorage):
    """Looks for what has expired every few seconds. The library's own way, at every hit, takes a thread for every key there is."""

    _cleaning: asyncio.Task[None] | None = None
    _again_at = 0.0

    @property
    def timer(self) -> asyncio.Task[None] | None:
        """The task that cleans up; one that is not done keeps the library from starting another."""
        if self._cleaning is None or time.monotonic() >= self._again_at:
            return self._cleaning
        return _NOT_DONE  # type: ignore[return-value]

    @timer.setter
    def timer(self, task: asyncio.Task[None] | None) -> None:
        self._cleaning = task
        self._again_at = time.monotonic() + _CLEANING_S


class _NotDone:
    def done(self) -> bool:
        return False

    def cancel(self) -> None: ...


_NOT_DONE = _NotDone()


class _Counters:
    """Counts in one place. Raises StorageError when that cannot be reached."""

    def __init__(self, storage: Storage, places: Places) -> None:
        self._storage = storage
        self._window = MovingWindowRateLimiter(storage)
        self._places = places

    async def enter(self, rules: Sequence[Rule], tokens: int, jobs: int, lease_s: float) -> Ticket | _Shortage:
        if short := await self._shortage(rules, tokens):
            return short
        held: list[tuple[str, str]] = []
        try:
            short = await self._take(rules, tokens, jobs, lease_s, held)
        except BaseException:
            await self._give_back(held)
            raise
        if short:
            await self._give_back(held)
            return short
        counted = [rule for rule in rules if rule.quota.tokens]
        return Ticket(
            await self.headers(rules),
            bool(counted),
            lambda used: self._settle(counted, tokens, used),
            lambda: self._give_back(held),
        )

    async def _shortage(self, rules: Sequence[Rule], tokens: int) -> _Shortage | None:
        """What is missing before anything is counted, so that a refused request seldom uses up another rule's places."""
        found = []
        for rule in rules:
            if item := _requests(rule):
                reset, remaining = await self._window.get_window_stats(item, rule.scope)
                if remaining < 1:
                    found.append(_Shortage(f"{rule.quota.requests} requests a minute", reset - time.time()))
            if (item := _tokens(rule)) and (wait := await self._token_wait(item, rule, tokens)) > 0:
                found.append(_Shortage(f"{rule.quota.tokens} tokens a minute", wait))
        return max(found, key=lambda short: short.wait_s, default=None)

    async def _take(
        self, rules: Sequence[Rule], tokens: int, jobs: int, lease_s: float, held: list[tuple[str, str]]
    ) -> _Shortage | None:
        """Places first, since they can be given back."""
        for rule in rules:
            if most := rule.quota.jobs:
                lease = await self._places.take(rule.scope, min(jobs, most), most, lease_s)
                if lease is None:
                    return _Shortage(f"{most} jobs in flight", _RECHECK_S)
                held.append((rule.scope, lease))
        for rule in rules:
            item = _requests(rule)
            if item and not await self._window.hit(item, rule.scope):
                return _Shortage(f"{rule.quota.requests} requests a minute", _RECHECK_S)
        for rule in rules:
            if (item := _tokens(rule)) and not await self._count_tokens(item, rule, tokens, item.amount):
                return _Shortage(f"{rule.quota.tokens} tokens a minute", _RECHECK_S)
        return None

    async def _give_back(self, held: list[tuple[str, str]]) -> None:
        while held:
            await self._places.give_back(*held.pop())

    async def _settle(self, rules: Sequence[Rule], estimate: int, used: int) -> None:
        try:
            await self._correct(rules, estimate, used)
        except StorageError as error:
            log.warning("tokens were not settled", error=type(error.storage_error).__name__)

    async def _correct(self, rules: Sequence[Rule], estimate: int, used: int) -> None:
        for rule in rules:
            item = _tokens(rule)
            if item is None:
                continue
            more = used - min(estimate, item.amount)
            if more < 0:
                _, _, current, _ = await self._storage.get_sliding_window(item.key_for(rule.scope), item.get_expiry())
                more = -min(-more, current)  # what was counted in an earlier window stays counted
            if more:
                await self._count_tokens(item, rule, more, _NO_LIMIT)

    async def _count_tokens(self, item: RateLimitItemPerMinute, rule: Rule, tokens: int, most: int) -> bool:
        amount = min(tokens, most)
        key = item.key_for(rule.scope)
        return await self._storage.acquire_sliding_window_entry(key, most, item.get_expiry(), amount)

    async def _token_wait(self, item: RateLimitItemPerMinute, rule: Rule, tokens: int) -> float:
        """Seconds until so many tokens fit, 0 when they do."""
        previous, previous_ttl, current, current_ttl = await self._storage.get_sliding_window(
            item.key_for(rule.scope), item.get_expiry()
        )
        room = item.amount - min(tokens, item.amount)
        if previous * previous_ttl / MINUTE_S + current <= room:
            return 0.0
        if current <= room:
            return previous_ttl - (room - current) * MINUTE_S / previous
        return current_ttl - room * MINUTE_S / current

    async def headers(self, rules: Sequence[Rule]) -> dict[str, str]:
        """The tightest request rule and the tightest token rule."""
        now = time.time()
        requests = []
        tokens = []
        for rule in rules:
            if item := _requests(rule):
                reset, remaining = await self._window.get_window_stats(item, rule.scope)
                requests.append((remaining, item.amount, max(reset - now, 0.0)))
            if item := _tokens(rule):
                previous, previous_ttl, current, current_ttl = await self._storage.get_sliding_window(
                    item.key_for(rule.scope), item.get_expiry()
                )
                used = math.floor(previous * previous_ttl / MINUTE_S) + current
                reset_s = current_ttl if current else previous_ttl
                tokens.append((max(item.amount - used, 0), item.amount, reset_s))
        found = {}
        for what, windows in (("requests", requests), ("tokens", tokens)):
            if windows:
                remaining, amount, reset_s = min(windows)
                found[f"x-ratelimit-limit-{what}"] = str(amount)
                found[f"x-ratelimit-remaining-{what}"] = str(remaining)
                found[f"x-ratelimit-reset-{what}"] = f"{reset_s:.3f}s"
        return found


def _requests(rule: Rule) -> RateLimitItemPerMinute | None:
    most = rule.quota.requests
    return RateLimitItemPerMinute(most, namespace="requests") if most else None


def _tokens(rule: Rule) -> RateLimitItemPerMinute | None:
    most = rule.quota.tokens
    return RateLimitItemPerMinute(most, namespace="tokens") if most else None

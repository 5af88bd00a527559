"""A store in Redis 7 or Valkey, which all replicas share."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self, TypeVar, cast
from uuid import uuid4

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from proxy.storage.store import Level, Levels, Limit, Membership, unavailable

T = TypeVar("T")
CALL_TIMEOUT_S: Final = 2.0
LEASE_S: Final = 5.0
"""How long a replica that was killed counts as alive, and as a member of its groups."""
_HEARTBEAT_S: Final = 1.0

# All times are those of the server's clock: those of the replicas may differ.
_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
# KEYS: the leader; the members by the end of their lease. ARGV: replica, lease, whether it may lead.
_JOIN: Final = f"""{_NOW}
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
local free = (redis.call('GET', KEYS[1]) or ARGV[1]) == ARGV[1]
local leads = free and ARGV[3] == '1'
if leads then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
elseif free then
    redis.call('DEL', KEYS[1])
end
return {{leads and 1 or 0, redis.call('ZCARD', KEYS[2])}}
"""
_LEAVE: Final = """
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('DEL', KEYS[1])
end
"""
# ARGV: field, new value, the value that it must have; without that it must have none.
_COMPARE_AND_SET: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= (ARGV[3] or false) then
    return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""
# A counter has two keys: its leases by their end, and a hash of their amounts with the sum under `used`.
# `set` gives a lease that ends at `stop` an amount; with TTL 0 the keys' lives stay as they are.
_LEASES: Final = """
local function expire(ends, amounts, now)
    for _, lease in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now)) do
        redis.call('HINCRBY', amounts, 'used', -(redis.call('HGET', amounts, lease) or 0))
        redis.call('HDEL', amounts, lease)
        redis.call('ZREM', ends, lease)
    end
    return tonumber(redis.call('HGET', amounts, 'used') or 0)
end
local function set(ends, amounts, lease, amount, stop, ttl)
    redis.call('HINCRBY', amounts, 'used', amount - (redis.call('HGET', amounts, lease) or 0))
    redis.call('ZADD', ends, stop, lease)
    redis.call('HSET', amounts, lease, amount)
    if ttl > 0 then
        redis.call('PEXPIRE', ends, ttl)
        redis.call('PEXPIRE', amounts, ttl)
    end
end
"""
# KEYS: two of each counter. ARGV: the lease; the most, the amount and the TTL for each counter. Returns whether the lease was acquired,
# and for each counter the sum, the wait and the reset. At most 1,000 leases are read to find the wait; beyond them it is a lower bound.
_ACQUIRE: Final = f"""{_NOW}{_LEASES}
local answer = {{1}}
for i = 1, #KEYS / 2 do
    local ends, amounts, wait = KEYS[2 * i - 1], KEYS[2 * i], 0
    local over = expire(ends, amounts, now) + ARGV[3 * i] - ARGV[3 * i - 1]
    if over > 0 then
        answer[1] = 0
        local leases = redis.call('ZRANGE', ends, 0, 999, 'WITHSCORES')
        for n = 1, #leases, 2 do
            wait = leases[n + 1] - now
            over = over - (redis.call('HGET', amounts, leases[n]) or 0)
            if over <= 0 then break end
        end
    end
    answer[3 * i] = wait
end
for i = 1, #KEYS / 2 do
    local ends, amounts, amount, ttl = KEYS[2 * i - 1], KEYS[2 * i], tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
    if answer[1] == 1 and amount > 0 then set(ends, amounts, ARGV[1], amount, now + ttl, ttl) end
    local oldest = redis.call('ZRANGE', ends, 0, 0, 'WITHSCORES')
    answer[3 * i - 1] = tonumber(redis.call('HGET', amounts, 'used') or 0)
    answer[3 * i + 1] = oldest[2] and oldest[2] - now or 0
end
return answer
"""
# KEYS: the two of a counter. ARGV: lease, amount, the TTL of a new lease or 0. A lease of nothing ends at once.
_RESIZE: Final = f"""{_NOW}{_LEASES}
expire(KEYS[1], KEYS[2], now)
local known, ttl = redis.call('ZSCORE', KEYS[1], ARGV[1]), tonumber(ARGV[3])
if known or ttl > 0 then
    local stop = ARGV[2] == '0' and now or known or now + ttl
    set(KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]), stop, known and 0 or ttl)
end
expire(KEYS[1], KEYS[2], now)
"""

log = structlog.get_logger(__name__)


class RedisStore:
    """See `proxy.storage.store.Store`. An async context manager that owns the connection pool and two tasks.

    A record is a hash. Names start with the prefix; braces in them keep the keys of a script in one slot of a cluster. After a call that
    could not reach Redis, all calls raise StoreUnavailable at once until a heartbeat, once a second, gets through. `on_failure` is called
    after each call that failed.
    """

    shared = True

    def __init__(self, url: str, prefix: str, on_failure: Callable[[], None] = lambda: None) -> None:
        self._redis = Redis.from_pool(
            BlockingConnectionPool.from_url(
                url,
                decode_responses=True,
                socket_timeout=CALL_TIMEOUT_S,
                socket_connect_timeout=CALL_TIMEOUT_S,
                max_connections=50,
                timeout=10.0,
                retry=Retry(NoBackoff(), 1),
            )
        )
        script = self._redis.register_script
        self._join, self._leave, self._swap = script(_JOIN), script(_LEAVE), script(_COMPARE_AND_SET)
        self._acquire, self._resize = script(_ACQUIRE), script(_RESIZE)
        self._prefix = prefix
        self._on_failure = on_failure
        self._subscribers: dict[str, Callable[[str], None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._refusals: set[str] = set()
        self.replica = uuid4().hex
        self.healthy = True

    async def __aenter__(self) -> Self:
        await self._heartbeat()
        self._tasks = [asyncio.create_task(self._keep_alive()), asyncio.create_task(self._keep_listening())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(RedisError, OSError):
            if self.healthy:
                await self._redis.delete(self._key(f"replica:{self.replica}"))
        with suppress(RedisError, OSError):
            await self._redis.aclose()

    async def get(self, name: str, field: str) -> str | None:
        return cast(str | None, await self._call(lambda: self._redis.hget(self._key(name), field)))

    async def read(self, name: str) -> Mapping[str, str]:
        found = await self._call(lambda: self._redis.hgetall(self._key(name)))
        return dict(sorted(cast(Mapping[str, str], found).items()))

    async def add(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> str:
        return await self._set("HSETNX", name, field, value, ttl_s)

    async def put(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> None:
        await self._set("HSET", name, field, value, ttl_s)

    async def _set(self, command: str, name: str, field: str, value: str, ttl_s: float | None) -> str:
        key = self._key(name)

        async def call() -> str:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.execute_command(command, key, field, value)
                pipe.hget(key, field)
                if ttl_s is not None:
                    pipe.pexpire(key, round(ttl_s * 1000))
                found: str = (await pipe.execute())[1]
            return found

        return await self._call(call)

    async def compare_and_set(self, name: str, field: str, old: str | None, new: str) -> bool:
        arguments = [field, new] if old is None else [field, new, old]
        return bool(await self._call(lambda: self._swap(keys=[self._key(name)], args=arguments)))

    async def remove(self, name: str, field: str | None = None) -> bool:
        key = self._key(name)
        removed = await self._call(lambda: self._redis.delete(key) if field is None else self._redis.hdel(key, field))
        return bool(removed)

    async def acquire(self, lease: str, limits: Sequence[Limit]) -> Levels:
        keys, arguments = [], [lease]
        for limit in limits:
            keys += self._counter_keys(limit.counter)
            arguments += map(str, (limit.most, limit.amount, round(limit.ttl_s * 1000)))
        acquired, *numbers = await self._call(lambda: self._acquire(keys=keys, args=arguments))
        levels = [
            Level(used, wait / 1000, reset / 1000)
            for used, wait, reset in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
        ]
        return bool(acquired), levels

    async def resize(self, counter: str, lease: str, amount: int, *, ttl_s: float | None = None) -> None:
        arguments = [lease, str(amount), str(round(1000 * (ttl_s or 0)))]
        await self._call(lambda: self._resize(keys=self._counter_keys(counter), args=arguments))

    async def alive(self, replica: str) -> bool:
        if replica in ("", self.replica):
            return bool(replica)
        return bool(await self._call(lambda: self._redis.exists(self._key(f"replica:{replica}"))))

    async def join(self, group: str, *, may_lead: bool = True) -> Membership:
        arguments: list[str | int] = [self.replica, round(LEASE_S * 1000), int(may_lead)]
        leads, members = await self._call(lambda: self._join(keys=self._group_keys(group), args=arguments))
        return Membership(bool(leads), members)

    async def leave(self, group: str) -> None:
        await self._call(lambda: self._leave(keys=self._group_keys(group), args=[self.replica]))

    async def publish(self, topic: str, message: str) -> None:
        await self._call(lambda: self._redis.publish(self._key(topic), f"{self.replica} {message}"))

    def subscribe(self, topic: str, on_message: Callable[[str], None]) -> None:
        """Messages arrive from a second later on."""
        self._subscribers[self._key(topic)] = on_message

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        if not self.healthy:
            raise unavailable()
        try:
            return await call()
        except ResponseError as error:
            self._refused(error)
            raise unavailable() from error
        except (RedisError, OSError) as error:
            self._failed(error)
            raise unavailable() from error

    def _refused(self, error: ResponseError) -> None:
        """Redis is reached and refuses one call, perhaps for lack of a permission: other calls may succeed."""
        self._on_failure()
        if (text := str(error)) not in self._refusals and len(self._refusals) < 100:  # logged once each
            self._refusals.add(text)
            log.error("redis refuses a call", error=text)

    def _failed(self, error: Exception) -> None:
        self._on_failure()
        if self.healthy:
            self.healthy = False
            log.warning("redis cannot be reached", error=type(error).__name__)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            await self._heartbeat()

    async def _heartbeat(self) -> None:
        try:
            await self._redis.set(self._key(f"replica:{self.replica}"), "1", px=round(LEASE_S * 1000))
        except (RedisError, OSError) as error:
            self._failed(error)
        else:
            if not self.healthy:
                self.healthy = True
                log.warning("redis is reached again")

    async def _keep_listening(self) -> None:
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await self._listen(pubsub)
            except ResponseError as error:
                self._refused(error)
            except (RedisError, OSError):
                pass  # the heartbeat says so
            await asyncio.sleep(_HEARTBEAT_S)

    async def _listen(self, pubsub: Any) -> None:
        heard: set[str] = set()
        while True:
            if new := self._subscribers.keys() - heard:
                await pubsub.subscribe(*new)
                heard |= new
            if not heard:
                await asyncio.sleep(_HEARTBEAT_S)
            elif (message := await pubsub.get_message(timeout=_HEARTBEAT_S)) is not None:
                sender, _, text = message["data"].partition(" ")
                if sender != self.replica:
                    # From the loop, which logs a subscriber that raises: the others still receive.
                    asyncio.get_running_loop().call_soon(self._subscribers[message["channel"]], text)

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _group_keys(self, group: str) -> list[str]:
        return [self._key(f"{{{group}}}:leader"), self._key(f"{{{group}}}:members")]

    def _counter_keys(self, counter: str) -> list[str]:
        return [self._key(f"{{limits}}:{counter}:ends"), self._key(f"{{limits}}:{counter}:amounts")]

"""State that replicas share through Redis 7 or Valkey.

Everything written is kept in memory too. While Redis is away each replica goes on with what it wrote itself lately, and tries Redis again
in the background.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError, WatchError

from proxy.state.memory import MemoryStore
from proxy.state.store import BY_ITSELF, Standing

T = TypeVar("T")
CALL_TIMEOUT_S: Final = 2.0
LEASE_S: Final = 5.0
"""How long a replica that was killed counts as alive, and a role as held."""
_BEAT_S: Final = 1.0
_MOST_CONNECTIONS: Final = 50
_POOL_TIMEOUT_S: Final = 10.0
_MOST_REFUSALS: Final = 100
"""Refusals that are logged, each once."""
_MIRRORED_S: Final = 600.0
"""How long a replica remembers by itself what it wrote."""

# KEYS: who leads, and who takes part until when. By the server's clock: those of replicas may differ.
_JOIN: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
local leader = redis.call('GET', KEYS[1])
local leads = 0
if not leader or leader == ARGV[1] then
    if ARGV[3] == '1' then
        redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
        leads = 1
    else
        redis.call('DEL', KEYS[1])
    end
end
return {leads, redis.call('ZCARD', KEYS[2])}
"""
_LEAVE: Final = """
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('DEL', KEYS[1])
end
"""

log = structlog.get_logger(__name__)


class RedisStore:
    """See `proxy.state.store.Store`. An async context manager that owns a connection pool and a task.

    Args:
        url: `redis://…` or `rediss://…`.
        prefix: of every name.
        on_failure: told of every call that failed.
    """

    shared = True

    def __init__(self, url: str, prefix: str, on_failure: Callable[[], None] = lambda: None) -> None:
        self._redis = Redis.from_pool(
            BlockingConnectionPool.from_url(
                url,
                decode_responses=True,
                socket_timeout=CALL_TIMEOUT_S,
                socket_connect_timeout=CALL_TIMEOUT_S,
                max_connections=_MOST_CONNECTIONS,
                timeout=_POOL_TIMEOUT_S,
                retry=Retry(NoBackoff(), 1),
            )
        )
        self._join = self._redis.register_script(_JOIN)
        self._leave = self._redis.register_script(_LEAVE)
        self._prefix = prefix
        self._on_failure = on_failure
        self._mirror = MemoryStore()
        self._listeners: dict[str, Callable[[str], None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._refusals: set[str] = set()
        self.replica = self._mirror.replica
        self.healthy = True

    async def __aenter__(self) -> Self:
        await self._beat()
        self._tasks = [asyncio.create_task(self._keep_alive()), asyncio.create_task(self._keep_listening())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(RedisError, OSError):
            if self.healthy:
                await self._redis.delete(self._replica_key(self.replica))
        with suppress(RedisError, OSError):
            await self._redis.aclose()

    # ------------------------------------------------------------ records

    async def read(self, name: str) -> Mapping[str, str]:
        async def ask() -> Mapping[str, str]:
            return cast(Mapping[str, str], await self._redis.hgetall(self._key(name)))

        return await self._ask(ask, lambda: self._mirror.read(name))

    async def add(self, name: str, field: str, value: str, *, ttl_s: float) -> str:
        """What this replica knows is offered to Redis first: it may have come back empty."""
        known = await self._mirror.add(name, field, value, ttl_s=min(ttl_s, _MIRRORED_S))

        async def ask() -> str:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hsetnx(self._key(name), field, known)
                pipe.hget(self._key(name), field)
                pipe.pexpire(self._key(name), round(ttl_s * 1000))
                found: str = (await pipe.execute())[1]
            if found != known:
                await self._mirror.put(name, field, found, ttl_s=min(ttl_s, _MIRRORED_S))
            return found

        return await self._ask(ask, lambda: _value(known))

    async def put(self, name: str, field: str, value: str, *, ttl_s: float) -> None:
        await self._mirror.put(name, field, value, ttl_s=min(ttl_s, _MIRRORED_S))

        async def ask() -> None:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(self._key(name), field, value)
                pipe.pexpire(self._key(name), round(ttl_s * 1000))
                await pipe.execute()

        await self._ask(ask, lambda: _value(None))

    async def swap(self, name: str, field: str, old: str, new: str) -> bool:
        async def ask() -> bool:
            async with self._redis.pipeline(transaction=True) as pipe:
                await pipe.watch(self._key(name))
                if await pipe.hget(self._key(name), field) != old:
                    return False
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.hset(self._key(name), field, new)
                try:
                    await pipe.execute()
                except WatchError:
                    return False
            await self._mirror.put(name, field, new, ttl_s=_MIRRORED_S)
            return True

        return await self._ask(ask, lambda: self._mirror.swap(name, field, old, new))

    async def remove(self, name: str, field: str | None = None) -> None:
        await self._mirror.remove(name, field)
        key = self._key(name)
        await self._ask(
            lambda: self._redis.delete(key) if field is None else self._redis.hdel(key, field), lambda: _value(0)
        )

    # ------------------------------------------------------------ replicas

    async def alive(self, replica: str) -> bool:
        if replica in ("", self.replica):
            return bool(replica)
        # While nobody can be asked, another replica may well be alive.
        return bool(await self._ask(lambda: self._redis.exists(self._replica_key(replica)), lambda: _value(1)))

    async def join(self, role: str, *, may_lead: bool = True) -> Standing:
        async def ask() -> Standing:
            arguments: list[str | int] = [self.replica, round(LEASE_S * 1000), int(may_lead)]
            leads, members = await self._join(keys=self._role_keys(role), args=arguments)
            return Standing(bool(leads), members)

        return await self._ask(ask, lambda: _value(BY_ITSELF))

    async def leave(self, role: str) -> None:
        await self._ask(lambda: self._leave(keys=self._role_keys(role), args=[self.replica]), lambda: _value(None))

    async def publish(self, topic: str, message: str) -> None:
        await self._ask(
            lambda: self._redis.publish(f"{self._prefix}{topic}", f"{self.replica} {message}"), lambda: _value(0)
        )

    def listen(self, topic: str, heard: Callable[[str], None]) -> None:
        """What is heard from a second later on."""
        self._listeners[f"{self._prefix}{topic}"] = heard

    # ------------------------------------------------------------ away and back

    async def _ask(self, call: Callable[[], Awaitable[T]], own: Callable[[], Awaitable[T]]) -> T:
        """What Redis says, or what this replica knows by itself."""
        if self.healthy:
            try:
                return await call()
            except ResponseError as error:
                self._refused(error)
            except (RedisError, OSError) as error:
                self._failed(error)
        return await own()

    def _refused(self, error: ResponseError) -> None:
        """Redis is there and says no to one call, perhaps for lack of a permission: the others go on."""
        self._on_failure()
        if (words := str(error)) not in self._refusals and len(self._refusals) < _MOST_REFUSALS:
            self._refusals.add(words)
            log.error("the shared state refuses a call", error=words)

    def _failed(self, error: Exception) -> None:
        self._on_failure()
        if self.healthy:
            self.healthy = False
            log.warning("the shared state is away; this replica goes on by itself", error=type(error).__name__)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            await self._beat()

    async def _beat(self) -> None:
        try:
            await self._redis.set(self._replica_key(self.replica), "1", px=round(LEASE_S * 1000))
        except (RedisError, OSError) as error:
            self._failed(error)
        else:
            if not self.healthy:
                self.healthy = True
                log.warning("the shared state is back")

    async def _keep_listening(self) -> None:
        while True:
            try:
                if not self._listeners:
                    await asyncio.sleep(_BEAT_S)
                    continue
                async with self._subscription() as messages:
                    async for channel, text in messages:
                        sender, _, message = text.partition(" ")
                        if sender != self.replica:
                            # From the loop, which logs a listener that raises: the others go on hearing.
                            asyncio.get_running_loop().call_soon(self._listeners[channel], message)
            except ResponseError as error:
                self._refused(error)
                await asyncio.sleep(_BEAT_S)
            except (RedisError, OSError):
                await asyncio.sleep(_BEAT_S)

    @asynccontextmanager
    async def _subscription(self) -> AsyncIterator[AsyncIterator[tuple[str, str]]]:
        async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            topics = set(self._listeners)
            await pubsub.subscribe(*topics)

            async def messages() -> AsyncIterator[tuple[str, str]]:
                while topics == set(self._listeners):
                    message: dict[str, Any] | None = await pubsub.get_message(timeout=_BEAT_S)
                    if message is not None:
                        yield message["channel"], message["data"]

            yield messages()

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _role_keys(self, role: str) -> tuple[str, str]:
        # The braces keep both in one slot of a cluster, as a script needs it.
        return f"{self._prefix}{{{role}}}:leader", f"{self._prefix}{{{role}}}:members"

    def _replica_key(self, replica: str) -> str:
        return f"{self._prefix}replica:{replica}"


async def _value(value: T) -> T:
    return value

"""Places for jobs in flight: so many a scope at a time, each on a lease that ends by itself should its holder vanish."""

import time
from collections.abc import Callable
from typing import Protocol
from uuid import uuid4

from limits.errors import StorageError
from redis.asyncio import Redis
from redis.exceptions import RedisError


class Places(Protocol):
    """Raises StorageError when the places cannot be reached."""

    async def take(self, scope: str, count: int, most: int, lease_s: float) -> str | None:
        """Take so many places where at most `most` are taken at a time.

        Returns:
            The lease to give them back with, None when there are not so many free.
        """

    async def give_back(self, scope: str, lease: str) -> None:
        """End a lease. One that has ended already is no error."""


class MemoryPlaces:
    """Places of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._leases: dict[str, dict[str, tuple[float, int]]] = {}

    async def take(self, scope: str, count: int, most: int, lease_s: float) -> str | None:
        now = self._clock()
        leases = {lease: held for lease, held in self._leases.get(scope, {}).items() if held[0] > now}
        if sum(taken for _, taken in leases.values()) + count > most:
            return None
        lease = uuid4().hex
        self._leases[scope] = {**leases, lease: (now + lease_s, count)}
        return lease

    async def give_back(self, scope: str, lease: str) -> None:
        leases = self._leases.get(scope, {})
        leases.pop(lease, None)
        if not leases:
            self._leases.pop(scope, None)


# A sorted set a scope: one member a place, scored by the end of its lease. Redis's own clock decides.
_TAKE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local count = tonumber(ARGV[2])
if redis.call('ZCARD', KEYS[1]) + count > tonumber(ARGV[3]) then
    return 0
end
for place = 1, count do
    redis.call('ZADD', KEYS[1], now + tonumber(ARGV[4]), ARGV[1] .. ':' .. place)
end
redis.call('EXPIRE', KEYS[1], math.ceil(tonumber(ARGV[4])))
return count
"""


class RedisPlaces:
    """Places that replicas share."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._prefix = prefix
        self._redis = redis
        self._take = redis.register_script(_TAKE)

    async def take(self, scope: str, count: int, most: int, lease_s: float) -> str | None:
        lease = f"{count}:{uuid4().hex}"
        try:
            taken = await self._take(keys=[self._set(scope)], args=[lease, count, most, lease_s])
        except (RedisError, OSError) as error:
            raise StorageError(error) from error
        return lease if taken else None

    async def give_back(self, scope: str, lease: str) -> None:
        count = int(lease.partition(":")[0])
        try:
            await self._redis.zrem(self._set(scope), *(f"{lease}:{place}" for place in range(1, count + 1)))
        except (RedisError, OSError):
            return  # the lease ends by itself

    def _set(self, scope: str) -> str:
        return f"{self._prefix}places:{scope}"

"""What outlives a request: records, counters and leadership, in this process, in a file, or in a Redis that replicas share."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.storage.memory import MemoryStore
from proxy.storage.outages import FailClosed, FailOpen
from proxy.storage.sqlite import SqliteStore
from proxy.storage.store import ALONE, Ledger, Level, Limit, Membership, Records, Store

__all__ = [
    "ALONE",
    "Ledger",
    "Level",
    "Limit",
    "Membership",
    "MemoryStore",
    "Records",
    "SqliteStore",
    "Storage",
    "Store",
    "open_storage",
]


@dataclass(frozen=True, slots=True)
class Storage:
    """The stores, by what happens to their users during an outage of Redis.

    Attributes:
        live: for idempotency, limits and leadership. It fails open: the replica serves on by itself, and `/readyz` says `degraded`.
        durable: for keys and named endpoints. It fails closed: 503 `state_unavailable`, but for what was read in the last ten minutes.
        responses, batches: for stored responses; for files and batches. Every call raises StoreUnavailable.
        lines: for what is submitted for the lines of batches; it fails as `live` does.
    """

    live: Store
    durable: Records
    responses: Store
    batches: Ledger
    lines: Ledger


@asynccontextmanager
async def open_storage(  # noqa: PLR0913
    folder: Path,
    redis_url: str | None,
    prefix: str,
    on_failure: Callable[[], None] = lambda: None,
    *,
    response_bytes: int = 64 << 20,
    batch_bytes: int | None = None,
) -> AsyncIterator[Storage]:
    """Open the stores: a Redis for everything if there is one, else memory and `records.sqlite3` in a folder.

    Args:
        prefix: start of every name in Redis.
        on_failure: called after each call to Redis that failed.
        response_bytes: most memory for stored responses where there is no Redis.
        batch_bytes: most memory for files and batches where there is no Redis; None keeps them in `batches.sqlite3` in the folder.
    """
    async with AsyncExitStack() as stack:
        if redis_url is None:
            file = SqliteStore(folder / "records.sqlite3")
            stack.push_async_callback(file.aclose)
            live = MemoryStore()
            batches: Ledger
            if batch_bytes is None:
                batches = ledger = SqliteStore(folder / "batches.sqlite3", ledger=True)
                stack.push_async_callback(ledger.aclose)
            else:
                batches = MemoryStore(max_bytes=batch_bytes, replica=live.replica)
            responses = MemoryStore(max_bytes=response_bytes, replica=live.replica)
            yield Storage(live, FailClosed(file), responses, batches, batches)
        else:
            from proxy.storage.redis import RedisStore  # noqa: PLC0415 (eight megabytes that only a Redis needs)

            redis = await stack.enter_async_context(RedisStore(redis_url, prefix, on_failure))
            live_redis = FailOpen(redis)
            yield Storage(live_redis, FailClosed(redis), redis, redis, live_redis)

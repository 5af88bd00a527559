"""How tests wait for something in another task, thread or process: they ask until it holds, for `PATIENCE_S` at most."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 60.0
_PAUSE_S = 0.01


async def until(holds: Callable[[], object | Awaitable[object]]) -> None:
    """Wait until something holds.

    Args:
        holds: asked again and again; plain or awaitable.

    Raises:
        TimeoutError: it did not within `PATIENCE_S`.
    """
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = holds()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(_PAUSE_S)


def until_sync(holds: Callable[[], T | None]) -> T:
    """As `until`, for tests without an event loop. Returns the first true answer."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        if answer := holds():
            return answer
        if time.monotonic() >= deadline:
            raise TimeoutError(f"it did not hold within {PATIENCE_S:.0f} s; the last answer was {answer!r}")
        time.sleep(_PAUSE_S)

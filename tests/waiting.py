"""The one way that tests wait for something in another task or process: ask until it holds, with an end to patience."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

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

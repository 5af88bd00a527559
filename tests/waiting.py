"""How tests wait for something in another task, thread or process: they ask until it holds, for `PATIENCE_S` at most."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE_S = 60.0
_PAUSE_S = 0.01


async def until(holds: Callable[[], object | Awaitable[object]], *, pause_s: float = _PAUSE_S) -> None:
    """Wait until something holds.

    Args:
        holds: asked again and again; plain or awaitable.
        pause_s: seconds between two calls of it.

    Raises:
        TimeoutError: it did not within `PATIENCE_S`.
    """
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = holds()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(pause_s)  # what is asked for may be in another process, which sets no event of this one


def until_sync(holds: Callable[[], T | None]) -> T:
    """As `until`, for tests without an event loop. Returns the first true answer."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        if answer := holds():
            return answer
        if time.monotonic() >= deadline:
            raise TimeoutError(f"it did not hold within {PATIENCE_S:.0f} s; the last answer was {answer!r}")
        time.sleep(_PAUSE_S)  # as above


async def suspended(*tasks: asyncio.Task[Any]) -> None:
    """Wait until each of some tasks has run to a point where it waits for something itself.

    Raises:
        AssertionError: one of them ended instead.
        TimeoutError: one did not begin within `PATIENCE_S`.
    """

    def waits(task: asyncio.Task[Any]) -> bool:
        assert not task.done(), task
        coroutine = task.get_coro()
        assert inspect.iscoroutine(coroutine)
        return inspect.getcoroutinestate(coroutine) == inspect.CORO_SUSPENDED

    await until(lambda: all(map(waits, tasks)))


class OtherTurns:
    """Counts how often the event loop ran something else between the steps of some work.

    Attributes:
        count: steps after which something else ran before the next one.
    """

    def __init__(self) -> None:
        self.count = 0
        self._scheduled = False

    def step(self) -> None:
        """The work takes a step."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._ran)

    def _ran(self) -> None:
        self._scheduled = False
        self.count += 1

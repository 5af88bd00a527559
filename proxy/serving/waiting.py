"""Waiting for several things at once, and stopping when nobody waits any more."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from starlette.requests import Request

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed its connection while it was waited for."""


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which is cancelled at once when the client leaves.

    A plain response is not cancelled by the server when its client leaves, as a stream is. The request's body must have been read:
    what the client says after it can only be that it is gone.

    Raises:
        ClientGone: it left.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        abandon(task)
        abandon(gone)


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, in order; on the first error the rest is cancelled and that error raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def abandon(task: asyncio.Task[Any]) -> None:
    """Cancel a task whose outcome interests nobody any more, should it still run."""
    task.cancel()
    task.add_done_callback(lambda done: None if done.cancelled() else done.exception() and None)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

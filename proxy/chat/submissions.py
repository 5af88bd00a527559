"""What one request leaves in the store: its submissions, by which an equal request takes up its jobs, and perhaps its answer."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from proxy.backends.narrative.reservations import SubmissionRecord
from proxy.storage import Store
from proxy.wire.openai import ChatCompletion

ANSWER: Final = "answer"


class Submissions(Protocol):
    """See the module."""

    @property
    def record(self) -> SubmissionRecord:
        """Where the jobs are reserved and recorded."""

    async def answered(self, completion: ChatCompletion, headers: Mapping[str, str]) -> None:
        """The answer is known."""

    def close(self, *, delivered: bool) -> None:
        """Nobody works on the request any more. `delivered`: its client has the whole answer."""


class Unrecorded:
    """Submissions of a request that nobody can repeat."""

    @property
    def record(self) -> SubmissionRecord:
        return SubmissionRecord()

    async def answered(self, completion: ChatCompletion, headers: Mapping[str, str]) -> None:
        return None

    def close(self, *, delivered: bool) -> None:
        return None


UNRECORDED: Final = Unrecorded()


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a record is kept.

    Attributes:
        ttl_s: how long.
        patience_s: how long a reservation of another replica that is alive is waited for.
        max_answer_bytes: a longer answer is not kept, none when 0; its jobs are read again.
        spawn: runs something to its end, whatever is cancelled.
    """

    ttl_s: float
    patience_s: float
    max_answer_bytes: int
    spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]


class Recorded:
    """Submissions that are kept in a store.

    Args:
        name: of the record.
        seed: what the tags are made from; the same for everyone who works on the request.
        on_close: what becomes of the record when nobody works on the request any more.
    """

    def __init__(
        self, store: Store, name: str, seed: str, keeping: Keeping, on_close: Callable[[bool], None] = lambda _: None
    ) -> None:
        self._store = store
        self._name = name
        self._keeping = keeping
        self._on_close = on_close
        self.record = SubmissionRecord(store, name, seed, ttl_s=keeping.ttl_s, patience_s=keeping.patience_s)
        self._closed = False

    async def answered(self, completion: ChatCompletion, headers: Mapping[str, str]) -> None:
        if not self._keeping.max_answer_bytes:
            return
        text = json.dumps({"headers": dict(headers), "completion": completion})
        if len(text) <= self._keeping.max_answer_bytes:
            await self._store.put(self._name, ANSWER, text, ttl_s=self._keeping.ttl_s)

    def close(self, *, delivered: bool) -> None:
        if not self._closed:
            self._closed = True
            self._on_close(delivered)

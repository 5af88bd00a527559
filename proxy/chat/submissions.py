"""The submissions of one request, each made once: whoever works on the request, and whatever becomes of who made it.

Every submission has a place, `<choice>.<number>`, and a place holds one of

    nothing      nobody has submitted here, or Narrative refused it
    a promise    somebody is about to submit; if they were killed, the job is looked for by its tag before anything is sent
    a job        done: whoever comes later waits for that job

Planning and reading are pure, so that the jobs' ids are all that is needed to take a request up where somebody left it: the prompt comes
again with the client's own repeat, and neither it nor the answer's tokens have to be stored.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Protocol
from uuid import UUID, uuid4, uuid5

from proxy.errors import IdempotencyConflict, ProxyError
from proxy.storage import Store
from proxy.wire.openai import ChatCompletion

UNKNOWN: Final = "narrative_submit_unknown"
_LOOK_AGAIN_S: Final = 0.05
ANSWER: Final = "answer"


@dataclass(frozen=True, slots=True)
class Placed:
    """What a place holds.

    Attributes:
        form: how the request was put to the model; the answer must be read the same way.
        job: the id of the job; None while it is only promised.
        by: the replica that promises; "" when it does not know itself what became of the submission.
        nonce: tells promises apart.
        at: when the first promise was made, in seconds since 1970: the job cannot be older.
    """

    form: str
    job: str | None = None
    by: str = ""
    nonce: str = ""
    at: float = 0.0

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> "Placed":
        return cls(**json.loads(text))


Submit = Callable[[str, float | None], Awaitable[str]]
"""(form, since) → the id of a new job. With `since`, the job may exist since then: it is looked for first."""


class Submissions(Protocol):
    """See the module."""

    async def place(self, place: str, form: str, submit: Submit) -> Placed:
        """The job of a place, submitted if there is none.

        Raises:
            ProxyError: what `submit` raised.
            IdempotencyConflict: another replica has been submitting for too long.
        """

    def tag(self, place: str) -> str:
        """The unique tag of a place's submission: the same whoever makes it."""

    async def answered(self, completion: ChatCompletion, headers: Mapping[str, str]) -> None:
        """The answer is known."""

    def close(self, *, delivered: bool) -> None:
        """Nobody works on the request any more. `delivered`: its client has the whole answer."""


class Unrecorded:
    """Submissions of a request that nobody can repeat."""

    async def place(self, place: str, form: str, submit: Submit) -> Placed:
        return Placed(form, await submit(form, None))

    def tag(self, place: str) -> str:
        return str(uuid4())

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
        patience_s: how long a promise of another one who is alive is waited for.
        max_answer_bytes: a longer answer is not kept, none when 0; its jobs are read again.
        spawn: runs something to its end, whoever is cancelled.
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
        self._seed = UUID(seed)
        self._keeping = keeping
        self._on_close = on_close
        self._spent: set[str] = set()
        self._closed = False

    @property
    def spent(self) -> bool:
        """Whether a job exists, or may."""
        return bool(self._spent)

    def tag(self, place: str) -> str:
        return str(uuid5(self._seed, place))

    async def place(self, place: str, form: str, submit: Submit) -> Placed:
        loop = asyncio.get_running_loop()
        mine = Placed(form, by=self._store.replica, nonce=uuid4().hex, at=time.time())
        until = loop.time() + self._keeping.patience_s
        while True:
            text = await self._store.add(self._name, place, mine.text(), ttl_s=self._keeping.ttl_s)
            found = Placed.of(text)
            if found.job is not None:
                self._spent.add(place)
                return found
            if found.nonce == mine.nonce:
                return await self._make(place, mine, submit, since=None)
            if not await self._store.alive(found.by):
                heir = replace(mine, form=found.form, at=found.at)
                if await self._store.compare_and_set(self._name, place, text, heir.text()):
                    return await self._make(place, heir, submit, since=found.at)
            elif loop.time() >= until:
                raise IdempotencyConflict("The same request is being submitted elsewhere.", retry_after=1.0)
            await asyncio.sleep(_LOOK_AGAIN_S)

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

    async def _make(self, place: str, promise: Placed, submit: Submit, since: float | None) -> Placed:
        """Submit in a task of its own: a client that leaves must not leave an unknown outcome behind."""
        task = self._keeping.spawn(self._submit(place, promise, submit, since))
        result: Placed = await asyncio.shield(task)
        return result

    async def _submit(self, place: str, promise: Placed, submit: Submit, since: float | None) -> Placed:
        self._spent.add(place)
        try:
            job = await submit(promise.form, since)
        except BaseException as error:
            if isinstance(error, ProxyError) and error.code != UNKNOWN:
                self._spent.discard(place)
                await self._store.remove(self._name, place)
            else:
                unsure = replace(promise, by="", nonce="")
                await self._store.put(self._name, place, unsure.text(), ttl_s=self._keeping.ttl_s)
            raise
        placed = replace(promise, job=job)
        await self._store.put(self._name, place, placed.text(), ttl_s=self._keeping.ttl_s)
        return placed

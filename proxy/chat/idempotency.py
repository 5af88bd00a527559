"""A request that is repeated is not paid twice: the layer that decides whether a request is a repeat, and of what.

| the request | and the record of an equal one, by the same caller | what happens |
|---|---|---|
| has an `Idempotency-Key` | none of this key | a new record, kept for a day |
| | of this key, another body | 422 |
| | of this key, the same body | its answer again, or its jobs are waited for |
| says that it is a repeat (`x-stainless-retry-count`) | its client has gone, or its replica was killed | its jobs are waited for |
| anything else | whatever there is | a new record, forgotten when the answer is delivered |

Bodies are compared as parsed, apart from `stream` and `stream_options`. Records hold digests, ids of jobs, and for keys the answer.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self
from uuid import uuid4

import structlog

from proxy.access.authentication import Caller
from proxy.chat.submissions import ANSWER, UNRECORDED, Keeping, Recorded, Submissions
from proxy.errors import IdempotencyMismatch, ProxyError
from proxy.serving.upstream import DEFAULT_TERMS, Answer, Terms
from proxy.storage import Store
from proxy.translate.chunks import closing_chunks, opening_chunks
from proxy.translate.reply import Stamp
from proxy.wire.openai import ChatCompletion, ChatRequest, Chunk

log = structlog.get_logger(__name__)

Repeat = Literal["joined", "replayed", "adopted", "mismatch"]
_BODY: Final = "body"
_GONE: Final = ""
"""Stands for the replica of a request whose client has gone."""
_MOST_EQUAL: Final = 100
"""Equal requests, by one caller and without keys, that are remembered."""
_LOOK_AGAIN_S: Final = 0.1
_FAREWELL_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class IdempotencyOptions:
    """What is kept, and for how long. Seconds.

    Attributes:
        key_ttl_s: for how long a key is remembered.
        adopt: whether repeats without a key take up the jobs of clients that have gone.
        adopt_ttl_s: for how long after its client's last sign.
        max_answer_bytes: a longer answer is not kept with its key; its jobs are read again.
        patience_s: how long a repeat waits to learn what became of another replica.
    """

    key_ttl_s: float = 86_400.0
    adopt: bool = True
    adopt_ttl_s: float = 3_600.0
    max_answer_bytes: int = 1024 * 1024
    patience_s: float = 10.0


class RecordedUpstream(Protocol):
    """An upstream that makes its submissions through a record."""

    async def accept(
        self, request: ChatRequest, caller: Caller, terms: Terms, submissions: Submissions = UNRECORDED
    ) -> Answer: ...


class OncePerRequest:
    """An upstream in front of another one. An async context manager that owns the tasks which write records.

    Args:
        observe: told of every repeat.
    """

    def __init__(
        self,
        upstream: RecordedUpstream,
        store: Store,
        options: IdempotencyOptions,
        observe: Callable[[Repeat], None] = lambda _: None,
    ) -> None:
        self._upstream = upstream
        self._store = store
        self._options = options
        self._observe = observe
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let what is being written be written."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FAREWELL_S)

    async def accept(self, request: ChatRequest, caller: Caller, terms: Terms = DEFAULT_TERMS) -> Answer:
        """See `proxy.serving.upstream.Upstream`.

        Raises:
            IdempotencyMismatch: the key was used with another body.
            IdempotencyConflict: the same request is being submitted on another replica, and takes too long.
        """
        if terms.key is None and not self._options.adopt:
            return await self._upstream.accept(request, caller, terms)
        who = _digest(caller.id, caller.data_plane_id or "")
        body = _digest(json.dumps(_essence(request), sort_keys=True))
        if terms.key is None:
            return await self._accept_any(request, caller, terms, f"sent:{who}:{body}")
        return await self._accept_keyed(request, caller, terms, f"key:{who}:{_digest(terms.key)}", body)

    # ------------------------------------------------------------ with a key

    async def _accept_keyed(self, request: ChatRequest, caller: Caller, terms: Terms, name: str, body: str) -> Answer:
        mark = f"{body}:{uuid4()}"
        found = await self._store.add(name, _BODY, mark, ttl_s=self._options.key_ttl_s)
        if found.partition(":")[0] != body:
            self._observe("mismatch")
            raise IdempotencyMismatch(
                "This idempotency key was used with another request body.", param="Idempotency-Key"
            )
        if found != mark:
            kept = (await self._store.read(name)).get(ANSWER)
            self._observe("replayed" if kept else "joined")
            if kept:
                return Replayed(request, json.loads(kept))
        record = Recorded(self._store, name, found.partition(":")[2], self._keeping(keyed=True))
        return await self._through(record, request, caller, terms, lambda: self._store.remove(name))

    # ------------------------------------------------------------ without one

    async def _accept_any(self, request: ChatRequest, caller: Caller, terms: Terms, index: str) -> Answer:
        adopted = await self._adopt(index) if terms.is_retry else None
        if adopted is not None:
            self._observe("adopted")
            log.info("a repeat takes up the jobs of a client that has gone")
        record_id = adopted or str(uuid4())
        name = f"run:{record_id}"
        ttl = self._options.adopt_ttl_s
        await self._store.put(index, record_id, self._store.replica, ttl_s=ttl)

        def on_close(delivered: bool) -> None:
            self._spawn(self._forget(index, record_id) if delivered else self._leave(index, record_id))

        record = Recorded(self._store, name, record_id, self._keeping(keyed=False), on_close)
        return await self._through(record, request, caller, terms, lambda: self._forget(index, record_id))

    async def _adopt(self, index: str) -> str | None:
        """The record of an equal request whose client has gone; from now on it is this request's.

        Whether a replica was killed is known only some seconds after it was, and is waited for.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._options.patience_s
        while True:
            running = await self._store.read(index)
            for record_id, holder in running.items():
                if (holder == _GONE or not await self._store.alive(holder)) and await self._store.compare_and_set(
                    index, record_id, holder, self._store.replica
                ):
                    return record_id
            elsewhere = any(holder not in (_GONE, self._store.replica) for holder in running.values())
            if not elsewhere or loop.time() >= until:
                return None
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _leave(self, index: str, record_id: str) -> None:
        if len(await self._store.read(index)) > _MOST_EQUAL:
            await self._forget(index, record_id)
            return
        await self._store.put(index, record_id, _GONE, ttl_s=self._options.adopt_ttl_s)

    async def _forget(self, index: str, record_id: str) -> None:
        await self._store.remove(index, record_id)
        await self._store.remove(f"run:{record_id}")

    # ------------------------------------------------------------ both

    async def _through(
        self,
        record: Recorded,
        request: ChatRequest,
        caller: Caller,
        terms: Terms,
        forget: Callable[[], Coroutine[Any, Any, object]],
    ) -> Answer:
        try:
            return await self._upstream.accept(request, caller, terms, record)
        except ProxyError as error:
            if error.code == "narrative_job_lost":
                # Narrative has forgotten the job that this request stands for.
                await forget()
                return await self.accept(request, caller, terms)
            if record.record.job_may_exist:
                record.close(delivered=False)
            else:
                await forget()
            raise
        except BaseException:
            record.close(delivered=False)
            raise

    def _keeping(self, *, keyed: bool) -> Keeping:
        options = self._options
        if keyed:
            return Keeping(options.key_ttl_s, options.patience_s, options.max_answer_bytes, self._spawn)
        return Keeping(options.adopt_ttl_s, options.patience_s, 0, self._spawn)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # who waited for it was told


class Replayed:
    """An answer that was given before; see `proxy.serving.upstream.Answer`."""

    def __init__(self, request: ChatRequest, kept: Mapping[str, Any]) -> None:
        self._usage = bool(request.stream_options and request.stream_options.include_usage)
        self._completion: ChatCompletion = kept["completion"]
        self.headers: Mapping[str, str] = kept["headers"]

    async def whole(self) -> ChatCompletion:
        return self._completion

    async def batches(self) -> AsyncIterator[Sequence[Chunk]]:
        whole = self._completion
        stamp = Stamp(whole["id"], whole["created"], whole["model"], whole["system_fingerprint"])
        yield list(opening_chunks(stamp, len(whole["choices"]), include_usage=self._usage))
        for chunk in closing_chunks(whole, include_usage=self._usage):
            yield [chunk]

    def close(self, *, delivered: bool) -> None:
        return None


def _essence(request: ChatRequest) -> dict[str, Any]:
    return request.model_dump(mode="json", exclude={"stream", "stream_options"}, exclude_none=True, warnings=False)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]

"""A request that is repeated is not paid twice: the layer that decides whether a request is a repeat, and of what.

| the request | and what is known of an equal one, by the same caller | what happens |
|---|---|---|
| has an `Idempotency-Key` | none of this key | a new record, kept for a day |
| | of this key, another body | 422 |
| | of this key, the same body | its result again, or its jobs are waited for |
| any | its jobs failed some seconds ago | the same failure again |
| without a key | its answer was not delivered, or its replica was killed | its jobs are waited for |
| anything else | whatever there is | a new record, removed when the answer is delivered |

Requests are equal when the caller, the API and the canonical body are. A request has a record `run:<id>`: the fields of its submissions
(see `proxy.inference.backend.Record`), and of a keyed request its result. Requests without a key are found by an index `sent:<identity>`
of the ids of their records, each with the replica that works on it, or since when nobody does; a key has a record with the body's
digest and the id. Nothing of a prompt is stored.
"""

import asyncio
import hashlib
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, Final, Literal, Self
from uuid import UUID, uuid4

import structlog

from proxy.access.authentication import Caller
from proxy.errors import IdempotencyMismatch, PaidFailure, ProxyError
from proxy.inference.backend import Backend, Record, Report, Run, RunOptions
from proxy.inference.request import Request, ToolCall
from proxy.inference.result import Choice, Event, Result, Usage, fold, result_events
from proxy.storage import Store

log = structlog.get_logger(__name__)

Adopt = Literal["equal", "sdk_retry", "off"]
Repeat = Literal["joined", "replayed", "adopted", "mismatch", "failed_again"]
_BODY: Final = "body"
_RESULT: Final = "@result"
_FAILURE: Final = "@failure"
_UNDELIVERED: Final = "undelivered since "
_MAX_EQUAL: Final = 100
"""Equal requests, by one caller and without keys, that are remembered."""
_MAX_MESSAGE: Final = 2_000
_RECHECK_S: Final = 0.1
_WRITE_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Terms:
    """How a client wants its request to be handled, beside what it asks; read from its headers.

    Attributes:
        client: tells clients apart; a digest of their credentials.
        key: the idempotency key, if the client sent one.
        is_retry: the client's library says that it repeats a request.
        timeout_s: seconds the client waits for the whole answer.
    """

    client: str = ""
    key: str | None = None
    is_retry: bool = False
    timeout_s: float = math.inf


@dataclass(frozen=True, slots=True)
class IdempotencyOptions:
    """What is kept, and for how long. Seconds.

    Attributes:
        key_ttl_s: for how long a key is remembered.
        adopt: which requests without a key take up jobs whose answer was not delivered: every equal one, those that an SDK marks as
            its own retry, or none.
        adopt_ttl_s: for how long those jobs can be taken up.
        replay_failures_s: for how long an equal request gets the failure of a paid job again; 0 is off.
        max_answer_bytes: a longer result is not kept with its key; its jobs are read again.
        wait_s: how long an SDK's retry waits to learn whether another replica still works on its request.
    """

    key_ttl_s: float = 86_400.0
    adopt: Adopt = "equal"
    adopt_ttl_s: float = 3_600.0
    replay_failures_s: float = 15.0
    max_answer_bytes: int = 1024 * 1024
    wait_s: float = 10.0


@dataclass(frozen=True, slots=True)
class _Place:
    """What a request is known by.

    Attributes:
        id: of its record.
        index: of the requests equal to it, where it is listed; of a keyed request, the key's record.
        failure: the record of the failure of an equal request.
        resumed: an earlier request made the record.
        choices: how many answers are wanted.
    """

    id: str
    index: str
    keyed: bool
    resumed: bool
    choices: int
    failure: str = ""

    @property
    def record(self) -> str:
        """The name of its record."""
        return f"run:{self.id}"


class Idempotency:
    """The outermost layer in front of all backends. An async context manager that owns the tasks which write records.

    Args:
        observe: called for every repeat.
    """

    def __init__(
        self,
        backend: Backend,
        store: Store,
        options: IdempotencyOptions,
        observe: Callable[[Repeat], None] = lambda _: None,
    ) -> None:
        self._backend = backend
        self._store = store
        self._options = options
        self._observe = observe
        self._writes: dict[asyncio.Task[None], str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is being written."""
        if self._writes:
            await asyncio.wait(self._writes, timeout=_WRITE_TIMEOUT_S)

    async def start(self, request: Request, caller: Caller, terms: Terms, *, api: str, body: str) -> Run:
        """Have a request accepted, or find what became of an equal one. See `proxy.inference.backend.Backend.start`.

        Args:
            api: the name of the API that decoded the request, which encodes its answer.
            body: a digest of the canonical request body, without the fields that do not change the answer, such as `stream`.

        Raises:
            IdempotencyMismatch: the key was used with another body.
            IdempotencyConflict: the same request is being submitted on another replica, and takes too long.
            PaidFailure: an equal request failed a moment ago.
        """
        identity = _digest(terms.client, caller.id, caller.data_plane_id or "", api)
        if terms.key is not None:
            place = await self._keyed_place(f"key:{_digest(identity, terms.key)}", body, request.choices)
            if place.resumed and (replayed := await self._replay(place)):
                return replayed
        else:
            place = await self._place(f"sent:{_digest(identity, body)}", request.choices, is_retry=terms.is_retry)
        place = replace(place, failure=f"failed:{_digest(identity, body)}")
        if not place.resumed:
            await self._replay_failure(place)
        try:
            run = await self._backend.start(request, caller, self._run_options(place, terms))
        except ProxyError as error:
            await self.failed(place, error)
            raise
        except BaseException:
            self._spawn(place, self._leave(place))
            raise
        return RecordedRun(self, place, run)

    def _run_options(self, place: _Place, terms: Terms) -> RunOptions:
        resumable = place.keyed or self._options.adopt == "equal"
        return RunOptions(terms.timeout_s, Record(place.record, UUID(place.id), self._ttl_s(place), resumable))

    def _ttl_s(self, place: _Place) -> float:
        return self._options.key_ttl_s if place.keyed else self._options.adopt_ttl_s

    # ------------------------------------------------------------ what is known of equal requests

    async def _keyed_place(self, index: str, body: str, choices: int) -> _Place:
        mark = f"{body}:{uuid4()}"
        found = await self._store.add(index, _BODY, mark, ttl_s=self._options.key_ttl_s)
        known_body, _, id_ = found.rpartition(":")
        if known_body != body:
            self._observe("mismatch")
            raise IdempotencyMismatch(
                "This idempotency key was used with another request body.", param="Idempotency-Key"
            )
        return _Place(id_, index, keyed=True, resumed=found != mark, choices=choices)

    async def _replay(self, place: _Place) -> "ReplayedRun | None":
        """The stored result of a keyed request. Raises PaidFailure: it failed."""
        stored = await self._store.read(place.record)
        replayed = _replayed(stored.get(_RESULT))
        self._observe("replayed" if replayed or _FAILURE in stored else "joined")
        if _FAILURE in stored:
            raise PaidFailure(**json.loads(stored[_FAILURE]))
        return replayed

    async def _place(self, index: str, choices: int, *, is_retry: bool) -> _Place:
        adopt, adopted = self._options.adopt, None
        for write in [task for task, written in self._writes.items() if written == index]:
            await asyncio.wait({write}, timeout=_WRITE_TIMEOUT_S)  # an equal request's client left a moment ago
        if adopt == "equal" or (adopt == "sdk_retry" and is_retry):
            adopted = await self._adopt(index, is_retry)
        place = _Place(adopted or str(uuid4()), index, keyed=False, resumed=False, choices=choices)
        if adopt == "off":
            return place
        await self._store.put(index, place.id, self._store.replica, ttl_s=self._options.adopt_ttl_s)
        if adopted is None or not await self._submissions(place):
            return place
        self._observe("adopted")
        log.info("jobs of an undelivered answer are taken up")
        return replace(place, resumed=True)

    async def _adopt(self, index: str, is_retry: bool) -> str | None:
        """The id of an equal request whose answer was not delivered; from now on it is this request's.

        Whether a replica was killed is known only some seconds after it was; an SDK's retry waits for that.
        """
        until = time.monotonic() + self._options.wait_s
        while True:
            known = await self._store.read(index)
            for id_, holder in known.items():
                if await self._is_free(holder) and await self._store.compare_and_set(
                    index, id_, holder, self._store.replica
                ):
                    return id_
            elsewhere = {holder for holder in known.values() if not holder.startswith(_UNDELIVERED)}
            if not is_retry or elsewhere <= {self._store.replica} or time.monotonic() >= until:
                return None
            await asyncio.sleep(_RECHECK_S)

    async def _is_free(self, holder: str) -> bool:
        if not holder.startswith(_UNDELIVERED):
            return not await self._store.alive(holder)
        return float(holder.removeprefix(_UNDELIVERED)) + self._options.adopt_ttl_s > time.time()

    async def _replay_failure(self, place: _Place) -> None:
        """Raises PaidFailure: an equal request failed within `replay_failures_s`."""
        if self._options.replay_failures_s <= 0:
            return
        if stored := (await self._store.read(place.failure)).get(_FAILURE):
            self._observe("failed_again")
            await self._forget(place)
            raise PaidFailure(**json.loads(stored))

    # ------------------------------------------------------------ what becomes of this one

    def closed(self, place: _Place, *, delivered: bool) -> None:
        """Nobody works on a request any more that has not failed: its answer is forgotten, or its jobs are left to an equal request."""
        if not place.keyed:
            self._spawn(place, self._forget(place) if delivered else self._leave_jobs(place))

    async def failed(self, place: _Place, error: ProxyError) -> None:
        """Record how a request failed, and set the error's retry advice: whether jobs are left that a repeat takes up."""
        left = await self._submissions(place)
        if isinstance(error, PaidFailure) and not (left and place.choices > 1):
            await self._store_failure(place, error)
        elif left:
            error.advise_with_jobs(resumable=place.keyed or self._options.adopt == "equal")
            await self._leave(place)
        elif not (place.keyed and place.resumed):
            await self._forget(place)

    async def _store_failure(self, place: _Place, error: PaidFailure) -> None:
        message = error.message[:_MAX_MESSAGE]
        text = json.dumps({"message": message, "code": error.code, "param": error.param, "job_id": error.job_id})
        if self._options.replay_failures_s > 0:
            await self._store.put(place.failure, _FAILURE, text, ttl_s=self._options.replay_failures_s)
        if place.keyed:
            await self._store.put(place.record, _FAILURE, text, ttl_s=self._options.key_ttl_s)
        else:
            await self._forget(place)

    async def store_result(self, place: _Place, result: Result, report: Report) -> None:
        """Keep the result of a keyed request, if it is not too long."""
        most = self._options.max_answer_bytes
        if (
            not place.keyed
            or sum(len(choice.text or "") + len(choice.reasoning or "") for choice in result.choices) > most
        ):
            return
        text = json.dumps({"result": asdict(result), "report": asdict(replace(report, rate_limits={}))})
        if len(text) <= most:
            await self._store.put(place.record, _RESULT, text, ttl_s=self._options.key_ttl_s)

    async def _submissions(self, place: _Place) -> set[str]:
        """Names of the request's jobs that exist or may exist, and may be taken up."""
        return {field for field in await self._store.read(place.record) if not field.startswith("@")}

    async def _leave_jobs(self, place: _Place) -> None:
        await (self._leave(place) if await self._submissions(place) else self._forget(place))

    async def _leave(self, place: _Place) -> None:
        """Let an equal request take up the record. One with a key finds it anyway."""
        if place.keyed:
            return
        if self._options.adopt == "off" or len(await self._store.read(place.index)) > _MAX_EQUAL:
            await self._forget(place)
            return
        since = f"{_UNDELIVERED}{time.time():.0f}"
        await self._store.put(place.index, place.id, since, ttl_s=self._options.adopt_ttl_s)

    async def _forget(self, place: _Place) -> None:
        await self._store.remove(place.index, _BODY if place.keyed else place.id)
        await self._store.remove(place.record)

    def _spawn(self, place: _Place, write: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(write)
        self._writes[task] = place.index
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        del self._writes[task]
        if not task.cancelled() and (error := task.exception()):
            log.error("a record of a request was not written", error=type(error).__name__)


class RecordedRun:
    """A run whose outcome is recorded; see `proxy.inference.backend.Run`."""

    def __init__(self, layer: Idempotency, place: _Place, run: Run) -> None:
        self._layer = layer
        self._place = place
        self._run = run
        self._closed = False
        self._recorded = False

    @property
    def report(self) -> Report:
        return self._run.report

    async def result(self) -> Result:
        try:
            result = await self._run.result()
        except ProxyError as error:
            await self._failed(error)
            raise
        await self._layer.store_result(self._place, result, self.report)
        return result

    async def events(self) -> AsyncIterator[Iterable[Event]]:
        seen: list[Event] = []
        try:
            async for batch in self._run.events():
                yield _noted(batch, seen) if self._place.keyed else batch
        except ProxyError as error:
            await self._failed(error)
            raise
        if seen:
            await self._layer.store_result(self._place, fold(seen), self.report)

    def close(self, *, delivered: bool) -> None:
        if self._closed:
            return
        self._closed = True
        self._run.close(delivered=delivered)
        if not self._recorded:
            self._layer.closed(self._place, delivered=delivered)

    async def _failed(self, error: ProxyError) -> None:
        self._recorded = True
        await self._layer.failed(self._place, error)


class ReplayedRun:
    """The stored result of an earlier request; see `proxy.inference.backend.Run`."""

    def __init__(self, result: Result, report: Report) -> None:
        self._result = result
        self.report = report

    async def result(self) -> Result:
        return self._result

    async def events(self) -> AsyncIterator[Iterable[Event]]:
        yield result_events(self._result)

    def close(self, *, delivered: bool) -> None:
        """Nothing is held."""


def _noted(batch: Iterable[Event], seen: list[Event]) -> Iterator[Event]:
    for event in batch:
        seen.append(event)
        yield event


def _replayed(text: str | None) -> ReplayedRun | None:
    """The run of a stored result; None when there is none, or another version of the proxy stored it in another shape."""
    try:
        stored = json.loads(text or "{}")
        result, report = stored["result"], stored["report"]
        choices = [
            Choice(**{**choice, "tool_calls": tuple(ToolCall(**call) for call in choice["tool_calls"])})
            for choice in result["choices"]
        ]
        lists = {name: tuple(report[name]) for name in ("job_ids", "ignored", "adjusted")}
        usage = Usage(**result["usage"])
        return ReplayedRun(
            Result(**{**result, "choices": tuple(choices), "usage": usage}), Report(**{**report, **lists})
        )
    except (KeyError, TypeError):
        return None


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]

"""A request that is repeated is not paid twice: the layer that decides whether a request is a repeat, and of what.

| the request | and what is known of an equal one, by the same caller | what happens |
|---|---|---|
| has an `Idempotency-Key` | none of this key | a new record, kept for a day |
| | of this key, another body | 422 |
| | of this key, the same body | its result again, or its jobs are waited for |
| any | its jobs failed some seconds ago | the same failure again |
| without a key | its answer was not delivered, or its replica was killed | its jobs are waited for |
| of an agent's session | its answer was written some seconds ago | its jobs are read again |
| anything else | whatever there is | a new record, removed when the answer is delivered |

Requests are equal when the caller, the API and the canonical body are. A request has a record `run:<id>`: the fields of its submissions
(see `proxy.inference.backend.Record`), and of a keyed request its result. An index `sent:<identity>` tells what is known of requests
equal to one: the ids of the records of those without keys, each with the replica that works on it, or since when nobody does; and the
last failure. A key has a record with the body's digest and the id. Nothing of a prompt is stored.
"""

import asyncio
import hashlib
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal, Self
from uuid import UUID, uuid4

import structlog
from pydantic import TypeAdapter, ValidationError

from proxy.access.authentication import Caller
from proxy.errors import (
    ContextLengthExceeded,
    IdempotencyMismatch,
    InvalidRequest,
    ModelNotFound,
    PaidFailure,
    PermissionDenied,
    ProxyError,
)
from proxy.inference.backend import Backend, Record, Report, Run, RunOptions
from proxy.inference.request import Request
from proxy.inference.result import Event, Result, fold, result_events
from proxy.logs import current_request
from proxy.settings import StateSettings
from proxy.storage import Store
from proxy.tracing import current_span, link_current

log = structlog.get_logger(__name__)

_PAID_FAILURES: Final = (PaidFailure, ContextLengthExceeded, InvalidRequest, ModelNotFound, PermissionDenied)
"""Errors that a failed job leads to, and that the same request would lead to again."""
Repeat = Literal["joined", "replayed", "adopted", "mismatch", "failed_again"]
_BODY: Final = "body"
_RESULT: Final = "@result"
_FAILURE: Final = "@failure"
_TRACE: Final = "@trace"
_UNDELIVERED: Final = "undelivered since "
_DELIVERED: Final = "@delivered"
_DELIVERED_TTL_S: Final = 60.0
"""How long an agent may take to repeat a request whose answer was lost after its last byte was written; Claude Code waits 40 s at most."""
_MAX_EQUAL: Final = 100
"""Equal requests, by one caller and without keys, that are remembered."""
_MAX_MESSAGE: Final = 2_000
_NATIVE_EVENT: Final = 120
"""Characters of a short one, as JSON."""
_RETRY_WAIT_S: Final = 10.0
"""How long an SDK's retry waits to learn whether another replica still works on its request."""
_RECHECK_S: Final = 0.1
_WRITE_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Terms:
    """How a client wants its request to be handled, beside what it asks; read from its headers.

    Attributes:
        client: tells clients apart that need no key and so are one caller; a digest of the key that they send all the same.
        key: the idempotency key, if the client sent one.
        is_retry: the client's library says that it repeats a request.
        in_session: it is of an agent's session, where an equal request is always a repeat: the next one differs by what was answered.
        timeout_s: seconds the client waits for the whole answer.
        derived_ttl_s: not 0 where the client did not send the key: its API derived it from what tells a repeat from another request. It
            is remembered for so long, and no result is kept with it: its jobs are read again.
    """

    client: str = ""
    key: str | None = None
    is_retry: bool = False
    in_session: bool = False
    timeout_s: float = math.inf
    derived_ttl_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Place:
    """What a request is known by.

    Attributes:
        id: tells its record from others.
        index: the record of what is known of requests equal to it.
        key: the record of its key; None without one.
        resumed: an earlier request made the record.
        choices: how many answers are wanted.
        record: the record's name.
        keeps_answer: its result or failure is kept with its key, which the client sent.
        in_session: see `Terms`.
    """

    id: str
    index: str
    key: str | None
    resumed: bool
    choices: int
    record: str
    keeps_answer: bool = False
    in_session: bool = False


@dataclass(slots=True, eq=False)
class Idempotency:
    """The outermost layer in front of all backends. An async context manager that owns the tasks which write records.

    `options` say what is kept, and for how long; `observe` is called for every repeat; `clock` is in seconds since 1970.
    """

    backend: Backend
    store: Store
    options: StateSettings
    observe: Callable[[Repeat], None] = lambda _: None
    clock: Callable[[], float] = time.time
    _writes: dict[asyncio.Task[None], str] = field(default_factory=dict, init=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish what is being written."""
        if self._writes:
            await asyncio.wait(self._writes, timeout=_WRITE_TIMEOUT_S)

    async def start(  # noqa: PLR0913
        self,
        request: Request,
        caller: Caller,
        terms: Terms,
        *,
        api: str,
        body: str,
        accepted: Callable[[str], None] | None = None,
    ) -> Run:
        """Have a request accepted, or find what became of an equal one. See `proxy.inference.backend.Backend.start`.

        Args:
            api: the name of the API that decoded the request, which encodes its answer.
            body: a digest of the canonical request body, without the fields that do not change the answer, such as `stream`.
            accepted: called once or more, at the latest before this returns, as soon as only the upstream can still refuse the request.
                Its argument is the same for all repeats of a request, random, and known to nobody outside the server.

        Raises:
            IdempotencyMismatch: the key was used with another body.
            IdempotencyConflict: the same request is being submitted on another replica, and takes too long.
            ProxyError: that of an equal request whose job failed a moment ago.
        """
        options = self.options
        current_request().key_id = caller.id
        identity = (terms.client, caller.id, caller.data_plane_id or "", api)
        index = f"sent:{_digest(*identity, body)}"
        if terms.key is None:
            place = await self._place(index, request.choices, terms)
            ttl_s, resumable = options.adopt_ttl_s, options.adopt == "equal"
        else:
            ttl_s, resumable = terms.derived_ttl_s or options.idempotency_ttl_s, True
            place = await self._keyed_place(index, f"key:{_digest(*identity, terms.key)}", body, request.choices, terms)
            if place.resumed and (replayed := await self._replay(place)):
                if accepted is not None:
                    accepted(place.id)
                return replayed
        record = Record(place.record, UUID(place.id), ttl_s, resumable)
        known = None if accepted is None else partial(accepted, place.id)
        try:
            run = await self.backend.start(request, caller, RunOptions(terms.timeout_s, record, known))
        except ProxyError as error:
            await self.failed(place, error)
            raise
        except BaseException:
            self._spawn(place, self._leave(place))
            raise
        if known is not None:
            known()
        return RecordedRun(self, place, run)

    # ------------------------------------------------------------ what is known of equal requests

    async def _keyed_place(self, index: str, key: str, body: str, choices: int, terms: Terms) -> _Place:
        mark = f"{body}:{uuid4()}"
        found = await self.store.add(key, _BODY, mark, ttl_s=terms.derived_ttl_s or self.options.idempotency_ttl_s)
        known_body, _, id_ = found.rpartition(":")
        if known_body != body:
            self._repeated("mismatch")
            raise IdempotencyMismatch(
                "This idempotency key was used with another request body.", param="Idempotency-Key"
            )
        place = _Place(id_, index, key, found != mark, choices, f"run:{id_}", terms.derived_ttl_s == 0)
        if not place.resumed and (failure := self._failure(await self.store.read(index))):
            await self._forget(place)
            raise failure
        return place

    async def _replay(self, place: _Place) -> "ReplayedRun | None":
        """The stored result of a keyed request. Raises its error: it failed."""
        stored = await self.store.read(place.record)
        replayed = None
        if _RESULT in stored:
            # Another version of the proxy may have stored it in another shape: then its jobs are read again.
            with suppress(ValidationError):
                replayed = _STORED.validate_python(json.loads(stored[_RESULT]))
        self._repeated("replayed" if replayed or _FAILURE in stored else "joined")
        link_current(stored.get(_TRACE, ""))
        if _FAILURE in stored:
            raise _failure(json.loads(stored[_FAILURE]))
        return replayed

    async def _place(self, index: str, choices: int, terms: Terms) -> _Place:
        adopt, adopted, resumed = self.options.adopt, None, False
        if self._writes and (writes := [task for task, written in self._writes.items() if written == index]):
            await asyncio.wait(writes, timeout=_WRITE_TIMEOUT_S)  # an equal request's client left a moment ago
        if known := await self.store.read(index):
            if adopt == "equal" or (adopt == "sdk_retry" and terms.is_retry):
                adopted = await self._adopt(index, known, terms.is_retry)
            resumed = adopted is not None and bool(await self._submissions(f"run:{adopted}"))
            if not resumed and (failure := self._failure(known)):
                if adopted is not None:
                    await self.store.remove(index, adopted)
                raise failure
        if terms.in_session and adopted is None and adopt != "off":
            delivered = await self.store.get(f"{index}:delivered", _DELIVERED)
            if delivered is not None and await self._submissions(f"run:{delivered}"):
                adopted, resumed = delivered, True
        id_ = adopted or str(uuid4())
        if adopt != "off":
            await self.store.put(index, id_, self.store.replica, ttl_s=self.options.adopt_ttl_s)
        if resumed:
            self._repeated("adopted")
            log.info("jobs of an earlier request are taken up")
        return _Place(id_, index, None, resumed, choices, f"run:{id_}", in_session=terms.in_session)

    async def _adopt(self, index: str, known: Mapping[str, str], is_retry: bool) -> str | None:
        """The id of an equal request whose answer was not delivered; from now on it is this request's.

        Whether a replica was killed is known only some seconds after it was; an SDK's retry waits for that.
        """
        mine, until = self.store.replica, time.monotonic() + _RETRY_WAIT_S
        while True:
            elsewhere = False
            for id_, holder in known.items():
                if id_ == _FAILURE:
                    continue
                if holder.startswith(_UNDELIVERED):
                    since = float(holder.removeprefix(_UNDELIVERED))
                    free = since + self.options.adopt_ttl_s > self.clock()
                else:
                    free = not await self.store.alive(holder)
                    elsewhere |= holder != mine
                if free and await self.store.compare_and_set(index, id_, holder, mine):
                    return id_
            if not (is_retry and elsewhere) or time.monotonic() >= until:
                return None
            await asyncio.sleep(_RECHECK_S)
            known = await self.store.read(index)

    def _failure(self, known: Mapping[str, str]) -> ProxyError | None:
        """How an equal request failed within `replay_failures_s`."""
        stored = json.loads(known.get(_FAILURE, "{}"))
        if not stored or stored["until"] <= self.clock():
            return None
        self._repeated("failed_again")
        link_current(stored.get("trace", ""))
        return _failure(stored["error"])

    # ------------------------------------------------------------ what becomes of this one

    def closed(self, place: _Place, *, delivered: bool) -> None:
        """Nobody works on a request any more that has not failed: its answer is forgotten, or its jobs are left to an equal request."""
        if place.key is None:
            self._spawn(place, self._close(place, delivered=delivered))

    async def _close(self, place: _Place, *, delivered: bool) -> None:
        if delivered and place.in_session and self.options.adopt != "off":
            # For a while a repeat in the same session may take up the record; no other request may.
            await self.store.put(f"{place.index}:delivered", _DELIVERED, place.id, ttl_s=_DELIVERED_TTL_S)
            await self.store.put(place.record, _DELIVERED, "", ttl_s=_DELIVERED_TTL_S)
            await self.store.remove(place.index, place.id)
        elif not delivered and await self._submissions(place.record):
            await self._leave(place)
        else:
            await self._forget(place)

    async def failed(self, place: _Place, error: ProxyError) -> None:
        """Record how a request failed, and set the error's retry advice: whether jobs are left that a repeat takes up."""
        left = await self._submissions(place.record)
        lasting = isinstance(error, PaidFailure) or (error.job_may_exist and type(error) in _PAID_FAILURES)
        if lasting and not (left and place.choices > 1):
            await self._store_failure(place, error)
        elif left:
            error.advise_with_jobs(resumable=place.key is not None or self.options.adopt == "equal")
            await self._leave(place)
        elif place.key is None or not place.resumed:
            await self._forget(place)

    async def _store_failure(self, place: _Place, error: ProxyError) -> None:
        options, replay_s = self.options, self.options.replay_failures_s
        again: dict[str, str | None] = {"type": type(error).__name__, "message": error.message[:_MAX_MESSAGE]}
        again |= {"code": error.code, "param": error.param, "job_id": error.job_id}
        if replay_s > 0:
            text = json.dumps({"error": again, "until": self.clock() + replay_s, "trace": current_span()})
            # Other requests that the index lists must not be forgotten sooner.
            ttl_s = replay_s if options.adopt == "off" else max(replay_s, options.adopt_ttl_s)
            await self.store.put(place.index, _FAILURE, text, ttl_s=ttl_s)
        if place.keeps_answer:
            await self._keep(place, _FAILURE, json.dumps(again))
        else:
            await self._forget(place)

    async def store_result(self, place: _Place, result: Result, report: Report) -> None:
        """Keep the result of a keyed request, if it is not too long."""
        most = self.options.max_answer_bytes
        length = sum(len(choice.text or "") + len(choice.reasoning or "") for choice in result.choices)
        if length + _NATIVE_EVENT * len(result.native) > most:
            return
        text = json.dumps(ReplayedRun(result, replace(report, rate_limits={})), default=_fields)
        if len(text) <= most:
            await self._keep(place, _RESULT, text)

    async def _keep(self, place: _Place, field: str, text: str) -> None:
        ttl_s = self.options.idempotency_ttl_s
        if span := current_span():
            await self.store.put(place.record, _TRACE, span, ttl_s=ttl_s)
        await self.store.put(place.record, field, text, ttl_s=ttl_s)

    def _repeated(self, how: Repeat) -> None:
        self.observe(how)
        current_request().repeat = how

    async def _submissions(self, record: str) -> list[str]:
        """Names of a request's jobs that exist or may exist, and may be taken up."""
        return [field for field in await self.store.read(record) if not field.startswith("@")]

    async def _leave(self, place: _Place) -> None:
        """Let an equal request take up the record. One with a key finds it anyway."""
        if place.key is not None:
            return
        if self.options.adopt == "off" or len(await self.store.read(place.index)) > _MAX_EQUAL:
            await self._forget(place)
            return
        since = f"{_UNDELIVERED}{self.clock():.0f}"
        await self.store.put(place.index, place.id, since, ttl_s=self.options.adopt_ttl_s)

    async def _forget(self, place: _Place) -> None:
        if place.key is not None:
            await self.store.remove(place.key)
        elif self.options.adopt != "off":
            await self.store.remove(place.index, place.id)
        await self.store.remove(place.record)

    def _spawn(self, place: _Place, write: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(write)
        self._writes[task] = place.index
        task.add_done_callback(self._writes.pop)


@dataclass(slots=True)
class RecordedRun:
    """A run whose outcome is recorded; see `proxy.inference.backend.Run`."""

    layer: Idempotency
    place: _Place
    run: Run
    _recorded: bool = False

    @property
    def report(self) -> Report:
        """See `Run`."""
        return self.run.report

    async def result(self) -> Result:
        """See `Run`; a failure is recorded before it is raised."""
        try:
            result = await self.run.result()
        except ProxyError as error:
            self._recorded = True
            await self.layer.failed(self.place, error)
            raise
        if self.place.keeps_answer:
            await self.layer.store_result(self.place, result, self.report)
        return result

    async def events(self) -> AsyncIterator[Iterable[Event]]:
        """See `Run`; a failure is recorded before it is raised."""
        seen: list[Event] = []
        try:
            async for batch in self.run.events():
                yield _noted(batch, seen) if self.place.keeps_answer else batch
        except ProxyError as error:
            self._recorded = True
            await self.layer.failed(self.place, error)
            raise
        if seen:
            await self.layer.store_result(self.place, fold(seen), self.report)

    def close(self, *, delivered: bool) -> None:
        """See `Run`; in addition, the record is removed or left to an equal request."""
        self.run.close(delivered=delivered)
        if not self._recorded:
            self._recorded = True
            self.layer.closed(self.place, delivered=delivered)


@dataclass(frozen=True, slots=True)
class ReplayedRun:
    """The stored result of an earlier request; see `proxy.inference.backend.Run`."""

    whole: Result
    report: Report

    async def result(self) -> Result:
        """See `Run`."""
        return self.whole

    async def events(self) -> AsyncIterator[Iterable[Event]]:
        """See `Run`."""
        yield result_events(self.whole)

    def close(self, *, delivered: bool) -> None:
        """Nothing is held."""


_STORED: Final = TypeAdapter(ReplayedRun)


def _noted(batch: Iterable[Event], seen: list[Event]) -> Iterator[Event]:
    for event in batch:
        seen.append(event)
        yield event


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass. Unlike `asdict` this copies nothing: of 8,000 events that would take 60 ms."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _failure(stored: dict[str, Any]) -> ProxyError:
    """The error that was stored."""
    kind = next(kind for kind in _PAID_FAILURES if kind.__name__ == stored["type"])
    return kind(**{name: value for name, value in stored.items() if name != "type"})


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]

"""The protocol between APIs and backends: start a request, then read its result whole or as events."""

import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from proxy.access.authentication import Caller
from proxy.inference.request import Request
from proxy.inference.result import Event, Result


@dataclass(frozen=True, slots=True)
class Record:
    """Where the submissions of one request are recorded, so that an equal request takes them up.

    The record in storage has one field for each submission. The backend adds it before it submits, and removes it when the submission was
    refused, or when its job failed or its output is of no use. So when a request has failed, the fields that are left are the jobs that
    exist or may exist and that a repeat should take up: none if the repeat must pay anew. Retry advice follows from this alone
    (`proxy.inference.idempotency`); backends need not know of it. Field names beginning with `@` are not theirs.

    Attributes:
        name: of the record in storage.
        seed: the tags of its submissions derive from it: the same for everyone who works on the request.
        ttl_s: seconds the record lives.
        prefix: start of the names of its fields; a fallback's differs, so that a job of one model is not read as another one's.
        resumable: an equal request will find it, so that repeating a request whose outcome is unknown costs nothing.
        keep_failed: jobs whose failure no repeat can change stay recorded too, so that a repeat fails alike and does not pay again.
    """

    name: str
    seed: UUID
    ttl_s: float
    resumable: bool = True
    prefix: str = ""
    keep_failed: bool = False


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a request is to be run, beside what it asks.

    Attributes:
        timeout_s: seconds the client waits for the whole answer; the server's own deadline may be sooner.
        record: None where no equal request can follow.
        accepted: called by the backend as soon as only its upstream can still refuse the request, which may take long to answer.
        retry_s: seconds for which an upstream that is down is asked again; few where a fallback waits.
    """

    timeout_s: float = math.inf
    record: Record | None = None
    accepted: Callable[[], None] | None = None
    retry_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Report:
    """What a client may want to know about how its request was served; APIs render it as response headers.

    Attributes:
        model: the backend's id of the model.
        job_ids: Narrative jobs so far.
        ignored: request fields that had no effect.
        adjusted: what was changed, as sentences.
        unmatched: what is wrong with an answer that was delivered although it does not match its schema; empty when all is well.
        served_by: the name of the model or endpoint that served the request in place of the one asked for; empty when it is the same.
        rate_limits: OpenAI's `x-ratelimit-*` headers; empty where nothing is limited.
    """

    model: str = ""
    job_ids: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    unmatched: str = ""
    served_by: str = ""
    rate_limits: Mapping[str, str] = field(default_factory=dict)


class Run(Protocol):
    """A request that a backend has accepted.

    One of `result` and `events` is called, once, and `close` at the end, whatever happens. Cancelling either stops the waiting at
    once; a job that was submitted runs on.
    """

    @property
    def report(self) -> Report:
        """What is known by now; complete once the result is."""

    async def result(self) -> Result:
        """The whole answer. Raises ProxyError."""

    def events(self) -> AsyncIterator[Iterable[Event]]:
        """The events, in batches of those that are known at once; a batch is cut lazily. Raises ProxyError."""

    def close(self, *, delivered: bool) -> None:
        """Release what the run holds; further calls do nothing. Unless the whole answer was `delivered`, an equal request may take up
        its jobs."""


class Backend(Protocol):
    """Something that answers requests: an upstream, or a layer in front of one."""

    async def start(self, request: Request, caller: Caller, options: RunOptions) -> Run:
        """Have a request accepted: everything that can be refused, by the proxy or upstream, is refused here. Raises ProxyError."""

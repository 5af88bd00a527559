"""Answers requests by Narrative jobs: submit, wait, read, and where the output does not match, ask again.

Until `start` has returned, a request can be refused with a status of its own. After that jobs are paid for: when a choice has failed for
good its submissions are removed from the request's record, so that a repeat pays for that choice, and for no other.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import structlog

from proxy.access.authentication import Caller
from proxy.backends.narrative.attempts import LOST, Attempt, Attempts
from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.fallbacks import Fallbacks
from proxy.backends.narrative.jobs import Jobs
from proxy.backends.narrative.output import choice_of, invalid_output
from proxy.catalog import Catalog
from proxy.errors import Overloaded, PaidFailure, ProxyError
from proxy.inference.backend import Report, RunOptions
from proxy.inference.request import Request, Rules
from proxy.inference.result import Choice, Ended, Event, Result, Started, choice_events
from proxy.lifecycle import Lifecycle
from proxy.storage import Store

log = structlog.get_logger(__name__)
T = TypeVar("T")

_MAX_SHOWN: Final = 500


class BackendMetrics(Protocol):
    """What the backend counts; see `proxy.metrics.Metrics`."""

    def spent(self, stage: str, seconds: float) -> None:
        """Part of the time of a request that was answered."""

    def further_job(self, why: str) -> None:
        """Another job for the same answer: `repair`, `simpler_form` or `retry`."""


@dataclass(frozen=True, slots=True)
class NarrativeBackend:
    """The backend; one per process.

    Attributes:
        client: carries the proxy's own token; requests of callers with tokens of their own use a copy with theirs.
        store: where the submissions of requests are recorded.
        fallbacks: what has been learned of models and schemas while serving.
        deadline_s: seconds a request may take overall.
        repair_tries: further jobs for one choice when its output does not match.
    """

    catalog: Catalog
    rules: Rules
    client: NarrativeClient
    jobs: Jobs
    store: Store
    fallbacks: Fallbacks
    lifecycle: Lifecycle
    metrics: BackendMetrics
    deadline_s: float = 600.0
    repair_tries: int = 1

    async def start(self, request: Request, caller: Caller, options: RunOptions) -> "NarrativeRun":
        """Prepare a request and submit a job for each choice; see `proxy.inference.backend.Backend`."""
        run = NarrativeRun(self, request, caller, options)
        await self.lifecycle.unless_over(run.submit())
        return run


class NarrativeRun:
    """One request on its way; see `proxy.inference.backend.Run`."""

    def __init__(self, backend: NarrativeBackend, request: Request, caller: Caller, options: RunOptions) -> None:
        self._backend = backend
        self._request = request
        self._attempts = Attempts(backend, request, caller, options)
        self._created = int(time.time())
        self._first: list[Attempt] = []
        self._unmatched: list[str] = []

    @property
    def report(self) -> Report:
        prepared = self._attempts.preparation.latest
        return Report(
            model=self._attempts.preparation.card.id,
            job_ids=tuple(self._attempts.job_ids),
            ignored=prepared.ignored if prepared else (),
            adjusted=prepared.adjusted if prepared else (),
            unmatched="; ".join(dict.fromkeys(self._unmatched))[:_MAX_SHOWN],
        )

    async def submit(self) -> None:
        """Prepare the request and submit the first job of each choice.

        Raises:
            ProxyError: the request is refused, by the proxy or by Narrative.
        """
        prepared = await self._attempts.preparation.known_form()
        # The first one settles the form for all.
        first = await self._attempts.begin("0.first", prepared)
        others = (self._attempts.begin(f"{number}.first", first.prepared) for number in range(1, self._request.choices))
        self._first = [first, *await _all(others)]

    async def result(self) -> Result:
        """The whole answer. Raises ProxyError."""
        async with aclosing(self._choices()) as ended:
            choices = {number: choice async for number, choice in ended}
        started = self._started()
        ordered = tuple(choices[number] for number in sorted(choices))
        return Result(started.id, started.created, started.fingerprint, ordered, self._attempts.usage)

    async def events(self) -> AsyncIterator[Iterable[Event]]:
        """The events: those of each choice when its own job has ended. Raises ProxyError, after the choices that succeeded."""
        yield (self._started(),)
        async with aclosing(self._choices()) as ended:
            async for number, choice in ended:
                yield choice_events(number, choice)
        yield (Ended(self._attempts.usage),)

    def close(self, *, delivered: bool) -> None:
        """Nothing is held between calls: the record of the submissions belongs to who made it."""

    def _started(self) -> Started:
        fingerprint = hashlib.sha256(self._attempts.client.base_url.encode()).hexdigest()[:10]
        return Started(self._attempts.job_ids[0].replace("-", ""), self._created, fingerprint, self._request.choices)

    # ------------------------------------------------------------ choices

    async def _choices(self) -> AsyncGenerator[tuple[int, Choice], None]:
        """Each choice with its number when its jobs have ended; at the end the error of the first choice that failed, if one did."""
        started = time.perf_counter()
        tasks = {asyncio.create_task(self._choice(number)): number for number in range(self._request.choices)}
        pending = set(tasks)
        failed: dict[int, ProxyError] = {}
        try:
            while pending:
                waiting = asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                done, pending = await self._backend.lifecycle.unless_over(waiting)
                for task in sorted(done, key=tasks.__getitem__):
                    error = task.exception()
                    if isinstance(error, ProxyError):
                        failed[tasks[task]] = error
                        continue
                    yield tasks[task], task.result()
            if failed:
                raise self._failure([failed[number] for number in sorted(failed)])
            self._backend.metrics.spent("proxy", self._attempts.preparation.seconds)
        except Overloaded as error:
            error.job_id = error.job_id or next(iter(self._attempts.job_ids), None)
            raise
        except asyncio.CancelledError:
            log.info("the client left before the answer", jobs=self._attempts.job_ids)
            raise
        finally:
            for task in pending:
                task.cancel()
            self._backend.metrics.spent("narrative", time.perf_counter() - started)

    def _failure(self, errors: list[ProxyError]) -> ProxyError:
        """The error of a request some of whose choices failed: the first one's; with several choices it names every job."""
        error = errors[0]
        if self._request.choices > 1:
            error.message += (
                f" {len(errors)} of {self._request.choices} choices failed; jobs: {', '.join(self._attempts.job_ids)}."
            )
            error.job_id = ", ".join(self._attempts.job_ids)
        return error

    async def _choice(self, number: int) -> Choice:
        """One choice. It is tried once more when Narrative forgot the job that was taken up, or when it fails beside others."""
        attempt = self._first[number]
        try:
            try:
                return await self._answered(attempt)
            except PaidFailure as error:
                forgotten = error.code == LOST and not attempt.new
                if not forgotten and (self._request.choices == 1 or attempt.repaired):
                    raise
            if forgotten:
                self._attempts.job_ids.remove(attempt.job.id)  # another job answers, and gives the answer another id
            self._backend.metrics.further_job("retry")
            attempt = await self._attempts.begin(f"{number}.retry", attempt.prepared, attempt.slots)
            return await self._answered(attempt)
        except ProxyError as error:
            if attempt.job.ended or error.code == LOST:
                await self._attempts.release(attempt)
            raise

    async def _answered(self, attempt: Attempt) -> Choice:
        """The first output that matches, or the last one that may be delivered."""
        outcome = await self._attempts.read(attempt)
        for number in range(1, self._backend.repair_tries + 1):
            if outcome.finish_reason != "stop" or not outcome.parsed.errors:
                break
            try:
                outcome = await self._attempts.repair(attempt, number, outcome)
            except ProxyError:
                if outcome.parsed.undeliverable:
                    raise
                break
        if outcome.parsed.undeliverable:
            raise invalid_output(outcome)
        self._unmatched += (*outcome.parsed.errors, *outcome.parsed.notes)
        return choice_of(attempt.prepared.expected, outcome)


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, in order. On the first error the rest is cancelled, and that error raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]

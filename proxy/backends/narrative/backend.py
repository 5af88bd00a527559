"""Answers requests by Narrative jobs: submit, wait, read, and where the output does not match, ask again.

Until `start` has returned, a request can be refused with a status of its own. After that jobs are paid for. Each submission has a slot in
the request's record, from which an equal request takes the job up:

    0.first              the first job of choice 0
    0.first.simpler1     the same in a simpler form, after the upstream refused the output schema or the history
    0.first.repair1      the same conversation with what was wrong with the output
    0.retry              a second try of a choice that failed beside others (`n` > 1), with `.simpler1` and `.repair1` as above

When a choice has failed for good, its slots are removed from the record: a repeat pays for that choice, and for no other.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

import orjson
import structlog

from proxy.access.callers import Caller
from proxy.backends.narrative.answers import refusal_of
from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.failures import cause_of
from proxy.backends.narrative.fallbacks import Fallbacks, Form, simpler
from proxy.backends.narrative.jobs import Jobs
from proxy.backends.narrative.output import Outcome, choice_of, invalid_output, read_job, usage_of
from proxy.backends.narrative.prompt import Prepared, prepare, tool_names
from proxy.backends.narrative.reservations import SubmissionRecord
from proxy.backends.narrative.types import TAG_PREFIX, Job, JobState, RunRequest
from proxy.catalog import Catalog
from proxy.errors import InvalidApiKey, Overloaded, PaidFailure, ProxyError
from proxy.inference.backend import Report, RunOptions
from proxy.inference.request import Request, Rules
from proxy.inference.result import Choice, Ended, Event, Result, Started, Usage, choice_events
from proxy.lifecycle import Lifecycle
from proxy.schemas import Budget, is_heavy
from proxy.storage import Store

log = structlog.get_logger(__name__)
T = TypeVar("T")

_LOST: Final = "narrative_job_lost"
_HEAVY_BODY: Final = 262_144
"""Bytes of a request body from which preparing takes long even without schemas."""
_MAX_SIMPLER: Final = 2
_NO_JOB: Final = Job(id="none")
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


@dataclass(slots=True)
class _Attempt:
    """A try at one choice.

    Attributes:
        slot: of its first job.
        prepared: how the output of its job is read.
        slots: of all jobs of the choice so far, those of earlier tries too.
        job: the latest; none while it is being submitted.
        new: the latest was submitted for this request, and not taken up.
        repaired: a wrong output has been repaired, or that was tried.
    """

    slot: str
    prepared: Prepared
    slots: list[str] = field(default_factory=list)
    job: Job = _NO_JOB
    new: bool = True
    repaired: bool = False


class _Preparation:
    """Prepares one request for its model, in one form after another, within one budget of work."""

    def __init__(self, backend: NarrativeBackend, request: Request) -> None:
        self.card = backend.catalog.find(request.model)
        self.budget = Budget()
        self.seconds = 0.0
        self.latest: Prepared | None = None
        self._backend = backend
        self._request = request

    async def known_form(self) -> Prepared:
        """The request in the plainest form of which nothing is known to be refused."""
        return await self.in_form(self._backend.fallbacks.form(self.card, self._request, tool_names))

    async def in_form(self, form: Form) -> Prepared:
        """The request in a form; prepared in a worker thread when that takes long, which is abandoned with the request."""
        body_bytes, started = self._request.body_bytes, time.perf_counter()
        has_schemas = bool(self._request.tools) or self._request.output is not None
        try:
            if body_bytes < _HEAVY_BODY and not (has_schemas and is_heavy(body_bytes)):
                self.latest = self.now(form)
            else:
                self.latest = await asyncio.to_thread(self.now, form)
        except asyncio.CancelledError:
            self.budget.abandon()
            raise
        finally:
            self.seconds += time.perf_counter() - started
        return self.latest

    def now(self, form: Form) -> Prepared:
        """The request in a form, prepared where it is called."""
        return prepare(self._request, self.card, self._backend.rules, form, self.budget)

    async def simpler(self, prepared: Prepared, refusal: str) -> Prepared | None:
        """The request in a simpler form after a refusal, None when there is none that differs."""
        form = simpler(prepared.form, prepared.parts, cause_of(refusal), refusal)
        other = await self.in_form(form) if form else prepared
        if (other.messages, other.config) == (prepared.messages, prepared.config):
            self.latest = prepared
            return None
        self._backend.metrics.further_job("simpler_form")
        return other

    def learn(self, prepared: Prepared) -> None:
        """The form worked after a plainer one was refused."""
        self._backend.fallbacks.learn(self.card, prepared.form, prepared.parts)


class NarrativeRun:
    """One request on its way; see `proxy.inference.backend.Run`."""

    def __init__(self, backend: NarrativeBackend, request: Request, caller: Caller, options: RunOptions) -> None:
        self._backend = backend
        self._request = request
        self._caller = caller
        self._prefix, self._record = "", SubmissionRecord()
        if record := options.record:
            self._prefix = record.prefix
            self._record = SubmissionRecord(backend.store, record.name, str(record.seed), ttl_s=record.ttl_s)
        own, key = backend.client, caller.upstream_key
        self._client = own if key is None else own.with_api_key(key)
        timeout_s = min(backend.deadline_s, options.timeout_s)
        self._deadline = asyncio.get_running_loop().time() + timeout_s
        self._created = int(time.time())
        self._preparation = _Preparation(backend, request)
        self._first: list[_Attempt] = []
        self._job_ids: list[str] = []
        self._unmatched: list[str] = []
        self._usage = Usage()

    @property
    def report(self) -> Report:
        prepared = self._preparation.latest
        return Report(
            model=self._preparation.card.id,
            job_ids=tuple(self._job_ids),
            ignored=prepared.ignored if prepared else (),
            adjusted=prepared.adjusted if prepared else (),
            unmatched="; ".join(dict.fromkeys(self._unmatched))[:_MAX_SHOWN],
        )

    async def submit(self) -> None:
        """Prepare the request and submit the first job of each choice.

        Raises:
            ProxyError: the request is refused, by the proxy or by Narrative.
        """
        prepared = await self._preparation.known_form()
        # The first one settles the form for all.
        first = await self._submitted(f"{self._prefix}0.first", prepared)
        others = (
            self._submitted(f"{self._prefix}{number}.first", first.prepared)
            for number in range(1, self._request.choices)
        )
        self._first = [first, *await _all(others)]

    async def result(self) -> Result:
        """The whole answer. Raises ProxyError."""
        async with aclosing(self._choices()) as ended:
            choices = {number: choice async for number, choice in ended}
        started = self._started()
        ordered = tuple(choices[number] for number in sorted(choices))
        return Result(started.id, started.created, started.fingerprint, ordered, self._usage)

    async def events(self) -> AsyncIterator[Iterable[Event]]:
        """The events: those of each choice when its own job has ended. Raises ProxyError, after the choices that succeeded."""
        yield (self._started(),)
        async with aclosing(self._choices()) as ended:
            async for number, choice in ended:
                yield choice_events(number, choice)
        yield (Ended(self._usage),)

    def close(self, *, delivered: bool) -> None:
        """Nothing is held between calls: the record of the submissions belongs to who made it."""

    def _started(self) -> Started:
        fingerprint = hashlib.sha256(self._client.base_url.encode()).hexdigest()[:10]
        return Started(self._job_ids[0].replace("-", ""), self._created, fingerprint, self._request.choices)

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
            self._backend.metrics.spent("proxy", self._preparation.seconds)
        except Overloaded as error:
            error.job_id = error.job_id or self._job_ids[0]
            raise
        except asyncio.CancelledError:
            log.info("the client left before the answer", jobs=self._job_ids)
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
                f" {len(errors)} of {self._request.choices} choices failed; jobs: {', '.join(self._job_ids)}."
            )
            error.job_id = ", ".join(self._job_ids)
        return error

    async def _choice(self, number: int) -> Choice:
        """One choice. It is tried once more when Narrative forgot the job that was taken up, or when it fails beside others."""
        attempt = self._first[number]
        try:
            try:
                return await self._answered(attempt)
            except PaidFailure as error:
                forgotten = error.code == _LOST and not attempt.new
                if not forgotten and (self._request.choices == 1 or attempt.repaired):
                    raise
            self._backend.metrics.further_job("retry")
            attempt = await self._submitted(f"{self._prefix}{number}.retry", attempt.prepared, attempt.slots)
            return await self._answered(attempt)
        except ProxyError as error:
            if attempt.job.ended or error.code == _LOST:
                for slot in attempt.slots:
                    await self._record.release(slot)
            raise

    async def _answered(self, attempt: _Attempt) -> Choice:
        """The first output that matches, or the last one that may be delivered."""
        outcome = await self._read(attempt)
        for number in range(1, self._backend.repair_tries + 1):
            if outcome.finish_reason != "stop" or not outcome.parsed.errors:
                break
            try:
                outcome = await self._repaired(attempt, f"{attempt.slot}.repair{number}", outcome)
            except ProxyError:
                if outcome.parsed.undeliverable:
                    raise
                break
        if outcome.parsed.undeliverable:
            raise invalid_output(outcome)
        self._unmatched += (*outcome.parsed.errors, *outcome.parsed.notes)
        return choice_of(attempt.prepared.expected, outcome)

    async def _read(self, attempt: _Attempt) -> Outcome:
        """The outcome of an attempt's job; where its schema or history was refused, of a job in a simpler form."""
        plain = attempt.prepared.form
        await self._wait(attempt)
        for number in range(1, _MAX_SIMPLER + 1):
            if attempt.job.state != JobState.FAILED:
                break
            other = await self._preparation.simpler(attempt.prepared, self._failures(attempt.job))
            if other is None:
                break
            await self._submit(attempt, f"{attempt.slot}.simpler{number}", other)
            await self._wait(attempt)
        outcome = await self._parsed(attempt)
        if attempt.prepared.form != plain:
            self._preparation.learn(attempt.prepared)
        return outcome

    async def _repaired(self, attempt: _Attempt, slot: str, wrong: Outcome) -> Outcome:
        """The outcome of one more job, which is shown the wrong output and its errors."""
        self._backend.metrics.further_job("repair")
        prepared, attempt.repaired = attempt.prepared, True
        output = wrong.job.result.structured_output if wrong.job.result else None
        await self._submit(attempt, slot, prepared.repair(output, wrong.parsed.errors))
        attempt.prepared = prepared
        await self._wait(attempt)
        return await self._parsed(attempt)

    # ------------------------------------------------------------ one job

    async def _wait(self, attempt: _Attempt) -> None:
        """Wait until the attempt's job has ended, whatever its end."""
        try:
            job = await self._backend.jobs.wait(attempt.job, self._client, deadline=self._deadline)
        except ProxyError as error:
            if error.code == _LOST:
                raise PaidFailure(error.message, code=_LOST, job_id=attempt.job.id) from error
            raise
        attempt.job = job
        if job.result is not None:
            self._usage += usage_of(job.result.usage)

    async def _parsed(self, attempt: _Attempt) -> Outcome:
        job, expected = attempt.job, attempt.prepared.expected
        text = self._failures(job)
        started = time.perf_counter()
        try:
            if job.result is not None and not expected.is_text and _is_heavy_value(job.result.structured_output):
                return await asyncio.to_thread(read_job, expected, job, text, self._preparation.budget)
            return read_job(expected, job, text, self._preparation.budget)
        finally:
            self._preparation.seconds += time.perf_counter() - started

    def _failures(self, job: Job) -> str:
        return self._client.redact("; ".join(job.failures))

    # ------------------------------------------------------------ submitting

    async def _submitted(self, slot: str, prepared: Prepared, slots: Iterable[str] = ()) -> _Attempt:
        """The first job of an attempt. A refused form is replaced by simpler ones: nothing was enqueued, so that this costs nothing."""
        attempt = _Attempt(slot, prepared, [*slots])
        while True:
            try:
                await self._submit(attempt, slot, attempt.prepared)
            except ProxyError as error:
                refusal = refusal_of(error)
                other = await self._preparation.simpler(attempt.prepared, refusal.words) if refusal else None
                if other is None:
                    raise
                attempt.prepared = other
                continue
            if attempt.new and attempt.prepared.form != prepared.form:
                self._preparation.learn(attempt.prepared)
            return attempt

    async def _submit(self, attempt: _Attempt, slot: str, prepared: Prepared) -> None:
        """Submit a job, or take up the one that the slot holds in whichever form it was submitted, and make it the attempt's."""
        plane, tag = self._caller.plane(), f"{TAG_PREFIX}{self._record.tag(slot)}"
        prepared_by_form = {str(prepared.form): prepared}

        def body(form: str) -> RunRequest:
            if form not in prepared_by_form:
                prepared_by_form[form] = self._preparation.now(Form.parse(form))
            return prepared_by_form[form].body(plane, tag)

        attempt.job = _NO_JOB
        try:
            submission = await self._backend.jobs.submit_once(
                body,
                str(prepared.form),
                self._client,
                record=self._record,
                slot=slot,
                deadline=self._deadline,
                caller=self._caller.id,
            )
        except ProxyError as error:
            if error.code == "narrative_unauthorized" and self._caller.upstream_key is not None:
                raise InvalidApiKey("Narrative does not accept the API key provided.") from error
            raise
        if submission.form != str(prepared.form):
            prepared = await self._preparation.in_form(Form.parse(submission.form))
        attempt.prepared, attempt.job, attempt.new = prepared, submission.job, submission.new
        attempt.slots.append(slot)
        self._job_ids.append(submission.job.id)


def _is_heavy_value(value: Any) -> bool:
    try:
        return is_heavy(len(orjson.dumps(value)))
    except TypeError:  # integers beyond 64 bits, lone surrogates
        return True


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, in order. On the first error the rest is cancelled, and that error raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]

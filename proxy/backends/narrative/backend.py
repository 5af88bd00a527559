"""Answers requests by Narrative jobs: prepare, submit, wait, read, and where the output does not match, ask again.

Until `start` has returned, a request can be refused with a status of its own. After that jobs are paid for: when a choice has failed for
good its submissions are removed from the request's record, so that a repeat pays for that choice, and for no other. Each submission has a
slot in that record, from which an equal request takes the job up:

    0.first              the first job of choice 0
    0.first.simpler1     the same in a simpler form, after the upstream refused the output schema or the history
    0.first.repair1      the same conversation with what was wrong with the output
    0.retry              a second try of a choice that failed, with `.simpler1` and `.repair1` as above
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar

import structlog

from proxy.access.authentication import Caller
from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.failures import cause_of, refusal_of
from proxy.backends.narrative.fallbacks import Fallbacks, simpler
from proxy.backends.narrative.jobs import Jobs
from proxy.backends.narrative.output import Outcome, choice_of, invalid_output, read_job, usage_of
from proxy.backends.narrative.prompt import PLAIN, Form, Prepared, form_text, prepare
from proxy.backends.narrative.submit import PendingSubmission, SubmissionRecord
from proxy.backends.narrative.types import TAG_PREFIX, Job, JobState, RunRequest
from proxy.catalog import Catalog
from proxy.errors import InvalidApiKey, Overloaded, PaidFailure, ProxyError
from proxy.inference.backend import Report, RunOptions
from proxy.inference.request import Request, Rules
from proxy.inference.result import Choice, Ended, Event, Result, Started, Usage, choice_events
from proxy.lifecycle import Lifecycle, UnlessOver
from proxy.logs import current_request
from proxy.schemas import Budget, is_heavy
from proxy.storage import Ledger
from proxy.tracing import JobSpan, Tracer, job_span

log = structlog.get_logger(__name__)
T = TypeVar("T")

_LOST: Final = "narrative_job_lost"
_MAX_SIMPLER: Final = 2
_MAX_SHOWN: Final = 500
_NO_JOB: Final = Job(id="none")
_NO_USAGE: Final = Usage()
_UNTRACED: Final = nullcontext()


@dataclass(frozen=True, slots=True)
class NarrativeBackend:
    """The backend; one per process.

    Attributes:
        client: carries the proxy's own token; requests of callers with tokens of their own use a copy with theirs.
        store: where the submissions of requests are recorded.
        spent: called with a stage and seconds: part of the time of a request that was answered.
        further_job: called with `repair`, `simpler_form` or `retry` before another job for the same answer.
        deadline_s: seconds a request may take overall.
        repair_tries: further jobs for one choice when its output does not match.
        tracer: makes a span of each job; None where nobody traces.
    """

    catalog: Catalog
    rules: Rules
    client: NarrativeClient
    jobs: Jobs
    store: Ledger
    fallbacks: Fallbacks
    lifecycle: Lifecycle
    spent: Callable[[str, float], None]
    further_job: Callable[[str], None]
    deadline_s: float = 600.0
    repair_tries: int = 1
    tracer: Tracer | None = None

    async def start(self, request: Request, caller: Caller, options: RunOptions) -> "NarrativeRun":
        """Prepare a request and submit a job for each choice; see `proxy.inference.backend.Backend`."""
        if request.refusal is not None:
            raise request.refusal
        run = NarrativeRun(self, request, caller, options)
        with UnlessOver(self.lifecycle):
            await run.submit()
        return run


@dataclass(slots=True, eq=False)
class _Try:
    """A try at one choice: submits its jobs one after another, waits for them and reads them.

    Attributes:
        slot: of its first job.
        prepared: how the output of its job is read.
        slots: of all jobs of the choice so far, those of an earlier try too.
        job: the latest; none while it is being submitted.
        new: the latest was submitted for this request, and not taken up.
        span: of the latest; None where nobody traces.
        repaired: a wrong output has been repaired, or that was tried.
    """

    run: "NarrativeRun"
    slot: str
    prepared: Prepared
    slots: list[str] = field(default_factory=list)
    job: Job = _NO_JOB
    new: bool = True
    span: JobSpan | None = None
    repaired: bool = False

    async def begin(self) -> Self:
        """Submit the first job. A refused form is replaced by simpler ones: nothing was enqueued, so that this costs nothing."""
        form = self.prepared.form
        while True:
            try:
                await self._submit(self.slot, self.prepared)
            except ProxyError as error:
                refusal = refusal_of(error)
                other = await self.run.simpler(self.prepared, refusal.words) if refusal else None
                if other is None:
                    raise
                self.prepared = other
                continue
            if self.new and self.prepared.form != form:
                self.run.learn(self.prepared)
            return self

    async def outcome(self) -> Outcome:
        """The first output that matches, or the last one that may be delivered.

        A job whose schema or history was refused is followed by one in a simpler form, and an output that does not match by a repair.
        """
        run, form = self.run, self.prepared.form
        failures = await self._wait()
        for number in range(1, _MAX_SIMPLER + 1):
            if self.job.state != JobState.FAILED:
                break
            other = await run.simpler(self.prepared, failures)
            if other is None:
                break
            await self._submit(f"{self.slot}.simpler{number}", other)
            failures = await self._wait()
        outcome = await self._read(failures)
        if self.prepared.form != form:
            run.learn(self.prepared)
        for number in range(1, run.backend.repair_tries + 1):
            if outcome.finish_reason != "stop" or not outcome.parsed.errors:
                break
            try:
                run.backend.further_job("repair")
                self.repaired = True
                await self._submit(f"{self.slot}.repair{number}", self.prepared, wrong=outcome)
                outcome = await self._read(await self._wait())
            except ProxyError:
                if outcome.parsed.undeliverable:
                    raise
                break
        if outcome.parsed.undeliverable:
            raise invalid_output(outcome)
        return outcome

    async def _submit(self, slot: str, prepared: Prepared, wrong: Outcome | None = None) -> None:
        """Submit a job, or take up the one that the slot holds in whichever form it was submitted.

        Args:
            wrong: the outcome that is shown to the model for a repair.
        """
        run, by_form = self.run, {form_text(prepared.form): prepared}

        async def _in_form(form: str) -> Prepared:
            if form not in by_form:
                by_form[form] = await run.prepare(Form(filter(None, form.split(","))))
            return by_form[form]

        async def _body(form: str) -> RunRequest:
            made = await _in_form(form)
            if wrong is not None:
                output = wrong.job.result.structured_output if wrong.job.result else None
                made = made.repair(output, wrong.parsed.errors)
            if self.span:
                self.span.asks(made.messages)
            return made.body(run.caller.plane(), f"{TAG_PREFIX}{run.record.tag(slot)}")

        self.job = _NO_JOB
        if tracer := run.backend.tracer:
            if self.span:
                self.span.end("refused")  # by a job that failed, where one in another form follows
            self.span = job_span(tracer, prepared.model, run.request)
        pending = PendingSubmission(
            _body,
            form_text(prepared.form),
            run.client,
            run.record,
            slot,
            run.deadline,
            run.retry_until,
            run.caller.id,
            span=self.span.ids if self.span else "",
        )
        try:
            with self.span or _UNTRACED:
                submission = await run.backend.jobs.submit_once(pending)
        except ProxyError as error:
            if error.code == "narrative_unauthorized" and run.caller.upstream_key is not None:
                raise InvalidApiKey("Narrative does not accept the API key provided.") from error
            raise
        self.prepared = await _in_form(submission.form)
        self.job, self.new = submission.job, submission.new
        self.slots.append(slot)
        if self.span:
            self.span.submitted(submission, pending.queued)
        current_request().queue += pending.queued
        run.ids.append(submission.job.id)

    async def _wait(self) -> str:
        """Wait until the job has ended, whatever its end. Returns the causes of its failure as one text, free of secrets."""
        run = self.run
        try:
            with self.span or _UNTRACED:
                self.job = job = await run.backend.jobs.wait(self.job, run.client, deadline=run.deadline)
        except ProxyError as error:
            if error.code == _LOST:
                raise PaidFailure(error.message, code=_LOST, job_id=self.job.id) from error
            raise
        if self.span:
            self.span.noticed(job)
        if job.result is not None:
            run.usage = usage_of(job.result.usage, run.usage)
        return run.client.redact("; ".join(job.failures)) if job.failures else ""

    async def _read(self, failures: str) -> Outcome:
        """What came of the ended job; see `read_job`. Raises ProxyError."""
        expected, result = self.prepared.expected, self.job.result
        output = result.structured_output if result else None
        only_text = expected.is_text and isinstance(output, dict) and {*map(type, output.values())} == {str}
        heavy = result is not None and is_heavy(result.size) and not only_text
        with self.span or _UNTRACED:
            outcome = await self.run.compute(heavy, read_job, expected, self.job, failures)
        if self.span:
            finish = "tool_calls" if outcome.parsed.calls else outcome.finish_reason
            self.span.end(finish_reason=finish, result=result)
        return outcome


class NarrativeRun:
    """One request on its way; see `proxy.inference.backend.Run`. Preparing and reading share one budget of work.

    Attributes:
        client: carries the caller's token, if it brought one.
        record: of the submissions.
        deadline, retry_until: loop time.
        latest: the latest form of the request; None until the first one is prepared.
        seconds: spent on preparing and reading.
        ids: of the jobs, in the order of their submission.
        usage: of all jobs that have ended.
    """

    def __init__(self, backend: NarrativeBackend, request: Request, caller: Caller, options: RunOptions) -> None:
        now = asyncio.get_running_loop().time()
        self.backend = backend
        self.request = request
        self.caller = caller
        key = caller.upstream_key
        self.client = backend.client if key is None else backend.client.with_api_key(key)
        self.record = SubmissionRecord(backend.store, options.record)
        self.deadline = now + min(backend.deadline_s, options.timeout_s)
        self.retry_until = now + options.retry_s
        self.latest: Prepared | None = None
        self.seconds = 0.0
        self.ids: list[str] = []
        self.usage = _NO_USAGE
        self._card = backend.catalog.match(request.model).card
        self._budget = Budget()
        self._accepted = options.accepted
        self._keep_failed = options.record is not None and options.record.keep_failed
        self._created = int(time.time())
        self._tries: list[_Try] = []
        self._unmatched: list[str] = []

    @property
    def report(self) -> Report:
        """See `proxy.inference.backend.Run`. The jobs are named in the order of their submission."""
        prepared = self.latest
        return Report(
            model=self._card.id,
            job_ids=tuple(self.ids),
            ignored=prepared.ignored if prepared else (),
            adjusted=prepared.adjusted if prepared else (),
            unmatched="; ".join(dict.fromkeys(self._unmatched))[:_MAX_SHOWN],
        )

    async def submit(self) -> None:
        """Prepare the request, in the plainest form of which nothing is known to be refused, and submit the first job of each choice.

        Raises:
            ProxyError: the request is refused, by the proxy or by Narrative.
        """
        fallbacks = self.backend.fallbacks
        form = fallbacks.form(self._card, self.request) if fallbacks.refused else PLAIN
        prepared = await self.prepare(form)
        if self._accepted is not None:
            self._accepted()
        first = await _Try(self, "0.first", prepared).begin()
        self._tries = [first]
        if self.request.choices == 1:
            return
        try:
            async with asyncio.TaskGroup() as group:  # the first one settled the form for all
                others = [
                    group.create_task(_Try(self, f"{number}.first", first.prepared).begin())
                    for number in range(1, self.request.choices)
                ]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        self._tries += [task.result() for task in others]

    async def result(self) -> Result:
        """The whole answer. Raises ProxyError."""
        if self.request.choices == 1:  # without the generator, since thousands wait here
            with _Waiting(self), UnlessOver(self.backend.lifecycle):
                choices = [await self._choice(0)]
        else:
            choices = [choice for _, choice in sorted([each async for each in self._choices()])]
        started = self._started()
        return Result(started.id, started.created, started.fingerprint, tuple(choices), self.usage)

    async def events(self) -> AsyncIterator[Iterable[Event]]:
        """The events: those of each choice when its own job has ended. Raises ProxyError, after the choices that succeeded."""
        yield (self._started(),)
        if self.request.choices == 1:
            with _Waiting(self), UnlessOver(self.backend.lifecycle):
                choice = await self._choice(0)
            yield choice_events(0, choice)
        else:
            async with aclosing(self._choices()) as ended:
                async for number, choice in ended:
                    yield choice_events(number, choice)
        yield (Ended(self.usage),)

    def close(self, *, delivered: bool) -> None:
        """Nothing is held between calls but spans: the record of the submissions belongs to who made it."""
        for attempt in self._tries:
            if attempt.span:
                attempt.span.end("abandoned")
        self._tries.clear()  # which refer to the run: without this cycle it is freed at once

    def _started(self) -> Started:
        fingerprint = hashlib.sha256(self.client.base_url.encode()).hexdigest()[:10]
        return Started(self.ids[0].replace("-", ""), self._created, fingerprint, self.request.choices)

    async def _choices(self) -> AsyncGenerator[tuple[int, Choice], None]:
        """Each choice with its number when its jobs have ended; at the end the error of the first one that failed, naming every job."""
        tasks = {asyncio.create_task(self._choice(number)): number for number in range(self.request.choices)}
        pending, failed = set(tasks), dict[int, ProxyError]()
        try:
            with _Waiting(self):
                while pending:
                    with UnlessOver(self.backend.lifecycle):
                        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    for task in sorted(done, key=tasks.__getitem__):
                        if isinstance(error := task.exception(), ProxyError):
                            failed[tasks[task]] = error
                        else:
                            yield tasks[task], task.result()
                if failed:
                    error, jobs = failed[min(failed)], ", ".join(self.ids)
                    counted = f"{len(failed)} of {self.request.choices} choices failed"
                    error.message = f"{error.message.removesuffix('.')}. {counted}; jobs: {jobs}."
                    error.job_id = jobs
                    raise error
        finally:
            for task in tasks:
                task.cancel()

    async def _choice(self, number: int) -> Choice:
        """One choice. It is tried once more when Narrative forgot the job that was taken up, or when it fails beside others."""
        attempt = self._tries[number]
        try:
            try:
                outcome = await attempt.outcome()
            except PaidFailure as error:
                forgotten = error.code == _LOST and not attempt.new
                if not forgotten and (self.request.choices == 1 or attempt.repaired):
                    raise
                if forgotten:
                    self.ids.remove(attempt.job.id)  # another job answers, and gives the answer another id
                self.backend.further_job("retry")
                again = _Try(self, f"{number}.retry", attempt.prepared, [*attempt.slots])
                attempt = self._tries[number] = await again.begin()
                outcome = await attempt.outcome()
            choice = choice_of(attempt.prepared.expected, outcome)
            said_nothing = choice.finish_reason == "stop" and not (choice.tool_calls or choice.stop_sequence)
            if self.request.needs_reply and said_nothing and not (choice.text or "").strip():
                message = f"The answer of Narrative job {attempt.job.id} is empty."
                raise PaidFailure(message, code="narrative_invalid_output", job_id=attempt.job.id)
        except ProxyError as error:
            if (attempt.job.ended or error.code == _LOST) and not (self._keep_failed and error.retry_after is None):
                for slot in attempt.slots:
                    await self.record.release(slot)
            raise
        self._unmatched += (*outcome.parsed.errors, *outcome.parsed.notes)
        return choice

    async def prepare(self, form: Form) -> Prepared:
        """The request in a form. Raises ProxyError: it cannot be expressed."""
        request, rules = self.request, self.backend.rules
        self.latest = await self.compute(request.is_heavy, prepare, request, self._card, rules, form)
        return self.latest

    async def simpler(self, prepared: Prepared, refusal: str) -> Prepared | None:
        """The request in a simpler form after a refusal, None when there is none that differs."""
        form = simpler(prepared.form, prepared.expected.parts, cause_of(refusal), refusal)
        other = await self.prepare(form) if form else prepared
        if (other.messages, other.config) == (prepared.messages, prepared.config):
            self.latest = prepared
            return None
        self.backend.further_job("simpler_form")
        return other

    def learn(self, prepared: Prepared) -> None:
        """Remember a form that worked after a plainer one was refused."""
        self.backend.fallbacks.learn(self._card, self.request, prepared.form)

    async def compute(self, heavy: bool, work: Callable[..., T], *arguments: object) -> T:
        """Prepare or read within the request's budget; heavy work in a worker thread, which is abandoned with the request."""
        started = time.perf_counter()
        try:
            arguments = (*arguments, self._budget)
            return await asyncio.to_thread(work, *arguments) if heavy else work(*arguments)
        except asyncio.CancelledError:
            self._budget.abandon()
            raise
        finally:
            seconds = time.perf_counter() - started
            self.seconds += seconds
            current_request().proxy += seconds


@dataclass(slots=True)
class _Waiting:
    """Around the time in which a run waits for its jobs and reads them: counts it, and has errors name a job."""

    run: NarrativeRun
    started: float = field(default_factory=time.perf_counter)

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        ids, spent = self.run.ids, self.run.backend.spent
        if error is None:
            spent("proxy", self.run.seconds)
        elif isinstance(error, Overloaded):
            error.job_id = error.job_id or next(iter(ids), None)
        elif isinstance(error, asyncio.CancelledError):
            log.info("the client left before the answer", jobs=ids)
        seconds = time.perf_counter() - self.started
        spent("narrative", seconds)
        current_request().narrative += seconds

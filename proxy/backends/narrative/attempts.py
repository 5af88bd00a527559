"""Tries at one choice: the request in a form, its job submitted or taken up, waited for and read.

Each submission has a slot in the request's record, from which an equal request takes the job up:

    0.first              the first job of choice 0
    0.first.simpler1     the same in a simpler form, after the upstream refused the output schema or the history
    0.first.repair1      the same conversation with what was wrong with the output
    0.retry              a second try of a choice that failed, with `.simpler1` and `.repair1` as above
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from proxy.access.authentication import Caller
from proxy.backends.narrative.answers import refusal_of
from proxy.backends.narrative.failures import cause_of
from proxy.backends.narrative.fallbacks import Form, simpler
from proxy.backends.narrative.output import Outcome, read_job, usage_of
from proxy.backends.narrative.prompt import Prepared, prepare, tool_names
from proxy.backends.narrative.reservations import SubmissionRecord
from proxy.backends.narrative.types import TAG_PREFIX, Job, JobState, RunRequest
from proxy.errors import InvalidApiKey, PaidFailure, ProxyError
from proxy.inference.backend import RunOptions
from proxy.inference.request import Request
from proxy.inference.result import Usage
from proxy.schemas import Budget, is_heavy

if TYPE_CHECKING:
    from proxy.backends.narrative.backend import NarrativeBackend

LOST: Final = "narrative_job_lost"
_HEAVY_BODY: Final = 262_144
"""Bytes of a request body from which preparing takes long even without schemas."""
_MAX_SIMPLER: Final = 2
_NO_JOB: Final = Job(id="none")


class Preparation:
    """Prepares one request for its model, in one form after another, within one budget of work."""

    def __init__(self, backend: "NarrativeBackend", request: Request) -> None:
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


@dataclass(slots=True)
class Attempt:
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


class Attempts:
    """Makes the submissions of one request, and reads its jobs.

    Attributes:
        client: with the caller's own token, if it has one.
        job_ids: of all jobs so far, in the order of their submission.
        usage: of all jobs that have ended.
    """

    def __init__(self, backend: "NarrativeBackend", request: Request, caller: Caller, options: RunOptions) -> None:
        own, key = backend.client, caller.upstream_key
        self.client = own if key is None else own.with_api_key(key)
        self.preparation = Preparation(backend, request)
        self.job_ids: list[str] = []
        self.usage = Usage()
        self._backend = backend
        self._caller = caller
        self._deadline = asyncio.get_running_loop().time() + min(backend.deadline_s, options.timeout_s)
        self._prefix, self._record = "", SubmissionRecord()
        if record := options.record:
            self._prefix = record.prefix
            self._record = SubmissionRecord(backend.store, record.name, str(record.seed), ttl_s=record.ttl_s)

    async def begin(self, slot: str, prepared: Prepared, slots: Iterable[str] = ()) -> Attempt:
        """The first job of an attempt. A refused form is replaced by simpler ones: nothing was enqueued, so that this costs nothing."""
        attempt = Attempt(f"{self._prefix}{slot}", prepared, [*slots])
        while True:
            try:
                await self._submit(attempt, attempt.slot, attempt.prepared)
            except ProxyError as error:
                refusal = refusal_of(error)
                other = await self.preparation.simpler(attempt.prepared, refusal.words) if refusal else None
                if other is None:
                    raise
                attempt.prepared = other
                continue
            if attempt.new and attempt.prepared.form != prepared.form:
                self.preparation.learn(attempt.prepared)
            return attempt

    async def read(self, attempt: Attempt) -> Outcome:
        """The outcome of an attempt's job; where its schema or history was refused, of a job in a simpler form."""
        plain = attempt.prepared.form
        await self._wait(attempt)
        for number in range(1, _MAX_SIMPLER + 1):
            if attempt.job.state != JobState.FAILED:
                break
            other = await self.preparation.simpler(attempt.prepared, self._failures(attempt.job))
            if other is None:
                break
            await self._submit(attempt, f"{attempt.slot}.simpler{number}", other)
            await self._wait(attempt)
        outcome = await self._parsed(attempt)
        if attempt.prepared.form != plain:
            self.preparation.learn(attempt.prepared)
        return outcome

    async def repair(self, attempt: Attempt, number: int, wrong: Outcome) -> Outcome:
        """The outcome of one more job, which is shown the wrong output and its errors."""
        self._backend.metrics.further_job("repair")
        prepared, attempt.repaired = attempt.prepared, True
        output = wrong.job.result.structured_output if wrong.job.result else None
        await self._submit(attempt, f"{attempt.slot}.repair{number}", prepared.repair(output, wrong.parsed.errors))
        attempt.prepared = prepared
        await self._wait(attempt)
        return await self._parsed(attempt)

    async def release(self, attempt: Attempt) -> None:
        """Remove the submissions of a choice that failed from the record: a repeat pays for the choice anew."""
        for slot in attempt.slots:
            await self._record.release(slot)

    async def _wait(self, attempt: Attempt) -> None:
        """Wait until the attempt's job has ended, whatever its end."""
        try:
            job = await self._backend.jobs.wait(attempt.job, self.client, deadline=self._deadline)
        except ProxyError as error:
            if error.code == LOST:
                raise PaidFailure(error.message, code=LOST, job_id=attempt.job.id) from error
            raise
        attempt.job = job
        if job.result is not None:
            self.usage += usage_of(job.result.usage)

    async def _parsed(self, attempt: Attempt) -> Outcome:
        job, expected = attempt.job, attempt.prepared.expected
        text = self._failures(job)
        started = time.perf_counter()
        try:
            if job.result is not None and not expected.is_text and _is_heavy_value(job.result.structured_output):
                return await asyncio.to_thread(read_job, expected, job, text, self.preparation.budget)
            return read_job(expected, job, text, self.preparation.budget)
        finally:
            self.preparation.seconds += time.perf_counter() - started

    def _failures(self, job: Job) -> str:
        return self.client.redact("; ".join(job.failures))

    async def _submit(self, attempt: Attempt, slot: str, prepared: Prepared) -> None:
        """Submit a job, or take up the one that the slot holds in whichever form it was submitted, and make it the attempt's."""
        plane, tag = self._caller.plane(), f"{TAG_PREFIX}{self._record.tag(slot)}"
        prepared_by_form = {str(prepared.form): prepared}

        async def body(form: str) -> RunRequest:
            if form not in prepared_by_form:
                prepared_by_form[form] = await self.preparation.in_form(Form.parse(form))
            return prepared_by_form[form].body(plane, tag)

        attempt.job = _NO_JOB
        try:
            submission = await self._backend.jobs.submit_once(
                body,
                str(prepared.form),
                self.client,
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
            prepared = await self.preparation.in_form(Form.parse(submission.form))
        attempt.prepared, attempt.job, attempt.new = prepared, submission.job, submission.new
        attempt.slots.append(slot)
        self.job_ids.append(submission.job.id)


def _is_heavy_value(value: Any) -> bool:
    try:
        return is_heavy(len(orjson.dumps(value)))
    except TypeError:  # integers beyond 64 bits, lone surrogates
        return True

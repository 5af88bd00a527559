"""Answers from Narrative: submit, wait, read, and where the output does not match, ask again.

Two stages, with the point of no return between them: before `submit` is done the request can still be refused with a status of its
own; after it jobs are paid for, and no error invites a repeat.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from proxy.access.authentication import Caller
from proxy.backends.narrative.answers import refusal_of
from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.jobs import Jobs
from proxy.backends.narrative.submit import Submission
from proxy.backends.narrative.types import Job, JobState, RunRequest
from proxy.catalog import Catalog, ModelCard
from proxy.chat.dialects import Dialects, form_of, in_form, simpler, told
from proxy.chat.submissions import UNRECORDED, Submissions
from proxy.errors import InvalidApiKey, Overloaded, ProxyError
from proxy.failures import Cause, cause_of
from proxy.lifecycle import Lifecycle
from proxy.metrics import Metrics
from proxy.serving.upstream import DEFAULT_TERMS, Terms
from proxy.serving.waiting import together
from proxy.translate.chunks import closing_chunks, opening_chunks
from proxy.translate.plan import Plan, PlanRules, make_plan
from proxy.translate.reply import Ending, Stamp, add_usage, completion, invalid_output, read_ending, stamp_of
from proxy.wire.openai import ChatCompletion, ChatRequest, Chunk

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NarrativeUpstream:
    """Answers chat requests by Narrative jobs.

    Attributes:
        client: carries the proxy's own token; callers with tokens of their own get a copy of it.
        dialects: what has been learned of models while serving.
        deadline_s: seconds a request may take overall.
        repair_tries: further jobs when an output does not match.
    """

    catalog: Catalog
    rules: PlanRules
    client: NarrativeClient
    jobs: Jobs
    dialects: Dialects
    deadline_s: float
    repair_tries: int
    lifecycle: Lifecycle
    metrics: Metrics

    async def accept(
        self,
        request: ChatRequest,
        caller: Caller,
        terms: Terms = DEFAULT_TERMS,
        submissions: Submissions = UNRECORDED,
    ) -> "NarrativeAnswer":
        answer = NarrativeAnswer(self, request, caller, terms, submissions)
        await self.lifecycle.unless_over(answer.submit())
        return answer


class NarrativeAnswer:
    """The answer to one request; see `proxy.serving.upstream.Answer`."""

    _plan: Plan
    _stamp: Stamp

    def __init__(
        self,
        upstream: NarrativeUpstream,
        request: ChatRequest,
        caller: Caller,
        terms: Terms,
        submissions: Submissions,
    ) -> None:
        self._upstream = upstream
        self._request = request
        self._caller = caller
        self._submissions = submissions
        own, key = upstream.client, caller.upstream_key
        self._client = own if key is None else own.with_api_key(key)
        patience = min(upstream.deadline_s, terms.patience_s)
        self._deadline = asyncio.get_running_loop().time() + patience
        self._plain = upstream.catalog.find(request.model)
        self._first: list[tuple[ModelCard, Job]] = []
        self._jobs: list[Job] = []
        self._record = submissions.record
        self._planning_s = 0.0

    async def submit(self) -> None:
        """Plan the request and submit a job for each choice.

        Raises:
            ProxyError: the request is refused, here or by Narrative.
        """
        started = time.perf_counter()
        card = self._upstream.dialects.card(self._plain)
        self._plan = self._planned(card)
        self._planning_s = time.perf_counter() - started
        try:
            card, job = await self._begin(card, 0)
        except ProxyError as error:
            refusal = refusal_of(error)
            other = self._simpler(card, self._plan, cause_of(refusal.words)) if refusal else None
            if other is None:
                raise
            simple, self._plan = other
            self._upstream.metrics.further_job("simpler_form")
            card, job = await self._begin(simple, 0)
            self._upstream.dialects.learn(card)
        more = await together(self._begin(card, choice) for choice in range(1, self._plan.choices))
        self._first = [(card, job), *more]
        url = self._client.base_url
        self._stamp = stamp_of(self._plan, job.id, created=int(time.time()), upstream_url=url)

    @property
    def headers(self) -> Mapping[str, str]:
        plan = self._plan
        headers = {
            "x-proxy-model": plan.narrative_model,
            "x-narrative-job-id": ", ".join(job.id for job in self._jobs),
            "x-proxy-ignored": ", ".join(plan.ignored),
            "x-proxy-adjusted": ", ".join(plan.adjusted),
        }
        return {name: value for name, value in headers.items() if value}

    async def whole(self) -> ChatCompletion:
        endings = await self._endings()
        created_at = endings[0].job.created_at
        stamp = self._stamp if created_at is None else replace(self._stamp, created=int(created_at.timestamp()))
        return await self._answered(stamp, endings)

    async def batches(self) -> AsyncIterator[Sequence[Chunk]]:
        usage = self._plan.include_usage
        yield list(opening_chunks(self._stamp, self._plan.choices, include_usage=usage))
        whole = await self._answered(self._stamp, await self._endings())
        for chunk in closing_chunks(whole, include_usage=usage):
            yield [chunk]

    def close(self, *, delivered: bool) -> None:
        self._submissions.close(delivered=delivered)

    async def _answered(self, stamp: Stamp, endings: list[Ending]) -> ChatCompletion:
        started = time.perf_counter()
        whole = completion(self._plan, stamp, endings)
        self._upstream.metrics.spent("proxy", self._planning_s + time.perf_counter() - started)
        await self._submissions.answered(whole, self.headers)
        return whole

    async def _endings(self) -> list[Ending]:
        """All choices, in order."""
        try:
            return await self._upstream.lifecycle.unless_over(self._all_ended())
        except Overloaded as error:
            error.job_id = self._jobs[0].id
            raise
        except asyncio.CancelledError:
            log.info("left before its end", jobs=[job.id for job in self._jobs])
            raise

    async def _all_ended(self) -> list[Ending]:
        started = time.perf_counter()
        try:
            return await together(self._ending(choice, card, job) for choice, (card, job) in enumerate(self._first))
        except ProxyError as error:
            error.retry_after = None  # a repeat would pay again for what is paid already
            raise
        finally:
            self._upstream.metrics.spent("narrative", time.perf_counter() - started)

    async def _ending(self, choice: int, card: ModelCard, job: Job) -> Ending:
        """One choice: the first output that matches, or the last one that may be handed out."""
        plan, ending = await self._read(choice, card, job)
        for number in range(self._upstream.repair_tries):
            if ending.finish != "stop" or not ending.reading.faults:
                break
            try:
                ending = await self._asked_again(f"{choice}.again{number}", plan, ending)
            except ProxyError:
                if ending.reading.fatal:
                    raise
                break
        if ending.reading.fatal:
            raise invalid_output(ending)
        return ending

    async def _read(self, choice: int, card: ModelCard, job: Job) -> tuple[Plan, Ending]:
        """A job's ending; where its schema or history was refused, that of a job in a simpler form."""
        job = await self._wait(job)
        other = self._simpler(card, self._plan, _cause(job))
        if other is None:
            return self._plan, read_ending(self._plan.envelope, job)
        simple_card, plan = other
        self._upstream.metrics.further_job("simpler_form")
        ending = read_ending(plan.envelope, await self._wait(await self._submit(f"{choice}.simpler", plan)))
        self._upstream.dialects.learn(simple_card)
        return plan, ending

    async def _asked_again(self, place: str, plan: Plan, ending: Ending) -> Ending:
        output = ending.job.result.structured_output if ending.job.result else None
        self._upstream.metrics.further_job("repair")
        job = await self._submit(place, plan.asking_again(output, ending.reading.faults))
        again = read_ending(plan.envelope, await self._wait(job))
        return replace(again, usage=add_usage(ending.usage, again.usage))

    def _planned(self, card: ModelCard) -> Plan:
        plan = make_plan(self._request, card, self._upstream.rules)
        return replace(plan, adjusted=(*plan.adjusted, *told(self._plain, card)))

    def _simpler(self, card: ModelCard, plan: Plan, cause: Cause) -> tuple[ModelCard, Plan] | None:
        """Card and plan for another try after a refusal of that cause, None when they would run the very same."""
        other = simpler(card, cause)
        if other is None:
            return None
        simple = self._planned(other)
        return None if (simple.messages, simple.config) == (plan.messages, plan.config) else (other, simple)

    async def _wait(self, job: Job) -> Job:
        if job.ended and job.complete:
            return job
        return await self._upstream.jobs.wait(job, self._client, deadline=self._deadline)

    # ------------------------------------------------------------ submissions

    async def _begin(self, card: ModelCard, choice: int) -> tuple[ModelCard, Job]:
        """The first job of a choice, and the card its output is read with: another one's where another one submitted it."""
        form = form_of(card)

        def plan(form_: str) -> Plan:
            return self._plan if form_ == form else self._planned(in_form(self._plain, form_))

        submission = await self._submitted(f"{choice}.first", form, plan)
        if submission.form != form:
            card = in_form(self._plain, submission.form)
            self._plan = self._planned(card)
        return card, await self._taken(submission)

    async def _submit(self, slot: str, plan: Plan) -> Job:
        """A further job of a choice. That it is needed follows from the ones before it, and so does its form."""
        return await self._taken(await self._submitted(slot, "", lambda _: plan))

    async def _submitted(self, slot: str, form: str, plan: Callable[[str], Plan]) -> Submission:
        def request(form_: str) -> RunRequest:
            return plan(form_).run_request(data_plane_id=self._caller.plane(), rid=self._record.tag(slot))

        try:
            return await self._upstream.jobs.submit_once(
                request, form, self._client, record=self._record, slot=slot, deadline=self._deadline
            )
        except ProxyError as error:
            if error.code == "narrative_unauthorized" and self._caller.upstream_key is not None:
                raise InvalidApiKey("Narrative does not accept the API key provided.") from error
            if self._jobs:
                error.retry_after = None
            raise

    async def _taken(self, submission: Submission) -> Job:
        """The job of a slot, to be waited for. One that another replica submitted, or an earlier request, may have ended by now."""
        job = submission.job
        if not submission.new and job.id not in self._upstream.jobs:
            job = await self._client.get_job(job.id, deadline=self._deadline)
        self._jobs.append(job)
        return job


def _cause(job: Job) -> Cause:
    return cause_of("; ".join(job.failures)) if job.state == JobState.FAILED else Cause.OTHER

"""Answers from Narrative: submit, wait, read, and where the output does not match, ask again.

Two stages, with the point of no return between them: before `submit` is done the request can still be refused with a status of its
own; after it jobs are paid for, and no error invites a repeat.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

import structlog

from proxy.access.callers import Caller
from proxy.catalog import Catalog, ModelCard
from proxy.chat.dialects import Dialects, simpler, told
from proxy.chat.waiting import together
from proxy.errors import InvalidApiKey, ProxyError
from proxy.failures import Cause, cause_of
from proxy.narrative import Jobs, NarrativeClient
from proxy.narrative.answers import refusal_of
from proxy.translate.chunks import closing_chunks, opening_chunks
from proxy.translate.plan import Plan, PlanRules, make_plan
from proxy.translate.reply import Ending, Stamp, add_usage, completion, invalid_output, read_ending, stamp_of
from proxy.wire.narrative import Job, JobState
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

    async def accept(self, request: ChatRequest, caller: Caller) -> "NarrativeAnswer":
        answer = NarrativeAnswer(self, request, caller)
        await answer.submit()
        return answer


class NarrativeAnswer:
    """The answer to one request; see `proxy.chat.upstream.Answer`."""

    _plan: Plan
    _stamp: Stamp

    def __init__(self, upstream: NarrativeUpstream, request: ChatRequest, caller: Caller) -> None:
        self._upstream = upstream
        self._request = request
        self._caller = caller
        own, key = upstream.client, caller.narrative_key
        self._client = own if key is None else own.with_api_key(key)
        self._deadline = asyncio.get_running_loop().time() + upstream.deadline_s
        self._plain = upstream.catalog.find(request.model)
        self._first: list[tuple[ModelCard, Job]] = []
        self._jobs: list[Job] = []

    async def submit(self) -> None:
        """Plan the request and submit a job for each choice.

        Raises:
            ProxyError: the request is refused, here or by Narrative.
        """
        card = self._upstream.dialects.card(self._plain)
        self._plan = self._planned(card)
        try:
            job = await self._submit(self._plan)
        except ProxyError as error:
            refusal = refusal_of(error)
            other = self._simpler(card, self._plan, cause_of(refusal.words)) if refusal else None
            if other is None:
                raise
            card, self._plan = other
            job = await self._submit(self._plan)
            self._upstream.dialects.learn(card)
        more = await together(self._submit(self._plan) for _ in range(self._plan.choices - 1))
        self._first = [(card, job) for job in (job, *more)]
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
        return completion(self._plan, stamp, endings)

    async def batches(self) -> AsyncIterator[Sequence[Chunk]]:
        usage = self._plan.include_usage
        yield list(opening_chunks(self._stamp, self._plan.choices, include_usage=usage))
        whole = completion(self._plan, self._stamp, await self._endings())
        yield list(closing_chunks(whole, include_usage=usage))

    async def _endings(self) -> list[Ending]:
        """All choices, in order."""
        try:
            return await together(self._ending(card, job) for card, job in self._first)
        except ProxyError as error:
            error.retry_after = None  # a repeat would pay again for what is paid already
            raise
        except asyncio.CancelledError:
            log.info("left before its end", jobs=[job.id for job in self._jobs])
            raise

    async def _ending(self, card: ModelCard, job: Job) -> Ending:
        """One choice: the first output that matches, or the last one that may be handed out."""
        plan, ending = await self._read(card, job)
        for _ in range(self._upstream.repair_tries):
            if ending.finish != "stop" or not ending.reading.faults:
                break
            try:
                ending = await self._asked_again(plan, ending)
            except ProxyError:
                if ending.reading.fatal:
                    raise
                break
        if ending.reading.fatal:
            raise invalid_output(ending)
        return ending

    async def _read(self, card: ModelCard, job: Job) -> tuple[Plan, Ending]:
        """A job's ending; where its schema or history was refused, that of a job in a simpler form."""
        job = await self._wait(job)
        other = self._simpler(card, self._plan, _cause(job))
        if other is None:
            return self._plan, read_ending(self._plan.envelope, job)
        simple_card, plan = other
        ending = read_ending(plan.envelope, await self._wait(await self._submit(plan)))
        self._upstream.dialects.learn(simple_card)
        return plan, ending

    async def _asked_again(self, plan: Plan, ending: Ending) -> Ending:
        output = ending.job.result.structured_output if ending.job.result else None
        job = await self._submit(plan.asking_again(output, ending.reading.faults))
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
        return await self._upstream.jobs.wait(job, self._client, deadline=self._deadline)

    async def _submit(self, plan: Plan) -> Job:
        request = plan.run_request(data_plane_id=self._caller.data_plane_id, rid=str(uuid4()))
        try:
            job = await self._upstream.jobs.submit(request, self._client, deadline=self._deadline)
        except ProxyError as error:
            if error.code == "narrative_unauthorized" and self._caller.narrative_key is not None:
                raise InvalidApiKey("Narrative does not accept the API key provided.") from error
            if self._jobs:
                error.retry_after = None
            raise
        self._jobs.append(job)
        return job


def _cause(job: Job) -> Cause:
    return cause_of("; ".join(job.failures)) if job.state == JobState.FAILED else Cause.OTHER

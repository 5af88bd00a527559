"""One chat request on its way: submit, wait, read, and where the output does not match, ask again.

Two stages, with the point of no return between them: before `submit` is done the request can still be refused with a status of its
own; after it jobs are paid for, and no error invites a repeat.
"""

import asyncio
from dataclasses import replace
from uuid import uuid4

from proxy.access.callers import Caller
from proxy.catalog import ModelCard
from proxy.chat.dialects import simpler, told
from proxy.chat.services import ChatServices
from proxy.chat.waiting import together
from proxy.errors import InvalidApiKey, ProxyError
from proxy.failures import Cause, cause_of
from proxy.narrative.answers import refusal_of
from proxy.translate.plan import Plan, make_plan
from proxy.translate.reply import Ending, add_usage, invalid_output, read_ending
from proxy.wire.narrative import Job, JobState, Usage
from proxy.wire.openai import ChatRequest


class Answering:
    """Answers one request.

    Attributes:
        plan: what is run, after `submit`.
        jobs: the jobs accepted so far, oldest first.
    """

    plan: Plan

    def __init__(self, services: ChatServices, request: ChatRequest, caller: Caller) -> None:
        self._services = services
        self._request = request
        self._caller = caller
        narrative = services.narrative
        self._narrative = narrative if caller.narrative_key is None else narrative.with_api_key(caller.narrative_key)
        self._deadline = asyncio.get_running_loop().time() + services.settings.jobs.deadline_s
        self._plain = services.catalog.find(request.model)
        self._first: list[tuple[ModelCard, Job]] = []
        self.jobs: list[Job] = []

    async def submit(self) -> None:
        """Plan the request and submit a job for each choice.

        Raises:
            ProxyError: the request is refused, here or by Narrative.
        """
        card = self._services.dialects.card(self._plain)
        self.plan = self._planned(card)
        try:
            job = await self._submit(self.plan)
        except ProxyError as error:
            refusal = refusal_of(error)
            other = self._simpler(card, self.plan, cause_of(refusal.words)) if refusal else None
            if other is None:
                raise
            card, self.plan = other
            job = await self._submit(self.plan)
            self._services.dialects.learn(card)
        more = await together(self._submit(self.plan) for _ in range(self.plan.choices - 1))
        self._first = [(card, job) for job in (job, *more)]

    async def endings(self) -> list[Ending]:
        """Wait for all choices.

        Raises:
            ProxyError: a choice has no answer; its `retry_after` is None, since jobs were paid for.
        """
        try:
            return await together(self._ending(card, job) for card, job in self._first)
        except ProxyError as error:
            error.retry_after = None  # a repeat would pay again for what is paid already
            raise

    async def _ending(self, card: ModelCard, job: Job) -> Ending:
        """One choice: the first output that matches, or the last one that may be handed out."""
        plan, ending = await self._read(card, job)
        for _ in range(self._services.settings.chat.repair_tries):
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
        other = self._simpler(card, self.plan, _cause(job))
        if other is None:
            return self.plan, read_ending(self.plan.envelope, job)
        simple_card, plan = other
        ending = read_ending(plan.envelope, await self._wait(await self._submit(plan)))
        self._services.dialects.learn(simple_card)
        return plan, ending

    async def _asked_again(self, plan: Plan, ending: Ending) -> Ending:
        output = ending.job.result.structured_output if ending.job.result else None
        job = await self._submit(plan.asking_again(output, ending.reading.faults))
        again = read_ending(plan.envelope, await self._wait(job))
        return replace(again, usage=add_usage(ending.usage, again.usage))

    def _planned(self, card: ModelCard) -> Plan:
        plan = make_plan(self._request, card, self._services.rules)
        return replace(plan, adjusted=(*plan.adjusted, *told(self._plain, card)))

    def _simpler(self, card: ModelCard, plan: Plan, cause: Cause) -> tuple[ModelCard, Plan] | None:
        """Card and plan for another try after a refusal of that cause, None when they would run the very same."""
        other = simpler(card, cause)
        if other is None:
            return None
        simple = self._planned(other)
        return None if (simple.messages, simple.config) == (plan.messages, plan.config) else (other, simple)

    async def _wait(self, job: Job) -> Job:
        return await self._services.jobs.wait(job, self._narrative, deadline=self._deadline)

    async def _submit(self, plan: Plan) -> Job:
        request = plan.run_request(data_plane_id=self._caller.data_plane_id, rid=str(uuid4()))
        try:
            job = await self._services.jobs.submit(request, self._narrative, deadline=self._deadline)
        except ProxyError as error:
            if error.code == "narrative_unauthorized" and self._caller.narrative_key is not None:
                raise InvalidApiKey("Narrative does not accept the API key provided.") from error
            if self.jobs:
                error.retry_after = None
            raise
        self.jobs.append(job)
        return job


def _cause(job: Job) -> Cause:
    return cause_of("; ".join(job.failures)) if job.state == JobState.FAILED else Cause.OTHER

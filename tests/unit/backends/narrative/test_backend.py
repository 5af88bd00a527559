"""The backend's runs, with the job engine replaced by a script: which jobs are paid for, and what comes of them."""

import asyncio
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from proxy.access.authentication import Caller
from proxy.backends.narrative import backend as backend_module
from proxy.backends.narrative.backend import NarrativeBackend, NarrativeRun
from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.failures import Refusal, error_for
from proxy.backends.narrative.fallbacks import Fallbacks
from proxy.backends.narrative.submit import PendingSubmission, Submission, SubmissionRecord
from proxy.backends.narrative.types import Job, RunRequest
from proxy.catalog import Catalog, ModelCard
from proxy.errors import (
    ContextLengthExceeded,
    InvalidApiKey,
    InvalidRequest,
    JobTimeout,
    Overloaded,
    PaidFailure,
    ProxyError,
    RateLimited,
    UpstreamError,
)
from proxy.inference.backend import Record, RunOptions
from proxy.inference.request import JsonOutput, Message, Native, Request, Rules, Sampling, Text, Tool
from proxy.inference.result import Choice, Event, Result, Started, Usage, fold
from proxy.lifecycle import Lifecycle
from proxy.storage import MemoryStore
from tests.records import job_of
from tests.waiting import until

CARD = ModelCard(id="anthropic.claude-haiku-4.5", names=("haiku",), max_tokens=4096)
CALLER = Caller(None, "fef9904e-d263-4930-85f7-1e28cce40f89", id="me")
HI = Request("haiku", (Message("user", (Text("hi"),), "messages[0]"),))
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
STRICT = replace(HI, output=JsonOutput(POINT, strict=True))
KEY = "sk-narrative-0123456789"


def done(output: Any, tokens: int = 1) -> dict[str, Any]:
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens}
    return {"state": "completed", "result": {"structured_output": output, "usage": usage}}


def said(text: str) -> dict[str, Any]:
    return done({"content": text})


def failed(text: str) -> dict[str, Any]:
    return {"state": "failed", "failures": [text]}


LOST = UpstreamError("Narrative does not know the job", code="narrative_job_lost")


class Metrics:
    """Counts what the backend counts."""

    def __init__(self) -> None:
        self.further: Counter[str] = Counter()
        self.stages: set[str] = set()

    def spent(self, stage: str, seconds: float) -> None:
        self.stages.add(stage)

    def further_job(self, why: str) -> None:
        self.further[why] += 1


@dataclass
class ScriptedJobs:
    """The job engine as far as a run sees it. Submissions are recorded as the real one records them.

    Attributes:
        ends: slot → how its jobs end, in order, the last one for all that follow; an exception is raised by the wait.
        refusals: raised by submissions, in order.
        gates: slot → set when its job may end.
        awaited: slots whose jobs were waited for, in order.
        ended: slots whose jobs have ended, in order.
    """

    ends: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(lambda: [said("Hello.")]))
    refusals: list[ProxyError] = field(default_factory=list)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    bodies: list[RunRequest] = field(default_factory=list)
    slots: list[str] = field(default_factory=list)
    awaited: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    _slot_of: dict[str, str] = field(default_factory=dict)

    async def submit_once(self, pending: PendingSubmission) -> Submission:
        record, slot = pending.record, pending.slot
        if (found := await record.find(slot)) is not None and found.job is not None:
            self._slot_of.setdefault(found.job, slot)
            return Submission(Job(id=found.job), found.form, new=False)
        reserved = await record.reserve(slot, pending.form)
        assert reserved is not None
        if self.refusals:
            await record.release(slot)
            raise self.refusals.pop(0)
        self.bodies.append(await pending.make_request(reserved[0].form))
        self.slots.append(slot)
        job = Job(id=str(uuid4()))
        self._slot_of[job.id] = slot
        await record.settle(slot, reserved[0], job.id)
        return Submission(job, reserved[0].form, new=True)

    async def wait(self, job: Job, client: NarrativeClient, *, deadline: float) -> Job:
        slot = self._slot_of[job.id]
        self.awaited.append(slot)
        if slot in self.gates:
            await self.gates[slot].wait()
        self.ended.append(slot)
        ends = self.ends[slot]
        end = ends.pop(0) if len(ends) > 1 else ends[0]
        if isinstance(end, ProxyError):
            raise end
        return job_of({"id": job.id, **end})

    @property
    def paid(self) -> int:
        return len(self.slots)


@dataclass
class Setting:
    backend: NarrativeBackend
    jobs: ScriptedJobs
    metrics: Metrics
    store: MemoryStore
    lifecycle: Lifecycle
    record: Record = field(default_factory=lambda: Record("run:1", UUID(int=1), 3600.0))

    async def start(self, request: Request = HI, caller: Caller = CALLER) -> NarrativeRun:
        return await self.backend.start(request, caller, RunOptions(record=self.record))

    async def result(self, request: Request = HI) -> tuple[Result, NarrativeRun]:
        run = await self.start(request)
        return await run.result(), run

    async def recorded(self) -> set[str]:
        return set(await self.store.read(self.record.name))


@pytest.fixture
def setting() -> Setting:
    return make_setting()


def make_setting(**options: Any) -> Setting:
    jobs, metrics, store, lifecycle = ScriptedJobs(), Metrics(), MemoryStore(), Lifecycle(1.0)
    backend = NarrativeBackend(
        catalog=Catalog((CARD,)),
        rules=Rules(),
        client=NarrativeClient(KEY, environment="http://127.0.0.1:9"),
        jobs=jobs,  # type: ignore[arg-type]
        store=store,
        fallbacks=Fallbacks(),
        lifecycle=lifecycle,
        spent=metrics.spent,
        further_job=metrics.further_job,
        **options,
    )
    return Setting(backend, jobs, metrics, store, lifecycle)


async def read_all(run: NarrativeRun) -> list[Event]:
    return [event async for batch in run.events() for event in batch]


# ---------------------------------------------------------------- one choice


async def test_what_only_another_backend_can_carry_is_refused_before_any_job(setting: Setting) -> None:
    with pytest.raises(InvalidRequest, match="Not here"):
        await setting.start(replace(HI, native=Native("other", {}), refusal=InvalidRequest("Not here.")))
    assert setting.jobs.paid == 0


@pytest.mark.parametrize(
    ("text", "stop", "fails"), [("", (), True), (" \n", (), True), ("END", ("END",), False), ("a", (), False)]
)
async def test_an_answer_that_says_nothing_is_a_failure_where_a_reply_is_needed(
    setting: Setting, text: str, stop: tuple[str, ...], fails: bool
) -> None:
    setting.jobs.ends["0.first"] = [said(text)]
    asked = replace(HI, sampling=Sampling(stop=stop))
    await setting.result(asked)
    if not fails:
        await setting.result(replace(asked, needs_reply=True))
        return
    with pytest.raises(PaidFailure, match="empty") as raised:
        await setting.result(replace(asked, needs_reply=True))
    assert (raised.value.code, bool(raised.value.job_id)) == ("narrative_invalid_output", True)
    assert await setting.recorded() == set()


async def test_an_answer_is_that_of_its_job(setting: Setting) -> None:
    result, run = await setting.result()
    (job_id,) = run.report.job_ids
    assert result.id == job_id.replace("-", "")
    assert result.choices == (Choice(text="Hello."),)
    assert result.usage == Usage(1, 1, 2)
    assert run.report.model == CARD.id
    assert setting.metrics.stages == {"proxy", "narrative"}
    assert setting.jobs.bodies[0].tags[0].startswith("rid:")


async def test_the_events_fold_to_the_result(setting: Setting) -> None:
    result, _ = await setting.result()
    events = await read_all(await setting.start())
    assert fold(events) == replace(result, created=fold(events).created)
    assert setting.jobs.paid == 1  # the second request took the first one's job up


async def test_the_time_of_acceptance_is_the_same_in_both_modes(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module.time, "time", lambda: 1_700_000_000.9)
    whole, streamed = await setting.start(), await setting.start()
    monkeypatch.undo()
    assert (await whole.result()).created == 1_700_000_000
    assert fold(await read_all(streamed)).created == 1_700_000_000


async def test_a_failed_job_is_paid_for_once_and_not_recorded_any_more(setting: Setting) -> None:
    setting.jobs.ends["0.first"] = [failed("odd")]
    with pytest.raises(PaidFailure) as caught:
        await setting.result()
    assert (caught.value.code, caught.value.retry_after) == ("narrative_job_failed", None)
    assert setting.jobs.slots == ["0.first"]
    assert await setting.recorded() == set()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ThrottlingException: Too many tokens, please wait before trying again.", RateLimited),
        ("Overloaded", Overloaded),
        ("input length and `max_tokens` exceed context limit: 1 + 2 > 2", ContextLengthExceeded),
    ],
)
async def test_a_job_that_failed_for_a_known_cause_is_the_error_of_that_cause_and_not_recorded(
    setting: Setting, text: str, kind: type[ProxyError]
) -> None:
    setting.jobs.ends["0.first"] = [failed(text)]
    for stream in (False, True):
        run = await setting.start()
        with pytest.raises(kind) as caught:
            await (read_all(run) if stream else run.result())
        assert caught.value.job_id in run.report.job_ids
        assert (caught.value.retry_after is not None) is (kind is not ContextLengthExceeded)
    assert setting.jobs.paid == 2
    assert await setting.recorded() == set()


async def test_the_api_key_is_struck_out_of_a_failure(setting: Setting) -> None:
    setting.jobs.ends["0.first"] = [failed(f"the key {KEY}\nis bad")]
    with pytest.raises(PaidFailure) as caught:
        await setting.result()
    assert "the key [redacted] is bad" in caught.value.message
    assert KEY not in caught.value.message


async def test_a_completed_job_without_a_result_is_a_paid_failure(setting: Setting) -> None:
    setting.jobs.ends["0.first"] = [{"state": "completed", "result": None}]
    with pytest.raises(PaidFailure, match="holds no result"):
        await setting.result()
    assert setting.jobs.paid == 1
    assert await setting.recorded() == set()


async def test_a_job_that_does_not_end_in_time_stays_for_the_next_equal_request(setting: Setting) -> None:
    setting.jobs.ends["0.first"] = [JobTimeout("Job j did not end in time", job_id="j"), said("late")]
    with pytest.raises(JobTimeout):
        await setting.result()
    assert await setting.recorded() == {"0.first"}
    again, _ = await setting.result()
    assert again.choices[0].text == "late"
    assert setting.jobs.paid == 1


async def test_a_job_that_narrative_forgot_is_submitted_anew_when_it_was_taken_up(setting: Setting) -> None:
    setting.jobs.ends["0.first"] = [JobTimeout("late", job_id="j"), LOST]
    with pytest.raises(JobTimeout):
        await setting.result()
    result, run = await setting.result()
    assert result.choices[0].text == "Hello."
    assert setting.jobs.slots == ["0.first", "0.retry"]
    (answered_by,) = run.report.job_ids
    assert result.id == answered_by.replace("-", ""), "not the id of the answer that the lost job gave"


async def test_a_new_job_that_narrative_forgot_is_a_paid_failure(setting: Setting) -> None:
    setting.jobs.ends["0.first"] = [LOST]
    with pytest.raises(PaidFailure) as caught:
        await setting.result()
    assert (caught.value.status, caught.value.code) == (424, "narrative_job_lost")
    assert setting.jobs.paid == 1
    assert await setting.recorded() == set()


async def test_a_token_of_the_callers_own_that_narrative_refuses_is_a_401(setting: Setting) -> None:
    refused = UpstreamError("no", code="narrative_unauthorized")
    setting.jobs.refusals = [refused, refused]
    with pytest.raises(InvalidApiKey):
        await setting.start(caller=replace(CALLER, upstream_key="their-own"))
    with pytest.raises(UpstreamError):
        await setting.start()


async def test_the_end_of_the_grace_period_names_the_job(setting: Setting) -> None:
    setting.jobs.gates["0.first"] = asyncio.Event()
    run = await setting.start()
    waiting = asyncio.create_task(run.result())
    await until(lambda: setting.jobs.awaited)
    setting.lifecycle.end_grace()
    with pytest.raises(Overloaded) as caught:
        await waiting
    assert caught.value.job_id == run.report.job_ids[0]
    assert await setting.recorded() == {"0.first"}


async def test_a_client_that_leaves_leaves_its_job_in_the_record(setting: Setting) -> None:
    setting.jobs.gates["0.first"] = asyncio.Event()
    waiting = asyncio.create_task((await setting.start()).result())
    await until(lambda: setting.jobs.awaited)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await setting.recorded() == {"0.first"}


# ---------------------------------------------------------------- several choices

TWO = replace(HI, choices=2)


async def test_each_choice_is_streamed_when_its_own_job_ends(setting: Setting) -> None:
    setting.jobs.ends |= {"0.first": [said("zero")], "1.first": [said("one")]}
    setting.jobs.gates = {"0.first": asyncio.Event()}
    run = await setting.start(TWO)
    batches = run.events()
    assert isinstance(next(iter(await anext(batches))), Started)
    assert {event.choice for event in await anext(batches)} == {1}  # type: ignore[union-attr]
    setting.jobs.gates["0.first"].set()
    assert {event.choice for event in await anext(batches)} == {0}  # type: ignore[union-attr]
    await anext(batches)
    with pytest.raises(StopAsyncIteration):
        await anext(batches)


async def test_choices_are_in_order_in_a_whole_result(setting: Setting) -> None:
    setting.jobs.ends |= {"0.first": [said("zero")], "1.first": [said("one")]}
    result, run = await setting.result(TWO)
    assert [choice.text for choice in result.choices] == ["zero", "one"]
    assert result.usage == Usage(2, 2, 4)
    assert len(run.report.job_ids) == 2


@pytest.mark.parametrize("end", [failed("odd"), {"state": "cancelled"}, {"state": "completed"}, LOST])
async def test_a_choice_that_fails_beside_others_is_tried_once_more(setting: Setting, end: Any) -> None:
    setting.jobs.ends["1.first"] = [end]
    result, run = await setting.result(TWO)
    assert [choice.text for choice in result.choices] == ["Hello.", "Hello."]
    assert setting.jobs.slots == ["0.first", "1.first", "1.retry"]
    assert setting.metrics.further == {"retry": 1}
    assert len(run.report.job_ids) == 3


@pytest.mark.parametrize("text", ["ThrottlingException", "prompt is too long"])
async def test_a_choice_is_not_tried_again_where_that_cannot_help(setting: Setting, text: str) -> None:
    setting.jobs.ends["1.first"] = [failed(text)]
    with pytest.raises(ProxyError):
        await setting.result(TWO)
    assert setting.jobs.paid == 2


async def test_when_a_choice_fails_twice_the_others_come_first_and_the_error_names_every_job(setting: Setting) -> None:
    setting.jobs.ends |= {"0.first": [failed("odd")], "0.retry": [failed("odd again")]}
    setting.jobs.gates = {"1.first": asyncio.Event()}
    run = await setting.start(TWO)
    events: list[Event] = []

    async def read() -> None:
        async for batch in run.events():
            events.extend(batch)

    reading = asyncio.create_task(read())
    await until(lambda: "0.retry" in setting.jobs.ended)
    assert setting.jobs.paid == 3
    setting.jobs.gates["1.first"].set()
    with pytest.raises(PaidFailure) as caught:
        await reading
    assert {event.choice for event in events[1:]} == {1}  # type: ignore[union-attr]
    assert len(run.report.job_ids) == 3
    for job_id in run.report.job_ids:
        assert job_id in caught.value.message
        assert job_id in str(caught.value.job_id)


async def test_an_equal_request_pays_for_the_missing_choice_only(setting: Setting) -> None:
    setting.jobs.ends |= {"0.first": [failed("odd"), said("at last")], "0.retry": [failed("odd again")]}
    with pytest.raises(PaidFailure):
        await setting.result(TWO)
    assert await setting.recorded() == {"1.first"}
    result, _ = await setting.result(TWO)
    assert [choice.text for choice in result.choices] == ["at last", "Hello."]
    assert setting.jobs.slots == ["0.first", "1.first", "0.retry", "0.first"]


async def test_slots_of_a_fallback_have_its_prefix(setting: Setting) -> None:
    setting.record = replace(setting.record, prefix="second:")
    setting.jobs.ends["1.first"] = [failed("odd")]
    await setting.result(TWO)
    assert await setting.recorded() == {"second:0.first", "second:1.first", "second:1.retry"}


# ---------------------------------------------------------------- repairs


async def test_an_output_that_does_not_match_is_repaired_and_usage_summed(setting: Setting) -> None:
    setting.jobs.ends |= {"0.first": [done({"x": "no"}, 2)], "0.first.repair1": [done({"x": 1}, 3)]}
    result, run = await setting.result(STRICT)
    assert result.choices[0].text == '{"x":1}'
    assert result.usage == Usage(5, 5, 10)
    assert len(run.report.job_ids) == 2
    assert [turn.role for turn in setting.jobs.bodies[1].messages] == ["user", "assistant", "user"]
    assert setting.metrics.further == {"repair": 1}
    assert run.report.unmatched == ""


@pytest.mark.parametrize(("tries", "jobs"), [(0, 1), (1, 2), (3, 4)])
async def test_an_output_that_never_matches_is_a_paid_failure_after_so_many_repairs(tries: int, jobs: int) -> None:
    setting = make_setting(repair_tries=tries)
    setting.jobs.ends = defaultdict(lambda: [done({"x": "no"})])
    with pytest.raises(PaidFailure) as caught:
        await setting.result(STRICT)
    assert caught.value.code == "narrative_invalid_output"
    assert setting.jobs.paid == jobs
    assert await setting.recorded() == set()


@pytest.mark.parametrize(("strict", "raises"), [(True, True), (False, False)])
async def test_a_failed_second_repair_costs_no_third_job(strict: bool, raises: bool) -> None:
    setting = make_setting(repair_tries=3)
    wrong = [done({"x": "no"})]
    setting.jobs.ends |= {"0.first": wrong, "0.first.repair1": wrong, "0.first.repair2": [failed("odd")]}
    request = replace(HI, output=JsonOutput(POINT, strict=strict))
    if raises:
        with pytest.raises(PaidFailure):
            await setting.result(request)
    else:
        result, run = await setting.result(request)
        assert result.choices[0].text == '{"x":"no"}'
        assert "$.x" in run.report.unmatched
    assert setting.jobs.slots == ["0.first", "0.first.repair1", "0.first.repair2"]


async def test_a_repair_that_outlasts_its_request_is_taken_up_by_the_next(setting: Setting) -> None:
    late = JobTimeout("late", job_id="j")
    setting.jobs.ends |= {"0.first": [done({"x": "no"})], "0.first.repair1": [late, done({"x": 1})]}
    with pytest.raises(JobTimeout):
        await setting.result(STRICT)
    result, _ = await setting.result(STRICT)
    assert result.choices[0].text == '{"x":1}'
    assert setting.jobs.paid == 2


async def test_a_repair_that_cannot_be_submitted_now_leaves_the_paid_output_to_the_next_request(
    setting: Setting,
) -> None:
    setting.jobs.ends |= {"0.first": [done({"x": "no"})], "0.first.repair1": [done({"x": 1})]}
    run = await setting.start(STRICT)
    setting.jobs.refusals = [Overloaded("too much", retry_after=1.0)]
    with pytest.raises(Overloaded):
        await run.result()
    assert await setting.recorded() == {"0.first"}
    result, _ = await setting.result(STRICT)
    assert result.choices[0].text == '{"x":1}'
    assert setting.jobs.paid == 2


async def test_a_stream_that_is_left_stops_waiting_for_the_other_choices(setting: Setting) -> None:
    setting.jobs.gates = {"1.first": asyncio.Event()}
    run = await setting.start(TWO)
    events = run.events()
    await anext(events)
    assert next(iter(await anext(events))).choice == 0  # type: ignore[union-attr]
    before = asyncio.all_tasks()
    await events.aclose()  # type: ignore[attr-defined]
    await until(lambda: len(asyncio.all_tasks()) < len(before))
    assert await setting.recorded() == {"0.first", "1.first"}


async def test_a_wrong_choice_beside_others_is_repaired_and_not_tried_from_the_start(setting: Setting) -> None:
    setting.jobs.ends = defaultdict(lambda: [done({"x": "no"})], {"0.first": [done({"x": 1})]})
    with pytest.raises(PaidFailure):
        await setting.result(replace(STRICT, choices=2))
    assert setting.jobs.slots == ["0.first", "1.first", "1.first.repair1"]


async def test_an_answer_that_matches_two_alternatives_is_delivered_and_reported(setting: Setting) -> None:
    two = {"type": "object", "properties": {"v": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}
    setting.jobs.ends["0.first"] = [done({"v": 1})]
    result, run = await setting.result(replace(HI, output=JsonOutput(two, strict=True)))
    assert result.choices[0].text == '{"v":1}'
    assert setting.jobs.paid == 1
    assert "$.v" in run.report.unmatched


# ---------------------------------------------------------------- forms

EMAIL = {"type": "object", "properties": {"to": {"type": "string", "pattern": r"[\w-\.]+"}}, "required": ["to"]}
TOOLS = replace(HI, tools=(Tool("mail", parameters=EMAIL), Tool("point", parameters=POINT)))
REFUSED = "Invalid schema: #/properties/tool_calls/items/properties/mail: malformed regular expression"
CALL = done({"content": "", "tool_calls": [{"mail": '{"to": "a"}'}]})


def refusal(text: str) -> ProxyError:
    error = error_for(text, code="narrative_rejected")
    error.__cause__ = Refusal(400, text)
    return error


def sent_tools(body: RunRequest) -> dict[str, str]:
    items = body.inference_config.output_format_schema["properties"]["tool_calls"]["items"]
    return {name: schema["type"] for name, schema in items["properties"].items()}


@pytest.mark.parametrize("by_job", [False, True])
async def test_only_the_refused_schema_is_simplified_and_that_is_remembered(setting: Setting, by_job: bool) -> None:
    if by_job:
        setting.jobs.ends |= {"0.first": [failed(REFUSED), CALL], "0.first.simpler1": [CALL]}
    else:
        setting.jobs.refusals = [refusal(REFUSED)]
        setting.jobs.ends["0.first"] = [CALL]
    result, run = await setting.result(TOOLS)
    assert result.choices[0].tool_calls[0].arguments == {"to": "a"}
    assert sent_tools(setting.jobs.bodies[-1]) == {"mail": "string", "point": "object"}
    assert run.report.adjusted == ("tools: mail written in the simple form, with arguments as JSON text",)
    assert setting.metrics.further == {"simpler_form": 1}
    setting.record = replace(setting.record, name="run:2")
    await setting.result(TOOLS)
    assert sent_tools(setting.jobs.bodies[-1]) == {"mail": "string", "point": "object"}
    setting.record = replace(setting.record, name="run:3")
    setting.jobs.ends["0.first"] = [said("Hello.")]
    await setting.result(replace(HI, tools=(Tool("mail", parameters=POINT),)))
    assert sent_tools(setting.jobs.bodies[-1]) == {"mail": "object"}
    assert setting.metrics.further == {"simpler_form": 1}


async def test_a_schema_that_is_refused_in_every_form_stays_refused(setting: Setting) -> None:
    setting.jobs.refusals = [refusal("Invalid schema: too large") for _ in range(5)]
    with pytest.raises(ProxyError) as caught:
        await setting.start(TOOLS)
    assert caught.value.code == "invalid_json_schema"
    assert len(setting.jobs.refusals) == 3
    assert await setting.recorded() == set()


async def test_a_refusal_of_something_else_is_not_met_with_a_simpler_form(setting: Setting) -> None:
    setting.jobs.refusals = [refusal("Model unavailable")]
    with pytest.raises(ProxyError):
        await setting.start(TOOLS)
    assert setting.metrics.further == {}


async def test_a_job_that_was_submitted_in_another_form_is_read_in_that_form(setting: Setting) -> None:
    text = replace(HI, output=JsonOutput({"type": "string"}, strict=True))
    setting.jobs.ends["0.first"] = [done({"answer": '"42"'})]
    record = SubmissionRecord(setting.store, setting.record)
    reserved = await record.reserve("0.first", "answer")
    assert reserved is not None
    await record.settle("0.first", reserved[0], "j1")
    result, run = await setting.result(text)
    assert setting.jobs.paid == 0
    assert result.choices[0].text == '"42"'
    assert run.report.adjusted == ("structured output: written in the simple form, as JSON text",)
    setting.record = replace(setting.record, name="run:2")
    plain, _ = await setting.result(text)
    assert plain.choices[0].text == '"\\"42\\""'


# ---------------------------------------------------------------- heavy work


@pytest.mark.parametrize(
    ("request_", "elsewhere"),
    [
        (HI, False),
        (replace(HI, body_bytes=65_536), True),
        (replace(TOOLS, body_bytes=1_000), False),
        (replace(TOOLS, body_bytes=100_000), True),
        (replace(STRICT, body_bytes=100_000), True),
    ],
)
async def test_heavy_requests_are_prepared_in_another_thread(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, request_: Request, elsewhere: bool
) -> None:
    threads = []
    prepare = backend_module.prepare

    def observed(*arguments: Any) -> Any:
        threads.append(threading.get_ident())
        return prepare(*arguments)

    monkeypatch.setattr(backend_module, "prepare", observed)
    await setting.start(request_)
    assert [ident != threading.get_ident() for ident in threads] == [elsewhere]


async def test_a_reservation_in_another_form_is_prepared_in_another_thread(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = SubmissionRecord(setting.store, setting.record)
    reserved = await record.reserve("0.first", "(history),mail")
    assert reserved is not None
    await record.settle("0.first", reserved[0], None)  # its replica does not know what became of it
    forms = []
    prepare = backend_module.prepare

    def observed(*arguments: Any) -> Any:
        forms.append(({*arguments[3]}, threading.current_thread() is not threading.main_thread()))
        return prepare(*arguments)

    monkeypatch.setattr(backend_module, "prepare", observed)
    run = await setting.start(replace(TOOLS, body_bytes=100_000))
    assert forms == [(set(), True), ({"(history)", "mail"}, True)]
    assert sent_tools(setting.jobs.bodies[0])["mail"] == "string"
    assert any("mail" in sentence for sentence in run.report.adjusted)


@pytest.mark.parametrize(("size", "elsewhere"), [(10, False), (100_000, True)])
async def test_heavy_outputs_are_read_in_another_thread(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, size: int, elsewhere: bool
) -> None:
    threads = []
    read_job = backend_module.read_job

    def observed(*arguments: Any) -> Any:
        threads.append(threading.get_ident())
        return read_job(*arguments)

    monkeypatch.setattr(backend_module, "read_job", observed)
    setting.jobs.ends["0.first"] = [done({"text": "x" * size})]
    await setting.result(replace(HI, output=JsonOutput({"type": "object"})))
    assert [ident != threading.get_ident() for ident in threads] == [elsewhere]


async def test_the_work_on_an_abandoned_request_is_abandoned(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, spent = threading.Event(), threading.Event()

    def endless(*arguments: Any) -> Any:
        begun.set()
        try:
            while True:
                arguments[-1].spend(0)
        finally:
            spent.set()

    monkeypatch.setattr(backend_module, "prepare", endless)
    starting = asyncio.create_task(setting.start(replace(HI, body_bytes=1_000_000)))
    await asyncio.to_thread(begun.wait, 10)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await asyncio.to_thread(spent.wait, 10)

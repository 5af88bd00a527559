"""The Narrative backend in front of the sandbox, over real sockets: what is submitted, and what comes of it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from proxy.access.authentication import Caller
from proxy.backends.narrative.backend import NarrativeBackend, NarrativeRun
from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.fallbacks import Fallbacks
from proxy.backends.narrative.jobs import Jobs
from proxy.catalog import Catalog, ModelCard
from proxy.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PaidFailure,
    ProxyError,
    RateLimited,
)
from proxy.inference.backend import Record, RunOptions
from proxy.inference.request import JsonOutput, Message, Request, Rules, Text, Tool
from proxy.inference.result import ChoiceEnded, Ended, Event, Result, Started, fold
from proxy.lifecycle import Lifecycle
from proxy.sandbox import SANDBOX_DATA_PLANE, RunningSandbox, SandboxOptions, serve_sandbox
from proxy.storage import MemoryStore
from tests.scripts import script

CARD = ModelCard(id="anthropic.claude-haiku-4.5", names=("haiku",), max_tokens=4096)
CALLER = Caller(None, SANDBOX_DATA_PLANE, id="me")


@dataclass
class Setting:
    sandbox: RunningSandbox
    backend: NarrativeBackend
    record: Record

    async def start(self, request: Request) -> NarrativeRun:
        return await self.backend.start(request, CALLER, RunOptions(record=self.record))

    async def result(self, request: Request) -> tuple[Result, NarrativeRun]:
        run = await self.start(request)
        return await run.result(), run

    @property
    def paid(self) -> int:
        return int(self.sandbox.store.enqueued)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [job.body for job in self.sandbox.store.jobs()]


def options(**fields: Any) -> SandboxOptions:
    return SandboxOptions(pending_s=0, running_s=0.05, **fields)


@pytest.fixture(params=["reject", "fail"])
async def setting(request: pytest.FixtureRequest) -> AsyncIterator[Setting]:
    """The sandbox refuses what it does not accept at once, or by a failed job."""
    store = MemoryStore()
    async with (
        serve_sandbox(options(refusals=request.param, context_tokens=5_000)) as sandbox,
        NarrativeClient("any-key-will-do", environment=sandbox.url) as client,
        Jobs(store=store) as jobs,
    ):
        backend = NarrativeBackend(
            catalog=Catalog((CARD,)),
            rules=Rules(),
            client=client,
            jobs=jobs,
            store=store,
            fallbacks=Fallbacks(),
            lifecycle=Lifecycle(1.0),
            spent=lambda *_: None,
            further_job=lambda _: None,
        )
        yield Setting(sandbox, backend, Record("run:1", UUID(int=1), 3600.0))


def asking(text: str, **fields: Any) -> Request:
    return replace(Request("haiku", (Message("user", (Text(text),), "messages[0]"),)), **fields)


def attempts(*directives: dict[str, Any]) -> str:
    return script(key=uuid4().hex, attempts=list(directives))


async def read_all(run: NarrativeRun) -> list[Event]:
    return [event async for batch in run.events() for event in batch]


async def test_whole_and_streamed_answers_are_the_same(setting: Setting) -> None:
    request = asking(script(text="Hello there."))
    whole, run = await setting.result(request)
    streamed = fold(await read_all(await setting.start(request)))
    assert whole.choices == streamed.choices
    assert (whole.id, whole.usage) == (streamed.id, streamed.usage)
    assert whole.id == run.report.job_ids[0].replace("-", "")
    assert setting.paid == 1


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        ("input length and `max_tokens` exceed context limit: 1 + 2 > 2, decrease input length", ContextLengthExceeded),
        ("ThrottlingException: Too many tokens, please wait before trying again.", RateLimited),
        ("ServiceUnavailableException: Bedrock is unable to process your request.", Overloaded),
        ("max_tokens: 64064 > 64000, which is the maximum allowed number of output tokens for claude", InvalidRequest),
        ("`temperature` and `top_p` cannot both be specified for this model.", InvalidRequest),
        ("Model unavailable", ModelNotFound),
        ("Something odd", PaidFailure),
    ],
)
async def test_a_failed_job_is_the_error_of_its_cause(setting: Setting, cause: str, kind: type[ProxyError]) -> None:
    with pytest.raises(kind) as caught:
        await setting.result(asking(script(fail=cause)))
    assert type(caught.value) is kind
    assert cause in caught.value.message
    assert setting.paid == 1


async def test_a_prompt_that_is_too_long_is_the_clients_to_shorten(setting: Setting) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        await setting.result(asking("word " * 40_000))
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


async def test_one_failed_choice_is_tried_once_more(setting: Setting) -> None:
    result, run = await setting.result(asking(attempts({"text": "a"}, {"fail": "odd"}, {"text": "b"}), choices=2))
    assert {choice.text for choice in result.choices} == {"a", "b"}
    assert setting.paid == len(run.report.job_ids) == 3


async def test_a_choice_that_fails_twice_comes_last_and_an_equal_request_pays_for_it_alone(setting: Setting) -> None:
    request = asking(attempts({"text": "a"}, {"fail": "odd"}, {"fail": "odd"}, {"text": "b"}), choices=2)
    run = await setting.start(request)
    events: list[Event] = []

    async def read() -> None:
        async for batch in run.events():
            events.extend(batch)

    with pytest.raises(PaidFailure) as caught:
        await read()
    assert [type(event) for event in events if isinstance(event, Started | ChoiceEnded | Ended)] == [
        Started,
        ChoiceEnded,
    ]
    assert all(job_id in caught.value.message for job_id in run.report.job_ids)
    assert len(run.report.job_ids) == setting.paid == 3
    result, _ = await setting.result(request)
    assert {choice.text for choice in result.choices} == {"a", "b"}
    assert setting.paid == 4


async def test_one_level_of_wrapping_too_many_costs_no_job(setting: Setting) -> None:
    result, _ = await setting.result(asking(script(output={"response": {"content": "Hi."}})))
    assert result.choices[0].text == "Hi."
    assert setting.paid == 1


async def test_failures_do_not_show_the_key(setting: Setting) -> None:
    with pytest.raises(PaidFailure) as caught:
        await setting.result(asking(script(fail="bad token any-key-will-do")))
    assert "any-key-will-do" not in caught.value.message


POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}


async def test_structured_output_that_does_not_match_is_repaired(setting: Setting) -> None:
    wrong, right = {"output": {"x": "one"}}, {"output": {"x": 1}}
    result, _ = await setting.result(asking(attempts(wrong, right), output=JsonOutput(POINT, strict=True)))
    assert result.choices[0].text == '{"x":1}'
    assert "$.x" in setting.bodies[-1]["messages"][-1]["content"][0]["text"]
    assert setting.paid == 2


WEATHER = Tool("weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}})
NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
WIDE = Tool("wide", parameters={"type": "object", "properties": {"v": {"anyOf": [NAMED, POINT]}}})


async def test_only_the_refused_schema_is_simplified(setting: Setting) -> None:
    """The card promises `anyOf`, which this sandbox refuses."""
    full = CARD.model_copy(update={"schema_keywords": "full"})
    setting.backend = replace(setting.backend, catalog=Catalog((full,)))
    calls = script(calls=[{"name": "wide", "arguments": {"v": {"x": 1}}}])
    for number in range(2):
        setting.record = replace(setting.record, name=f"run:{number}", seed=uuid4())
        result, run = await setting.result(asking(calls, tools=(WEATHER, WIDE)))
        assert result.choices[0].tool_calls[0].arguments == {"v": {"x": 1}}
        assert run.report.adjusted == ("tools: wide written in the simple form, with arguments as JSON text",)
        items = setting.bodies[-1]["inference_config"]["output_format_schema"]["properties"]["tool_calls"]["items"]
        assert {name: schema["type"] for name, schema in items["properties"].items()} == {
            "weather": "object",
            "wide": "string",
        }
    setting.record = replace(setting.record, name="run:other", seed=uuid4())
    _, run = await setting.result(asking(script(text="Hi."), tools=(WEATHER,)))
    assert run.report.adjusted == ()
    assert setting.paid == 3 + (len(setting.sandbox.store.refused) == 0)

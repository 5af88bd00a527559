"""Ended jobs → completions, or errors that name the job."""

import json
from typing import Any

import pytest

from proxy.api.http.bodies import parse_body
from proxy.backends.narrative.types import Job, Usage
from proxy.catalog import ModelCard
from proxy.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    ProxyError,
    UpstreamError,
)
from proxy.translate.plan import Plan, PlanRules, make_plan
from proxy.translate.reply import Ending, add_usage, completion, invalid_output, read_ending, stamp_of
from proxy.wire.openai import ChatRequest

CARD = ModelCard(id="anthropic.claude-haiku-4.5", names=("haiku",), max_tokens=4096)
TOOL = {"type": "function", "function": {"name": "look"}}
ID = "a81e1460-fbdc-4204-bd76-a9e496bf760d"


def plan(**fields: Any) -> Plan:
    body = {"model": "haiku", "messages": [{"role": "user", "content": "hi"}], **fields}
    return make_plan(
        parse_body(ChatRequest, json.dumps(body).encode()), CARD, PlanRules(efforts={"low": 1024, "medium": 2048})
    )


def done(output: Any, id_: str = ID) -> Job:
    return Job.model_validate({"id": id_, "state": "completed", "result": {"structured_output": output}})


def failed(*failures: Any, **fields: Any) -> Job:
    return Job.model_validate({"id": ID, "state": "failed", "failures": list(failures), **fields})


def choice(made: Plan, job: Job) -> Any:
    stamp = stamp_of(made, job.id, created=1, upstream_url="u")
    return completion(made, stamp, [read_ending(made.envelope, job)])["choices"][0]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Invalid schema", InvalidRequest),
        ("Model unavailable", ModelNotFound),
        ("Invalid data plane", PermissionDenied),
        ("prompt is too long: 250000 tokens > 200000 maximum", ContextLengthExceeded),
        ("Input is too long for requested model: context window exceeded", ContextLengthExceeded),
        ("Something else", UpstreamError),
        ("", UpstreamError),
    ],
)
def test_a_failed_job_is_the_error_of_its_cause_with_narratives_words_and_the_job(
    words: str, kind: type[ProxyError]
) -> None:
    for failure in (words, {"message": words}, {"error": words, "error_description": "more"}):
        with pytest.raises(kind) as caught:
            read_ending(plan().envelope, failed(failure))
        assert words in caught.value.message
        assert ID in caught.value.message
        assert caught.value.job_id == ID
        assert caught.value.retry_after is None


def test_a_failed_job_without_a_cause_and_a_cancelled_one_are_upstream_errors() -> None:
    for job, code in ((failed(), "narrative_job_failed"), (Job(id=ID, state="cancelled"), "narrative_job_cancelled")):
        with pytest.raises(UpstreamError) as caught:
            read_ending(plan().envelope, job)
        assert caught.value.code == code


def test_the_token_limit_is_an_answer_with_whatever_text_there_is() -> None:
    made = plan()
    assert choice(made, failed("Token limit exceeded"))["message"]["content"] == ""
    partial = failed("Token limit exceeded", result={"structured_output": {"content": "so far"}})
    assert (choice(made, partial)["message"]["content"], choice(made, partial)["finish_reason"]) == ("so far", "length")


def test_a_call_cut_by_the_token_limit_is_dropped() -> None:
    partial = failed(
        "Token limit exceeded", result={"structured_output": {"content": "", "tool_calls": [{"look": {}}]}}
    )
    cut = choice(plan(tools=[TOOL]), partial)
    assert "tool_calls" not in cut["message"]
    assert (cut["message"]["content"], cut["finish_reason"]) == ("", "length")


@pytest.mark.parametrize("words", ["Blocked by guardrail", "content_filter", "Rejected by the safety system"])
def test_a_content_filter_is_an_answer(words: str) -> None:
    assert choice(plan(), failed(words))["finish_reason"] == "content_filter"


@pytest.mark.parametrize(
    "options", [{}, {"tool_choice": "required"}, {"tool_choice": {"type": "function", "function": {"name": "look"}}}]
)
def test_the_finish_reason_is_tool_calls_exactly_when_there_are_calls(options: dict) -> None:
    made = plan(tools=[TOOL], **options)
    assert choice(made, done({"content": "", "tool_calls": [{"look": {}}]}))["finish_reason"] == "tool_calls"
    if not options:
        assert choice(made, done({"content": "x", "tool_calls": []}))["finish_reason"] == "stop"


def test_content_is_null_beside_calls_unless_the_model_really_wrote_text() -> None:
    made = plan(tools=[TOOL])
    calls = [{"look": {}}]
    assert choice(made, done({"content": " ", "tool_calls": calls}))["message"]["content"] is None
    assert choice(made, done({"content": "Well.", "tool_calls": calls}))["message"]["content"] == "Well."
    assert choice(made, done({"content": "", "tool_calls": []}))["message"]["content"] == ""


def test_call_ids_are_unique_for_ever_and_the_same_for_the_same_job() -> None:
    made = plan(tools=[TOOL])
    output = {"tool_calls": [{"look": {}}, {"look": {}}]}
    first = [call["id"] for call in choice(made, done(output))["message"]["tool_calls"]]
    again = [call["id"] for call in choice(made, done(output))["message"]["tool_calls"]]
    other = [call["id"] for call in choice(made, done(output, ID.replace("a", "b")))["message"]["tool_calls"]]
    assert first == again
    assert len({*first, *other}) == 4
    assert all(id_.startswith("call_") and len(id_) <= 40 for id_ in first)


def test_arguments_are_always_the_text_of_a_json_object() -> None:
    made = plan(tools=[TOOL])
    for arguments in ({}, None, "", "{}"):
        message = choice(made, done({"tool_calls": [{"look": arguments}]}))["message"]
        assert message["tool_calls"][0]["function"]["arguments"] == "{}"


def test_stop_cuts_free_text_at_its_first_appearance_and_leaves_structured_output_alone() -> None:
    assert choice(plan(stop=["b", "d"]), done({"content": "a d b"}))["message"]["content"] == "a "
    structured = plan(stop="x", response_format={"type": "json_object"})
    assert choice(structured, done({"x": 1}))["message"]["content"] == '{"x":1}'


def test_never_more_words_than_tokens_were_allowed() -> None:
    made = plan(max_tokens=2)
    cut = choice(made, done({"content": "one two three"}))
    assert (cut["message"]["content"], cut["finish_reason"]) == ("one two", "length")
    whole = choice(made, done({"content": "one two\n"}))
    assert (whole["message"]["content"], whole["finish_reason"]) == ("one two\n", "stop")


def test_no_reasoning_field_rather_than_an_empty_one() -> None:
    message = choice(plan(extended_thinking=True), done({"reasoning": "", "content": "x"}))["message"]
    assert message.keys() == {"role", "content", "refusal"}


def test_usage_is_summed_and_its_total_made_where_it_is_missing() -> None:
    made = plan(n=2)
    endings = [
        Ending(
            done({"content": "x"}),
            made.envelope.read({"content": "x"}),
            "stop",
            Usage(prompt_tokens=3, completion_tokens=1),
        )
        for _ in range(2)
    ]
    whole = completion(made, stamp_of(made, ID, created=1, upstream_url="u"), endings)
    assert whole["usage"] == {"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8}
    assert (
        add_usage(Usage(prompt_tokens=1), Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)).total_tokens == 3
    )


def test_the_fingerprint_is_stable_per_upstream() -> None:
    one, again, other = (stamp_of(plan(), ID, created=1, upstream_url=url).fingerprint for url in ("a", "a", "b"))
    assert one == again != other


def test_output_that_must_not_be_handed_out_is_an_error_with_its_first_faults() -> None:
    ending = read_ending(plan().envelope, done(None))
    assert ending.reading.fatal
    error = invalid_output(ending)
    assert (error.status, error.code, error.job_id) == (502, "narrative_invalid_output", ID)
    assert ending.reading.faults[0] in error.message

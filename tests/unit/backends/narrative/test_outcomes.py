"""Ended jobs → choices, or errors that name the job."""

from typing import Any

import pytest

from proxy.backends.narrative.output import OutputFormat, choice_of, invalid_output, read_job, usage_of
from proxy.backends.narrative.tools import Part, Toolset
from proxy.backends.narrative.types import Job, JobUsage
from proxy.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PaidFailure,
    PermissionDenied,
    ProxyError,
    RateLimited,
)
from proxy.inference.result import Choice, Usage
from proxy.schemas import compile_schema
from tests.records import job_of

ID = "a81e1460-fbdc-4204-bd76-a9e496bf760d"
TEXT = OutputFormat()
LOOK = Part("look", "look", "", compile_schema(None, param="p", parameters=True))


def tools(**options: bool) -> OutputFormat:
    return OutputFormat(tools=Toolset((LOOK,), **options))


def done(output: Any, id_: str = ID, **usage: int) -> Job:
    return job_of({"id": id_, "state": "completed", "result": {"structured_output": output, "usage": usage}})


def failed(*failures: Any, **fields: Any) -> Job:
    return job_of({"id": ID, "state": "failed", "failures": list(failures), **fields})


def read(expected: OutputFormat, job: Job) -> Choice:
    return choice_of(expected, read_job(expected, job, "; ".join(job.failures)))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Invalid schema", InvalidRequest),
        ("Model unavailable", ModelNotFound),
        ("Invalid data plane", PermissionDenied),
        ("prompt is too long: 250000 tokens > 200000 maximum", ContextLengthExceeded),
        ("Input is too long for requested model: context window exceeded", ContextLengthExceeded),
        ("ThrottlingException: Too many tokens, please wait before trying again.", RateLimited),
        ("Overloaded", Overloaded),
        ("Something else", PaidFailure),
        ("", PaidFailure),
    ],
)
def test_a_failed_job_is_the_error_of_its_cause_with_narratives_text_and_the_job(
    text: str, kind: type[ProxyError]
) -> None:
    for failure in (text, {"message": text}, {"error": text, "error_description": "more"}):
        with pytest.raises(kind) as caught:
            read(TEXT, failed(failure))
        assert text in caught.value.message
        assert ID in caught.value.message
        assert caught.value.job_id == ID
        assert (caught.value.retry_after is not None) is (kind in (RateLimited, Overloaded))


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (failed(), "narrative_job_failed"),
        (Job(id=ID, state="cancelled"), "narrative_job_cancelled"),
        (Job(id=ID, state="completed"), "narrative_invalid_output"),
    ],
)
def test_a_job_that_ends_without_an_answer_is_a_paid_failure(job: Job, code: str) -> None:
    with pytest.raises(PaidFailure) as caught:
        read(TEXT, job)
    assert (caught.value.status, caught.value.code, caught.value.job_id) == (424, code, ID)
    assert ID in caught.value.message


def test_a_completed_job_without_a_result_says_so() -> None:
    with pytest.raises(PaidFailure, match="holds no result"):
        read(TEXT, Job(id=ID, state="completed"))


def test_the_token_limit_is_an_answer_with_whatever_text_there_is() -> None:
    assert read(TEXT, failed("Token limit exceeded")) == Choice(text="", finish_reason="length")
    partial = failed("Token limit exceeded", result={"structured_output": {"content": "so far"}})
    assert read(TEXT, partial) == Choice(text="so far", finish_reason="length")


def test_numbers_that_json_does_not_have_are_read_as_null() -> None:
    for number in (float("inf"), float("nan")):
        assert read(TEXT, done({"content": number})) == Choice(text="")


def test_a_call_cut_by_the_token_limit_is_dropped() -> None:
    output = {"content": "", "tool_calls": [{"look": {}}]}
    assert read(tools(), failed("Token limit exceeded", result={"structured_output": output})) == Choice(
        text="", finish_reason="length"
    )


@pytest.mark.parametrize("text", ["Blocked by guardrail", "content_filter", "Rejected by the safety system"])
def test_a_content_filter_is_an_answer(text: str) -> None:
    assert read(TEXT, failed(text)).finish_reason == "content_filter"


@pytest.mark.parametrize("options", [{}, {"required": True}, {"required": True, "single": True}])
def test_the_finish_reason_is_tool_calls_exactly_when_there_are_calls(options: dict[str, bool]) -> None:
    assert read(tools(**options), done({"content": "", "tool_calls": [{"look": {}}]})).finish_reason == "tool_calls"
    if not options:
        assert read(tools(), done({"content": "x", "tool_calls": []})).finish_reason == "stop"


def test_there_is_no_text_beside_calls_unless_the_model_really_wrote_some() -> None:
    calls = [{"look": {}}]
    assert read(tools(), done({"content": " ", "tool_calls": calls})).text is None
    assert read(tools(), done({"content": "Well.", "tool_calls": calls})).text == "Well."
    assert read(tools(), done({"content": "", "tool_calls": []})).text == ""


def test_call_ids_are_unique_for_good_and_the_same_for_the_same_job() -> None:
    output = {"tool_calls": [{"look": {}}, {"look": {}}]}
    first, again, other = (
        [call.id for call in read(tools(), done(output, id_)).tool_calls] for id_ in (ID, ID, ID.replace("a", "b"))
    )
    assert first == again
    assert len({*first, *other}) == 4
    assert all(len(id_) == 24 and set(id_) <= set("0123456789abcdef") for id_ in first)


def test_arguments_are_always_an_object() -> None:
    for arguments in ({}, None, "", "{}"):
        assert read(tools(), done({"tool_calls": [{"look": arguments}]})).tool_calls[0].arguments == {}


@pytest.mark.parametrize(
    ("text", "stop", "kept", "matched"),
    [
        ("a d b", ("b", "d"), "a ", "d"),
        ("END of it", ("END",), "", "END"),
        ("no match", ("x",), "no match", None),
        ("", ("x",), "", None),
        ("ab", ("b", "ab"), "", "ab"),
    ],
)
def test_stop_cuts_free_text_at_its_first_appearance(
    text: str, stop: tuple[str, ...], kept: str, matched: str | None
) -> None:
    choice = read(OutputFormat(stop=stop), done({"content": text}))
    assert (choice.text, choice.stop_sequence, choice.finish_reason) == (kept, matched, "stop")


def test_never_more_words_than_tokens_were_allowed() -> None:
    two_words = OutputFormat(max_words=2, stop=("three",))
    assert read(two_words, done({"content": "one two four"})) == Choice(text="one two", finish_reason="length")
    assert read(two_words, done({"content": "one two\n"})) == Choice(text="one two\n")
    assert read(two_words, done({"content": "one two three"})) == Choice(text="one two ", stop_sequence="three")


def test_reasoning_is_delivered_where_it_is_wanted_and_never_empty() -> None:
    shown, hidden = (OutputFormat(reasoning_budget=2000, reasoning_shown=shown) for shown in (True, False))
    output = {"reasoning": "hm", "content": "x"}
    assert read(shown, done(output)).reasoning == "hm"
    assert read(hidden, done(output)).reasoning is None
    assert read(shown, done({"reasoning": "", "content": "x"})).reasoning is None


def test_a_missing_total_is_the_sum() -> None:
    assert usage_of(JobUsage(prompt_tokens=3, completion_tokens=1, total_tokens=9)) == Usage(3, 1, 9)
    job = done({"content": "x"}, prompt_tokens=3, completion_tokens=1)
    assert job.result
    assert usage_of(job.result.usage) == Usage(3, 1, 4)


def test_output_that_must_not_be_delivered_is_a_paid_failure_with_its_first_errors() -> None:
    outcome = read_job(TEXT, done(None), "")
    assert outcome.parsed.undeliverable
    error = invalid_output(outcome)
    assert (error.status, error.code, error.job_id) == (424, "narrative_invalid_output", ID)
    assert outcome.parsed.errors[0] in error.message

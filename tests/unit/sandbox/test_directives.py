"""The directive that scripts a job (docs/sandbox.md)."""

from typing import Any

import orjson
import pytest

from proxy.sandbox.http import SandboxError
from proxy.sandbox.jobs import JobQuery
from proxy.sandbox.submission import without_directives
from tests.unit.sandbox.building import CONTENT, StoppedSandbox, as_text, calls, keyed, results, says, tagged


def scripted(words: str = "", **fields: Any) -> dict[str, Any]:
    return says("user", f"[[sandbox {orjson.dumps(fields).decode()}]] {words}")


@pytest.mark.parametrize("output", [{"content": "x"}, "not even an object", None, [1], {"content": {"[[": "]]"}}])
def test_output_is_exact_even_where_it_does_not_match_the_schema(output: Any) -> None:
    assert StoppedSandbox().output(scripted(output=output)) == output


def test_output_may_hold_what_no_encoder_likes() -> None:
    assert (
        StoppedSandbox().submit(says("user", '[[sandbox {"output": {"content": "\\ud83d"}}]]')).result_json is not None
    )
    record = (
        StoppedSandbox().submit(scripted(output=0) | says("user", f'[[sandbox {{"output": {2**70}}}]]')).result_json
    )
    assert record is not None
    assert str(2**70).encode() in record


def test_text_goes_where_free_text_goes() -> None:
    sandbox = StoppedSandbox()
    assert sandbox.output(scripted(text=" exact\n")) == {"content": " exact\n"}
    assert sandbox.output(scripted("weather", text="no"), schema=keyed()) == {"content": "no", "tool_calls": []}
    other = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "title": {"type": "string"}},
        "required": ["n", "title"],
    }
    assert sandbox.output(scripted(text="no"), schema=other) == {"n": 1, "title": "no"}


def test_calls_are_written_in_the_shape_that_is_offered() -> None:
    wanted = scripted(calls=[{"name": "get_weather", "arguments": {"city": 3}}, {"name": "unknown"}])
    assert StoppedSandbox().output(wanted, schema=keyed())["tool_calls"] == [
        {"get_weather": {"city": 3}},
        {"unknown": {}},
    ]
    assert StoppedSandbox(schema_keywords="full").output(wanted, schema=tagged())["tool_calls"] == [
        {"name": "get_weather", "arguments": {"city": 3}},
        {"name": "unknown", "arguments": {}},
    ]
    assert StoppedSandbox().output(wanted, schema=as_text())["tool_calls"] == [
        {"name": "get_weather", "arguments": '{"city": 3}'},
        {"name": "unknown", "arguments": "{}"},
    ]


def test_arguments_given_as_text_stay_as_they_are() -> None:
    wanted = scripted(calls=[{"name": "get_weather", "arguments": '{"city": '}])
    assert StoppedSandbox().output(wanted, schema=as_text())["tool_calls"] == [
        {"name": "get_weather", "arguments": '{"city": '}
    ]


def test_calls_are_made_once_and_the_model_continues_from_their_results() -> None:
    talk = [scripted("go", calls=[{"name": "get_time"}]), calls("get_time"), results(get_time="noon")]
    assert StoppedSandbox().output(*talk, schema=keyed()) == {"content": "get_time returned: noon", "tool_calls": []}


def test_calls_without_an_offer_are_a_mistake_that_is_reported() -> None:
    with pytest.raises(SandboxError, match="offers no tool_calls"):
        StoppedSandbox().submit(scripted(calls=[]))


def test_outputs_follow_the_attempts_with_the_same_key() -> None:
    sandbox = StoppedSandbox()
    first = scripted(outputs=[{"content": "bad"}, {"content": "good"}], key="a")
    other = scripted(outputs=[{"content": "bad"}, {"content": "good"}], key="b")
    said = [sandbox.output(message)["content"] for message in (first, first, other, first)]
    assert said == ["bad", "good", "bad", "good"]


def test_attempts_are_directives_of_their_own() -> None:
    sandbox = StoppedSandbox()
    message = scripted(key="a", attempts=[{"fail": "Invalid schema"}, {"text": "fine"}])
    assert sandbox.ended(message)["state"] == "failed"
    assert sandbox.ended(message)["result"]["structured_output"] == {"content": "fine"}


def test_attempts_need_a_key() -> None:
    with pytest.raises(SandboxError, match="key"):
        StoppedSandbox().submit(scripted(outputs=[1]))


def test_fail_gives_a_failed_job_with_that_cause() -> None:
    record = StoppedSandbox().ended(scripted(fail="Token limit exceeded"))
    assert (record["state"], record["result"]) == ("failed", None)
    assert record["failures"] == [{"cause": "Token limit exceeded", "message": "The response would exceed max_tokens"}]
    assert StoppedSandbox().ended(scripted(fail="Odd"))["failures"] == [{"cause": "Odd", "message": "Odd"}]


def test_fail_may_give_the_failures_as_they_are() -> None:
    failures = [{"reason": "throttled"}, "a bare string", {}]
    record = StoppedSandbox().ended(scripted(fail=failures))
    assert (record["state"], record["failures"]) == ("failed", failures)
    assert StoppedSandbox().ended(scripted(fail=[]))["state"] == "failed"


@pytest.mark.parametrize(
    ("spelling", "state", "has_result"),
    [("COMPLETED", "completed", True), ("Failed", "failed", False), ("canceled", "cancelled", False)],
)
def test_an_ended_state_may_be_spelled_otherwise_and_is_found_all_the_same(
    spelling: str, state: str, has_result: bool
) -> None:
    sandbox = StoppedSandbox()
    job = sandbox.submit(scripted(state=spelling))
    sandbox.now = job.ended_at
    record = orjson.loads(job.record(sandbox.now))
    assert (record["state"], record["result"] is not None) == (spelling, has_result)
    assert sandbox.listed(JobQuery(state=state)) == [job.id]


def test_a_completed_job_may_withhold_its_result_for_some_reads() -> None:
    sandbox = StoppedSandbox()
    job = sandbox.submit(scripted(withhold=2))
    assert orjson.loads(job.record(job.created_at))["state"] == "pending"
    records = [orjson.loads(job.record(job.ended_at)) for _ in range(4)]
    assert [record["state"] for record in records] == ["completed"] * 4
    assert [record["result"] is None for record in records] == [True, True, False, False]


@pytest.mark.parametrize(
    ("state", "later"),
    [
        ("pending", "pending"),
        ("running", "running"),
        ("paused", "paused"),
        ("pending_cancellation", "pending_cancellation"),
        ("cancelled", "cancelled"),
        ("failed", "failed"),
        ("completed", "completed"),
    ],
)
def test_a_state_is_reached_or_kept_for_ever(state: str, later: str) -> None:
    sandbox = StoppedSandbox()
    job = sandbox.submit(scripted(state=state))
    assert job.state_at(sandbox.now) == "pending"
    assert job.state_at(sandbox.now + 1e6) == later


def test_delay_is_the_running_time() -> None:
    sandbox = StoppedSandbox()
    job = sandbox.submit(scripted(delay=10))
    assert job.state_at(sandbox.now + 10.9) == "running"
    assert job.state_at(sandbox.now + 11) == "completed"


def test_reject_refuses_the_submission_as_told() -> None:
    sandbox = StoppedSandbox()
    with pytest.raises(SandboxError) as caught:
        sandbox.submit(scripted(reject={"status": 429, "headers": {"Retry-After": "1"}, "body": {"a": 1}}))
    assert (caught.value.status, caught.value.headers, caught.value.body) == (429, {"Retry-After": "1"}, {"a": 1})
    assert len(sandbox.store) == 0


def test_reject_can_be_for_the_first_times_only() -> None:
    sandbox = StoppedSandbox()
    message = scripted(key="k", reject={"status": 503, "times": 2}, text="at last")
    for _ in range(2):
        with pytest.raises(SandboxError):
            sandbox.submit(message)
    assert sandbox.output(message) == {"content": "at last"}


def test_usage_is_taken_over() -> None:
    usage = StoppedSandbox().ended(scripted(usage={"prompt_tokens": 7, "total_tokens": None}))["result"]["usage"]
    assert (usage["prompt_tokens"], usage["total_tokens"]) == (7, None)
    assert usage["completion_tokens"] > 0


def test_usage_may_be_fractional_or_absent() -> None:
    usage = StoppedSandbox().ended(scripted(usage={"prompt_tokens": 7.5}))["result"]["usage"]
    assert usage["prompt_tokens"] == 7.5
    assert StoppedSandbox().ended(scripted(usage="absent"))["result"].keys() == {"structured_output"}


def test_the_last_user_turn_with_a_directive_counts() -> None:
    talk = [
        scripted(text="old"),
        says("assistant", "x"),
        scripted(text="new"),
        says("assistant", "y"),
        says("user", "go on"),
    ]
    assert StoppedSandbox().output(*talk) == {"content": "new"}


def test_the_words_of_assistant_and_system_turns_are_no_directives() -> None:
    talk = [
        says("system", '[[sandbox {"text": "s"}]]'),
        says("user", "a"),
        says("assistant", '[[sandbox {"text": "a"}]]'),
    ]
    assert StoppedSandbox().output(*talk, says("user", "b")) == {"content": "You said: b"}


@pytest.mark.parametrize(
    "text",
    [
        "[[sandbox {]]",
        "[[sandbox ]]",
        "[[sandbox []]]",
        '[[sandbox {"text": "a"}',
        '[[sandbox {"txt": "a"}]]',
        '[[sandbox {"text": 1}]]',
        '[[sandbox {"delay": -1}]]',
        '[[sandbox {"reject": {"status": 200}}]]',
    ],
)
def test_a_malformed_directive_is_a_400_that_says_so(text: str) -> None:
    with pytest.raises(SandboxError, match="Malformed sandbox directive") as caught:
        StoppedSandbox().submit(says("user", text))
    assert caught.value.status == 400


def test_the_model_does_not_see_the_directive() -> None:
    assert StoppedSandbox().output(scripted("The sky is blue", delay=1)) == {"content": "You said: The sky is blue"}
    assert without_directives('a [[sandbox {"output": {"x": "]]"}}]]b [[sandbox oops') == "a b [[sandbox oops"


def test_content_schema_is_the_plain_case() -> None:
    assert StoppedSandbox().output(scripted(text=""), schema=CONTENT) == {"content": ""}

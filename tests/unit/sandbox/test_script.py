"""The directive that scripts a job (docs/sandbox.md)."""

from typing import Any

import orjson
import pytest

from proxy.sandbox.refusal import Refusal
from proxy.sandbox.script import without_directives
from tests.unit.sandbox.building import CONTENT, Counter, as_text, calls, keyed, results, says, tagged


def scripted(words: str = "", **fields: Any) -> dict[str, Any]:
    return says("user", f"[[sandbox {orjson.dumps(fields).decode()}]] {words}")


@pytest.mark.parametrize("output", [{"content": "x"}, "not even an object", None, [1], {"content": {"[[": "]]"}}])
def test_output_is_exact_even_where_it_does_not_match_the_schema(output: Any) -> None:
    assert Counter().output(scripted(output=output)) == output


def test_output_may_hold_what_no_encoder_likes() -> None:
    assert Counter().submit(says("user", '[[sandbox {"output": {"content": "\\ud83d"}}]]')).result_json is not None
    record = Counter().submit(scripted(output=0) | says("user", f'[[sandbox {{"output": {2**70}}}]]')).result_json
    assert record is not None
    assert str(2**70).encode() in record


def test_text_goes_where_free_text_goes() -> None:
    counter = Counter()
    assert counter.output(scripted(text=" exact\n")) == {"content": " exact\n"}
    assert counter.output(scripted("weather", text="no"), schema=keyed()) == {"content": "no", "tool_calls": []}
    other = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "title": {"type": "string"}},
        "required": ["n", "title"],
    }
    assert counter.output(scripted(text="no"), schema=other) == {"n": 1, "title": "no"}


def test_calls_are_written_in_the_shape_that_is_offered() -> None:
    wanted = scripted(calls=[{"name": "get_weather", "arguments": {"city": 3}}, {"name": "unknown"}])
    assert Counter().output(wanted, schema=keyed())["tool_calls"] == [{"get_weather": {"city": 3}}, {"unknown": {}}]
    assert Counter(schema_keywords="full").output(wanted, schema=tagged())["tool_calls"] == [
        {"name": "get_weather", "arguments": {"city": 3}},
        {"name": "unknown", "arguments": {}},
    ]
    assert Counter().output(wanted, schema=as_text())["tool_calls"] == [
        {"name": "get_weather", "arguments": '{"city": 3}'},
        {"name": "unknown", "arguments": "{}"},
    ]


def test_arguments_given_as_text_stay_as_they_are() -> None:
    wanted = scripted(calls=[{"name": "get_weather", "arguments": '{"city": '}])
    assert Counter().output(wanted, schema=as_text())["tool_calls"] == [
        {"name": "get_weather", "arguments": '{"city": '}
    ]


def test_calls_are_made_once_and_the_persona_goes_on_from_their_results() -> None:
    talk = [scripted("go", calls=[{"name": "get_time"}]), calls("get_time"), results(get_time="noon")]
    assert Counter().output(*talk, schema=keyed()) == {"content": "Get time says: noon", "tool_calls": []}


def test_calls_without_an_offer_are_a_mistake_that_is_told() -> None:
    with pytest.raises(Refusal, match="offers no tool_calls"):
        Counter().submit(scripted(calls=[]))


def test_outputs_follow_the_attempts_with_the_same_key() -> None:
    counter = Counter()
    first = scripted(outputs=[{"content": "bad"}, {"content": "good"}], key="a")
    other = scripted(outputs=[{"content": "bad"}, {"content": "good"}], key="b")
    said = [counter.output(message)["content"] for message in (first, first, other, first)]
    assert said == ["bad", "good", "bad", "good"]


def test_attempts_are_directives_of_their_own() -> None:
    counter = Counter()
    message = scripted(key="a", attempts=[{"fail": "Invalid schema"}, {"text": "fine"}])
    assert counter.ended(message)["state"] == "failed"
    assert counter.ended(message)["result"]["structured_output"] == {"content": "fine"}


def test_attempts_need_a_key() -> None:
    with pytest.raises(Refusal, match="key"):
        Counter().submit(scripted(outputs=[1]))


def test_fail_gives_a_failed_job_with_that_cause() -> None:
    record = Counter().ended(scripted(fail="Token limit exceeded"))
    assert (record["state"], record["result"]) == ("failed", None)
    assert record["failures"] == [{"cause": "Token limit exceeded", "message": "The response would exceed max_tokens"}]
    assert Counter().ended(scripted(fail="Odd"))["failures"] == [{"cause": "Odd", "message": "Odd"}]


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
    counter = Counter()
    job = counter.submit(scripted(state=state))
    assert job.state_at(counter.now) == "pending"
    assert job.state_at(counter.now + 1e6) == later


def test_delay_is_the_running_time() -> None:
    counter = Counter()
    job = counter.submit(scripted(delay=10))
    assert job.state_at(counter.now + 10.9) == "running"
    assert job.state_at(counter.now + 11) == "completed"


def test_reject_refuses_the_submission_as_told() -> None:
    counter = Counter()
    with pytest.raises(Refusal) as caught:
        counter.submit(scripted(reject={"status": 429, "headers": {"Retry-After": "1"}, "body": {"a": 1}}))
    assert (caught.value.status, caught.value.headers, caught.value.body) == (429, {"Retry-After": "1"}, {"a": 1})
    assert len(counter.store) == 0


def test_reject_can_be_for_the_first_times_only() -> None:
    counter = Counter()
    message = scripted(key="k", reject={"status": 503, "times": 2}, text="at last")
    for _ in range(2):
        with pytest.raises(Refusal):
            counter.submit(message)
    assert counter.output(message) == {"content": "at last"}


def test_usage_is_taken_over() -> None:
    usage = Counter().ended(scripted(usage={"prompt_tokens": 7, "total_tokens": None}))["result"]["usage"]
    assert (usage["prompt_tokens"], usage["total_tokens"]) == (7, None)
    assert usage["completion_tokens"] > 0


def test_the_last_user_turn_with_a_directive_counts() -> None:
    talk = [
        scripted(text="old"),
        says("assistant", "x"),
        scripted(text="new"),
        says("assistant", "y"),
        says("user", "go on"),
    ]
    assert Counter().output(*talk) == {"content": "new"}


def test_the_words_of_assistant_and_system_turns_are_no_directives() -> None:
    talk = [
        says("system", '[[sandbox {"text": "s"}]]'),
        says("user", "a"),
        says("assistant", '[[sandbox {"text": "a"}]]'),
    ]
    assert Counter().output(*talk, says("user", "b")) == {"content": "You said: b"}


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
    with pytest.raises(Refusal, match="Malformed sandbox directive") as caught:
        Counter().submit(says("user", text))
    assert caught.value.status == 400


def test_the_persona_does_not_hear_the_directive() -> None:
    assert Counter().output(scripted("The sky is blue", delay=1)) == {"content": "You said: The sky is blue"}
    assert without_directives('a [[sandbox {"output": {"x": "]]"}}]]b [[sandbox oops') == "a b [[sandbox oops"


def test_content_schema_is_the_plain_case() -> None:
    assert Counter().output(scripted(text=""), schema=CONTENT) == {"content": ""}

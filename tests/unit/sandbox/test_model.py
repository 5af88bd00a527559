"""The model: sensible answers, tool calls that the text asks for, and an end to every agent loop."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from proxy.sandbox import model
from tests.unit.sandbox.building import CONTENT, TOOLS, as_text, calls, keyed, results, says, tagged, turns
from tests.unit.sandbox.schema_strategies import documented_objects

HELLO = (
    "Hello! This is the sandbox, a stand-in for a real model. I call the tools you ask for and repeat everything else."
)
SHAPES = pytest.mark.parametrize("shape", [keyed, tagged, as_text])


def reply(schema: dict[str, Any], *messages: dict[str, Any]) -> dict[str, Any]:
    output = model.reply(schema, turns(*messages))
    Draft202012Validator(schema).validate(output)
    assert isinstance(output, dict)
    return output


def named_calls(output: dict[str, Any]) -> list[tuple[str, Any]]:
    """Calls of any shape as name and arguments."""
    found = []
    for call in output["tool_calls"]:
        if "name" in call:
            arguments = call["arguments"]
            found.append((call["name"], orjson.loads(arguments) if isinstance(arguments, str) else arguments))
        else:
            ((name, arguments),) = call.items()
            found.append((name, arguments))
    return found


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Hi!", HELLO),
        ("Good morning, sandbox.", HELLO),
        ("Hello! What is the capital of France?", "You said: Hello! What is the capital of France?"),
        ("What is 17 + 25?", "17 + 25 = 42"),
        ("2 - 3", "2 - 3 = -1"),
        ("How much is -4*12?", "-4*12 = -48"),
        ("On 2025-01-02 it was version 1.2-3", "You said: On 2025-01-02 it was version 1.2-3"),
        ("The sky is blue", "You said: The sky is blue"),
    ],
)
def test_it_answers_in_words(question: str, answer: str) -> None:
    assert reply(CONTENT, says("user", question)) == {"content": answer}


def test_it_answers_the_last_question() -> None:
    talk = [says("system", "Be brief"), says("user", "Hi"), says("assistant", "Hello"), says("user", "The sky is blue")]
    assert reply(CONTENT, *talk) == {"content": "You said: The sky is blue"}


def test_it_answers_what_the_user_wrote_and_not_what_an_agent_added() -> None:
    added = [
        "<system-reminder>\nDocuments\n</system-reminder>",
        "[system message]\nWrite a file.",
        "<env_now>a</env_now>\n<env-b>b</env-b>\n",
    ]
    asked = {
        "role": "user",
        "content": [{"type": "text", "text": text} for text in [added[0], "The sky is blue", *added]],
    }
    assert reply(CONTENT, asked) == {"content": "You said: The sky is blue"}
    only = {"role": "user", "content": [{"type": "text", "text": "<env_now>a</env_now>"}]}
    assert reply(CONTENT, only) == {"content": "You said: <env_now>a</env_now>"}
    assert reply(CONTENT, says("user", "<p-1>Why?")) == {"content": "You said: <p-1>Why?"}


def test_long_questions_are_not_echoed_whole() -> None:
    assert len(reply(CONTENT, says("user", "word " * 10_000))["content"]) < 600


@SHAPES
def test_it_calls_the_tool_that_the_words_suggest_with_their_values(shape: Callable[..., dict[str, Any]]) -> None:
    talk = [says("system", f"get_weather takes {orjson.dumps(TOOLS['get_weather']).decode()}")]
    output = reply(shape(), *talk, says("user", "What is the weather in Paris, in Celsius?"))
    assert output["content"] == ""
    assert named_calls(output) == [("get_weather", {"city": "Paris", "unit": "celsius"})]


def test_what_a_tool_is_called_is_nobody_s_name() -> None:
    output = reply(keyed(), says("user", "Weather in Paris?"))
    assert named_calls(output) == [("get_weather", {"city": "Paris"})]


@SHAPES
def test_it_does_not_call_without_a_reason(shape: Callable[..., dict[str, Any]]) -> None:
    output = reply(shape(), says("user", "Hello"))
    assert output == {"content": HELLO, "tool_calls": []}


@SHAPES
def test_it_calls_without_a_reason_where_the_schema_insists(shape: Callable[..., dict[str, Any]]) -> None:
    assert len(named_calls(reply(shape(minItems=1), says("user", "Hello")))) == 1
    assert len(named_calls(reply(shape(minItems=3), says("user", "Hello")))) == 3


@SHAPES
def test_it_turns_results_into_an_answer_and_does_not_call_again(shape: Callable[..., dict[str, Any]]) -> None:
    talk = [
        says("user", "Weather in Paris?"),
        calls("get_weather"),
        results(get_weather='{"sky": "clear", "degrees": 18}'),
    ]
    output = reply(shape(), *talk)
    assert output == {"content": 'get_weather returned: {"sky": "clear", "degrees": 18}', "tool_calls": []}


def test_a_failed_result_is_reported_as_one() -> None:
    failed = results(get_weather="no such city")
    failed["content"][0]["is_error"] = True
    output = reply(keyed(), says("user", "Weather in Paris?"), calls("get_weather"), failed)
    assert output["content"] == "get_weather failed: no such city"


def test_an_agent_loop_with_one_call_at_a_time_runs_to_its_end() -> None:
    schema = keyed(maxItems=1)
    talk = [says("user", "Weather and time in Oslo?")]
    used = []
    for _ in range(5):
        called = named_calls(reply(schema, *talk))
        if not called:
            break
        used += [name for name, _ in called]
        talk += [calls(called[0][0]), results(**{called[0][0]: "fine"})]
    assert used == ["get_weather", "get_time"]


def test_a_new_question_after_an_answer_is_answered_with_the_tool_again() -> None:
    talk = [says("user", "Weather in Paris?"), calls("get_weather"), results(get_weather="clear")]
    talk += [says("assistant", "get_weather returned: clear"), says("user", "And the weather in Oslo?")]
    assert named_calls(reply(keyed(), *talk)) == [("get_weather", {"city": "Oslo"})]


def test_calls_that_were_written_as_text_are_not_made_again() -> None:
    talk = [says("user", "Weather in Paris?"), says("assistant", 'Called get_weather with {"city": "Paris"}')]
    output = reply(keyed(), *talk, says("user", "Result of get_weather: clear"))
    assert output == {"content": "You said: Result of get_weather: clear", "tool_calls": []}


def tool(*names: str) -> dict[str, Any]:
    return keyed({name: {"type": "object", "properties": {}} for name in names})


@pytest.mark.parametrize(
    ("names", "question", "called"),
    [
        (["get_weather"], "What is the weather in Paris?", ["get_weather"]),
        (["getWeather"], "WEATHER?", ["getWeather"]),
        (["get-weather-forecast"], "What is the weather?", []),
        (["get_weather", "get_weather_forecast"], "The weather forecast, please", ["get_weather_forecast"]),
        (["get_weather", "get_weather_forecast"], "The weather, please", ["get_weather"]),
        (["list_files"], "Show me the file list", ["list_files"]),
        (["ask_user"], "And what did I ask before?", []),
        (["get_current_time"], "Who is the current president?", []),
        (["get"], "Please get it", ["get"]),
        (["f1"], "call f1", ["f1"]),
        (["_"], "a_b", []),
        (["send_mail", "get_time"], "Send a mail and tell the time", ["send_mail", "get_time"]),
    ],
)
def test_a_tool_is_called_when_the_text_has_every_significant_word_of_its_name(
    names: list[str], question: str, called: list[str]
) -> None:
    assert [name for name, _ in named_calls(reply(tool(*names), says("user", question)))] == called


def test_no_more_calls_are_made_than_the_schema_admits() -> None:
    output = reply(keyed(maxItems=1), says("user", "Weather and time in Oslo?"))
    assert named_calls(output) == [("get_weather", {"city": "Oslo"})]


def test_a_required_call_goes_to_the_tool_that_the_text_is_nearest_to() -> None:
    output = reply(keyed(minItems=1), says("user", "get_time"))
    assert [name for name, _ in named_calls(output)] == ["get_time"]


def test_reasoning_comes_before_and_an_unneeded_answer_is_null() -> None:
    schema = keyed()
    schema["properties"] = {
        "reasoning": {"type": "string"},
        "answer": {"type": ["object", "null"], "properties": {"degrees": {"type": "integer"}}, "required": ["degrees"]},
        "tool_calls": schema["properties"]["tool_calls"],
    }
    schema["required"] = ["reasoning", "answer", "tool_calls"]
    calling = reply(schema, says("user", "Weather in Paris?"))
    assert list(calling) == ["reasoning", "answer", "tool_calls"]
    assert calling["reasoning"]
    assert calling["answer"] is None
    done = reply(
        schema, says("user", "Weather in Paris?"), calls("get_weather"), results(get_weather='{"degrees": 18}')
    )
    assert (isinstance(done["answer"]["degrees"], int), done["tool_calls"]) == (True, [])


def test_structured_answers_take_values_from_the_text() -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    assert reply(schema, says("user", "Here is Grace Hopper, 45 years old")) == {"name": "Grace Hopper", "age": 45}


def test_a_free_object_is_not_left_empty() -> None:
    assert reply({"type": "object"}, says("user", "Hi")) == {"message": HELLO}


@given(documented_objects(), st.text(min_size=1, max_size=60).filter(str.strip))
def test_whatever_is_said_the_output_fits_the_schema(schema: dict[str, Any], said: str) -> None:
    reply(schema, says("user", said))


@given(
    st.dictionaries(st.sampled_from(["get_weather", "sendMail", "a-b", "x"]), documented_objects(), min_size=1),
    st.sampled_from([keyed, tagged, as_text]),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from(["get the weather", "send mail to Bob 3 times", "a b x", "'quoted' \"text\" and 12"]),
)
def test_whatever_is_offered_the_calls_fit_the_schema(
    tools: dict[str, Any], shape: Callable[..., dict[str, Any]], least: int, more: int, said: str
) -> None:
    schema = shape(tools, minItems=least, maxItems=least + more)
    for _, arguments in named_calls(reply(schema, says("user", said))):
        assert isinstance(arguments, dict)

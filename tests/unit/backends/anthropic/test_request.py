"""Neutral requests → bodies of the Messages API, judged by the strict one in `tests/messages_api.py`."""

from dataclasses import replace
from typing import Any

import pytest

from proxy.backends.anthropic.request import MessagesCall, prepare
from proxy.errors import InvalidRequest
from proxy.inference.request import (
    JsonOutput,
    Media,
    Message,
    Native,
    Reasoning,
    Request,
    Rules,
    Sampling,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from tests.messages_api import MODEL, check

HI = (Message("user", (Text("hi"),), "messages[0]"),)
WEATHER = Tool("get.weather", "The weather. ", {"type": "object", "properties": {"city": {"type": "string"}}})
CLOCK = Tool("clock")
USED = (
    *HI,
    Message("assistant", (ToolCall("a", "get.weather", {"city": "Ulm"}, "messages[1].tool_calls[0]"),), "messages[1]"),
    Message("user", (ToolResult("a", (Text("sun"),), is_error=True, path="messages[2]"),), "messages[2]"),
)
RULES = Rules()


def call(**fields: Any) -> MessagesCall:
    """The call of a request, after the check that Anthropic would take it."""
    prepared = prepare(Request(MODEL, **{"messages": HI, **fields}), RULES, default_max_tokens=500)
    check(dict(prepared.body))
    return prepared


def schema_of(schema: Any, **fields: Any) -> Any:
    return call(output=JsonOutput(schema, path="p"), **fields).body["output_config"]["format"]["schema"]


def test_everything_has_its_place() -> None:
    made = call(
        messages=(Message("system", (Text("Be brief."),)), *HI),
        sampling=Sampling(temperature=0.5, top_k=7, stop=("END", " ")),
        max_tokens=33,
        user="u" * 300,
        tags=(f"user:{'u' * 300}",),
        ignored=("seed",),
        adjusted=("temperature: lowered to 1",),
    )
    assert made.body == {
        "model": MODEL,
        "max_tokens": 33,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "temperature": 0.5,
        "top_k": 7,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u" * 256},
    }
    assert (made.ignored, made.adjusted) == (("seed",), ("temperature: lowered to 1",))


def test_metadata_has_no_effect_and_is_reported() -> None:
    assert call(user="me", tags=("user:me", "team:a")).ignored == ("metadata",)


def test_several_choices_are_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        call(choices=2)
    assert caught.value.param == "n"


def test_a_top_k_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        call(ignored=("seed", "top_k"))
    assert caught.value.param == "top_k"


def test_media_is_refused_and_history_repaired() -> None:
    with pytest.raises(InvalidRequest):
        call(messages=(Message("user", (Media("image", "messages[0].content[0]"),)),))
    made = call(messages=(*HI, Message("assistant", (Text("Once "),), "messages[1]")))
    assert made.adjusted == ("messages: a user turn was added at the end",)


# ---------------------------------------------------------------- tools


def test_tools_keep_their_schemas_under_safe_names() -> None:
    made = call(tools=(WEATHER, CLOCK))
    assert made.body["tools"] == [
        {"name": "get_weather", "description": "The weather.", "input_schema": WEATHER.parameters},
        {"name": "clock", "input_schema": {"type": "object"}},
    ]
    assert made.names == {"get_weather": "get.weather", "clock": "clock"}


@pytest.mark.parametrize(
    ("choice", "sent", "offered"),
    [
        (ToolChoice(), {"type": "auto"}, 2),
        (ToolChoice(required=True), {"type": "any"}, 2),
        (ToolChoice(single=True), {"type": "auto", "disable_parallel_tool_use": True}, 2),
        (
            ToolChoice(frozenset({"get.weather"}), required=True, single=True),
            {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
            1,
        ),
        (ToolChoice(frozenset({"clock"})), {"type": "auto"}, 1),
        (ToolChoice(frozenset()), {"type": "none"}, 2),
    ],
)
def test_tool_choices(choice: ToolChoice, sent: dict[str, Any], offered: int) -> None:
    made = call(tools=(WEATHER, CLOCK), tool_choice=choice)
    assert made.body["tool_choice"] == sent
    assert len(made.body["tools"]) == offered
    assert made.single == choice.single


def test_a_faulty_tool_schema_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        call(tools=(Tool("x", parameters={"type": "nonsense"}, schema_path="tools[0].function.parameters"),))
    assert str(caught.value.param).startswith("tools[0].function.parameters")


def test_past_calls_are_blocks_with_tools_and_text_without() -> None:
    with_tools = call(messages=USED, tools=(WEATHER,)).body["messages"]
    assert with_tools[1]["content"] == [
        {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Ulm"}}
    ]
    sun = [{"type": "text", "text": "sun"}]
    assert with_tools[2]["content"] == [{"type": "tool_result", "tool_use_id": "a", "content": sun, "is_error": True}]
    without = call(messages=USED).body["messages"]
    assert {block["type"] for turn in without for block in turn["content"]} == {"text"}


# ---------------------------------------------------------------- thinking and sampling


def test_thinking_is_added_to_the_limit() -> None:
    made = call(reasoning=Reasoning(2048), max_tokens=100)
    assert made.body["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert made.body["max_tokens"] == 2148
    assert made.reasoning_shown
    assert not call(reasoning=Reasoning(2048, shown=False)).reasoning_shown


@pytest.mark.parametrize(
    ("fields", "reported"),
    [
        (
            {"tools": (WEATHER,), "tool_choice": ToolChoice(required=True)},
            "thinking: off, since a tool call is required",
        ),
        ({"tools": (WEATHER,), "messages": USED}, "thinking: off, in the midst of tool calls"),
    ],
)
def test_thinking_is_off_where_it_is_not_possible(fields: dict[str, Any], reported: str) -> None:
    made = call(reasoning=Reasoning(2048), **fields)
    assert "thinking" not in made.body
    assert reported in made.adjusted
    assert not made.reasoning_shown


@pytest.mark.parametrize(
    ("wanted", "thinks", "sent", "adjusted"),
    [
        (Sampling(1.0, 0.5, 4), False, {"temperature": 1.0, "top_k": 4}, 1),
        (Sampling(0.5, 1.0), False, {"temperature": 0.5}, 0),
        (Sampling(None, 0.5), False, {"top_p": 0.5}, 0),
        (Sampling(0.2, 0.5, 4), True, {"top_p": 0.95}, 3),
        (Sampling(1.0, 0.97), True, {"top_p": 0.97}, 0),
    ],
)
def test_sampling_that_the_model_does_not_take_is_left_out_and_reported(
    wanted: Sampling, thinks: bool, sent: dict[str, float], adjusted: int
) -> None:
    made = call(sampling=wanted, reasoning=Reasoning(1024) if thinks else None)
    assert {name: made.body[name] for name in ("temperature", "top_p", "top_k") if name in made.body} == sent
    assert len(made.adjusted) == adjusted


# ---------------------------------------------------------------- structured output


def test_an_object_of_unknown_properties_is_asked_for_as_json_text() -> None:
    made = call(output=JsonOutput({"type": "object", "properties": {"extra": {"type": "object"}}}, path="p"))
    assert made.encoded
    assert made.body["output_config"]["format"]["schema"]["properties"]["extra"]["type"] == "string"


@pytest.mark.parametrize("schema", [None, {"type": "object"}])
def test_any_json_object_is_asked_for_in_the_system_text(schema: Any) -> None:
    made = call(output=JsonOutput(schema), messages=(Message("system", (Text("Be brief."),)), *HI))
    assert "output_config" not in made.body
    assert made.body["system"].startswith("Be brief.\n\n")
    assert "JSON" in made.body["system"]
    assert not made.encoded


def test_a_faulty_schema_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        call(output=JsonOutput({"type": "nonsense"}, path="response_format.json_schema.schema"))
    assert str(caught.value.param).startswith("response_format.json_schema.schema")


def test_strict_history_is_heeded() -> None:
    request = Request(MODEL, (*HI, Message("assistant", (Text("x"),), "messages[1]")))
    with pytest.raises(InvalidRequest):
        prepare(request, replace(RULES, strict_history=True), default_max_tokens=500)


# ---------------------------------------------------------------- native requests

BODY = {"model": "mine", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "new_field": {"a": [1]}}


def native(body: dict[str, Any], wire: str = "anthropic", **fields: Any) -> MessagesCall:
    request = Request(MODEL, HI, native=Native(wire, body, {"anthropic-beta": "new-2026"}), **fields)
    return prepare(request, RULES, default_max_tokens=500)


def test_a_native_body_goes_as_it_came() -> None:
    made = native(BODY, ignored=("new_field",), adjusted=("x",), refusal=InvalidRequest("for others"))
    assert made.body == {**BODY, "model": MODEL}
    assert (made.native, made.headers, made.ignored, made.adjusted) == (True, {"anthropic-beta": "new-2026"}, (), ())


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}, {"type": "adaptive"}])
def test_defaults_of_an_endpoint_are_added_where_the_model_takes_them(thinking: Any) -> None:
    sampling = Sampling(temperature=0.5, top_k=3)
    made = native({**BODY, "thinking": thinking, "temperature": None, "top_k": 7}, sampling=sampling)
    added = thinking != {"type": "adaptive"}
    assert (made.body["temperature"], made.body["top_k"]) == (0.5 if added else None, 7)


def test_a_body_of_another_wire_is_none_of_this_one() -> None:
    assert not native(BODY, "other").native
    with pytest.raises(InvalidRequest, match="for others"):
        native(BODY, "other", refusal=InvalidRequest("for others"))

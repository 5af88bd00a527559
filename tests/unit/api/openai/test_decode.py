"""Chat requests → neutral requests: what becomes of every field, and what is reported about it."""

import json
from typing import Any

import pytest

from proxy.api.openai.decode import ChatReply, decode
from proxy.api.openai.types import ChatRequest
from proxy.errors import InvalidRequest
from proxy.inference.request import (
    JsonOutput,
    Media,
    Message,
    Reasoning,
    Request,
    Rules,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
)

RULES = Rules(efforts={"low": 2048, "medium": 4096})
HI = [{"role": "user", "content": "hi"}]
WEATHER = {"type": "function", "function": {"name": "weather", "description": " Weather. ", "parameters": {"x": 1}}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
SHELL = {"type": "custom", "custom": {"name": "shell", "description": "Runs it."}}


def decoded(rules: Rules = RULES, **fields: Any) -> tuple[Request, ChatReply]:
    body = ChatRequest.model_validate({"model": "m", "messages": HI, **fields})
    return decode(body, rules, 100)


def request(rules: Rules = RULES, **fields: Any) -> Request:
    return decoded(rules, **fields)[0]


def refused(rules: Rules = RULES, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        request(rules, **fields)
    assert caught.value.param is not None
    return caught.value


def messages(*given: dict[str, Any]) -> tuple[Message, ...]:
    return request(messages=list(given)).messages


# ---------------------------------------------------------------- messages


def test_roles_contents_and_their_paths() -> None:
    system, developer, user = messages(
        {"role": "system", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
        {"role": "user", "content": None},
    )
    assert system == Message("system", (Text("a", "messages[0].content"),), "messages[0]")
    assert developer == Message("developer", (Text("b", "messages[1].content[0]"),), "messages[1]")
    assert user == Message("user", (), "messages[2]")


def test_media_keep_their_kind_and_path_and_reasoning_is_left_out() -> None:
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "image_url", "image_url": {"url": "http://x"}}]
    assert messages({"role": "user", "content": parts})[0].content == (Media("image_url", "messages[0].content[1]"),)


def test_calls_and_results_in_openais_spelling() -> None:
    _, call, result = messages(
        *HI,
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a":1}'}}]},
        {"role": "tool", "tool_call_id": "1", "content": "ok"},
    )
    assert call.content == (ToolCall("1", "f", {"a": 1}, "messages[1].tool_calls[0]"),)
    assert result == Message(
        "user", (ToolResult("1", (Text("ok", "messages[2].content"),), path="messages[2]"),), "messages[2]"
    )


def test_calls_and_results_in_anthropics_spelling() -> None:
    call, result = messages(
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "no", "is_error": True}]},
    )
    assert call.content == (ToolCall("1", "f", {"a": 1}, "messages[0].content[0]"),)
    path = "messages[1].content[0]"
    assert result.content == (ToolResult("1", (Text("no", f"{path}.content"),), is_error=True, path=path),)


def test_results_in_herokus_list_form() -> None:
    items = [{"tool_call_id": "1", "content": "a"}, {"tool_call_id": "2", "content": {"b": [1]}}]
    (message,) = messages({"role": "tool", "content": items})
    assert message.content == (
        ToolResult("1", (Text("a", "messages[0].content[0].content"),), path="messages[0].content[0]"),
        ToolResult("2", (Text('{"b":[1]}', "messages[0].content[1].content"),), path="messages[0].content[1]"),
    )


def test_a_result_within_a_result_is_refused() -> None:
    inner = [{"tool_call_id": "1", "content": [{"tool_call_id": "2", "content": "x"}]}]
    assert refused(messages=[{"role": "tool", "content": inner}]).param == "messages[0].content[0].content"


def test_the_retired_function_role_names_its_function() -> None:
    call, result = messages(
        {"role": "assistant", "function_call": {"name": "f", "arguments": ""}},
        {"role": "function", "name": "f", "content": "ok"},
    )
    assert call.content == (ToolCall("", "f", {}, "messages[0].function_call"),)
    assert result.content == (ToolResult(None, (Text("ok", "messages[1].content"),), name="f", path="messages[1]"),)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (None, {}),
        ("", {}),
        (" ", {}),
        ("{}", {}),
        ({"a": 1}, {"a": 1}),
        ('{"a": 100000000000000000000000}', {"a": 10**23}),
        ("[1]", "[1]"),
        ("{broken", "{broken"),
        ('{"a": 1e999}', '{"a": 1e999}'),
    ],
)
def test_past_arguments_are_an_object_or_their_raw_text(written: Any, read: Any) -> None:
    (call,) = messages({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": written}}]})
    assert call.content == (ToolCall("", "f", read, "messages[0].tool_calls[0]"),)


@pytest.mark.parametrize(("values", "parsed"), [(19_000, True), (21_000, False)])
def test_past_arguments_of_very_many_values_stay_text(values: int, parsed: bool) -> None:
    written = json.dumps({"list": [0] * values})
    (call,) = messages({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": written}}]})
    (block,) = call.content
    assert isinstance(block, ToolCall)
    assert block.arguments == (json.loads(written) if parsed else written)


def test_a_call_in_two_spellings_counts_once() -> None:
    (message,) = messages(
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}],
            "tool_calls": [
                {"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}},
                {"id": "2", "function": {"name": "f", "arguments": "{}"}},
            ],
        }
    )
    assert [(call.id, call.path) for call in message.content if isinstance(call, ToolCall)] == [
        ("1", "messages[0].content[0]"),
        ("2", "messages[0].tool_calls[1]"),
    ]


def test_a_past_custom_call_has_its_input_as_the_one_argument() -> None:
    call = {"id": "1", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    (message,) = messages({"role": "assistant", "tool_calls": [call]})
    assert message.content == (ToolCall("1", "shell", {"input": "ls"}, "messages[0].tool_calls[0]"),)


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_participants_name_stands_before_its_text(role: str) -> None:
    (message,) = messages({"role": role, "name": "Bob", "content": "hello"})
    assert [block.text for block in message.content if isinstance(block, Text)] == ["Bob: hello"]
    assert request(messages=[*HI, {"role": role, "name": "Bob", "content": "x"}]).ignored == ()


def test_a_name_does_not_hide_the_reasoning_that_a_text_begins_with() -> None:
    (message,) = messages({"role": "assistant", "name": "Bob", "content": "<think>hm</think>yes"})
    assert [block.text for block in message.content if isinstance(block, Text)] == ["Bob:", "<think>hm</think>yes"]


def test_a_name_without_text_adds_none() -> None:
    assert messages(
        {"role": "user", "name": "Bob", "content": None}, {"role": "user", "name": " ", "content": "x"}
    ) == (
        Message("user", (), "messages[0]"),
        Message("user", (Text("x", "messages[1].content"),), "messages[1]"),
    )


# ---------------------------------------------------------------- tools


def test_functions_become_tools_with_their_paths() -> None:
    (tool,) = request(tools=[WEATHER]).tools
    assert (tool.name, tool.description, tool.parameters, tool.strict) == ("weather", "Weather.", {"x": 1}, False)
    assert (tool.path, tool.schema_path) == ("tools[0].function", "tools[0].function.parameters")
    made, reply = decoded(functions=[{"name": "clock"}])
    assert (made.tools[0].path, made.tools[0].schema_path) == ("functions[0]", "functions[0].parameters")
    assert made.tool_choice == ToolChoice(single=True)
    assert reply.function_call
    assert not decoded(tools=[WEATHER], functions=[{"name": "clock"}])[1].function_call


@pytest.mark.parametrize("none", [None, []])
@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_no_tools_with_any_harmless_choice_is_as_no_tools(none: Any, choice: Any) -> None:
    assert request(tools=none, tool_choice=choice).tools == ()


@pytest.mark.parametrize("choice", ["required", "any", {"type": "function", "function": {"name": "weather"}}])
def test_only_a_required_or_named_tool_without_tools_is_refused(choice: Any) -> None:
    assert str(refused(tools=[], tool_choice=choice).param).startswith("tool_choice")


def allowed(mode: str, *tools: dict[str, Any]) -> dict[str, Any]:
    named = [{"type": tool["type"], tool["type"]: {"name": tool[tool["type"]]["name"]}} for tool in tools]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice(frozenset())),
        ("required", ToolChoice(required=True)),
        ("any", ToolChoice(required=True)),
        ({"type": "function", "function": {"name": "clock"}}, ToolChoice(frozenset({"clock"}), True, True)),
        ({"type": "custom", "custom": {"name": "shell"}}, ToolChoice(frozenset({"shell"}), True, True)),
        (allowed("auto", CLOCK), ToolChoice(frozenset({"clock"}))),
        (allowed("required", CLOCK, SHELL), ToolChoice(frozenset({"clock", "shell"}), required=True)),
        (allowed("auto"), ToolChoice(frozenset())),
    ],
)
def test_tool_choice(choice: Any, expected: ToolChoice) -> None:
    assert request(tools=[WEATHER, CLOCK, SHELL], tool_choice=choice).tool_choice == expected


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ({"type": "function", "function": {"name": "nope"}}, "tool_choice.function.name"),
        ({"type": "custom", "custom": {"name": "nope"}}, "tool_choice.custom.name"),
        (allowed("auto", SHELL), "tool_choice.allowed_tools.tools[0].custom.name"),
        (allowed("required"), "tool_choice.allowed_tools.tools"),
    ],
)
def test_a_choice_of_a_tool_that_is_not_offered_names_its_path(choice: Any, param: str) -> None:
    assert refused(tools=[WEATHER], tool_choice=choice).param == param


def test_parallel_tool_calls_false_means_one_at_most() -> None:
    assert request(tools=[WEATHER], parallel_tool_calls=False).tool_choice == ToolChoice(single=True)
    one_of_all = request(tools=[WEATHER], tool_choice="required", parallel_tool_calls=False).tool_choice
    assert one_of_all == ToolChoice(required=True, single=True)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", ToolChoice(single=True)),
        ("none", ToolChoice(frozenset())),
        ({"name": "clock"}, ToolChoice(frozenset({"clock"}), True, True)),
    ],
)
def test_the_retired_function_call(choice: Any, expected: ToolChoice) -> None:
    assert request(functions=[{"name": "clock"}], function_call=choice).tool_choice == expected
    assert refused(functions=[{"name": "clock"}], function_call={"name": "x"}).param == "function_call.name"


def test_a_custom_tool_is_a_function_with_one_string() -> None:
    made, reply = decoded(tools=[SHELL, CLOCK])
    shell = made.tools[0]
    assert (shell.name, shell.description, shell.strict, shell.path) == ("shell", "Runs it.", True, "tools[0].custom")
    assert shell.parameters == {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
        "additionalProperties": False,
    }
    assert reply.custom_tools == {"shell"}


def test_a_custom_tools_grammar_is_described() -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": 'start: "a"'}}
    (tool,) = request(tools=[{"type": "custom", "custom": {"name": "x", "format": grammar}}]).tools
    description = tool.parameters["properties"]["input"]["description"]
    assert "lark" in description
    assert description.endswith('start: "a"')


def test_hosted_tools_are_refused_or_left_out_and_reported() -> None:
    hosted = {"type": "web_search", "filters": {}}
    error = refused(tools=[CLOCK, hosted])
    assert error.param == "tools[1].type"
    assert "expected 'function'" in error.message
    lenient = Rules(drop_hosted_tools=True)
    made = request(lenient, tools=[hosted, CLOCK, {"type": "bad\nname"}])
    assert [tool.name for tool in made.tools] == ["clock"]
    assert made.tools[0].path == "tools[1].function"
    assert made.adjusted == (
        "tools: web_search cannot run here and was left out",
        "tools: a hosted tool cannot run here and was left out",
    )


# ---------------------------------------------------------------- output and reasoning


@pytest.mark.parametrize(
    ("format_", "expected"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, JsonOutput(strict=True, path="response_format")),
        (
            {"type": "json_object", "schema": {"type": "object"}},
            JsonOutput({"type": "object"}, path="response_format.schema"),
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": True}},
            JsonOutput({}, strict=True, path="response_format.json_schema.schema"),
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}},
            JsonOutput({"type": "array"}, path="response_format.json_schema.schema"),
        ),
    ],
)
def test_response_format(format_: Any, expected: JsonOutput | None) -> None:
    assert request(response_format=format_).output == expected


def test_a_null_schema_is_refused() -> None:
    error = refused(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": None}})
    assert (error.param, error.code) == ("response_format.json_schema.schema", "invalid_json_schema")


@pytest.mark.parametrize(
    ("fields", "expected", "heroku"),
    [
        ({}, None, False),
        ({"extended_thinking": True}, Reasoning(4096), True),
        ({"extended_thinking": {"enabled": True}}, Reasoning(4096), True),
        ({"extended_thinking": {"enabled": True, "budget_tokens": 1024}}, Reasoning(1024), True),
        ({"extended_thinking": {"enabled": True, "include_reasoning": False}}, Reasoning(4096, shown=False), False),
        ({"extended_thinking": False}, None, False),
        ({"extended_thinking": {"enabled": False, "budget_tokens": 2000}}, None, False),
        ({"extended_thinking": {"budget_tokens": 2000}}, None, False),
        ({"reasoning_effort": "low"}, Reasoning(2048), False),
        ({"reasoning_effort": "none"}, None, False),
        ({"reasoning_effort": "low", "extended_thinking": False}, None, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, Reasoning(2000), False),
        ({"thinking": {"type": "adaptive"}}, Reasoning(4096), False),
        ({"thinking": {"type": "disabled"}}, None, False),
        ({"thinking": True}, Reasoning(4096), False),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "low"}, None, False),
        ({"reasoning": {"effort": "low"}}, Reasoning(2048), False),
        ({"reasoning": {"effort": "low", "exclude": True}}, Reasoning(2048, shown=False), False),
        ({"reasoning": {"effort": "none"}}, None, False),
        ({"reasoning": {"max_tokens": 5000}}, Reasoning(5000), False),
        ({"reasoning": {"max_tokens": 100}}, Reasoning(1024), False),
        ({"reasoning": {"enabled": True}}, Reasoning(4096), False),
        ({"reasoning": {"enabled": False, "effort": "low"}}, None, False),
        ({"reasoning": {}}, None, False),
    ],
)
def test_reasoning(fields: dict[str, Any], expected: Reasoning | None, heroku: bool) -> None:
    made, reply = decoded(**fields)
    assert (made.reasoning, reply.reasoning_object) == (expected, heroku)


@pytest.mark.parametrize(
    ("setting", "fields", "object_"),
    [
        ("always", {"reasoning_effort": "low"}, True),
        ("always", {}, False),
        ("never", {"extended_thinking": True}, False),
    ],
)
def test_the_reasoning_object_can_be_forced_either_way(setting: Any, fields: dict[str, Any], object_: bool) -> None:
    body = ChatRequest.model_validate({"model": "m", "messages": HI, **fields})
    assert decode(body, RULES, 1, reasoning_object=setting)[1].reasoning_object is object_


def test_an_unknown_effort_names_the_field() -> None:
    assert refused(reasoning_effort="huge").param == "reasoning_effort"
    assert refused(reasoning={"effort": "huge"}).param == "reasoning.effort"


# ---------------------------------------------------------------- parameters


def test_limits_of_the_reply() -> None:
    assert request().max_tokens is None
    assert request(max_tokens=10).max_tokens == 10
    assert request(max_tokens=10.0).max_tokens == 10
    assert request(max_tokens=10, max_completion_tokens=20).max_tokens == 20


def test_sampling() -> None:
    sampling = request(temperature=0.5, top_p=0.9, top_k=40, stop=["a", "", "a", "b"]).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.stop) == (0.5, 0.9, 40, ("a", "b"))
    assert request(stop="x").sampling.stop == ("x",)
    assert refused(stop=["a"] * 65).param == "stop"
    hot = request(temperature=1.5)
    assert (hot.sampling.temperature, hot.adjusted) == (1.0, ("temperature: lowered to 1",))
    assert request(temperature=1).adjusted == ()


@pytest.mark.parametrize("top_k", [-1, 0, 40.5, "many", True, 2**31])
def test_an_unusable_top_k_is_ignored_and_reported(top_k: Any) -> None:
    made = request(top_k=top_k)
    assert (made.sampling.top_k, made.ignored) == (None, ("top_k",))


def test_the_number_of_choices() -> None:
    assert (request().choices, request(n=8).choices, request(n=2.0).choices) == (1, 8, 2)


def test_user_and_metadata_become_tags() -> None:
    made = request(user="u1", metadata={"team": "red"})
    assert (made.user, made.tags) == ("u1", ("user:u1", "team:red"))


@pytest.mark.parametrize("key", ["rid", "rid:7d444840-9dc0-11d1-b245-5ffdce74fad2", " RID "])
def test_the_proxys_own_tags_are_refused(key: str) -> None:
    assert str(refused(metadata={key: "x"}).param).startswith("metadata.")


def test_metadata_are_bounded() -> None:
    assert len(request(metadata={str(index): "x" for index in range(16)}).tags) == 16
    assert refused(metadata={str(index): "x" for index in range(17)}).param == "metadata"
    assert request(metadata={"k" * 64: "v" * 512}).tags == (f"{'k' * 64}:{'v' * 512}",)
    assert refused(metadata={"k" * 65: "v"}).param == "metadata"
    assert refused(metadata={"k": "v" * 513}).param == "metadata.k"
    assert refused(metadata={"k": 1}).param == "metadata.k"


def test_the_reply_knows_how_it_is_to_be_sent() -> None:
    reply = decoded(stream=True, stream_options={"include_usage": True})[1]
    assert (reply.model, reply.stream, reply.include_usage) == ("m", True, True)
    assert decoded(stream_options={"include_usage": True})[1] == ChatReply("m")
    assert request().body_bytes == 100


# ---------------------------------------------------------------- what has no effect


def test_what_is_ignored_is_named_and_null_is_not() -> None:
    made = request(seed=1, logprobs=None, store=False, **{"bad name": 1, "x" * 65: 1})
    assert made.ignored == ("seed", "store")


def test_nested_fields_without_effect_are_named_once_without_indexes() -> None:
    made = request(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"a": 1}}], "id": None},
            {"role": "user", "content": [{"type": "text", "text": "y", "cache_control": {"a": 1}}], "id": "7"},
        ],
        tools=[{**CLOCK, "cache_control": {}}, {"type": "function", "function": {"name": "f", "returns": {}}}],
        response_format={"type": "json_schema", "json_schema": {"schema": {"anything": 1}, "flavour": 1}},
        stream=True,
        stream_options={"include_obfuscation": False},
    )
    assert sorted(made.ignored) == [
        "messages.content.cache_control",
        "messages.id",
        "response_format.json_schema.flavour",
        "stream_options.include_obfuscation",
        "tools.cache_control",
        "tools.function.returns",
    ]


def test_the_report_of_ignored_fields_is_bounded() -> None:
    assert len(request(**{f"field_{index}": 1 for index in range(1000)}).ignored) == 50
    parts = [{"type": "text", "text": "x", f"field_{index}": 1} for index in range(1000)]
    assert len(request(messages=[{"role": "user", "content": parts}]).ignored) == 50


def test_what_another_field_overrules_is_named() -> None:
    made = request(
        stop=["x"],
        response_format={"type": "json_object"},
        tools=[CLOCK],
        functions=[{"name": "f"}],
        tool_choice="auto",
        function_call="auto",
        extended_thinking={"enabled": False},
        thinking={"type": "enabled"},
        reasoning={"effort": "low"},
        reasoning_effort="high",
        stream_options={"include_usage": True},
    )
    overruled = {"stop", "functions", "function_call", "thinking", "reasoning", "reasoning_effort", "stream_options"}
    assert set(made.ignored) == overruled
    assert request(stop=["x"], response_format={"type": "text"}, reasoning_effort="none").ignored == ()
    assert request(thinking="auto", reasoning="on").ignored == ("thinking", "reasoning")


def test_null_is_the_same_as_absent_in_every_optional_field() -> None:
    fields = [name for name, field in ChatRequest.model_fields.items() if not field.is_required()]
    assert decoded(**dict.fromkeys(fields)) == decoded()

"""Responses requests → the neutral request. Each row of the contract's tables of fields, items and tools is a case."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.http.requests import request_digest, validated
from proxy.api.openai.responses.decode import Decoding, ResponseReply, decode, turn_of
from proxy.api.openai.responses.items import NOTHING, Known, references
from proxy.api.openai.responses.types import ResponsesRequest
from proxy.errors import InvalidRequest, ProxyError, ResponseNotFound
from proxy.inference.history import repair
from proxy.inference.request import JsonOutput, Media, Reasoning, Request, Rules, Text, ToolCall, ToolChoice, ToolResult

RULES = Rules(efforts={"minimal": 1024, "low": 2048, "medium": 4096, "high": 8192, "xhigh": 16384, "max": 32768})
USING = Decoding(RULES, lambda sealed: sealed.removeprefix("ours:") if sealed.startswith("ours:") else None)
RECORDED = sorted((Path(__file__).parents[4] / "data" / "codex").glob("*.json"))
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
PATCH = {"type": "custom", "name": "patch"}


def decoded(known: Known = NOTHING, using: Decoding = USING, **fields: Any) -> tuple[Request, ResponseReply]:
    raw = {"model": "m", "input": "Hi.", **fields}
    return decode(validated(ResponsesRequest, raw), raw, len(json.dumps(raw)), using, known)


def refused(known: Known = NOTHING, using: Decoding = USING, **fields: Any) -> ProxyError:
    with pytest.raises(InvalidRequest) as caught:
        decoded(known, using, **fields)
    return caught.value


def refusal(**fields: Any) -> ProxyError | None:
    try:
        decoded(**fields)
    except InvalidRequest as error:
        return error
    return None


def said(*items: dict[str, Any], **fields: Any) -> list[tuple[str, list[Any]]]:
    """Role and content of each message of some items; texts as they are."""
    request, _ = decoded(input=list(items), **fields)
    return [
        (message.role, [block.text if isinstance(block, Text) else block for block in message.content])
        for message in request.messages
    ]


def call(call_id: str = "c1", **fields: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "weather", "arguments": "{}", **fields}


def output(text: Any = "sunny", call_id: str = "c1") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def user(content: Any = "Hi.") -> dict[str, Any]:
    return {"role": "user", "content": content}


# ---------------------------------------------------------------- fields


def test_a_text_is_one_message_of_the_user() -> None:
    request, reply = decoded(instructions="Be kind.")
    assert [(message.role, message.content) for message in request.messages] == [
        ("system", (Text("Be kind.", "instructions"),)),
        ("user", (Text("Hi.", "input"),)),
    ]
    assert reply.input == ({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi."}]},)
    assert reply.store


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"text": {"format": {"type": "text"}}}, None),
        ({"text": {"format": {"type": "json_object"}}}, JsonOutput(strict=True, path="text.format")),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}}},
            JsonOutput({"type": "object"}, strict=True, path="text.format.schema"),
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}},
            JsonOutput({"type": "object"}, strict=False, path="text.format.schema"),
        ),
    ],
)
def test_the_format_of_the_text(fields: dict[str, Any], wanted: JsonOutput | None) -> None:
    assert decoded(**fields)[0].output == wanted


@pytest.mark.parametrize(
    ("fields", "wanted", "summary"),
    [
        ({}, None, False),
        ({"reasoning": {"summary": "auto"}}, None, False),
        ({"reasoning": {"effort": None, "context": "all_turns", "mode": "x"}}, None, False),
        ({"reasoning": {"effort": "none", "summary": "auto"}}, None, False),
        ({"reasoning": {"effort": "low"}}, Reasoning(2048, shown=False), False),
        ({"reasoning": {"effort": "xhigh", "summary": "auto"}}, Reasoning(16384), True),
        ({"reasoning": {"effort": "max", "generate_summary": "detailed"}}, Reasoning(32768), True),
        ({"reasoning": {"effort": "minimal"}, "include": ["reasoning.encrypted_content"]}, Reasoning(1024), False),
    ],
)
def test_reasoning(fields: dict[str, Any], wanted: Reasoning | None, summary: bool) -> None:
    request, reply = decoded(**fields)
    assert (request.reasoning, reply.summary) == (wanted, summary)
    assert reply.encrypted == (wanted is not None and "include" in fields)


def test_numbers_and_tags() -> None:
    request, _ = decoded(
        max_output_tokens=7, temperature=1.5, top_p=0.5, user="u", safety_identifier="s", metadata={"team": "a"}
    )
    assert (request.max_tokens, request.sampling.temperature, request.sampling.top_p) == (7, 1.0, 0.5)
    assert request.tags == ("safety_identifier:s", "user:u", "team:a")
    assert request.adjusted == ("temperature: lowered to 1",)


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"text": {"verbosity": "low"}}, ("text.verbosity",)),
        ({"truncation": "auto"}, ("truncation",)),
        ({"truncation": "disabled"}, ()),
        ({"include": ["message.output_text.logprobs"]}, ("message.output_text.logprobs",)),
        ({"include": ["reasoning.encrypted_content", "file_search_call.results"]}, ()),
        (
            {"top_logprobs": 2, "moderation": {}, "context_management": [], "prompt_cache_options": {}},
            ("top_logprobs", "moderation", "context_management", "prompt_cache_options"),
        ),
        ({"prompt_cache_key": "k", "prompt_cache_retention": "24h", "service_tier": "flex", "max_tool_calls": 3}, ()),
        ({"client_metadata": {"turn_id": "t"}, "stream_options": {"include_obfuscation": False}}, ()),
        ({"unknown": 1, "other": None, "reasoning": {"new": 1}}, ("unknown", "reasoning.new")),
        (
            {"tools": [{"type": "web_search"}, {"type": "mcp", "server_label": "x"}, {"type": "web_search"}]},
            ("tools.web_search", "tools.mcp"),
        ),
    ],
)
def test_what_has_no_effect_is_named_where_a_client_could_miss_it(
    fields: dict[str, Any], ignored: tuple[str, ...]
) -> None:
    assert decoded(**fields)[0].ignored == ignored


NULLABLE = [name for name in ResponsesRequest.model_fields if name not in ("model", "input")]


@pytest.mark.parametrize("name", NULLABLE)
def test_null_is_absent(name: str) -> None:
    assert decoded(**{name: None})[0].messages == decoded()[0].messages
    assert decoded(**{name: None})[1] == decoded()[1]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": ""}, "model", None),
        ({"input": None}, "input", None),
        ({"input": []}, "input", None),
        ({"input": 3}, "input", None),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"conversation": "conv_1", "previous_response_id": "r"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ({"max_output_tokens": 0}, "max_output_tokens", None),
        ({"temperature": 2.5}, "temperature", None),
        ({"top_p": 1.5}, "top_p", None),
        ({"background": True, "store": False}, "background", None),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", None),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary", None),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", None),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "invalid_json_schema"),
        ({"text": {"verbosity": "huge"}}, "text.verbosity", None),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata", None),
        ({"metadata": {"a": 1}}, "metadata.a", None),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", None),
        ({"metadata": {"a" * 65: "x"}}, "metadata", None),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", None),
        ({"input": [{"content": "x"}]}, "input[0].type", None),
        ({"input": [call(), {"type": "function_call_output", "output": "x"}]}, "input[1].call_id", None),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].name", None),
        (
            {"tools": [{"type": "namespace", "name": "n", "tools": [WEATHER, WEATHER]}]},
            "tools[0].tools[1].name",
            None,
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].name", None),
        ({"tool_choice": "required"}, "tool_choice", None),
        ({"tool_choice": "required", "tools": [{"type": "web_search"}]}, "tool_choice", "unsupported_tool"),
        ({"tool_choice": {"type": "web_search"}, "tools": [{"type": "web_search"}]}, "tool_choice", "unsupported_tool"),
        ({"tool_choice": {"type": "function", "name": "x"}, "tools": [WEATHER]}, "tool_choice.name", None),
        ({"tool_choice": {"type": "custom", "name": "x"}}, "tool_choice.name", None),
        (
            {
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]},
                "tools": [WEATHER],
            },
            "tool_choice.tools[0].name",
            None,
        ),
        (
            {
                "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]},
                "tools": [{"type": "web_search"}],
            },
            "tool_choice",
            "unsupported_tool",
        ),
    ],
)
def test_what_is_refused_names_its_field(fields: dict[str, Any], param: str, code: str | None) -> None:
    error = refused(**fields)
    assert (error.status, error.param, error.code) == (400, param, code)


def test_nothing_is_stored_where_nothing_is_kept() -> None:
    off = Decoding(RULES, stores=False)
    request, reply = decoded(using=off)
    assert not reply.store
    assert reply.echo["store"] is False
    assert request.adjusted == ("store: false, as no responses are stored at the moment",)
    assert decoded(using=off, store=False)[0].adjusted == ()
    assert refused(using=off, background=True).param == "background"


# ---------------------------------------------------------------- items


def test_messages_of_all_roles() -> None:
    assert said(
        {"role": "system", "content": "a"},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "b"}], "id": "x"},
        user([{"type": "input_text", "text": "c"}, {"type": "input_text", "text": "d"}]),
        {
            "role": "assistant",
            "status": "completed",
            "phase": "final",
            "content": [
                {"type": "output_text", "text": "e", "annotations": [], "logprobs": []},
                {"type": "refusal", "refusal": "f"},
            ],
        },
        {"role": "developer", "content": "g"},
        user("h"),
        instructions="i",
    ) == [
        ("system", ["i"]),
        ("system", ["a"]),
        ("developer", ["b"]),
        ("user", ["c", "d"]),
        ("assistant", ["e", "f"]),
        ("developer", ["g"]),
        ("user", ["h"]),
    ]


IMAGE = {"type": "input_image", "image_url": "http://169.254.169.254/"}


@pytest.mark.parametrize("kind", ["input_image", "input_file", "input_audio"])
def test_media_of_the_last_turn_is_refused_with_its_path(kind: str) -> None:
    request, _ = decoded(input=[user("Hi."), user([{"type": "input_text", "text": "See:"}, {"type": kind}])])
    assert request.messages[-1].content[1] == Media(kind, "input[1].content[1]")
    with pytest.raises(InvalidRequest) as caught:
        repair(request.messages, {}, RULES)
    assert (caught.value.param, caught.value.code) == ("input[1].content[1].type", "unsupported_content")


def test_media_of_earlier_turns_and_in_results_is_replaced() -> None:
    items = [user([IMAGE]), call(), output([IMAGE, {"type": "input_text", "text": "seen"}])]
    request, _ = decoded(input=items)
    placeholder = "[input_image left out: this model reads text only]"
    assert request.messages[0].content == (Text(placeholder, "input[0].content[0]"),)
    result = request.messages[2].content[0]
    assert isinstance(result, ToolResult)
    assert [block.text for block in result.content if isinstance(block, Text)] == [placeholder, "seen"]
    assert request.adjusted == ("input: content of type input_image was replaced by a placeholder",)


def test_calls_and_their_results() -> None:
    items = [user(), call(arguments='{"city":"Rome"}', namespace=None), output("sunny\n")]
    assert said(*items)[1:] == [
        ("assistant", [ToolCall("c1", "weather", {"city": "Rome"}, "input[1]")]),
        ("user", [ToolResult("c1", (Text("sunny\n", "input[2].output"),), path="input[2]")]),
    ]


def test_custom_calls_and_their_results() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    items = [
        user(),
        {"type": "custom_tool_call", "call_id": "c", "name": "exec", "input": "1+1", "namespace": "functions"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": parts},
    ]
    made, result = (content[0] for _, content in said(*items)[1:])
    assert made == ToolCall("c", "functions__exec", {"input": "1+1"}, "input[1]")
    assert [block.text for block in result.content] == ["a", "b"]


def test_past_arguments_that_are_no_json_object_are_wrapped() -> None:
    request, _ = decoded(input=[user(), call(arguments="{broken"), output()])
    made = request.messages[1].content[0]
    assert isinstance(made, ToolCall)
    assert made.arguments == {"_": "{broken"}
    assert request.adjusted == ("input: past arguments that are no JSON object were wrapped",)


def reasoning(sealed: Any = "ours:because") -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": None, "encrypted_content": sealed}


def test_own_reasoning_is_shown_in_the_running_tool_loop_only() -> None:
    loop = said(user(), reasoning(), call(), output())
    assert loop[1] == ("assistant", ["[What you thought before you went on]\nbecause"])
    assert [role for role, _ in said(user(), reasoning(), call(), output(), user("Thanks."))] == [
        *("user", "assistant", "user", "user")
    ]


@pytest.mark.parametrize("sealed", [None, "theirs", "", 3])
def test_foreign_reasoning_is_dropped_quietly(sealed: Any) -> None:
    request, _ = decoded(input=[user(), reasoning(sealed), call(), output()])
    assert len(request.messages) == 3
    assert request.adjusted == ()


STORED = {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]}


@pytest.mark.parametrize("reference", [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}])
def test_a_reference_stands_for_its_item(reference: dict[str, Any]) -> None:
    known = Known(items={"msg_1": STORED})
    request, reply = decoded(known, input=[user(), reference, user("And?")])
    assert [message.role for message in request.messages] == ["user", "assistant", "user"]
    assert reply.input[1] == STORED


def test_an_unknown_reference_is_a_404_but_reasoning_is_left_out() -> None:
    request, _ = decoded(input=[user(), {"type": "item_reference", "id": "rs_9"}])
    assert request.adjusted == ("input: a reference to unknown reasoning was left out",)
    with pytest.raises(ResponseNotFound) as caught:
        decoded(input=[user(), {"type": "item_reference", "id": "msg_9"}])
    assert (caught.value.status, caught.value.param) == (404, "input[1].id")


def test_what_a_response_continues_comes_first_without_its_instructions() -> None:
    known = Known([user("One."), STORED], bytes=500)
    request, reply = decoded(known, instructions="Now.", previous_response_id="resp_1", input="Two.")
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "user"]
    assert request.body_bytes > 500
    assert len(reply.input) == 1
    assert decoded(known, previous_response_id="resp_1", input=None)[0].messages[-1].role == "assistant"


def test_additional_tools_and_those_of_a_search_are_offered() -> None:
    items = [
        {"type": "additional_tools", "role": "developer", "tools": [WEATHER]},
        user(),
        {"type": "tool_search_call", "call_id": None, "arguments": {"query": "x"}},
        {"type": "tool_search_output", "tools": [WEATHER, {**WEATHER, "name": "found", "defer_loading": True}]},
    ]
    request, _ = decoded(input=items, tools=[PATCH])
    assert [tool.name for tool in request.tools] == ["patch", "weather", "found"]
    assert request.tools[1].path == "input[0].tools[0]"
    assert [message.role for message in request.messages] == ["user", "assistant", "user"]
    note = '[tool_search_output {"tools":["weather","found"]}]'
    assert request.messages[2].content == (Text(note, "input[3]"),)


@pytest.mark.parametrize(
    ("item", "role", "text"),
    [
        ({"type": "web_search_call", "action": {"query": "q"}}, "assistant", '[web_search_call {"action":{"query":"q"}}]'),
        ({"type": "file_search_call", "queries": ["q"], "results": None}, "assistant", '[file_search_call {"queries":["q"]}]'),
        ({"type": "computer_call", "action": {"type": "click"}}, "assistant", '[computer_call {"action":{"type":"click"}}]'),
        (
            {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": "data:…"}},
            "user",
            '[computer_call_output {"output":{"type":"computer_screenshot"}}]',
        ),
        ({"type": "code_interpreter_call", "code": "1", "outputs": []}, "assistant", '[code_interpreter_call {"code":"1","outputs":[]}]'),
        ({"type": "image_generation_call", "result": "iVBOR"}, "assistant", "[image_generation_call {}]"),
        ({"type": "mcp_call", "name": "f", "arguments": "{}", "output": "o"}, "assistant", '[mcp_call {"name":"f","arguments":"{}","output":"o"}]'),
        ({"type": "mcp_list_tools", "tools": []}, "assistant", "[mcp_list_tools {}]"),
        ({"type": "local_shell_call", "action": {"command": ["ls"]}}, "assistant", '[local_shell_call {"action":{"command":["ls"]}}]'),
        ({"type": "local_shell_call_output", "output": "x"}, "user", '[local_shell_call_output {"output":"x"}]'),
        ({"type": "shell_call", "action": {"commands": ["ls"]}}, "assistant", '[shell_call {"action":{"commands":["ls"]}}]'),
        ({"type": "shell_call_output", "call_id": "c", "output": []}, "user", '[shell_call_output {"output":[]}]'),
        ({"type": "apply_patch_call", "operation": {"diff": "d"}}, "assistant", '[apply_patch_call {"operation":{"diff":"d"}}]'),
        ({"type": "apply_patch_call_output", "output": "ok"}, "user", '[apply_patch_call_output {"output":"ok"}]'),
        ({"type": "program", "code": "c"}, "assistant", '[program {"code":"c"}]'),
        ({"type": "program_output", "output": "o"}, "user", '[program_output {"output":"o"}]'),
    ],
)  # fmt: skip
def test_items_of_hosted_tools_become_notes(item: dict[str, Any], role: str, text: str) -> None:
    request, _ = decoded(input=[user(), item])
    message = request.messages[1]
    assert (message.role, message.content) == (role, (Text(text, "input[1]"),))
    assert request.adjusted == (f"input: items of type {item['type']} were kept as text",)


@pytest.mark.parametrize("kind", ["compaction", "compaction_trigger", "configuration_update", "brand_new"])
def test_other_items_are_left_out(kind: str) -> None:
    request, _ = decoded(input=[user(), {"type": kind, "encrypted_content": "theirs"}])
    assert len(request.messages) == 1
    assert request.adjusted == (f"input: items of type {kind} were left out",)


def test_an_own_compaction_is_opened() -> None:
    assert said(user(), {"type": "compaction", "encrypted_content": "ours:All so far."})[1] == (
        "user",
        ["All so far."],
    )


@pytest.mark.parametrize(("given", "text"), [("done", "done"), ({"a": 1}, '{"a":1}')])
def test_an_unknown_item_with_a_call_id_and_output_is_a_result(given: Any, text: str) -> None:
    result = said(user(), call(), {"type": "brand_new_output", "call_id": "c1", "output": given})[2][1][0]
    assert isinstance(result, ToolResult)
    assert result.content == (Text(text, "input[2].output"),)


# ---------------------------------------------------------------- tools


def test_functions() -> None:
    given = {"type": "function", "name": "f", "description": " d ", "parameters": {"type": "object"}, "strict": True}
    request, reply = decoded(tools=[given, {"type": "function", "name": "g", "parameters": None}])
    first, second = request.tools
    assert (first.name, first.description, first.strict, first.path) == ("f", "d", True, "tools[0]")
    assert (first.parameters, first.schema_path) == ({"type": "object"}, "tools[0].parameters")
    assert (second.parameters, second.strict) == (None, False)
    assert [tool["strict"] for tool in reply.echo["tools"]] == [True, True]
    assert decoded(tools=[{**WEATHER, "strict": False}])[1].echo["tools"][0]["strict"] is False


@pytest.mark.parametrize(("syntax", "pattern"), [("lark", None), ("regex", "^(?:a+)$")])
def test_custom_tools_take_one_text(syntax: str, pattern: str | None) -> None:
    grammar = {"type": "grammar", "syntax": syntax, "definition": "a+"}
    request, reply = decoded(tools=[{**PATCH, "format": grammar}])
    argument = request.tools[0].parameters["properties"]["input"]
    assert argument.get("pattern") == pattern
    assert "a+" in argument["description"]
    assert reply.tools["patch"].custom


def test_a_tool_of_a_namespace_is_called_by_its_bare_name() -> None:
    one = {"type": "namespace", "name": "one", "description": "d", "tools": [WEATHER, PATCH]}
    two = {"type": "namespace", "name": "two", "tools": [WEATHER, {"type": "web_search"}]}
    request, reply = decoded(tools=[one, two, WEATHER])
    assert [tool.name for tool in request.tools] == ["one__weather", "one__patch", "two__weather", "weather"]
    assert request.ignored == ("tools.web_search",)
    assert (reply.tools["two__weather"].name, reply.tools["two__weather"].namespace) == ("weather", "two")
    assert reply.echo["tools"][1]["description"] == ""
    assert reply.echo["tools"][0]["tools"][0]["strict"] is True


@pytest.mark.parametrize("inner", [{}, {"tools": 5}, {"tools": [5]}])
def test_a_namespace_in_a_namespace_is_left_out(inner: dict[str, Any]) -> None:
    outer = {"type": "namespace", "name": "n", "tools": [WEATHER, {"type": "namespace", "name": "m", **inner}]}
    request, reply = decoded(tools=[outer])
    assert [tool.name for tool in request.tools] == ["n__weather"]
    assert request.ignored == ("tools.namespace",)
    assert reply.echo["tools"][0]["tools"][1] == outer["tools"][1]


def test_names_of_namespaces_that_would_clash_are_kept_apart() -> None:
    tricky = {"type": "namespace", "name": "a", "tools": [{**WEATHER, "name": "b__c"}]}
    other = {"type": "namespace", "name": "a__b", "tools": [{**WEATHER, "name": "c"}]}
    request, reply = decoded(tools=[tricky, other], input=[user(), call(name="c", namespace="a__b"), output()])
    first, second = (tool.name for tool in request.tools)
    assert first != second
    assert (reply.tools[second].namespace, reply.tools[second].name) == ("a__b", "c")
    made = request.messages[1].content[0]
    assert isinstance(made, ToolCall)
    assert made.name == second


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice(frozenset())),
        ("required", ToolChoice(required=True)),
        ({"type": "function", "name": "weather"}, ToolChoice(frozenset({"weather"}), required=True, single=True)),
        ({"type": "custom", "name": "patch"}, ToolChoice(frozenset({"ns__patch"}), required=True, single=True)),
        (
            {"type": "custom", "name": "patch", "namespace": "ns"},
            ToolChoice(frozenset({"ns__patch"}), required=True, single=True),
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
            ToolChoice(frozenset({"weather"}), required=True),
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}, ToolChoice(frozenset())),
    ],
)
def test_tool_choice(choice: Any, wanted: ToolChoice) -> None:
    tools = [WEATHER, {"type": "namespace", "name": "ns", "tools": [PATCH]}]
    assert decoded(tools=tools, tool_choice=choice)[0].tool_choice == wanted


def test_parallel_calls_are_usual_and_can_be_forbidden() -> None:
    assert decoded(tools=[WEATHER], parallel_tool_calls=False)[0].tool_choice == ToolChoice(single=True)
    assert decoded()[1].echo["parallel_tool_calls"] is True


# ---------------------------------------------------------------- clients, digests, hostile input


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_what_the_real_codex_sends_is_understood(file: Path) -> None:
    for recorded in json.loads(file.read_text("utf-8"))["requests"]:
        raw = recorded["body"]
        request, reply = decode(validated(ResponsesRequest, raw), raw, 40_000, USING)
        assert request.adjusted == ()
        assert set(request.ignored) <= {"text.verbosity", "tools.web_search", "tools.tool_search"}
        names = {name: name for name in [*reply.tools, "exec_command", "apply_patch"]}
        conversation = repair(request.messages, names, RULES)
        assert conversation.repairs == ()
        assert conversation.turns[-1].role == "user"
        assert not reply.store
        assert turn_of(raw)
        if file.stem == "lite":
            assert {tool.namespace for tool in reply.tools.values()} == {"functions", "collaboration"}


def test_equal_bodies_have_equal_digests_however_they_are_sent() -> None:
    body = {"model": "m", "input": "Hi.", "client_metadata": {"a": 1, "turn_id": "t"}}
    same = {"client_metadata": {"turn_id": "t", "a": 1}, "stream": True, "input": "Hi.", "model": "m", "user": None}
    assert request_digest(body) == request_digest(same)
    assert request_digest(body) != request_digest({**body, "store": False})
    assert (turn_of(body), turn_of({}), turn_of({"client_metadata": {"turn_id": 3}})) == ("t", None, None)


def test_references_are_found() -> None:
    body = validated(ResponsesRequest, {"model": "m", "input": [user(), {"id": "msg_1"}]})
    assert references(body) == ["msg_1"]
    assert references(validated(ResponsesRequest, {"model": "m", "input": "x"})) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "user", "message", "function_call", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "content", "id", "call_id", "name", "arguments", "output", "tools", "text"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(items=st.lists(JSON, max_size=4), tools=JSON, choice=JSON)
def test_no_body_raises_anything_but_a_refusal_that_names_a_field(items: Any, tools: Any, choice: Any) -> None:
    error = refusal(input=items, tools=tools, tool_choice=choice)
    assert error is None or error.param

"""Messages requests → neutral requests: every row of the contract's tables of requests, messages and tools."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.anthropic.decode import MessagesReply, body_digest, count_tokens
from proxy.api.anthropic.encode import error_out
from proxy.api.anthropic.routes import decode_body
from proxy.api.anthropic.types import MessagesRequest
from proxy.errors import InvalidRequest
from proxy.inference.request import (
    Block,
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

RULES = Rules(efforts={"low": 2048, "medium": 4096, "high": 8192, "max": 32768})
RECORDED = Path(__file__).parents[3] / "data" / "claude-code"
TOOL: dict[str, Any] = {"name": "weather", "input_schema": {"type": "object"}}


def body_of(*blocks: Any, **fields: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": list(blocks) or "Hi"}]
    return {"model": "m", "max_tokens": 100_000, "messages": turns, **fields}


def decoded(body: dict[str, Any]) -> tuple[Request, MessagesReply]:
    request, reply, _ = decode_body(body, len(json.dumps(body)), rules=RULES)
    return request, reply


def request_of(*blocks: Any, **fields: Any) -> Request:
    """A request that is not refused."""
    request, _ = decoded(body_of(*blocks, **fields))
    assert request.refusal is None, request.refusal
    return request


def refused(*blocks: Any, **fields: Any) -> str:
    """The message of the refusal, as clients see it."""
    try:
        request, _ = decoded(body_of(*blocks, **fields))
        assert request.refusal is not None
        assert request.native is not None, "the upstream of a native request may judge otherwise"
        error: Any = request.refusal
    except InvalidRequest as raised:
        error = raised
    return str(error_out(error, "")["error"]["message"])


def content(*blocks: Any, role: str = "user") -> tuple[Block, ...]:
    return request_of(messages=[{"role": role, "content": list(blocks)}]).messages[0].content


# ---------------------------------------------------------------- fields


def test_a_plain_request() -> None:
    request, reply = decoded(body_of(stream=True, temperature=1, top_p=0.5, top_k=3, stop_sequences=["a", "b", "a"]))
    assert request.messages == (Message("user", (Text("Hi", "messages[0].content"),), "messages[0]"),)
    assert (request.model, request.max_tokens, request.needs_reply) == ("m", 100_000, True)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.stop) == (1, 0.5, 3, ("a", "b"))
    assert (reply.model, reply.stream, reply.thinking_shown) == ("m", True, True)


@pytest.mark.parametrize("value", [False, None])
def test_only_true_streams(value: bool | None) -> None:
    assert not decoded(body_of(stream=value))[1].stream


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"temperature": 1.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"stop_sequences": ["a", " "]}, "stop_sequences.1"),
        ({"stop_sequences": ["a"] * 65}, "stop_sequences"),
        ({"system": [{"type": "image"}]}, "system.0.type"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "new"}]}]}, "messages.0.content.0.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1023}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100_000}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"output_config": {"format": {"type": "xml", "schema": {}}}}, "output_config.format.type"),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
        ({"mcp_servers": [{"url": "https://x"}]}, "mcp_servers"),
        ({"container": {"skills": []}}, "container"),
        ({"tools": [{"name": "a"}]}, "tools.0.input_schema"),
        ({"tools": [{"type": "custom", "input_schema": {}}]}, "tools.0.name"),
        ({"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]}, "tools.1.type"),
        ({"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}, "tools.0.type"),
        ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, "tools.0.type"),
        ({"tools": [{"type": "advisor_20260301", "name": "advisor"}]}, "tools.0.type"),
        ({"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]}, "tools.0.type"),
        ({"tools": [{"type": "computer_20250124", "name": "computer"}]}, "tools.0.type"),
        ({"tools": [{"type": "browser_20260101", "name": "browser"}]}, "tools.0.type"),
        ({"tools": [{"type": "bash_20990101", "name": "bash"}]}, "tools.0.type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "weather"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(fields: dict[str, Any], path: str) -> None:
    assert refused(**fields).startswith(path)


@pytest.mark.parametrize(
    "name",
    [
        "system", "stream", "temperature", "top_p", "top_k", "stop_sequences", "tools", "tool_choice", "thinking", "output_config",
        "output_format", "cache_control", "metadata", "context_management", "safeguards", "mcp_servers", "container", "service_tier",
    ],
)  # fmt: skip
def test_null_is_absent(name: str) -> None:
    request, _ = decoded(body_of())
    with_null, _ = decoded(body_of(**{name: None}))
    assert with_null.ignored == ()
    assert (with_null.messages, with_null.tools, with_null.refusal) == (request.messages, request.tools, None)
    assert body_digest(body_of(**{name: None})) == body_digest(body_of())


def test_what_has_no_effect_is_named_and_unknown_fields_are_ignored_at_every_level() -> None:
    names = (
        "service_tier",
        "speed",
        "inference_geo",
        "diagnostics",
        "fallbacks",
        "user_profile_id",
        "betas",
        "context_management",
    )
    block = {
        "type": "text",
        "text": "Hi",
        "cache_control": {"type": "ephemeral", "ttl": "1h"},
        "citations": [],
        "new": 1,
    }
    request = request_of(
        **dict.fromkeys((*names, "safeguards"), "x"),
        cache_control={"type": "ephemeral"},
        mcp_servers=[],
        container={},
        messages=[{"role": "user", "content": [block], "new": {}}],
        tools=[{**TOOL, "new": 1, "allowed_callers": ["direct"], "eager_input_streaming": True, "cache_control": None}],
        tool_choice={"type": "auto", "new": 1},
        metadata={"new": 1},
    )
    assert set(request.ignored) == {*names, "safeguards"}
    assert [text.text for text in request.messages[0].content if isinstance(text, Text)] == ["Hi"]
    assert [tool.name for tool in request.tools] == ["weather"]


@pytest.mark.parametrize(
    "system", ["", [], [{"type": "text", "text": ""}], [{"type": "text", "text": "x-anthropic-billing-header: a"}]]
)
def test_no_system_text(system: Any) -> None:
    assert [message.role for message in request_of(system=system).messages] == ["user"]


def test_system_blocks_without_the_billing_header() -> None:
    blocks = [
        {"type": "text", "text": text} for text in ("x-anthropic-billing-header: cc_version=1.2a3;", "One", "Two")
    ]
    first = request_of(system=blocks).messages[0]
    assert first.role == "system"
    assert [text.text for text in first.content if isinstance(text, Text)] == ["One", "Two"]


def test_requests_are_equal_but_for_how_they_are_sent() -> None:
    def digest(suffix: str, **fields: Any) -> str:
        blocks = [
            {"type": "text", "text": f"x-anthropic-billing-header: {suffix}"},
            {"type": "text", "text": "Be brief."},
        ]
        return body_digest(body_of(system=blocks, **fields))

    assert digest("a", stream=True) == digest("b", stream=False) == digest("c")
    assert digest("a", max_tokens=9) != digest("a")
    assert digest("a", metadata={"user_id": "x"}) != digest("a")


# ---------------------------------------------------------------- thinking and output


@pytest.mark.parametrize(
    ("thinking", "effort", "most", "reasoning", "left"),
    [
        (None, "high", 100_000, None, 100_000),
        ({"type": "disabled"}, "high", 100_000, None, 100_000),
        ({"type": "enabled", "budget_tokens": 4000}, "low", 32_000, 4000, 28_000),
        ({"type": "enabled", "budget_tokens": 1024.0}, None, 1025, 1024, 1),
        ({"type": "adaptive"}, None, 32_000, 8192, 23_808),
        ({"type": "adaptive"}, "low", 32_000, 2048, 29_952),
        ({"type": "between_tools"}, "max", 128_000, 32_768, 95_232),
        ({"type": "adaptive"}, None, 4096, 2048, 2048),
        ({"type": "adaptive"}, None, 2048, 1024, 1024),
        ({"type": "adaptive"}, None, 1000, None, 1000),
        ({"type": "adaptive"}, "enormous", 32_000, 8192, 23_808),
    ],
)
def test_thinking_is_part_of_max_tokens(
    thinking: Any, effort: str | None, most: int, reasoning: int | None, left: int
) -> None:
    request = request_of(thinking=thinking, output_config={"effort": effort}, max_tokens=most)
    assert request.reasoning == (Reasoning(reasoning) if reasoning else None)
    assert request.max_tokens == left
    assert bool(request.adjusted) is (effort == "enormous" or (most == 1000))


@pytest.mark.parametrize(
    ("display", "shown"), [("omitted", False), ("summarized", True), ("updates", True), (None, True)]
)
def test_how_thinking_is_displayed(display: str | None, shown: bool) -> None:
    thinking = {"type": "adaptive", "display": display}
    assert decoded(body_of(thinking=thinking))[1].thinking_shown is shown


@pytest.mark.parametrize("older", [False, True])
def test_structured_output(older: bool) -> None:
    wanted = {"type": "json_schema", "schema": {"type": "object"}, "strict": older}
    output = request_of(**({"output_format": wanted} if older else {"output_config": {"format": wanted}})).output
    assert output is not None
    assert (output.schema, output.strict) == ({"type": "object"}, older)
    assert output.path == ("output_format.schema" if older else "output_config.format.schema")


def test_the_end_user_is_a_tag_and_only_a_digest_where_it_says_more() -> None:
    assert request_of(metadata={"user_id": "u-1"}).tags == ("user:u-1",)
    device = json.dumps({"device_id": "d" * 64, "account_uuid": "", "session_id": "s"})
    assert request_of(metadata={"user_id": device}).tags == request_of(metadata={"user_id": device}).tags
    assert "d" * 8 not in request_of(metadata={"user_id": device}).tags[0]
    assert len(request_of(metadata={"user_id": "x" * 200}).tags[0]) < 50
    assert request_of(metadata={"user_id": ""}).tags == ()


# ---------------------------------------------------------------- messages


def test_calls_and_results() -> None:
    use = {
        "type": "tool_use",
        "id": "toolu_1",
        "name": "weather",
        "input": {"city": "Ulm"},
        "caller": {"type": "direct"},
    }
    request = request_of(
        messages=[
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "I look."}, use, {**use, "id": "t2", "input": {}}],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t2"},
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "18 C", "is_error": True},
                    {"type": "text", "text": "And now?"},
                ],
            },
        ],
        tools=[TOOL],
    )
    _, assistant, user = (message.content for message in request.messages)
    assert assistant[1] == ToolCall("toolu_1", "weather", {"city": "Ulm"}, "messages[1].content[1]")
    assert assistant[2] == ToolCall("t2", "weather", {}, "messages[1].content[2]")
    assert user[0] == ToolResult("t2", (), path="messages[2].content[0]")
    assert isinstance(user[1], ToolResult)
    assert (user[1].is_error, [text.text for text in user[1].content if isinstance(text, Text)]) == (True, ["18 C"])
    assert isinstance(user[2], Text)


@pytest.mark.parametrize("kind", ["image", "document"])
def test_media_keeps_its_path_and_within_results_becomes_a_reported_note(kind: str) -> None:
    media = {"type": kind, "source": {"type": "base64", "media_type": "x", "data": "AAAA"}}
    assert content(media) == (Media(kind, "messages[0].content[0]"),)
    request = request_of(
        {"type": "tool_result", "tool_use_id": "t", "content": [media, {"type": "text", "text": "A cat."}]}
    )
    result = request.messages[0].content[0]
    assert isinstance(result, ToolResult)
    assert [text.text for text in result.content if isinstance(text, Text)] == [
        f"[{kind} left out: this model reads text only]",
        "A cat.",
    ]
    assert request.adjusted == (f"messages: {kind} within a result was replaced by a note",)


@pytest.mark.parametrize(
    "source", [{"type": "base64"}, {"type": "url", "url": "https://x"}, {"type": "file", "file_id": "f"}]
)
def test_documents_that_are_not_text_are_media(source: dict[str, Any]) -> None:
    assert content({"type": "document", "source": source}) == (Media("document", "messages[0].content[0]"),)


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "document", "source": {"type": "text", "data": "Body", "media_type": "text/plain"}}, "Body"),
        (
            {"type": "document", "source": {"type": "content", "content": "Body"}, "title": "T", "context": "C"},
            "T\nC\nBody",
        ),
        (
            {
                "type": "document",
                "source": {"type": "content", "content": [{"type": "text", "text": "Body"}]},
                "title": "T",
            },
            "T\nBody",
        ),
        (
            {
                "type": "search_result",
                "source": "https://x",
                "title": "T",
                "content": [{"type": "text", "text": "Body"}],
            },
            "T\nhttps://x\nBody",
        ),
        ({"type": "tool_reference", "tool_name": "Grep"}, "Tool loaded: Grep"),
    ],
)
def test_what_is_read_as_text_in_turns_and_results(block: dict[str, Any], text: str) -> None:
    [plain] = content(block)
    assert isinstance(plain, Text)
    assert plain.text == text
    [result] = content({"type": "tool_result", "tool_use_id": "t", "content": [block]})
    assert isinstance(result, ToolResult)
    assert [part.text for part in result.content if isinstance(part, Text)] == [text]


def test_thinking_is_left_out_and_a_turn_of_it_alone_too() -> None:
    thinking = {"type": "thinking", "thinking": "", "signature": "c2ln"}
    redacted = {"type": "redacted_thinking", "data": "x"}
    request = request_of(
        messages=[
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [thinking, redacted]},
            {"role": "assistant", "content": [thinking, {"type": "text", "text": "b"}]},
        ]
    )
    assert [message.role for message in request.messages] == ["user", "assistant"]
    assert [text.text for text in request.messages[1].content if isinstance(text, Text)] == ["b"]


def test_a_compaction_is_text() -> None:
    [text] = content({"type": "compaction", "content": "Earlier: …"}, role="assistant")
    assert isinstance(text, Text)
    assert text.text == "Earlier: …"


@pytest.mark.parametrize(
    "kind",
    [
        "server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result", "mcp_tool_use",
        "mcp_tool_result", "container_upload", "fallback", "bash_code_execution_tool_result", "tool_search_tool_result",
    ],
)  # fmt: skip
def test_what_servers_did_becomes_a_reported_note(kind: str) -> None:
    block = {"type": kind, "id": "x", "name": 3, "content": {"type": "error"}}
    request = request_of(messages=[{"role": "assistant", "content": [block]}])
    [text] = request.messages[0].content
    assert isinstance(text, Text)
    assert kind in text.text
    assert request.adjusted == ("messages: what a server's tools did was replaced by a note",)


def test_system_turns_stay_where_they_stand() -> None:
    def turn(role: str, text: Any, **fields: Any) -> dict[str, Any]:
        return {"role": role, "content": text, **fields}

    cleared = {"clear_at": "next_user_message"}
    request = request_of(
        messages=[
            turn("user", "a"),
            turn("system", "stays"),
            turn("assistant", "b"),
            turn("system", "goes", **cleared),
            turn("user", "c"),
            turn("system", [{"type": "text", "text": "last", "cache_control": {"type": "ephemeral"}}], **cleared),
            turn("system", None, output_config={"effort": "low"}),
        ]
    )
    said = [
        (message.role, *(block.text for block in message.content if isinstance(block, Text)))
        for message in request.messages
    ]
    assert said == [("user", "a"), ("system", "stays"), ("assistant", "b"), ("user", "c"), ("system", "last")]


# ---------------------------------------------------------------- tools


def test_own_tools() -> None:
    spec = {"name": "get.weather", "description": " The weather. ", "input_schema": {"type": "object"}, "strict": True}
    [tool] = request_of(tools=[{**spec, "type": "custom", "input_examples": [{"city": "Ulm"}]}]).tools
    assert tool.description == 'The weather.\n\nExamples of its input:\n{"city":"Ulm"}'
    assert (tool.name, tool.strict, tool.path, tool.schema_path) == (
        "get.weather",
        True,
        "tools[0]",
        "tools[0].input_schema",
    )


@pytest.mark.parametrize(
    ("kind", "name", "arguments"),
    [
        ("bash_20241022", "bash", {"command", "restart"}),
        ("bash_20250124", "bash", {"command", "restart"}),
        *(
            (f"text_editor_{date}", "edit", {"command", "path", "file_text", "old_str", "new_str", "insert_line", "insert_text", "view_range"})
            for date in ("20241022", "20250124", "20250429", "20250728")
        ),
        (
            "memory_20250818",
            "memory",
            {"command", "path", "file_text", "old_str", "new_str", "insert_line", "insert_text", "old_path", "new_path", "view_range"},
        ),
    ],
)  # fmt: skip
def test_client_tools_get_their_schemas(kind: str, name: str, arguments: set[str]) -> None:
    [tool] = request_of(tools=[{"type": kind, "name": name}]).tools
    assert tool.parameters["properties"].keys() == arguments
    assert tool.description
    commands = tool.parameters["properties"]["command"].get("enum", [])
    assert ("undo_edit" in commands) is (kind in ("text_editor_20241022", "text_editor_20250124"))
    assert ("rename" in commands) is (name == "memory")
    assert bool(commands) is (name != "bash")


DEFERRED = {**TOOL, "name": "Grep", "defer_loading": True}
PLACEHOLDER = {**TOOL, "name": "DeferredToolPlaceholder", "defer_loading": True}


def offered(*turns: Any, tools: list[Any]) -> list[str]:
    return [tool.name for tool in request_of(messages=[{"role": "user", "content": "x"}, *turns], tools=tools).tools]


def change(kind: str, **tool: Any) -> dict[str, Any]:
    return {"role": "system", "content": [{"type": kind, "tool": tool}]}


def test_deferred_tools_are_offered_once_they_are_named() -> None:
    tools = [TOOL, DEFERRED, PLACEHOLDER]
    assert offered(tools=tools) == ["weather"]
    reference = {"type": "tool_reference", "tool_name": "Grep"}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [reference]}]}
    assert offered(result, tools=tools) == ["weather", "Grep"]
    added = change("tool_addition", type="tool_reference", name="Grep")
    assert offered(added, tools=tools) == ["weather", "Grep"]
    assert offered(added, change("tool_removal", type="tool_reference", name="Grep"), tools=tools) == ["weather"]


def test_turns_change_the_tools() -> None:
    removed = change("tool_removal", type="tool_reference", name="weather")
    assert offered(removed, tools=[TOOL]) == []
    again = change("tool_addition", type="tool_reference", name="weather")
    assert offered(removed, again, tools=[TOOL]) == ["weather"]
    other = change("tool_addition", type="tool_definition", definition={**TOOL, "name": "other"})
    assert offered(other, tools=[TOOL]) == ["weather", "other"]
    wrong = change("tool_addition", type="tool_definition", definition={"name": "other"})
    message = refused(messages=[{"role": "user", "content": "x"}, wrong])
    assert message.startswith("messages.1.content.0.tool.definition.input_schema")
    assert refused(messages=[change("tool_addition", type="mcp_tool")]).startswith("messages.0.content.0.tool.name")


@pytest.mark.parametrize(
    "kind", ["tool_search_tool_regex_20251119", "tool_search_tool_bm25", "tool_search_tool_bm25_20251119"]
)
def test_a_tool_search_that_cannot_run_offers_all(kind: str) -> None:
    request = request_of(tools=[{"type": kind, "name": "search"}, DEFERRED])
    assert [tool.name for tool in request.tools] == ["Grep"]
    assert request.adjusted == ("tools: the tool search cannot run here, so all tools are offered",)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ({"type": "auto"}, ToolChoice()),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(single=True)),
        ({"type": "any"}, ToolChoice(required=True)),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice(required=True, single=True)),
        ({"type": "tool", "name": "weather"}, ToolChoice(frozenset({"weather"}), required=True)),
        (
            {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
            ToolChoice(frozenset({"weather"}), required=True, single=True),
        ),
        ({"type": "none"}, ToolChoice(frozenset())),
    ],
)
def test_tool_choices(choice: Any, expected: ToolChoice) -> None:
    assert request_of(tools=[TOOL], tool_choice=choice).tool_choice == expected


@pytest.mark.parametrize("kind", ["auto", "none"])
def test_choices_that_need_no_tools(kind: str) -> None:
    assert not request_of(tool_choice={"type": kind}).tool_choice.required


# ---------------------------------------------------------------- native requests


def test_what_only_an_upstream_of_this_api_can_carry_goes_along_as_it_came() -> None:
    body = body_of(
        tools=[{"type": "web_search_20250305", "name": "web_search"}],
        tool_choice={"type": "tool", "name": "web_search"},
    )
    request, _ = decoded(body)
    assert request.native is not None
    assert (request.native.wire, request.native.body) == ("anthropic", body)
    assert (request.model, request.max_tokens) == ("m", 100_000)
    assert request.refusal is not None
    assert request.refusal.param == "tools[0].type"


# ---------------------------------------------------------------- estimates


def test_tokens_are_estimated_by_length() -> None:
    assert count_tokens(request_of()) == 4
    assert count_tokens(request_of(messages=[{"role": "user", "content": "a" * 350}])) == 104
    assert count_tokens(request_of(messages=[{"role": "user", "content": "ü" * 30}])) == 44
    assert count_tokens(request_of(system="a" * 35)) == 4 + 4 + 10
    tool = {**TOOL, "description": "d" * 13}  # with its name 20 characters, and 17 of schema
    assert count_tokens(request_of(tools=[tool])) == int(4 + 2 / 3.5 + 8 + (20 + 17) / 3.5)


@given(st.text(max_size=200), st.text(max_size=200))
def test_an_estimate_grows_with_the_text(some: str, more: str) -> None:
    short, long = (
        count_tokens(request_of(messages=[{"role": "user", "content": text}])) for text in (some, some + more)
    )
    assert 1 <= short <= long


# ---------------------------------------------------------------- what Claude Code sends


RECORDINGS = [
    (file.stem, request)
    for file in sorted(RECORDED.glob("*.json"))
    for request in json.loads(file.read_text("utf-8"))["requests"]
    if "body" in request
]


@pytest.mark.parametrize(
    ("name", "recorded"), RECORDINGS, ids=[f"{name}{index}" for index, (name, _) in enumerate(RECORDINGS)]
)
def test_recorded_requests_of_claude_code_are_understood(name: str, recorded: dict[str, Any]) -> None:
    body = {"max_tokens": 1, **recorded["body"]}
    if isinstance(body.get("tools"), str):  # left out of the recording
        del body["tools"]
    request, reply = decoded(body)
    searches = any(tool.get("type", "").startswith("web_search") for tool in body.get("tools", []))
    assert (request.refusal is not None) is searches
    assert set(request.ignored) <= {"context_management", "safeguards"}
    assert reply.input_tokens > 1
    texts = [block.text for message in request.messages for block in message.content if isinstance(block, Text)]
    assert not any(text.startswith("x-anthropic-billing-header") for text in texts)
    assert not any(tool.name == "DeferredToolPlaceholder" for tool in request.tools)
    assert request.adjusted == ()


# ---------------------------------------------------------------- anything


NAMES = st.sampled_from(
    [
        "type",
        "text",
        "content",
        "source",
        "data",
        "title",
        "tool",
        "definition",
        "name",
        "input",
        "tool_use_id",
        "tool_name",
        "new",
    ]
)
KINDS = st.sampled_from(
    ["text", "tool_use", "tool_result", "document", "search_result", "compaction", "tool_addition", "tool_removal", "tool_reference",
     "image", "thinking", "server_tool_use", "content", "base64", "new"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | KINDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)
BLOCKS = st.builds(lambda kind, fields: {**fields, "type": kind}, KINDS, st.dictionaries(NAMES, VALUES, max_size=5))
TURNS = st.builds(
    lambda role, blocks: {"role": role, "content": blocks},
    st.sampled_from(["user", "assistant", "system"]),
    st.lists(BLOCKS, max_size=3),
)
FIELDS = st.sampled_from([*MessagesRequest.model_fields])


@given(st.lists(TURNS, min_size=1, max_size=3), st.dictionaries(FIELDS, VALUES, max_size=3))
def test_whatever_comes_is_understood_or_refused_by_a_path(turns: list[Any], fields: dict[str, Any]) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": turns, **fields}
    try:
        request, reply = decoded(body)
    except InvalidRequest:
        return
    assert reply.input_tokens >= 1
    assert request.refusal is None or request.refusal.param
    assert request.native is not None

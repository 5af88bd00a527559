"""Results → completions and chunks: folding the chunks with OpenAI's own helper gives the completion."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.openai.decode import ChatReply
from proxy.api.openai.encode import ChatStreamEncoder, completion_body
from proxy.inference.request import ToolCall
from proxy.inference.result import Choice, Result, Usage, result_events
from tests.folding import assert_completion_is_openais, fold

USAGE = Usage(1, 2, 3)
REPLY = ChatReply("m")
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=300) | st.sampled_from(
    ["a" * 500, "  \n\n", "👩‍👩‍👧‍👦" * 60, "e\u0301" * 100, "日本語" * 50, "a\r\nb\r\n", "\u0301x"]
)
CALLS = st.builds(
    ToolCall,
    st.uuids().map(lambda id_: id_.hex) | st.uuids().map(lambda id_: f"toolu_{id_.hex}"),
    st.sampled_from(["a", "b"]),
    st.dictionaries(TEXT, TEXT | st.integers() | st.none(), max_size=3),
)


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    calls = tuple(draw(st.lists(CALLS, max_size=3)))
    text = draw(TEXT)
    return Choice(
        text=(text if text.strip() else None) if calls else text,
        tool_calls=calls,
        reasoning=draw(st.none() | TEXT),
        finish_reason="tool_calls" if calls else draw(st.sampled_from(["stop", "length", "content_filter"])),
    )


RESULTS = st.builds(
    Result,
    st.uuids().map(lambda id_: id_.hex),
    st.just(1_700_000_000),
    st.just("abc"),
    st.lists(choices(), min_size=1, max_size=3).map(tuple),
    st.just(USAGE),
)


def result(*choices: Choice) -> Result:
    return Result("r1", 1, "abc", choices, USAGE)


def message(choice: Choice, reply: ChatReply = REPLY) -> dict[str, Any]:
    return dict(json.loads(completion_body(reply, result(choice)))["choices"][0]["message"])


def chunks(made: Result, reply: ChatReply = REPLY) -> list[Any]:
    stream = ChatStreamEncoder(reply)
    return [chunk for event in result_events(made) for chunk in map(parsed, stream.encode(event))]


def parsed(event: bytes) -> Any:
    return json.loads(event.removeprefix(b"data: "))


@given(RESULTS, st.booleans(), st.booleans())
def test_folding_the_chunks_gives_the_completion(made: Result, include_usage: bool, reasoning_object: bool) -> None:
    reply = ChatReply("m", include_usage=include_usage, reasoning_object=reasoning_object)
    whole: Any = json.loads(completion_body(reply, made))
    assert_completion_is_openais(whole)
    sent = chunks(made, reply)
    assert fold(sent) == (whole if include_usage else {**whole, "usage": None})
    heard = [(choice["index"], choice["delta"]) for chunk in sent for choice in chunk["choices"]]
    for index in range(len(made.choices)):
        deltas = [delta for choice, delta in heard if choice == index]
        assert [delta for delta in deltas if "role" in delta] == [{"role": "assistant", "content": ""}] == deltas[:1]
        assert deltas[-1] == {}


def test_a_completion() -> None:
    assert json.loads(completion_body(ChatReply("my-model"), result(Choice("hi")))) == {
        "id": "chatcmpl-r1",
        "object": "chat.completion",
        "created": 1,
        "model": "my-model",
        "system_fingerprint": "fp_abc",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi", "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }


def test_content_is_null_beside_calls_unless_there_is_text_and_else_a_string() -> None:
    calls = (ToolCall("1", "f", {}),)
    assert message(Choice(" ", calls))["content"] is None
    assert message(Choice("Well.", calls))["content"] == "Well."
    assert message(Choice(None))["content"] == ""


def test_each_call_is_one_delta_with_its_whole_arguments() -> None:
    arguments = {"text": "long " * 500}
    calls = (ToolCall("1", "f", arguments), ToolCall("toolu_2", "g", {}))
    deltas = [
        call
        for chunk in chunks(result(Choice(None, calls, finish_reason="tool_calls")))
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    whole = message(Choice(None, calls))["tool_calls"]
    assert deltas == [{"index": index, **call} for index, call in enumerate(whole)]
    assert [call["id"] for call in whole] == ["call_1", "toolu_2"]
    assert whole[1]["function"]["arguments"] == "{}"


def test_the_retired_functions_are_answered_in_their_own_shape() -> None:
    reply = ChatReply("m", function_call=True)
    made = result(Choice(None, (ToolCall("1", "f", {"a": 1}), ToolCall("2", "g", {})), finish_reason="tool_calls"))
    whole: Any = json.loads(completion_body(reply, made))
    assert whole["choices"][0]["message"]["function_call"] == {"name": "f", "arguments": '{"a":1}'}
    assert whole["choices"][0]["finish_reason"] == "function_call"
    assert fold(chunks(made, reply)) == {**whole, "usage": None}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"input": "ls -l"}, "ls -l"), ("ls", "ls"), ({"input": {"a": 1}}, '{"a":1}'), ({"x": 1}, '{"x":1}'), (5, "5")],
)
def test_a_call_of_a_custom_tool_is_a_custom_call(arguments: Any, text: str) -> None:
    reply = ChatReply("m", custom_tools=frozenset({"shell"}))
    choice = Choice(None, (ToolCall("1", "shell", arguments), ToolCall("2", "f", {})), finish_reason="tool_calls")
    custom = {"id": "call_1", "type": "custom", "custom": {"name": "shell", "input": text}}
    calls = message(choice, reply)["tool_calls"]
    assert calls[0] == custom
    assert calls[1]["type"] == "function"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(result(choice), reply)]
    assert {"tool_calls": [{"index": 0, **custom}]} in deltas


def test_reasoning_is_one_text_and_herokus_object_only_where_it_is_wanted() -> None:
    choice = Choice("x", reasoning="hm")
    assert message(choice)["reasoning_content"] == "hm"
    assert "reasoning" not in message(choice)
    assert message(choice, ChatReply("m", reasoning_object=True))["reasoning"] == {"thinking": "hm"}
    assert message(Choice("x", reasoning="")).keys() == {"role", "content", "refusal"}


def test_usage_is_mentioned_only_where_it_is_wanted() -> None:
    plain = chunks(result(Choice("x")))
    assert all("usage" not in chunk for chunk in plain)
    *most, last = chunks(result(Choice("x")), ChatReply("m", include_usage=True))
    assert all(chunk["usage"] is None for chunk in most)
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 3)


def test_a_heartbeat_is_a_chunk_of_the_stream_without_content() -> None:
    stream = ChatStreamEncoder(ChatReply("m"))
    assert stream.heartbeat() == b""
    first = parsed(next(stream.encode(next(result_events(result(Choice("x")))))))
    heartbeat = parsed(stream.heartbeat())
    assert heartbeat["choices"] == [{"index": 0, "delta": {}, "finish_reason": None, "logprobs": None}]
    assert heartbeat["id"] == first["id"]

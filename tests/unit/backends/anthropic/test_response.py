"""Events of the Messages API → neutral events, for messages of any shape."""

import json
from typing import Any

import pytest
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from proxy.backends.anthropic.request import MessagesCall
from proxy.backends.anthropic.response import MessageReader
from proxy.inference.request import ToolCall
from proxy.inference.result import Choice, Event, Started, Usage, fold
from proxy.schemas import compile_schema

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
USAGE = {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 1}
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1}, "extra": {"type": "object"}},
    "required": ["n"],
}

pieces = st.lists(st.text(max_size=5), max_size=4)
texts = st.tuples(st.just("text"), pieces)
thoughts = st.tuples(st.just("thinking"), pieces)
calls = st.tuples(
    st.just("tool_use"), st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2)
)
reasons = st.sampled_from(["end_turn", "tool_use", "max_tokens", "stop_sequence", "refusal"])


def events(blocks: list[tuple[str, Any]], reason: str, stop_sequence: str | None = None) -> list[Any]:
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": USAGE,
    }  # fmt: skip
    sent: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, (kind, what) in enumerate(blocks):
        opened = {
            "text": {"type": "text", "text": "", "citations": None},
            "thinking": {"type": "thinking", "thinking": "", "signature": ""},
            "tool_use": {"type": "tool_use", "id": f"toolu_{index}", "name": "safe", "input": {}},
        }[kind]
        if kind == "tool_use":
            written = what if isinstance(what, str) else json.dumps(what) if what else ""
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in ("", written[:3], written[3:])]
        elif kind == "thinking":
            deltas = [{"type": "thinking_delta", "thinking": part} for part in what]
        else:
            deltas = [{"type": "text_delta", "text": part} for part in what]
        sent.append({"type": "content_block_start", "index": index, "content_block": opened})
        sent += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        sent.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": reason, "stop_sequence": stop_sequence}
    sent.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}})
    sent.append({"type": "message_stop"})
    return [EVENT.validate_python(each) for each in sent]


def read(blocks: list[tuple[str, Any]], reason: str = "end_turn", stop: str | None = None, **options: Any) -> Any:
    """The choice that the events fold to, its usage, and the reader."""
    reader = MessageReader(MessagesCall(body={}, names={"safe": "the tool"}, **options))
    heard: list[Event] = [Started("1", 1, "fp", 1)]
    for event in events(blocks, reason, stop):
        assert not reader.ended
        heard += reader.read(event)
    assert reader.ended
    result = fold(heard)
    assert result.usage == Usage(7, 9, 16)
    return result.choices[0], reader


@given(st.lists(st.one_of(texts, thoughts, calls), max_size=5), reasons)
def test_everything_in_a_message_is_passed_on_once(blocks: list[tuple[str, Any]], reason: str) -> None:
    choice, _ = read(blocks, reason, reasoning_shown=True)
    of_kind = {kind: [what for each, what in blocks if each == kind] for kind in ("text", "thinking", "tool_use")}
    assert (choice.text or "") == "".join(piece for block in of_kind["text"] for piece in block)
    assert (choice.reasoning or "") == "".join(piece for block in of_kind["thinking"] for piece in block)
    cut = reason in ("max_tokens", "refusal")
    made = [call.arguments for call in choice.tool_calls]
    last_is_bare = bool(blocks) and blocks[-1] == ("tool_use", {})
    assert made == (of_kind["tool_use"][:-1] if cut and last_is_bare else of_kind["tool_use"])
    assert {call.name for call in choice.tool_calls} <= {"the tool"}
    assert (choice.finish_reason == "tool_calls") == bool(made) or (cut and last_is_bare)


@given(st.lists(thoughts, min_size=1, max_size=2))
def test_reasoning_that_is_not_wanted_is_left_out(blocks: list[tuple[str, Any]]) -> None:
    assert read(blocks)[0] == Choice("")


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
    ],
)
def test_finish_reasons(reason: str, finish: str) -> None:
    assert read([("text", ["x"])], reason)[0].finish_reason == finish


def test_the_stop_string_is_passed_on() -> None:
    assert read([("text", ["x"])], "stop_sequence", "END")[0].stop_sequence == "END"


def test_a_call_that_the_limit_cut_is_dropped() -> None:
    choice, _ = read([("text", ["Hm."]), ("tool_use", '{"a": ')], "max_tokens")
    assert choice == Choice("Hm.", (), None, "length")
    whole, _ = read([("tool_use", {"a": 1}), ("tool_use", "[1]")], "max_tokens")
    assert whole == Choice(None, (ToolCall("toolu_0", "the tool", {"a": 1}),), None, "length")


@pytest.mark.parametrize("second", [{"a": 2}, {}])
def test_where_one_call_is_wanted_one_is_delivered(second: dict[str, Any]) -> None:
    choice, _ = read([("tool_use", {"a": 1}), ("tool_use", second)], "tool_use", single=True)
    assert [call.arguments for call in choice.tool_calls] == [{"a": 1}]
    assert choice.finish_reason == "tool_calls"


# ---------------------------------------------------------------- structured output


def structured(text: str, **options: Any) -> Any:
    answer = compile_schema(SCHEMA, param="p", dialect="full")
    return read([("text", [text[:5], text[5:]])], answer=answer, **options)


def test_structured_output_is_passed_on_as_it_comes_and_checked() -> None:
    choice, reader = structured('{"n": 3}')
    assert (choice.text, reader.unmatched) == ('{"n": 3}', "")
    choice, reader = structured('{"n": 0}')
    assert choice.text == '{"n": 0}'
    assert "n" in reader.unmatched
    assert structured("Sorry.")[1].unmatched == "the answer is not JSON"


def test_objects_that_were_asked_for_as_json_text_are_decoded() -> None:
    written = json.dumps({"n": 1, "extra": '{"é": [1]}'})
    choice, reader = structured(written, encoded=True)
    assert choice.text == '{"n":1,"extra":{"é":[1]}}'
    assert reader.unmatched == ""
    assert structured("Sorry.", encoded=True)[0].text == "Sorry."
    assert structured("", encoded=True)[0].text == ""

"""Events → deltas and the completion, for messages of any shape: the two always say the same."""

import json
from typing import Any

from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from proxy.anthropic.call import MessagesCall
from proxy.anthropic.reading import Reader
from proxy.translate.reply import Stamp
from tests.folding import assert_completion_is_openais, fold

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
STAMP = Stamp("chatcmpl-1", 1, "m", "fp_1")
USAGE = {"input_tokens": 5, "output_tokens": 1}

pieces = st.lists(st.text(max_size=5), max_size=4)
texts = st.tuples(st.just("text"), pieces)
thoughts = st.tuples(st.just("thinking"), pieces)
calls = st.tuples(
    st.just("tool_use"), st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2)
)
reasons = st.sampled_from(["end_turn", "tool_use", "max_tokens", "stop_sequence", "refusal"])


def events(blocks: list[tuple[str, Any]], reason: str) -> list[Any]:
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": USAGE,
    }  # fmt: skip
    told: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, (kind, what) in enumerate(blocks):
        opened = {
            "text": {"type": "text", "text": "", "citations": None},
            "thinking": {"type": "thinking", "thinking": "", "signature": ""},
            "tool_use": {"type": "tool_use", "id": f"toolu_{index}", "name": "safe", "input": {}},
        }[kind]
        if kind == "tool_use":
            written = json.dumps(what) if what else ""
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in ("", written[:3], written[3:])]
        elif kind == "thinking":
            deltas = [{"type": "thinking_delta", "thinking": part} for part in what]
        else:
            deltas = [{"type": "text_delta", "text": part} for part in what]
        told.append({"type": "content_block_start", "index": index, "content_block": opened})
        told += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        told.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": reason, "stop_sequence": None}
    told.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}})
    told.append({"type": "message_stop"})
    return [EVENT.validate_python(each) for each in told]


def read(blocks: list[tuple[str, Any]], reason: str, **options: Any) -> tuple[Any, list[Any], bool]:
    """The completion, the deltas, and whether the message's end was seen."""
    reader = Reader(MessagesCall(body={}, sampling={}, names={"safe": "the tool"}, **options))
    deltas = [delta for event in events(blocks, reason) for delta in reader.read(event)]
    return reader.completion(STAMP), deltas, reader.ended


def chunk(delta: Any, finish: Any = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "system_fingerprint": "fp_1",
        "choices": [choice],
    }  # fmt: skip


@given(st.lists(st.one_of(texts, thoughts, calls), max_size=5), reasons)
def test_the_deltas_fold_to_the_completion(blocks: list[tuple[str, Any]], reason: str) -> None:
    completion, deltas, ended = read(blocks, reason, show_reasoning=True)
    assert ended
    assert_completion_is_openais(completion)
    finish = completion["choices"][0]["finish_reason"]
    opening = chunk({"role": "assistant", "content": ""})
    folded = fold([opening, *(chunk(delta) for delta in deltas), chunk({}, finish)])
    assert folded["choices"] == completion["choices"]
    made = completion["choices"][0]["message"].get("tool_calls", [])
    assert (finish == "tool_calls") == bool(made) or reason in ("max_tokens", "refusal")
    assert all(call["function"]["name"] == "the tool" for call in made)
    assert completion["usage"] == {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}


@given(st.lists(thoughts, min_size=1, max_size=2))
def test_thoughts_nobody_asked_for_are_not_shown(blocks: list[tuple[str, Any]]) -> None:
    completion, deltas, _ = read(blocks, "end_turn")
    assert deltas == []
    assert "reasoning_content" not in completion["choices"][0]["message"]


def test_the_retired_functions_field_gets_one_call_in_its_own_shape() -> None:
    blocks = [("tool_use", {"a": 1}), ("tool_use", {"a": 2})]
    completion, deltas, _ = read(blocks, "tool_use", function_call=True)
    message = completion["choices"][0]["message"]
    assert message["function_call"] == {"name": "the tool", "arguments": '{"a":1}'}
    assert completion["choices"][0]["finish_reason"] == "function_call"
    assert len(deltas) == 2

"""Completions → chunks: folding them back with OpenAI's own helper gives the completion."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.translate.chunks import closing_chunks, heartbeat_after, opening_chunks
from proxy.translate.reply import Stamp
from tests.folding import fold

STAMP = Stamp("chatcmpl-1", 1, "m", "fp_1")
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=300) | st.sampled_from(
    ["a" * 500, "  \n\n", "👩‍👩‍👧‍👦" * 60, "e\u0301" * 100, "日本語" * 50, "a\r\nb\r\n", "\u0301x"]
)
CALL = st.fixed_dictionaries(
    {
        "id": st.uuids().map(lambda id_: f"call_{id_.hex}"),
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": st.sampled_from(["a", "b"]), "arguments": TEXT.map(lambda text: "{" + text + "}")}
        ),
    }
)


@st.composite
def choices(draw: st.DrawFn, index: int) -> dict[str, Any]:
    calls = draw(st.lists(CALL, max_size=3))
    content = draw(TEXT)
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if calls:
        message["content"] = content or None
        message["tool_calls"] = calls
    if reasoning := draw(st.just("") | TEXT):
        message["reasoning_content"] = reasoning
        if draw(st.booleans()):
            message["reasoning"] = {"thinking": reasoning}
    reason = "tool_calls" if calls else draw(st.sampled_from(["stop", "length"]))
    return {"index": index, "message": message, "finish_reason": reason, "logprobs": None}


@st.composite
def completions(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(1, 3))
    return {
        "id": STAMP.id,
        "object": "chat.completion",
        "created": STAMP.created,
        "model": STAMP.model,
        "system_fingerprint": STAMP.fingerprint,
        "choices": [draw(choices(index)) for index in range(count)],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }


@given(completions(), st.booleans())
def test_folding_the_chunks_gives_the_completion(completion: Any, include_usage: bool) -> None:
    opening = list(opening_chunks(STAMP, len(completion["choices"]), include_usage=include_usage))
    chunks = [
        *opening,
        heartbeat_after(opening[-1]),
        *closing_chunks(completion, include_usage=include_usage),
    ]
    assert fold(chunks) == (completion if include_usage else {**completion, "usage": None})


def test_no_list_in_a_delta_has_an_entry_without_an_integer_index() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "a", "arguments": "{}"}}
    message: Any = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [call, {**call, "id": "call_2"}],
    }
    completion: Any = {
        "id": "x", "object": "chat.completion", "created": 1, "model": "m", "system_fingerprint": "f", "usage": {},
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}],
    }  # fmt: skip
    entries = [
        entry
        for chunk in closing_chunks(completion, include_usage=False)
        for choice in chunk["choices"]
        for value in choice["delta"].values()
        if isinstance(value, list)
        for entry in value
    ]
    assert [entry["index"] for entry in entries] == [0, 0, 1, 1]

"""Anthropic's own library as judge of the Messages API: its types for every object, its stream helper for folding events back."""

import json
import re
from typing import Any

from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

_EVENT = re.compile(rb"event: ([a-z_]+)\ndata: ([^\n]+)\n\n")
_STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
_BLOCK_DELTAS = {
    "thinking": {"thinking_delta", "signature_delta"},
    "text": {"text_delta"},
    "tool_use": {"input_json_delta"},
}


def assert_message_is_anthropics(value: Any) -> None:
    """It has exactly the types of the library's `Message`, checked strictly, and nothing that this does not name."""
    message = Message.model_validate_json(json.dumps(value), strict=True)
    assert not message.model_extra
    assert all(block.type != "text" or block.text for block in message.content)
    assert all(block.type != "thinking" or block.signature for block in message.content)


def stream_events(raw: bytes) -> list[dict[str, Any]]:
    """The events of a stream, whose bytes must be nothing but events, each named as its data says."""
    assert _EVENT.sub(b"", raw) == b"", raw
    events = []
    for name, data in _EVENT.findall(raw):
        event = json.loads(data)
        assert event["type"] == name.decode()
        events.append(event)
    return events


def fold_messages(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that the library's stream helper makes of events in the contract's order, in the shape of the plain answer."""
    events = [event for event in events if event["type"] != "ping"]
    assert_order(events)
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events:
        read = _STREAM_EVENT.validate_json(json.dumps(event), strict=True)
        snapshot = accumulate_event(event=read, current_snapshot=snapshot, json_bufs=buffers)
    folded: dict[str, Any] = snapshot.to_dict(mode="json")
    for block in folded["content"]:
        block.pop("parsed_output", None)
        if block["type"] == "text":
            block.setdefault("citations", None)
    return folded


def assert_order(events: list[dict[str, Any]]) -> None:
    """`message_start`, blocks that do not overlap with indices from 0, `message_delta` once, `message_stop`."""
    assert [events[0]["type"], events[-2]["type"], events[-1]["type"]] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["content"] == []
    assert events[0]["message"]["stop_reason"] is None
    assert events[0]["message"]["usage"]["input_tokens"] >= 1
    index, kind, ended = -1, "", True
    for event in events[1:-2]:
        match event["type"]:
            case "content_block_start":
                assert ended
                assert event["index"] == index + 1
                index, ended, kind = event["index"], False, event["content_block"]["type"]
                assert event["content_block"].get("input", {}) == {}
            case "content_block_delta":
                assert not ended
                assert event["index"] == index
                assert event["delta"]["type"] in _BLOCK_DELTAS[kind]
            case "content_block_stop":
                assert not ended
                assert event["index"] == index
                ended = True
            case other:
                raise AssertionError(f"{other} stands in the middle")
    assert ended


def as_messages(chat: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    """A request for chat completions as one for messages, for the fields that the cases have.

    Args:
        max_tokens: where the request names none.
    """
    system = [message["content"] for message in chat["messages"] if message["role"] == "system"]
    body: dict[str, Any] = {
        "model": chat["model"],
        "max_tokens": chat.get("max_tokens", max_tokens),
        "messages": [_turn(message) for message in chat["messages"] if message["role"] != "system"],
    }
    if system:
        body["system"] = "\n\n".join(system)
    if "temperature" in chat:
        body["temperature"] = min(chat["temperature"], 1)
    functions = [*chat.get("functions", []), *(tool["function"] for tool in chat.get("tools", []))]
    if functions:
        body["tools"] = [
            {"name": spec["name"], "description": spec["description"], "input_schema": spec.get("parameters", {})}
            for spec in functions
        ]
    if "function_call" in chat:
        body["tool_choice"] = {"type": "tool", **chat["function_call"], "disable_parallel_tool_use": True}
    if "response_format" in chat:
        spec = chat["response_format"]["json_schema"]
        wanted = {"type": "json_schema", "schema": spec["schema"], "strict": spec["strict"]}
        body["output_config"] = {"format": wanted}
    if "extended_thinking" in chat:
        budget = chat["extended_thinking"]["budget_tokens"]
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        body["max_tokens"] += budget
    return body


def _turn(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        result = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": message["content"]}
        return {"role": "user", "content": [result]}
    if "tool_calls" not in message:
        return {"role": message["role"], "content": message["content"]}
    calls = [
        {
            "type": "tool_use",
            "id": call["id"],
            "name": call["function"]["name"],
            "input": json.loads(call["function"]["arguments"]),
        }
        for call in message["tool_calls"]
    ]
    return {"role": "assistant", "content": calls}

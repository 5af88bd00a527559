"""OpenAI's own library as judge of the Responses API: its strict types for every object and event; and chat requests written for it."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def assert_response_is_openais(value: Any) -> None:
    """It has exactly the types of OpenAI's `Response`, checked strictly."""
    Response.model_validate(value, strict=True)


def response_events(data: bytes, *, judged: bool = True, first: int = 0) -> list[dict[str, Any]]:
    """The events of a stream, comments left out: numbered without gaps, and of OpenAI's own types unless they are not `judged`."""
    events: list[dict[str, Any]] = []
    text = "".join(line for line in data.decode().splitlines(keepends=True) if not line.startswith(":"))
    assert text.endswith("\n\n")
    for part in text.split("\n\n")[:-1]:
        kind, value = part.split("\n")
        event = json.loads(value.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        if judged:
            _EVENT.validate_python(event, strict=True)
        assert event["sequence_number"] == first + len(events)
        events.append(event)
    return events


def fold_items(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items that a client builds of deltas alone; each is found equal to what the event of its end says."""
    items: list[dict[str, Any]] = []
    for event in events:
        index = event.get("output_index")
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert index == len(items)
                items.append(json.loads(json.dumps(event["item"])))
            case "content_part.added":
                items[index]["content"].append(dict(event["part"]))
            case "reasoning_summary_part.added":
                items[index]["summary"].append(dict(event["part"]))
            case "output_text.delta":
                items[index]["content"][0]["text"] += event["delta"]
            case "reasoning_summary_text.delta":
                items[index]["summary"][0]["text"] += event["delta"]
            case "function_call_arguments.delta":
                items[index]["arguments"] += event["delta"]
            case "custom_tool_call_input.delta":
                items[index]["input"] += event["delta"]
            case "output_item.done":
                # What is sealed, and the status, are known at the end only.
                done = {name: value for name, value in event["item"].items() if name != "encrypted_content"}
                assert {**items[index], "status": None} == {**done, "status": None}
                items[index] = event["item"]
    return items


def as_responses(chat: dict[str, Any]) -> dict[str, Any]:
    """A chat request as one of the Responses API; thinking is a low effort."""
    asked = {name: value for name, value in chat.items() if name in ("model", "temperature", "tools")}
    asked["input"] = [item for message in chat["messages"] for item in _items(message)]
    asked["max_output_tokens"] = chat.get("max_tokens")
    if functions := chat.get("functions"):
        asked |= {"tools": [{"function": function} for function in functions], "parallel_tool_calls": False}
    if tools := asked.get("tools"):
        asked["tools"] = [{"type": "function", **tool["function"]} for tool in tools]
    match chat.get("function_call"):
        case {"name": name}:
            asked["tool_choice"] = {"type": "function", "name": name}
        case mode:
            asked["tool_choice"] = mode
    if format_ := chat.get("response_format"):
        asked["text"] = {"format": {"type": format_["type"], **format_.get("json_schema", {})}}
    if chat.get("extended_thinking"):
        asked["reasoning"] = {"effort": "low", "summary": "auto"}
    return asked


def _items(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if message["role"] == "tool":
        yield {"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]}
    elif message["content"] is not None:
        yield {"role": message["role"], "content": message["content"]}
    for call in message.get("tool_calls", ()):
        yield {"type": "function_call", "call_id": call["id"], **call["function"]}

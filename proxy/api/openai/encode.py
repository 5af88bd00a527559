"""Results → chat completions; events → the chunks of a stream. Source: contract `heroku-chat.md`, sections Response and Stream.

Clients join the strings of a stream's deltas: `role` and everything of a call are sent exactly once. The whole `arguments` of a call are
in its first delta, since some clients join deltas of calls by `id`, which later ones do not repeat.
"""

from collections.abc import Iterator
from typing import Any, cast

from proxy.api.openai.decode import ChatReply
from proxy.api.openai.messages import CUSTOM_INPUT
from proxy.api.openai.types import (
    ChatCompletion,
    ChoiceOut,
    Chunk,
    Delta,
    FinishReasonOut,
    FunctionOut,
    MessageOut,
    ReasoningOut,
    ToolCallOut,
    UsageOut,
)
from proxy.inference.jsontext import dump_json
from proxy.inference.request import ToolCall
from proxy.inference.result import (
    Choice,
    ChoiceEnded,
    Ended,
    Event,
    FinishReason,
    ReasoningDelta,
    Result,
    Started,
    TextDelta,
    ToolCalled,
    Usage,
)


def completion(result: Result, reply: ChatReply) -> ChatCompletion:
    """The whole response."""
    return {
        "id": f"chatcmpl-{result.id}",
        "object": "chat.completion",
        "created": result.created,
        "model": reply.model,
        "system_fingerprint": _fingerprint(result.fingerprint),
        "choices": [_choice(index, choice, reply) for index, choice in enumerate(result.choices)],
        "usage": _usage(result.usage),
    }


class ChunkStream:
    """Encodes the events of one stream, which begin with `Started`."""

    def __init__(self, reply: ChatReply) -> None:
        self._reply = reply
        self._started: Started | None = None

    def chunks(self, event: Event) -> Iterator[Chunk]:
        """The chunks of an event: none or one, and for `Started` one a choice."""
        match event:
            case Started():
                self._started = event
                for index in range(event.choices):
                    yield self._chunk(index, {"role": "assistant", "content": ""})
            case ReasoningDelta():
                yield self._chunk(event.choice, cast(Delta, _reasoning(event.text, self._reply)))
            case TextDelta():
                yield self._chunk(event.choice, {"content": event.text})
            case ToolCalled() if self._reply.function_call:
                if event.index == 0:
                    yield self._chunk(event.choice, {"function_call": _function(event.call)})
            case ToolCalled():
                call: ToolCallOut = {"index": event.index, **_call(event.call, self._reply)}
                yield self._chunk(event.choice, {"tool_calls": [call]})
            case ChoiceEnded():
                yield self._chunk(event.choice, {}, _finish_reason(event.finish_reason, self._reply))
            case Ended() if self._reply.include_usage:
                yield {**self._envelope(), "usage": _usage(event.usage)}

    def heartbeat(self) -> Chunk | None:
        """A chunk of the same stream without content, for watchdogs that count only data; None before the first chunk."""
        return self._chunk(0, {}) if self._started else None

    def _chunk(self, choice: int, delta: Delta, finish_reason: FinishReasonOut | None = None) -> Chunk:
        chunk = self._envelope()
        chunk["choices"].append(
            {"index": choice, "delta": delta, "finish_reason": finish_reason, "logprobs": None},
        )
        if self._reply.include_usage:
            chunk["usage"] = None
        return chunk

    def _envelope(self) -> Chunk:
        if self._started is None:
            raise ValueError("a stream begins with Started")
        return {
            "id": f"chatcmpl-{self._started.id}",
            "object": "chat.completion.chunk",
            "created": self._started.created,
            "model": self._reply.model,
            "system_fingerprint": _fingerprint(self._started.fingerprint),
            "choices": [],
        }


def _choice(index: int, choice: Choice, reply: ChatReply) -> ChoiceOut:
    content = choice.text
    if choice.tool_calls:
        content = content if content and content.strip() else None
    message: MessageOut = {"role": "assistant", "content": content, "refusal": None}
    if not choice.tool_calls:
        message["content"] = content or ""
    elif reply.function_call:
        message["function_call"] = _function(choice.tool_calls[0])
    else:
        message["tool_calls"] = [_call(call, reply) for call in choice.tool_calls]
    if choice.reasoning:
        message |= cast(MessageOut, _reasoning(choice.reasoning, reply))
    finish_reason = _finish_reason(choice.finish_reason, reply)
    return {"index": index, "message": message, "finish_reason": finish_reason, "logprobs": None}


def _reasoning(text: str, reply: ChatReply) -> dict[str, str | ReasoningOut]:
    fields: dict[str, str | ReasoningOut] = {"reasoning_content": text}
    if reply.reasoning_object:
        fields["reasoning"] = {"thinking": text}
    return fields


def _call(call: ToolCall, reply: ChatReply) -> ToolCallOut:
    id_ = call.id if "_" in call.id else f"call_{call.id}"
    if call.name in reply.custom_tools:
        return {"id": id_, "type": "custom", "custom": {"name": call.name, "input": _custom_input(call.arguments)}}
    return {"id": id_, "type": "function", "function": _function(call)}


def _function(call: ToolCall) -> FunctionOut:
    return {"name": call.name, "arguments": dump_json(call.arguments)}


def _custom_input(arguments: Any) -> str:
    match arguments:
        case {"input": str(text)} | str(text):
            return text
        case dict():
            return dump_json(arguments.get(CUSTOM_INPUT, arguments))
        case _:
            return dump_json(arguments)


def _finish_reason(reason: FinishReason, reply: ChatReply) -> FinishReasonOut:
    return "function_call" if reason == "tool_calls" and reply.function_call else reason


def _usage(usage: Usage) -> UsageOut:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


def _fingerprint(fingerprint: str) -> str:
    return f"fp_{fingerprint}"

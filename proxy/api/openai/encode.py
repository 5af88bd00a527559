"""Results → chat completions; events → the chunks of a stream; errors. Source: contract `heroku-chat.md`.

Clients join the strings of a stream's deltas: `role` and everything of a call are sent exactly once. The whole `arguments` of a call are
in its first delta, since some clients join deltas of calls by `id`, which later ones do not repeat.
"""

from collections.abc import Iterator
from typing import Any, Final

import orjson

from proxy.api.http.responses import json_line
from proxy.api.openai.decode import ChatReply
from proxy.api.openai.tools import CUSTOM_INPUT
from proxy.errors import ProxyError
from proxy.inference.jsontext import dump_json
from proxy.inference.request import JsonObject, ToolCall
from proxy.inference.result import (
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

_MAX_MESSAGE: Final = 2_000


def completion_body(reply: ChatReply, result: Result) -> bytes:
    """The JSON of the whole response, of the type `ChatCompletion` in OpenAI's library."""
    whole = _envelope("chat.completion", result, reply)
    whole["choices"] = choices = []
    for index, choice in enumerate(result.choices):
        text = choice.text or ""
        content = None if choice.tool_calls and not text.strip() else text
        message: JsonObject = {"role": "assistant", "content": content, "refusal": None}
        if choice.tool_calls and reply.function_call:
            message["function_call"] = _function(choice.tool_calls[0])
        elif choice.tool_calls:
            message["tool_calls"] = [_call(call, reply) for call in choice.tool_calls]
        if choice.reasoning:
            message |= _reasoning(choice.reasoning, reply)
        finish_reason = _finish_reason(choice.finish_reason, reply)
        choices.append({"index": index, "message": message, "finish_reason": finish_reason, "logprobs": None})
    whole["usage"] = _usage(result.usage)
    return orjson.dumps(whole)


class ChatStreamEncoder:
    """Encodes the events of one stream, which begin with `Started`; see `proxy.api.http.responses.StreamEncoder`."""

    end = b"event: done\ndata: [DONE]\n\n"

    def __init__(self, reply: ChatReply) -> None:
        self._reply = reply
        self._envelope: JsonObject = {}

    def encode(self, event: Event) -> Iterator[bytes]:
        """The chunks of an event, of OpenAI's type `ChatCompletionChunk`: none or one, and for `Started` one a choice."""
        match event:
            case Started():
                self._envelope = _envelope("chat.completion.chunk", event, self._reply)
                for index in range(event.choices):
                    yield self._chunk(index, {"role": "assistant", "content": ""})
            case ReasoningDelta():
                yield self._chunk(event.choice, _reasoning(event.text, self._reply))
            case TextDelta():
                yield self._chunk(event.choice, {"content": event.text})
            case ToolCalled() if self._reply.function_call:
                if event.index == 0:
                    yield self._chunk(event.choice, {"function_call": _function(event.call)})
            case ToolCalled():
                call = {"index": event.index, **_call(event.call, self._reply)}
                yield self._chunk(event.choice, {"tool_calls": [call]})
            case ChoiceEnded():
                yield self._chunk(event.choice, {}, _finish_reason(event.finish_reason, self._reply))
            case Ended() if self._reply.include_usage:
                yield _event({**self._envelope, "choices": [], "usage": _usage(event.usage)})

    def heartbeat(self) -> bytes:
        """A chunk with an empty delta, for watchdogs that count only data; empty before the first chunk."""
        return self._chunk(0, {}) if self._envelope else b""

    def error(self, error: ProxyError) -> bytes:
        """An event of the error's JSON; `[DONE]` does not follow."""
        return _event(_error(error))

    def _chunk(self, choice: int, delta: JsonObject, finish_reason: str | None = None) -> bytes:
        choices = [{"index": choice, "delta": delta, "finish_reason": finish_reason, "logprobs": None}]
        chunk = {**self._envelope, "choices": choices}
        if self._reply.include_usage:
            chunk["usage"] = None
        return _event(chunk)


def _envelope(kind: str, result: Result | Started, reply: ChatReply) -> JsonObject:
    return {
        "id": f"chatcmpl-{result.id}",
        "object": kind,
        "created": result.created,
        "model": reply.model,
        "system_fingerprint": f"fp_{result.fingerprint}",
    }


def _reasoning(text: str, reply: ChatReply) -> JsonObject:
    fields: JsonObject = {"reasoning_content": text}
    if reply.reasoning_object:
        fields["reasoning"] = {"thinking": text}
    return fields


def _call(call: ToolCall, reply: ChatReply) -> JsonObject:
    id_ = call.id if "_" in call.id else f"call_{call.id}"
    if call.name in reply.custom_tools:
        return {"id": id_, "type": "custom", "custom": {"name": call.name, "input": custom_input(call.arguments)}}
    return {"id": id_, "type": "function", "function": _function(call)}


def _function(call: ToolCall) -> JsonObject:
    return {"name": call.name, "arguments": dump_json(call.arguments)}


def custom_input(arguments: Any) -> str:
    """The text with which a custom tool was called, however the model wrote it."""
    match arguments:
        case {"input": str(text)} | str(text):
            return text
        case dict():
            return dump_json(arguments.get(CUSTOM_INPUT, arguments))
        case _:
            return dump_json(arguments)


def _finish_reason(reason: FinishReason, reply: ChatReply) -> str:
    return "function_call" if reason == "tool_calls" and reply.function_call else reason


def _usage(usage: Usage) -> JsonObject:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


def error_body(error: ProxyError) -> bytes:
    """The JSON body of an error."""
    return orjson.dumps(_error(error))


def _error(error: ProxyError) -> JsonObject:
    message = error.message[:_MAX_MESSAGE]
    return {"error": {"message": message, "type": error.type, "param": error.param, "code": error.code}}


def _event(value: JsonObject) -> bytes:
    return b"data: " + json_line(value) + b"\n\n"

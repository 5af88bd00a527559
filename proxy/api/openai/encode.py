"""Results → chat completions; events → the chunks of a stream; errors. Source: contract `heroku-chat.md`, Response, Stream and Errors.

Responses are typed dicts, since a key that is absent and one that is null are different things to clients. Clients join the strings of
a stream's deltas: `role` and everything of a call are sent exactly once. The whole `arguments` of a call are in its first delta, since
some clients join deltas of calls by `id`, which later ones do not repeat.
"""

from collections.abc import Iterator
from typing import Any, Final, Literal, NotRequired, TypedDict, cast

import orjson

from proxy.api.http.responses import json_line
from proxy.api.openai.decode import ChatReply
from proxy.api.openai.tools import CUSTOM_INPUT
from proxy.errors import ProxyError
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

_MAX_MESSAGE: Final = 2_000

_FinishReasonOut = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class _FunctionOut(TypedDict):
    """`arguments` is the text of a JSON object."""

    name: str
    arguments: str


class _CustomOut(TypedDict):
    name: str
    input: str


class _ToolCallOut(TypedDict):
    """`index` stands in deltas only; `custom` in place of `function` where `type` is that."""

    index: NotRequired[int]
    id: str
    type: Literal["function", "custom"]
    function: NotRequired[_FunctionOut]
    custom: NotRequired[_CustomOut]


class _ReasoningOut(TypedDict):
    """Heroku's shape of the reasoning trace."""

    thinking: str


class _MessageOut(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[_ToolCallOut]]
    function_call: NotRequired[_FunctionOut]
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[_ReasoningOut]


class _ChoiceOut(TypedDict):
    index: int
    message: _MessageOut
    finish_reason: _FinishReasonOut
    logprobs: None


class _UsageOut(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(TypedDict):
    """The body of a whole answer. `created` is in seconds since 1970; `id` begins with `chatcmpl-`, `system_fingerprint` with `fp_`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[_ChoiceOut]
    usage: _UsageOut


class _Delta(TypedDict, total=False):
    role: Literal["assistant"]
    content: str
    tool_calls: list[_ToolCallOut]
    function_call: _FunctionOut
    reasoning_content: str
    reasoning: _ReasoningOut


class _ChunkChoice(TypedDict):
    index: int
    delta: _Delta
    finish_reason: _FinishReasonOut | None
    logprobs: None


class Chunk(TypedDict):
    """One event of a stream. `usage` stands in the last one only, which has no choices, and only where the client asked for it."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[_ChunkChoice]
    usage: NotRequired[_UsageOut | None]


class ModelInfo(TypedDict):
    """A model or a named endpoint, as `GET /v1/models` lists it. `created` is in seconds since 1970, 0 where it is not known."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """The body of `GET /v1/models`, in one page."""

    object: Literal["list"]
    data: list[ModelInfo]


# ---------------------------------------------------------------- encoding


def completion(result: Result, reply: ChatReply) -> ChatCompletion:
    """The whole response."""
    choices: list[_ChoiceOut] = []
    for choice in result.choices:
        choices.append(_choice(len(choices), choice, reply))
    return {
        "id": f"chatcmpl-{result.id}",
        "object": "chat.completion",
        "created": result.created,
        "model": reply.model,
        "system_fingerprint": f"fp_{result.fingerprint}",
        "choices": choices,
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
                yield self._chunk(event.choice, cast(_Delta, _reasoning(event.text, self._reply)))
            case TextDelta():
                yield self._chunk(event.choice, {"content": event.text})
            case ToolCalled() if self._reply.function_call:
                if event.index == 0:
                    yield self._chunk(event.choice, {"function_call": _function(event.call)})
            case ToolCalled():
                call: _ToolCallOut = {"index": event.index, **_call(event.call, self._reply)}
                yield self._chunk(event.choice, {"tool_calls": [call]})
            case ChoiceEnded():
                legacy = self._reply.function_call
                reason = _finish_reason(event.finish_reason) if legacy else event.finish_reason
                yield self._chunk(event.choice, {}, reason)
            case Ended() if self._reply.include_usage:
                yield {**self._envelope(), "usage": _usage(event.usage)}

    def heartbeat(self) -> Chunk | None:
        """A chunk of the same stream without content, for watchdogs that count only data; None before the first chunk."""
        return self._chunk(0, {}) if self._started else None

    def _chunk(self, choice: int, delta: _Delta, finish_reason: _FinishReasonOut | None = None) -> Chunk:
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
            "system_fingerprint": f"fp_{self._started.fingerprint}",
            "choices": [],
        }


def _choice(index: int, choice: Choice, reply: ChatReply) -> _ChoiceOut:
    content = choice.text
    if choice.tool_calls:
        content = content if content and content.strip() else None
    message: _MessageOut = {"role": "assistant", "content": content, "refusal": None}
    if not choice.tool_calls:
        message["content"] = content or ""
    elif reply.function_call:
        message["function_call"] = _function(choice.tool_calls[0])
    else:
        message["tool_calls"] = [_call(call, reply) for call in choice.tool_calls]
    if choice.reasoning:
        message |= cast(_MessageOut, _reasoning(choice.reasoning, reply))
    finish_reason = _finish_reason(choice.finish_reason) if reply.function_call else choice.finish_reason
    return {"index": index, "message": message, "finish_reason": finish_reason, "logprobs": None}


def _reasoning(text: str, reply: ChatReply) -> dict[str, str | _ReasoningOut]:
    fields: dict[str, str | _ReasoningOut] = {"reasoning_content": text}
    if reply.reasoning_object:
        fields["reasoning"] = {"thinking": text}
    return fields


def _call(call: ToolCall, reply: ChatReply) -> _ToolCallOut:
    id_ = call.id if "_" in call.id else f"call_{call.id}"
    if call.name in reply.custom_tools:
        return {"id": id_, "type": "custom", "custom": {"name": call.name, "input": _custom_input(call.arguments)}}
    return {"id": id_, "type": "function", "function": _function(call)}


def _function(call: ToolCall) -> _FunctionOut:
    return {"name": call.name, "arguments": dump_json(call.arguments)}


def _custom_input(arguments: Any) -> str:
    match arguments:
        case {"input": str(text)} | str(text):
            return text
        case dict():
            return dump_json(arguments.get(CUSTOM_INPUT, arguments))
        case _:
            return dump_json(arguments)


def _finish_reason(reason: FinishReason) -> _FinishReasonOut:
    """As of the retired `functions` field."""
    return "function_call" if reason == "tool_calls" else reason


def _usage(usage: Usage) -> _UsageOut:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


# ---------------------------------------------------------------- bytes


def completion_body(result: Result, reply: ChatReply) -> bytes:
    """The JSON of the whole response."""
    return orjson.dumps(completion(result, reply))


class ChatStreamEncoder:
    """The bytes of one stream; see `proxy.api.http.responses.StreamEncoder`."""

    end = b"event: done\ndata: [DONE]\n\n"

    def __init__(self, reply: ChatReply) -> None:
        self._stream = ChunkStream(reply)

    def encode(self, event: Event) -> Iterator[bytes]:
        """The events of a stream's event: each is a chunk."""
        for chunk in self._stream.chunks(event):
            yield _event(chunk)

    def heartbeat(self) -> bytes:
        """A chunk with an empty delta; empty before the first chunk."""
        chunk = self._stream.heartbeat()
        return _event(chunk) if chunk else b""

    def error(self, error: ProxyError) -> bytes:
        """An event of the error's JSON; `[DONE]` does not follow."""
        return error_event(error)


def _event(chunk: Chunk) -> bytes:
    return b"data: " + json_line(chunk) + b"\n\n"


def error_body(error: ProxyError) -> bytes:
    """The JSON body of an error."""
    return orjson.dumps(_error(error))


def error_event(error: ProxyError) -> bytes:
    """An error as the last event of a stream."""
    return b"data: " + json_line(_error(error)) + b"\n\n"


def _error(error: ProxyError) -> dict[str, Any]:
    message = error.message[:_MAX_MESSAGE]
    return {"error": {"message": message, "type": error.type, "param": error.param, "code": error.code}}

"""Results and events → messages and the events of their streams; errors. Source: contract `anthropic-messages.md`, Response to Errors.

A message is folded from the events of its stream, so that both say the same.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, cast

from proxy.api.anthropic.decode import MessagesReply
from proxy.api.http.responses import json_line
from proxy.errors import ContextLengthExceeded, ProxyError
from proxy.inference.jsontext import NotJson, dump_json, parse_json
from proxy.inference.request import JsonObject
from proxy.inference.result import (
    ChoiceEnded,
    Ended,
    Event,
    NativeEvent,
    ReasoningDelta,
    Result,
    Started,
    TextDelta,
    ToolCalled,
    result_events,
)
from proxy.schemas.values import json_bytes

_SIGNATURE: Final = "bmFycmF0aXZlLWNoYXQtcHJveHk="
"""Clients want one on each thinking block, and give it back; it says nothing."""
_TOOL_ID: Final = re.compile(r"\Atoolu_[A-Za-z0-9]{24}\Z")
_ID_LENGTH: Final = 24
_MAX_MESSAGE: Final = 2_000
_STOP_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_ERROR_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_NOT_REPEATED: Final = frozenset({401, 403, 413, 429})
"""Statuses below 500 that no client repeats when it is told not to."""
_NO_CACHE: Final = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
_PIECES: Final = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
"""Deltas whose texts are joined, each by its field."""


# ---------------------------------------------------------------- messages


class MessageStream:
    """The events of one stream, and their bytes; see `proxy.api.http.responses.StreamEncoder`. `request_id`: stands in an error event."""

    def __init__(self, reply: MessagesReply, request_id: str = "") -> None:
        self._reply, self._request_id = reply, request_id
        self._native = False
        self._blocks = 0
        self._open: str | None = None
        self._ended = ChoiceEnded(0, "stop")

    def encode(self, event: Event) -> Iterator[bytes]:
        """The server-sent events of an event."""
        for data in self.events(event):
            yield _event(data)

    def events(self, event: Event) -> Iterator[JsonObject]:
        """The same before they are bytes. Those of an upstream of this API are passed on, with the model that was asked for."""
        match event:
            case Started():
                self._native = event.native
                if not event.native:
                    yield {"type": "message_start", "message": self._message(event)}
            case NativeEvent(data={"type": "message_start", "message": message} as data):
                yield {**data, "message": {**message, "model": self._reply.model}}
            case NativeEvent():
                yield cast(JsonObject, event.data)
            case _ if self._native:
                pass
            case ReasoningDelta():
                yield from self._begin_block({"type": "thinking", "thinking": "", "signature": ""})
                if self._reply.thinking_shown:
                    yield self._delta({"type": "thinking_delta", "thinking": event.text})
            case TextDelta():
                yield from self._begin_block({"type": "text", "text": ""})
                yield self._delta({"type": "text_delta", "text": event.text})
            case ToolCalled(call=call):
                yield from self._end_block()
                id_ = call.id
                if not _TOOL_ID.match(id_):
                    id_ = f"toolu_{hashlib.sha256(id_.encode()).hexdigest()[:_ID_LENGTH]}"
                yield from self._begin_block({"type": "tool_use", "id": id_, "name": call.name, "input": {}})
                yield self._delta({"type": "input_json_delta", "partial_json": dump_json(call.arguments)})
                yield from self._end_block()
            case ChoiceEnded():
                yield from self._end_block()
                self._ended = event
            case Ended(usage=usage):
                counts = {"input_tokens": usage.input_tokens or self._reply.input_tokens}
                counts |= {"output_tokens": usage.output_tokens, **_NO_CACHE}
                yield {"type": "message_delta", "delta": self._stop(), "usage": counts}
                yield {"type": "message_stop"}

    def _message(self, started: Started) -> JsonObject:
        return {
            "id": f"msg_{started.id[:_ID_LENGTH]}",
            "type": "message",
            "role": "assistant",
            "model": self._reply.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "container": None,
            "usage": {
                "input_tokens": self._reply.input_tokens,
                "output_tokens": 1,
                **_NO_CACHE,
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
                "server_tool_use": None,
                "service_tier": "standard",
            },
        }

    def _stop(self) -> JsonObject:
        reason = _STOP_REASONS[self._ended.finish_reason]
        stop: JsonObject = {"stop_reason": reason, "stop_sequence": None, "stop_details": None}
        if reason == "end_turn" and self._ended.stop_sequence is not None:
            stop |= {"stop_reason": "stop_sequence", "stop_sequence": self._ended.stop_sequence}
        if reason == "refusal":
            explanation = "A content filter stopped the answer."
            stop["stop_details"] = {"type": "refusal", "category": None, "explanation": explanation}
        return stop

    def _begin_block(self, block: JsonObject) -> Iterator[JsonObject]:
        """Open a block, unless one of its type is open, which goes on."""
        if self._open == block["type"]:
            return
        yield from self._end_block()
        self._open = block["type"]
        yield {"type": "content_block_start", "index": self._blocks, "content_block": block}

    def _end_block(self) -> Iterator[JsonObject]:
        if self._open is None:
            return
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": _SIGNATURE})
        yield {"type": "content_block_stop", "index": self._blocks}
        self._open = None
        self._blocks += 1

    def _delta(self, delta: JsonObject) -> JsonObject:
        return {"type": "content_block_delta", "index": self._blocks, "delta": delta}

    def heartbeat(self) -> bytes:
        """A ping."""
        return _event({"type": "ping"})

    def error(self, error: ProxyError) -> bytes:
        """An error event. Never one of an overload, which clients repeat several times: a job exists by now."""
        body = error_out(error, self._request_id)
        if body["error"]["type"] == "overloaded_error":
            body["error"]["type"] = "api_error"
        return _event(body)

    @property
    def end(self) -> bytes:
        """Nothing: a stream ends with its message."""
        return b""


def _event(data: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), json_line(data))


def message(result: Result, reply: MessagesReply) -> JsonObject:
    """The whole message."""
    if result.native:
        return {**fold(result.native), "model": reply.model}
    stream = MessageStream(reply)
    return fold(data for event in result_events(result) for data in stream.events(event))


def message_body(reply: MessagesReply, result: Result) -> bytes:
    """The JSON of the whole message."""
    return json_bytes(message(result, reply))


def fold(events: Iterable[Mapping[str, Any]]) -> JsonObject:
    """The message of a stream's events, those of a newer API included as far as they can be understood."""
    whole: JsonObject = {}
    blocks: dict[int, JsonObject] = {}
    pieces: dict[tuple[int, str], list[str]] = {}
    for event in events:
        delta = event.get("delta")
        # Nearly all events are such ones; a pattern takes ten times longer.
        if event.get("type") == "content_block_delta" and delta and (name := _PIECES.get(delta.get("type"))):
            pieces.setdefault((event["index"], name), []).append(delta[name])
            continue
        match event:
            case {"type": "message_start", "message": started}:
                whole = {**started, "usage": {**started["usage"]}}
            case {"type": "content_block_start", "index": index, "content_block": block}:
                blocks[index] = {**block, "citations": block.get("citations")} if block["type"] == "text" else {**block}
            case {"type": "content_block_delta", "index": index, "delta": {"type": "citations_delta"} as delta}:
                blocks[index]["citations"] = [*(blocks[index].get("citations") or ()), delta["citation"]]
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                blocks[index] |= {name: value for name, value in delta.items() if name != "type"}
            case {"type": "message_delta", "delta": delta}:
                whole |= delta
                whole["usage"] |= {name: value for name, value in event["usage"].items() if value is not None}
    for (index, name), texts in pieces.items():
        text = "".join(texts)
        if name == "partial_json":
            blocks[index]["input"] = {}
            with suppress(NotJson):  # where the token limit cut it
                blocks[index]["input"] = parse_json(text) if text.strip() else {}
        else:
            blocks[index][name] = blocks[index].get(name, "") + text
    whole["content"] = [blocks[index] for index in sorted(blocks)]
    return whole


# ---------------------------------------------------------------- errors


def error_status(error: ProxyError) -> int:
    """The status of an error. What fails after a job is a 5xx: Claude Code repeats most other statuses six times."""
    if isinstance(error, ContextLengthExceeded):
        return 400
    if error.job_may_exist and error.status < 500 and error.status not in _NOT_REPEATED:
        return 502
    return {424: 502, 503: 529}.get(error.status, error.status)


def error_out(error: ProxyError, request_id: str) -> JsonObject:
    """The body of an error. Its message begins with the path of the field at fault, in the API's dots."""
    status, text, param = error_status(error), error.message, error.param
    if isinstance(error, ContextLengthExceeded):
        text = text if "prompt is too long" in text.lower() else f"prompt is too long: {text}"
    elif param is not None and param[:1].islower():
        path = re.sub(r"\[(\d+)\]", r".\1", param)
        text = text.removeprefix("Invalid ").removeprefix(f"`{param}`: ").replace(f"`{param}`", f"`{path}`")
        text = text if text.startswith(path) else f"{path}: {text}"
    kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": text[:_MAX_MESSAGE]}, "request_id": request_id}

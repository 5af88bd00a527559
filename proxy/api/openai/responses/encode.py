"""Results → the response object and the events of its stream. Source: contract `openai-responses.md`, Response and Stream.

The items of an output and their events derive from the same places: whoever folds the events gets the response. Events are numbered from
0 without gaps. A response that is stored is streamed again from its object alone, with the same numbers each time.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from proxy.api.http.responses import COMMENT, json_line
from proxy.api.openai.encode import custom_input
from proxy.api.openai.responses.decode import ResponseReply
from proxy.errors import ContextLengthExceeded, InvalidRequest, ProxyError, RateLimited
from proxy.inference.jsontext import dump_json
from proxy.inference.request import JsonObject, ToolCall
from proxy.inference.result import (
    Choice,
    ChoiceEnded,
    Ended,
    Event,
    FinishReason,
    ReasoningDelta,
    Result,
    TextDelta,
    ToolCalled,
    Usage,
    pieces,
)

Seal = Callable[[str], str]
"""Seals a reasoning trace so that the client can carry it, always to the same text."""
ITEM_ID: Final = re.compile(r"\A[a-z]{2,4}_([0-9a-f]{32})(i?)(\d{1,6})\Z")
"""An item's id: the hexadecimal part of its response's, `i` for items of the input, its index."""
FINAL: Final = frozenset({"completed", "incomplete", "failed", "cancelled"})
_ITEM_PREFIX: Final = {
    "reasoning": "rs",
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}
_MAX_MESSAGE: Final = 2_000
_LARGE: Final = 64 * 1024
"""Bytes of a response's first event from which the events that follow at once do not repeat what the request said."""
_NO_ECHO: Final[JsonObject] = {
    "tools": [],
    "tool_choice": "auto",
    "text": {"format": {"type": "text"}},
    **dict.fromkeys(("instructions", "max_tool_calls", "prompt_cache_key", "safety_identifier", "user")),
}
_INCOMPLETE: Final[Mapping[str, str]] = {"length": "max_output_tokens", "content_filter": "content_filter"}


# ---------------------------------------------------------------- the response object


def response_object(id_: str, created: int, reply: ResponseReply, status: str, **fields: Any) -> JsonObject:
    """A response without output, usage or end, but for what `fields` say.

    Args:
        id_: the hexadecimal part of its id.
        created: seconds since 1970 (UTC).
    """
    return {
        "id": f"resp_{id_}",
        "object": "response",
        "created_at": created,
        "completed_at": None,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "output": [],
        "usage": None,
        **reply.echo,
        **fields,
    }


def finished(id_: str, result: Result, reply: ResponseReply, seal: Seal, now: int) -> JsonObject:
    """The whole response of a result.

    Args:
        now: when it was finished, in seconds since 1970 (UTC).
    """
    choice = result.choices[0]
    end = _end(choice.finish_reason, result.usage, now)
    output = list(_output(id_, choice, reply, seal))
    return response_object(id_, result.created, reply, **end, output=output)


def failed(response: JsonObject, error: ProxyError) -> JsonObject:
    """A response that ended with an error."""
    return {**response, "status": "failed", "output": [], "usage": None, "error": _error(error)}


def _end(finish: FinishReason, usage: Usage, now: int) -> JsonObject:
    reason = _INCOMPLETE.get(finish)
    return {
        "status": "incomplete" if reason else "completed",
        "completed_at": None if reason else now,
        "incomplete_details": {"reason": reason} if reason else None,
        "usage": {
            "input_tokens": usage.input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.total_tokens,
        },
    }


def _error(error: ProxyError) -> JsonObject:
    """Codex ends its turn at `context_length_exceeded` and `invalid_prompt`, and repeats a request after other codes."""
    message, wait_s = error.message[:_MAX_MESSAGE], error.retry_after
    match error:
        case ContextLengthExceeded():
            code = "context_length_exceeded"
        case RateLimited():
            code = "rate_limit_exceeded"
            # Codex waits for as long as the message says, and reads these words.
            message = message if wait_s is None else f"{message.removesuffix('.')}; please try again in {wait_s:.1f}s."
        case InvalidRequest():
            code, message = "invalid_prompt", f"{error.code}: {message}" if error.code else message
        case _:
            code, message = "server_error", f"{error.code}: {message}" if error.code else message
    return {"code": code, "message": message}


def without_echo(response: JsonObject) -> JsonObject:
    """A response without what may be large of the request that it repeats."""
    return {**response, **_NO_ECHO}


# ---------------------------------------------------------------- items


def _output(id_: str, choice: Choice, reply: ResponseReply, seal: Seal) -> Iterator[JsonObject]:
    index = 0
    if choice.reasoning and (reply.summary or reply.encrypted):
        yield _reasoning(f"rs_{id_}0", choice.reasoning, reply, seal)
        index = 1
    text = choice.text or ""
    if text.strip() or not choice.tool_calls:
        last = not choice.tool_calls
        yield _message(f"msg_{id_}{index}", text, choice.finish_reason if last else "stop")
        index += 1
    for number, call in enumerate(choice.tool_calls):
        yield _call(id_, index + number, call, reply)


def _reasoning(id_: str, text: str, reply: ResponseReply, seal: Seal) -> JsonObject:
    summary = [{"type": "summary_text", "text": text}] if reply.summary else []
    item: JsonObject = {"id": id_, "type": "reasoning", "summary": summary}
    return {**item, "encrypted_content": seal(text)} if reply.encrypted else item


def _message(id_: str, text: str, finish: FinishReason) -> JsonObject:
    return {
        "id": id_,
        "type": "message",
        "status": "incomplete" if finish in _INCOMPLETE else "completed",
        "role": "assistant",
        "content": [_text_part(text)],
    }


def _text_part(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call(id_: str, index: int, call: ToolCall, reply: ResponseReply) -> JsonObject:
    tool = reply.tools.get(call.name)
    item: JsonObject = {
        "status": "completed",
        "call_id": call.id if "_" in call.id else f"call_{call.id}",
        "name": tool.name if tool else call.name,
    }
    if tool and tool.namespace is not None:
        item["namespace"] = tool.namespace
    if tool and tool.custom:
        return {"id": f"ctc_{id_}{index}", "type": "custom_tool_call", **item, "input": custom_input(call.arguments)}
    return {"id": f"fc_{id_}{index}", "type": "function_call", **item, "arguments": dump_json(call.arguments)}


# ---------------------------------------------------------------- events


class _Numbered:
    """Makes events, with their numbers."""

    def __init__(self) -> None:
        self.next = 0

    def event(self, kind: str, **members: Any) -> JsonObject:
        number, self.next = self.next, self.next + 1
        return {"type": kind, "sequence_number": number, **members}

    def opened(self, index: int, item: JsonObject) -> Iterator[JsonObject]:
        """The beginning of an item, empty but for what clients need to know at once."""
        empty = {**item, "status": "in_progress"}
        match item["type"]:
            case "message":
                yield self.event("response.output_item.added", output_index=index, item={**empty, "content": []})
                place = {"item_id": item["id"], "output_index": index, "content_index": 0}
                yield self.event("response.content_part.added", **place, part=_text_part(""))
            case "reasoning":
                added = {"id": item["id"], "type": "reasoning", "summary": []}
                yield self.event("response.output_item.added", output_index=index, item=added)
                if item["summary"]:
                    place = {"item_id": item["id"], "output_index": index, "summary_index": 0}
                    part = {"type": "summary_text", "text": ""}
                    yield self.event("response.reasoning_summary_part.added", **place, part=part)
            case "function_call":
                yield self.event("response.output_item.added", output_index=index, item={**empty, "arguments": ""})
            case _:
                yield self.event("response.output_item.added", output_index=index, item={**empty, "input": ""})

    def delta(self, index: int, item_id: str, piece: str) -> JsonObject:
        """A piece of an item's text; of which, its id tells."""
        place: JsonObject = {"item_id": item_id, "output_index": index}
        match item_id.partition("_")[0]:
            case "msg":
                members = {**place, "content_index": 0, "delta": piece, "logprobs": []}
                return self.event("response.output_text.delta", **members)
            case "rs":
                return self.event("response.reasoning_summary_text.delta", **place, summary_index=0, delta=piece)
            case "fc":
                return self.event("response.function_call_arguments.delta", **place, delta=piece)
            case _:
                return self.event("response.custom_tool_call_input.delta", **place, delta=piece)

    def closed(self, index: int, item: JsonObject) -> Iterator[JsonObject]:
        """The end of an item that is now whole."""
        place: JsonObject = {"item_id": item["id"], "output_index": index}
        match item["type"]:
            case "message":
                place["content_index"] = 0
                part = item["content"][0]
                yield self.event("response.output_text.done", **place, text=part["text"], logprobs=[])
                yield self.event("response.content_part.done", **place, part=part)
            case "reasoning":
                place["summary_index"] = 0
                for part in item["summary"]:
                    yield self.event("response.reasoning_summary_text.done", **place, text=part["text"])
                    yield self.event("response.reasoning_summary_part.done", **place, part=part)
            case "function_call":
                whole = {"arguments": item["arguments"], "name": item["name"]}
                yield self.event("response.function_call_arguments.done", **place, **whole)
            case _:
                yield self.event("response.custom_tool_call_input.done", **place, input=item["input"])
        yield self.event("response.output_item.done", output_index=index, item=item)

    def whole(self, index: int, item: JsonObject) -> Iterator[JsonObject]:
        """All events of an item."""
        yield from self.opened(index, item)
        match item:
            case {"type": "message", "content": [{"text": text}, *_]} | {
                "type": "reasoning",
                "summary": [{"text": text}],
            }:
                for piece in pieces(text):
                    yield self.delta(index, item["id"], piece)
            case {"arguments": text} | {"input": text} if text:
                yield self.delta(index, item["id"], text)
        yield from self.closed(index, item)

    def last(self, response: JsonObject) -> JsonObject:
        """The terminal event. There is no type of it for a response that was cancelled."""
        status = response["status"]
        return self.event(
            f"response.{status if status in ('completed', 'incomplete') else 'failed'}", response=response
        )


def begin_events(response: JsonObject, *, large: bool = False) -> Iterator[JsonObject]:
    """The first events of a stored response, a function of what its request said.

    Args:
        large: only the first one repeats the request.
    """
    numbered = _Numbered()
    begun: JsonObject = {"completed_at": None, "error": None, "incomplete_details": None, "output": [], "usage": None}
    status = "queued" if response["background"] else "in_progress"
    created = {**response, **begun, "status": status}
    yield numbered.event("response.created", response=created)
    slim = without_echo(created) if large else created
    if status == "queued":
        yield numbered.event("response.queued", response=slim)
    yield numbered.event("response.in_progress", response={**slim, "status": "in_progress"})


def end_events(response: JsonObject, first: int) -> Iterator[JsonObject]:
    """The other events of a stored response that has ended, a function of the response.

    Args:
        first: number of the first of them.
    """
    numbered = _Numbered()
    numbered.next = first
    for index, item in enumerate(response["output"]):
        yield from numbered.whole(index, item)
    yield numbered.last(response)


def event_bytes(event: JsonObject) -> bytes:
    """An event on the wire."""
    kind: str = event["type"]
    return b"event: " + kind.encode() + b"\ndata: " + json_line(event) + b"\n\n"


class ResponseStreamEncoder:
    """Encodes the events of one stream.

    `begin` is first; then `encode` takes the events of the run, and `finish` or `error` is last.

    Attributes:
        output: the items that are whole.
    """

    end = b""

    def __init__(self, reply: ResponseReply, seal: Seal) -> None:
        self.output: list[JsonObject] = []
        self._reply, self._seal = reply, seal
        self._numbered = _Numbered()
        self._id = ""
        self._response: JsonObject = {}
        self._slim: JsonObject = {}
        self._open = ""  # id of the open item
        self._texts: list[str] = []
        self._blank = ""
        self._finish: FinishReason = "stop"
        self._usage = Usage()

    def begin(self, id_: str, created: int) -> bytes:
        """The first two events. `id_`: the hexadecimal part of the response's id; `created`: seconds since 1970 (UTC)."""
        self._id = id_
        self._response = response_object(id_, created, self._reply, "in_progress")
        self._slim = without_echo(self._response)
        event = self._numbered.event
        first = event_bytes(event("response.created", response=self._response))
        again = self._slim if len(first) >= _LARGE else self._response
        return first + event_bytes(event("response.in_progress", response=again))

    def encode(self, event: Event) -> Iterator[bytes]:
        """The server-sent events of an event of the run; none at its start and end."""
        for made in self._events(event):
            yield event_bytes(made)

    def heartbeat(self) -> bytes:
        """That the response is in progress: clients with a timeout of their own start it anew at events only."""
        if not self._response:
            return COMMENT
        return event_bytes(self._numbered.event("response.in_progress", response=self._slim))

    def finished(self, now: int) -> JsonObject:
        """The whole response, after the last event of the run."""
        return {**self._response, **_end(self._finish, self._usage, now), "output": self.output}

    def finish(self, response: JsonObject) -> bytes:
        """The terminal event of a whole response."""
        return event_bytes(self._numbered.last(response))

    def error(self, error: ProxyError) -> bytes:
        """The terminal event of a response that failed."""
        return event_bytes(self._numbered.last(failed(self._response, error)))

    def _events(self, event: Event) -> Iterator[JsonObject]:
        reply, numbered = self._reply, self._numbered
        match event:
            case ReasoningDelta(text=text):
                if reply.summary or reply.encrypted:
                    yield from self._added(f"rs_{self._id}{len(self.output)}", text)
            case TextDelta(text=text):
                if not self._open.startswith("msg_"):
                    self._blank += text
                    if not self._blank.strip():
                        return
                    yield from self._close()
                    text, self._blank = self._blank, ""
                yield from self._added(f"msg_{self._id}{len(self.output)}", text)
            case ToolCalled(call=call):
                self._blank = ""
                yield from self._close()
                index = len(self.output)
                item = _call(self._id, index, call, reply)
                self.output.append(item)
                yield from numbered.whole(index, item)
            case ChoiceEnded():
                self._finish = event.finish_reason
                if not self._open.startswith("msg_") and all(item["type"] == "reasoning" for item in self.output):
                    yield from self._close()
                    yield from self._added(f"msg_{self._id}{len(self.output)}", self._blank)
                yield from self._close(event.finish_reason)
            case Ended():
                self._usage = event.usage

    def _added(self, id_: str, text: str) -> Iterator[JsonObject]:
        """A piece of the item that is open, which this opens if need be."""
        index = len(self.output)
        shown = id_.startswith("msg_") or self._reply.summary
        if not self._open:
            self._open = id_
            empty = _message(id_, "", "stop") if id_.startswith("msg_") else _reasoning(id_, "", self._reply, str)
            yield from self._numbered.opened(index, empty)
        self._texts.append(text)
        if text and shown:
            yield self._numbered.delta(index, id_, text)

    def _close(self, finish: FinishReason = "stop") -> Iterator[JsonObject]:
        id_, text = self._open, "".join(self._texts)
        if not id_:
            return
        self._open, self._texts = "", []
        is_message = id_.startswith("msg_")
        item = _message(id_, text, finish) if is_message else _reasoning(id_, text, self._reply, self._seal)
        self.output.append(item)
        yield from self._numbered.closed(len(self.output) - 1, item)


# ---------------------------------------------------------------- stored items


def input_items(id_: str, items: Sequence[JsonObject]) -> list[JsonObject]:
    """The items of a request as they are listed: each with an id and a status, and messages with their content in parts.

    Args:
        id_: the hexadecimal part of the response's id.
    """
    return [input_item(id_, index, item) for index, item in enumerate(items)]


def input_item(id_: str, index: int, item: JsonObject) -> JsonObject:
    """The item of that index; see `input_items`."""
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    shown = {**item, "id": item.get("id") or f"{_ITEM_PREFIX.get(kind, 'item')}_{id_}i{index}", "type": kind}
    if kind in _ITEM_PREFIX and kind != "reasoning":
        shown["status"] = item.get("status") or "completed"
    if kind == "message":
        shown["content"] = [_listed_part(part, item["role"]) for part in _parts(item.get("content"))]
    return shown


def _parts(content: Any) -> Sequence[JsonObject]:
    return [{"text": content}] if isinstance(content, str) else content or ()


def _listed_part(part: JsonObject, role: str) -> JsonObject:
    if role == "assistant" and isinstance(part.get("text"), str):
        return {**_text_part(part["text"]), **part, "type": "output_text"}
    return {"type": "input_text", **part}

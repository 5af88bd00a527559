"""Results → the events of a response's stream. Source: contract `openai-responses.md`, Stream.

The events are made of the same items as the response object (`encode.py`), so that folding them gives the response. They are numbered
from 0 without gaps. A response that is stored is streamed again from its object alone, with the same numbers each time.
"""

from collections.abc import Iterator
from typing import Any, Final

from proxy.api.http.responses import COMMENT, json_line
from proxy.api.openai.responses.decode import ResponseReply
from proxy.api.openai.responses.encode import (
    Seal,
    call_item,
    end_fields,
    failed,
    message_item,
    reasoning_item,
    response_object,
    without_echo,
)
from proxy.errors import ProxyError
from proxy.inference.request import JsonObject
from proxy.inference.result import (
    ChoiceEnded,
    Ended,
    Event,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCalled,
    Usage,
    pieces,
)

_LARGE: Final = 64 * 1024
"""Bytes of a response's first event from which the events that follow at once do not repeat what the request said."""


_EVENTS: Final = {
    "message": ("content", "response.output_text", "response.content_part"),
    "reasoning": ("summary", "response.reasoning_summary_text", "response.reasoning_summary_part"),
    "function_call": ("arguments", "response.function_call_arguments", None),
    "custom_tool_call": ("input", "response.custom_tool_call_input", None),
}
"""Type of an item → its field that is streamed, and the events of its text and of its one part."""


class _Numbered:
    """Makes events, with their numbers."""

    def __init__(self) -> None:
        self.next = 0

    def event(self, kind: str, **members: Any) -> JsonObject:
        number, self.next = self.next, self.next + 1
        return {"type": kind, "sequence_number": number, **members}

    def opened(self, index: int, item: JsonObject) -> Iterator[JsonObject]:
        """The beginning of an item, empty but for what clients need to know at once."""
        field, _, part_event = _EVENTS[item["type"]]
        empty = {**item, "status": "in_progress", field: [] if part_event else ""}
        if item["type"] == "reasoning":
            empty = {"id": item["id"], "type": "reasoning", "summary": []}
        yield self.event("response.output_item.added", output_index=index, item=empty)
        for part in item[field] if part_event else ():
            yield self.event(f"{part_event}.added", **_place(index, item), part={**part, "text": ""})

    def delta(self, index: int, item: JsonObject, piece: str) -> JsonObject:
        """A piece of an item's text."""
        more: JsonObject = {"logprobs": []} if item["type"] == "message" else {}
        return self.event(f"{_EVENTS[item['type']][1]}.delta", **_place(index, item), delta=piece, **more)

    def closed(self, index: int, item: JsonObject) -> Iterator[JsonObject]:
        """The end of an item that is now whole."""
        (field, text_event, part_event), place = _EVENTS[item["type"]], _place(index, item)
        if part_event:
            more: JsonObject = {"logprobs": []} if item["type"] == "message" else {}
            for part in item[field]:
                yield self.event(f"{text_event}.done", **place, text=part["text"], **more)
                yield self.event(f"{part_event}.done", **place, part=part)
        else:
            more = {"name": item["name"]} if item["type"] == "function_call" else {}
            yield self.event(f"{text_event}.done", **place, **{field: item[field]}, **more)
        yield self.event("response.output_item.done", output_index=index, item=item)

    def whole(self, index: int, item: JsonObject) -> Iterator[JsonObject]:
        """All events of an item."""
        yield from self.opened(index, item)
        field, _, part_event = _EVENTS[item["type"]]
        for text in (part["text"] for part in item[field]) if part_event else (item[field],):
            for piece in pieces(text) if part_event else filter(None, (text,)):
                yield self.delta(index, item, piece)
        yield from self.closed(index, item)

    def last(self, response: JsonObject) -> JsonObject:
        """The terminal event. There is no type of it for a response that was cancelled."""
        status = response["status"]
        return self.event(
            f"response.{status if status in ('completed', 'incomplete') else 'failed'}", response=response
        )


def _place(index: int, item: JsonObject) -> JsonObject:
    field, _, part_event = _EVENTS[item["type"]]
    return {"item_id": item["id"], "output_index": index, **({f"{field}_index": 0} if part_event else {})}


def begin_events(response: JsonObject, *, large: bool = False) -> Iterator[JsonObject]:
    """The first events of a stored response, a function of what its request said. `large`: only the first one repeats the request."""
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
    """The other events of a stored response that has ended, a function of the response. `first`: number of the first of them."""
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
        self._open: JsonObject = {}  # the open item, without its text
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
        return {**self._response, **end_fields(self._finish, self._usage, now), "output": self.output}

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
                    yield from self._added("reasoning", text)
            case TextDelta(text=text):
                if self._open.get("type") != "message":
                    self._blank += text
                    if not self._blank.strip():
                        return
                    yield from self._close()
                    text, self._blank = self._blank, ""
                yield from self._added("message", text)
            case ToolCalled(call=call):
                self._blank = ""
                yield from self._close()
                index = len(self.output)
                item = call_item(self._id, index, call, reply)
                self.output.append(item)
                yield from numbered.whole(index, item)
            case ChoiceEnded():
                self._finish = event.finish_reason
                if self._open.get("type") != "message" and all(item["type"] == "reasoning" for item in self.output):
                    yield from self._close()
                    yield from self._added("message", self._blank)
                yield from self._close(event.finish_reason)
            case Ended():
                self._usage = event.usage

    def _added(self, kind: str, text: str) -> Iterator[JsonObject]:
        """A piece of the item that is open, which this opens if need be."""
        index = len(self.output)
        if not self._open:
            self._open = self._item(kind, "")
            yield from self._numbered.opened(index, self._open)
        self._texts.append(text)
        if text and (kind == "message" or self._reply.summary):
            yield self._numbered.delta(index, self._open, text)

    def _close(self, finish: FinishReason = "stop") -> Iterator[JsonObject]:
        if not self._open:
            return
        item = self._item(self._open["type"], "".join(self._texts), finish)
        self._open, self._texts = {}, []
        self.output.append(item)
        yield from self._numbered.closed(len(self.output) - 1, item)

    def _item(self, kind: str, text: str, finish: FinishReason = "stop") -> JsonObject:
        place = f"{self._id}{len(self.output)}"
        if kind == "message":
            return message_item(f"msg_{place}", text, finish)
        return reasoning_item(f"rs_{place}", text, self._reply, self._seal)

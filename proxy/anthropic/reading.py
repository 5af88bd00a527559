"""The events of a Messages API stream → deltas as they come, and the completion that they add up to. No I/O.

Text and thinking are passed on piece by piece. A tool call is passed on when its block has ended: a call that the token limit cut is
dropped instead of being handed out as a finished one.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from anthropic.types import (
    InputJSONDelta,
    RawContentBlockDeltaEvent,
    RawContentBlockStartEvent,
    RawContentBlockStopEvent,
    RawMessageDeltaEvent,
    RawMessageStartEvent,
    RawMessageStopEvent,
    RawMessageStreamEvent,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
)

from proxy.anthropic.call import MessagesCall
from proxy.schemas import coerce
from proxy.translate.jsontext import NotJson, dump_json, parse_json
from proxy.translate.reply import Stamp
from proxy.wire import openai as chat

_FINISH: dict[str, chat.FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


@dataclass(slots=True)
class _OpenCall:
    id: str
    name: str
    given: Any
    pieces: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Reader:
    """Reads one message. `ended` is True once the whole message was read."""

    call: MessagesCall
    ended: bool = False
    _texts: list[str] = field(default_factory=list)
    _held: list[str] = field(default_factory=list)
    _thoughts: list[str] = field(default_factory=list)
    _calls: list[chat.ToolCallOut] = field(default_factory=list)
    _open: dict[int, _OpenCall] = field(default_factory=dict)
    _bare: _OpenCall | None = None
    _dropped: bool = False
    _stop_reason: str | None = None
    _prompt_tokens: int = 0
    _output_tokens: int = 0

    def read(self, event: RawMessageStreamEvent) -> Iterator[chat.Delta]:
        """What an event adds to the answer."""
        match event:
            case RawMessageStartEvent(message=message):
                self._count(message.usage)
            case RawContentBlockStartEvent(content_block=block):
                yield from self._begin(event.index, block)
            case RawContentBlockDeltaEvent(delta=delta):
                yield from self._continue(event.index, delta)
            case RawContentBlockStopEvent():
                yield from self._end(event.index)
            case RawMessageDeltaEvent(delta=delta):
                self._stop_reason = delta.stop_reason
                self._count(event.usage)
                yield from self._bare_call(cut=delta.stop_reason in _FINISH)
                yield from self._structured_output()
            case RawMessageStopEvent():
                self.ended = True

    @property
    def finish(self) -> chat.FinishReason:
        cut = _FINISH.get(self._stop_reason or "")
        if cut and (self._dropped or not self._calls):
            return cut
        if self._calls:
            return "function_call" if self.call.function_call else "tool_calls"
        return "stop"

    @property
    def usage(self) -> chat.Usage:
        prompt, answer = self._prompt_tokens, self._output_tokens
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    def completion(self, stamp: Stamp) -> chat.ChatCompletion:
        """The whole answer, as its deltas fold to it."""
        text = "".join(self._texts)
        message: chat.MessageOut = {"role": "assistant", "content": text, "refusal": None}
        if self._calls:
            message["content"] = text or None
            if self.call.function_call:
                message["function_call"] = self._calls[0]["function"]
            else:
                message["tool_calls"] = self._calls
        if thoughts := "".join(self._thoughts):
            message["reasoning_content"] = thoughts
            if self.call.reasoning_object:
                message["reasoning"] = {"thinking": thoughts}
        choice: chat.Choice = {"index": 0, "message": message, "finish_reason": self.finish, "logprobs": None}
        return {
            "id": stamp.id,
            "object": "chat.completion",
            "created": stamp.created,
            "model": stamp.model,
            "system_fingerprint": stamp.fingerprint,
            "choices": [choice],
            "usage": self.usage,
        }

    def _begin(self, index: int, block: Any) -> Iterator[chat.Delta]:
        yield from self._bare_call(cut=False)
        match block:
            case TextBlock(text=text):
                yield from self._text(text)
            case ThinkingBlock(thinking=thinking):
                yield from self._thought(thinking)
            case ToolUseBlock():
                self._open[index] = _OpenCall(block.id, self.call.names.get(block.name, block.name), block.input)
            case _:
                pass

    def _continue(self, index: int, delta: Any) -> Iterator[chat.Delta]:
        match delta:
            case TextDelta(text=text):
                yield from self._text(text)
            case ThinkingDelta(thinking=thinking):
                yield from self._thought(thinking)
            case InputJSONDelta(partial_json=piece) if index in self._open:
                self._open[index].pieces.append(piece)
            case _:
                pass

    def _end(self, index: int) -> Iterator[chat.Delta]:
        open_call = self._open.pop(index, None)
        if open_call is None:
            return
        written = "".join(open_call.pieces).strip()
        if not written and not open_call.given:
            self._bare = open_call
            return
        try:
            arguments = parse_json(written) if written else open_call.given
            if open_call.name in self.call.parameters:
                arguments = coerce(self.call.parameters[open_call.name], arguments)
        except NotJson:
            self._dropped = True
            return
        if not isinstance(arguments, dict) or (self.call.function_call and self._calls):
            self._dropped = True
            return
        yield from self._called(open_call, dump_json(arguments))

    def _bare_call(self, *, cut: bool) -> Iterator[chat.Delta]:
        """The call that ended without arguments: whether it takes none or was cut before them shows only afterwards."""
        bare, self._bare = self._bare, None
        if bare is None:
            return
        if cut or (self.call.function_call and self._calls):
            self._dropped = True
        else:
            yield from self._called(bare, "{}")

    def _text(self, text: str) -> Iterator[chat.Delta]:
        if text and self.call.output is not None:
            self._held.append(text)
        elif text:
            self._texts.append(text)
            yield {"content": text}

    def _structured_output(self) -> Iterator[chat.Delta]:
        """The text that was held back, since only the whole of it can be turned into what the client's schema means."""
        text, self._held = "".join(self._held), []
        if text and self.call.output is not None:
            with suppress(NotJson):
                text = dump_json(coerce(self.call.output, parse_json(text)))
            self._texts.append(text)
            yield {"content": text}

    def _thought(self, text: str) -> Iterator[chat.Delta]:
        if text and self.call.show_reasoning:
            self._thoughts.append(text)
            delta: chat.Delta = {"reasoning_content": text}
            if self.call.reasoning_object:
                delta["reasoning"] = {"thinking": text}
            yield delta

    def _called(self, made: _OpenCall, arguments: str) -> Iterator[chat.Delta]:
        index = len(self._calls)
        self._calls.append({"id": made.id, "type": "function", "function": {"name": made.name, "arguments": arguments}})
        opening: chat.FunctionDelta = {"name": made.name, "arguments": ""}
        if self.call.function_call:
            yield {"function_call": opening}
            yield {"function_call": {"arguments": arguments}}
        else:
            yield {"tool_calls": [{"index": index, "id": made.id, "type": "function", "function": opening}]}
            yield {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}

    def _count(self, usage: Any) -> None:
        """Usage is told at the start and again, cumulated, at the end; tokens read from or written to a cache are prompt tokens."""
        prompt = [usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens]
        self._prompt_tokens = max(self._prompt_tokens, sum(count or 0 for count in prompt))
        self._output_tokens = usage.output_tokens or self._output_tokens

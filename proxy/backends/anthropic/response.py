"""The events of a Messages API stream → neutral events as they come. No I/O.

Text and thinking are passed on piece by piece. A tool call is passed on when its block has ended: a call that the token limit cut is
dropped instead of being delivered as a finished one.
"""

from collections.abc import Iterator
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
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
)
from anthropic.types import TextDelta as AnthropicTextDelta

from proxy.backends.anthropic.request import MessagesCall
from proxy.inference.jsontext import NotJson, dump_json, parse_json, parse_loose_json
from proxy.inference.request import ToolCall
from proxy.inference.result import ChoiceEnded, Ended, Event, FinishReason, ReasoningDelta, TextDelta, ToolCalled, Usage
from proxy.schemas import coerce, validate

_FINISH: dict[str, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_MAX_SHOWN = 500


@dataclass(slots=True)
class _OpenCall:
    id: str
    name: str
    given: Any
    pieces: list[str] = field(default_factory=list)


@dataclass(slots=True)
class MessageReader:
    """Reads one message.

    Attributes:
        ended: the whole message was read.
        unmatched: what is wrong with structured output that does not match its schema.
    """

    call: MessagesCall
    ended: bool = False
    unmatched: str = ""
    _text: list[str] = field(default_factory=list)
    _calls: int = 0
    _open: dict[int, _OpenCall] = field(default_factory=dict)
    _bare: _OpenCall | None = None
    _dropped: bool = False
    _stop_reason: str | None = None
    _stop_sequence: str | None = None
    _input_tokens: int = 0
    _output_tokens: int = 0

    def read(self, event: RawMessageStreamEvent) -> Iterator[Event]:
        """What an event adds to the answer; the end of the message also ends the choice and all."""
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
                self._stop_reason, self._stop_sequence = delta.stop_reason, delta.stop_sequence
                self._count(event.usage)
                yield from self._bare_call(cut=delta.stop_reason in _FINISH)
            case RawMessageStopEvent():
                yield from self._structured_output()
                yield ChoiceEnded(0, self._finish, self._stop_sequence)
                yield Ended(Usage(self._input_tokens, self._output_tokens, self._input_tokens + self._output_tokens))
                self.ended = True

    @property
    def _finish(self) -> FinishReason:
        cut = _FINISH.get(self._stop_reason or "")
        if cut and (self._dropped or not self._calls):
            return cut
        return "tool_calls" if self._calls else "stop"

    def _begin(self, index: int, block: Any) -> Iterator[Event]:
        yield from self._bare_call(cut=False)
        match block:
            case TextBlock(text=text):
                yield from self._said(text)
            case ThinkingBlock(thinking=thinking):
                yield from self._thought(thinking)
            case ToolUseBlock():
                self._open[index] = _OpenCall(block.id, self.call.names.get(block.name, block.name), block.input)
            case _:
                pass

    def _continue(self, index: int, delta: Any) -> Iterator[Event]:
        match delta:
            case AnthropicTextDelta(text=text):
                yield from self._said(text)
            case ThinkingDelta(thinking=thinking):
                yield from self._thought(thinking)
            case InputJSONDelta(partial_json=piece) if index in self._open:
                self._open[index].pieces.append(piece)
            case _:
                pass

    def _end(self, index: int) -> Iterator[Event]:
        open_call = self._open.pop(index, None)
        if open_call is None:
            return
        written = "".join(open_call.pieces).strip()
        if not written and not open_call.given:
            self._bare = open_call
            return
        try:
            arguments = parse_json(written) if written else open_call.given
        except NotJson:
            self._dropped = True
            return
        yield from self._called(open_call, arguments)

    def _bare_call(self, *, cut: bool) -> Iterator[Event]:
        """The call that ended without arguments: whether it takes none or was cut before them shows only afterwards."""
        bare, self._bare = self._bare, None
        if bare is not None and cut:
            self._dropped = True
        elif bare is not None:
            yield from self._called(bare, {})

    def _called(self, made: _OpenCall, arguments: Any) -> Iterator[Event]:
        if made.name in self.call.parameters:
            arguments = coerce(self.call.parameters[made.name], arguments)
        if not isinstance(arguments, dict) or (self.call.single and self._calls):
            self._dropped = True
            return
        yield ToolCalled(0, self._calls, ToolCall(made.id, made.name, arguments))
        self._calls += 1

    def _said(self, text: str) -> Iterator[Event]:
        if self.call.answer is not None:
            self._text.append(text)
        if text and not self.call.encoded:
            yield TextDelta(0, text)

    def _thought(self, text: str) -> Iterator[Event]:
        if text and self.call.reasoning_shown:
            yield ReasoningDelta(0, text)

    def _structured_output(self) -> Iterator[Event]:
        """The text of structured output that was held back to be decoded; and whether it matches its schema."""
        answer, text = self.call.answer, "".join(self._text)
        if answer is None or not text.strip():
            return
        try:
            value = parse_loose_json(text)
        except NotJson:
            self.unmatched = "the answer is not JSON"
        else:
            if self.call.encoded:
                value = coerce(answer, value)
                text = dump_json(value)
            self.unmatched = "; ".join(str(error) for error in validate(answer, value).errors)[:_MAX_SHOWN]
        if self.call.encoded:
            yield TextDelta(0, text)

    def _count(self, usage: Any) -> None:
        """Usage comes at the start and again, cumulated, at the end; tokens read from or written to a cache are input tokens."""
        counts = [usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens]
        self._input_tokens = max(self._input_tokens, sum(count or 0 for count in counts))
        self._output_tokens = usage.output_tokens or self._output_tokens

"""The events of a Messages API stream → neutral events as they come. No I/O.

Text and thinking are passed on piece by piece. A tool call is passed on when something follows its block: a call that the token limit cut
is dropped instead of being delivered as a finished one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from anthropic import types as wire

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


@dataclass(slots=True)
class MessageReader:
    """Reads one message, until it has `ended`. `unmatched` is what is wrong with structured output that does not match its schema."""

    call: MessagesCall
    ended: bool = False
    unmatched: str = ""
    _text: list[str] = field(default_factory=list)
    _calls: int = 0
    _open: wire.ToolUseBlock | None = None
    _arguments: list[str] = field(default_factory=list)
    _dropped: bool = False
    _stop_reason: str | None = None
    _stop_sequence: str | None = None
    _input_tokens: int = 0
    _output_tokens: int = 0

    def read(self, event: wire.RawMessageStreamEvent) -> Iterator[Event]:
        """What an event adds to the answer; the end of the message also ends the choice and all."""
        match event:
            case wire.RawMessageStartEvent(message=message):
                self._count(message.usage)
            case wire.RawContentBlockStartEvent(content_block=block):
                yield from self._end_call(cut=False)
                yield from self._add(block)
            case wire.RawContentBlockDeltaEvent(delta=delta):
                yield from self._add(delta)
            case wire.RawMessageDeltaEvent(delta=end):
                self._stop_reason, self._stop_sequence = end.stop_reason, end.stop_sequence
                self._count(event.usage)
                yield from self._end_call(cut=end.stop_reason in _FINISH)
            case wire.RawMessageStopEvent():
                yield from self._structured_output()
                cut = _FINISH.get(self._stop_reason or "") if self._dropped or not self._calls else None
                yield ChoiceEnded(0, cut or ("tool_calls" if self._calls else "stop"), self._stop_sequence)
                yield Ended(Usage(self._input_tokens, self._output_tokens, self._input_tokens + self._output_tokens))
                self.ended = True

    def _add(self, part: Any) -> Iterator[Event]:
        """What the start of a block or a further piece of it adds; kinds that nobody asked for are passed over."""
        match part:
            case wire.TextBlock(text=text) | wire.TextDelta(text=text) if text:
                if self.call.answer is not None:
                    self._text.append(text)
                if not self.call.encoded:
                    yield TextDelta(0, text)
            case wire.ThinkingBlock(thinking=text) | wire.ThinkingDelta(thinking=text) if text:
                if self.call.reasoning_shown:
                    yield ReasoningDelta(0, text)
            case wire.ToolUseBlock():
                self._open, self._arguments = part, []
            case wire.InputJSONDelta(partial_json=piece) if self._open:
                self._arguments.append(piece)

    def _end_call(self, *, cut: bool) -> Iterator[Event]:
        """The call that came last, once something follows it: only this shows whether one without arguments was cut before them."""
        made, self._open = self._open, None
        if made is None:
            return
        name, written = self.call.names.get(made.name, made.name), "".join(self._arguments).strip()
        try:
            arguments = parse_json(written) if written else made.input or {}
        except NotJson:
            self._dropped = True
            return
        if name in self.call.parameters:
            arguments = coerce(self.call.parameters[name], arguments)
        incomplete = cut and not written and not made.input
        if incomplete or not isinstance(arguments, dict) or (self.call.single and self._calls):
            self._dropped = True
            return
        yield ToolCalled(0, self._calls, ToolCall(made.id, name, arguments))
        self._calls += 1

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
            self.unmatched = "; ".join(str(error) for error in validate(answer, value).errors)[:500]
        if self.call.encoded:
            yield TextDelta(0, text)

    def _count(self, usage: Any) -> None:
        """Usage comes at the start and again, cumulated, at the end; tokens read from or written to a cache are input tokens."""
        counts = [usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens]
        self._input_tokens = max(self._input_tokens, sum(count or 0 for count in counts))
        self._output_tokens = usage.output_tokens or self._output_tokens

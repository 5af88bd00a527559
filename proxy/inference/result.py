"""What a backend answers: a result, whole, and the events that a stream of it consists of.

A result is built whole and its events are cut from it; a backend that streams produces the same events. Folding the events of a
result gives the result again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import regex

from proxy.inference.request import ToolCall

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
MOST_PIECES: Final = 300
"""Of a text, about."""
_SHORTEST: Final = 16
"""Characters of a piece at least: a few words."""
_WORD_END: Final = regex.compile(r"\S{0,40}\s{0,80}")
_CHARACTER: Final = regex.compile(r"\X")
_FLAG_HALVES: Final = regex.compile("(?r)[\U0001f1e6-\U0001f1ff]*")
_NEAR: Final = 64
"""Characters before a wanted end from which the search for it begins."""
_WINDOW: Final = 4096
"""Characters that are searched; only what is written as one character of more than these is ever split."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of all jobs that a request took; zeros where the backend does not know."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer.

    Attributes:
        text: what the model says to the user (for structured output its JSON text); None when it says nothing beside its calls.
        reasoning: the thinking trace; None when there is none or it is not wanted.
        stop_sequence: the stop string at which the text ended.
    """

    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    finish_reason: FinishReason = "stop"
    stop_sequence: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The whole answer to a request.

    Attributes:
        id: hexadecimal or alphanumeric, unique, without prefix; the same whenever the answer is delivered again.
        created: when the request was accepted, in seconds since 1970 (UTC).
        fingerprint: stable for one backend.
        native: the events of the upstream's own stream, where the request was sent as its client wrote it; they say everything that
            the choices would say.
    """

    id: str
    created: int
    fingerprint: str
    choices: tuple[Choice, ...]
    usage: Usage
    native: tuple[Mapping[str, Any], ...] = ()


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Started:
    """The first event: the request was accepted; see `Result`. `choices` is their number; with `native`, `NativeEvent`s follow."""

    id: str
    created: int
    fingerprint: str
    choices: int
    native: bool = False


@dataclass(frozen=True, slots=True)
class NativeEvent:
    """An event of the upstream's own stream, as it came; see `Result.native`."""

    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of a choice's reasoning."""

    choice: int
    text: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of a choice's text."""

    choice: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """A whole tool call; `index` counts the calls of its choice from 0."""

    choice: int
    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class ChoiceEnded:
    """The last event of a choice."""

    choice: int
    finish_reason: FinishReason
    stop_sequence: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event of all."""

    usage: Usage


Event = Started | NativeEvent | ReasoningDelta | TextDelta | ToolCalled | ChoiceEnded | Ended


def choice_events(index: int, choice: Choice) -> Iterator[Event]:
    """The events of one choice, lazily: reasoning, text, tool calls, end."""
    for piece in pieces(choice.reasoning or ""):
        yield ReasoningDelta(index, piece)
    for piece in pieces(choice.text or ""):
        yield TextDelta(index, piece)
    for number, call in enumerate(choice.tool_calls):
        yield ToolCalled(index, number, call)
    yield ChoiceEnded(index, choice.finish_reason, choice.stop_sequence)


def result_events(result: Result) -> Iterator[Event]:
    """All events of a result, lazily."""
    yield Started(result.id, result.created, result.fingerprint, len(result.choices), bool(result.native))
    for data in result.native:
        yield NativeEvent(data)
    for index, choice in enumerate(result.choices):
        yield from choice_events(index, choice)
    yield Ended(result.usage)


def fold(events: Iterable[Event]) -> Result:
    """The result whose events these are. Raises ValueError: the first or the last one is missing."""
    match [*events]:
        case [Started() as started, *others, Ended(usage)]:
            choices = tuple(_folded(others, index) for index in range(started.choices))
            native = tuple(event.data for event in others if isinstance(event, NativeEvent))
            return Result(started.id, started.created, started.fingerprint, choices, usage, native)
    raise ValueError("a stream consists of Started, events of its choices, and Ended")


def _folded(events: Sequence[Event], index: int) -> Choice:
    own = [event for event in events if not isinstance(event, Started | NativeEvent | Ended) and event.choice == index]
    texts = [event.text for event in own if isinstance(event, TextDelta)]
    reasoning = [event.text for event in own if isinstance(event, ReasoningDelta)]
    calls = tuple(event.call for event in own if isinstance(event, ToolCalled))
    end = next((event for event in own if isinstance(event, ChoiceEnded)), ChoiceEnded(index, "stop"))
    whole = "".join(texts) if texts or not calls else None
    return Choice(whole, calls, "".join(reasoning) or None, end.finish_reason, end.stop_sequence)


# ---------------------------------------------------------------- pieces of texts


def pieces(text: str, most: int = MOST_PIECES) -> Iterator[str]:
    """Pieces of a few words, longer ones for long texts, that join to the text exactly.

    They end behind white space, or where words are very long, between characters as people see them. Lazy, and linear in time: only
    what is near an end of a piece is searched.
    """
    size = max(_SHORTEST, -(-len(text) // most))
    start = 0
    while len(text) - start > size:
        end = _cut(text, start, start + size)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _cut(text: str, start: int, wanted: int) -> int:
    """The first boundary from `wanted` on, behind a word where one ends soon. `start` is a boundary before it."""
    word = _WORD_END.match(text, wanted)
    if word and (word.end() == len(text) or text[word.end() - 1].isspace()):
        wanted = word.end()
    boundary = max(start, wanted - _NEAR)
    # Wherever a search begins, the first end it finds is a boundary, unless it halves one of several flags in a row.
    halves = _FLAG_HALVES.match(text, start, boundary)
    boundary -= len(halves[0]) % 2 if halves else 0
    window = text[boundary : boundary + _WINDOW]
    end = 0
    while boundary + end < wanted and (character := _CHARACTER.match(window, end)):
        end = character.end()
    return boundary + end

"""The directive by which tests and demos tell the sandbox what to do: `[[sandbox {…}]]` in a user turn."""

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.sandbox.bodies import Text, ToolResult, Turn
from proxy.sandbox.refusal import Refusal

_OPENING = re.compile(r"\[\[sandbox\s+")
_CLOSING = re.compile(r"\s*\]\]")
_MOST_KEYS = 100_000


class ScriptedCall(BaseModel):
    """A tool call; arguments given as a string are passed on as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    arguments: Any = Field(default_factory=dict)


class Rejection(BaseModel):
    """How a submission is refused. With `times` only the first ones of this `key` are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: int = Field(ge=400, le=599)
    body: Any = None
    headers: dict[str, str] = {}
    times: int | None = Field(default=None, ge=1)


class Directive(BaseModel):
    """What is asked of one job; see docs/sandbox.md. A field that is absent leaves the matter to the persona."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Any = None
    outputs: list[Any] | None = Field(default=None, min_length=1)
    attempts: "list[Directive] | None" = Field(default=None, min_length=1)
    key: str | None = None
    text: str | None = None
    calls: list[ScriptedCall] | None = None
    fail: str | None = None
    state: str | None = None
    delay: float | None = Field(default=None, ge=0)
    reject: Rejection | None = None
    usage: dict[str, Any] | None = None

    @property
    def has_output(self) -> bool:
        return "output" in self.model_fields_set


class Attempts:
    """Counts the submissions of each `key`."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()

    def next(self, key: str) -> int:
        """How many came before this one."""
        count = self._counts.pop(key, 0)
        self._counts[key] = count + 1
        if len(self._counts) > _MOST_KEYS:
            self._counts.popitem(last=False)
        return count


def find_directive(turns: Sequence[Turn]) -> tuple[Directive, int] | None:
    """The directive of the last user turn that has one, and the index of that turn.

    Raises:
        Refusal: 400, the directive cannot be read.
    """
    for at in range(len(turns) - 1, -1, -1):
        for text in _texts(turns[at]) if turns[at].role == "user" else ():
            opening = _OPENING.search(text)
            if opening is not None:
                return _read(text, opening.end()), at
    return None


def _texts(turn: Turn) -> list[str]:
    return [block.text for block in turn.content if isinstance(block, Text | ToolResult)]


def _read(text: str, start: int) -> Directive:
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
        if not _CLOSING.match(text, end):
            raise ValueError("']]' is missing after the JSON")
        return Directive.model_validate(value)
    except ValidationError as fault:
        first = fault.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise Refusal(400, f"Malformed sandbox directive: {path}: {first['msg']}") from fault
    except (ValueError, RecursionError) as fault:
        raise Refusal(400, f"Malformed sandbox directive: {fault}") from fault


def without_directives(text: str) -> str:
    """The text as the persona hears it."""
    kept = ""
    start = 0
    for opening in _OPENING.finditer(text):
        if opening.start() < start:
            continue
        end = _end_of(text, opening.end())
        if end is not None:
            kept += text[start : opening.start()]
            start = end
    return kept + text[start:]


def _end_of(text: str, start: int) -> int | None:
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    closing = _CLOSING.match(text, end)
    return closing.end() if closing else None


def attempt_of(directive: Directive, attempts: Attempts) -> Directive:
    """The directive that holds for this submission, with `attempts`, `outputs` and `reject.times` worked in.

    Raises:
        Refusal: 400, one of them is there but no `key`.
    """
    counted = directive.attempts or directive.outputs or (directive.reject and directive.reject.times)
    if not counted:
        return directive
    if directive.key is None:
        raise Refusal(400, "Malformed sandbox directive: key: needed to tell attempts apart")
    number = attempts.next(directive.key)
    if directive.attempts:
        return directive.attempts[min(number, len(directive.attempts) - 1)]
    changes: dict[str, Any] = {}
    if directive.outputs:
        changes["output"] = directive.outputs[min(number, len(directive.outputs) - 1)]
    if directive.reject and directive.reject.times and number >= directive.reject.times:
        changes["reject"] = None
    return directive.model_copy(update=changes)

"""The directive by which tests and demos tell the sandbox what to do: `[[sandbox {…}]]` in a user turn."""

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.sandbox.http import SandboxError, first_error
from proxy.sandbox.submission import TextContent, ToolResultContent, Turn

_OPENING = re.compile(r"\[\[sandbox\s+")
_CLOSING = re.compile(r"\s*\]\]")
_MAX_KEYS = 100_000


class _Scripted(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScriptedCall(_Scripted):
    """A tool call; arguments given as a string are passed on unchanged."""

    name: str
    arguments: Any = Field(default_factory=dict)


class ScriptedRejection(_Scripted):
    """The error a submission is answered with. With `times` only the first ones of this `key` are."""

    status: int = Field(ge=400, le=599)
    body: Any = None
    headers: dict[str, str] = {}
    times: int | None = Field(default=None, ge=1)


class Directive(_Scripted):
    """What is asked of one job; docs/sandbox.md describes each field. An absent field leaves the choice to the model."""

    output: Any = None
    outputs: list[Any] | None = Field(default=None, min_length=1)
    attempts: "list[Directive] | None" = Field(default=None, min_length=1)
    key: str | None = None
    text: str | None = None
    calls: list[ScriptedCall] | None = None
    fail: str | list[Any] | None = None
    state: str | None = None
    delay: float | None = Field(default=None, ge=0)
    withhold: int = Field(default=0, ge=0)
    reject: ScriptedRejection | None = None
    usage: dict[str, Any] | Literal["absent"] | None = None


class AttemptCounter:
    """Counts the submissions of each `key`; past 100,000 keys, those used longest ago are forgotten."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()

    def resolve(self, directive: Directive) -> Directive:
        """The directive that holds for this submission: `attempts`, `outputs` and `reject.times` are worked in.
        Raises SandboxError: 400, one of them is given without `key`.
        """
        if not (directive.attempts or directive.outputs or (directive.reject and directive.reject.times)):
            return directive
        if directive.key is None:
            raise SandboxError(400, "Malformed sandbox directive: key: needed to tell attempts apart")
        number = self._counts.pop(directive.key, 0)
        self._counts[directive.key] = number + 1
        if len(self._counts) > _MAX_KEYS:
            self._counts.popitem(last=False)
        if directive.attempts:
            return directive.attempts[min(number, len(directive.attempts) - 1)]
        changes: dict[str, Any] = {}
        if directive.outputs:
            changes["output"] = directive.outputs[min(number, len(directive.outputs) - 1)]
        if directive.reject and directive.reject.times and number >= directive.reject.times:
            changes["reject"] = None
        return directive.model_copy(update=changes)


def find_directive(turns: Sequence[Turn]) -> tuple[Directive, int] | None:
    """The directive of the last user turn that has one, and the index of that turn.
    Raises SandboxError: 400, the directive cannot be read.
    """
    for at in range(len(turns) - 1, -1, -1):
        for block in turns[at].content if turns[at].role == "user" else ():
            if isinstance(block, TextContent | ToolResultContent) and (opening := _OPENING.search(block.text)):
                return _read(block.text, opening.end()), at
    return None


def _read(text: str, start: int) -> Directive:
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
        if not _CLOSING.match(text, end):
            raise ValueError("']]' is missing after the JSON")
        return Directive.model_validate(value)
    except (ValueError, RecursionError) as fault:
        reason = first_error(fault) if isinstance(fault, ValidationError) else fault
        raise SandboxError(400, f"Malformed sandbox directive: {reason}") from fault


def without_directives(text: str) -> str:
    """The text as the model sees it."""
    kept, start = "", 0
    for opening in _OPENING.finditer(text):
        if opening.start() < start:
            continue
        try:
            _, end = json.JSONDecoder().raw_decode(text, opening.end())
        except (ValueError, RecursionError):
            continue
        if closing := _CLOSING.match(text, end):
            kept += text[start : opening.start()]
            start = closing.end()
    return kept + text[start:]

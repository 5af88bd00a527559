"""The body of `POST /model-inference/run`, read as strictly as Narrative documents it, and the directive that it may hold.

These are the sandbox's own models, apart from the proxy's wire types, so that a mistake there is found here. By a directive,
`[[sandbox {…}]]` in a user turn, tests and demos tell the sandbox what to do.
"""

import contextlib
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from proxy.sandbox.http import SandboxError, dumps, first_error, parse


class _Strict(BaseModel, strict=True, extra="forbid", frozen=True):
    pass


NotBlank = Annotated[str, Field(pattern=r"\S")]
Uuid = Annotated[str, StringConstraints(pattern=r"(?i)^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", to_lower=True)]


class TextContent(_Strict):
    """Text, in a turn of any role."""

    type: Literal["text"]
    text: NotBlank


class ToolUseContent(_Strict):
    """A tool call, in an assistant turn."""

    type: Literal["tool_use"]
    tool_use_id: NotBlank
    name: NotBlank
    input: dict[str, Any]


class ToolResultContent(_Strict):
    """The result of a call, in the user turn right after it."""

    type: Literal["tool_result"]
    tool_use_id: NotBlank
    content: list[TextContent]
    is_error: bool = False

    @property
    def text(self) -> str:
        """Its text blocks, joined by line breaks."""
        return "\n".join(block.text for block in self.content)


Content = Annotated[TextContent | ToolUseContent | ToolResultContent, Field(discriminator="type")]


class SandboxTurn(_Strict):
    """One message, in content blocks."""

    role: Literal["system", "user", "assistant"]
    content: list[Content] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _read_older_form(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.keys() == {"role", "text"}:
            return {"role": raw["role"], "content": [{"type": "text", "text": raw["text"]}]}
        return raw

    @property
    def text(self) -> str:
        """Its text blocks, joined by line breaks."""
        return "\n".join(block.text for block in self.content if isinstance(block, TextContent))

    @property
    def calls(self) -> list[ToolUseContent]:
        """Its tool calls, in order."""
        return [block for block in self.content if isinstance(block, ToolUseContent)]

    @property
    def results(self) -> list[ToolResultContent]:
        """Its tool results, in order."""
        return [block for block in self.content if isinstance(block, ToolResultContent)]


class RunConfig(_Strict):
    """`inference_config`. None stands for a field that was left out; a null on the wire is refused."""

    output_format_schema: dict[str, Any]
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    stop_sequences: list[str] | None = None


class RunBody(_Strict):
    """A whole submission; `messages` that came in the older form hold their text as a block."""

    data_plane_id: Uuid
    model: str
    messages: list[SandboxTurn] = Field(min_length=1)
    inference_config: RunConfig
    tags: list[str] = []


def parse_submission(body: bytes) -> tuple[RunBody, bytes]:
    """A submission, and the JSON that its job echoes as `input`: the body itself, or with older messages as blocks.
    Raises SandboxError: 400 that names the path of what is wrong.
    """
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        raise SandboxError(400, f"The request body is not valid JSON: {fault}") from fault
    if not isinstance(raw, dict):
        raise SandboxError(400, "The request body must be a JSON object")
    config = raw.get("inference_config")
    null = next((name for name, value in config.items() if value is None), None) if isinstance(config, dict) else None
    if null is not None:
        raise SandboxError(400, f"inference_config.{null}: must not be null")
    run = parse(RunBody, raw)
    has_older_form = any("text" in message for message in raw["messages"])
    return run, dumps(run.model_dump(exclude_unset=True)) if has_older_form else body


def check_turns(turns: Sequence[SandboxTurn]) -> None:
    """Refuses a conversation that the models behind Narrative would refuse: docs/sandbox.md lists what is checked.
    Raises SandboxError: 400 that names the path, without the names of the blocks, by which clients recognise a model that
    does not support them at all.
    """
    first = next((at for at, turn in enumerate(turns) if turn.role != "system"), len(turns))
    if first == len(turns):
        raise SandboxError(400, "messages: there must be a user turn")
    seen: set[str] = set()
    due: list[str] = []
    for at, turn in enumerate(turns):
        role = "system" if at < first else "user" if (at - first) % 2 == 0 else "assistant"
        if turn.role != role:
            raise SandboxError(400, f"messages[{at}].role: turns must alternate, expected {role}")
        path = f"messages[{at}].content"
        if turn.calls and role != "assistant":
            raise SandboxError(400, f"{path}: calls belong in an assistant turn")
        if turn.results and role != "user":
            raise SandboxError(400, f"{path}: results belong in a user turn")
        if any(not isinstance(block, ToolResultContent) for block in turn.content[: len(turn.results)]):
            raise SandboxError(400, f"{path}: results come before text")
        for result in turn.results:
            if result.tool_use_id not in due:
                raise SandboxError(400, f"{path}: {result.tool_use_id!r} answers no open call of the turn before")
            due.remove(result.tool_use_id)
        if due:
            raise SandboxError(400, f"messages[{at}]: the call {due[0]!r} of the turn before is not answered")
        due = [call.tool_use_id for call in turn.calls]
        for call_id in due:
            if call_id in seen:
                raise SandboxError(400, f"{path}: the id {call_id!r} is not unique")
            seen.add(call_id)
    if turns[-1].role == "assistant":
        raise SandboxError(400, f"messages[{len(turns) - 1}]: the conversation must end with a user turn")


_OPENING = re.compile(r"\[\[sandbox\s+")
_CLOSING = re.compile(r"\s*\]\]")


class ScriptedCall(BaseModel, extra="forbid", frozen=True):
    """A tool call; arguments given as a string are passed on unchanged."""

    name: str
    arguments: Any = Field(default_factory=dict)


class ScriptedRejection(BaseModel, extra="forbid", frozen=True):
    """The error a submission is answered with. With `times` only the first ones of this `key` are."""

    status: int = Field(ge=400, le=599)
    body: Any = None
    headers: dict[str, str] = {}
    times: int | None = Field(default=None, ge=1)


class Directive(BaseModel, extra="forbid", frozen=True):
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


def find_directive(turns: Sequence[SandboxTurn]) -> tuple[Directive, int] | None:
    """The directive of the last user turn that has one, and the index of that turn.
    Raises SandboxError: 400, the directive cannot be read.
    """
    for at in range(len(turns) - 1, -1, -1):
        for block in turns[at].content if turns[at].role == "user" else ():
            if isinstance(block, TextContent | ToolResultContent) and (opening := _OPENING.search(block.text)):
                try:
                    return Directive.model_validate(_read(block.text, opening.end())[0]), at
                except ValueError as fault:
                    reason = first_error(fault) if isinstance(fault, ValidationError) else fault
                    raise SandboxError(400, f"Malformed sandbox directive: {reason}") from fault
    return None


def without_directives(text: str) -> str:
    """The text as the model sees it."""
    kept, start = "", 0
    for opening in _OPENING.finditer(text):
        with contextlib.suppress(ValueError):
            if opening.start() >= start:
                _, end = _read(text, opening.end())
                kept += text[start : opening.start()]
                start = end
    return kept + text[start:]


def _read(text: str, start: int) -> tuple[Any, int]:
    """The JSON of a directive, and where the directive ends. Raises ValueError."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except RecursionError as fault:
        raise ValueError("the JSON is nested too deeply") from fault
    if not (closing := _CLOSING.match(text, end)):
        raise ValueError("']]' is missing after the JSON")
    return value, closing.end()

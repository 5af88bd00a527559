"""The body of `POST /model-inference/run`, read as strictly as contract narrative.md words it.

These are the sandbox's own models, apart from `wire/narrative.py`, so that a mistake there is caught here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from proxy.sandbox.refusal import Refusal


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _uuid(text: str) -> str:
    if str(UUID(text)) != text.lower():
        raise ValueError("must be a uuid")
    return text.lower()


Spoken = Annotated[str, AfterValidator(_not_blank)]


class Text(_Body):
    type: Literal["text"]
    text: Spoken


class ToolUse(_Body):
    type: Literal["tool_use"]
    tool_use_id: Spoken
    name: Spoken
    input: dict[str, Any]


class ToolResult(_Body):
    type: Literal["tool_result"]
    tool_use_id: Spoken
    content: list[Text]
    is_error: bool = False

    @property
    def text(self) -> str:
        return "\n".join(block.text for block in self.content)


Block = Annotated[Text | ToolUse | ToolResult, Field(discriminator="type")]


class Turn(_Body):
    """One message, in blocks."""

    role: Literal["system", "user", "assistant"]
    content: list[Block] = Field(min_length=1)

    @property
    def text(self) -> str:
        """Its text blocks, a line each."""
        return "\n".join(block.text for block in self.content if isinstance(block, Text))

    @property
    def calls(self) -> list[ToolUse]:
        return [block for block in self.content if isinstance(block, ToolUse)]

    @property
    def results(self) -> list[ToolResult]:
        return [block for block in self.content if isinstance(block, ToolResult)]


class LegacyTurn(_Body):
    """The older form of a message."""

    role: Literal["system", "user", "assistant"]
    text: Spoken

    def in_blocks(self) -> Turn:
        return Turn(role=self.role, content=[Text(type="text", text=self.text)])


def _shape(value: Any) -> str:
    return "legacy" if isinstance(value, Mapping) and "text" in value else "blocks"


Message = Annotated[
    Annotated[Turn, Tag("blocks")] | Annotated[LegacyTurn, Tag("legacy")],
    Discriminator(_shape),
]


class Config(_Body):
    output_format_schema: dict[str, Any]
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    stop_sequences: list[str] | None = None


class RunBody(_Body):
    """A whole submission. `None` stands for a field that was left out; a null on the wire is refused."""

    data_plane_id: Annotated[str, AfterValidator(_uuid)]
    model: str
    messages: list[Message] = Field(min_length=1)
    inference_config: Config
    tags: list[str] = []

    @property
    def turns(self) -> list[Turn]:
        return [message.in_blocks() if isinstance(message, LegacyTurn) else message for message in self.messages]


def parse(body: bytes) -> tuple[RunBody, dict[str, Any]]:
    """Reads a submission.

    Returns:
        The submission, and the same as plain JSON with legacy messages written as blocks: what a job echoes as `input`.

    Raises:
        Refusal: 400 that names the path of what is wrong.
    """
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        raise Refusal(400, f"The request body is not valid JSON: {fault}") from fault
    if not isinstance(raw, dict):
        raise Refusal(400, "The request body must be a JSON object")
    _refuse_nulls(raw)
    try:
        run = RunBody.model_validate(raw)
    except ValidationError as fault:
        raise Refusal(400, _first_fault(fault)) from fault
    for at, message in enumerate(run.messages):
        if isinstance(message, LegacyTurn):
            raw["messages"][at] = message.in_blocks().model_dump()
    return run, raw


def _refuse_nulls(raw: Mapping[str, Any]) -> None:
    config = raw.get("inference_config")
    for name, value in (config if isinstance(config, dict) else {}).items():
        if value is None:
            raise Refusal(400, f"inference_config.{name}: must not be null")


_TAGS = {"blocks", "legacy", "text", "tool_use", "tool_result"}


def _first_fault(fault: ValidationError) -> str:
    first = fault.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ""
    previous: str | int = ""
    for part in first["loc"]:
        # A union's tag follows the index of the block it was chosen for; it is no part of the path.
        if isinstance(part, int):
            path += f"[{part}]"
        elif not (isinstance(previous, int) and part in _TAGS):
            path += f".{part}" if path else part
        previous = part
    return f"{path or 'body'}: {first['msg']}"

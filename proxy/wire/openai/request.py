"""The body of a chat request: tools, formats and parameters around the messages."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag

from proxy.wire.openai.messages import Message, RequestModel


class FunctionSpec(RequestModel):
    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None


class Tool(RequestModel):
    type: Literal["function"]
    function: FunctionSpec


class FunctionName(RequestModel):
    name: str


class NamedTool(RequestModel):
    type: Literal["function"]
    function: FunctionName


class AllowedTools(RequestModel):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedToolsChoice(RequestModel):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _tool_choice_tag(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "#mode"
    return "#allowed" if value.get("type") == "allowed_tools" else "#named"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required", "any"], Tag("#mode")]
    | Annotated[NamedTool, Tag("#named")]
    | Annotated[AllowedToolsChoice, Tag("#allowed")],
    Discriminator(_tool_choice_tag),
]


def _function_call_tag(value: Any) -> str:
    return "#named" if isinstance(value, Mapping) else "#mode"


FunctionCallChoice = Annotated[
    Annotated[Literal["none", "auto"], Tag("#mode")] | Annotated[FunctionName, Tag("#named")],
    Discriminator(_function_call_tag),
]


class JsonSchemaSpec(RequestModel):
    name: str | None = None
    description: str | None = None
    schema_: Any = Field(alias="schema")
    strict: bool | None = None


class TextFormat(RequestModel):
    type: Literal["text", "json_object"]


class JsonSchemaFormat(RequestModel):
    type: Literal["json_schema"]
    json_schema: JsonSchemaSpec


class _UnknownFormat(RequestModel):
    type: Literal["text", "json_object", "json_schema"]


def _format_tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "json_schema":
        return "#json_schema"
    return "#text" if kind in ("text", "json_object") else "#unknown"


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("#text")]
    | Annotated[JsonSchemaFormat, Tag("#json_schema")]
    | Annotated[_UnknownFormat, Tag("#unknown")],
    Discriminator(_format_tag),
]


class ExtendedThinking(RequestModel):
    """Heroku's own way to ask for reasoning."""

    enabled: bool | None = None
    budget_tokens: int | None = Field(default=None, ge=1024)
    include_reasoning: bool | None = None


def _thinking_tag(value: Any) -> str:
    return "#flag" if isinstance(value, bool) else "#object"


Thinking = Annotated[
    Annotated[bool, Tag("#flag")] | Annotated[ExtendedThinking, Tag("#object")],
    Discriminator(_thinking_tag),
]


def _stop_tag(value: Any) -> str:
    return "#list" if isinstance(value, list) else "#string"


Stop = Annotated[
    Annotated[str, Tag("#string")] | Annotated[list[str], Tag("#list")],
    Discriminator(_stop_tag),
]


MOST_TOKENS: Final = 2**31 - 1


class StreamOptions(RequestModel):
    include_usage: bool | None = None


class ChatRequest(RequestModel):
    """The body of `POST /v1/chat/completions`. What is not a field here is accepted and ignored."""

    model: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionSpec] | None = None
    function_call: FunctionCallChoice | None = None
    extended_thinking: Thinking | None = None
    reasoning_effort: str | None = None
    response_format: ResponseFormat | None = None
    n: int | None = Field(default=None, ge=1)
    user: str | None = None
    metadata: dict[str, str] | None = None

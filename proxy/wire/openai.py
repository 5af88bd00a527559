"""What clients speak: OpenAI's Chat Completions as Heroku serves them.

Requests are pydantic models: strict about types, open to unknown fields (they end up in `model_extra`). In every optional field null is the
same as absent. Answers are typed dicts, since a key that is absent and one that is null are different things to clients.
Source: shared contract `heroku-chat.md`; the `openai` SDKs' types where it is silent.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

JsonObject = dict[str, Any]

UNION_TAG = "#"
"""Every tag of a tagged union starts with it, so that a fault's path can be told from the tags pydantic puts into it."""


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


# ---------------------------------------------------------------- content


class TextPart(_Request):
    type: Literal["text"]
    text: str


class RefusalPart(_Request):
    type: Literal["refusal"]
    refusal: str


class ThinkingPart(_Request):
    """Reasoning that a client sends back; read so that it can be kept out of the prompt."""

    type: Literal["thinking", "redacted_thinking", "reasoning"]


class ToolUsePart(_Request):
    """A call in Anthropic's spelling, which some clients keep in their histories."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: JsonObject | None = None


class ToolResultPart(_Request):
    """A result in Anthropic's spelling."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: "Content | None" = None
    is_error: bool | None = None


class MediaPart(_Request):
    """Any other part: images, audio, files. Read only to be refused (or replaced) with its path."""

    type: str


_PART_TAGS = {
    "text": "#text",
    "refusal": "#refusal",
    "thinking": "#thinking",
    "redacted_thinking": "#thinking",
    "reasoning": "#thinking",
    "tool_use": "#tool_use",
    "tool_result": "#tool_result",
}


def _part_tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, Mapping) else None
    return _PART_TAGS.get(kind, "#media") if isinstance(kind, str) else "#media"


Part = Annotated[
    Annotated[TextPart, Tag("#text")]
    | Annotated[RefusalPart, Tag("#refusal")]
    | Annotated[ThinkingPart, Tag("#thinking")]
    | Annotated[ToolUsePart, Tag("#tool_use")]
    | Annotated[ToolResultPart, Tag("#tool_result")]
    | Annotated[MediaPart, Tag("#media")],
    Discriminator(_part_tag),
]


def _content_tag(value: Any) -> str:
    return "#parts" if isinstance(value, list) else "#string"


Content = Annotated[
    Annotated[str, Tag("#string")] | Annotated[list[Part], Tag("#parts")],
    Discriminator(_content_tag),
]


class ToolResultItem(_Request):
    """One entry of Heroku's list form of a tool message."""

    tool_call_id: str
    content: "ToolContent | None" = None


def _tool_content_tag(value: Any) -> str:
    match value:
        case [{"tool_call_id": _}, *_]:
            return "#results"
        case list():
            return "#parts"
        case dict():
            return "#object"
        case _:
            return "#string"


ToolContent = Annotated[
    Annotated[str, Tag("#string")]
    | Annotated[list[Part], Tag("#parts")]
    | Annotated[list[ToolResultItem], Tag("#results")]
    | Annotated[JsonObject, Tag("#object")],
    Discriminator(_tool_content_tag),
]


# ---------------------------------------------------------------- messages


class CalledFunction(_Request):
    name: str
    arguments: str | JsonObject | None = None


class ToolCallIn(_Request):
    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunction


class SystemMessage(_Request):
    role: Literal["system", "developer"]
    content: Content | None = None


class UserMessage(_Request):
    role: Literal["user"]
    content: Content | None = None


class AssistantMessage(_Request):
    role: Literal["assistant"]
    content: Content | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallIn] | None = None
    function_call: CalledFunction | None = None


class ToolMessage(_Request):
    role: Literal["tool"]
    tool_call_id: str | None = None
    content: ToolContent | None = None


class FunctionMessage(_Request):
    """The retired `function` role: a result that names its function instead of its call."""

    role: Literal["function"]
    name: str
    content: ToolContent | None = None


class _UnknownRole(_Request):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]


_ROLE_TAGS = {
    "system": "#system",
    "developer": "#system",
    "user": "#user",
    "assistant": "#assistant",
    "tool": "#tool",
    "function": "#function",
}


def _role_tag(value: Any) -> str:
    role = value.get("role") if isinstance(value, Mapping) else None
    return _ROLE_TAGS.get(role, "#unknown") if isinstance(role, str) else "#unknown"


Message = Annotated[
    Annotated[SystemMessage, Tag("#system")]
    | Annotated[UserMessage, Tag("#user")]
    | Annotated[AssistantMessage, Tag("#assistant")]
    | Annotated[ToolMessage, Tag("#tool")]
    | Annotated[FunctionMessage, Tag("#function")]
    | Annotated[_UnknownRole, Tag("#unknown")],
    Discriminator(_role_tag),
]


# ---------------------------------------------------------------- tools and formats


class FunctionSpec(_Request):
    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None


class Tool(_Request):
    type: Literal["function"]
    function: FunctionSpec


class FunctionName(_Request):
    name: str


class NamedTool(_Request):
    type: Literal["function"]
    function: FunctionName


class AllowedTools(_Request):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedToolsChoice(_Request):
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


class JsonSchemaSpec(_Request):
    name: str | None = None
    description: str | None = None
    schema_: Any = Field(alias="schema")
    strict: bool | None = None


class TextFormat(_Request):
    type: Literal["text", "json_object"]


class JsonSchemaFormat(_Request):
    type: Literal["json_schema"]
    json_schema: JsonSchemaSpec


class _UnknownFormat(_Request):
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


class ExtendedThinking(_Request):
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


class StreamOptions(_Request):
    include_usage: bool | None = None


class ChatRequest(_Request):
    """The body of `POST /v1/chat/completions`. What is not a field here is accepted and ignored."""

    model: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
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


# ---------------------------------------------------------------- answers

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class FunctionOut(TypedDict):
    name: str
    arguments: str


class ToolCallOut(TypedDict):
    id: str
    type: Literal["function"]
    function: FunctionOut


class Reasoning(TypedDict):
    """Heroku's shape of the reasoning trace."""

    thinking: str


class MessageOut(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCallOut]]
    function_call: NotRequired[FunctionOut]
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[Reasoning]


class Choice(TypedDict):
    index: int
    message: MessageOut
    finish_reason: FinishReason
    logprobs: None


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage


class FunctionDelta(TypedDict, total=False):
    name: str
    arguments: str


class ToolCallDelta(TypedDict):
    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class Delta(TypedDict, total=False):
    role: Literal["assistant"]
    content: str
    tool_calls: list[ToolCallDelta]
    function_call: FunctionDelta
    reasoning_content: str
    reasoning: Reasoning


class ChunkChoice(TypedDict):
    index: int
    delta: Delta
    finish_reason: FinishReason | None
    logprobs: None


class Chunk(TypedDict):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: NotRequired[Usage | None]


class ModelInfo(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelInfo]


class ErrorBody(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(TypedDict):
    error: ErrorBody

"""The body of `POST /v1/chat/completions`.

Requests are pydantic models: strict about types, open to unknown fields (they end up in `model_extra`). In every optional field null
is the same as absent. Every tag of a union begins with `#`, so that tags can be left out of an error's path.
Source: contract `heroku-chat.md`; the `openai` SDKs' types where it is silent.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from proxy.api.http.requests import FastList, TaggedBy, Whole
from proxy.inference.request import JsonObject

MAX_TOKENS: Final = 2**31 - 1


class RequestModel(BaseModel, frozen=True, extra="allow", strict=True):
    """Base of all request models."""


# ---------------------------------------------------------------- content


class TextPart(RequestModel):
    """Text of any author."""

    type: Literal["text"]
    text: str


class RefusalPart(RequestModel):
    """What the model said instead of an answer in an earlier turn; read as its text."""

    type: Literal["refusal"]
    refusal: str


class ThinkingPart(RequestModel):
    """Reasoning that a client sends back; read so that it can be kept out of the prompt."""

    type: Literal["thinking", "redacted_thinking", "reasoning"]


class ToolUsePart(RequestModel):
    """A call in Anthropic's spelling, which some clients keep in their histories."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: JsonObject | None = None


class ToolResultPart(RequestModel):
    """A result in Anthropic's spelling."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: "Content | None" = None
    is_error: bool | None = None


class MediaPart(RequestModel):
    """Any other part: images, audio, files."""

    type: str


Part = Annotated[
    TextPart | RefusalPart | ThinkingPart | ToolUsePart | ToolResultPart | MediaPart,
    TaggedBy("type"),
]
Content = Annotated[str, Tag("#string")] | Annotated[FastList[Part], Tag("#parts")]


class ToolResultItem(RequestModel):
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
    | Annotated[FastList[Part], Tag("#parts")]
    | Annotated[FastList[ToolResultItem], Tag("#results")]
    | Annotated[JsonObject, Tag("#object")],
    Discriminator(_tool_content_tag),
]


# ---------------------------------------------------------------- messages


class _CalledFunction(RequestModel):
    name: str
    arguments: str | JsonObject | None = None


class FunctionCall(RequestModel):
    """A call of an earlier turn. Without an `id` it is paired with results by its place."""

    id: str | None = None
    type: Literal["function"] | None = None
    function: _CalledFunction


class _CalledCustom(RequestModel):
    name: str
    input: str | None = None


class CustomCall(RequestModel):
    """A call of a custom tool in an earlier turn."""

    id: str | None = None
    type: Literal["custom"]
    custom: _CalledCustom


class UserMessage(RequestModel):
    """Instructions, or a turn of the user; `name` tells several users apart."""

    role: Literal["system", "developer", "user"]
    content: Content | None = None
    name: str | None = None


class AssistantMessage(RequestModel):
    """A turn of the model; `function_call` is the retired form of `tool_calls`."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: FastList[Annotated[CustomCall | FunctionCall, TaggedBy("type")]] | None = None
    function_call: _CalledFunction | None = None


class ToolMessage(RequestModel):
    """The result of a call, or Heroku's list of results. Some clients name the tool instead of the call."""

    role: Literal["tool"]
    tool_call_id: str | None = None
    name: str | None = None
    content: ToolContent | None = None


class FunctionMessage(RequestModel):
    """The retired `function` role: a result that names its function instead of its call."""

    role: Literal["function"]
    name: str
    content: ToolContent | None = None


class _UnknownRole(RequestModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]


ChatMessage = Annotated[
    UserMessage | AssistantMessage | ToolMessage | FunctionMessage | _UnknownRole,
    TaggedBy("role"),
]


# ---------------------------------------------------------------- tools


class FunctionSpec(RequestModel):
    """A function's `parameters` are a JSON Schema, checked by the backend; `strict` asks for arguments that match it exactly."""

    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None


class FunctionTool(RequestModel):
    """A function that the client runs."""

    type: Literal["function"]
    function: FunctionSpec


class CustomSpec(RequestModel):
    """A tool whose input is plain text. `format` may hold a grammar of it."""

    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    format: Any = None


class CustomTool(RequestModel):
    """A custom tool, answered by calls of `type: custom`."""

    type: Literal["custom"]
    custom: CustomSpec


class HostedTool(RequestModel):
    """A tool that OpenAI runs by itself, such as `web_search`."""

    type: str


ToolSpec = Annotated[FunctionTool | CustomTool | HostedTool, TaggedBy("type")]


class ToolName(RequestModel):
    """The object by which a choice names one tool."""

    name: str


class NamedFunction(RequestModel):
    """The choice of one function, which must be called."""

    type: Literal["function"]
    function: ToolName


class NamedCustom(RequestModel):
    """The choice of one custom tool, which must be called."""

    type: Literal["custom"]
    custom: ToolName


class AllowedTools(RequestModel):
    """A choice of several tools; `required` asks for a call of one of them."""

    mode: Literal["auto", "required"]
    tools: FastList[Annotated[NamedCustom | NamedFunction, TaggedBy("type")]]


class AllowedToolsChoice(RequestModel):
    """The object around `AllowedTools`."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoiceValue = Annotated[
    Literal["none", "auto", "required", "any"] | AllowedToolsChoice | NamedCustom | NamedFunction,
    TaggedBy("type"),
]
FunctionCallChoice = Annotated[Literal["none", "auto"], Tag("#mode")] | Annotated[ToolName, Tag("#object")]


# ---------------------------------------------------------------- formats and parameters


class _JsonSchemaSpec(RequestModel):
    name: str | None = None
    description: str | None = None
    schema_: Any = Field(alias="schema")
    strict: bool | None = None


class JsonObjectFormat(RequestModel):
    """Any JSON object, or the one of `schema`, which several servers understand here."""

    type: Literal["json_object"]
    schema_: Any = Field(default=None, alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(RequestModel):
    """Structured output."""

    type: Literal["json_schema"]
    json_schema: _JsonSchemaSpec


class TextFormat(RequestModel):
    """Free text. Unknown types are read as this one, and refused."""

    type: Literal["text", "json_object", "json_schema"]


class ExtendedThinking(RequestModel):
    """Heroku's own way to ask for reasoning."""

    enabled: bool | None = None
    budget_tokens: Whole | None = Field(default=None, ge=1024, le=MAX_TOKENS)
    include_reasoning: bool | None = None


class AnthropicThinking(RequestModel):
    """Anthropic's `thinking`, which several servers of this API take."""

    type: Literal["enabled", "adaptive", "disabled"] = "enabled"
    budget_tokens: Whole | None = Field(default=None, ge=1024, le=MAX_TOKENS)


class ReasoningOptions(RequestModel):
    """OpenRouter's `reasoning`, whose `effort` is also that of OpenAI's Responses API."""

    effort: str | None = None
    max_tokens: Whole | None = Field(default=None, ge=1, le=MAX_TOKENS)
    enabled: bool | None = None
    exclude: bool | None = None


class _StreamOptions(RequestModel):
    include_usage: bool | None = None


class ChatRequest(RequestModel):
    """The body of a chat request. What is not a field here is accepted and ignored."""

    model: str = Field(min_length=1)
    messages: FastList[ChatMessage] = Field(min_length=1)
    max_tokens: Whole | None = Field(default=None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: Whole | None = Field(default=None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    stop: Annotated[str, Tag("#string")] | Annotated[FastList[str], Tag("#list")] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: FastList[ToolSpec] | None = None
    tool_choice: ToolChoiceValue | None = None
    parallel_tool_calls: bool | None = None
    functions: FastList[FunctionSpec] | None = None
    function_call: FunctionCallChoice | None = None
    extended_thinking: Annotated[ExtendedThinking, Tag("#object")] | Annotated[bool, Tag("#flag")] | None = None
    # Values of another type are ignored, as other unknown fields are.
    thinking: Annotated[AnthropicThinking | Any, TaggedBy("type")] = None
    reasoning: Annotated[ReasoningOptions | Any, TaggedBy("type")] = None
    reasoning_effort: str | None = None
    response_format: Annotated[JsonObjectFormat | JsonSchemaFormat | TextFormat, TaggedBy("type")] | None = None
    n: Whole | None = Field(default=None, ge=1)
    user: str | None = None
    metadata: JsonObject | None = None

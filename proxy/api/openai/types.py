"""The body of `POST /v1/chat/completions`, and its responses: completions, chunks, models.

Responses are typed dicts, since a key that is absent and one that is null are different things to clients.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NotRequired, TypedDict

from pydantic import BeforeValidator, Discriminator, Field, Tag

from proxy.api.openai.messages import ChatMessage, RequestModel
from proxy.api.openai.tools import FunctionCallChoice, FunctionSpec, ToolChoiceValue, ToolSpec, object_tag


def _whole(value: Any) -> Any:
    """`10.0` is an integer to JSON, and some clients' languages write it so."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


Whole = Annotated[int, BeforeValidator(_whole)]
MAX_TOKENS: Final = 2**31 - 1


# ---------------------------------------------------------------- formats and parameters


class JsonSchemaSpec(RequestModel):
    name: str | None = None
    description: str | None = None
    schema_: Any = Field(alias="schema")
    strict: bool | None = None


class TextFormat(RequestModel):
    type: Literal["text"]


class JsonObjectFormat(RequestModel):
    """Any JSON object, or the one of `schema`, which several servers understand here."""

    type: Literal["json_object"]
    schema_: Any = Field(default=None, alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(RequestModel):
    type: Literal["json_schema"]
    json_schema: JsonSchemaSpec


class _UnknownFormat(RequestModel):
    type: Literal["text", "json_object", "json_schema"]


_FORMAT_TAGS = {"text": "#text", "json_object": "#json_object", "json_schema": "#json_schema"}


def _format_tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, Mapping) else None
    return _FORMAT_TAGS.get(kind, "#unknown") if isinstance(kind, str) else "#unknown"


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("#text")]
    | Annotated[JsonObjectFormat, Tag("#json_object")]
    | Annotated[JsonSchemaFormat, Tag("#json_schema")]
    | Annotated[_UnknownFormat, Tag("#unknown")],
    Discriminator(_format_tag),
]


class ExtendedThinking(RequestModel):
    """Heroku's own way to ask for reasoning."""

    enabled: bool | None = None
    budget_tokens: Whole | None = Field(default=None, ge=1024, le=MAX_TOKENS)
    include_reasoning: bool | None = None


def _flag_tag(value: Any) -> str:
    return "#flag" if isinstance(value, bool) else "#object"


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


def _stop_tag(value: Any) -> str:
    return "#list" if isinstance(value, list) else "#string"


class StreamOptions(RequestModel):
    include_usage: bool | None = None


class ChatRequest(RequestModel):
    """The body of a chat request. What is not a field here is accepted and ignored."""

    model: str = Field(min_length=1)
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: Whole | None = Field(default=None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: Whole | None = Field(default=None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    stop: (
        Annotated[Annotated[str, Tag("#string")] | Annotated[list[str], Tag("#list")], Discriminator(_stop_tag)] | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: ToolChoiceValue | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionSpec] | None = None
    function_call: FunctionCallChoice | None = None
    extended_thinking: (
        Annotated[
            Annotated[bool, Tag("#flag")] | Annotated[ExtendedThinking, Tag("#object")],
            Discriminator(_flag_tag),
        ]
        | None
    ) = None
    # Values of another type are ignored, as other unknown fields are.
    thinking: (
        Annotated[
            Annotated[AnthropicThinking, Tag("#object")] | Annotated[Any, Tag("#other")],
            Discriminator(object_tag),
        ]
        | None
    ) = None
    reasoning: (
        Annotated[
            Annotated[ReasoningOptions, Tag("#object")] | Annotated[Any, Tag("#other")],
            Discriminator(object_tag),
        ]
        | None
    ) = None
    reasoning_effort: str | None = None
    response_format: ResponseFormat | None = None
    n: Whole | None = Field(default=None, ge=1)
    user: str | None = None
    metadata: dict[str, str] | None = None


# ---------------------------------------------------------------- responses

FinishReasonOut = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class FunctionOut(TypedDict):
    """`arguments` is the text of a JSON object."""

    name: str
    arguments: str


class CustomOut(TypedDict):
    name: str
    input: str


class ToolCallOut(TypedDict):
    """`index` stands in deltas only; `custom` in place of `function` where `type` is that."""

    index: NotRequired[int]
    id: str
    type: Literal["function", "custom"]
    function: NotRequired[FunctionOut]
    custom: NotRequired[CustomOut]


class ReasoningOut(TypedDict):
    """Heroku's shape of the reasoning trace."""

    thinking: str


class MessageOut(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCallOut]]
    function_call: NotRequired[FunctionOut]
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[ReasoningOut]


class ChoiceOut(TypedDict):
    index: int
    message: MessageOut
    finish_reason: FinishReasonOut
    logprobs: None


class UsageOut(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChoiceOut]
    usage: UsageOut


class Delta(TypedDict, total=False):
    role: Literal["assistant"]
    content: str
    tool_calls: list[ToolCallOut]
    function_call: FunctionOut
    reasoning_content: str
    reasoning: ReasoningOut


class ChunkChoice(TypedDict):
    index: int
    delta: Delta
    finish_reason: FinishReasonOut | None
    logprobs: None


class Chunk(TypedDict):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: NotRequired[UsageOut | None]


class ModelInfo(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelInfo]

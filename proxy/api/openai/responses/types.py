"""The body of `POST /v1/responses`.

Strict about what has an effect, open to everything else. In every optional field null is the same as absent. Items may carry an `id` and
a `status`, which nothing looks at: histories hold those of other servers.
Source: contract `openai-responses.md`; the `openai` SDKs' types where it is silent.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Tag

from proxy.api.http.requests import FastList, TaggedBy, Whole
from proxy.api.openai.types import MAX_TOKENS, CustomSpec, FunctionSpec, RefusalPart, RequestModel
from proxy.inference.request import JsonObject


class OtherKind(RequestModel):
    """A part, a tool or an item of any other type: images and files, tools that OpenAI runs by itself, items of other servers."""

    type: str


# ---------------------------------------------------------------- content


class ItemText(RequestModel):
    """Text of the client's or of the model's."""

    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text"]
    text: str


ContentPart = Annotated[ItemText | RefusalPart | OtherKind, TaggedBy("type")]
ItemContent = Annotated[str, Tag("#string")] | Annotated[FastList[ContentPart], Tag("#parts")]


# ---------------------------------------------------------------- tools


class FunctionDefinition(FunctionSpec):
    """A function, flat."""

    type: Literal["function"]


class CustomDefinition(CustomSpec):
    """A tool that takes plain text, flat. `format` may hold a grammar of it."""

    type: Literal["custom"]


NamedDefinition = Annotated[FunctionDefinition | CustomDefinition | OtherKind, TaggedBy("type")]


class NamespaceDefinition(RequestModel):
    """Functions and custom tools whose names count within the namespace only."""

    type: Literal["namespace"]
    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    tools: FastList[NamedDefinition]


ToolDefinition = Annotated[FunctionDefinition | CustomDefinition | NamespaceDefinition | OtherKind, TaggedBy("type")]


class ToolReference(RequestModel):
    """The choice of one tool."""

    type: Literal["function", "custom"]
    name: str
    namespace: str | None = None


class ToolSubset(RequestModel):
    """A choice of several tools; `required` asks for a call of one of them."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: FastList[Annotated[ToolReference | OtherKind, TaggedBy("type")]]


ToolChoiceField = Annotated[
    Literal["none", "auto", "required"] | ToolReference | ToolSubset | OtherKind, TaggedBy("type")
]


# ---------------------------------------------------------------- items


class MessageItem(RequestModel):
    """What somebody said."""

    type: Literal["message"]
    role: Literal["system", "developer", "user", "assistant"]
    content: ItemContent | None = None


class FunctionCallItem(RequestModel):
    """A past call of a function."""

    type: Literal["function_call"]
    call_id: str
    name: str = Field(min_length=1)
    arguments: Annotated[str, Tag("#string")] | Annotated[JsonObject, Tag("#object")] | None = None
    namespace: str | None = None


class CustomCallItem(RequestModel):
    """A past call of a custom tool."""

    type: Literal["custom_tool_call"]
    call_id: str
    name: str = Field(min_length=1)
    input: str | None = None
    namespace: str | None = None


class CallOutputItem(RequestModel):
    """The result of a call."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: str = Field(min_length=1)
    output: ItemContent | None = None


class ReasoningItem(RequestModel):
    """What the model thought. `encrypted_content` is ours, another server's or nothing."""

    type: Literal["reasoning"]
    encrypted_content: Any = None


class ReferenceItem(RequestModel):
    """An item of a stored response."""

    type: Literal["item_reference"]
    id: str


class ToolsItem(RequestModel):
    """Tools that are offered as if they stood in the request's own `tools`."""

    type: Literal["additional_tools", "tool_search_output"]
    tools: FastList[ToolDefinition] | None = None


def _with_type(value: Any) -> Any:
    """An item with the type that clients leave out: of a message, or of a reference."""
    if isinstance(value, dict) and value.get("type") is None:
        if "role" in value:
            return {**value, "type": "message"}
        if "id" in value:
            return {**value, "type": "item_reference"}
    return value


Item = Annotated[
    MessageItem
    | FunctionCallItem
    | CustomCallItem
    | CallOutputItem
    | ReasoningItem
    | ReferenceItem
    | ToolsItem
    | OtherKind,
    TaggedBy("type"),
    BeforeValidator(_with_type),
]


# ---------------------------------------------------------------- parameters


class JsonText(RequestModel):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaText(RequestModel):
    """Structured output, flat."""

    type: Literal["json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Any = Field(default=None, alias="schema")
    strict: bool | None = None


class _TextFormat(RequestModel):
    type: Literal["text", "json_object", "json_schema"]


class _TextOptions(RequestModel):
    format: Annotated[JsonText | SchemaText | _TextFormat, TaggedBy("type")] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


Summary = Literal["auto", "concise", "detailed"]


class ReasoningField(RequestModel):
    """`generate_summary` is the retired name of `summary`; `context` and `mode` are Codex's."""

    effort: str | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None
    context: Any = None
    mode: Any = None


class ResponsesRequest(RequestModel):
    """The whole body. What is not a field here is accepted and ignored."""

    model: str = Field(min_length=1)
    input: Annotated[str, Tag("#string")] | Annotated[FastList[Item], Tag("#items")] | None = None
    instructions: str | None = None
    tools: FastList[ToolDefinition] | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None
    text: _TextOptions | None = None
    reasoning: ReasoningField | None = None
    max_output_tokens: Whole | None = Field(default=None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    metadata: JsonObject | None = None
    user: str | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None
    stream: bool | None = None
    include: FastList[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    # No effect here, and nothing that a client need know of.
    stream_options: Any = None
    max_tool_calls: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    service_tier: Any = None
    client_metadata: Any = None

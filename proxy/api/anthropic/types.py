"""The bodies of `POST /v1/messages` and its `/count_tokens`. Source: contract `anthropic-messages.md`, sections Request to Tools.

Models are strict about types and ignore unknown fields at every level. In every optional field null is the same as absent.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, Tag

from proxy.api.http.requests import FastList, TaggedBy, Whole
from proxy.inference.request import JsonObject

_MAX_TOKENS: Final = 2**31 - 1


class WireModel(BaseModel):
    """Base of all models of this API."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


# ---------------------------------------------------------------- content blocks


class TextBlockParam(WireModel):
    """Text of any author."""

    type: Literal["text"]
    text: str


class ToolUseBlockParam(WireModel):
    """A call of an earlier turn."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: JsonObject | None = None


class ToolResultBlockParam(WireModel):
    """The result of a call."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: "Content | None" = None
    is_error: bool | None = None


class DocumentSource(WireModel):
    """`data` is the text of a `text` source; `content` a string or blocks."""

    type: str
    data: str | None = None
    content: "Content | None" = None


class DocumentBlock(WireModel):
    """A document, of which only text can be read."""

    type: Literal["document"]
    source: DocumentSource
    title: str | None = None
    context: str | None = None


class SearchResultBlock(WireModel):
    """A passage that a tool or the client found."""

    type: Literal["search_result"]
    source: str
    title: str
    content: FastList[TextBlockParam]


class CompactionBlock(WireModel):
    """The summary of turns that were left out."""

    type: Literal["compaction"]
    content: str | None = None


class NamedTool(WireModel):
    """A tool by its name, or defined on the spot."""

    name: str | None = None
    definition: "ToolSpec | None" = None


class ToolChangeBlock(WireModel):
    """A tool that is offered, or offered no longer, from here on."""

    type: Literal["tool_addition", "tool_removal"]
    tool: NamedTool


class ToolReferenceBlock(WireModel):
    """A tool that the client's tool search found."""

    type: Literal["tool_reference"]
    tool_name: str


class OtherBlock(WireModel):
    """Images, thinking, and what servers add."""

    type: str


Block = Annotated[
    TextBlockParam
    | ToolUseBlockParam
    | ToolResultBlockParam
    | DocumentBlock
    | SearchResultBlock
    | CompactionBlock
    | ToolChangeBlock
    | ToolReferenceBlock
    | OtherBlock,
    TaggedBy("type"),
]
Content = Annotated[str, Tag("#string")] | Annotated[FastList[Block], Tag("#blocks")]


class InputMessage(WireModel):
    """One turn. A system turn may hold tool changes, and may have no content."""

    role: Literal["user", "assistant", "system"]
    content: Content | None = None
    clear_at: str | None = None


# ---------------------------------------------------------------- tools


class ToolSpec(WireModel):
    """A tool: the client's own (`type` is absent or `custom`), a client tool whose schema the API knows, or one that servers run."""

    type: str | None = None
    name: str | None = Field(default=None, min_length=1, max_length=256)
    description: str | None = None
    input_schema: JsonObject | None = None
    strict: bool | None = None
    defer_loading: bool | None = None
    input_examples: list[Any] | None = None


class ToolChoiceSpec(WireModel):
    """Which tools may be called; `name` belongs to `tool`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


# ---------------------------------------------------------------- parameters


class Thinking(WireModel):
    """Whether, how long and how visibly the model thinks; `budget_tokens` belongs to `enabled`."""

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: Whole | None = None
    display: str | None = None


class OutputFormatParam(WireModel):
    """Structured output."""

    type: Literal["json_schema"]
    schema_: JsonObject = Field(alias="schema")
    strict: bool | None = None


class OutputConfig(WireModel):
    """`effort` sets the thinking budget where none is named."""

    effort: str | None = None
    format: OutputFormatParam | None = None


class Metadata(WireModel):
    """`user_id` names the client's end user."""

    user_id: str | None = None


class MessagesRequest(WireModel):
    """The body. What is not a field here is accepted and ignored."""

    model: str = Field(min_length=1)
    max_tokens: Whole = Field(ge=1, le=_MAX_TOKENS)
    messages: FastList[InputMessage] = Field(min_length=1, max_length=100_000)
    system: Annotated[str, Tag("#string")] | Annotated[FastList[TextBlockParam], Tag("#blocks")] | None = None
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: Whole | None = Field(default=None, ge=0, le=_MAX_TOKENS)
    stop_sequences: FastList[str] | None = None
    tools: FastList[ToolSpec] | None = None
    tool_choice: ToolChoiceSpec | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormatParam | None = None
    metadata: Metadata | None = None
    mcp_servers: Any = None
    container: Any = None

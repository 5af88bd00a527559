"""Messages of a request: roles, content parts, past calls and their results.

Requests are pydantic models: strict about types, open to unknown fields (they end up in `model_extra`). In every optional field null
is the same as absent. Every tag of a discriminated union begins with `#`, so that an error's path can be told from the tags in it.
Source: contract `heroku-chat.md`; the `openai` SDKs' types where it is silent.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Tag

from proxy.inference.request import JsonObject


class RequestModel(BaseModel):
    """Base of all request models."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


# ---------------------------------------------------------------- content


class TextPart(RequestModel):
    type: Literal["text"]
    text: str


class RefusalPart(RequestModel):
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
    | Annotated[list[Part], Tag("#parts")]
    | Annotated[list[ToolResultItem], Tag("#results")]
    | Annotated[JsonObject, Tag("#object")],
    Discriminator(_tool_content_tag),
]


# ---------------------------------------------------------------- messages


class CalledFunction(RequestModel):
    name: str
    arguments: str | JsonObject | None = None


class FunctionCall(RequestModel):
    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunction


class CalledCustom(RequestModel):
    name: str
    input: str | None = None


class CustomCall(RequestModel):
    id: str | None = None
    type: Literal["custom"]
    custom: CalledCustom


def _call_tag(value: Any) -> str:
    custom = isinstance(value, Mapping) and value.get("type") == "custom"
    return "#custom" if custom else "#function"


PastCall = Annotated[
    Annotated[FunctionCall, Tag("#function")] | Annotated[CustomCall, Tag("#custom")],
    Discriminator(_call_tag),
]


class SystemMessage(RequestModel):
    role: Literal["system", "developer"]
    content: Content | None = None
    name: str | None = None


class UserMessage(RequestModel):
    role: Literal["user"]
    content: Content | None = None
    name: str | None = None


class AssistantMessage(RequestModel):
    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[PastCall] | None = None
    function_call: CalledFunction | None = None


class ToolMessage(RequestModel):
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


ChatMessage = Annotated[
    Annotated[SystemMessage, Tag("#system")]
    | Annotated[UserMessage, Tag("#user")]
    | Annotated[AssistantMessage, Tag("#assistant")]
    | Annotated[ToolMessage, Tag("#tool")]
    | Annotated[FunctionMessage, Tag("#function")]
    | Annotated[_UnknownRole, Tag("#unknown")],
    Discriminator(_role_tag),
]

"""Messages of a request, as clients write them and decoded: roles, content parts, past calls and their results.

Requests are pydantic models: strict about types, open to unknown fields (they end up in `model_extra`). In every optional field null
is the same as absent. Every tag of a discriminated union begins with `#`, so that an error's path can be told from the tags in it.
Source: contract `heroku-chat.md`; the `openai` SDKs' types where it is silent.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Tag

from proxy.api.http.json_text import has_more_values
from proxy.errors import InvalidRequest
from proxy.inference.jsontext import NotJson, dump_json, parse_json
from proxy.inference.request import Block, JsonObject, Media, Message, Text, ToolCall, ToolResult

_MANY_ARGUMENTS: Final = 20_000
CUSTOM_INPUT: Final = "input"
"""The one argument of a custom tool."""


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


# ---------------------------------------------------------------- decoding


def decode_messages(messages: Sequence[ChatMessage]) -> Iterator[Message]:
    """The neutral messages, one each. Raises InvalidRequest."""
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        match message:
            case AssistantMessage():
                yield Message("assistant", tuple(_assistant(message, path)), path)
            case ToolMessage(content=[ToolResultItem(), *_] as items):
                yield Message("user", tuple(_result_items(items, f"{path}.content")), path)
            case ToolMessage():
                content = tuple(_result_content(message.content, f"{path}.content"))
                yield Message("user", (ToolResult(message.tool_call_id, content, name=message.name, path=path),), path)
            case FunctionMessage():
                content = tuple(_result_content(message.content, f"{path}.content"))
                yield Message("user", (ToolResult(None, content, name=message.name, path=path),), path)
            case SystemMessage() | UserMessage():
                blocks = list(_content(message.content, f"{path}.content"))
                yield Message(message.role, tuple(_named(blocks, message.name)), path)
            case _:
                raise InvalidRequest(f"`{path}.role` is unknown.", param=f"{path}.role")


def _content(content: Content | None, path: str) -> Iterator[Block]:
    """The blocks of a message's content. Reasoning that clients send back is left out."""
    if content is None or isinstance(content, str):
        yield from (Text(content, path),) if content is not None else ()
        return
    for index, part in enumerate(content):
        where = f"{path}[{index}]"
        match part:
            case TextPart():
                yield Text(part.text, where)
            case RefusalPart():
                yield Text(part.refusal, where)
            case ToolUsePart():
                yield ToolCall(part.id, part.name, part.input or {}, where)
            case ToolResultPart():
                result = tuple(_result_content(part.content, f"{where}.content"))
                yield ToolResult(part.tool_use_id, result, bool(part.is_error), path=where)
            case MediaPart():
                yield Media(part.type, where)
            case ThinkingPart():
                pass


def _named(blocks: list[Block], name: str | None) -> list[Block]:
    """Blocks with the participant's name before their first text: there is no other place for it upstream."""
    if name is None or not name.strip():
        return blocks
    for index, block in enumerate(blocks):
        if isinstance(block, Text) and block.text.strip():
            if block.text.lstrip().startswith("<th"):  # reasoning at the start of a text is found, and removed, later
                return [*blocks[:index], Text(f"{name.strip()}:", block.path), *blocks[index:]]
            return [*blocks[:index], Text(f"{name.strip()}: {block.text}", block.path), *blocks[index + 1 :]]
    return blocks


def _assistant(message: AssistantMessage, path: str) -> Iterator[Block]:
    blocks = list(_content(message.content, f"{path}.content"))
    if message.refusal is not None:
        blocks.append(Text(message.refusal, f"{path}.refusal"))
    yield from _named(blocks, message.name)
    written = {(block.id, block.name) for block in blocks if isinstance(block, ToolCall)}
    for index, call in enumerate(message.tool_calls or ()):
        where = f"{path}.tool_calls[{index}]"
        match call:
            case CustomCall():
                name, arguments = call.custom.name, {CUSTOM_INPUT: call.custom.input or ""}
            case FunctionCall():
                name, arguments = call.function.name, _arguments(call.function.arguments)
        # Some clients write one call twice, as a `tool_use` part and here.
        if not call.id or (call.id, name) not in written:
            yield ToolCall(call.id or "", name, arguments, where)
    if message.function_call:
        function = message.function_call
        yield ToolCall("", function.name, _arguments(function.arguments), f"{path}.function_call")


def _result_items(items: Sequence[object], path: str) -> Iterator[ToolResult]:
    for index, item in enumerate(items):
        where = f"{path}[{index}]"
        if isinstance(item, ToolResultItem):
            content = tuple(_result_content(item.content, f"{where}.content"))
            yield ToolResult(item.tool_call_id, content, path=where)


def _result_content(content: ToolContent | None, path: str) -> Iterator[Text | Media]:
    if isinstance(content, dict):
        yield Text(dump_json(content), path)
        return
    parts: str | list[Part] | None
    if isinstance(content, list):
        parts = [part for part in content if not isinstance(part, ToolResultItem)]
        if len(parts) < len(content):
            raise InvalidRequest(f"`{path}`: a tool result cannot hold further results.", param=path)
    else:
        parts = content
    for block in _content(parts, path):
        if isinstance(block, Text | Media):
            yield block


def _arguments(arguments: Any) -> Any:
    """Past arguments as an object, or their raw text where it is not the JSON of one: it is what the model wrote."""
    if not isinstance(arguments, str):
        return arguments or {}
    if not arguments.strip():
        return {}
    if len(arguments) > _MANY_ARGUMENTS and has_more_values(arguments.encode(), _MANY_ARGUMENTS):
        return arguments  # parsing would block other requests, and no tool takes so many
    try:
        value = parse_json(arguments)
    except NotJson:
        return arguments
    return value if isinstance(value, dict) else arguments

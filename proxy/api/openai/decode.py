"""A chat request → the neutral request, and what its reply must look like. Source: contract `heroku-chat.md`, section Request."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, Final, Literal

from proxy.api.http.requests import MAX_REPORTED, has_more_values, reportable
from proxy.api.openai import types as wire
from proxy.api.openai.tools import CUSTOM_INPUT, OfferedTools, decode_tools
from proxy.errors import InvalidRequest
from proxy.inference.jsontext import NotJson, dump_json, parse_json
from proxy.inference.request import (
    MAX_STOPS,
    Block,
    JsonObject,
    JsonOutput,
    Media,
    Message,
    Reasoning,
    Request,
    Rules,
    Sampling,
    Text,
    ToolCall,
    ToolResult,
)

ReasoningObject = Literal["auto", "always", "never"]
_MAX_METADATA, _MAX_KEY, _MAX_VALUE = 16, 64, 512
_MIN_BUDGET: Final = 1024
_MANY_ARGUMENTS: Final = 20_000
_REASONING_FIELDS: Final = ("extended_thinking", "thinking", "reasoning", "reasoning_effort")
_TOOL_FIELDS: Final = frozenset({"tools", "tool_choice", "functions", "function_call"})
_OPAQUE: Final = (wire.MediaPart, wire.ThinkingPart, wire.HostedTool)
"""Whatever these hold, they are refused, replaced or left out as a whole."""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What the reply to one request must look like, beyond the neutral request.

    Attributes:
        model: the name the client asked for; echoed.
        include_usage: a stream ends with its usage.
        function_call: calls are answered in the shape of the retired `functions` field.
        reasoning_object: Heroku's `reasoning` object stands beside `reasoning_content`.
        custom_tools: names of the tools whose calls are answered as custom calls.
    """

    model: str
    stream: bool = False
    include_usage: bool = False
    function_call: bool = False
    reasoning_object: bool = False
    custom_tools: frozenset[str] = frozenset()


def decode(
    body: wire.ChatRequest, rules: Rules, body_bytes: int, *, reasoning_object: ReasoningObject = "auto"
) -> tuple[Request, ChatReply]:
    """Decode a request. Raises InvalidRequest: something in it cannot be expressed; `param` is its path.

    Args:
        body_bytes: size of the request body.
        reasoning_object: who gets Heroku's `reasoning` object; `auto` is callers of `extended_thinking`.
    """
    given = body.model_fields_set
    offered = OfferedTools() if given.isdisjoint(_TOOL_FIELDS) else decode_tools(body, rules.drop_hosted_tools)
    thinks = not given.isdisjoint(_REASONING_FIELDS)
    reasoning, by_heroku, overruled = _reasoning(body, rules) if thinks else (None, False, ())
    shown = reasoning is not None and reasoning.shown
    sampling, adjusted = _sampling(body), offered.dropped
    if sampling.temperature != body.temperature:
        adjusted = ("temperature: lowered to 1", *adjusted)
    request = Request(
        model=body.model,
        messages=tuple(decode_messages(body.messages)),
        tools=offered.tools,
        tool_choice=offered.choice,
        output=None if body.response_format is None else _output(body.response_format),
        reasoning=reasoning,
        sampling=sampling,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        choices=body.n or 1,
        user=body.user,
        tags=tags_of(body.user, body.metadata) if body.user or body.metadata else (),
        body_bytes=body_bytes,
        ignored=_ignored(body, overruled, sampling.top_k is not None),
        adjusted=adjusted,
    )
    reply = ChatReply(
        model=body.model,
        stream=bool(body.stream),
        include_usage=bool(body.stream and body.stream_options and body.stream_options.include_usage),
        function_call=offered.legacy,
        reasoning_object=shown and (reasoning_object == "always" or (reasoning_object == "auto" and by_heroku)),
        custom_tools=offered.custom,
    )
    return request, reply


def _sampling(body: wire.ChatRequest) -> Sampling:
    """Temperatures above 1 are lowered. `top_k` is no field of OpenAI's, so that any value of it is accepted, and a usable one used."""
    top_k = (body.model_extra or {}).get("top_k")
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k < 2**31:
        top_k = None
    temperature = None if body.temperature is None else min(body.temperature, 1.0)
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or ()
    if len(stop) > MAX_STOPS:
        raise InvalidRequest(f"`stop` holds {len(stop)} texts; expected {MAX_STOPS} at most.", param="stop")
    return Sampling(temperature, body.top_p, top_k, tuple(dict.fromkeys(filter(None, stop))))


def tags_of(user: str | None, metadata: JsonObject | None) -> tuple[str, ...]:
    """`user` and `metadata` as tags, so that an operator finds a user's jobs. Raises InvalidRequest: an entry is not what it should be."""
    metadata = metadata or {}
    if len(metadata) > _MAX_METADATA:
        message = f"`metadata` holds {len(metadata)} entries; expected {_MAX_METADATA} at most."
        raise InvalidRequest(message, param="metadata")
    tags = [f"user:{user}"] if user else []
    for key, value in metadata.items():
        param = f"metadata.{key[:_MAX_KEY]}"
        if len(key) > _MAX_KEY:
            raise InvalidRequest(f"A key of `metadata` is longer than {_MAX_KEY} characters.", param="metadata")
        if not isinstance(value, str):
            raise InvalidRequest(f"Invalid `{param}`: expected a valid string.", param=param)
        if len(value) > _MAX_VALUE:
            raise InvalidRequest(f"`{param}` is longer than {_MAX_VALUE} characters.", param=param)
        if key.partition(":")[0].strip().lower() == "rid":
            raise InvalidRequest(f"`{param}`: the key is reserved for the proxy's own tags.", param=param)
        tags.append(f"{key}:{value}")
    return tuple(tags)


# ---------------------------------------------------------------- messages


def decode_messages(messages: Sequence[wire.ChatMessage]) -> Iterator[Message]:
    """The neutral messages, one each. Raises InvalidRequest."""
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        match message:
            case wire.AssistantMessage():
                yield Message("assistant", tuple(_assistant(message, path)), path)
            case wire.ToolMessage(content=[wire.ToolResultItem(), *_] as items):
                results = [
                    _result(item.tool_call_id, item.content, f"{path}.content[{number}]")
                    for number, item in enumerate(items)
                    if isinstance(item, wire.ToolResultItem)
                ]
                yield Message("user", tuple(results), path)
            case wire.ToolMessage():
                yield Message("user", (_result(message.tool_call_id, message.content, path, name=message.name),), path)
            case wire.FunctionMessage():
                yield Message("user", (_result(None, message.content, path, name=message.name),), path)
            case wire.UserMessage():
                blocks = list(_content(message.content, f"{path}.content"))
                if message.name:
                    blocks = _named(blocks, message.name)
                yield Message(message.role, tuple(blocks), path)


def _content(content: wire.ToolContent | None, path: str) -> Iterator[Block]:
    """The blocks of a message's content, or a result's. Reasoning that clients send back is left out."""
    if isinstance(content, str):
        yield Text(content, path)
        return
    if isinstance(content, dict):
        yield Text(dump_json(content), path)
        return
    for index, part in enumerate(content or ()):
        where = f"{path}[{index}]"
        match part:
            case wire.TextPart():
                yield Text(part.text, where)
            case wire.RefusalPart():
                yield Text(part.refusal, where)
            case wire.ToolUsePart():
                yield ToolCall(part.id, part.name, part.input or {}, where)
            case wire.ToolResultPart():
                yield _result(part.tool_use_id, part.content, where, is_error=bool(part.is_error))
            case wire.ToolResultItem():
                raise InvalidRequest(f"`{path}`: a tool result cannot hold further results.", param=path)
            case wire.MediaPart():
                yield Media(part.type, where)
            case wire.ThinkingPart():
                pass


def _named(blocks: list[Block], name: str) -> list[Block]:
    """Blocks with the participant's name before their first text: there is no other place for it upstream."""
    if not name.strip():
        return blocks
    for index, block in enumerate(blocks):
        if isinstance(block, Text) and block.text.strip():
            if block.text.lstrip().startswith("<th"):  # reasoning at the start of a text is found, and removed, later
                return [*blocks[:index], Text(f"{name.strip()}:", block.path), *blocks[index:]]
            return [*blocks[:index], Text(f"{name.strip()}: {block.text}", block.path), *blocks[index + 1 :]]
    return blocks


def _assistant(message: wire.AssistantMessage, path: str) -> Iterator[Block]:
    blocks = list(_content(message.content, f"{path}.content"))
    if message.refusal is not None:
        blocks.append(Text(message.refusal, f"{path}.refusal"))
    yield from _named(blocks, message.name or "")
    written = {(block.id, block.name) for block in blocks if isinstance(block, ToolCall)}
    for index, call in enumerate(message.tool_calls or ()):
        where = f"{path}.tool_calls[{index}]"
        match call:
            case wire.CustomCall():
                name, arguments = call.custom.name, {CUSTOM_INPUT: call.custom.input or ""}
            case wire.FunctionCall():
                name, arguments = call.function.name, past_arguments(call.function.arguments)
        # Some clients write one call twice, as a `tool_use` part and here.
        if not call.id or (call.id, name) not in written:
            yield ToolCall(call.id or "", name, arguments, where)
    if message.function_call:
        function = message.function_call
        yield ToolCall("", function.name, past_arguments(function.arguments), f"{path}.function_call")


def _result(
    call_id: str | None, content: wire.ToolContent | None, path: str, *, is_error: bool = False, name: str | None = None
) -> ToolResult:
    blocks = [block for block in _content(content, f"{path}.content") if isinstance(block, Text | Media)]
    return ToolResult(call_id, tuple(blocks), is_error, name, path)


def past_arguments(arguments: Any) -> Any:
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


# ---------------------------------------------------------------- output and reasoning


def _output(wanted: wire.JsonObjectFormat | wire.JsonSchemaFormat | wire.TextFormat) -> JsonOutput | None:
    match wanted:
        case wire.JsonSchemaFormat(json_schema=spec):
            path = "response_format.json_schema.schema"
            if spec.schema_ is None:
                raise InvalidRequest(f"Invalid `{path}`: expected an object.", param=path, code="invalid_json_schema")
            return JsonOutput(spec.schema_, strict=bool(spec.strict), path=path)
        case wire.JsonObjectFormat(schema_=None):
            return JsonOutput(strict=True, path="response_format")
        case wire.JsonObjectFormat():
            return JsonOutput(wanted.schema_, strict=bool(wanted.strict), path="response_format.schema")
        case wire.TextFormat():
            return None


def _reasoning(body: wire.ChatRequest, rules: Rules) -> tuple[Reasoning | None, bool, tuple[str, ...]]:
    """The reasoning wanted, whether it was asked for in Heroku's way, and the fields that have no effect.

    Of several ways to ask, the first one that is given decides: `extended_thinking`, `thinking`, `reasoning`, `reasoning_effort`.
    """
    given = {field: value for field in _REASONING_FIELDS if (value := getattr(body, field)) is not None}
    readable = [
        field
        for field, value in given.items()
        if field == "reasoning_effort"
        or isinstance(value, bool | wire.ExtendedThinking | wire.AnthropicThinking | wire.ReasoningOptions)
    ]
    usual = rules.efforts.get("medium", _MIN_BUDGET)
    decisive = next(iter(readable), "")
    unused = tuple(field for field in given if field != decisive)
    wanted: Reasoning | None = None
    match given.get(decisive):
        case True | wire.ExtendedThinking(enabled=True) as value:
            budget = value.budget_tokens if isinstance(value, wire.ExtendedThinking) else None
            hidden = isinstance(value, wire.ExtendedThinking) and value.include_reasoning is False
            wanted = Reasoning(budget or usual, shown=not hidden)
        case wire.AnthropicThinking(type="enabled" | "adaptive", budget_tokens=budget):
            wanted = Reasoning(budget or usual)
        case wire.ReasoningOptions(enabled=False):
            pass
        case wire.ReasoningOptions(max_tokens=int(budget), exclude=exclude):
            wanted = Reasoning(max(budget, _MIN_BUDGET), exclude is not True)
        case wire.ReasoningOptions(effort=str(effort), exclude=exclude):
            wanted = reasoning_of_effort(effort, "reasoning.effort", rules)
            wanted = wanted and replace(wanted, shown=exclude is not True)
        case wire.ReasoningOptions(enabled=True, exclude=exclude):
            wanted = Reasoning(usual, exclude is not True)
        case str(effort):
            wanted = reasoning_of_effort(effort, "reasoning_effort", rules)
    return wanted, decisive == "extended_thinking", unused


def reasoning_of_effort(effort: str, param: str, rules: Rules) -> Reasoning | None:
    """The reasoning of a named effort, None for `none`. Raises InvalidRequest: there is no such name; `param` is named."""
    if effort == "none":
        return None
    if effort not in rules.efforts:
        expected = ", ".join(["none", *rules.efforts])
        raise InvalidRequest(f"`{param}` is {effort[:40]!r}; expected one of {expected}.", param=param)
    return Reasoning(rules.efforts[effort])


# ---------------------------------------------------------------- what has no effect


def _ignored(body: wire.ChatRequest, overruled: Sequence[str], uses_top_k: bool) -> tuple[str, ...]:
    """Paths, without indexes, of the fields that were sent, are not null, and have no effect; some of them where there are many."""
    names: dict[str, None] = {}
    pending: list[tuple[str, object]] = [("", body)]
    while pending and len(names) <= 4 * MAX_REPORTED:  # the fields that no model has
        prefix, value = pending.pop()
        if isinstance(value, list):
            for item in value:
                if isinstance(item, wire.RequestModel | list):
                    pending.append((prefix, item))
        elif isinstance(value, wire.RequestModel) and not isinstance(value, _OPAQUE):
            for name, extra in (value.model_extra or {}).items():
                if extra is not None:
                    names[f"{prefix}{name}"] = None
            for name, child in vars(value).items():
                if isinstance(child, wire.RequestModel | list):
                    pending.append((f"{prefix}{name}.", child))
    if uses_top_k:
        names.pop("top_k", None)
    free_text = body.response_format is None or body.response_format.type == "text"
    unused = {
        "stream_options": body.stream_options is not None and not body.stream,
        "stop": body.stop and not free_text,
        "functions": body.functions and body.tools,
        "function_call": body.function_call is not None and body.tool_choice is not None,
    }
    names.update(dict.fromkeys([*compress(unused, unused.values()), *overruled]))
    return reportable(names)

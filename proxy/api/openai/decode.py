"""A chat request → the neutral request, and what its reply must look like. Source: contract `heroku-chat.md`, section Request."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from proxy.api.http.json_text import canonical_digest
from proxy.api.openai import messages as wire
from proxy.api.openai.types import (
    AllowedTools,
    AllowedToolsChoice,
    AnthropicThinking,
    ChatRequest,
    CustomSpec,
    CustomTool,
    ExtendedThinking,
    FunctionSpec,
    HostedTool,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedCustom,
    NamedFunction,
    ReasoningOptions,
    ToolName,
)
from proxy.errors import InvalidRequest
from proxy.inference.jsontext import NotJson, dump_json, parse_json
from proxy.inference.request import (
    Block,
    JsonOutput,
    Media,
    Message,
    Reasoning,
    Request,
    Rules,
    Sampling,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

ReasoningObject = Literal["auto", "always", "never"]
INPUT: Final = "input"
"""The one argument of a custom tool."""
NO_TOOLS: Final = ToolChoice(names=frozenset())
_MAX_METADATA, _MAX_KEY, _MAX_VALUE = 16, 64, 512
_RESERVED_TAGS: Final = frozenset({"rid"})
_MIN_BUDGET: Final = 1024
_MAX_REPORTED: Final = 50
_REPORTABLE: Final = re.compile(r"\A[A-Za-z0-9_.-]{1,64}\Z")


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
    body: ChatRequest, rules: Rules, body_bytes: int, *, reasoning_object: ReasoningObject = "auto"
) -> tuple[Request, ChatReply]:
    """Decode a request.

    Args:
        body_bytes: size of the request body.
        reasoning_object: who gets Heroku's `reasoning` object; `auto` is callers of `extended_thinking`.

    Raises:
        InvalidRequest: something in the request cannot be expressed; `param` is its path. The router checks limits that hold for
            every API.
    """
    tools, dropped = _tools(body, rules)
    reasoning, by_heroku, overruled = _reasoning(body, rules)
    shown = reasoning is not None and reasoning.shown
    extras = body.model_extra or {}
    top_k = extras.get("top_k")
    usable_top_k = isinstance(top_k, int) and not isinstance(top_k, bool) and 1 <= top_k < 2**31
    lowered = body.temperature is not None and body.temperature > 1
    request = Request(
        model=body.model,
        messages=tuple(_messages(body.messages)),
        tools=tools,
        tool_choice=_tool_choice(body, {tool.name for tool in tools}),
        output=_output(body),
        reasoning=reasoning,
        sampling=Sampling(
            temperature=None if body.temperature is None else min(body.temperature, 1.0),
            top_p=body.top_p,
            top_k=top_k if usable_top_k else None,
            stop=_stop_strings(body.stop),
        ),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        choices=body.n or 1,
        user=body.user,
        tags=_tags(body),
        body_bytes=body_bytes,
        ignored=_ignored(body, overruled, extras.keys() - ({"top_k"} if usable_top_k else set())),
        adjusted=(*(("temperature: lowered to 1",) if lowered else ()), *dropped),
    )
    reply = ChatReply(
        model=body.model,
        stream=bool(body.stream),
        include_usage=bool(body.stream and body.stream_options and body.stream_options.include_usage),
        function_call=bool(body.functions) and not body.tools,
        reasoning_object=shown and (reasoning_object == "always" or (reasoning_object == "auto" and by_heroku)),
        custom_tools=frozenset(tool.custom.name for tool in body.tools or () if isinstance(tool, CustomTool)),
    )
    return request, reply


def body_digest(body: dict[str, Any]) -> str:
    """Equal for request bodies that ask for the same answer: without how it is sent, and without fields that are null."""
    asked = {
        name: value for name, value in body.items() if value is not None and name not in ("stream", "stream_options")
    }
    asked["messages"] = [
        {name: value for name, value in message.items() if value is not None} for message in body["messages"]
    ]
    return canonical_digest(asked)


def _stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in ([stop] if isinstance(stop, str) else stop or ()) if text))


def _tags(body: ChatRequest) -> tuple[str, ...]:
    """`user` and `metadata` as tags, so that an operator finds a user's jobs."""
    metadata = body.metadata or {}
    if len(metadata) > _MAX_METADATA:
        message = f"`metadata` holds {len(metadata)} entries; expected {_MAX_METADATA} at most."
        raise InvalidRequest(message, param="metadata")
    for key, value in metadata.items():
        param = f"metadata.{key[:_MAX_KEY]}"
        if len(key) > _MAX_KEY:
            raise InvalidRequest(f"A key of `metadata` is longer than {_MAX_KEY} characters.", param="metadata")
        if len(value) > _MAX_VALUE:
            raise InvalidRequest(f"`{param}` is longer than {_MAX_VALUE} characters.", param=param)
        if key.partition(":")[0].strip().lower() in _RESERVED_TAGS:
            raise InvalidRequest(f"`{param}`: the key is reserved for the proxy's own tags.", param=param)
    user = (f"user:{body.user}",) if body.user else ()
    return (*user, *(f"{key}:{value}" for key, value in metadata.items()))


# ---------------------------------------------------------------- messages


def _messages(messages: Sequence[wire.ChatMessage]) -> Iterator[Message]:
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        match message:
            case wire.AssistantMessage():
                yield Message("assistant", tuple(_assistant(message, path)), path)
            case wire.ToolMessage(content=[wire.ToolResultItem(), *_] as items):
                yield Message("user", tuple(_result_items(items, f"{path}.content")), path)
            case wire.ToolMessage():
                content = tuple(_result_content(message.content, f"{path}.content"))
                yield Message("user", (ToolResult(message.tool_call_id, content, name=message.name, path=path),), path)
            case wire.FunctionMessage():
                content = tuple(_result_content(message.content, f"{path}.content"))
                yield Message("user", (ToolResult(None, content, name=message.name, path=path),), path)
            case wire.SystemMessage() | wire.UserMessage():
                blocks = list(_content(message.content, f"{path}.content"))
                yield Message(message.role, tuple(_named(blocks, message.name)), path)
            case _:
                raise InvalidRequest(f"`{path}.role` is unknown.", param=f"{path}.role")


def _content(content: "wire.Content | None", path: str) -> Iterator[Block]:
    """The blocks of a message's content. Reasoning that clients send back is left out."""
    if content is None or isinstance(content, str):
        yield from (Text(content, path),) if content is not None else ()
        return
    for index, part in enumerate(content):
        where = f"{path}[{index}]"
        match part:
            case wire.TextPart():
                yield Text(part.text, where)
            case wire.RefusalPart():
                yield Text(part.refusal, where)
            case wire.ToolUsePart():
                yield ToolCall(part.id, part.name, part.input or {}, where)
            case wire.ToolResultPart():
                result = tuple(_result_content(part.content, f"{where}.content"))
                yield ToolResult(part.tool_use_id, result, bool(part.is_error), path=where)
            case wire.MediaPart():
                yield Media(part.type, where)
            case wire.ThinkingPart():
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


def _assistant(message: wire.AssistantMessage, path: str) -> Iterator[Block]:
    blocks = list(_content(message.content, f"{path}.content"))
    if message.refusal is not None:
        blocks.append(Text(message.refusal, f"{path}.refusal"))
    yield from _named(blocks, message.name)
    written = {(block.id, block.name) for block in blocks if isinstance(block, ToolCall)}
    for index, call in enumerate(message.tool_calls or ()):
        where = f"{path}.tool_calls[{index}]"
        match call:
            case wire.CustomCall():
                name, arguments = call.custom.name, {INPUT: call.custom.input or ""}
            case wire.FunctionCall():
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
        if isinstance(item, wire.ToolResultItem):
            content = tuple(_result_content(item.content, f"{where}.content"))
            yield ToolResult(item.tool_call_id, content, path=where)


def _result_content(content: "wire.ToolContent | None", path: str) -> Iterator[Text | Media]:
    if isinstance(content, dict):
        yield Text(dump_json(content), path)
        return
    parts: str | list[wire.Part] | None
    if isinstance(content, list):
        parts = [part for part in content if not isinstance(part, wire.ToolResultItem)]
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
    try:
        value = parse_json(arguments)
    except NotJson:
        return arguments
    return value if isinstance(value, dict) else arguments


# ---------------------------------------------------------------- tools


def _tools(body: ChatRequest, rules: Rules) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """The tools on offer, and what was left out."""
    tools: list[Tool] = []
    dropped: dict[str, None] = {}
    if not body.tools:
        tools = [_function(spec, f"functions[{index}]") for index, spec in enumerate(body.functions or ())]
    for index, tool in enumerate(body.tools or ()):
        match tool:
            case CustomTool():
                tools.append(_custom(tool.custom, f"tools[{index}].custom"))
            case HostedTool() if rules.drop_hosted_tools:
                kind = tool.type if _REPORTABLE.match(tool.type) else "a hosted tool"
                dropped[f"tools: {kind} cannot run here and was left out"] = None
            case HostedTool():
                param = f"tools[{index}].type"
                raise InvalidRequest(f"Invalid `{param}`: expected 'function' or 'custom'.", param=param)
            case _:
                tools.append(_function(tool.function, f"tools[{index}].function"))
    return tuple(tools), tuple(dropped)[:_MAX_REPORTED]


def _function(spec: FunctionSpec, path: str) -> Tool:
    return Tool(
        name=spec.name,
        description=(spec.description or "").strip(),
        parameters=spec.parameters,
        strict=bool(spec.strict),
        path=path,
        schema_path=f"{path}.parameters",
    )


def _custom(spec: CustomSpec, path: str) -> Tool:
    """A custom tool as one with a single string argument."""
    argument: dict[str, Any] = {"type": "string"}
    match spec.format:
        case {"type": "grammar", "grammar": {"definition": str(definition), **rest}}:
            syntax = rest.get("syntax") if rest.get("syntax") in ("lark", "regex") else "following"
            argument["description"] = f"The input; it must match this {syntax} grammar:\n{definition}"
    parameters = {"type": "object", "properties": {INPUT: argument}, "required": [INPUT], "additionalProperties": False}
    return Tool(
        name=spec.name,
        description=(spec.description or "").strip(),
        parameters=parameters,
        strict=True,
        path=path,
        schema_path=f"{path}.format",
    )


def _tool_choice(body: ChatRequest, offered: set[str]) -> ToolChoice:
    single = body.parallel_tool_calls is False or (bool(body.functions) and not body.tools)
    match body.tool_choice:
        case None:
            return _function_call_choice(body, offered, single)
        case "auto":
            return ToolChoice(single=single)
        case "none":
            return NO_TOOLS
        case "required" | "any" as mode:
            if not offered:
                raise InvalidRequest(f"`tool_choice` is {mode!r}, but there are no `tools`.", param="tool_choice")
            return ToolChoice(required=True, single=single)
        case NamedFunction(function=ToolName(name=name)):
            return _one_tool(name, offered, "tool_choice.function.name")
        case NamedCustom(custom=ToolName(name=name)):
            return _one_tool(name, offered, "tool_choice.custom.name")
        case AllowedToolsChoice(allowed_tools=allowed):
            return _allowed_tools(allowed, offered, single)


def _function_call_choice(body: ChatRequest, offered: set[str], single: bool) -> ToolChoice:
    match body.function_call:
        case "none":
            return NO_TOOLS
        case ToolName(name=name):
            return _one_tool(name, offered, "function_call.name")
        case _:
            return ToolChoice(single=single)


def _one_tool(name: str, offered: set[str], param: str) -> ToolChoice:
    _check_offered(name, offered, param)
    return ToolChoice(frozenset({name}), required=True, single=True)


def _allowed_tools(allowed: AllowedTools, offered: set[str], single: bool) -> ToolChoice:
    path = "tool_choice.allowed_tools.tools"
    names: set[str] = set()
    for index, tool in enumerate(allowed.tools):
        name = tool.function.name if isinstance(tool, NamedFunction) else tool.custom.name
        _check_offered(name, offered, f"{path}[{index}].{tool.type}.name")
        names.add(name)
    required = allowed.mode == "required"
    if required and not names:
        raise InvalidRequest(f"`{path}` is empty; expected at least one tool.", param=path)
    return ToolChoice(frozenset(names), required=required, single=single) if names else NO_TOOLS


def _check_offered(name: str, offered: set[str], param: str) -> None:
    if name not in offered:
        raise InvalidRequest(f"`{param}` is {name[:128]!r}, which is not among the tools offered.", param=param)


# ---------------------------------------------------------------- output and reasoning


def _output(body: ChatRequest) -> JsonOutput | None:
    match body.response_format:
        case JsonSchemaFormat(json_schema=spec):
            path = "response_format.json_schema.schema"
            if spec.schema_ is None:
                raise InvalidRequest(f"Invalid `{path}`: expected an object.", param=path, code="invalid_json_schema")
            return JsonOutput(spec.schema_, strict=bool(spec.strict), path=path)
        case JsonObjectFormat(schema_=None):
            return JsonOutput(strict=True, path="response_format")
        case JsonObjectFormat() as wanted:
            return JsonOutput(wanted.schema_, strict=bool(wanted.strict), path="response_format.schema")
        case _:
            return None


def _reasoning(body: ChatRequest, rules: Rules) -> tuple[Reasoning | None, bool, tuple[str, ...]]:
    """The reasoning wanted, whether it was asked for in Heroku's way, and the fields that have no effect.

    Of several ways to ask, the first one that is given decides: `extended_thinking`, `thinking`, `reasoning`, `reasoning_effort`.
    """
    given = {
        "extended_thinking": body.extended_thinking,
        "thinking": body.thinking,
        "reasoning": body.reasoning,
        "reasoning_effort": body.reasoning_effort,
    }
    asked = {
        field: value
        for field, value in given.items()
        if isinstance(value, bool | ExtendedThinking | AnthropicThinking | ReasoningOptions)
        or (field == "reasoning_effort" and isinstance(value, str))
    }
    usual = rules.efforts.get("medium", _MIN_BUDGET)
    decisive = next(iter(asked), "")
    unused = tuple(field for field, value in given.items() if value is not None and field != decisive)
    wanted: Reasoning | None = None
    match asked.get(decisive):
        case True | ExtendedThinking(enabled=True) as value:
            budget = value.budget_tokens if isinstance(value, ExtendedThinking) else None
            hidden = isinstance(value, ExtendedThinking) and value.include_reasoning is False
            wanted = Reasoning(budget or usual, shown=not hidden)
        case AnthropicThinking(type="enabled" | "adaptive", budget_tokens=budget):
            wanted = Reasoning(budget or usual)
        case ReasoningOptions() as options:
            wanted = _reasoning_of_options(options, usual, rules)
        case str(effort):
            wanted = _reasoning_of_effort(effort, "reasoning_effort", rules)
    return wanted, decisive == "extended_thinking", unused


def _reasoning_of_options(options: ReasoningOptions, usual: int, rules: Rules) -> Reasoning | None:
    shown = options.exclude is not True
    if options.enabled is False:
        return None
    if options.max_tokens is not None:
        return Reasoning(max(options.max_tokens, _MIN_BUDGET), shown)
    if options.effort is not None:
        wanted = _reasoning_of_effort(options.effort, "reasoning.effort", rules)
        return wanted and Reasoning(wanted.budget_tokens, shown)
    return Reasoning(usual, shown) if options.enabled else None


def _reasoning_of_effort(effort: str, param: str, rules: Rules) -> Reasoning | None:
    if effort == "none":
        return None
    if effort not in rules.efforts:
        expected = ", ".join(["none", *rules.efforts])
        raise InvalidRequest(f"`{param}` is {effort[:40]!r}; expected one of {expected}.", param=param)
    return Reasoning(rules.efforts[effort])


# ---------------------------------------------------------------- what has no effect


def _ignored(body: ChatRequest, overruled: Sequence[str], extras: "set[str]") -> tuple[str, ...]:
    """Paths, without indexes, of the fields that were sent, are not null, and have no effect."""
    unknown = body.model_extra or {}
    names = dict.fromkeys(name for name in unknown if name in extras and unknown[name] is not None)
    for path in _nested_extras(body):
        names[path] = None
        if len(names) > 4 * _MAX_REPORTED:
            break
    without_effect = {
        "stream_options": body.stream_options is not None and not body.stream,
        "stop": bool(body.stop) and body.response_format is not None and body.response_format.type != "text",
        "functions": bool(body.functions) and bool(body.tools),
        "function_call": body.function_call is not None and body.tool_choice is not None,
    }
    names |= dict.fromkeys(name for name, has_none in without_effect.items() if has_none)
    names |= dict.fromkeys(overruled)
    return tuple(name for name in names if _REPORTABLE.match(name))[:_MAX_REPORTED]


_OPAQUE = (wire.MediaPart, wire.ThinkingPart, HostedTool)
"""Whatever these hold, it is refused, replaced or left out as a whole."""


def _nested_extras(body: ChatRequest) -> Iterator[str]:
    pending: list[tuple[str, object]] = list(vars(body).items())
    while pending:
        path, value = pending.pop()
        if isinstance(value, list):
            pending += [(path, item) for item in value if isinstance(item, wire.RequestModel | list)]
        elif isinstance(value, wire.RequestModel) and not isinstance(value, _OPAQUE):
            yield from (f"{path}.{name}" for name, extra in (value.model_extra or {}).items() if extra is not None)
            pending += [
                (f"{path}.{name}", child)
                for name, child in vars(value).items()
                if isinstance(child, wire.RequestModel | list)
            ]

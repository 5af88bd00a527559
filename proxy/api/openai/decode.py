"""A chat request → the neutral request, and what its reply must look like. Source: contract `heroku-chat.md`, section Request."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from proxy.api.http.json_text import canonical_digest
from proxy.api.openai.messages import MediaPart, RequestModel, ThinkingPart, decode_messages
from proxy.api.openai.tools import CustomTool, HostedTool, decode_functions, decode_tool_choice, decode_tools
from proxy.api.openai.types import (
    AnthropicThinking,
    ChatRequest,
    ExtendedThinking,
    JsonObjectFormat,
    JsonSchemaFormat,
    ReasoningOptions,
)
from proxy.errors import InvalidRequest
from proxy.inference.request import JsonOutput, Reasoning, Request, Rules, Sampling

ReasoningObject = Literal["auto", "always", "never"]
_MAX_METADATA, _MAX_KEY, _MAX_VALUE = 16, 64, 512
_RESERVED_TAGS: Final = frozenset({"rid"})
_MIN_BUDGET: Final = 1024
_MAX_REPORTED: Final = 50
_REPORTABLE: Final = re.compile(r"\A[A-Za-z0-9_.-]{1,64}\Z")
_OPAQUE: Final = (MediaPart, ThinkingPart, HostedTool)
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
    tools, dropped = decode_tools(body.tools or (), drop_hosted=rules.drop_hosted_tools)
    legacy = bool(body.functions) and not body.tools
    if legacy:
        tools = decode_functions(body.functions or ())
    reasoning, by_heroku, overruled = _reasoning(body, rules)
    shown = reasoning is not None and reasoning.shown
    extras = body.model_extra or {}
    top_k = extras.get("top_k")
    usable_top_k = isinstance(top_k, int) and not isinstance(top_k, bool) and 1 <= top_k < 2**31
    lowered = body.temperature is not None and body.temperature > 1
    request = Request(
        model=body.model,
        messages=tuple(decode_messages(body.messages)),
        tools=tools,
        tool_choice=decode_tool_choice(
            body.tool_choice,
            body.function_call,
            {tool.name for tool in tools},
            single=body.parallel_tool_calls is False or legacy,
        ),
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
        function_call=legacy,
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


def _nested_extras(body: ChatRequest) -> Iterator[str]:
    pending: list[tuple[str, object]] = list(vars(body).items())
    while pending:
        path, value = pending.pop()
        if isinstance(value, list):
            pending += [(path, item) for item in value if isinstance(item, RequestModel | list)]
        elif isinstance(value, RequestModel) and not isinstance(value, _OPAQUE):
            yield from (f"{path}.{name}" for name, extra in (value.model_extra or {}).items() if extra is not None)
            pending += [
                (f"{path}.{name}", child)
                for name, child in vars(value).items()
                if isinstance(child, RequestModel | list)
            ]

"""A neutral request → the body of `POST /v1/messages`, and what is needed to read its answer. Pure.

Tools, thinking, stop sequences and structured output are native there. Sources: Anthropic's Messages API; contract `heroku-chat.md`,
section Request (the meaning of fields).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from proxy.errors import InvalidRequest
from proxy.inference.history import repair, upstream_names
from proxy.inference.request import Native, Request, Rules, Text, ToolCall, ToolResult
from proxy.schemas import Budget, CompiledSchema, compile_schema

_JSON_ONLY: Final = "Answer with one JSON object and nothing else: no prose around it, no code fences."
_LEAST_TOP_P_WITH_THINKING: Final = 0.95


@dataclass(frozen=True, slots=True)
class MessagesCall:
    """One call.

    Attributes:
        body: of `POST /v1/messages`, without `stream`.
        names: a tool's name there → the client's.
        single: at most one call of a tool is delivered.
        reasoning_shown: the thinking is delivered.
        parameters: the client's name of a tool → its compiled parameters, where names of properties differ there.
        answer: the schema of structured output; None for text.
        encoded: the answer must be decoded by `answer` when it is complete: parts of it are JSON text, or names of properties differ.
        ignored: request fields that have no effect.
        adjusted: what was changed, as sentences for the client.
        native: the client wrote the body itself, and gets the events as they come.
        headers: those that the client sent with it.
    """

    body: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    single: bool = False
    reasoning_shown: bool = False
    parameters: Mapping[str, CompiledSchema] = field(default_factory=dict)
    answer: CompiledSchema | None = None
    encoded: bool = False
    ignored: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    native: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


def prepare(request: Request, rules: Rules, *, default_max_tokens: int) -> MessagesCall:
    """Translate a request whose `model` is Anthropic's name for it. Raises InvalidRequest: something in it cannot be expressed."""
    if request.native is not None and request.native.wire == "anthropic":
        return _native(request, request.native)
    if request.refusal is not None:
        raise request.refusal
    if request.choices > 1:
        raise InvalidRequest(f"`n` is {request.choices}; this model gives one choice for each request.", param="n")
    if "top_k" in request.ignored:  # it has an effect here, which is why one that cannot be used is not passed over
        raise InvalidRequest("Invalid `top_k`: expected a whole number from 1.", param="top_k")
    compiled = partial(compile_schema, limits=rules.schema_limits, budget=Budget())
    names = upstream_names(request.tools, request.messages)
    body: dict[str, Any] = {"model": request.model, "max_tokens": request.max_tokens or default_max_tokens}
    parameters = _add_tools(body, request, names, compiled) if request.tools else {}
    conversation = repair(request.messages, names, rules, tool_blocks=bool(request.tools))
    body["messages"] = [
        {"role": turn.role, "content": [_block(block) for block in turn.content]} for turn in conversation.turns
    ]
    answer, encoded = _add_format(body, request, compiled)
    instruction = "" if answer is None or "output_config" in body else _JSON_ONLY
    if system := "\n\n".join(text for text in (conversation.system, instruction) if text):
        body["system"] = system
    adjusted = [*request.adjusted, *conversation.repairs]
    thinks = _add_thinking(body, request, adjusted)
    body |= _sampling(request, adjusted, thinks=thinks)
    if stop := [text for text in request.sampling.stop if text.strip()]:
        body["stop_sequences"] = stop
    if request.user:
        body["metadata"] = {"user_id": request.user[:256]}
    no_effect = ("metadata",) if any(tag != f"user:{request.user}" for tag in request.tags) else ()
    return MessagesCall(
        body=body,
        names={upstream: name for name, upstream in names.items()},
        single=request.tool_choice.single,
        reasoning_shown=thinks and request.reasoning is not None and request.reasoning.shown,
        parameters=parameters,
        answer=answer,
        encoded=encoded,
        ignored=(*request.ignored, *no_effect),
        adjusted=tuple(dict.fromkeys(adjusted)),
    )


def _native(request: Request, native: Native) -> MessagesCall:
    """The body as its client wrote it, with the endpoint's model, and its defaults where the client names nothing."""
    body, sampling = {**native.body, "model": request.model}, request.sampling
    if (body.get("thinking") or {"type": "disabled"}).get("type") == "disabled":
        defaults = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        body |= {name: value for name, value in defaults.items() if value is not None and body.get(name) is None}
    return MessagesCall(body=body, native=True, headers=native.headers)


def _add_tools(
    body: dict[str, Any], request: Request, names: Mapping[str, str], compiled: Callable[..., CompiledSchema]
) -> dict[str, CompiledSchema]:
    """Tools with their own schemas, or with the compiled ones where names of properties are refused upstream; these are returned."""
    wanted = request.tool_choice
    offered = [tool.name for tool in request.tools if wanted.names is None or tool.name in wanted.names]
    renamed: dict[str, CompiledSchema] = {}
    body["tools"] = []
    for tool in request.tools:
        schema = compiled(tool.parameters, param=tool.schema_path, parameters=True, dialect="full")
        parameters = tool.parameters if isinstance(tool.parameters, dict) else {}
        if schema.aliases:
            renamed[tool.name], parameters = schema, schema.schema
        if not offered or wanted.names is None or tool.name in wanted.names:
            written = {"name": names[tool.name], "input_schema": {**parameters, "type": "object"}}
            described = {"description": tool.description.strip()} if tool.description.strip() else {}
            body["tools"].append({**written, **described})
    choice: dict[str, Any] = {"type": "any" if wanted.required else "auto"}
    if not offered:
        choice = {"type": "none"}
    elif wanted.required and wanted.single and len(offered) == 1:
        choice = {"type": "tool", "name": names[offered[0]]}
    if offered and wanted.single:
        choice["disable_parallel_tool_use"] = True
    body["tool_choice"] = choice
    return renamed


def _block(block: Text | ToolCall | ToolResult) -> dict[str, Any]:
    match block:
        case ToolCall():
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": block.arguments}
        case ToolResult():
            content = [_block(text) for text in block.content if isinstance(text, Text)]
            result = {"type": "tool_result", "tool_use_id": block.call_id, "content": content}
            return {**result, "is_error": True} if block.is_error else result
        case Text():
            return {"type": "text", "text": block.text}


def _add_format(
    body: dict[str, Any], request: Request, compiled: Callable[..., CompiledSchema]
) -> tuple[CompiledSchema | None, bool]:
    """The schema of the answer, which is in the body where the model takes it, and whether the answer must be decoded by it."""
    output = request.output
    if output is None:
        return None, False
    schema = {"type": "object"} if output.schema is None else output.schema
    answer = compiled(schema, param=output.path, dialect="anthropic")
    if answer.is_object and answer.schema["type"] == "string":
        # Any JSON object: closed, as that dialect has it, it could only be empty.
        return compiled(schema, param=output.path, dialect="full"), False
    body["output_config"] = {"format": {"type": "json_schema", "schema": answer.schema}}
    return answer, bool(answer.aliases or answer.json_texts)


def _add_thinking(body: dict[str, Any], request: Request, adjusted: list[str]) -> bool:
    """Whether the model thinks. Where its rules forbid it for this turn, it does not, and that is reported."""
    if request.reasoning is None:
        return False
    if body.get("tool_choice", {}).get("type") in ("any", "tool"):
        adjusted.append("thinking: off, since a tool call is required")
        return False
    if body["messages"][-1]["content"][0]["type"] == "tool_result":
        # The model wants its signed thoughts back in front of the calls; the neutral history does not carry them.
        adjusted.append("thinking: off, in the midst of tool calls")
        return False
    budget = request.reasoning.budget_tokens
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    body["max_tokens"] += budget
    return True


def _sampling(request: Request, adjusted: list[str], *, thinks: bool) -> dict[str, float]:
    temperature, top_p, top_k = request.sampling.temperature, request.sampling.top_p, request.sampling.top_k
    if thinks:
        if temperature not in (None, 1.0):
            adjusted.append("temperature: 1, since the model thinks")
        if top_k is not None:
            adjusted.append("top_k: left out, since the model thinks")
        temperature, top_k = None, None
        if top_p is not None and top_p < _LEAST_TOP_P_WITH_THINKING:
            adjusted.append(f"top_p: raised to {_LEAST_TOP_P_WITH_THINKING}, since the model thinks")
            top_p = _LEAST_TOP_P_WITH_THINKING
    if temperature is not None and top_p is not None:
        if top_p < 1.0:
            adjusted.append("top_p: left out, since the model takes either temperature or top_p")
        top_p = None
    given = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    return {name: value for name, value in given.items() if value is not None}

"""A chat request → a call of the Messages API, and what its answer needs to be read. No I/O.

Tools, thinking, stop sequences and structured output are native there: nothing is wrapped in an envelope. Source: Anthropic's Messages API.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.backends.narrative import types as blocks
from proxy.catalog import ModelCard
from proxy.errors import InvalidRequest
from proxy.schemas import Budget, CompiledSchema, compile_parameters, compile_schema
from proxy.translate.messages import called_names, translate_messages
from proxy.translate.names import upstream_names
from proxy.translate.offer import menu_of
from proxy.translate.plan import PlanRules, Thinking, ignored_fields, stop_strings, thinking_of
from proxy.wire import openai as chat

_JSON_ONLY = "Answer with one JSON object and nothing else: no prose around it, no code fences."
_LEAST_TOP_P_WITH_THINKING = 0.95


@dataclass(frozen=True, slots=True)
class MessagesCall:
    """One call.

    Attributes:
        body: of `POST /v1/messages`, without `stream` and `sampling`.
        sampling: temperature, top_p and top_k, as far as given: apart, since not every version of the SDK names them.
        names: a tool's name there → the client's.
        parameters: the client's name of a tool → its compiled parameters, where their property names differ there.
        output: the structured output, where its text must be turned back into what the client's schema means.
        show_reasoning: the thinking is wanted; `reasoning_object` adds Heroku's shape of it.
        function_call: answer in the shape of the retired `functions` field.
        ignored: request fields that have no effect.
        adjusted: what was changed, in words.
    """

    body: Mapping[str, Any]
    sampling: Mapping[str, float]
    names: Mapping[str, str]
    parameters: Mapping[str, CompiledSchema] = field(default_factory=dict)
    output: CompiledSchema | None = None
    show_reasoning: bool = False
    reasoning_object: bool = False
    function_call: bool = False
    include_usage: bool = False
    ignored: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()


@dataclass(slots=True)
class _Draft:
    """A body under construction, and the words for what was changed."""

    body: dict[str, Any]
    adjusted: list[str] = field(default_factory=list)
    parameters: dict[str, CompiledSchema] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)


def make_call(request: chat.ChatRequest, rules: PlanRules, *, default_max_tokens: int) -> MessagesCall:
    """Translate a request whose `model` is Anthropic's name for it.

    Raises:
        InvalidRequest: something in it cannot be had; `param` is its path.
    """
    if (request.n or 1) > 1:
        raise InvalidRequest(f"`n` is {request.n}; this model gives one choice a request.", param="n")
    card = ModelCard(id=request.model, names=(request.model,), max_tokens=default_max_tokens, schema_keywords="full")
    names = upstream_names([*_offered_names(request), *called_names(request.messages)])
    draft = _Draft({"model": request.model})
    _add_tools(draft, request, names, card, rules)
    history = replace(rules.history, tool_blocks="tools" in draft.body)
    conversation = translate_messages(request.messages, names, history)
    draft.adjusted += conversation.repairs
    draft.body["messages"] = [_turn(turn) for turn in conversation.turns]
    system = [conversation.system] if conversation.system else []
    output = _add_format(draft, system, request, rules)
    if system:
        draft.body["system"] = "\n\n".join(system)
    limit = request.max_completion_tokens or request.max_tokens or default_max_tokens
    thinking = thinking_of(request, rules)
    thinks = _add_thinking(draft, thinking, limit)
    sampling = _sampling(draft, request, thinks=thinks)
    if stop := [text for text in stop_strings(request.stop) if text.strip()]:
        draft.body["stop_sequences"] = stop
    if request.user:
        draft.body["metadata"] = {"user_id": request.user[:256]}
    return MessagesCall(
        body=draft.body,
        sampling=sampling,
        names={upstream: name for name, upstream in names.items()},
        parameters=draft.parameters,
        output=output,
        show_reasoning=thinks and thinking.shown,
        reasoning_object=thinking.shown
        and (rules.reasoning_object == "always" or (rules.reasoning_object == "auto" and thinking.heroku)),
        function_call=bool(request.functions) and not request.tools,
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        ignored=_ignored(request),
        adjusted=tuple(dict.fromkeys(draft.adjusted)),
    )


def _specs(request: chat.ChatRequest) -> list[chat.FunctionSpec]:
    return [tool.function for tool in request.tools] if request.tools else list(request.functions or ())


def _offered_names(request: chat.ChatRequest) -> list[str]:
    return [spec.name for spec in _specs(request)]


def _add_tools(
    draft: _Draft, request: chat.ChatRequest, names: Mapping[str, str], card: ModelCard, rules: PlanRules
) -> None:
    """Tools with their own schemas, or with the compiled ones where property names are refused upstream."""
    body = draft.body
    menu = menu_of(request, names, card, limits=rules.schema_limits, max_tools=rules.max_tools, budget=draft.budget)
    specs = _specs(request)
    if not specs:
        return
    if menu is None:
        for spec in specs:
            compiled = compile_parameters(
                spec.parameters, param="tools", dialect="full", limits=rules.schema_limits, budget=draft.budget
            )
            draft.parameters.update({spec.name: compiled} if compiled.aliases else {})
        body["tools"], body["tool_choice"] = [_tool(spec, names, draft) for spec in specs], {"type": "none"}
        return
    draft.parameters.update({tool.name: tool.parameters for tool in menu.tools if tool.parameters.aliases})
    offered = {tool.name for tool in menu.tools}
    body["tools"] = [_tool(spec, names, draft) for spec in specs if spec.name in offered]
    if not menu.required:
        choice: dict[str, Any] = {"type": "auto"}
    elif menu.single and len(menu.tools) == 1:
        choice = {"type": "tool", "name": menu.tools[0].upstream_name}
    else:
        choice = {"type": "any"}
    if menu.single:
        choice["disable_parallel_tool_use"] = True
    body["tool_choice"] = choice


def _tool(spec: chat.FunctionSpec, names: Mapping[str, str], draft: _Draft) -> dict[str, Any]:
    parameters = spec.parameters if isinstance(spec.parameters, dict) else {}
    if spec.name in draft.parameters:
        parameters = draft.parameters[spec.name].schema
    tool: dict[str, Any] = {"name": names[spec.name], "input_schema": {**parameters, "type": "object"}}
    if spec.description and spec.description.strip():
        tool["description"] = spec.description.strip()
    return tool


def _add_format(draft: _Draft, system: list[str], request: chat.ChatRequest, rules: PlanRules) -> CompiledSchema | None:
    """The structured output, where its text must be turned back."""
    match request.response_format:
        case chat.JsonSchemaFormat(json_schema=spec):
            param = "response_format.json_schema.schema"
            compiled = compile_schema(
                spec.schema_, param=param, dialect="anthropic", limits=rules.schema_limits, budget=draft.budget
            )
            draft.body["output_config"] = {"format": {"type": "json_schema", "schema": compiled.schema}}
            return compiled if compiled.aliases or compiled.json_texts else None
        case chat.TextFormat(type="json_object"):
            system.append(_JSON_ONLY)
            return None
        case _:
            return None


def _add_thinking(draft: _Draft, thinking: Thinking, limit: int) -> bool:
    """Whether the model thinks. Where its rules forbid it for this turn, it does not, and that is told."""
    body = draft.body
    body["max_tokens"] = limit
    if thinking.budget is None:
        return False
    if body.get("tool_choice", {}).get("type") in ("any", "tool"):
        draft.adjusted.append("thinking: off, since a tool call is required")
        return False
    if body["messages"][-1]["content"][0]["type"] == "tool_result":
        # The model wants its signed thoughts back in front of the calls; this protocol does not carry them.
        draft.adjusted.append("thinking: off, in the midst of tool calls")
        return False
    body["thinking"] = {"type": "enabled", "budget_tokens": thinking.budget}
    body["max_tokens"] = limit + thinking.budget
    return True


def _sampling(draft: _Draft, request: chat.ChatRequest, *, thinks: bool) -> dict[str, float]:
    temperature, top_p, top_k = request.temperature, request.top_p, _top_k(request)
    if temperature is not None and temperature > 1:
        draft.adjusted.append("temperature: lowered to 1")
        temperature = 1.0
    if thinks:
        if temperature not in (None, 1.0):
            draft.adjusted.append("temperature: 1, since the model thinks")
        if top_k is not None:
            draft.adjusted.append("top_k: left out, since the model thinks")
        temperature, top_k = None, None
        if top_p is not None and top_p < _LEAST_TOP_P_WITH_THINKING:
            draft.adjusted.append(f"top_p: raised to {_LEAST_TOP_P_WITH_THINKING}, since the model thinks")
            top_p = _LEAST_TOP_P_WITH_THINKING
    if top_p == 1.0 and temperature is not None:
        top_p = None  # says nothing, and some models take one of the two only
    given = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    return {name: value for name, value in given.items() if value is not None}


def _top_k(request: chat.ChatRequest) -> int | None:
    """`top_k` is no field of OpenAI's; clients send it as an extra one, and named endpoints have it as a default."""
    value = (request.model_extra or {}).get("top_k")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequest("Invalid `top_k`: expected a whole number from 0.", param="top_k")
    return value


def _ignored(request: chat.ChatRequest) -> tuple[str, ...]:
    names = [name for name in ignored_fields(request) if name != "top_k"]
    return (*names, "metadata") if request.metadata else tuple(names)


def _turn(turn: blocks.Message) -> dict[str, Any]:
    return {"role": turn.role, "content": [_block(block) for block in turn.content]}


def _block(block: blocks.Block) -> dict[str, Any]:
    match block:
        case blocks.TextBlock():
            return {"type": "text", "text": block.text}
        case blocks.ToolUseBlock():
            return {"type": "tool_use", "id": block.tool_use_id, "name": block.name, "input": block.input}
        case blocks.ToolResultBlock():
            content = [{"type": "text", "text": text.text} for text in block.content]
            result = {"type": "tool_result", "tool_use_id": block.tool_use_id, "content": content}
            return {**result, "is_error": True} if block.is_error else result
    raise AssertionError(block)

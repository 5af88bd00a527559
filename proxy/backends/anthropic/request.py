"""A neutral request → the body of `POST /v1/messages`, and what is needed to read its answer. Pure.

Tools, thinking, stop sequences and structured output are native there. Sources: Anthropic's Messages API; contract `heroku-chat.md`,
section Request (the meaning of fields).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.errors import InvalidRequest
from proxy.inference.history import Turn, called_names, repair, upstream_names
from proxy.inference.request import Request, Rules, Text, Tool, ToolCall, ToolResult
from proxy.schemas import Budget, CompiledSchema, Dialect, compile_parameters, compile_schema

_JSON_ONLY: Final = "Answer with one JSON object and nothing else: no prose around it, no code fences."
_LEAST_TOP_P_WITH_THINKING: Final = 0.95
_MAX_USER: Final = 256


@dataclass(frozen=True, slots=True)
class MessagesCall:
    """One call.

    Attributes:
        body: of `POST /v1/messages`, without `stream` and `sampling`.
        sampling: temperature, top_p and top_k, as far as given: apart, since not every version of the SDK names them.
        names: a tool's name there → the client's.
        single: at most one call of a tool is delivered.
        reasoning_shown: the thinking is delivered.
        parameters: the client's name of a tool → its compiled parameters, where names of properties differ there.
        answer: the schema of structured output; None for text.
        encoded: the answer must be decoded by `answer` when it is complete: parts of it are JSON text, or names of properties differ.
        ignored: request fields that have no effect.
        adjusted: what was changed, as sentences for the client.
    """

    body: Mapping[str, Any]
    sampling: Mapping[str, float]
    names: Mapping[str, str]
    single: bool = False
    reasoning_shown: bool = False
    parameters: Mapping[str, CompiledSchema] = field(default_factory=dict)
    answer: CompiledSchema | None = None
    encoded: bool = False
    ignored: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()


@dataclass(slots=True)
class _Draft:
    """A body under construction, and what was changed on the way."""

    body: dict[str, Any]
    adjusted: list[str] = field(default_factory=list)


def prepare(request: Request, rules: Rules, *, default_max_tokens: int) -> MessagesCall:
    """Translate a request whose `model` is Anthropic's name for it.

    Raises:
        InvalidRequest: something in it cannot be expressed; `param` is its path.
    """
    if request.choices > 1:
        raise InvalidRequest(f"`n` is {request.choices}; this model gives one choice for each request.", param="n")
    if "top_k" in request.ignored:  # it has an effect here, which is why one that cannot be used is not passed over
        raise InvalidRequest("Invalid `top_k`: expected a whole number from 1.", param="top_k")
    budget = Budget()
    names = upstream_names([*(tool.name for tool in request.tools), *called_names(request.messages)])
    draft = _Draft({"model": request.model}, list(request.adjusted))
    parameters = _add_tools(draft.body, request, names, rules, budget)
    conversation = repair(request.messages, names, rules, tool_blocks="tools" in draft.body)
    draft.adjusted += conversation.repairs
    draft.body["messages"] = [_turn(turn) for turn in conversation.turns]
    answer, encoded, instruction = _add_format(draft.body, request, rules, budget)
    if system := "\n\n".join(text for text in (conversation.system, instruction) if text):
        draft.body["system"] = system
    thinks = _add_limits(draft, request, request.max_tokens or default_max_tokens)
    sampling = _sampling(draft, request, thinks=thinks)
    if stop := [text for text in request.sampling.stop if text.strip()]:
        draft.body["stop_sequences"] = stop
    if request.user:
        draft.body["metadata"] = {"user_id": request.user[:_MAX_USER]}
    no_effect = ("metadata",) if any(tag != f"user:{request.user}" for tag in request.tags) else ()
    return MessagesCall(
        body=draft.body,
        sampling=sampling,
        names={upstream: name for name, upstream in names.items()},
        single=request.tool_choice.single,
        reasoning_shown=thinks and request.reasoning is not None and request.reasoning.shown,
        parameters=parameters,
        answer=answer,
        encoded=encoded,
        ignored=(*request.ignored, *no_effect),
        adjusted=tuple(dict.fromkeys(draft.adjusted)),
    )


# ---------------------------------------------------------------- tools and turns


def _add_tools(
    body: dict[str, Any], request: Request, names: Mapping[str, str], rules: Rules, budget: Budget
) -> dict[str, CompiledSchema]:
    """Tools with their own schemas, or with the compiled ones where names of properties are refused upstream; these are returned."""
    wanted = request.tool_choice
    renamed: dict[str, CompiledSchema] = {}
    if not request.tools:
        return renamed
    for tool in request.tools:
        compiled = compile_parameters(
            tool.parameters, param=tool.schema_path, dialect="full", limits=rules.schema_limits, budget=budget
        )
        if compiled.aliases:
            renamed[tool.name] = compiled
    offered = [tool for tool in request.tools if wanted.names is None or tool.name in wanted.names]
    body["tools"] = [_tool(tool, names[tool.name], renamed) for tool in offered or request.tools]
    if not offered:
        choice: dict[str, Any] = {"type": "none"}
    elif not wanted.required:
        choice = {"type": "auto"}
    elif wanted.single and len(offered) == 1:
        choice = {"type": "tool", "name": names[offered[0].name]}
    else:
        choice = {"type": "any"}
    if offered and wanted.single:
        choice["disable_parallel_tool_use"] = True
    body["tool_choice"] = choice
    return renamed


def _tool(tool: Tool, name: str, renamed: Mapping[str, CompiledSchema]) -> dict[str, Any]:
    parameters = tool.parameters if isinstance(tool.parameters, dict) else {}
    if tool.name in renamed:
        parameters = renamed[tool.name].schema
    described = {"description": tool.description.strip()} if tool.description.strip() else {}
    return {"name": name, "input_schema": {**parameters, "type": "object"}, **described}


def _turn(turn: Turn) -> dict[str, Any]:
    return {"role": turn.role, "content": [_block(block) for block in turn.content]}


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


# ---------------------------------------------------------------- structured output


def _add_format(
    body: dict[str, Any], request: Request, rules: Rules, budget: Budget
) -> tuple[CompiledSchema | None, bool, str]:
    """The schema of the answer, whether parts of the answer are JSON text, and an instruction for the model."""
    output = request.output
    if output is None:
        return None, False, ""
    schema = {"type": "object"} if output.schema is None else output.schema

    def compiled_to(dialect: Dialect) -> CompiledSchema:
        return compile_schema(schema, param=output.path, dialect=dialect, limits=rules.schema_limits, budget=budget)

    compiled = compiled_to("anthropic")
    if compiled.is_object and compiled.schema["type"] == "string":
        # Any JSON object: closed, as that dialect has it, it could only be empty.
        return compiled_to("full"), False, _JSON_ONLY
    body["output_config"] = {"format": {"type": "json_schema", "schema": compiled.schema}}
    return compiled, bool(compiled.aliases or compiled.json_texts), ""


# ---------------------------------------------------------------- numbers


def _add_limits(draft: _Draft, request: Request, reply: int) -> bool:
    """Whether the model thinks. Where its rules forbid it for this turn, it does not, and that is reported."""
    body = draft.body
    body["max_tokens"] = reply
    if request.reasoning is None:
        return False
    if body.get("tool_choice", {}).get("type") in ("any", "tool"):
        draft.adjusted.append("thinking: off, since a tool call is required")
        return False
    if body["messages"][-1]["content"][0]["type"] == "tool_result":
        # The model wants its signed thoughts back in front of the calls; the neutral history does not carry them.
        draft.adjusted.append("thinking: off, in the midst of tool calls")
        return False
    budget = request.reasoning.budget_tokens
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    body["max_tokens"] = reply + budget
    return True


def _sampling(draft: _Draft, request: Request, *, thinks: bool) -> dict[str, float]:
    temperature, top_p, top_k = request.sampling.temperature, request.sampling.top_p, request.sampling.top_k
    if thinks:
        if temperature not in (None, 1.0):
            draft.adjusted.append("temperature: 1, since the model thinks")
        if top_k is not None:
            draft.adjusted.append("top_k: left out, since the model thinks")
        temperature, top_k = None, None
        if top_p is not None and top_p < _LEAST_TOP_P_WITH_THINKING:
            draft.adjusted.append(f"top_p: raised to {_LEAST_TOP_P_WITH_THINKING}, since the model thinks")
            top_p = _LEAST_TOP_P_WITH_THINKING
    if temperature is not None and top_p is not None:
        if top_p < 1.0:
            draft.adjusted.append("top_p: left out, since the model takes either temperature or top_p")
        top_p = None
    given = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    return {name: value for name, value in given.items() if value is not None}

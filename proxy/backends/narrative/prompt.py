"""A neutral request → the body of `POST /model-inference/run`, and what is needed to read the answer. Pure.

Source: contracts `narrative.md` (the body) and `heroku-chat.md`, section Request (the meaning of fields).
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from proxy.backends.narrative import types as wire
from proxy.backends.narrative.fallbacks import ANSWER, PLAIN, Form, Part, describe
from proxy.backends.narrative.output import OutputFormat, StructuredOutput
from proxy.backends.narrative.tools import OfferedTool, Toolset
from proxy.catalog import ModelCard
from proxy.inference.history import Turn, called_names, repair, upstream_names
from proxy.inference.jsontext import dump_json
from proxy.inference.request import JsonOutput, Request, Rules, Sampling, Text, Tool, ToolCall, ToolResult
from proxy.schemas import Budget, CompiledSchema, SchemaLimits, compile_parameters, compile_schema, without_bounds

_MAX_ECHO = 20_000
"""Characters of a wrong output that are repeated to the model."""
_MAX_ERRORS = 5
_MIN_THINKING = 1_024
_MAX_DEPTH = 200


@dataclass(frozen=True, slots=True)
class Prepared:
    """What to run for a request, in one form, and how to read the answer.

    Attributes:
        model: Narrative's id.
        expected: the output schema and its reader.
        parts: the clients' schemas in the output schema.
        ignored: request fields without effect.
        adjusted: what was changed, as sentences for the client.
    """

    model: str
    messages: tuple[wire.Message, ...]
    config: wire.InferenceConfig
    expected: OutputFormat
    form: Form
    parts: tuple[Part, ...] = ()
    tags: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()

    def body(self, data_plane_id: str, *tags: str) -> wire.RunRequest:
        """The body of one submission.

        Args:
            data_plane_id: where to run.
            tags: of this submission, before those of the request.
        """
        return wire.RunRequest(
            data_plane_id=data_plane_id,
            model=self.model,
            messages=self.messages,
            inference_config=self.config,
            tags=(*tags, *self.tags),
        )

    def repair(self, output: object, errors: Sequence[str]) -> "Prepared":
        """The same conversation plus the model's output and what is wrong with it, for one more try."""
        wrong = "\n".join(f"- {error}" for error in errors[:_MAX_ERRORS])
        complaint = f"That output cannot be used:\n{wrong}\nGive the whole output again, corrected. Do not mention this correction."
        turns = (
            wire.Message(role="assistant", content=(wire.TextBlock(text=dump_json(output)[:_MAX_ECHO]),)),
            wire.Message(role="user", content=(wire.TextBlock(text=complaint),)),
        )
        return replace(self, messages=(*self.messages, *turns))


def tool_names(request: Request) -> Mapping[str, str]:
    """Each tool name of a request, past calls included → its safe and unique name upstream."""
    return upstream_names([*(tool.name for tool in request.tools), *called_names(request.messages)])


def prepare(
    request: Request, card: ModelCard, rules: Rules, form: Form = PLAIN, budget: Budget | None = None
) -> Prepared:
    """Prepare a request for a model; all schemas in simple form where the output schema would be larger than the card allows.

    Args:
        form: how to write it, beside what the card says.
        budget: the work that the request may cause.

    Raises:
        InvalidRequest: something in the request cannot be expressed; `param` is its path.
    """
    budget = budget or Budget()
    prepared = _prepare(request, card, rules, form, budget)
    names = frozenset(part.name for part in prepared.parts)
    if form.simple >= names or len(dump_json(prepared.config.output_format_schema)) <= card.max_schema_bytes:
        return prepared
    return _prepare(request, card, rules, replace(form, simple=names), budget)


def _prepare(request: Request, card: ModelCard, rules: Rules, form: Form, budget: Budget) -> Prepared:
    names = tool_names(request)
    compiler = _Compiler(card, form, rules.schema_limits, budget)
    tools = compiler.toolset(request, names)
    answer = compiler.structured_output(request.output) if request.output else None
    text_history = form.text_history or card.tool_history == "text"
    conversation = repair(request.messages, names, rules, tool_blocks=not text_history)
    limits = _token_limits(request, card, rules)
    sampling, left_out = _sampling(request.sampling, card)
    expected = OutputFormat(
        answer=answer,
        tools=tools,
        reasoning_budget=limits.thinking,
        reasoning_shown=request.reasoning is not None and request.reasoning.shown,
        stop=sampling.stop,
        max_words=limits.reply if answer is None and tools is None else None,
    )
    parts = tuple(compiler.parts)
    return Prepared(
        model=card.id,
        messages=(*_system(conversation.system, expected.instructions()), *map(compiler.message, conversation.turns)),
        config=wire.InferenceConfig(
            output_format_schema=expected.schema(),
            max_tokens=limits.total,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            stop_sequences=sampling.stop if sampling.stop and card.forward_stop else None,
        ),
        expected=expected,
        form=form,
        parts=parts,
        tags=request.tags,
        ignored=(*request.ignored, *(("top_k",) if sampling.top_k is not None else ())),
        adjusted=(*request.adjusted, *left_out, *limits.lowered, *conversation.repairs, *describe(form, card, parts)),
    )


def _system(*texts: str) -> tuple[wire.Message, ...]:
    blocks = tuple(wire.TextBlock(text=text) for text in texts if text)
    return (wire.Message(role="system", content=blocks),) if blocks else ()


# ---------------------------------------------------------------- schemas and turns


class _Compiler:
    """Compiles the schemas of one request as its model accepts them, and writes turns with them."""

    def __init__(self, card: ModelCard, form: Form, limits: SchemaLimits, budget: Budget) -> None:
        self.parts: list[Part] = []
        self._card = card
        self._form = form
        self._limits = limits
        self._budget = budget
        self._aliases: dict[str, Mapping[str, str]] = {}

    def toolset(self, request: Request, names: Mapping[str, str]) -> Toolset | None:
        """The tools that may be called, None when there are none."""
        choice = request.tool_choice
        tools = [
            self._offered(tool, names[tool.name])
            for tool in request.tools
            if choice.names is None or tool.name in choice.names
        ]
        if not tools:
            return None
        card = self._card
        return Toolset(tuple(tools), choice.required, choice.single, card.tool_encoding, counted=card.schema_bounds)

    def structured_output(self, wanted: JsonOutput) -> StructuredOutput:
        """The structured output asked for."""
        simple = self._is_simple(ANSWER)
        if wanted.schema is None:
            anything = {"type": "object", "description": "The answer: a JSON object."}
            compiled = self._compile(anything, wanted.path)
        else:
            compiled = self._compile(wanted.schema, wanted.path)
        self.parts.append(Part(ANSWER, wanted.schema, compiled.schema))
        return StructuredOutput(compiled, strict=wanted.strict or wanted.schema is None, simple=simple)

    def message(self, turn: Turn) -> wire.Message:
        """A turn in Narrative's blocks. The schemas must have been compiled."""
        return wire.Message(role=turn.role, content=tuple(map(self._block, turn.content)))

    def _block(self, block: Text | ToolCall | ToolResult) -> wire.Block:
        match block:
            case ToolCall():
                aliases = self._aliases.get(block.name)
                past = _renamed(block.arguments, aliases) if aliases else block.arguments
                return wire.ToolUseBlock(tool_use_id=block.id, name=block.name, input=past)
            case ToolResult():
                texts = tuple(wire.TextBlock(text=text.text) for text in block.content if isinstance(text, Text))
                is_error = block.is_error or None
                return wire.ToolResultBlock(tool_use_id=block.call_id or "", content=texts, is_error=is_error)
            case _:
                return wire.TextBlock(text=block.text)

    def _offered(self, tool: Tool, upstream_name: str) -> OfferedTool:
        compiled = compile_parameters(
            tool.parameters,
            param=tool.schema_path,
            dialect=self._card.schema_keywords,
            limits=self._limits,
            budget=self._budget,
        )
        compiled = self._in_bounds(compiled)
        if compiled.aliases:
            self._aliases[upstream_name] = {name: alias for alias, name in compiled.aliases.items()}
        self.parts.append(Part(upstream_name, tool.parameters, compiled.schema))
        return OfferedTool(
            tool.name, upstream_name, tool.description.strip(), compiled, tool.strict, self._is_simple(upstream_name)
        )

    def _compile(self, schema: Any, path: str) -> CompiledSchema:
        compiled = compile_schema(
            schema, param=path, dialect=self._card.schema_keywords, limits=self._limits, budget=self._budget
        )
        return self._in_bounds(compiled)

    def _in_bounds(self, compiled: CompiledSchema) -> CompiledSchema:
        return compiled if self._card.schema_bounds else without_bounds(compiled)

    def _is_simple(self, part: str) -> bool:
        return self._card.tool_encoding == "text" or part in self._form.simple


def _renamed(value: Any, aliases: Mapping[str, str], depth: int = 0) -> Any:
    """A past call's arguments with the property names that the tool's schema has upstream."""
    if depth > _MAX_DEPTH:
        return value
    if isinstance(value, dict):
        return {aliases.get(name, name): _renamed(item, aliases, depth + 1) for name, item in value.items()}
    return [_renamed(item, aliases, depth + 1) for item in value] if isinstance(value, list) else value


# ---------------------------------------------------------------- numbers


@dataclass(frozen=True, slots=True)
class _TokenLimits:
    """In tokens: of the reply, of all output (`max_tokens` upstream), and of thinking; with what was lowered, as sentences."""

    reply: int
    total: int
    thinking: int | None
    lowered: tuple[str, ...] = ()


def _token_limits(request: Request, card: ModelCard, rules: Rules) -> _TokenLimits:
    """The reply's limit, headroom for the JSON around it and the thinking budget, together within the model's largest output."""
    reply = request.max_tokens or card.max_tokens
    thinking = request.reasoning.budget_tokens if request.reasoning else None
    most = card.max_output_tokens or sys.maxsize
    lowered = []
    if reply > most:
        reply = most
        lowered.append(f"max_tokens: lowered to {most}, the model's largest output")
    if thinking is not None and reply + thinking > most:
        thinking = min(thinking, max(most - reply, _MIN_THINKING))
        lowered.append(f"thinking: lowered to {thinking} tokens, as the model's largest output is {most}")
    total = min(reply + rules.headroom_tokens + (thinking or 0), most)
    return _TokenLimits(reply, total, thinking, tuple(lowered))


def _sampling(wanted: Sampling, card: ModelCard) -> tuple[Sampling, tuple[str, ...]]:
    """The sampling parameters that the model accepts, and what was left out, as sentences."""
    temperature, top_p = wanted.temperature, wanted.top_p
    left_out = []
    if card.sampling == "none":
        given = {"temperature": temperature, "top_p": top_p}
        left_out = [
            f"{name}: left out, the model does not accept it" for name, value in given.items() if value is not None
        ]
        temperature = top_p = None
    elif card.sampling == "one" and temperature is not None and top_p is not None:
        left_out = ["top_p: left out, the model does not accept it beside temperature"]
        top_p = None
    if temperature is not None:
        temperature = min(temperature, 1.0)
    return replace(wanted, temperature=temperature, top_p=top_p), tuple(left_out)

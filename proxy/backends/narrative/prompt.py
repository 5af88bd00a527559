"""A neutral request → the body of `POST /model-inference/run`, and what is needed to read the answer. Pure.

Source: contracts `narrative.md` (the body) and `heroku-chat.md`, section Request (the meaning of fields).
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from proxy.backends.narrative import types as wire
from proxy.backends.narrative.output import MAX_ERRORS, OutputFormat
from proxy.backends.narrative.tools import ANSWER, Part, Toolset
from proxy.catalog import ModelCard
from proxy.inference.history import Conversation, repair, upstream_names
from proxy.inference.jsontext import dump_json
from proxy.inference.request import Request, Rules, Sampling, Text, Tool, ToolCall, ToolResult
from proxy.schemas import Budget, compile_schema

_ANY_OBJECT: Final = {"type": "object", "description": "The answer: a JSON object."}
_MAX_ECHO: Final = 20_000
"""Characters of a wrong output that are repeated to the model."""
_MIN_THINKING: Final = 1_024
_MAX_QUOTED: Final = 80
"""Characters of a name as JSON that a validation error shows."""


Form = frozenset[str]
"""What is written more simply than a model's card says: the names of parts, as JSON text, and `HISTORY`."""
PLAIN: Final = Form()
HISTORY: Final = "(history)"
"""Past tool calls and results, which a form may have written as text."""


def form_text(form: Form) -> str:
    """The text that is kept with each submission; `Form(filter(None, text.split(",")))` reads it."""
    return ",".join(sorted(form))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What to run for a request, in one form, on the model of that id, and how to read the answer.

    Request fields that are `ignored` have no effect; `adjusted` says what was changed, as sentences for the client.
    """

    model: str
    messages: tuple[wire.RunMessage, ...]
    config: wire.InferenceConfig
    expected: OutputFormat
    form: Form
    tags: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()

    def body(self, data_plane_id: str, *tags: str) -> wire.RunRequest:
        """The body of one submission; its own tags come before those of the request."""
        return wire.RunRequest(
            data_plane_id=data_plane_id,
            model=self.model,
            messages=self.messages,
            inference_config=self.config,
            tags=(*tags, *self.tags),
        )

    def repair(self, output: object, errors: Sequence[str]) -> "Prepared":
        """The same conversation plus the model's output and the errors of its `ParsedOutput`, for one more try. The client's property
        names in the errors become those that were sent."""
        wrong = "\n".join(f"- {_as_sent(error, self.expected)}" for error in errors[:MAX_ERRORS])
        complaint = f"That output cannot be used:\n{wrong}\nGive the whole output again, corrected. Do not mention this correction."
        turns = (
            wire.RunMessage(role="assistant", content=(wire.TextBlock(text=dump_json(output)[:_MAX_ECHO]),)),
            wire.RunMessage(role="user", content=(wire.TextBlock(text=complaint),)),
        )
        return replace(self, messages=(*self.messages, *turns))


def _as_sent(error: str, expected: OutputFormat) -> str:
    """A validation error with the property names that the model was sent, where those are aliases of the client's."""
    tools = expected.tools.tools if expected.tools else ()
    part = next((tool for tool in tools if error.startswith(tool.prefix)), expected.answer)
    for name, alias in part.sent_names.items() if part else ():
        written = dump_json(name)
        cut = written[: _MAX_QUOTED - 1].rstrip() + "…" if len(written) > _MAX_QUOTED else written
        error = error.replace(written, dump_json(alias)).replace(cut, dump_json(alias))
        error = re.sub(rf"(?<=\.){re.escape(name)}(?![\w$-])", alias, error)
    return error


def offered_tools(request: Request) -> list[Tool]:
    """The tools of a request that its tool choice lets the model call."""
    allowed = request.tool_choice.names
    return [tool for tool in request.tools if allowed is None or tool.name in allowed]


def prepare(
    request: Request, card: ModelCard, rules: Rules, form: Form = PLAIN, budget: Budget | None = None
) -> Prepared:
    """Prepare a request for a model, in a form and within a budget of work; all schemas in simple form where the output schema would be
    larger than the card allows. Raises InvalidRequest: something in the request cannot be expressed; `param` is its path.
    """
    budget = budget or Budget()
    names = upstream_names(request.tools, request.messages)
    has_schemas = bool(request.tools) or request.output is not None
    tools, answer = _compile(request, names, card, rules, form, budget) if has_schemas else (None, None)
    text_history = HISTORY in form or card.tool_history == "text"
    conversation = repair(request.messages, names, rules, tool_blocks=not text_history)
    reply, thinking, max_tokens, lowered = _token_limits(request, card, rules)
    sampling, left_out = _sampling(request.sampling, card)
    expected = OutputFormat(
        answer=answer,
        tools=tools,
        reasoning_budget=thinking,
        reasoning_shown=request.reasoning is not None and request.reasoning.shown,
        stop=sampling.stop,
        max_words=reply if tools is None and answer is None else None,
    )
    output_schema = expected.schema()
    if has_schemas and len(dump_json(output_schema)) > card.max_schema_bytes:
        simple = form.union(expected.parts)
        if form != simple:
            return prepare(request, card, rules, simple, budget)
    adjusted = (*request.adjusted, *left_out, *lowered, *conversation.repairs)
    return Prepared(
        model=card.id,
        messages=_messages(conversation, expected, budget),
        config=wire.InferenceConfig(
            output_format_schema=output_schema,
            max_tokens=max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            stop_sequences=sampling.stop if sampling.stop and card.forward_stop else None,
        ),
        expected=expected,
        form=form,
        tags=request.tags,
        ignored=request.ignored if sampling.top_k is None else (*request.ignored, "top_k"),
        adjusted=adjusted if form == PLAIN else (*adjusted, *_simplified(form, card, expected)),
    )


def _simplified(form: Form, card: ModelCard, expected: OutputFormat) -> list[str]:
    """What a form changes, as sentences for the client."""
    tools = [tool.upstream_name for tool in expected.tools.tools] if expected.tools else []
    simple = [name for name in tools if name in form]
    sentences = []
    if simple and card.tool_encoding != "text":
        more = f" and {len(simple) - 5} more" if len(simple) > 5 else ""
        which = "" if len(simple) == len(tools) else f"{', '.join(simple[:5])}{more} "
        sentences.append(f"tools: {which}written in the simple form, with arguments as JSON text")
    if ANSWER in form and card.tool_encoding != "text":
        sentences.append("structured output: written in the simple form, as JSON text")
    if HISTORY in form and card.tool_history != "text":
        sentences.append("history: past tool calls and results written as text")
    return sentences


def _compile(  # noqa: PLR0913, PLR0917
    request: Request, names: Mapping[str, str], card: ModelCard, rules: Rules, form: Form, budget: Budget
) -> tuple[Toolset | None, Part | None]:
    """Compile the schemas as the model accepts them, of the tools that may be called and of the structured output."""
    options: dict[str, Any] = {"dialect": card.schema_keywords, "bounds": card.schema_bounds}
    options |= {"limits": rules.schema_limits, "budget": budget}
    choice, all_simple = request.tool_choice, card.tool_encoding == "text"
    tools = []
    for tool in offered_tools(request):
        name = names[tool.name]
        compiled = compile_schema(tool.parameters, param=tool.schema_path, parameters=True, **options)
        simple = all_simple or name in form
        tools.append(Part(tool.name, name, tool.description.strip(), compiled, tool.strict, simple))
    toolset = Toolset(tuple(tools), choice.required, choice.single, card.tool_encoding, counted=card.schema_bounds)
    answer = None
    if wanted := request.output:
        source = _ANY_OBJECT if wanted.schema is None else wanted.schema
        compiled = compile_schema(source, param=wanted.path, **options)
        strict = wanted.strict or wanted.schema is None
        answer = Part("", ANSWER, "", compiled, strict, simple=all_simple or ANSWER in form)
    return toolset if tools else None, answer


def _messages(conversation: Conversation, expected: OutputFormat, budget: Budget) -> tuple[wire.RunMessage, ...]:
    """The system text, with the instructions at its end, and the turns. Past calls get the property names that were sent."""
    aliases: dict[str, Mapping[str, str]] = {}
    if expected.tools:
        aliases = {tool.upstream_name: tool.sent_names for tool in expected.tools.tools if tool.compiled.aliases}
    system = tuple(_blocks(map(Text, filter(None, (conversation.system, expected.instructions()))), aliases))
    messages = [wire.RunMessage(role="system", content=system)] if system else []
    for turn in conversation.turns:
        budget.spend(0)  # raises when the request was abandoned
        messages.append(wire.RunMessage(role=turn.role, content=tuple(_blocks(turn.content, aliases))))
    return tuple(messages)


def _blocks(
    content: Iterable[Text | ToolCall | ToolResult], aliases: Mapping[str, Mapping[str, str]]
) -> Iterator[wire.Block]:
    for block in content:
        match block:
            case ToolCall():
                names = aliases.get(block.name)
                arguments = _renamed(block.arguments, names) if names else block.arguments
                yield wire.ToolUseBlock(tool_use_id=block.id, name=block.name, input=arguments)
            case ToolResult():
                texts = tuple([wire.TextBlock(text=text.text) for text in block.content if isinstance(text, Text)])
                is_error = block.is_error or None
                yield wire.ToolResultBlock(tool_use_id=block.call_id or "", content=texts, is_error=is_error)
            case Text():
                yield wire.TextBlock(text=block.text)


def _renamed(value: Any, aliases: Mapping[str, str]) -> Any:
    """A past call's arguments, which parsers bound in depth, with the property names that the tool's schema has upstream."""
    if isinstance(value, dict):
        return {aliases.get(name, name): _renamed(item, aliases) for name, item in value.items()}
    return [_renamed(item, aliases) for item in value] if isinstance(value, list) else value


def _token_limits(request: Request, card: ModelCard, rules: Rules) -> tuple[int, int | None, int, list[str]]:
    """The limits in tokens of the reply, of thinking, and of both with headroom for the JSON around the reply.

    Together they are within the model's largest output. Last comes what was lowered for that, as sentences.
    """
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
    return reply, thinking, min(reply + rules.headroom_tokens + (thinking or 0), most), lowered


def _sampling(wanted: Sampling, card: ModelCard) -> tuple[Sampling, list[str]]:
    """The sampling parameters that the model accepts, and what was left out, as sentences."""
    temperature, top_p, left_out = wanted.temperature, wanted.top_p, []
    if temperature is not None and card.sampling == "none":
        temperature = None
        left_out.append("temperature: left out, the model does not accept it")
    if top_p is not None and (card.sampling == "none" or (card.sampling == "one" and temperature is not None)):
        top_p = None
        beside = " beside temperature" if card.sampling == "one" else ""
        left_out.append(f"top_p: left out, the model does not accept it{beside}")
    return replace(wanted, temperature=None if temperature is None else min(temperature, 1.0), top_p=top_p), left_out

"""The plan: what to run for a chat request, and everything its answer needs to be read. Made once, carried along.

Source: contract `heroku-chat.md`, section Request.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from proxy.backends.narrative import types as upstream
from proxy.catalog import ModelCard
from proxy.errors import InvalidRequest
from proxy.schemas import Budget, SchemaLimits, compile_schema
from proxy.translate.envelope import Envelope, StructuredAnswer
from proxy.translate.jsontext import dump_json
from proxy.translate.messages import Conversation, HistoryRules, called_names, translate_messages
from proxy.translate.names import upstream_names
from proxy.translate.offer import in_dialect, menu_of
from proxy.wire import openai as chat


@dataclass(frozen=True, slots=True)
class PlanRules:
    """What the operator decides about translation.

    Attributes:
        efforts: `reasoning_effort` → budget in tokens; `none` is always understood. `medium` is the budget where none is named.
        headroom_tokens: added to the reply limit for the JSON around the reply.
        schema_limits: bounds on what clients' schemas may be.
    """

    efforts: Mapping[str, int]
    history: HistoryRules = HistoryRules()
    schema_limits: SchemaLimits = SchemaLimits()
    headroom_tokens: int = 64
    max_choices: int = 8
    max_tools: int = 512
    reasoning_object: Literal["auto", "always", "never"] = "auto"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and how to read it.

    Attributes:
        model: the name the client asked for; echoed in the answer.
        narrative_model: the id it resolved to.
        envelope: the output schema and its reader.
        choices: how many jobs, each one choice.
        stop: strings at which free text ends.
        max_words: most words of free text: a word is a token at least. None where that does not apply.
        show_reasoning: the trace is wanted; `reasoning_object` adds Heroku's shape of it.
        function_call: answer in the shape of the retired `functions` field.
        ignored: request fields that have no effect.
        adjusted: what was changed, in words.
    """

    model: str
    narrative_model: str
    messages: tuple[upstream.Message, ...]
    config: upstream.InferenceConfig
    tags: tuple[str, ...]
    envelope: Envelope
    choices: int = 1
    stop: tuple[str, ...] = ()
    max_words: int | None = None
    show_reasoning: bool = False
    reasoning_object: bool = False
    function_call: bool = False
    stream: bool = False
    include_usage: bool = False
    ignored: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()

    def run_request(self, *, data_plane_id: str, rid: str) -> upstream.RunRequest:
        """The body of one submission.

        Args:
            data_plane_id: where to run.
            rid: unique for this submission; its tag finds the job again when the answer is lost.
        """
        return upstream.RunRequest(
            data_plane_id=data_plane_id,
            model=self.narrative_model,
            messages=self.messages,
            inference_config=self.config,
            tags=(f"rid:{rid}", *self.tags),
        )

    def asking_again(self, output: object, faults: tuple[str, ...]) -> "Plan":
        """The same turn plus what was wrong with the model's output, for one more try."""
        wrong = "\n".join(f"- {fault}" for fault in faults)
        written = upstream.TextBlock(text=dump_json(output)[:_MOST_ECHO])
        complaint = upstream.TextBlock(
            text=f"That output cannot be used:\n{wrong}\nGive the whole output again, corrected. Do not mention this correction."
        )
        turns = (
            upstream.Message(role="assistant", content=(written,)),
            upstream.Message(role="user", content=(complaint,)),
        )
        return replace(self, messages=(*self.messages, *turns))


SIMPLE_FORM = "tools: written in the simple form, with arguments as JSON text"
_MOST_ECHO = 20_000


def make_plan(request: chat.ChatRequest, card: ModelCard, rules: PlanRules) -> Plan:
    """Plan a request on a model, in the simple form where the output schema would be over the model's budget.

    Raises:
        InvalidRequest: something in the request cannot be had; `param` is its path.
    """
    budget = Budget()
    plan = _plan(request, card, rules, budget)
    if card.tool_encoding == "text" or len(dump_json(plan.config.output_format_schema)) <= card.max_schema_bytes:
        return plan
    simple = _plan(request, card.model_copy(update={"tool_encoding": "text"}), rules, budget)
    return replace(simple, adjusted=(*simple.adjusted, SIMPLE_FORM))


def _plan(request: chat.ChatRequest, card: ModelCard, rules: PlanRules, budget: Budget) -> Plan:
    if (request.n or 1) > rules.max_choices:
        raise InvalidRequest(f"`n` is {request.n}; expected {rules.max_choices} at most.", param="n")
    offered = [tool.function for tool in request.tools or ()] + list(request.functions or ())
    names = upstream_names([*(tool.name for tool in offered), *called_names(request.messages)])
    history = replace(rules.history, tool_blocks=card.tool_history == "blocks")
    conversation = translate_messages(request.messages, names, history)
    thinking = thinking_of(request, rules)
    envelope = Envelope(
        answer=structured_answer(request.response_format, card, rules.schema_limits, budget),
        menu=menu_of(request, names, card, limits=rules.schema_limits, max_tools=rules.max_tools, budget=budget),
        reasoning_budget=thinking.budget,
    )
    limit = request.max_completion_tokens or request.max_tokens or card.max_tokens
    stop = stop_strings(request.stop)
    return Plan(
        model=request.model,
        narrative_model=card.id,
        messages=_with_system(conversation, envelope.instructions()),
        config=upstream.InferenceConfig(
            output_format_schema=envelope.schema(),
            max_tokens=limit + rules.headroom_tokens + (thinking.budget or 0),
            temperature=None if request.temperature is None else min(request.temperature, 1.0),
            top_p=request.top_p,
            stop_sequences=stop if stop and card.forward_stop else None,
        ),
        tags=_tags(request),
        envelope=envelope,
        choices=request.n or 1,
        stop=stop,
        max_words=limit if envelope.is_text else None,
        show_reasoning=thinking.shown,
        reasoning_object=thinking.shown
        and (rules.reasoning_object == "always" or (rules.reasoning_object == "auto" and thinking.heroku)),
        function_call=bool(request.functions) and not request.tools,
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        ignored=ignored_fields(request),
        adjusted=(*adjusted_fields(request), *conversation.repairs),
    )


@dataclass(frozen=True, slots=True)
class Thinking:
    budget: int | None = None
    shown: bool = False
    heroku: bool = False


def thinking_of(request: chat.ChatRequest, rules: PlanRules) -> Thinking:
    """Heroku's `extended_thinking` decides where both it and `reasoning_effort` are given."""
    asked = request.extended_thinking
    if isinstance(asked, bool):
        asked = chat.ExtendedThinking(enabled=asked)
    if asked is not None:
        if not asked.enabled:
            return Thinking()
        return Thinking(
            asked.budget_tokens or rules.efforts["medium"], asked.include_reasoning is not False, heroku=True
        )
    effort = request.reasoning_effort
    if effort is None or effort == "none":
        return Thinking()
    if effort not in rules.efforts:
        expected = ", ".join(["none", *rules.efforts])
        raise InvalidRequest(
            f"`reasoning_effort` is {effort[:40]!r}; expected one of {expected}.", param="reasoning_effort"
        )
    return Thinking(rules.efforts[effort], shown=True)


def structured_answer(
    wanted: chat.ResponseFormat | None, card: ModelCard, limits: SchemaLimits, budget: Budget
) -> StructuredAnswer | None:
    as_text = card.tool_encoding == "text"
    match wanted:
        case chat.JsonSchemaFormat(json_schema=spec):
            param = "response_format.json_schema.schema"
            compiled = compile_schema(
                spec.schema_, param=param, dialect=card.schema_keywords, limits=limits, budget=budget
            )
            return StructuredAnswer(in_dialect(compiled, card), strict=bool(spec.strict), as_text=as_text)
        case chat.TextFormat(type="json_object"):
            anything = {"type": "object", "description": "The answer: a JSON object."}
            compiled = compile_schema(anything, param="response_format", dialect=card.schema_keywords, limits=limits)
            return StructuredAnswer(compiled, strict=True, as_text=as_text)
        case _:
            return None


def _with_system(conversation: Conversation, instructions: str) -> tuple[upstream.Message, ...]:
    texts = tuple(upstream.TextBlock(text=text) for text in (conversation.system, instructions) if text)
    system = (upstream.Message(role="system", content=texts),) if texts else ()
    return (*system, *conversation.turns)


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in ([stop] if isinstance(stop, str) else stop or ()) if text))


def _tags(request: chat.ChatRequest) -> tuple[str, ...]:
    """`user` and `metadata` as tags, so that an operator finds a user's jobs."""
    user = (f"user:{request.user}",) if request.user else ()
    return (*user, *(f"{key}:{value}" for key, value in (request.metadata or {}).items()))


_NO_EFFECT = re.compile(r"\A[A-Za-z0-9_.-]{1,64}\Z")


def ignored_fields(request: chat.ChatRequest) -> tuple[str, ...]:
    """Fields that were sent, are not null, and have no effect here."""
    unknown = [name for name, value in (request.model_extra or {}).items() if value is not None]
    names = [name for name in unknown if _NO_EFFECT.match(name)]
    if any((message.model_extra or {}).get("name") is not None for message in request.messages):
        names.append("messages.name")
    overruled = {
        "stream_options": request.stream_options is not None and not request.stream,
        "stop": bool(request.stop) and request.response_format is not None and request.response_format.type != "text",
        "functions": bool(request.functions) and bool(request.tools),
        "function_call": request.function_call is not None and request.tool_choice is not None,
        "reasoning_effort": request.reasoning_effort is not None and request.extended_thinking is not None,
    }
    names += [name for name, has_no_effect in overruled.items() if has_no_effect]
    return tuple(names[:50])


def adjusted_fields(request: chat.ChatRequest) -> tuple[str, ...]:
    lowered = request.temperature is not None and request.temperature > 1
    return ("temperature: lowered to 1",) if lowered else ()

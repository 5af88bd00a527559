"""The envelope: the output schema that a model must fill for one request, and the reader of what it filled in.

Narrative's only output is JSON that matches `output_format_schema`. What a chat completion may hold is therefore spelled as an object:

    asked for                     the schema's properties, in this order
    text                          content
    json_object, json_schema      none: the client's schema is the root where it is an object, else `answer`
    tools                         content, tool_calls
    tools and json_schema         answer (the final one, so optional), tool_calls
    thinking                      reasoning, before all others

The order is the order of generation: thinking first, then the words, then the calls. Source: contract `narrative.md`, section
"What output_format_schema may use".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.backends.narrative.types import JsonObject
from proxy.schemas import CompiledSchema, coerce, validate
from proxy.translate.jsontext import NotJson, dump_json, parse_loose_json
from proxy.translate.reading import Reading
from proxy.translate.tools import ReadCalls, ToolMenu

_MAX_FAULTS = 5
_NOT_GIVEN = object()


@dataclass(frozen=True, slots=True)
class StructuredAnswer:
    """The structured output that was asked for.

    Attributes:
        compiled: its compiled schema.
        strict: an answer that does not match must not be handed out.
        as_text: the simple form: the model writes the answer as JSON text, its schema told in words.
    """

    compiled: CompiledSchema
    strict: bool = False
    as_text: bool = False

    def schema(self) -> JsonObject:
        if not self.as_text:
            return self.compiled.schema
        return {"type": "string", "description": "The answer: the text of a JSON value matching the schema given."}


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the reply may be.

    Attributes:
        answer: the structured output asked for; None for free text.
        menu: the tools that may be called; None for none.
        reasoning_budget: tokens of thinking asked for; None for no thinking.
    """

    answer: StructuredAnswer | None = None
    menu: ToolMenu | None = None
    reasoning_budget: int | None = None

    @property
    def is_bare(self) -> bool:
        """The client's schema is the root: nothing else is asked for, and it is an object."""
        answer = self.answer
        alone = self.menu is None and self.reasoning_budget is None
        return answer is not None and alone and answer.compiled.is_object and not answer.as_text

    @property
    def is_text(self) -> bool:
        """Free text and nothing else (but perhaps thinking)."""
        return self.answer is None and self.menu is None

    def schema(self) -> JsonObject:
        """The `output_format_schema`; only documented keywords unless a card allows more."""
        if self.is_bare and self.answer is not None:
            return self.answer.schema()
        properties: dict[str, JsonObject] = {}
        optional: set[str] = set()
        if self.reasoning_budget is not None:
            properties["reasoning"] = {"type": "string", "description": _thinking(self.reasoning_budget)}
        if self.answer is not None:
            properties["answer"] = self.answer.schema()
        elif self.menu is None:
            properties["content"] = {"type": "string", "description": "Your whole reply to the user."}
        else:
            properties["content"] = {"type": "string", "description": _BESIDE_CALLS}
        if self.menu is not None:
            properties["tool_calls"] = self.menu.schema()
            if self.answer is not None:
                optional = {"answer"}
            elif self.menu.required:
                optional = {"content"}
        return {
            "type": "object",
            "properties": properties,
            "required": [name for name in properties if name not in optional],
            "additionalProperties": False,
        }

    def instructions(self) -> str:
        """What the system text must add so that the schema is filled as meant; empty for plain text."""
        parts = [self.menu.instructions()] if self.menu else []
        if self.menu and self.answer:
            parts.append("Give `answer` only when no further tool is needed; leave it out while you call tools.")
        if self.answer and self.answer.as_text:
            schema = dump_json(self.answer.compiled.schema)
            parts.append(f"Write your answer as the text of a JSON value that matches this JSON Schema: {schema}")
        return "\n".join(parts)

    def read(self, output: Any) -> Reading:
        """Read a job's `structured_output`.

        Tolerates what models do to a wrapper: a bare string, JSON text, a code fence, missing parts.
        """
        fields = self._fields(output)
        if fields is None:
            return Reading(faults=("the output is not of the form that the schema asks for",), fatal=True)
        calls = self.menu.read(fields.get("tool_calls") or []) if self.menu else ReadCalls((), (), fatal=False)
        text, faults, fatal = self._read_answer(fields, called=bool(calls.calls))
        reasoning = _text(fields.get("reasoning")) if self.reasoning_budget is not None else None
        if self.answer is None and not text and not calls.calls and reasoning:
            text, reasoning = reasoning, None  # an answer in the wrong place is still the answer
        # Calls of tools that were not offered are dropped; what is then empty is no answer.
        empty = bool(calls.faults) and not calls.calls and not text
        return Reading(
            text=text,
            calls=calls.calls,
            reasoning=reasoning,
            faults=(*calls.faults, *faults),
            fatal=calls.fatal or fatal or empty,
        )

    def _read_answer(self, fields: Mapping[str, Any], *, called: bool) -> tuple[str | None, tuple[str, ...], bool]:
        """The words beside the calls: text, faults, whether these forbid handing it out."""
        if self.answer is None:
            text = _text(fields.get("content"))
            return (text, (), False) if self.menu else (text or "", (), False)
        value = fields.get("answer", _NOT_GIVEN)
        if value is _NOT_GIVEN or (value is None and called):
            missing = not called
            return None, ("`answer` is missing",) if missing else (), missing
        if isinstance(value, str):
            value = _parsed_if_due(value, self.answer)
        prose = isinstance(value, str)
        value = coerce(self.answer.compiled, value)
        faults = tuple(f"{fault.path}: {fault.message}" for fault in validate(self.answer.compiled, value).errors)
        if faults and called:
            return None, (), False  # the schema binds the final answer only, and this is not it
        return dump_json(value), faults[:_MAX_FAULTS], bool(faults) and (self.answer.strict or prose)

    def _fields(self, output: Any) -> Mapping[str, Any] | None:
        """The envelope's properties, wherever the model put them; None when nothing can be made of the output."""
        if self.is_bare:
            return {"answer": output}
        own = {"reasoning", "content", "answer", "tool_calls"} & self.schema()["properties"].keys()
        if isinstance(output, dict) and not own.isdisjoint(output):
            return output
        if isinstance(output, str):
            return self._fields_of_text(output, own)
        if self.menu and self.menu.recognises(output):
            return {"tool_calls": output}
        if self.menu and output == {}:
            return {"content": ""}
        if self.answer is not None:
            return {"answer": output}
        match output:
            case dict() if len(output) == 1 and isinstance(text := next(iter(output.values())), str):
                return {"content": text}
            case int() | float():
                return {"content": dump_json(output)}
            case _:
                return None

    def _fields_of_text(self, output: str, own: set[str]) -> Mapping[str, Any]:
        """A bare string: the envelope itself as JSON text, or the words without their wrapper."""
        try:
            value = parse_loose_json(output)
        except NotJson:
            value = None
        if isinstance(value, dict) and value.keys() <= own and value:
            return value
        if self.menu and self.menu.recognises(value):
            return {"tool_calls": value}
        return {"content": output} if self.answer is None else {"answer": output}


_BESIDE_CALLS = "What you say to the user; an empty string when you only call tools."


def _thinking(budget: int) -> str:
    return f"Think here, step by step, before you answer: at most about {budget} tokens. The user's answer does not go here."


def _text(value: Any) -> str | None:
    """Text, None where there is none: models fill an unused string with blanks."""
    if value is None:
        return None
    text = value if isinstance(value, str) else dump_json(value)
    return text if text.strip() else None


def _parsed_if_due(text: str, answer: StructuredAnswer) -> Any:
    """A structured answer that came as text: its value where it is JSON, unless the text itself is a fine answer."""
    if not answer.as_text and not validate(answer.compiled, text).errors:
        return text
    try:
        return parse_loose_json(text)
    except NotJson:
        return text

"""Tools as part of the output schema: Narrative has no tools field, so calls are data that the model writes.

Three encodings of one call. A model's card chooses one (`tool_encoding` in `config/models.toml`):

    properties   {"get_weather": {"city": "Paris"}}                            one optional property per tool; documented keywords only
    any_of       {"name": "get_weather", "arguments": {"city": "Paris"}}       one alternative per tool
    text         {"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}   the simple encoding: arguments as JSON text

A tool whose schema the upstream refused is `simple`: its arguments are JSON text while the other tools keep the encoding of the
card. A call is read in any of these spellings, whichever was asked for.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from proxy.backends.narrative.types import JsonObject
from proxy.catalog import ToolEncoding
from proxy.inference.jsontext import NotJson, dump_json, parse_loose_json
from proxy.inference.request import ToolCall
from proxy.schemas import Budget, CompiledSchema, coerce, validate

ANSWER: Final = "answer"
"""The name of the structured output among the parts of an output schema."""


@dataclass(frozen=True, slots=True)
class Part:
    """A client's schema within the output schema: that of a tool's arguments, or of the structured output.

    Attributes:
        name: the client's name for the tool; empty for the structured output.
        upstream_name: the tool's safe, unique name upstream, or `ANSWER`.
        strict: a value that does not match must not be delivered.
        simple: the model writes the value as JSON text, guided by instructions instead of the schema.
    """

    name: str
    upstream_name: str
    description: str
    compiled: CompiledSchema
    strict: bool = False
    simple: bool = False

    @property
    def prefix(self) -> str:
        """How errors in a tool's arguments begin; nothing for the structured output."""
        return "" if not self.name else f"arguments of {self.upstream_name}: "

    @property
    def sent_names(self) -> Mapping[str, str]:
        """The client's property names that upstreams refuse → the aliases that stand for them in the schema that is sent."""
        return {name: alias for alias, name in self.compiled.aliases.items()}

    def read(self, value: Any, budget: Budget | None) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
        """A value that a model wrote, corrected where that is unambiguous; what is still wrong with it; notes.

        It may be JSON text. Structured output may be wrapped one level too many; a lone argument is no wrapper, even when it is an object.
        """
        if isinstance(value, str) and (self.simple or validate(self.compiled, value, budget).errors):
            value = parsed(value)
        value = coerce(self.compiled, value, budget)
        found = validate(self.compiled, value, budget)
        if found.errors and not self.name and isinstance(value, dict) and len(value) == 1:
            inner = coerce(self.compiled, next(iter(value.values())), budget)
            if not (found_inner := validate(self.compiled, inner, budget)).errors:
                value, found = inner, found_inner
        errors = tuple([f"{self.prefix}{error.path}: {error.message}" for error in found.errors])
        return value, errors, tuple([f"{self.prefix}{note}" for note in found.notes])


@dataclass(frozen=True, slots=True)
class ParsedOutput:
    """What an output says.

    Attributes:
        text: what the model says to the user (for structured output its JSON text); None when it says nothing.
        calls: the tool calls, in order, without ids.
        reasoning: the thinking trace, None when there is none.
        errors: how the output fails to match the request, as at most five sentences that the model can act on; empty when all is well.
        undeliverable: an error forbids delivering it: it makes no sense, or breaks a promise (`strict`, a required call).
        notes: what the client should know although the output is accepted.
    """

    text: str | None = None
    calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    errors: tuple[str, ...] = ()
    undeliverable: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Toolset:
    """The tools of one request.

    Attributes:
        required: at least one call must be made.
        single: at most one call may be made.
        encoding: how a call of a tool that is not `simple` is written.
        counted: the schema may bound the number of calls; else only its description does.
    """

    tools: tuple[Part, ...]
    required: bool = False
    single: bool = False
    encoding: ToolEncoding = "properties"
    counted: bool = True

    @property
    def effective_encoding(self) -> ToolEncoding:
        """The encoding of the whole list: `text` when no tool is left for the card's."""
        return "text" if all(tool.simple for tool in self.tools) else self.encoding

    def schema(self) -> JsonObject:
        """The schema of the list of calls."""
        encoding = self.effective_encoding
        if encoding == "properties":
            item: JsonObject = {
                "type": "object",
                "description": "One call: exactly one key, the name of the tool, and its arguments as value.",
                "properties": {tool.upstream_name: _property(tool) for tool in self.tools},
                "additionalProperties": False,
            }
        else:
            calls = [
                _call_schema([tool.upstream_name], _arguments_schema(tool.compiled), tool.description)
                for tool in self.tools
                if not tool.simple
            ]
            if simple := [tool.upstream_name for tool in self.tools if tool.simple]:
                calls.append(_call_schema(simple, _ARGUMENTS_TEXT))
            item = calls[0] if encoding == "text" else {"anyOf": calls}
        schema: JsonObject = {"type": "array", "description": _HOW_MANY[self.required, self.single][0], "items": item}
        if self.required and self.counted:
            schema["minItems"] = 1
        if self.single and self.counted:
            schema["maxItems"] = 1
        return schema

    def instructions(self) -> str:
        """What the system text says about calling, a few lines."""
        lines = [
            "You can call tools by writing entries in `tool_calls`. " + _HOW[self.effective_encoding],
            _HOW_MANY[self.required, self.single][1],
            "The results come back in the next turn. Never invent them.",
        ]
        simple = [tool for tool in self.tools if tool.simple]
        if len(simple) == len(self.tools):
            lines.append("The tools, each with the JSON Schema of its arguments:")
        elif simple:
            lines.append(
                "These tools take their arguments as the text of a JSON object matching the JSON Schema given:"
            )
        for tool in simple:
            described = f"{tool.description}\n  " if tool.description else ""
            lines.append(f"- {tool.upstream_name}: {described}{dump_json(_arguments_schema(tool.compiled))}")
        return "\n".join(lines)

    def read(self, value: Any, budget: Budget | None = None) -> ParsedOutput:
        """Read the value of `tool_calls`, validating the arguments of each call against its tool's own parameters.

        Arguments that are wrong only in spelling are corrected. A call of a tool that was not offered is dropped.
        """
        by_name = {tool.upstream_name: tool for tool in self.tools}
        calls: list[ToolCall] = []
        errors: list[str] = []
        notes: list[str] = []
        undeliverable = False
        for name, written in self._entries(value, by_name):
            if self.single and calls:
                break
            tool = by_name.get(name)
            if tool is None:
                errors.append(f"there is no tool named {name[:80]!r}; the tools are {', '.join(by_name)[:500]}")
                continue
            arguments = parsed(written)
            if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
                arguments = {}
            if not tool.compiled.is_object and isinstance(arguments, dict) and arguments.keys() == {"value"}:
                arguments = arguments["value"]
            arguments, wrong, more_notes = tool.read(arguments, budget)
            calls.append(ToolCall("", tool.name, arguments))
            errors += wrong
            notes += more_notes
            no_object = tool.compiled.is_object and not isinstance(arguments, dict)
            undeliverable = undeliverable or (bool(wrong) and (tool.strict or no_object))
        if self.required and not calls:
            errors.append("at least one tool must be called")
            undeliverable = True
        return ParsedOutput(calls=tuple(calls), errors=tuple(errors), undeliverable=undeliverable, notes=tuple(notes))

    def recognizes(self, output: Any) -> bool:
        """Whether an output looks like a call, or a list of calls, outside the field it belongs in."""
        names = {tool.upstream_name for tool in self.tools}
        items = output if isinstance(output, list) else [output]
        for item in items:
            match item:
                case {"name": str(name), "arguments": _} | {"name": str(name), "input": _} if name in names:
                    continue
                case dict() if item and names.issuperset(item):
                    continue
            return False
        return bool(items)

    def _entries(self, value: Any, by_name: Mapping[str, Part]) -> Iterator[tuple[str, Any]]:
        """Each call as (upstream name, arguments), in whichever encoding it is written."""
        value = parsed(value)
        for item in value if isinstance(value, list) else [value]:
            match item:
                case {"name": str(name)} if "name" not in by_name or self.effective_encoding != "properties":
                    yield name, item.get("arguments", item.get("input"))
                case dict():
                    # Models fill the properties of tools that they do not call with null.
                    for name, arguments in item.items():
                        if arguments is not None or len(item) == 1:
                            yield name, arguments


# Whether a call is required, and whether it must be a single one → what the schema and the instructions say of it.
_HOW_MANY: Mapping[tuple[bool, bool], tuple[str, str]] = {
    (False, False): (
        "The tools to call now; empty when none is needed.",
        "Call a tool only when it helps; otherwise leave `tool_calls` empty and answer.",
    ),
    (False, True): (
        "The tool to call now; empty when none is needed. One at most.",
        "Call a tool only when it helps; otherwise leave `tool_calls` empty and answer.\nCall at most one tool at a time.",
    ),
    (True, False): ("The tools to call now; one at least.", "You must call at least one tool now."),
    (True, True): ("The tool to call now; exactly one.", "You must call exactly one tool now."),
}

_HOW: Mapping[ToolEncoding, str] = {
    "properties": "Each entry is an object with exactly one key: the name of the tool, whose value is the object of its arguments. "
    "Make several calls by several entries.",
    "any_of": "Each entry names the tool and gives the object of its arguments. Make several calls by several entries.",
    "text": "Each entry names the tool and gives its arguments as the text of a JSON object. Make several calls by several entries.",
}

_ARGUMENTS_TEXT = {
    "type": "string",
    "description": "The arguments: the text of a JSON value matching the tool's schema.",
}


def _object_schema(properties: JsonObject, required: list[str]) -> JsonObject:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _arguments_schema(compiled: CompiledSchema) -> JsonObject:
    """The schema of a call's arguments: an object, so that parameters of another type are the value of a key `value`."""
    return compiled.schema if compiled.is_object else _object_schema({"value": compiled.schema}, ["value"])


def _property(tool: Part) -> JsonObject:
    """The schema of a tool's property, with the tool's description before the schema's own."""
    schema = _ARGUMENTS_TEXT if tool.simple else _arguments_schema(tool.compiled)
    texts = [text for text in (tool.description, schema.get("description", "")) if text]
    return {**schema, "description": "\n".join(texts)} if texts else schema


def _call_schema(names: list[str], arguments: JsonObject, description: str = "") -> JsonObject:
    properties = {"name": {"type": "string", "enum": names}, "arguments": arguments}
    schema = _object_schema(properties, ["name", "arguments"])
    return {**schema, "description": description} if description else schema


def parsed(value: Any) -> Any:
    """The value of JSON text; anything else as it is."""
    with suppress(NotJson):
        return parse_loose_json(value) if isinstance(value, str) else value
    return value

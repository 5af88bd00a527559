"""Tools as part of the output schema: Narrative has no tools field, so calls are data that the model writes.

Three encodings of one call, chosen per model (`tool_encoding` in `config/models.toml`):

    properties   {"get_weather": {"city": "Paris"}}                            one optional property a tool; documented keywords only
    any_of       {"name": "get_weather", "arguments": {"city": "Paris"}}       one alternative a tool
    text         {"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}   the simple form: arguments as JSON text

Whatever was asked for, a call is read in any of the three spellings.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from proxy.backends.narrative.types import JsonObject
from proxy.catalog import ToolEncoding
from proxy.schemas import CompiledSchema, coerce, validate
from proxy.translate.jsontext import NotJson, dump_json, parse_loose_json
from proxy.translate.reading import Call

_MAX_FAULTS = 5


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool the model may call.

    Attributes:
        name: the client's name for it.
        upstream_name: its safe, unique name upstream.
        parameters: its compiled `parameters`.
        strict: its arguments must match `parameters`, or not be handed out.
    """

    name: str
    upstream_name: str
    description: str
    parameters: CompiledSchema
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ReadCalls:
    """Calls read out of an output, what is wrong with them, and whether that forbids handing them out."""

    calls: tuple[Call, ...]
    faults: tuple[str, ...]
    fatal: bool


@dataclass(frozen=True, slots=True)
class ToolMenu:
    """The tools of one request.

    Attributes:
        required: at least one call must be made.
        single: at most one call may be made.
        encoding: how a call is written.
        counted: the schema says how many calls there may be; else words do.
    """

    tools: tuple[OfferedTool, ...]
    required: bool
    single: bool
    encoding: ToolEncoding
    counted: bool = True

    def schema(self) -> JsonObject:
        """The schema of the list of calls."""
        schema: JsonObject = {"type": "array", "description": _LIST[self.required, self.single], "items": self._item()}
        if self.required and self.counted:
            schema["minItems"] = 1
        if self.single and self.counted:
            schema["maxItems"] = 1
        return schema

    def instructions(self) -> str:
        """What the system text says about calling, a few lines."""
        lines = ["You can call tools by writing entries in `tool_calls`. " + _HOW[self.encoding]]
        if self.required:
            lines.append(
                "You must call at least one tool now." if not self.single else "You must call exactly one tool now."
            )
        else:
            lines.append("Call a tool only when it helps; otherwise leave `tool_calls` empty and answer.")
            if self.single:
                lines.append("Call at most one tool at a time.")
        lines.append("The results come back in the next turn. Never invent them.")
        if self.encoding == "text":
            lines.append("The tools, each with the JSON Schema of its arguments:")
            lines += [f"- {tool.upstream_name}: {_told(tool)}" for tool in self.tools]
        return "\n".join(lines)

    def read(self, value: Any) -> ReadCalls:
        """Read what stands in `tool_calls`, checking every call against its tool's own `parameters`.

        Arguments that are wrong only in spelling are mended. A call to a tool that was not offered is dropped.
        """
        by_name = {tool.upstream_name: tool for tool in self.tools}
        calls: list[Call] = []
        faults: list[str] = []
        fatal = False
        for name, arguments in self._written(value, by_name):
            if self.single and calls:
                break
            tool = by_name.get(name)
            if tool is None:
                faults.append(f"there is no tool named {name[:80]!r}; the tools are {', '.join(by_name)[:500]}")
                continue
            found, wrong = _arguments(tool, arguments)
            calls.append(Call(tool.name, found))
            faults += wrong
            fatal = fatal or (
                bool(wrong) and (tool.strict or (tool.parameters.is_object and not isinstance(found, dict)))
            )
        if self.required and not calls:
            faults.append("at least one tool must be called")
            fatal = True
        return ReadCalls(tuple(calls), tuple(faults[:_MAX_FAULTS]), fatal)

    def recognises(self, output: Any) -> bool:
        """Whether an output looks like a bare call, outside the list it belongs in."""
        names = {tool.upstream_name for tool in self.tools}
        match output:
            case {"name": str(name)} if name in names and ("arguments" in output or "input" in output):
                return True
            case dict():
                return bool(output) and names.issuperset(output)
            case list():
                return bool(output) and all(self.recognises(item) for item in output)
            case _:
                return False

    def _item(self) -> JsonObject:
        match self.encoding:
            case "properties":
                return {
                    "type": "object",
                    "description": "One call: exactly one key, the name of the tool, and its arguments as value.",
                    "properties": {tool.upstream_name: _described(tool) for tool in self.tools},
                    "additionalProperties": False,
                }
            case "any_of":
                return {"anyOf": [_alternative(tool) for tool in self.tools]}
            case "text":
                names = [tool.upstream_name for tool in self.tools]
                return _named(
                    {"type": "string", "enum": names},
                    {
                        "type": "string",
                        "description": "The arguments: the text of a JSON value matching the tool's schema.",
                    },
                )

    def _written(self, value: Any, by_name: Mapping[str, OfferedTool]) -> Iterator[tuple[str, Any]]:
        """Each call as (upstream name, arguments), whichever encoding it is written in."""
        if isinstance(value, str):
            try:
                value = parse_loose_json(value)
            except NotJson:
                return
        for item in value if isinstance(value, list) else [value]:
            match item:
                case {"name": str(name)} if "name" not in by_name or self.encoding != "properties":
                    yield name, item.get("arguments", item.get("input"))
                case dict():
                    yield from (
                        (name, arguments) for name, arguments in item.items() if arguments is not None or len(item) == 1
                    )


_LIST: Mapping[tuple[bool, bool], str] = {
    (False, False): "The tools to call now; empty when none is needed.",
    (False, True): "The tool to call now; empty when none is needed. One at most.",
    (True, False): "The tools to call now; one at least.",
    (True, True): "The tool to call now; exactly one.",
}

_HOW: Mapping[ToolEncoding, str] = {
    "properties": "Each entry is an object with exactly one key: the name of the tool, whose value is the object of its arguments. "
    "Make several calls by several entries.",
    "any_of": "Each entry names the tool and gives the object of its arguments. Make several calls by several entries.",
    "text": "Each entry names the tool and gives its arguments as the text of a JSON object. Make several calls by several entries.",
}


def wrapped(parameters: CompiledSchema) -> JsonObject:
    """The schema of a call's arguments: an object, so that parameters of another type stand under the key `value`."""
    if parameters.is_object:
        return parameters.schema
    return {
        "type": "object",
        "properties": {"value": parameters.schema},
        "required": ["value"],
        "additionalProperties": False,
    }


def _described(tool: OfferedTool) -> JsonObject:
    """The arguments' schema with the tool's description before its own."""
    schema = wrapped(tool.parameters)
    words = [text for text in (tool.description, schema.get("description", "")) if text]
    return {**schema, "description": "\n".join(words)} if words else schema


def _alternative(tool: OfferedTool) -> JsonObject:
    alternative = _named({"type": "string", "enum": [tool.upstream_name]}, wrapped(tool.parameters))
    return {**alternative, "description": tool.description} if tool.description else alternative


def _named(name: JsonObject, arguments: JsonObject) -> JsonObject:
    return {
        "type": "object",
        "properties": {"name": name, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _told(tool: OfferedTool) -> str:
    return (
        f"{tool.description}\n  {dump_json(wrapped(tool.parameters))}"
        if tool.description
        else dump_json(wrapped(tool.parameters))
    )


def _arguments(tool: OfferedTool, written: Any) -> tuple[Any, Sequence[str]]:
    """The arguments of one call, mended where that is unambiguous, and what is still wrong with them."""
    value = {} if written is None else written
    if isinstance(value, str):
        with suppress(NotJson):
            value = parse_loose_json(value) if value.strip() else {}
    if not tool.parameters.is_object and isinstance(value, dict) and value.keys() == {"value"}:
        value = value["value"]
    value = coerce(tool.parameters, value)
    where = f"arguments of {tool.upstream_name}"
    return value, [f"{where}: {fault.path}: {fault.message}" for fault in validate(tool.parameters, value).errors]

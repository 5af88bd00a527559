"""Tools that a schema offers: an array `tool_calls` whose items take one of three shapes.

    keyed     {"<tool>": {…arguments}}                      one property per tool
    tagged    {"name": "<tool>", "arguments": {…}}          one alternative per tool
    text      {"name": "<tool>", "arguments": "{…}"}        arguments as JSON text

The shapes are recognised by their form alone; nothing else is known of who makes them.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

CALLS = "tool_calls"

Shape = Literal["keyed", "tagged", "text"]


@dataclass(frozen=True)
class Tool:
    """One tool; `parameters` is the schema of its arguments, as far as it is known."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Offer:
    """The tools of one schema, how a call is written, and how many calls there may be."""

    shape: Shape
    tools: tuple[Tool, ...]
    at_least: int
    at_most: int | None

    def encode(self, name: str, arguments: Any) -> dict[str, Any]:
        """One item of `tool_calls`. Arguments given as a string stay as they are."""
        if self.shape == "keyed":
            return {name: arguments}
        if self.shape == "text" and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        return {"name": name, "arguments": arguments}


def read_offer(schema: Mapping[str, Any]) -> Offer | None:
    """The offer in a root schema, None when it makes none."""
    calls = _properties(schema).get(CALLS)
    if not isinstance(calls, Mapping) or not isinstance(calls.get("items"), Mapping):
        return None
    items = calls["items"]
    found = _read_items(items)
    if found is None:
        return None
    shape, tools = found
    return Offer(shape, tuple(tools), int(calls.get("minItems", 0)), calls.get("maxItems"))


def _read_items(items: Mapping[str, Any]) -> tuple[Shape, list[Tool]] | None:
    branches = items.get("anyOf") or items.get("oneOf")
    if isinstance(branches, list):
        return "tagged", [tool for branch in branches for tool in _named(branch)]
    properties = _properties(items)
    if {"name", "arguments"} == set(properties) and _choices(_part(items, "name")):
        shape: Shape = "text" if _part(items, "arguments").get("type") == "string" else "tagged"
        return shape, list(_named(items))
    if properties:
        return "keyed", [Tool(name, _described(_part(items, name)), _part(items, name)) for name in properties]
    return None


def _named(branch: Any) -> Iterator[Tool]:
    name, arguments = _part(branch, "name"), _part(branch, "arguments")
    parameters = {} if arguments.get("type") == "string" else arguments
    choices = _choices(name)
    # What describes several tools together tells nothing of one of them.
    description = " ".join(map(_described, (branch, name, arguments))).strip() if len(choices) == 1 else ""
    for choice in choices:
        yield Tool(choice, description, parameters)


def _described(schema: Mapping[str, Any]) -> str:
    return str(schema.get("description", ""))


def _part(schema: Any, name: str) -> Mapping[str, Any]:
    part = _properties(schema).get(name)
    return part if isinstance(part, Mapping) else {}


def _choices(schema: Mapping[str, Any]) -> list[str]:
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return [choice for choice in choices if isinstance(choice, str)]


def _properties(schema: Any) -> Mapping[str, Any]:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def descriptions(schema: Any) -> Iterator[str]:
    """All descriptions in a schema."""
    todo = [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, Mapping):
            if isinstance(node.get("description"), str):
                yield node["description"]
            todo += node.values()
        elif isinstance(node, list):
            todo += node


def told_parameters(name: str, texts: Sequence[str]) -> Mapping[str, Any]:
    """The parameters of a tool that are told in words: a JSON Schema after the tool's name, or beside it in a JSON object.

    Args:
        name: the tool.
        texts: where to look.

    Returns:
        The schema, empty when none is found.
    """
    mention = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
    for text in texts:
        for found in mention.finditer(text):
            schema = _schema_after(text, found.end()) or _schema_around(text, found.start(), name)
            if schema is not None:
                return schema
    return {}


def _schema_after(text: str, start: int) -> Mapping[str, Any] | None:
    brace = text.find("{", start, start + 2_000)
    return _as_parameters(_json_at(text, brace))


def _schema_around(text: str, start: int, name: str) -> Mapping[str, Any] | None:
    brace = text.rfind("{", 0, start)
    tool = _json_at(text, brace)
    if isinstance(tool, Mapping) and tool.get("name") == name:
        for key in ("parameters", "input_schema", "arguments"):
            schema = _as_parameters(tool.get(key))
            if schema is not None:
                return schema
    return None


def _json_at(text: str, brace: int) -> Any:
    if brace < 0:
        return None
    try:
        return json.JSONDecoder().raw_decode(text, brace)[0]
    except (json.JSONDecodeError, RecursionError):
        return None


def _as_parameters(value: Any) -> Mapping[str, Any] | None:
    is_schema = isinstance(value, Mapping) and (
        value.get("type") == "object" or isinstance(value.get("properties"), Mapping)
    )
    return value if is_schema else None

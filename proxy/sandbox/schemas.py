"""Which `output_format_schema` is taken (contract narrative.md, section What output_format_schema may use)."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urldefrag

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from proxy.sandbox.options import SandboxOptions
from proxy.sandbox.refusal import ModelRefusal

INVALID_SCHEMA = "Invalid schema"
MAX_DEPTH = 64
"""Levels of nested subschemas that are read before a schema counts as malformed."""

_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_type(value: Any) -> bool:
    if isinstance(value, list):
        return _is_names(value) and bool(value) and _TYPES.issuperset(value)
    return isinstance(value, str) and value in _TYPES


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict)


_DOCUMENTED: Mapping[str, Callable[[Any], bool]] = {
    "type": _is_type,
    "properties": lambda value: isinstance(value, dict) and all(map(_is_schema, value.values())),
    "required": _is_names,
    "additionalProperties": lambda value: isinstance(value, bool | dict),
    "items": _is_schema,
    "enum": lambda value: isinstance(value, list) and bool(value),
    "minLength": _is_count,
    "maxLength": _is_count,
    "pattern": _is_text,
    "minimum": _is_number,
    "maximum": _is_number,
    "exclusiveMinimum": _is_number,
    "exclusiveMaximum": _is_number,
    "multipleOf": lambda value: _is_number(value) and value > 0,
    "minItems": _is_count,
    "maxItems": _is_count,
    "uniqueItems": lambda value: isinstance(value, bool),
    "description": _is_text,
    "title": _is_text,
}
"""Documented keyword → whether a value fits it."""


def check_schema(schema: Mapping[str, Any], size: int, options: SandboxOptions) -> None:
    """Refuses a schema that Narrative would not take.

    Args:
        schema: the `output_format_schema`.
        size: its length as JSON, in bytes.
        options: `schema_keywords`, `type_lists` and `max_schema_bytes` count.

    Raises:
        ModelRefusal: *Invalid schema*, with the path of what is wrong.
    """
    if options.max_schema_bytes is not None and size > options.max_schema_bytes:
        raise _invalid("#", f"the schema is too large: {size} bytes of at most {options.max_schema_bytes}")
    if schema.get("type") != "object":
        raise _invalid("#", "the root must be of type object")
    if options.schema_keywords == "documented":
        _check_documented(schema, options)
    else:
        _check_full(schema)


def _invalid(path: str, what: str) -> ModelRefusal:
    return ModelRefusal(INVALID_SCHEMA, f"{path}: {what}")


def _check_documented(schema: Mapping[str, Any], options: SandboxOptions) -> None:
    # Iterative, because the nesting is the caller's.
    todo: list[tuple[str, int, Mapping[str, Any]]] = [("#", 0, schema)]
    while todo:
        path, depth, node = todo.pop()
        if depth > MAX_DEPTH:
            raise _invalid(path, "the schema is nested too deeply")
        for keyword, value in node.items():
            fits = _DOCUMENTED.get(keyword)
            if fits is None:
                raise _invalid(path, f"keyword {keyword!r} is not supported")
            if not fits(value):
                raise _invalid(f"{path}/{keyword}", "not a valid value for this keyword")
        if isinstance(node.get("type"), list) and not options.type_lists:
            raise _invalid(f"{path}/type", "must be a single type")
        todo += [(f"{path}/{name}", depth + 1, below) for name, below in _below(node)]


def _below(node: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, schema in node.get("properties", {}).items():
        yield f"properties/{name}", schema
    for keyword in ("items", "additionalProperties"):
        if isinstance(node.get(keyword), dict):
            yield keyword, node[keyword]


def _check_full(schema: Mapping[str, Any]) -> None:
    try:
        Draft202012Validator.check_schema(schema)
        remote = next(_remote_references(schema), None)
    except SchemaError as fault:
        raise _invalid(fault.json_path.replace("$", "#", 1), fault.message) from fault
    except RecursionError as fault:
        raise _invalid("#", "the schema is nested too deeply") from fault
    if remote is not None:
        raise _invalid("#", f"the reference {remote!r} is not inside the schema")


def _remote_references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        reference = node.get("$ref")
        if isinstance(reference, str) and urldefrag(reference).url:
            yield reference
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _remote_references(item)

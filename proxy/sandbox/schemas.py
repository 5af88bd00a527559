"""Which `output_format_schema` is accepted, and whether a value matches one."""

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import re2  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.exceptions import SchemaError
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from proxy.sandbox.http import ModelRejection, SandboxOptions

INVALID_SCHEMA = "Invalid schema"
MAX_DEPTH = 64
"""Levels of nested subschemas above which a schema counts as malformed."""

_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})
_LONGEST_BACKTRACKING = 16
"""Characters that are matched against a pattern RE2 does not support: some 2^16 steps at worst."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and _is_names(names) and _TYPES.issuperset(names)


_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

_DOCUMENTED: Mapping[str, Callable[[Any], bool]] = {
    "type": _is_type,
    "properties": lambda value: isinstance(value, dict) and all(isinstance(part, dict) for part in value.values()),
    "required": _is_names,
    "additionalProperties": lambda value: isinstance(value, bool | dict),
    "items": lambda value: isinstance(value, dict),
    "enum": lambda value: isinstance(value, list) and bool(value),
    "multipleOf": lambda value: _is_number(value) and value > 0,
    "uniqueItems": lambda value: isinstance(value, bool),
    **dict.fromkeys(_COUNTS, _is_count),
    **dict.fromkeys(_BOUNDS, _is_number),
    **dict.fromkeys(("pattern", "description", "title"), _is_text),
}
"""Documented keyword → whether a value is valid for it."""


def check_schema(schema: Mapping[str, Any], size: int, options: SandboxOptions) -> None:
    """Refuses an output schema, of `size` bytes as JSON, that Narrative would not accept.
    Raises ModelRejection: *Invalid schema*, with the path of what is wrong.
    """
    if options.max_schema_bytes is not None and size > options.max_schema_bytes:
        raise _invalid("#", f"the schema is too large: {size} bytes of at most {options.max_schema_bytes}")
    if schema.get("type") != "object":
        raise _invalid("#", "the root must be of type object")
    if options.schema_keywords == "documented":
        return _check_documented(schema, options)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as fault:
        raise _invalid(fault.json_path.replace("$", "#", 1), fault.message) from fault
    except RecursionError as fault:
        raise _invalid("#", "the schema is nested too deeply") from fault
    return None


def _invalid(path: str, message: str) -> ModelRejection:
    return ModelRejection(INVALID_SCHEMA, f"{path}: {message}")


def _check_documented(schema: Mapping[str, Any], options: SandboxOptions) -> None:
    # Iterative, because the client chooses the nesting.
    pending: list[tuple[str, int, Mapping[str, Any]]] = [("#", 0, schema)]
    while pending:
        path, depth, node = pending.pop()
        if depth > MAX_DEPTH:
            raise _invalid(path, "the schema is nested too deeply")
        for keyword, value in node.items():
            is_valid = _DOCUMENTED.get(keyword)
            if is_valid is None:
                raise _invalid(path, f"keyword {keyword!r} is not supported")
            if not is_valid(value):
                raise _invalid(f"{path}/{keyword}", "not a valid value for this keyword")
        if isinstance(node.get("type"), list) and not options.type_lists:
            raise _invalid(f"{path}/type", "must be a single type")
        pending += [
            (f"{path}/properties/{name}", depth + 1, below) for name, below in node.get("properties", {}).items()
        ]
        for keyword in ("items", "additionalProperties"):
            if isinstance(node.get(keyword), dict):
                pending.append((f"{path}/{keyword}", depth + 1, node[keyword]))


# ---------------------------------------------------------------- checking values


def matches_pattern(pattern: str, text: str, *, undecided: bool = True) -> bool:
    """Whether a client's pattern matches somewhere in a text, in bounded time: RE2 decides; a pattern that it does not support
    (such as one with look-ahead) is tried on short texts only, and gives `undecided` for others.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options).search(text) is not None
    except re2.error:
        pass
    if len(text) > _LONGEST_BACKTRACKING:
        return undecided
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            return re.search(pattern, text) is not None
    except (re.error, RecursionError, OverflowError):
        return undecided


def _check_pattern(validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not matches_pattern(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


_Checker: Any = validators.extend(Draft202012Validator, {"pattern": _check_pattern})  # type: ignore[no-untyped-call]


def is_valid(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value matches a schema, whose patterns take bounded time; one with references outside it matches nothing."""
    plain = {name: part for name, part in schema.items() if name != "$schema"}
    try:
        return bool(_Checker(plain, registry=EMPTY_REGISTRY).is_valid(value))
    except Unresolvable:
        return False

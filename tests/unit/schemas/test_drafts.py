"""What schema generators write is accepted in any draft, and means what it was written for."""

from typing import Any

import pytest

from proxy.schemas import Validation, compile_schema, validate
from tests.unit.schemas.strategies import DRAFTS

MEANT: list[tuple[str, dict[str, Any], Any, Any]] = [
    ("a boolean exclusiveMinimum", {"minimum": 3, "exclusiveMinimum": True}, 4, 3),
    ("a boolean exclusiveMaximum", {"maximum": 3, "exclusiveMaximum": True}, 2, 3),
    ("an exclusiveMinimum that is false", {"minimum": 3, "exclusiveMinimum": False}, 3, 2),
    ("a numeric exclusiveMinimum", {"exclusiveMinimum": 3}, 4, 3),
    ("items as a list", {"items": [{"type": "string"}, {"type": "null"}]}, ["a", None, 1], [None]),
    ("additionalItems", {"items": [{}], "additionalItems": False}, [1], [1, 2]),
    ("required on a property", {"properties": {"a": {"required": True}, "b": {"required": False}}}, {"a": 1}, {"b": 1}),
    ("any", {"properties": {"a": {"type": "any"}, "b": {"type": "null"}}}, {"a": []}, {"b": 1}),
    ("any among others", {"type": ["any", "null"], "maxLength": 1}, 1, "ab"),
    ("repeated values", {"enum": ["a", "a", "b"]}, "b", "c"),
    ("repeated types", {"type": ["string", "string"]}, "b", 1),
    ("repeated names", {"required": ["a", "a"]}, {"a": 1}, {}),
    ("boolean subschemas", {"properties": {"a": True, "b": False}}, {"a": 1}, {"b": 1}),
    ("dependencies of names", {"dependencies": {"a": ["b"]}}, {"a": 1, "b": 1}, {"a": 1}),
    ("dependencies of schemas", {"dependencies": {"a": {"required": ["b"]}}}, {"b": 1}, {"a": 1}),
]


@pytest.mark.parametrize("draft", [*DRAFTS.values(), None])
@pytest.mark.parametrize(("schema", "valid", "invalid"), [case[1:] for case in MEANT], ids=[case[0] for case in MEANT])
def test_what_generators_write_is_accepted_in_any_draft(
    draft: str | None, schema: dict[str, Any], valid: Any, invalid: Any
) -> None:
    compiled = compile_schema(schema if draft is None else {**schema, "$schema": draft}, param="s")
    assert validate(compiled, valid) == Validation()
    assert validate(compiled, invalid).errors


def test_the_compiled_schema_says_what_was_meant() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "number", "minimum": 1, "exclusiveMinimum": True, "required": True},
            "b": {"type": "any"},
            "c": {"type": "string", "enum": ["x", "x"]},
        },
    }
    assert compile_schema(schema, param="s").schema == {
        "type": "object",
        "properties": {"a": {"type": "number", "exclusiveMinimum": 1}, "b": {}, "c": {"type": "string", "enum": ["x"]}},
        "required": ["a"],
    }


@pytest.mark.parametrize("uri", DRAFTS.values())
def test_metaschemas_can_be_referred_to(uri: str) -> None:
    compiled = compile_schema({"type": "object", "properties": {"schema": {"$ref": uri}}}, param="s")
    assert compiled.is_object
    assert validate(compiled, {"schema": {"type": "string", "properties": {"a": {"minLength": 1}}}}) == Validation()
    assert validate(compiled, {"schema": {"minLength": -1}}).errors
    assert validate(compiled, {"schema": {"properties": {"a": {"minLength": -1}}}}).errors


def test_a_dynamic_reference_names_the_anchor_of_the_outermost_schema() -> None:
    tree = {
        "$id": "https://x.example/tree",
        "$dynamicAnchor": "node",
        "properties": {"data": True, "children": {"items": {"$dynamicRef": "#node"}}},
    }
    strict = {
        "$id": "https://x.example/strict",
        "$dynamicAnchor": "node",
        "$ref": "tree",
        "unevaluatedProperties": False,
        "$defs": {"tree": tree},
    }
    compiled = compile_schema(strict, param="s")
    assert validate(compiled, {"children": [{"data": 1}]}) == Validation()
    assert validate(compiled, {"children": [{"daat": 1}]}).errors

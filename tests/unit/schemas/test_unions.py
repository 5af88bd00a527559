"""Unions become the tightest shape that takes all their values."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from proxy.schemas import compile_schema, validate

CAT = {
    "title": "Cat",
    "type": "object",
    "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
    "required": ["kind"],
}
DOG = {
    "title": "Dog",
    "type": "object",
    "properties": {"kind": {"const": "dog"}, "bark": {"type": "string"}},
    "required": ["kind", "bark"],
}
CLOSED = {"additionalProperties": False}


def compiled(schema: Any) -> dict[str, Any]:
    return compile_schema(schema, param="s").schema


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([{"type": "string"}, {"type": "null"}], {"type": ["string", "null"]}),
        (
            [{"type": "null"}, {"title": "T", "description": "D", "type": "integer"}],
            {"title": "T", "description": "D", "type": ["integer", "null"]},
        ),
        ([{"enum": ["a"]}, {"type": "null"}], {"type": ["string", "null"], "enum": ["a", None]}),
        ([{"const": "a"}, {"const": "b"}, {"const": 3}], {"type": ["string", "integer"], "enum": ["a", "b", 3]}),
        ([{"enum": ["a"]}, {"type": "boolean"}], {"type": ["string", "boolean"], "enum": ["a", False, True]}),
        ([{"type": "integer"}, {"type": "number"}], {"type": "number"}),
        (
            [{"type": "integer", "minimum": 3}, {"type": "string", "maxLength": 2}],
            {"type": ["string", "integer"], "maxLength": 2, "minimum": 3},
        ),
        (
            [{"type": "array", "items": {"type": "string"}}, {"type": "string"}],
            {"type": ["array", "string"], "items": {"type": "string"}},
        ),
        ([{"type": "string", "maxLength": 3}, {"type": "string", "maxLength": 5}], {"type": "string", "maxLength": 5}),
        ([False, {"type": "string"}], {"type": "string"}),
        ([{"required": ["a"], "properties": {"a": False}, "type": "object"}, {"type": "string"}], {"type": "string"}),
    ],
)
def test_unions_that_one_shape_says_exactly_lose_nothing(members: list[Any], expected: dict[str, Any]) -> None:
    for keyword in ("anyOf", "oneOf"):
        result = compile_schema({keyword: members}, param="s")
        assert result.schema == expected


def test_values_that_are_no_longer_listed_are_noted() -> None:
    schema = compiled({"anyOf": [{"enum": ["low", "high"]}, {"type": "string"}]})
    assert schema == {"description": 'One of: "low" | "high" | string.', "type": "string"}


def test_titles_and_descriptions_of_listed_values_are_noted() -> None:
    schema = compiled(
        {"oneOf": [{"const": "a", "description": "the first"}, {"const": "b", "description": "the second"}]}
    )
    assert schema["description"] == 'One of: "a" (the first) | "b" (the second).'
    assert schema["enum"] == ["a", "b"]


def test_closed_objects_keep_the_types_of_all_properties_and_merge_the_discriminator() -> None:
    schema = compiled({"oneOf": [CAT | CLOSED, DOG | CLOSED], "discriminator": {"propertyName": "kind"}})
    assert schema == {
        "description": 'One of: Cat {kind: "cat", lives?: integer} | Dog {kind: "dog", bark: string}.',
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": ["cat", "dog"]},
            "lives": {"type": "integer"},
            "bark": {"type": "string"},
        },
        "required": ["kind"],
        "additionalProperties": False,
    }


def test_open_objects_leave_open_what_the_others_do_not_declare_and_tell_what_was_meant() -> None:
    schema = compiled({"anyOf": [CAT, DOG]})
    assert schema["properties"]["lives"] == {"description": "Integer."}
    assert "additionalProperties" not in schema


def test_a_union_root_still_has_its_parameters() -> None:
    """A union root advertised with no parameters makes the tool uncallable."""
    result = compile_schema({"anyOf": [CAT | CLOSED, DOG | CLOSED]}, param="s")
    assert result.is_object
    assert set(result.schema["properties"]) == {"kind", "lives", "bark"}


def test_branches_of_a_condition_are_merged() -> None:
    schema = compiled(
        {
            "if": {"properties": {"kind": {"const": "cat"}}},
            "then": {"properties": {"kind": {"enum": ["cat"]}}} | CLOSED,
            "else": {"properties": {"kind": {"enum": ["dog"]}}} | CLOSED,
            "type": "object",
        }
    )
    assert schema["properties"] == {"kind": {"type": "string", "enum": ["cat", "dog"]}}
    assert schema["description"] == 'If {kind?: "cat"}, then {kind?: "cat"}, else {kind?: "dog"}.'


def test_a_free_form_object_is_never_one_that_can_only_be_empty() -> None:
    for schema in (
        {"type": "object"},
        {"anyOf": [{"type": "object"}, {"type": "null"}]},
        {"type": "object", "minProperties": 1},
    ):
        assert compiled(schema)["additionalProperties"] is True


def test_alternatives_keep_their_own_descriptions_defaults_and_conditions() -> None:
    members = [
        {"type": "string", "description": "A name.", "default": "x", "not": {"const": "y"}},
        {"type": "array", "items": {"type": "integer"}, "contains": {"const": 3}},
        {"type": "object", "title": "Box", "description": "A box of things."},
    ]
    assert compiled({"anyOf": members})["description"] == (
        'One of: string (A name; Default: "x"; Not: "y") | integer[] of at least 1 item (At least 1 item of this form: 3)'
        " | Box (A box of things)."
    )


def test_a_property_of_two_alternatives_keeps_what_both_say() -> None:
    one, other = (
        {"type": "object", "properties": {"a": {"type": "string", "default": text}}} | CLOSED for text in "xy"
    )
    assert compiled({"anyOf": [one, other]})["properties"]["a"] == {
        "description": 'Default: "x". Default: "y".',
        "type": "string",
    }


def test_unions_of_open_objects_keep_nested_properties() -> None:
    deep = {"type": "object", "properties": {"size": {"type": "object", "properties": {"cm": {"type": "integer"}}}}}
    members = [
        {"type": "object", "properties": {"box": deep}},
        {"type": "object", "properties": {"name": {"type": "string"}}},
    ]
    result = compile_schema({"anyOf": members}, param="s")
    box = result.schema["properties"]["box"]
    assert box["properties"]["size"]["properties"]["cm"] == {"description": "Integer."}
    assert "type" not in box
    assert "type" not in box["properties"]["size"]
    for value in (
        {"name": "x", "box": 1},
        {"name": "x", "box": {"size": "big"}},
        {"box": {"size": {"cm": "two"}}, "name": "x"},
    ):
        assert not validate(result, value).errors
        Draft202012Validator(result.schema).validate(value)


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_a_condition_without_else_is_described_at_any_depth(depth: int) -> None:
    schema: Any = {
        "type": "object",
        "if": {"properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
        "then": {"required": ["lives"]},
    }
    for level in range(depth):
        schema = {"type": "array", "items": schema} if level % 2 else {"type": "object", "properties": {"a": schema}}
    assert 'If {kind: "cat"}, then {lives}.' in str(compiled(schema))
    alternatives = {"anyOf": [schema, {"type": "null"}], "description": "D"}
    assert 'If {kind: "cat"}, then {lives}.' in str(compiled(alternatives))
    nested = {
        "type": "object",
        "if": {"required": ["x"]},
        "then": {"if": {"required": ["y"]}, "then": {"required": ["z"]}},
    }
    assert "If {y}, then {z}" in compiled(nested)["description"]


@pytest.mark.parametrize("pattern", [".*", "^.*$", "", "^(.*)$"])
def test_a_universal_pattern_is_additional_properties(pattern: str) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"maxLength": 3}},
        "patternProperties": {pattern: {"type": "string"}},
    }
    result = compile_schema(schema, param="s")
    assert result.schema == {
        "type": "object",
        "properties": {"a": {"type": "string", "maxLength": 3}},
        "additionalProperties": {"type": "string"},
    }


def test_other_patterns_leave_other_properties_open() -> None:
    schema = {"type": "object", "patternProperties": {"^x": {"type": "string"}}}
    assert compiled(schema)["additionalProperties"] is True

"""Unions become the tightest shape that takes all their values."""

from typing import Any

import pytest

from proxy.schemas import compile_schema

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
    assert not compile_schema({"anyOf": members}, param="s").lossy


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

"""Each keyword becomes what `docs/schemas.md` says of it."""

from typing import Any

import pytest

from proxy.schemas import Dialect, compile_schema

D4, D7 = "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#"
D19 = "https://json-schema.org/draft/2019-09/schema"


def compiled(schema: Any, dialect: Dialect = "documented") -> dict[str, Any]:
    return compile_schema(schema, param="s", dialect=dialect).schema


KEPT: list[dict[str, Any]] = [
    {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^a"},
    {"type": ["string", "null"]},
    {"type": "integer", "minimum": 0, "maximum": 9},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1.5, "multipleOf": 0.5},
    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3, "uniqueItems": True},
    {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "null"}}, "required": ["a", "z"]},
    {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False},
    {"type": "object", "properties": {}, "additionalProperties": False},
    {"type": "object", "additionalProperties": {"type": "number"}},
    {"type": "object", "additionalProperties": True},
    {"title": "T", "description": "D", "type": "string", "enum": ["a", "b"]},
    {"minLength": 2},
    {},
]


@pytest.mark.parametrize("schema", KEPT, ids=repr)
def test_documented_keywords_are_kept_with_their_order_titles_and_descriptions(schema: dict[str, Any]) -> None:
    result = compile_schema(schema, param="s")
    assert result.schema == schema
    assert list(result.schema.get("properties", {})) == list(schema.get("properties", {}))


SAID_OTHERWISE: list[tuple[str, Any, dict[str, Any]]] = [
    ("true takes anything", True, {}),
    ("a constant is a list of one", {"const": "a"}, {"type": "string", "enum": ["a"]}),
    ("a constant of draft 4 is no keyword", {"$schema": D4, "const": "a"}, {}),
    ("listed values of other types fall away", {"type": "string", "enum": ["a", 1]}, {"type": "string", "enum": ["a"]}),
    ("listed values out of bounds fall away", {"enum": [1, 5, 9], "maximum": 5}, {"type": "integer", "enum": [1, 5]}),
    ("1 and 1.0 are one value", {"enum": [1], "const": 1.0}, {"type": "integer", "enum": [1]}),
    ("true is not 1", {"allOf": [{"enum": [1, True]}, {"enum": [True]}]}, {"type": "boolean", "enum": [True]}),
    ("nullable is null too", {"type": "string", "nullable": True}, {"type": ["string", "null"]}),
    (
        "draft 4 excludes by a boolean",
        {
            "$schema": D4,
            "type": "number",
            "minimum": 3,
            "exclusiveMinimum": True,
            "maximum": 4,
            "exclusiveMaximum": False,
        },
        {"type": "number", "exclusiveMinimum": 3, "maximum": 4},
    ),
    ("a whole float is a count", {"minLength": 2.0}, {"minLength": 2}),
    (
        "a required property is declared",
        {"type": "object", "required": ["a"], "additionalProperties": {"type": "null"}},
        {
            "type": "object",
            "properties": {"a": {"type": "null"}},
            "required": ["a"],
            "additionalProperties": {"type": "null"},
        },
    ),
    (
        "an optional property that may not be is left out of a closed object",
        {"type": "object", "properties": {"a": False, "b": True}, "additionalProperties": False},
        {"type": "object", "properties": {"b": {}}, "additionalProperties": False},
    ),
    (
        "listed property names are the properties",
        {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "number"}},
        {
            "type": "object",
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
            "additionalProperties": False,
        },
    ),
    ("no items is an empty array", {"type": "array", "items": False}, {"type": "array", "maxItems": 0}),
    (
        "unevaluated properties are additional ones where no other schema declares any",
        {"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
    ),
    (
        "all of several are merged",
        {
            "allOf": [
                {"type": "object", "properties": {"a": {"minimum": 1}}},
                {"properties": {"a": {"maximum": 3, "type": "integer"}}},
            ]
        },
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1, "maximum": 3}}},
    ),
    (
        "a closed object does not see the properties of allOf",
        {
            "type": "object",
            "properties": {"a": {}},
            "additionalProperties": False,
            "allOf": [{"properties": {"b": {}}}],
        },
        {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
    ),
    (
        "multiples of two integers are of their least common one",
        {"multipleOf": 4, "allOf": [{"multipleOf": 6}]},
        {"multipleOf": 12},
    ),
    ("not a type", {"type": ["string", "null"], "not": {"type": "null"}}, {"type": "string"}),
    (
        "not a property",
        {"properties": {"a": {}}, "additionalProperties": False, "not": {"required": ["a"]}},
        {"type": "object", "properties": {}, "additionalProperties": False},
    ),
    (
        "what stands beside a reference is ignored up to draft 7",
        {"$schema": D7, "$ref": "#/definitions/a", "type": "null", "definitions": {"a": {}}},
        {},
    ),
    (
        "and counts in later drafts",
        {"$schema": D19, "$ref": "#/$defs/a", "maxLength": 3, "$defs": {"a": {"type": "string"}}},
        {"type": "string", "maxLength": 3},
    ),
]


@pytest.mark.parametrize(
    ("schema", "expected"), [case[1:] for case in SAID_OTHERWISE], ids=[case[0] for case in SAID_OTHERWISE]
)
def test_what_can_be_expressed_in_documented_keywords_is(schema: Any, expected: dict[str, Any]) -> None:
    result = compile_schema(schema, param="s")
    assert result.schema == expected


NOTED: list[tuple[Any, str]] = [
    ({"type": "string", "format": "date-time"}, "Of format date-time."),
    ({"type": "string", "pattern": "^(?!x)"}, "Matching ^(?!x)."),
    ({"type": "string", "pattern": "a", "allOf": [{"pattern": "b"}]}, "Matching b."),
    ({"type": "object", "minProperties": 1, "maxProperties": 2}, "1 to 2 properties."),
    ({"type": "object", "patternProperties": {"^x-": {"type": "string"}}}, "Properties named like ^x-: string."),
    ({"type": "object", "propertyNames": {"maxLength": 3}}, "Property names: string of at most 3 characters."),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, 'With "a": also "b".'),
    ({"type": "object", "dependentSchemas": {"a": {"required": ["b"]}}}, 'With "a": {b}.'),
    ({"$schema": D7, "type": "object", "dependencies": {"a": ["b"]}}, 'With "a": also "b".'),
    ({"type": "array", "prefixItems": [{"type": "number"}, {"enum": ["x"]}]}, 'Items in order: number, "x".'),
    ({"$schema": D7, "type": "array", "items": [{"type": "number"}]}, "Items in order: number."),
    ({"type": "array", "contains": {"type": "integer"}}, "At least 1 item of this form: integer."),
    ({"type": "array", "unevaluatedItems": False}, "No items but those described."),
    ({"type": "object", "allOf": [{}], "unevaluatedProperties": False}, "No properties but those described."),
    ({"type": "object", "properties": {"a": False}}, 'Without "a".'),
    ({"type": "integer", "not": {"enum": [1, 2]}}, "Not: 1 | 2."),
    (
        {"type": "object", "if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}},
        "If {a?: 1}, then {b}.",
    ),
    ({"type": "number", "maximum": 10**30}, "<= 1000000000000000000000000000000."),
    ({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, "One of: {a} | {b}."),
]


@pytest.mark.parametrize(("schema", "words"), NOTED, ids=[words for _, words in NOTED])
def test_what_is_lost_is_noted_in_the_description(schema: Any, words: str) -> None:
    result = compile_schema(schema, param="s")
    assert result.schema["description"] == words


def test_words_follow_the_description_and_are_bounded() -> None:
    pattern = "^(?!" + "x" * 190 + ")"
    schema = {
        "type": "string",
        "description": "D",
        "format": "uri",
        "allOf": [{"pattern": f"{pattern}{i}"} for i in range(9)],
    }
    description = compiled(schema)["description"]
    assert description.startswith("D\nOf format uri. Matching")
    assert len(description) <= 2 + 600


def test_annotations_are_noted() -> None:
    schema = {
        "type": "string",
        "default": "x",
        "examples": ["a", "b", "c", "d"],
        "deprecated": True,
        "contentEncoding": "base64",
    }
    result = compile_schema(schema, param="s")
    assert result.schema["description"] == 'Default: "x". Examples: "a", "b", "c". Encoding: base64. Deprecated.'


def test_a_tuple_of_known_length_has_items_of_any_of_its_shapes() -> None:
    schema = {"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}], "minItems": 2, "maxItems": 2}
    assert compiled(schema)["items"] == {"type": ["string", "number"]}


def test_the_full_mode_lets_unions_constants_and_formats_through() -> None:
    schema = {
        "type": "object",
        "properties": {
            "when": {"type": "string", "format": "date"},
            "kind": {"const": "a"},
            "either": {"anyOf": [{"type": "string", "maxLength": 1}, {"type": "string", "minLength": 5}]},
            "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    }
    assert compiled(schema, "full")["properties"] == {
        "when": {"type": "string", "format": "date"},
        "kind": {"type": "string", "const": "a"},
        "either": {"type": "string", "anyOf": [{"type": "string", "maxLength": 1}, {"type": "string", "minLength": 5}]},
        "maybe": {"type": ["string", "null"]},
    }

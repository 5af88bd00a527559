"""The dialect of Anthropic's structured outputs: one type a schema, closed objects, `anyOf`, no bounds."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic import transform_schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.schemas import Validation, coerce, compile_schema, validate
from tests.unit.schemas.strategies import schemas

ALLOWED = {"type", "anyOf", "enum", "properties", "required", "additionalProperties", "items", "minItems", "format"}
ALLOWED |= {"title", "description"}


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    yield schema
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    for member in [*inner, *([schema["items"]] if "items" in schema else [])]:
        yield from nodes(member)


def assert_fits(schema: Any) -> None:
    """What the API and the SDK ask of a schema."""
    transform_schema(json.loads(json.dumps(schema)))
    for node in nodes(schema):
        assert node.keys() <= ALLOWED
        assert isinstance(node.get("type", ""), str)
        assert sum(keyword in node for keyword in ("type", "anyOf", "enum")) == 1
        assert node.get("type") != "object" or node["additionalProperties"] is False
        assert node.get("minItems", 1) == 1
        assert all(not isinstance(value, dict | list) for value in node.get("enum", ()))


def compiled(schema: Any) -> dict[str, Any]:
    return compile_schema(schema, param="s", dialect="anthropic").schema


WRITTEN: list[tuple[Any, Any]] = [
    ({"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
    ({"type": "integer", "minimum": 1}, {"type": "integer", "description": ">= 1."}),
    ({"type": "string", "format": "date", "maxLength": 9}, {"type": "string", "format": "date", "description": "Of at most 9 characters."}),
    ({"type": "string", "format": "iri"}, {"type": "string", "description": "Of format iri."}),
    ({"enum": ["a", 1, None]}, {"enum": ["a", 1, None]}),
    ({"const": "a"}, {"enum": ["a"]}),
    ({"type": "array", "items": {"type": "null"}, "minItems": 1}, {"type": "array", "items": {"type": "null"}, "minItems": 1}),
    ({"type": "array", "items": {"type": "null"}, "minItems": 2}, {"type": "array", "items": {"type": "null"}, "description": "Of at least 2 items."}),
    ({"type": "object", "properties": {"a": {"type": "null"}}}, {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": False}),
    ({"type": "object", "properties": {}, "additionalProperties": False}, {"type": "object", "properties": {}, "additionalProperties": False}),
    ({"type": "object"}, {"type": "string", "description": "A JSON object, as text."}),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "expected"), WRITTEN, ids=[str(case[0]) for case in WRITTEN])
def test_a_schema_is_written_in_the_dialect(schema: Any, expected: Any) -> None:
    assert compiled(schema) == expected
    assert_fits(expected)


def test_a_property_that_may_be_anything_is_a_scalar_or_json_text() -> None:
    result = compile_schema({"type": "object", "properties": {"a": {}}}, param="s", dialect="anthropic")
    assert_fits(result.schema)
    assert [option["type"] for option in result.schema["properties"]["a"]["anyOf"]] == [
        "number",
        "boolean",
        "null",
        "string",
    ]
    for given_, meant in ((1, 1), (None, None), ("x", "x"), ('{"b": [1]}', {"b": [1]}), ("[1]", [1]), ('"x"', '"x"')):
        assert coerce(result, {"a": given_}) == {"a": meant}


def test_a_free_form_object_is_asked_for_as_json_text_and_parsed() -> None:
    """A free-form object closed with `additionalProperties: false` can only ever be empty."""
    schema = {
        "type": "object",
        "properties": {"env": {"type": "object", "additionalProperties": {"type": "string"}}},
        "required": ["env"],
    }
    result = compile_schema(schema, param="s", dialect="anthropic")
    assert result.schema["properties"]["env"] == {
        "type": "string",
        "description": "A JSON object, as text: {[name]: string}.",
    }
    value = coerce(result, {"env": '{"A": "b"}'})
    assert value == {"env": {"A": "b"}}
    assert validate(result, value) == Validation()


def test_unions_of_objects_stay_unions() -> None:
    members = [{"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]} for kind in ("a", "b")]
    schema = compiled({"type": "object", "properties": {"x": {"oneOf": members}}})
    assert_fits(schema)
    assert [option["properties"]["kind"]["enum"] for option in schema["properties"]["x"]["anyOf"]] == [["a"], ["b"]]


@given(st.data())
@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=60)
def test_any_schema_fits(data: st.DataObject) -> None:
    try:
        result = compile_schema(data.draw(schemas()), param="s", dialect="anthropic")
    except InvalidRequest:
        return
    assert_fits(result.schema)

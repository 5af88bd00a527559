"""References are resolved inside the schema, written out in place, and never fetched."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from proxy.errors import InvalidRequest
from proxy.schemas import SchemaLimits, compile_schema, validate

STRING = {"type": "string"}
NODE = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "title": "Node",
            "type": "object",
            "properties": {"value": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
            "required": ["value"],
        }
    },
}


def compiled(schema: Any, limits: SchemaLimits = SchemaLimits()) -> dict[str, Any]:
    return compile_schema(schema, param="s", limits=limits).schema


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a", "$defs": {"a": STRING}},
        {"$ref": "#/definitions/a", "definitions": {"a": STRING}},
        {"$ref": "#a", "$defs": {"x": {"$anchor": "a", **STRING}}},
        {"$ref": "#/properties/a", "$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": STRING}},
        {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": STRING}},
        {"$ref": "#/components/schemas/a", "components": {"schemas": {"a": STRING}}},
        {"$id": "http://x.example/root", "$ref": "http://x.example/root#/$defs/a", "$defs": {"a": STRING}},
        {"$id": "http://x.example/root", "$ref": "other", "$defs": {"a": {"$id": "other", **STRING}}},
        {"$id": "http://x.example/", "$ref": "a#/$defs/b", "$defs": {"a": {"$id": "a", "$defs": {"b": STRING}}}},
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "id": "http://x.example/r",
            "allOf": [{"$ref": "r#/definitions/a"}],
            "definitions": {"a": STRING},
        },
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "$ref": "#a",
            "definitions": {"x": {"$id": "#a", **STRING}},
        },
        {"$dynamicRef": "#a", "$defs": {"x": {"$dynamicAnchor": "a", **STRING}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": STRING}},
    ],
    ids=json.dumps,
)
def test_every_way_to_name_a_schema_inside_the_document_is_followed(schema: dict[str, Any]) -> None:
    result = compile_schema(schema, param="s")
    assert result.schema["type"] == "string"
    assert not validate(result, "x").errors
    assert validate(result, 1).errors


def test_the_same_schema_may_be_used_any_number_of_times() -> None:
    schema = {"type": "object", "properties": {name: {"$ref": "#/$defs/a"} for name in "xyz"}, "$defs": {"a": STRING}}
    assert compiled(schema)["properties"] == dict.fromkeys("xyz", STRING)


def test_a_pointer_through_items_past_a_property_called_id_is_followed() -> None:
    """`referencing` takes the property for an id there."""
    schema = {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "properties": {
            "list": {"items": {"properties": {"id": {"type": "integer"}, "name": STRING}}},
            "name": {"$ref": "#/properties/list/items/properties/name"},
        },
    }
    result = compile_schema(schema, param="s")
    assert result.schema["properties"]["name"] == STRING
    assert validate(result, {"name": 1}).errors


def test_what_is_written_out_stands_anywhere_in_a_larger_schema() -> None:
    """`#/$defs/X` points nowhere once parameters sit inside a larger schema."""
    outer = {"type": "object", "properties": {"arguments": compiled(NODE)}}
    assert "$ref" not in json.dumps(outer)
    Draft202012Validator(outer).validate({"arguments": {"value": 1, "kids": [{"value": 2, "kids": [{"value": 3}]}]}})


def test_recursion_is_written_out_to_a_depth_and_then_opened_in_words() -> None:
    schema = compiled(NODE, SchemaLimits(recursion_depth=2))
    inner = schema["properties"]["kids"]["items"]
    assert inner["required"] == ["value"]
    assert inner["properties"]["kids"]["items"] == {
        "title": "Node",
        "description": "A nested Node, of the form given above.",
        "type": "object",
        "additionalProperties": True,
    }
    deep: dict[str, Any] = {"value": 0}
    for value in range(40):
        deep = {"value": value, "kids": [deep]}
    Draft202012Validator(schema).validate(deep)
    assert not validate(compile_schema(NODE, param="s"), deep).errors


@pytest.mark.parametrize("count", [2, 5, 12])
def test_definitions_that_contain_each_other_stay_within_the_size_for_recursion(count: int) -> None:
    """Recursive schemas hang or overflow an inliner."""
    names = [f"t{number}" for number in range(count)]
    schema = {
        "$ref": "#/$defs/t0",
        "$defs": {
            name: {"type": "object", "properties": {f"p{other}": {"$ref": f"#/$defs/{other}"} for other in names}}
            for name in names
        },
    }
    assert len(json.dumps(compiled(schema))) <= 2 * 32_768


def test_too_large_a_result_is_opened_before_it_is_refused() -> None:
    defs = {
        f"a{i}": {
            "type": "object",
            "properties": {"x": {"$ref": f"#/$defs/a{i + 1}"}, "y": {"$ref": f"#/$defs/a{i + 1}"}},
        }
        for i in range(30)
    }
    schema = {"$ref": "#/$defs/a0", "$defs": {**defs, "a30": STRING}}
    assert len(json.dumps(compiled(schema))) <= 2_097_152


REFUSED = [
    ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "s.properties.a.$ref", "is not in the schema"),
    ({"$ref": "http://127.0.0.1:9/x.json"}, "s.$ref", "not fetched"),
    ({"$ref": "x.json#/a"}, "s.$ref", "not fetched"),
    ({"$ref": "http://["}, "s.$ref", "not fetched"),
    ({"$ref": "#/$defs/a/type", "$defs": {"a": STRING}}, "s.$ref", "is none"),
    ({"$ref": "#/$defs/a/enum/0", "$defs": {"a": {"enum": [[]]}}}, "s.$ref", "is none"),
    ({"$ref": "#/a/-1", "a": [{}]}, "s.$ref", "is not in the schema"),
    ({"$ref": "#"}, "s", "refers back to itself"),
    ({"anyOf": [STRING, {"$ref": "#"}]}, "s", "refers back to itself"),
    ({"$ref": "#/x/a", "x": {"a": {"type": "text"}}}, "s.x.a.type", "expected one of"),
    ({"$id": "http://x.example", "$defs": {"a": {"$id": "http://["}}}, "s.$defs.a.$id", "expected a URI"),
    (
        {
            "$defs": {"a": {"$id": "http://x.example/a", "$schema": "http://json-schema.org/draft-04/schema#"}},
            "$schema": "https://json-schema.org/draft/2020-12/schema",
        },
        "s.$defs.a.$schema",
        "expected the same draft",
    ),
]


@pytest.mark.parametrize(("schema", "param", "words"), REFUSED, ids=[case[2] for case in REFUSED])
def test_a_reference_that_cannot_be_followed_is_refused_with_its_path(schema: Any, param: str, words: str) -> None:
    """jsonschema fetches remote references by default."""
    with pytest.raises(InvalidRequest, match=words) as caught:
        compiled(schema)
    assert caught.value.param == param
    assert caught.value.code == "invalid_json_schema"


def test_definitions_that_nothing_uses_may_refer_to_nothing() -> None:
    assert compiled({**STRING, "$defs": {"unused": {"$ref": "#/$defs/gone"}}}) == STRING


def test_a_single_draft_named_inside_is_the_draft_of_a_schema_that_names_none() -> None:
    inner = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True}
    assert compiled({"properties": {"a": inner}})["properties"]["a"] == {"exclusiveMinimum": 1}


def test_dynamic_references_between_bundled_schemas_are_left_open() -> None:
    schema = {
        "$id": "http://x.example/strings",
        "$ref": "list",
        "$defs": {
            "item": {"$dynamicAnchor": "item", **STRING},
            "list": {
                "$id": "list",
                "type": "array",
                "items": {"$dynamicRef": "#item"},
                "$defs": {"item": {"$dynamicAnchor": "item", "type": "integer"}},
            },
        },
    }
    result = compile_schema(schema, param="s")
    assert not validate(result, ["x"]).errors
    Draft202012Validator(result.schema).validate(["x"])

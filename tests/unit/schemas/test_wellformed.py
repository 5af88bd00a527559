"""Malformed schemas are refused with their path, as the metaschema of their draft says."""

from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.schemas import compile_schema
from tests.unit.schemas.strategies import DRAFTS, json_values

VALIDATORS = {
    4: jsonschema.Draft4Validator,
    6: jsonschema.Draft6Validator,
    7: jsonschema.Draft7Validator,
    2019: jsonschema.Draft201909Validator,
    2020: jsonschema.Draft202012Validator,
}
KEYWORDS = (
    *("type", "enum", "const", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *(
        "minLength",
        "maxLength",
        "pattern",
        "items",
        "prefixItems",
        "additionalItems",
        "minItems",
        "maxItems",
        "uniqueItems",
    ),
    *("contains", "minContains", "maxContains", "unevaluatedItems", "properties", "required", "additionalProperties"),
    *("patternProperties", "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties", "dependencies"),
    *(
        "dependentRequired",
        "dependentSchemas",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "definitions",
        "$defs",
    ),
    *("format", "contentSchema"),
)
subschemas = st.sampled_from([{}, {"type": "string"}, True, False, {"minLength": -1}, {"type": "text"}])
values = (
    json_values
    | subschemas
    | st.lists(subschemas, max_size=2)
    | st.dictionaries(
        st.sampled_from(["a", "b"]), subschemas | st.lists(st.sampled_from(["a", "b"]), max_size=2), max_size=2
    )
    | st.lists(st.sampled_from(["a", "b", "string", "null"]), max_size=3)
    | st.sampled_from(["string", "integer", "any", 2.5, 10**20])
)


def refusal(schema: Any) -> InvalidRequest | None:
    try:
        compile_schema(schema, param="tools[3].function.parameters")
    except InvalidRequest as error:
        return error
    return None


@given(st.sampled_from(sorted(DRAFTS)), st.dictionaries(st.sampled_from(KEYWORDS), values, min_size=1, max_size=3))
@settings(
    suppress_health_check=list(HealthCheck),
    deadline=None,
    max_examples=300,
)
def test_a_schema_is_malformed_exactly_where_the_metaschema_of_its_draft_says_so(
    draft: int, keywords: dict[str, Any]
) -> None:
    schema = {"$schema": DRAFTS[draft], **keywords}
    assume(draft > 4 or "1.0" not in repr(schema))  # draft 4 alone calls 1.0 no integer
    assume(draft < 2020 or isinstance(keywords.get("items"), list) or "additionalItems" not in keywords)
    refused = refusal(schema)
    malformed = refused is not None and ": expected " in refused.message
    checker = VALIDATORS[draft](VALIDATORS[draft].META_SCHEMA)
    assert malformed == (not all(map(checker.is_valid, as_the_draft_has_it(schema, draft))))


def as_the_draft_has_it(schema: dict[str, Any], draft: int) -> list[dict[str, Any]]:
    """The schema with what is accepted in every draft spelled as this draft spells it; what it cannot spell as further schemas."""
    schema = dict(schema)
    further = []
    for keyword in ("exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(schema.get(keyword), bool | int | float):
            del schema[keyword]
    if draft == 2020 and isinstance(schema.get("items"), list):
        further = [{"prefixItems": schema.pop("items")}, {"not": schema.pop("additionalItems", {})}]
    if isinstance(schema.get("required"), bool):
        del schema["required"]
    if isinstance(schema.get("enum"), list):
        schema["enum"] = [1]
    types = schema["type"] if isinstance(schema.get("type"), list) else [schema.get("type")]
    if "any" in types:
        schema["type"] = ["string" if name == "any" else name for name in types]
    for keyword in ("required", "type"):
        schema = {**schema, keyword: without_repeats(schema[keyword])} if keyword in schema else schema
    for keyword in ("dependencies", "dependentRequired"):
        if isinstance(schema.get(keyword), dict):
            schema[keyword] = {name: without_repeats(names) for name, names in schema[keyword].items()}
    if draft == 4:
        schema = {keyword: as_draft_4_has_it(keyword, value) for keyword, value in schema.items()}
    return [schema, *further]


def without_repeats(names: Any) -> Any:
    strings = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return list(dict.fromkeys(names)) if strings else names


def as_draft_4_has_it(keyword: str, value: Any) -> Any:
    """Boolean schemas as objects, and no empty lists of names."""
    if keyword in {"required", "type", "enum"}:
        return ["a"] if keyword == "required" and value == [] else value
    if keyword in {"properties", "patternProperties", "dependencies", "definitions"} and isinstance(value, dict):
        return {
            name: {} if isinstance(item, bool) else item or {} if item == [] and keyword == "dependencies" else item
            for name, item in value.items()
        }
    if keyword in {"allOf", "anyOf", "oneOf", "items"} and isinstance(value, list):
        return [{} if isinstance(item, bool) else item for item in value]
    return {} if isinstance(value, bool) and keyword in {"not", "items"} else value


URIS = {
    4: "http://json-schema.org/draft-04/schema#",
    6: "http://json-schema.org/draft-06/schema#",
    7: "http://json-schema.org/draft-07/schema#",
    2019: "https://json-schema.org/draft/2019-09/schema",
    2020: "https://json-schema.org/draft/2020-12/schema",
}
FIRST_DRAFTS = {
    **dict.fromkeys(("$id", "contains", "propertyNames"), 6),
    **dict.fromkeys(("if", "then", "else"), 7),
    **dict.fromkeys(("$anchor", "$defs", "dependentSchemas", "dependentRequired", "contentSchema"), 2019),
    **dict.fromkeys(("maxContains", "minContains", "unevaluatedItems", "unevaluatedProperties"), 2019),
    **dict.fromkeys(("prefixItems", "$dynamicAnchor"), 2020),
}


@pytest.mark.parametrize("draft", URIS)
@pytest.mark.parametrize("keyword", FIRST_DRAFTS)
def test_a_keyword_is_checked_from_the_draft_on_that_has_it(keyword: str, draft: int) -> None:
    schema = {"$schema": URIS[draft], keyword: []}  # an empty list is wrong for each of them
    if draft < FIRST_DRAFTS[keyword]:
        compile_schema(schema, param="schema")
    else:
        with pytest.raises(InvalidRequest):
            compile_schema(schema, param="schema")

"""Malformed schemas are refused with their path, as the metaschema of their draft says."""

from typing import Any

import jsonschema
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
    refused = refusal(schema)
    malformed = refused is not None and ": expected " in refused.message
    assert malformed == (not VALIDATORS[draft](VALIDATORS[draft].META_SCHEMA).is_valid(schema))

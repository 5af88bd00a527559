"""The five drafts of JSON Schema: the form of each keyword's value, where subschemas stand, and every draft's keywords as those of 2020-12.

Checking forms is a walk of our own, not a run of the metaschema: it takes a tenth of the time, cannot overflow the stack, and its messages
name the path and the form expected. It accepts what generators commonly write into the wrong draft (`docs/schemas.md`).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from proxy.schemas.values import Json, JsonObject, Path, SchemaError, is_integer, type_of

_TYPE_NAMES = ("array", "boolean", "integer", "null", "number", "object", "string")


Draft = Literal[4, 6, 7, 2019, 2020]

LATEST: Draft = 2020
_DRAFTS: Mapping[str, Draft] = {
    "draft-04": 4, "draft-06": 6, "draft-07": 7, "draft/2019-09": 2019, "draft/2020-12": 2020
}  # fmt: skip


def draft_named(uri: object) -> Draft | None:
    """The draft that a `$schema` names, whatever its scheme and trailing `#`; None when it names none of the five."""
    if not isinstance(uri, str):
        return None
    return next((draft for name, draft in _DRAFTS.items() if f"json-schema.org/{name}/schema" in uri), None)


def _knows(draft: Draft, keyword: str) -> bool:
    """Whether the draft gives the keyword a meaning; `nullable` (OpenAPI) and `dependencies` have one in all."""
    last = 2019 if keyword == "$recursiveRef" else 2020
    return keyword in _KEYWORDS and _KEYWORDS[keyword][0] <= draft <= last


def _is_schema(value: Json) -> bool:
    return isinstance(value, dict | bool)


def _is_list(value: Json) -> bool:
    return isinstance(value, list) and bool(value)


def _are_names(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_count(value: Json) -> bool:
    return is_integer(value) and value >= 0


def _are_types(value: Json) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in {*_TYPE_NAMES, "any"} for name in names)


_SCHEMA = "a schema (an object or a boolean)"
_NAMES = "a list of property names"
_TYPES = "one of " + ", ".join(f'"{name}"' for name in _TYPE_NAMES) + ", or a list of them"

_FORMS: tuple[tuple[int, str, str, Callable[[Json], bool]], ...] = (
    (4, "$ref $schema format", "a string", lambda value: isinstance(value, str)),
    (4, "pattern", "a regular expression", lambda value: isinstance(value, str)),
    (4, "maximum minimum", "a number", lambda value: type_of(value) == "number"),
    (4, "exclusiveMaximum exclusiveMinimum", "a number, or true or false as in draft 4", lambda value: isinstance(value, int | float)),
    (4, "maxLength minLength maxItems minItems maxProperties minProperties", "an integer, 0 or more", _is_count),
    (4, "multipleOf", "a number above 0", lambda value: type_of(value) == "number" and value > 0),
    (4, "definitions properties dependencies patternProperties", "an object", lambda value: isinstance(value, dict)),
    (4, "allOf anyOf oneOf", "a list of schemas, not empty", _is_list),
    (4, "items", "a schema or a list of schemas", lambda value: _is_schema(value) or _is_list(value)),
    (4, "additionalItems additionalProperties not", _SCHEMA, _is_schema),
    (4, "type", _TYPES, _are_types),
    (4, "nullable", "", lambda _: True),
    (4, "enum", "a list", lambda value: isinstance(value, list)),
    (4, "uniqueItems", "true or false", lambda value: isinstance(value, bool)),
    (4, "required", _NAMES, lambda value: isinstance(value, bool) or _are_names(value)),
    (6, "$id", "a string", lambda value: isinstance(value, str)),
    (6, "const", "", lambda _: True),
    (6, "contains propertyNames", _SCHEMA, _is_schema),
    (7, "if then else", _SCHEMA, _is_schema),
    (2019, "$anchor $recursiveRef", "a string", lambda value: isinstance(value, str)),
    (2019, "$recursiveAnchor", "true or false", lambda value: isinstance(value, bool)),
    (2019, "$defs dependentSchemas", "an object", lambda value: isinstance(value, dict)),
    (2019, "maxContains minContains", "an integer, 0 or more", _is_count),
    (2019, "unevaluatedItems unevaluatedProperties contentSchema", _SCHEMA, _is_schema),
    (2019, "dependentRequired", "an object of lists of property names",
     lambda value: isinstance(value, dict) and all(map(_are_names, value.values()))),
    (2020, "$dynamicRef $dynamicAnchor", "a string", lambda value: isinstance(value, str)),
    (2020, "prefixItems", "a list of schemas, not empty", _is_list),
)  # fmt: skip
"""The first draft that has some keywords, the keywords, what their value has to be, and whether a value is that."""

_KEYWORDS: Mapping[str, tuple[int, str, Callable[[Json], bool]]] = {
    keyword: (since, expected, holds) for since, keywords, expected, holds in _FORMS for keyword in keywords.split()
}

IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
"""Keywords whose subschemas apply to the same value, not to a part of it."""
_BY_NAME = frozenset({"properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"})
"""Keywords whose value is an object of subschemas."""
SUBSCHEMAS = (
    IN_PLACE | _BY_NAME | {"additionalProperties", "additionalItems", "items", "prefixItems", "contains", "propertyNames"}
    | {"unevaluatedItems", "unevaluatedProperties", "contentSchema"}
)  # fmt: skip
"""Keywords whose value is a subschema, a list or an object of subschemas."""


def check_forms(schema: JsonObject, draft: Draft, path: Path) -> list[Json]:
    """Check the keywords of one schema, not those of its subschemas; gives all schemas directly inside it, those of definitions too.
    Raises SchemaError: a keyword has a value that neither its draft's metaschema allows nor generators commonly write.
    """
    inner = []
    for keyword, value in schema.items():
        if not _knows(draft, keyword):
            continue
        _, expected, holds = _KEYWORDS[keyword]
        if not holds(value):
            raise SchemaError(f"expected {expected}", (*path, keyword))
        for step, member in steps_to(keyword, value) if keyword in SUBSCHEMAS else ():
            if _is_schema(member):
                inner.append(member)
            elif keyword != "dependencies":
                raise SchemaError(f"expected {_SCHEMA}", (*path, keyword, *step))
            elif not _are_names(member):
                raise SchemaError(f"expected a schema or {_NAMES}", (*path, keyword, *step))
    return inner


def steps_to(keyword: str, value: Json) -> Iterable[tuple[Path, Json]]:
    """(path from the keyword, subschema) of what one of `SUBSCHEMAS` holds."""
    if keyword in _BY_NAME:
        return [((name,), member) for name, member in value.items()]
    return [((index,), member) for index, member in enumerate(value)] if isinstance(value, list) else [((), value)]


_NO_CONSTRAINTS = frozenset(
    {"$schema", "$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "definitions", "$defs", "contentSchema"}
)


def normalized_keywords(schema: JsonObject, draft: Draft) -> JsonObject:
    """The keywords of one schema that constrain values, as draft 2020-12 spells them; `type` is a list. Subschemas are the schema's own."""
    if draft <= 7 and "$ref" in schema:
        return {"$ref": schema["$ref"]}  # up to draft 7, keywords beside `$ref` are ignored
    keywords = {
        keyword: value for keyword, value in schema.items() if _knows(draft, keyword) and keyword not in _NO_CONSTRAINTS
    }
    if "if" not in keywords:
        keywords.pop("then", None)
        keywords.pop("else", None)
    if "$recursiveRef" in keywords:
        keywords["$dynamicRef"] = keywords.pop("$recursiveRef")
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(keywords.get(exclusive), bool) and keywords.pop(exclusive) and bound in keywords:
            keywords[exclusive] = keywords.pop(bound)  # draft 4: a boolean makes the bound exclusive
    rest = keywords.pop("additionalItems", None)
    if isinstance(keywords.get("items"), list):  # up to 2019-09: a list, and `additionalItems` for the items after them
        keywords.setdefault("prefixItems", keywords.pop("items"))
        keywords.update({} if rest is None else {"items": rest})
    nullable = keywords.pop("nullable", None) is True  # OpenAPI: it extends `type` only
    if "type" in keywords:
        types = keywords["type"] if isinstance(keywords["type"], list) else [keywords["type"]]
        keywords["type"] = [*types, "null"] if nullable else types
        if "any" in types:
            del keywords["type"]
    if isinstance(keywords.get("required"), bool):  # draft 3: a boolean in the schema of the property
        del keywords["required"]
    members = keywords.get("properties", {}).items()
    required = [name for name, member in members if isinstance(member, dict) and member.get("required") is True]
    if required or "required" in keywords:
        keywords["required"] = list(dict.fromkeys((*keywords.get("required", ()), *required)))
    if "dependencies" in keywords:  # up to draft 7: names and schemas in one keyword; the later keywords count more
        needs = keywords.pop("dependencies").items()
        names = {name: need for name, need in needs if isinstance(need, list)}
        keywords["dependentRequired"] = {**names, **keywords.get("dependentRequired", {})}
        schemas = {name: need for name, need in needs if name not in names}
        keywords["dependentSchemas"] = {**schemas, **keywords.get("dependentSchemas", {})}
    return keywords

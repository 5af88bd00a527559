"""The five drafts of JSON Schema: the form of each keyword's value, where subschemas stand, and every draft's keywords as those of 2020-12.

Checking forms is a walk of our own, not a run of the metaschema: it takes a tenth of the time, cannot overflow the stack, and its messages
name the path and the form expected. Annotations (`title`, `examples`, …) of a wrong form are ignored, as they constrain no value. What
generators commonly write into the wrong draft is accepted in all: boolean `exclusiveMinimum`, `items` as a list, `required` on a
property, `type: "any"`, repeated values, boolean subschemas, `dependencies`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from proxy.schemas.patterns import BadPattern, pattern
from proxy.schemas.values import Json, JsonObject, Path, SchemaError, is_integer

TYPE_NAMES = ("array", "boolean", "integer", "null", "number", "object", "string")


@dataclass(frozen=True, slots=True)
class Draft:
    """One draft: its name in the `$schema` URI, and 4, 6, 7, 2019 or 2020."""

    name: str
    rank: int

    def knows(self, keyword: str) -> bool:
        """Whether the draft gives the keyword a meaning; `nullable` (OpenAPI) and `dependencies` have one in all."""
        since, _ = _KEYWORDS.get(keyword, (9999, None))
        return since <= self.rank and not (keyword == "$recursiveRef" and self.rank > 2019)


LATEST = Draft("draft/2020-12", 2020)
DRAFTS = (Draft("draft-04", 4), Draft("draft-06", 6), Draft("draft-07", 7), Draft("draft/2019-09", 2019), LATEST)


def draft_named(uri: object) -> Draft | None:
    """The draft that a `$schema` names, whatever its scheme and trailing `#`; None when it names none of the five."""
    if not isinstance(uri, str):
        return None
    return next((draft for draft in DRAFTS if f"json-schema.org/{draft.name}/schema" in uri), None)


# ---------------------------------------------------------------- the form of each keyword's value

Form = Callable[[Json], str | None]
"""Says what was expected, or None when the value is right. Subschemas are looked at on their own."""


def _schema(value: Json) -> str | None:
    return None if isinstance(value, dict | bool) else "a schema (an object or a boolean)"


def _schemas(value: Json) -> str | None:
    return None if isinstance(value, list) and value else "a list of schemas, not empty"


def _schema_or_list(value: Json) -> str | None:
    return (
        None
        if isinstance(value, dict | bool) or (isinstance(value, list) and value)
        else "a schema or a list of schemas"
    )


def _object(value: Json) -> str | None:
    return None if isinstance(value, dict) else "an object"


def _string(value: Json) -> str | None:
    return None if isinstance(value, str) else "a string"


def _boolean(value: Json) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _number(value: Json) -> str | None:
    return None if isinstance(value, int | float) and not isinstance(value, bool) else "a number"


def _exclusive(value: Json) -> str | None:
    return None if isinstance(value, int | float) else "a number, or true or false as in draft 4"


def _positive(value: Json) -> str | None:
    return None if _number(value) is None and value > 0 else "a number above 0"


def _count(value: Json) -> str | None:
    return None if is_integer(value) and value >= 0 else "an integer, 0 or more"


def _list(value: Json) -> str | None:
    return None if isinstance(value, list) else "a list"


def _names(value: Json) -> str | None:
    return (
        None if isinstance(value, list) and all(isinstance(name, str) for name in value) else "a list of property names"
    )


def _required(value: Json) -> str | None:
    return None if isinstance(value, bool) else _names(value)


def _names_by_name(value: Json) -> str | None:
    right = isinstance(value, dict) and not any(map(_names, value.values()))
    return None if right else "an object of lists of property names"


def _type(value: Json) -> str | None:
    names = value if isinstance(value, list) else [value]
    right = names and all(isinstance(name, str) and (name in TYPE_NAMES or name == "any") for name in names)
    return None if right else "one of " + ", ".join(f'"{name}"' for name in TYPE_NAMES) + ", or a list of them"


def _pattern(value: Json) -> str | None:
    if not isinstance(value, str):
        return "a regular expression"
    try:
        pattern(value)
    except BadPattern as error:
        return f"a regular expression ({error})"
    return None


def _patterned(value: Json) -> str | None:
    return _object(value) or next(filter(None, map(_pattern, value)), None)


def _any(_value: Json) -> str | None:
    return None


_KEYWORDS: Mapping[str, tuple[int, Form]] = {
    **dict.fromkeys(("$ref", "$schema", "format"), (4, _string)),
    **dict.fromkeys(("maximum", "minimum"), (4, _number)),
    **dict.fromkeys(("exclusiveMaximum", "exclusiveMinimum"), (4, _exclusive)),
    **dict.fromkeys(("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties"), (4, _count)),
    **dict.fromkeys(("definitions", "properties", "dependencies"), (4, _object)),
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), (4, _schemas)),
    **dict.fromkeys(("additionalItems", "additionalProperties", "not"), (4, _schema)),
    "type": (4, _type),
    "nullable": (4, _any),
    "enum": (4, _list),
    "multipleOf": (4, _positive),
    "pattern": (4, _pattern),
    "uniqueItems": (4, _boolean),
    "patternProperties": (4, _patterned),
    "items": (4, _schema_or_list),
    "required": (4, _required),
    "$id": (6, _string),
    "const": (6, _any),
    **dict.fromkeys(("contains", "propertyNames"), (6, _schema)),
    **dict.fromkeys(("if", "then", "else"), (7, _schema)),
    **dict.fromkeys(("$anchor", "$recursiveRef"), (2019, _string)),
    **dict.fromkeys(("$defs", "dependentSchemas"), (2019, _object)),
    **dict.fromkeys(("maxContains", "minContains"), (2019, _count)),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties", "contentSchema"), (2019, _schema)),
    "$recursiveAnchor": (2019, _boolean),
    "dependentRequired": (2019, _names_by_name),
    **dict.fromkeys(("$dynamicRef", "$dynamicAnchor"), (2020, _string)),
    "prefixItems": (2020, _schemas),
}
"""Keyword → the first draft that has it, the form of its value."""

IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
"""Keywords whose subschemas apply to the same value, not to a part of it."""
_MAPS = frozenset({"properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"})
_SUBSCHEMAS = (
    frozenset({"additionalProperties", "additionalItems", "items", "prefixItems", "contains", "propertyNames"})
    | frozenset({"unevaluatedItems", "unevaluatedProperties", "contentSchema"})
    | IN_PLACE
    | _MAPS
)


def check_forms(schema: JsonObject, draft: Draft, path: Path) -> None:
    """Check the keywords of one schema, not of its subschemas.

    Raises:
        SchemaError: a keyword has a value that neither its draft's metaschema allows nor generators commonly write.
    """
    for keyword, value in schema.items():
        expected = _KEYWORDS[keyword][1](value) if draft.knows(keyword) else None
        if expected:
            raise SchemaError(f"expected {expected}", (*path, keyword))


def subschemas(schema: JsonObject, draft: Draft) -> Iterator[tuple[Path, Json]]:
    """(path from here, subschema) of all schemas directly inside one, those of definitions too.

    Raises:
        SchemaError: something stands where a schema belongs; its path starts here.
    """
    for keyword in _SUBSCHEMAS & schema.keys():
        if not draft.knows(keyword):
            continue
        value = schema[keyword]
        if keyword in _MAPS:
            members: Iterator[tuple[Path, Json]] = (((keyword, name), member) for name, member in value.items())
        elif isinstance(value, list):
            members = (((keyword, index), member) for index, member in enumerate(value))
        else:
            members = iter([((keyword,), value)])
        for path, member in members:
            if keyword == "dependencies" and not isinstance(member, dict | bool):
                if expected := _names(member):
                    raise SchemaError(f"expected a schema or {expected}", path)
                continue
            if expected := _schema(member):
                raise SchemaError(f"expected {expected}", path)
            yield path, member


# ---------------------------------------------------------------- every draft as 2020-12

_NO_CONSTRAINTS = frozenset(
    {"$schema", "$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "definitions", "$defs", "contentSchema"}
)


def normalized_keywords(schema: JsonObject, draft: Draft) -> JsonObject:
    """The keywords of one schema that constrain values, as draft 2020-12 spells them. Their subschemas are the schema's own objects."""
    if draft.rank <= 7 and "$ref" in schema:
        return {"$ref": schema["$ref"]}  # up to draft 7, keywords beside `$ref` are ignored
    keywords = {
        keyword: value for keyword, value in schema.items() if draft.knows(keyword) and keyword not in _NO_CONSTRAINTS
    }
    if "if" not in keywords:
        keywords.pop("then", None)
        keywords.pop("else", None)
    if "$recursiveRef" in keywords:
        keywords["$dynamicRef"] = keywords.pop("$recursiveRef")
    _normalize_type(keywords)
    _normalize_exclusive(keywords, "exclusiveMinimum", "minimum")
    _normalize_exclusive(keywords, "exclusiveMaximum", "maximum")
    _normalize_items(keywords)
    _normalize_required(keywords)
    if "dependencies" in keywords:
        _normalize_dependencies(keywords)
    return keywords


def _normalize_type(keywords: JsonObject) -> None:
    """`any` and `nullable` (which extends `type` only)."""
    nullable = keywords.pop("nullable", None) is True
    if "type" not in keywords:
        return
    types = keywords["type"] if isinstance(keywords["type"], list) else [keywords["type"]]
    if "any" in types:
        del keywords["type"]
    elif nullable:
        keywords["type"] = [*types, "null"]


def _normalize_exclusive(keywords: JsonObject, exclusive: str, bound: str) -> None:
    """Draft 4: a boolean that makes the bound exclusive."""
    if isinstance(keywords.get(exclusive), bool) and keywords.pop(exclusive) and bound in keywords:
        keywords[exclusive] = keywords.pop(bound)


def _normalize_items(keywords: JsonObject) -> None:
    """Up to 2019-09: a list of schemas, and `additionalItems` for the items after them."""
    rest = keywords.pop("additionalItems", None)
    if isinstance(keywords.get("items"), list):
        keywords.setdefault("prefixItems", keywords.pop("items"))
        keywords.pop("items", None)
        if rest is not None:
            keywords["items"] = rest


def _normalize_required(keywords: JsonObject) -> None:
    """Draft 3: a boolean in the schema of the property."""
    if isinstance(keywords.get("required"), bool):
        del keywords["required"]
    members = keywords.get("properties", {}).items()
    required = [name for name, member in members if isinstance(member, dict) and member.get("required") is True]
    if required:
        keywords["required"] = [*keywords.get("required", ()), *required]
    if "required" in keywords:
        keywords["required"] = list(dict.fromkeys(keywords["required"]))


def _normalize_dependencies(keywords: JsonObject) -> None:
    """Up to draft 7: names and schemas in one keyword. Where a later keyword has the same name, that one counts."""
    dependencies = keywords.pop("dependencies")
    names = {name: need for name, need in dependencies.items() if isinstance(need, list)}
    schemas = {name: need for name, need in dependencies.items() if not isinstance(need, list)}
    keywords["dependentRequired"] = {**names, **keywords.get("dependentRequired", {})}
    keywords["dependentSchemas"] = {**schemas, **keywords.get("dependentSchemas", {})}

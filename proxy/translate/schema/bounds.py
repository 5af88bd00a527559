"""A plainer form of a compiled schema, for models that refuse lengths, bounds and counts although Narrative lists them."""

from dataclasses import replace

from proxy.translate.schema.compile import Compiled
from proxy.translate.schema.notes import array_bounds, number_bounds, string_bounds
from proxy.translate.schema.parts import array_counts, numbers, strings
from proxy.translate.schema.render import JsonObject

BOUNDS = frozenset(
    {"minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    | {"minItems", "maxItems", "uniqueItems"}
)


def without_bounds(compiled: Compiled) -> Compiled:
    """Move lengths, bounds, counts and patterns into descriptions. What comes back is still checked against them.

    Args:
        compiled: from `compile_schema` or `compile_parameters`.

    Returns:
        The same with a wider schema; `lossy` where there was anything to move.
    """
    plainer = _plainer(compiled.schema, {})
    return compiled if plainer is compiled.schema else replace(compiled, schema=plainer, lossy=True)


def _plainer(schema: JsonObject, known: dict[int, JsonObject]) -> JsonObject:
    """The schema without bounds, itself where it has none; a schema that occurs twice is looked at once."""
    if id(schema) not in known:
        known[id(schema)] = _moved(
            {keyword: _inside(keyword, value, known) for keyword, value in schema.items()}, schema
        )
    return known[id(schema)]


def _inside(keyword: str, value: object, known: dict[int, JsonObject]) -> object:
    match keyword, value:
        case "properties", dict():
            return {name: _plainer(member, known) for name, member in value.items()}
        case "anyOf", list():
            return [_plainer(member, known) for member in value]
        case (("items" | "additionalProperties"), dict()):
            return _plainer(value, known)
        case _:
            return value


def _moved(schema: JsonObject, before: JsonObject) -> JsonObject:
    bounds = {keyword: value for keyword, value in schema.items() if keyword in BOUNDS}
    if not bounds:
        return before if schema == before else schema
    words = ", ".join(
        [*string_bounds(strings(bounds)), *number_bounds(numbers(bounds)), *array_bounds(array_counts(bounds))]
    )
    description = "\n".join(filter(None, (schema.get("description"), f"{words[:1].upper()}{words[1:]}.")))
    rest = {keyword: value for keyword, value in schema.items() if keyword not in BOUNDS | {"title", "description"}}
    head = {"title": schema["title"]} if "title" in schema else {}
    return {**head, "description": description, **rest}

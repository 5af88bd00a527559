"""Random schemas of every draft, keywords of other drafts among them, and instances that have a chance to match them."""

from typing import Any

from hypothesis import strategies as st

Json = Any

NAMES = ("a", "b", "c")
DRAFTS = {
    4: "http://json-schema.org/draft-04/schema#",
    6: "http://json-schema.org/draft-06/schema#",
    7: "http://json-schema.org/draft-07/schema#",
    2019: "https://json-schema.org/draft/2019-09/schema",
    2020: "https://json-schema.org/draft/2020-12/schema",
}
TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
PATTERNS = ("^a", "b$", "^[ab]+$", "c", r"^\w?$")

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.sampled_from([0.5, 1.0, 2.5, -1.5]),
    st.text("abc ", max_size=3),
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
counts = st.integers(0, 3)
names = st.lists(st.sampled_from(NAMES), unique=True, max_size=2)


@st.composite
def schemas(draw: st.DrawFn) -> Json:
    """A schema of some draft, with definitions that may refer to each other."""
    draft = draw(st.sampled_from(sorted(DRAFTS)))
    root = draw(_schema(draft, 3, top=True))
    if isinstance(root, bool):
        return root
    keyword = "definitions" if draft <= 7 else "$defs"
    root[keyword] = {name: draw(_schema(draft, 2)) for name in ("one", "two")}
    if draft != 2020 or draw(st.booleans()):
        root["$schema"] = DRAFTS[draft]
    return root


@st.composite
def _schema(draw: st.DrawFn, draft: int, depth: int, *, top: bool = False) -> Json:
    if draft > 4 and not top and draw(st.integers(0, 9)) == 0:
        return draw(st.booleans())
    schema: dict[str, Json] = {}
    if draw(st.integers(0, 3)):
        schema["type"] = draw(
            st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True)
        )
    parts = [_scalar_keywords(draft)]
    if depth > 0:
        parts += [
            _array_keywords(draft, depth),
            _object_keywords(draft, depth),
            _object_keywords(draft, depth),
            _in_place(draft, depth),
        ]
    for part in draw(st.lists(st.sampled_from(parts), max_size=3)):
        schema |= draw(part)
    return schema


def _some(draw: st.DrawFn, options: dict[str, st.SearchStrategy[Json]]) -> dict[str, Json]:
    chosen = draw(st.lists(st.sampled_from(sorted(options)), unique=True, max_size=3))
    return {keyword: draw(options[keyword]) for keyword in chosen}


@st.composite
def _scalar_keywords(draw: st.DrawFn, draft: int) -> dict[str, Json]:
    numbers = st.sampled_from([-1, 0, 1, 2.5, 3])
    options: dict[str, st.SearchStrategy[Json]] = {
        "enum": st.lists(json_values, min_size=1, max_size=4, unique_by=repr),
        "minLength": counts,
        "maxLength": counts,
        "pattern": st.sampled_from(PATTERNS),
        "minimum": numbers,
        "maximum": numbers,
        "multipleOf": st.sampled_from([1, 2, 3, 0.5]),
        "title": st.sampled_from(["T", "U"]),
        "description": st.sampled_from(["D", "E"]),
        "default": json_values,
    }
    options["const"] = json_values
    if draft > 4:
        options |= {"exclusiveMinimum": numbers, "exclusiveMaximum": numbers}
    said = _some(draw, options)
    if draft == 4 and "enum" in said:  # draft 4 asks for different values, and calls 1 and 1.0 the same
        said["enum"] = said["enum"][:1]
    if draft == 4 and "minimum" in said:
        said["exclusiveMinimum"] = draw(st.booleans())
    return said


@st.composite
def _array_keywords(draw: st.DrawFn, draft: int, depth: int) -> dict[str, Json]:
    inner = _schema(draft, depth - 1)
    tuples = st.lists(inner, min_size=1, max_size=2)
    options: dict[str, st.SearchStrategy[Json]] = {
        "items": inner if draft == 2020 else inner | tuples,
        "minItems": counts,
        "maxItems": counts,
        "uniqueItems": st.booleans(),
    }
    options |= {"prefixItems": tuples, "additionalItems": inner}
    options |= {"contains": inner, "minContains": counts, "maxContains": counts, "unevaluatedItems": inner}
    return _some(draw, options)


@st.composite
def _object_keywords(draw: st.DrawFn, draft: int, depth: int) -> dict[str, Json]:
    inner = _schema(draft, depth - 1)
    options: dict[str, st.SearchStrategy[Json]] = {
        "properties": st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
        "required": st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=2),
        "additionalProperties": st.booleans() | inner,
        "patternProperties": st.dictionaries(st.sampled_from(PATTERNS), inner, max_size=2),
        "minProperties": counts,
        "maxProperties": counts,
    }
    options |= {
        "propertyNames": inner,
        "dependentRequired": st.dictionaries(st.sampled_from(NAMES), names, max_size=1),
        "dependentSchemas": st.dictionaries(st.sampled_from(NAMES), inner, max_size=1),
        "unevaluatedProperties": inner,
    }
    if draft <= 7:  # stock validators of later drafts ignore it
        options["dependencies"] = st.dictionaries(st.sampled_from(NAMES), inner | st.just(["a"]), max_size=1)
    return _some(draw, options)


@st.composite
def _in_place(draw: st.DrawFn, draft: int, depth: int) -> dict[str, Json]:
    inner = _schema(draft, depth - 1)
    keyword = "definitions" if draft <= 7 else "$defs"
    options: dict[str, st.SearchStrategy[Json]] = {
        "anyOf": st.lists(inner, min_size=1, max_size=3),
        "oneOf": st.lists(inner, min_size=1, max_size=3),
        "allOf": st.lists(inner, min_size=1, max_size=2),
        "not": inner,
        "$ref": st.sampled_from(["#", f"#/{keyword}/one", f"#/{keyword}/two"]),
    }
    options |= {"if": inner, "then": inner, "else": inner}
    return _some(draw, options)


@st.composite
def instances(draw: st.DrawFn, schema: Json, depth: int = 4) -> Json:
    """A value made along a schema: it often matches, and never must."""
    return draw(_along(schema, schema, depth))


@st.composite
def _along(draw: st.DrawFn, schema: Json, root: Json, depth: int) -> Json:
    if not isinstance(schema, dict) or depth <= 0 or draw(st.integers(0, 11)) == 0:
        return draw(json_values)
    reference = schema.get("$ref")
    if isinstance(reference, str) and draw(st.booleans()):
        target = root
        for step in reference.split("/")[1:]:
            target = target.get(step, {}) if isinstance(target, dict) else {}
        return draw(_along(target, root, depth - 1))
    members = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
    members += [schema[keyword] for keyword in ("if", "then", "else") if keyword in schema]
    if members and draw(st.booleans()):
        return draw(_along(draw(st.sampled_from(members)), root, depth - 1))
    if schema.get("enum") and draw(st.booleans()):
        return draw(st.sampled_from(schema["enum"]))
    if "const" in schema and draw(st.booleans()):
        return schema["const"]
    kind = schema.get("type", draw(st.sampled_from(TYPES)))
    return draw(_of_type(draw(st.sampled_from(kind)) if isinstance(kind, list) else kind, schema, root, depth))


@st.composite
def _of_type(draw: st.DrawFn, kind: str, schema: Json, root: Json, depth: int) -> Json:
    match kind:
        case "object":
            own = schema.get("properties", {})
            present = [*schema.get("required", ()), *draw(names)]
            others = schema.get("additionalProperties", True)
            return {name: draw(_along(own.get(name, others), root, depth - 1)) for name in dict.fromkeys(present)}
        case "array":
            items = schema.get("items", True)
            prefix = items if isinstance(items, list) else schema.get("prefixItems", [])
            rest = schema.get("additionalItems", True) if isinstance(items, list) else items
            size = min(max(draw(counts), schema.get("minItems", 0)), 4)
            return [draw(_along(prefix[i] if i < len(prefix) else rest, root, depth - 1)) for i in range(size)]
        case "string":
            return draw(st.text("abc", max_size=4))
        case "integer" | "number":
            return draw(st.integers(-3, 5) | st.sampled_from([0.5, 1.0, 2.5]))
        case "boolean":
            return draw(st.booleans())
        case _:
            return None

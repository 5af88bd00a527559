"""Random output schemas that can be fulfilled."""

from typing import Any

from hypothesis import strategies as st

Schemas = st.SearchStrategy[dict[str, Any]]

_NAMES = st.sampled_from(
    ["a", "b", "name", "count", "value", "ünï", "with space", "$x", "tool_calls", "content", "reasoning"]
)
_PATTERNS = st.sampled_from(
    [
        "^[a-z]{2,5}$",
        "^\\d{3}-\\d{4}$",
        "a+b*",
        "^(red|green|blue)$",
        "[^a-z]",
        "^\\S+@\\S+$",
        "^$",
        "\\.",
        "^[A-Z][a-z]*( [A-Z]\\w*)?$",
    ]
)


def _numbers(kind: str) -> Schemas:
    whole = st.integers(-1000, 1000)
    number = (
        whole
        if kind == "integer"
        else st.one_of(whole, st.floats(-1000, 1000, allow_nan=False).map(lambda x: round(x, 3)))
    )

    def ranged(low: Any, size: Any, exclusive: tuple[bool, bool]) -> dict[str, Any]:
        return {
            "type": kind,
            "exclusiveMinimum" if exclusive[0] else "minimum": low,
            "exclusiveMaximum" if exclusive[1] else "maximum": low + size,
        }

    return st.one_of(
        st.just({"type": kind}),
        st.builds(lambda low: {"type": kind, "minimum": low}, number),
        st.builds(lambda high: {"type": kind, "exclusiveMaximum": high}, number),
        st.builds(ranged, number, st.integers(2, 50), st.tuples(st.booleans(), st.booleans())),
        st.builds(
            lambda step, low: {"type": kind, "multipleOf": step, "minimum": low},
            st.sampled_from([1, 2, 7, 0.5, 0.1, 2.5, 100]),
            number,
        ),
    )


def _strings() -> Schemas:
    lengths = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted)
    return st.one_of(
        st.just({"type": "string"}),
        lengths.map(lambda pair: {"type": "string", "minLength": pair[0], "maxLength": pair[1]}),
        _PATTERNS.map(lambda pattern: {"type": "string", "pattern": pattern}),
        st.just({"type": "string", "pattern": "[a-z]", "minLength": 12}),
        st.just({"type": "string", "pattern": "^[a-z]+$", "minLength": 40, "maxLength": 50}),
    )


def _leaves() -> Schemas:
    values = st.one_of(
        st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=5), st.just([1]), st.just({"x": 1})
    )
    return st.one_of(
        _strings(),
        _numbers("integer"),
        _numbers("number"),
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.just({}),
        st.lists(values, min_size=1, max_size=4).map(lambda choices: {"enum": choices}),
        st.lists(
            st.sampled_from(["string", "null", "integer", "boolean", "array"]), min_size=1, max_size=3, unique=True
        ).map(lambda types: {"type": types}),
    )


def _arrays(items: Schemas) -> Schemas:
    return st.one_of(
        st.builds(lambda item: {"type": "array", "items": item}, items),
        st.builds(
            lambda item, low, more: {"type": "array", "items": item, "minItems": low, "maxItems": low + more},
            items,
            st.integers(0, 4),
            st.integers(0, 3),
        ),
        st.builds(
            lambda item, low: {"type": "array", "items": item, "minItems": low, "uniqueItems": True},
            st.one_of(
                st.just({"type": "string"}), st.just({"type": "integer"}), st.just({"enum": ["a", "b", 1, True]})
            ),
            st.integers(0, 4),
        ),
        st.just({"type": "array", "maxItems": 0}),
    )


def _objects(values: Schemas) -> Schemas:
    @st.composite
    def objects(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(_NAMES, values, max_size=4))
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        additional = draw(st.one_of(st.none(), st.booleans(), values))
        if additional is not None:
            schema["additionalProperties"] = additional
        names = list(properties) + (["elsewhere"] if additional is not False else [])
        schema["required"] = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
        if draw(st.booleans()):
            schema |= {"title": "T", "description": "d"}
        return schema

    return objects()


def documented() -> Schemas:
    """Any schema of documented keywords."""
    return st.recursive(_leaves(), lambda inner: st.one_of(_arrays(inner), _objects(inner)), max_leaves=12)


def documented_objects() -> Schemas:
    """The same with an object at the root."""
    return _objects(documented())

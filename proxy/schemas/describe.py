"""Notes for what the documented keywords cannot say, in the short notation that models know from TypeScript."""

import json
from collections.abc import Iterable, Sequence

from proxy.schemas.shapes import ALL_TYPES, TYPES, Arrays, Numbers, Objects, Shape, Strings
from proxy.schemas.values import Json, JsonType

_MAX_VALUES = 12
_MAX_NAMES = 16
_MAX_ALTERNATIVES = 12
_DEPTH = 2


def cut(text: str, length: int) -> str:
    """The text, or its start and an ellipsis."""
    return text if len(text) <= length else text[: max(length - 1, 0)].rstrip() + "…"


def quoted(value: Json, length: int = 80) -> str:
    """A value as JSON, cut when long."""
    return cut(json.dumps(value, ensure_ascii=False), length)


def describe(shape: Shape, depth: int = _DEPTH) -> str:
    """A shape in a few words, such as `{kind: "cat", lives?: integer} | null`."""
    text = _plain_words(shape, depth)
    if shape.title and shape.types == {"object"} and depth:
        text = f"{cut(shape.title, 60)} {text}".removesuffix(" object")
    if shape.values is not None and shape.description:
        text = f"{text} ({cut(shape.description, 80)})"
    return text


def _plain_words(shape: Shape, depth: int) -> str:
    if shape.options:
        return alternatives(shape.options, depth)
    if shape.values is not None:
        shown = " | ".join(quoted(value, 40) for value in shape.values[:_MAX_VALUES])
        return shown + (" | …" if len(shape.values) > _MAX_VALUES else "") if shape.values else "nothing"
    if shape.types == ALL_TYPES:
        parts = [text for kind in TYPES if (text := _kind_words(shape, kind, depth)) != _BARE[kind]]
        return " | ".join(parts) or "any"
    return " | ".join(_kind_words(shape, kind, depth) for kind in TYPES if kind in shape.types) or "nothing"


_BARE = {
    "object": "object",
    "array": "array",
    "string": "string",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}


def _kind_words(shape: Shape, kind: JsonType, depth: int) -> str:
    match kind:
        case "object":
            return _object_words(shape.objects, depth)
        case "array":
            return _array_words(shape.arrays, depth)
        case "string":
            return " ".join(["string", *string_bounds(shape.strings)])
        case "number":
            return " ".join(["integer" if shape.numbers.integer else "number", *number_bounds(shape.numbers)])
        case _:
            return kind


def _object_words(objects: Objects, depth: int) -> str:
    names = list(dict.fromkeys((*objects.properties, *objects.required)))
    names = [name for name in names if not objects.at(name).empty]
    if not depth or not (names or objects.others):
        return "object"
    if not names:
        return (
            "object"
            if objects.others is None or objects.others.empty
            else f"{{[name]: {describe(objects.others, depth - 1)}}}"
        )
    parts = [_property_words(objects, name, depth) for name in names[:_MAX_NAMES]]
    return "{" + ", ".join(parts + ["…"] * (len(names) > _MAX_NAMES)) + "}"


def _property_words(objects: Objects, name: str, depth: int) -> str:
    key = name if name.isidentifier() else quoted(name)
    value = describe(objects.at(name), depth - 1)
    return f"{key}{'' if name in objects.required else '?'}" + (f": {value}" if value != "any" else "")


def _array_words(arrays: Arrays, depth: int) -> str:
    bounds = " ".join(array_bounds(arrays))
    if arrays.items is None or not depth:
        return f"array {bounds}".rstrip()
    items = describe(arrays.items, depth - 1)
    return (f"({items})[]" if " " in items and not items.startswith("{") else f"{items}[]") + (
        f" {bounds}" if bounds else ""
    )


def string_bounds(strings: Strings) -> list[str]:
    """What is required of a string beside its type."""
    least, most = strings.min_length, strings.max_length
    return [
        *([f"of format {strings.format}"] if strings.format else []),
        *([f"of {_span(least, most, 'character', 'characters')}"] if least or most is not None else []),
        *(f"matching {cut(pattern, 120)}" for pattern in strings.patterns),
    ]


def number_bounds(numbers: Numbers) -> list[str]:
    """What is required of a number beside its type."""
    lower, upper = numbers.lower, numbers.upper
    return [
        *([f"{'>' if lower[1] else '>='} {lower[0]}"] if lower else []),
        *([f"{'<' if upper[1] else '<='} {upper[0]}"] if upper else []),
        *([f"multiple of {numbers.multiple_of}"] if numbers.multiple_of else []),
    ]


def array_bounds(arrays: Arrays) -> list[str]:
    """What is required of an array beside its items."""
    least, most = arrays.min_items, arrays.max_items
    return [
        *([f"of {_span(least, most, 'item', 'items')}"] if least or most is not None else []),
        *(["without repeats"] if arrays.unique else []),
    ]


def _span(least: int, most: int | None, one: str, many: str) -> str:
    if most is None:
        return f"at least {least} {one if least == 1 else many}"
    number = str(most) if least == most else f"{least} to {most}" if least else f"at most {most}"
    return f"{number} {one if most == 1 else many}"


def count_text(least: int, most: int | None, one: str, many: str) -> str:
    """`minProperties` and the like, as a sentence."""
    text = _span(least, most, one, many)
    return f"{text[0].upper()}{text[1:]}."


def alternatives(shapes: Iterable[Shape], depth: int = _DEPTH) -> str:
    """Shapes divided by bars, each once."""
    parts = list(dict.fromkeys(describe(shape, depth) for shape in shapes))
    return " | ".join(parts[:_MAX_ALTERNATIVES] + ["…"] * (len(parts) > _MAX_ALTERNATIVES))


def names(values: Sequence[str]) -> str:
    """Property names divided by commas."""
    return ", ".join(quoted(value) for value in values[:_MAX_NAMES]) + (", …" if len(values) > _MAX_NAMES else "")

"""Notes for what the documented keywords cannot say, in the short notation that models know from TypeScript."""

import json
from collections.abc import Iterable, Sequence

from proxy.schemas.shapes import ALL_TYPES, TYPES, Bounds, Objects, Shape
from proxy.schemas.values import Json, JsonType

_ENCODER = json.JSONEncoder(ensure_ascii=False)
_MAX_VALUES = 12
_MAX_NAMES = 16
_MAX_ALTERNATIVES = 12
_DEPTH = 2
_ROOM = 600
"""Characters of one description; what is longer ends in an ellipsis. It also bounds the time that describing takes."""


def cut(text: str, length: int) -> str:
    """The text, or its start and an ellipsis."""
    return text if len(text) <= length else text[: max(length - 1, 0)].rstrip() + "…"


def quoted(value: Json, length: int = 80) -> str:
    """A value as JSON, cut when long."""
    if isinstance(value, str):
        return cut(json.dumps(value[: length + 1], ensure_ascii=False), length)
    text = ""
    for chunk in _ENCODER.iterencode(value):  # as far as it is needed: a listed value can be large
        text += chunk
        if len(text) > length:
            break
    return cut(text, length)


def sentence(text: str) -> str:
    """`integer` → `Integer.`"""
    return f"{text[:1].upper()}{text[1:]}."


def describe(shape: Shape, depth: int = _DEPTH, room: int = _ROOM) -> str:
    """A shape in a few words, such as `{kind: "cat", lives?: integer} | null`, to `depth` levels of nesting. A description of more than
    about `room` characters may be incomplete.
    """
    if shape.options:
        text = alternatives(shape.options, depth, room)
    elif shape.values is not None:
        values = [quoted(value, 40) for value in shape.values[:_MAX_VALUES]]
        text = " | ".join(values + ["…"] * (len(shape.values) > _MAX_VALUES)) or "nothing"
    elif shape.types == ALL_TYPES:
        text = " | ".join(part for name in TYPES if (part := _typed(shape, name, depth, room)) != name) or "any"
    else:
        text = " | ".join(_typed(shape, name, depth, room) for name in TYPES if name in shape.types) or "nothing"
    if shape.title and shape.types == {"object"} and depth:
        text = f"{cut(shape.title, 60)} {text}".removesuffix(" object")
    if depth == _DEPTH or shape.values is not None:
        asides = [
            cut(aside, 80).rstrip(".") for aside in (shape.description, *shape.notes[:3]) if aside and not shape.options
        ]
        text = f"{text} ({'; '.join(asides)})" if asides else text
    return text


def _typed(shape: Shape, name: JsonType, depth: int, room: int) -> str:
    bounds = " ".join(bounds_texts(shape.bounds, name))
    match name:
        case "object":
            return _object(shape.objects, depth, room)
        case "array" if shape.items is not None and depth:
            items = describe(shape.items, depth - 1, room)
            text = f"({items})[]" if " " in items and not items.startswith("{") else f"{items}[]"
        case "number" if "integer" in shape.bounds:
            text = "integer"
        case _:
            text = name
    return f"{text} {bounds}".rstrip()


def _object(objects: Objects, depth: int, room: int) -> str:
    names = list(dict.fromkeys((*objects.properties, *objects.required)))
    names = [name for name in names if not objects.at(name).empty]
    others = None if objects.others is None or objects.others.empty else objects.others
    if not names and others is not None and depth:
        return f"{{[name]: {describe(others, depth - 1, room)}}}"
    if not names or not depth:
        return "object"
    parts: list[str] = []
    for name in names[:_MAX_NAMES]:
        if room <= 0:
            break
        key = (name if name.isidentifier() else quoted(name)) + ("" if name in objects.required else "?")
        value = describe(objects.at(name), depth - 1, room)
        parts.append(key if value == "any" else f"{key}: {value}")
        room -= len(parts[-1]) + 2
    return "{" + ", ".join(parts + ["…"] * (len(names) > len(parts))) + "}"


def bounds_texts(bounds: Bounds, kind: JsonType) -> list[str]:
    """What is required of a value beside its type and its parts, for example `of 3 to 5 characters`."""
    texts: list[str] = []
    if kind == "string":
        texts = [
            f"of format {cut(bounds['format'], 60)}" if "format" in bounds else "",
            count_text(bounds.get("minLength", 0), bounds.get("maxLength"), "of {} character"),
            *(f"matching {cut(pattern, 120)}" for pattern in bounds.get("pattern", ())[:4]),
        ]
    elif kind == "number":
        (lower, excluded), (upper, allowed) = bounds.get("minimum", (None, 0)), bounds.get("maximum", (None, 0))
        texts = [
            f"{'>' if excluded else '>='} {lower}" if lower is not None else "",
            f"{'<=' if allowed else '<'} {upper}" if upper is not None else "",
            f"multiple of {bounds['multipleOf']}" if "multipleOf" in bounds else "",
        ]
    elif kind == "array":
        count = count_text(bounds.get("minItems", 0), bounds.get("maxItems"), "of {} item")
        texts = [count, "without repeats" if "uniqueItems" in bounds else ""]
    return list(filter(None, texts))


def count_text(least: float, most: float | None, form: str) -> str:
    """How many things there may be: `2 to 3 properties` for the form `{} property`; empty where any number may be."""
    plural = f"{form[:-1]}ies" if form.endswith("y") else f"{form}s"
    if most is None:
        return (form if least == 1 else plural).format(f"at least {int(least)}") if least else ""
    number = f"{int(most)}" if least == most else f"{int(least)} to {int(most)}" if least else f"at most {int(most)}"
    return (form if most == 1 else plural).format(number)


def alternatives(shapes: Iterable[Shape], depth: int = _DEPTH, room: int = _ROOM) -> str:
    """Shapes divided by bars, each once."""
    parts: dict[str, None] = {}
    more = False
    for shape in shapes:
        if len(parts) == _MAX_ALTERNATIVES or room <= 0:
            more = True
            break
        text = describe(shape, depth, room)
        room -= 0 if text in parts else len(text) + 3
        parts[text] = None
    return " | ".join([*parts, "…"] if more else parts)


def names(values: Sequence[str]) -> str:
    """Property names divided by commas."""
    return ", ".join(quoted(value) for value in values[:_MAX_NAMES]) + (", …" if len(values) > _MAX_NAMES else "")

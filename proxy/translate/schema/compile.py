"""Compiling a client's schema: read it, write it within the documented keywords, keep what checking needs."""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import orjson

from proxy.errors import InvalidRequest
from proxy.translate.schema.document import Document, read_document
from proxy.translate.schema.faults import Fault, SchemaFault, dotted
from proxy.translate.schema.keywords import MAX_LEVELS, Reach, Reader
from proxy.translate.schema.limits import DEFAULT_LIMITS, Limits
from proxy.translate.schema.merge import both
from proxy.translate.schema.render import JsonObject, Writer, Written
from proxy.translate.schema.shape import ALL_KINDS, of_kinds
from proxy.translate.schema.values import Json
from proxy.translate.schema.work import TooMuchWork, Work

Keywords = Literal["documented", "full"]
"""`documented`: only what contract narrative.md lists. `full`: `anyOf`, `const` and `format` too."""

_CACHED = 512
_CACHED_BYTES = 65_536
"""Larger schemas are compiled each time, so that the cache stays within some hundred megabytes at worst."""
_STEPS = 20_000
_MAX_EXTRA = 8
"""Where definitions contain each other, that many levels more than the recursion depth."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A client's schema, ready to be sent, checked against and mended by.

    Attributes:
        schema: takes every value that the original takes, uses only the keywords asked for, and refers to nothing outside
            itself, so that it may stand anywhere in a larger schema. Shared: not to be changed.
        is_object: it takes objects only.
        original: the schema as it came.
        lossy: it takes values that the original does not.
        document: the original as it was read, for checking.
        must_be_object: a value must be an object, though the original does not say so (parameters of a tool).
        limits: the bounds it was compiled under.
    """

    schema: JsonObject
    is_object: bool
    original: Json
    lossy: bool
    document: Document = field(repr=False, compare=False)
    must_be_object: bool = False
    limits: Limits = DEFAULT_LIMITS


def compile_schema(
    schema: object, *, param: str, keywords: Keywords = "documented", limits: Limits = DEFAULT_LIMITS
) -> Compiled:
    """Compile any JSON Schema of draft 4, 6, 7, 2019-09 or 2020-12 (by `$schema`, else 2020-12).

    Args:
        schema: a JSON value as a parser gives it.
        param: where it stands in the request, such as `response_format.json_schema.schema`.
        keywords: what the result may use.
        limits: what it may cost.

    Raises:
        InvalidRequest: `invalid_json_schema`; the schema is malformed, refers outside itself or to nothing, takes no value, or is over a
            limit. `param` is the path of the fault.
    """
    return _compiled(schema, param, keywords, limits, parameters=False)


def compile_parameters(
    parameters: object | None, *, param: str, keywords: Keywords = "documented", limits: Limits = DEFAULT_LIMITS
) -> Compiled:
    """Compile the parameters of a tool: as `compile_schema`, only that saying nothing of the type means an object.

    Args:
        parameters: a JSON Schema; None where the tool has none.
        param: where it stands in the request, such as `tools[3].function.parameters`.
        keywords: what the result may use.
        limits: what it may cost.

    Returns:
        A schema whose `is_object` is false only where the original excludes objects or names other types too.

    Raises:
        InvalidRequest: as `compile_schema`.
    """
    return _compiled({} if parameters is None else parameters, param, keywords, limits, parameters=True)


def _compiled(schema: object, param: str, keywords: Keywords, limits: Limits, *, parameters: bool) -> Compiled:
    try:
        data = _canonical(schema, limits)
        compiling = _remembered if len(data) <= _CACHED_BYTES else _compile
        result = compiling(data, keywords, limits, parameters)
    except SchemaFault as error:
        result = error.fault
    if isinstance(result, Fault):
        path = dotted(param, result.place)
        raise InvalidRequest(
            f"Invalid JSON Schema at {path}: {result.message}.", param=path, code="invalid_json_schema"
        )
    return result


def _canonical(schema: object, limits: Limits) -> bytes:
    """The schema as compact JSON, its keys in their order."""
    try:
        data = orjson.dumps(schema)
    except TypeError:
        data = _spelled_out(schema)
    if len(data) > limits.max_bytes:
        raise SchemaFault(f"the schema has {len(data):,} bytes, more than the {limits.max_bytes:,} allowed")
    return data


def _spelled_out(schema: object) -> bytes:
    """The same for what `orjson` does not take: integers beyond 64 bits, halves of characters."""
    try:
        return json.dumps(schema, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    except (TypeError, ValueError):
        raise SchemaFault("expected a JSON value") from None
    except RecursionError:
        raise SchemaFault("the schema is nested too deeply") from None


def _compile(data: bytes, keywords: Keywords, limits: Limits, parameters: bool) -> Compiled | Fault:
    try:
        document = read_document(data, limits)
        written, must_be_object = _written(document, keywords, limits, parameters=parameters)
    except SchemaFault as error:
        return error.fault
    except TooMuchWork:
        return Fault(
            f"with its references written out, the schema is larger than the {limits.max_compiled_bytes:,} bytes allowed"
        )
    except RecursionError:
        return Fault("the schema is nested too deeply")
    if written.shape.empty:
        return Fault("no value can match the schema")
    return Compiled(
        schema=_as_parameters(written.schema, document) if parameters else written.schema,
        is_object=written.shape.kinds == {"object"},
        original=json.loads(data),
        lossy=not written.exact,
        document=document,
        must_be_object=must_be_object,
        limits=limits,
    )


_remembered = lru_cache(maxsize=_CACHED)(_compile)


def _as_parameters(schema: JsonObject, document: Document) -> JsonObject:
    """Parameters that declare nothing are an object without properties, as OpenAI means them, not a free-form one."""
    said = document.root if isinstance(document.root, dict) else {}
    if (
        schema.get("type") != "object"
        or schema.get("additionalProperties") is not True
        or "additionalProperties" in said
    ):
        return schema
    return {**{key: value for key, value in schema.items() if key != "additionalProperties"}, "properties": {}}


def _written(document: Document, keywords: Keywords, limits: Limits, *, parameters: bool) -> tuple[Written, bool]:
    """The document within the keywords, its references followed as far as the size allows; and whether it had to be made an object.

    Raises:
        TooMuchWork: it is too large even with all references opened.
    """
    full = keywords == "full"
    reader = Reader(document, full, Work(_STEPS))
    untyped = parameters and reader.outline(document.root).kinds == ALL_KINDS

    def write(reader: Reader, writer: Writer, loops: int, hops: int | None) -> Written:
        shape = reader.read(document.root, Reach(MAX_LEVELS, loops, hops))
        return writer.write(both(shape, of_kinds("object"), reader.work) if untyped else shape)

    best = None
    writer = Writer(full, limits.note_chars, min(limits.unrolled_bytes, limits.max_compiled_bytes))
    for loops in range(_deepest(document, limits) + 1):
        try:
            best = write(reader, writer, loops, None)
        except TooMuchWork:
            break
    if best is not None:
        return best, untyped
    for hops in (None, 6, 3, 2, 1, 0):
        try:
            reader, writer = (
                Reader(document, full, Work(_STEPS)),
                Writer(full, limits.note_chars, limits.max_compiled_bytes),
            )
            return write(reader, writer, 0, hops), untyped
        except TooMuchWork:
            continue
    raise TooMuchWork


def _deepest(document: Document, limits: Limits) -> int:
    """How many references to recursive definitions are followed, one inside the other, at most."""
    others = len(document.recursive) - 1
    return limits.recursion_depth + min(others, _MAX_EXTRA) if others >= 0 else 0

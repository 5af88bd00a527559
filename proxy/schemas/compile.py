"""Compiling a client's schema: read it, write it in the keywords of a dialect, and keep what validation needs."""

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from threading import Lock

from proxy.errors import InvalidRequest, SchemaTooComplex
from proxy.schemas.document import Document, read_document
from proxy.schemas.read import MAX_LEVELS, Expansion, Reader
from proxy.schemas.shapes import ALL_TYPES, Shape, intersect, with_note
from proxy.schemas.values import (
    Budget,
    JsonObject,
    JsonType,
    Memo,
    SchemaError,
    SchemaLimits,
    TooLarge,
    format_path,
    json_bytes,
)
from proxy.schemas.write import Dialect, Writer

_STEPS = 2_000
_BYTES_PER_STEP = 4
"""A schema may take `_STEPS` and one step more for so many of its bytes, twice at worst; schemas in use take one for 4 to 100 bytes."""
_MAX_COMPILED = 2_097_152
"""Bytes that a compiled schema may have."""
_MAX_GROWN = 262_144
"""What a small schema may grow to, in bytes, when its references are written out; a large one to four times its size."""
_MAX_UNROLLED = 32_768
"""A recursive schema is written out to fewer levels when it would grow beyond so many bytes."""
_MAX_EXTRA = 8
"""Where definitions contain each other, that many levels more than the recursion depth."""
_CACHE_BYTES = 8 << 20
_ENTRY_BYTES = 1_024


@dataclass(frozen=True, slots=True)
class CompiledSchema:
    """A client's schema, ready to be sent, and to coerce and validate answers.

    Attributes:
        schema: accepts every value that the original accepts, uses only the keywords of the dialect, and refers to nothing outside
            itself, so that it may stand anywhere in a larger schema. Shared between requests: never change it.
        is_object: it accepts objects only.
        document: the original as it was read, for validation.
        aliases: the property names in `schema` that stand for a name which upstreams refuse → the client's name; `coerce` undoes them.
        json_texts: id() of the parts of `schema` that ask for JSON text where the client's schema asks for any object or value;
            `coerce` parses it.
        must_be_object: a value must be an object, though the original does not say so (parameters of a tool).
    """

    schema: JsonObject
    is_object: bool
    document: Document = field(repr=False, compare=False)
    aliases: Mapping[str, str] = field(default_factory=dict)
    json_texts: Mapping[int, JsonObject] = field(default_factory=dict, repr=False, compare=False)
    must_be_object: bool = False


def compile_schema(  # noqa: PLR0913
    schema: object,
    *,
    param: str,
    parameters: bool = False,
    dialect: Dialect = "documented",
    bounds: bool = True,
    limits: SchemaLimits = SchemaLimits(),
    budget: Budget | None = None,
) -> CompiledSchema:
    """Compile any JSON Schema of draft 4, 6, 7, 2019-09 or 2020-12 (by `$schema`, else 2020-12).

    Args:
        schema: a JSON value as a parser gives it.
        param: where it stands in the request, such as `response_format.json_schema.schema`.
        parameters: these are the parameters of a tool (None: it has none), so that a schema without a type means an object. `is_object`
            of the result is false only where the original excludes objects or names other types too.
        dialect: what the result may use.
        bounds: False: lengths, bounds, counts and patterns are only described; answers are still validated against them.
        limits: bounds on the schema.
        budget: the request's; None: a budget for this schema alone.

    Raises:
        InvalidRequest: `invalid_json_schema`; the schema is malformed, refers outside itself or to nothing, accepts no value, or is over a
            limit. `param` is the path of the error.
        SchemaTooComplex: the request's budget is used up; `param` is `param`.
    """
    options = _Options(dialect, bounds, limits, parameters)
    try:
        data = json_bytes({} if parameters and schema is None else schema)
        if len(data) > limits.max_bytes:
            raise SchemaError(f"the schema has {len(data):,} bytes, more than the {limits.max_bytes:,} allowed")
        key = (blake2b(data, digest_size=16).digest(), options)
        compiled = _CACHE.get(key)
        if compiled is None:
            budget = budget or Budget()
            compiled, size = _written(read_document(data, limits, budget), options, budget)
            _CACHE.put(key, compiled, len(data) + size + _ENTRY_BYTES)
        return compiled
    except SchemaTooComplex as error:
        raise SchemaTooComplex(f"{error.message} The limit was reached at {param}.", param=param) from None
    except SchemaError as error:
        path, message = format_path(param, error.path), error.message
    except (TypeError, ValueError):
        path, message = param, "expected a JSON value"
    except RecursionError:
        path, message = param, "the schema is nested too deeply"
    raise InvalidRequest(f"Invalid JSON Schema at {path}: {message}.", param=path, code="invalid_json_schema")


@dataclass(frozen=True, slots=True)
class _Options:
    """What a schema is compiled to."""

    dialect: Dialect
    bounds: bool
    limits: SchemaLimits
    parameters: bool


class _Cache:
    """Compiled schemas by digest of the schema and what was asked for; bounded by bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[object, tuple[CompiledSchema, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: object) -> CompiledSchema | None:
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: object, compiled: CompiledSchema, size: int) -> None:
        with self._lock:
            if key in self._entries or size > self._max_bytes:
                return
            self._entries[key] = (compiled, size)
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._bytes -= self._entries.popitem(last=False)[1][1]


_CACHE = _Cache(_CACHE_BYTES)
"""A compiled schema takes up to some thirty times the bytes of its JSON."""


def _written(document: Document, options: _Options, budget: Budget) -> tuple[CompiledSchema, int]:
    """The most detailed form, and its bytes: recursive definitions to as many levels as fit; else fewer references followed; else the
    types alone. Raises SchemaError: it accepts no value.
    """
    most_steps = _STEPS + document.size // _BYTES_PER_STEP
    largest = min(_MAX_COMPILED, max(_MAX_GROWN, 4 * document.size))

    def prepared(steps: int) -> tuple[Reader, Writer]:
        memo = Memo(steps, budget)
        reader = Reader(document, options.dialect != "documented", memo)
        return reader, Writer(options.dialect, options.bounds, largest, memo, document)

    def types() -> frozenset[JsonType]:
        try:
            return prepared(most_steps)[0].outline(document.root).types
        except TooLarge:
            return ALL_TYPES

    must_be_object = options.parameters and types() == ALL_TYPES

    def attempt(shape: Shape, writer: Writer) -> tuple[CompiledSchema, int]:
        if must_be_object:
            shape = intersect(shape, Shape(types=frozenset({"object"})), writer.memo)
        if shape.empty:
            raise SchemaError("no value can match the schema")
        written = writer.write(shape)
        schema = _as_parameters(written.schema, document) if options.parameters else written.schema
        is_object = shape.types == {"object"}
        compiled = CompiledSchema(schema, is_object, document, writer.aliases, writer.json_texts, must_be_object)
        return compiled, written.size

    for steps, references in ((most_steps, None), (most_steps // 3, 6), (most_steps // 3, 2), (most_steps // 3, 0)):
        reader, writer = prepared(steps)
        try:
            best = attempt(reader.read(document.root, Expansion(MAX_LEVELS, 0, references)), writer)
        except TooLarge:
            continue
        if references is None and document.recursive:
            writer.max_bytes = min(_MAX_UNROLLED, largest)
            levels = options.limits.recursion_depth + min(len(document.recursive) - 1, _MAX_EXTRA)
            with suppress(TooLarge):
                for recursions in range(1, 1 + levels):
                    best = attempt(reader.read(document.root, Expansion(MAX_LEVELS, recursions)), writer)
        return best
    shape = with_note(Shape(types=types()), "Its form is too complex to be described.")
    return attempt(shape, prepared(most_steps)[1])


def _as_parameters(schema: JsonObject, document: Document) -> JsonObject:
    """Parameters that declare nothing are an object without properties, as OpenAI means them, not a free-form one."""
    declared = isinstance(document.root, dict) and "additionalProperties" in document.root
    if declared or schema.get("type") != "object" or schema.get("additionalProperties") is not True:
        return schema
    return {**{key: value for key, value in schema.items() if key != "additionalProperties"}, "properties": {}}

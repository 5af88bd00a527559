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
    dialect: Dialect = "documented",
    bounds: bool = True,
    limits: SchemaLimits = SchemaLimits(),
    budget: Budget | None = None,
) -> CompiledSchema:
    """Compile any JSON Schema of draft 4, 6, 7, 2019-09 or 2020-12 (by `$schema`, else 2020-12).

    Args:
        schema: a JSON value as a parser gives it.
        param: where it stands in the request, such as `response_format.json_schema.schema`.
        dialect: what the result may use.
        bounds: False: lengths, bounds, counts and patterns are only described; answers are still validated against them.
        limits: bounds on the schema.
        budget: the request's; None: a budget for this schema alone.

    Raises:
        InvalidRequest: `invalid_json_schema`; the schema is malformed, refers outside itself or to nothing, accepts no value, or is over a
            limit. `param` is the path of the error.
        SchemaTooComplex: the request's budget is used up; `param` is `param`.
    """
    return _cached(schema, param, _Options(dialect, bounds, limits, parameters=False), budget or Budget())


def compile_parameters(  # noqa: PLR0913
    parameters: object | None,
    *,
    param: str,
    dialect: Dialect = "documented",
    bounds: bool = True,
    limits: SchemaLimits = SchemaLimits(),
    budget: Budget | None = None,
) -> CompiledSchema:
    """Compile the parameters of a tool: like `compile_schema`, except that a schema without a type means an object.

    `parameters` is None where the tool has none, `is_object` of the result false only where the original excludes objects or names other
    types too. The other arguments and the errors are those of `compile_schema`.
    """
    options = _Options(dialect, bounds, limits, parameters=True)
    return _cached({} if parameters is None else parameters, param, options, budget or Budget())


@dataclass(frozen=True, slots=True)
class _Options:
    """What a schema is compiled to. `parameters`: it stands for the parameters of a tool."""

    dialect: Dialect
    bounds: bool
    limits: SchemaLimits
    parameters: bool


class _Cache:
    """Results by digest of the schema and what was asked for; bounded by the bytes of the schemas."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[object, tuple[CompiledSchema | SchemaError, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: object) -> CompiledSchema | SchemaError | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: object, result: CompiledSchema | SchemaError, size: int) -> None:
        with self._lock:
            if key in self._entries or size > self._max_bytes:
                return
            self._entries[key] = (result, size)
            self._bytes += size
            while self._bytes > self._max_bytes:
                _, (_, removed) = self._entries.popitem(last=False)
                self._bytes -= removed


_CACHE = _Cache(_CACHE_BYTES)
"""A compiled schema takes up to some thirty times the bytes of its JSON."""


def _cached(schema: object, param: str, options: _Options, budget: Budget) -> CompiledSchema:
    try:
        data = json_bytes(schema)
        if len(data) > options.limits.max_bytes:
            raise SchemaError(f"the schema has {len(data):,} bytes, more than the {options.limits.max_bytes:,} allowed")
        key = (blake2b(data, digest_size=16).digest(), options)
        result = _CACHE.get(key)
        if result is None:
            result, size = _compile(data, options, budget)
            _CACHE.put(key, result, len(data) + size + _ENTRY_BYTES)
    except SchemaTooComplex as error:
        raise SchemaTooComplex(f"{error.message} The limit was reached at {param}.", param=param) from None
    except SchemaError as error:
        result = error
    except (TypeError, ValueError):
        result = SchemaError("expected a JSON value")
    except RecursionError:
        result = SchemaError("the schema is nested too deeply")
    if isinstance(result, SchemaError):
        path = format_path(param, result.path)
        message = f"Invalid JSON Schema at {path}: {result.message}."
        raise InvalidRequest(message, param=path, code="invalid_json_schema")
    return result


def _compile(data: bytes, options: _Options, budget: Budget) -> tuple[CompiledSchema | SchemaError, int]:
    """The result, and the bytes of the compiled schema. Errors are remembered like compiled schemas."""
    try:
        document = read_document(data, options.limits, budget)
        return _written(document, options, budget)
    except SchemaError as error:
        return SchemaError(error.message, error.path), 0  # a new one, which holds no frames
    except RecursionError:
        return SchemaError("the schema is nested too deeply"), 0


def _written(document: Document, options: _Options, budget: Budget) -> tuple[CompiledSchema, int]:
    """The most detailed form: recursive definitions to as many levels as fit; else fewer references followed; else the types alone.

    Returns:
        The form and its bytes.

    Raises:
        SchemaError: it accepts no value.
    """
    limits, most_steps = options.limits, _STEPS + document.size // _BYTES_PER_STEP
    largest = min(_MAX_COMPILED, max(_MAX_GROWN, 4 * document.size))

    def types() -> frozenset[JsonType]:
        try:
            return reader_with(Memo(most_steps, budget)).outline(document.root).types
        except TooLarge:
            return ALL_TYPES

    def reader_with(memo: Memo) -> Reader:
        return Reader(document, options.dialect != "documented", memo)

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
        memo = Memo(steps, budget)
        reader = reader_with(memo)
        writer = Writer(options.dialect, options.bounds, largest, memo, document)
        try:
            best = attempt(reader.read(document.root, Expansion(MAX_LEVELS, 0, references)), writer)
        except TooLarge:
            continue
        if references is None and document.recursive:
            writer.max_bytes = min(_MAX_UNROLLED, largest)
            with suppress(TooLarge):
                for recursions in range(1, 1 + limits.recursion_depth + min(len(document.recursive) - 1, _MAX_EXTRA)):
                    best = attempt(reader.read(document.root, Expansion(MAX_LEVELS, recursions)), writer)
        return best
    writer = Writer(options.dialect, options.bounds, largest, Memo(most_steps, budget), document)
    return attempt(with_note(Shape(types=types()), "Its form is too complex to be described."), writer)


def _as_parameters(schema: JsonObject, document: Document) -> JsonObject:
    """Parameters that declare nothing are an object without properties, as OpenAI means them, not a free-form one."""
    declared = isinstance(document.root, dict) and "additionalProperties" in document.root
    if declared or schema.get("type") != "object" or schema.get("additionalProperties") is not True:
        return schema
    return {**{key: value for key, value in schema.items() if key != "additionalProperties"}, "properties": {}}

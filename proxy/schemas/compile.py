"""Compiling a client's schema: read it, write it in the keywords of a dialect, and keep what validation needs."""

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from threading import Lock

from proxy.errors import InvalidRequest, SchemaTooComplex
from proxy.schemas.document import Document, read_document
from proxy.schemas.read import MAX_LEVELS, Expansion, Reader
from proxy.schemas.shapes import ALL_TYPES, Shape, intersect, of_types, with_notes
from proxy.schemas.values import (
    DEFAULT_LIMITS,
    Budget,
    Json,
    JsonObject,
    JsonType,
    Memo,
    SchemaError,
    SchemaLimits,
    TooLarge,
    format_path,
    json_bytes,
)
from proxy.schemas.write import Dialect, Writer, Written, move_bounds

_STEPS = 2_000
_BYTES_PER_STEP = 4
"""A schema may take `_STEPS` and one step more for so many of its bytes, twice at worst; schemas in use take one for 4 to 100 bytes."""
_MAX_GROWN = 262_144
"""What a small schema may grow to, in bytes, when its references are written out; a large one to four times its size."""
_MAX_EXTRA = 8
"""Where definitions contain each other, that many levels more than the recursion depth."""


@dataclass(frozen=True, slots=True)
class CompiledSchema:
    """A client's schema, ready to be sent, and to coerce and validate answers.

    Attributes:
        schema: accepts every value that the original accepts, uses only the keywords of the dialect, and refers to nothing outside
            itself, so that it may stand anywhere in a larger schema. Shared between requests: never change it.
        is_object: it accepts objects only.
        original: the schema as the client sent it.
        lossy: it accepts values that the original does not.
        document: the original as it was read, for validation.
        aliases: the property names in `schema` that stand for a name which upstreams refuse → the client's name; `coerce` undoes them.
        json_texts: id() of the parts of `schema` that ask for JSON text where the client's schema asks for any object or value;
            `coerce` parses it.
        must_be_object: a value must be an object, though the original does not say so (parameters of a tool).
        limits: the bounds it was compiled under.
    """

    schema: JsonObject
    is_object: bool
    original: Json
    lossy: bool
    document: Document = field(repr=False, compare=False)
    aliases: Mapping[str, str] = field(default_factory=dict)
    json_texts: Mapping[int, JsonObject] = field(default_factory=dict, repr=False, compare=False)
    must_be_object: bool = False
    limits: SchemaLimits = DEFAULT_LIMITS


def compile_schema(
    schema: object,
    *,
    param: str,
    dialect: Dialect = "documented",
    limits: SchemaLimits = DEFAULT_LIMITS,
    budget: Budget | None = None,
) -> CompiledSchema:
    """Compile any JSON Schema of draft 4, 6, 7, 2019-09 or 2020-12 (by `$schema`, else 2020-12).

    Args:
        schema: a JSON value as a parser gives it.
        param: where it stands in the request, such as `response_format.json_schema.schema`.
        dialect: what the result may use.
        limits: bounds on the schema.
        budget: the request's; None: a budget for this schema alone.

    Raises:
        InvalidRequest: `invalid_json_schema`; the schema is malformed, refers outside itself or to nothing, accepts no value, or is over a
            limit. `param` is the path of the error.
        SchemaTooComplex: the request's budget is used up; `param` is `param`.
    """
    return _cached(schema, param, _Options(dialect, limits, parameters=False), budget or Budget())


def compile_parameters(
    parameters: object | None,
    *,
    param: str,
    dialect: Dialect = "documented",
    limits: SchemaLimits = DEFAULT_LIMITS,
    budget: Budget | None = None,
) -> CompiledSchema:
    """Compile the parameters of a tool: like `compile_schema`, except that a schema without a type means an object.

    `parameters` is None where the tool has none, `is_object` of the result false only where the original excludes objects or names other
    types too. The other arguments and the errors are those of `compile_schema`.
    """
    options = _Options(dialect, limits, parameters=True)
    return _cached({} if parameters is None else parameters, param, options, budget or Budget())


def without_bounds(compiled: CompiledSchema) -> CompiledSchema:
    """Move lengths, bounds, counts and patterns into descriptions. Answers are still validated against them.

    Returns:
        The same with a wider schema; `lossy` where there was anything to move.
    """
    schema = move_bounds(compiled.schema, {})
    return compiled if schema is compiled.schema else replace(compiled, schema=schema, lossy=True)


@dataclass(frozen=True, slots=True)
class _Options:
    """What a schema is compiled to. `parameters`: it stands for the parameters of a tool."""

    dialect: Dialect
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


_CACHE = _Cache(max_bytes=8 << 20)
"""A compiled schema takes up to some thirty times the bytes of its JSON."""
_ENTRY_BYTES = 1_024


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
    most = options.limits.max_compiled_bytes
    try:
        document = read_document(data, options.limits, budget)
        written, writer, must_be_object = _write(document, options, budget)
        if written.shape.empty:
            raise SchemaError("no value can match the schema")
    except SchemaError as error:
        return SchemaError(error.message, error.path), 0  # a new one, which holds no frames
    except TooLarge:
        return SchemaError(f"with its references written out, the schema is larger than the {most:,} bytes allowed"), 0
    except RecursionError:
        return SchemaError("the schema is nested too deeply"), 0
    compiled = CompiledSchema(
        schema=_as_parameters(written.schema, document) if options.parameters else written.schema,
        is_object=written.shape.types == {"object"},
        original=document.root,
        lossy=not written.exact,
        document=document,
        aliases=writer.aliases.names,
        json_texts=writer.json_texts,
        must_be_object=must_be_object,
        limits=options.limits,
    )
    return compiled, written.size


def _as_parameters(schema: JsonObject, document: Document) -> JsonObject:
    """Parameters that declare nothing are an object without properties, as OpenAI means them, not a free-form one."""
    declared = isinstance(document.root, dict) and "additionalProperties" in document.root
    if declared or schema.get("type") != "object" or schema.get("additionalProperties") is not True:
        return schema
    return {**{key: value for key, value in schema.items() if key != "additionalProperties"}, "properties": {}}


def _write(document: Document, options: _Options, budget: Budget) -> tuple[Written, Writer, bool]:
    """The most detailed form: recursive definitions to as many levels as fit; else fewer references followed; else the types alone.

    Returns:
        The form, what wrote it, and whether these are parameters of a tool that do not say that they are an object.

    Raises:
        TooLarge: it is larger than the limit even so.
    """
    limits, most_steps = options.limits, _STEPS + document.size // _BYTES_PER_STEP
    largest = min(limits.max_compiled_bytes, max(_MAX_GROWN, 4 * document.size))

    def attempt(steps: int) -> tuple[Reader, Writer]:
        memo = Memo(steps, budget)
        reader = Reader(document, options.dialect != "documented", memo)
        return reader, Writer(options.dialect, limits.note_chars, largest, memo, document)

    def written(reader: Reader, writer: Writer, recursions: int, references: int | None) -> Written:
        shape = reader.read(document.root, Expansion(MAX_LEVELS, recursions, references))
        return writer.write(intersect(shape, of_types("object"), reader.memo) if must_be_object else shape)

    must_be_object = options.parameters and _types(attempt(most_steps)[0]) == ALL_TYPES
    for steps, references in ((most_steps, None), (most_steps // 3, 6), (most_steps // 3, 2), (most_steps // 3, 0)):
        reader, writer = attempt(steps)
        try:
            best = written(reader, writer, 0, references)
        except TooLarge:
            continue
        if references is None and document.recursive:
            writer.max_bytes = min(limits.unrolled_bytes, largest)
            with suppress(TooLarge):
                for recursions in range(1, 1 + limits.recursion_depth + min(len(document.recursive) - 1, _MAX_EXTRA)):
                    best = written(reader, writer, recursions, None)
        return best, writer, must_be_object
    reader, _ = attempt(most_steps)
    _, writer = attempt(most_steps)
    shape = of_types("object") if must_be_object else Shape(types=_types(reader))
    return writer.write(with_notes(shape, ["Its form is too complex to be described."])), writer, must_be_object


def _types(reader: Reader) -> frozenset[JsonType]:
    """The types of the values that the schema accepts."""
    try:
        return reader.outline(reader.document.root).types
    except TooLarge:
        return ALL_TYPES

"""JSON Schema: compiles any schema to what an upstream accepts, validates answers against the original, and corrects their spelling.

The public API, all of it pure functions that may run in a worker thread:

    compile_schema, compile_parameters   a schema, or a tool's parameters → `CompiledSchema` for one output dialect
    coerce                               an answer → the answer as the client's schema means it: call it first, since it also undoes
                                         the aliases of property names
    validate                             a coerced answer → `Validation`: errors (the answer does not match) and notes (it is accepted,
                                         and something was not checked or is ambiguous)
    is_heavy                             whether a schema or value of that many bytes should be handled in a worker thread
    Budget                               the work that one request may cause; pass one object to all calls of the request

Errors: `InvalidRequest` with code `invalid_json_schema` for a schema that cannot be compiled, its subclass `SchemaTooComplex` when the
budget of the request is used up. `docs/schemas.md` says what becomes of each keyword, and why.
"""

from proxy.schemas.coerce import coerce
from proxy.schemas.compile import CompiledSchema, compile_parameters, compile_schema
from proxy.schemas.validate import Validation, ValidationError, validate
from proxy.schemas.values import Budget, SchemaLimits, is_heavy
from proxy.schemas.write import Dialect

__all__ = [
    "Budget",
    "CompiledSchema",
    "Dialect",
    "SchemaLimits",
    "Validation",
    "ValidationError",
    "coerce",
    "compile_parameters",
    "compile_schema",
    "is_heavy",
    "validate",
]

"""JSON Schema: compiles any schema to what an upstream accepts, validates answers against the original, and corrects their spelling.

All of it is pure and may run in a worker thread; `is_heavy` says when it should. Call `coerce` before `validate`, since it also undoes the
aliases of property names, and pass one `Budget` to all calls of a request. `docs/schemas.md` says what becomes of each keyword, and why.
"""

from proxy.schemas.coerce import coerce
from proxy.schemas.compile import CompiledSchema, compile_schema
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
    "compile_schema",
    "is_heavy",
    "validate",
]

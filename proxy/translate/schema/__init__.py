"""The JSON Schema compiler: any schema to one that Narrative documents, answers checked against the original, spelling mended.

Pure functions. `docs/schemas.md` says what happens to each keyword, and why.
"""

from proxy.translate.schema.bounds import without_bounds
from proxy.translate.schema.check import Violation, check
from proxy.translate.schema.compile import Compiled, Keywords, compile_parameters, compile_schema
from proxy.translate.schema.limits import Limits
from proxy.translate.schema.mend import mend

__all__ = [
    "Compiled",
    "Keywords",
    "Limits",
    "Violation",
    "check",
    "compile_parameters",
    "compile_schema",
    "mend",
    "without_bounds",
]

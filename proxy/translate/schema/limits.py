"""What a client's schema may cost."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on a schema and on what becomes of it. Over the first five is a fault of the schema; the others only make the result wider.

    Attributes:
        max_bytes: size of the schema as compact JSON.
        max_depth: levels of JSON nesting in the schema; at most 200.
        max_properties: properties declared in the whole schema.
        max_alternatives: members of one `anyOf`, `oneOf` or `allOf`.
        max_compiled_bytes: size of the compiled schema as compact JSON.
        recursion_depth: how many levels of a recursive definition are written out before it is opened.
        unrolled_bytes: a recursive schema is written out to fewer levels when it would grow beyond this size.
        note_chars: length of the words added to one description.
        max_violations: how many faults of one value are told.
    """

    max_bytes: int = 131_072
    max_depth: int = 128
    max_properties: int = 5_000
    max_alternatives: int = 1_000
    max_compiled_bytes: int = 262_144
    recursion_depth: int = 3
    unrolled_bytes: int = 32_768
    note_chars: int = 600
    max_violations: int = 10


DEFAULT_LIMITS = Limits()

"""The five drafts of JSON Schema: which one a schema is written in, and what differs between them."""

from dataclasses import dataclass
from typing import Any

import jsonschema
import referencing.jsonschema as specs
from jsonschema.protocols import Validator
from referencing import Specification


@dataclass(frozen=True, slots=True)
class Dialect:
    """One draft.

    Attributes:
        name: as it stands in the `$schema` URI, such as `draft-07`.
        spec: how `referencing` reads ids and anchors in it.
        validator: the checker of the `jsonschema` library for it; the keywords it knows are the draft's.
        rank: 4, 6, 7, 2019 or 2020.
    """

    name: str
    spec: Specification[Any]
    validator: type[Validator]
    rank: int

    def knows(self, keyword: str) -> bool:
        """Whether the draft gives the keyword a meaning; one it does not know says nothing."""
        return keyword in self.validator.VALIDATORS

    @property
    def ref_stands_alone(self) -> bool:
        """Up to draft 7, whatever stands beside a `$ref` is ignored."""
        return self.rank <= 7


LATEST = Dialect("draft/2020-12", specs.DRAFT202012, jsonschema.Draft202012Validator, 2020)
DIALECTS = (
    Dialect("draft-04", specs.DRAFT4, jsonschema.Draft4Validator, 4),
    Dialect("draft-06", specs.DRAFT6, jsonschema.Draft6Validator, 6),
    Dialect("draft-07", specs.DRAFT7, jsonschema.Draft7Validator, 7),
    Dialect("draft/2019-09", specs.DRAFT201909, jsonschema.Draft201909Validator, 2019),
    LATEST,
)


def dialect_named(uri: object) -> Dialect | None:
    """The draft that a `$schema` names, whatever its scheme and trailing `#`; None when it names none of the five."""
    if not isinstance(uri, str):
        return None
    return next((dialect for dialect in DIALECTS if f"json-schema.org/{dialect.name}/schema" in uri), None)

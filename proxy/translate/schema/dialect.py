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
        validator: the checker of the `jsonschema` library for it.
        rank: 4, 6, 7, 2019 or 2020.
        companions: keywords that the library reads together with another, and does not list.
    """

    name: str
    spec: Specification[Any]
    validator: type[Validator]
    rank: int
    companions: frozenset[str]

    def knows(self, keyword: str) -> bool:
        """Whether the draft gives the keyword a meaning for values; `nullable` (OpenAPI) has one in all."""
        return keyword in self.validator.VALIDATORS or keyword in self.companions

    @property
    def ref_stands_alone(self) -> bool:
        """Up to draft 7, whatever stands beside a `$ref` is ignored."""
        return self.rank <= 7

    def said(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The keywords of a schema that have a meaning for values."""
        if self.ref_stands_alone and "$ref" in schema:
            return {"$ref": schema["$ref"]}
        said = {keyword: value for keyword, value in schema.items() if self.knows(keyword)}
        if "if" not in said:
            said.pop("then", None)
            said.pop("else", None)
        return said


_ALL = frozenset({"nullable"})
_EXCLUSIVE = frozenset({"exclusiveMinimum", "exclusiveMaximum"})
_BRANCHES = frozenset({"then", "else"})
_COUNTS = frozenset({"minContains", "maxContains"})

LATEST = Dialect("draft/2020-12", specs.DRAFT202012, jsonschema.Draft202012Validator, 2020, _ALL | _BRANCHES | _COUNTS)
DIALECTS = (
    Dialect("draft-04", specs.DRAFT4, jsonschema.Draft4Validator, 4, _ALL | _EXCLUSIVE),
    Dialect("draft-06", specs.DRAFT6, jsonschema.Draft6Validator, 6, _ALL),
    Dialect("draft-07", specs.DRAFT7, jsonschema.Draft7Validator, 7, _ALL | _BRANCHES),
    Dialect("draft/2019-09", specs.DRAFT201909, jsonschema.Draft201909Validator, 2019, _ALL | _BRANCHES | _COUNTS),
    LATEST,
)


def dialect_named(uri: object) -> Dialect | None:
    """The draft that a `$schema` names, whatever its scheme and trailing `#`; None when it names none of the five."""
    if not isinstance(uri, str):
        return None
    return next((dialect for dialect in DIALECTS if f"json-schema.org/{dialect.name}/schema" in uri), None)

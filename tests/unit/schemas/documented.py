"""What contract narrative.md lists for `output_format_schema`."""

from typing import Any

from tests.contract import DOCUMENTED_KEYWORDS

DOCUMENTED = frozenset(DOCUMENTED_KEYWORDS)


def keywords_in(schema: dict[str, Any]) -> set[str]:
    """All keywords of a compiled schema."""
    inner = [
        *schema.get("properties", {}).values(),
        schema.get("items"),
        schema.get("additionalProperties"),
        *schema.get("anyOf", ()),
    ]
    return set(schema).union(*(keywords_in(member) for member in inner if isinstance(member, dict)))

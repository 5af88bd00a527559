"""The official JSON-Schema-Test-Suite against compilation and validation: https://github.com/json-schema-org/JSON-Schema-Test-Suite

    git clone https://github.com/json-schema-org/JSON-Schema-Test-Suite /tmp/suite
    python -m benchmarks.schema_suite /tmp/suite [--draft draft2020-12]

Runs all required groups of a draft, prints those that fail, and compares them with the known ones in `tests/data/schema-suite.json`.
The suite is not published as a Python package, so it is not part of `make test`.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proxy.errors import InvalidRequest
from proxy.schemas import compile_schema, validate

KNOWN = Path(__file__).parents[1] / "tests" / "data" / "schema-suite.json"
URIS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}


def accepts(schema: Any, instance: Any) -> bool:
    """Whether an instance is valid: no error, and no note that says that it matches several alternatives of a `oneOf`."""
    try:
        found = validate(compile_schema(schema, param="schema"), instance)
    except InvalidRequest as error:
        if "no value can match" in error.message:
            return False
        raise
    return not found.errors and not any("of the alternatives, not one" in note for note in found.notes)


def failing(suite: Path, draft: str) -> Iterator[tuple[str, str]]:
    """(group, reason) of each required group in which some test fails."""
    for file in sorted((suite / "tests" / draft).glob("*.json")):
        for group in json.loads(file.read_text("utf-8")):
            schema = group["schema"]
            if isinstance(schema, dict) and "$schema" not in schema:
                schema = {"$schema": URIS[draft], **schema}
            name = f"{file.stem}: {group['description']}"
            try:
                wrong = [
                    test["description"] for test in group["tests"] if accepts(schema, test["data"]) != test["valid"]
                ]
            except InvalidRequest as error:
                wrong = [error.message]
            if wrong:
                yield name, "; ".join(wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--draft", choices=sorted(URIS), default="draft2020-12")
    options = parser.parse_args()
    known = json.loads(KNOWN.read_text("utf-8")).get(options.draft, {}) if KNOWN.exists() else {}
    found = dict(failing(options.suite, options.draft))
    for name, reason in found.items():
        print(f"{'known' if name in known else 'NEW  '} {name}: {reason[:200]}")
    for name in known.keys() - found.keys():
        print(f"PASSES NOW {name}")
    raise SystemExit(found.keys() != known.keys())


if __name__ == "__main__":
    main()

"""The runner of the JSON-Schema-Test-Suite, and the groups that are known to fail."""

import json
from pathlib import Path

from benchmarks.schema_suite import KNOWN, URIS, failing


def test_only_remote_references_and_asserted_formats_are_known_to_fail() -> None:
    known = json.loads(KNOWN.read_text("utf-8"))
    assert known.keys() == URIS.keys()
    for groups in known.values():
        for name, reason in groups.items():
            file = name.partition(":")[0]
            assert (file == "format") is (reason == "asserted format")
            assert reason in {"remote reference", "remote metaschema", "asserted format"}
            assert file in {"refRemote", "format", "vocabulary", "dynamicRef"}


def test_the_runner_names_the_groups_that_fail(tmp_path: Path) -> None:
    groups = [
        {
            "description": "right",
            "schema": {"type": "integer"},
            "tests": [{"description": "t", "data": 1, "valid": True}],
        },
        {
            "description": "wrong",
            "schema": {"type": "integer"},
            "tests": [{"description": "t", "data": 1, "valid": False}],
        },
        {
            "description": "remote",
            "schema": {"$ref": "http://x.example/"},
            "tests": [{"description": "t", "data": 1, "valid": True}],
        },
        {"description": "nothing", "schema": {"not": {}}, "tests": [{"description": "t", "data": 1, "valid": False}]},
        {
            "description": "several",
            "schema": {"oneOf": [True, True]},
            "tests": [{"description": "t", "data": 1, "valid": False}],
        },
    ]
    for draft in URIS:
        (tmp_path / "tests" / draft).mkdir(parents=True)
        (tmp_path / "tests" / draft / "file.json").write_text(json.dumps(groups))
        assert [name for name, _ in failing(tmp_path, draft)] == ["file: wrong", "file: remote"]

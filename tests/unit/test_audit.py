"""The audit fails for vulnerabilities and for its own failures, and passes, saying so, where nothing can be looked up."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "audit.py"
loaded = importlib.util.spec_from_file_location("audit", SCRIPT)
assert loaded is not None
assert loaded.loader is not None
audit = importlib.util.module_from_spec(loaded)
loaded.loader.exec_module(audit)

SOUND = {"name": "h11", "version": "0.16.0", "vulns": []}
VULNERABLE = {"name": "h11", "version": "0.14.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["0.16.0"]}]}
UNKNOWN = {"name": "mine", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "found", "unknown"),
    [
        ([SOUND], [], 0),
        ([SOUND, VULNERABLE], ["h11 0.14.0: PYSEC-1, fixed in 0.16.0"], 0),
        ([SOUND, UNKNOWN], [], 1),
        ([UNKNOWN, UNKNOWN], [], 1),
        ([VULNERABLE, UNKNOWN], ["h11 0.14.0: PYSEC-1, fixed in 0.16.0"], 1),
    ],
)
def test_vulnerabilities_and_unknown_packages_are_told_apart(
    packages: list[object], found: list[str], unknown: int
) -> None:
    vulnerable, missing = audit.judge(json.dumps({"dependencies": packages, "fixes": []}), "")
    assert vulnerable == found
    assert len(missing) == unknown


def test_without_network_nothing_is_found_and_that_is_said() -> None:
    log = "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='example.com', port=443): Max retries exceeded"
    assert audit.judge("", log) == ([], ["the vulnerability service cannot be reached"])


def test_any_other_failure_is_not_taken_for_a_missing_network() -> None:
    with pytest.raises(ValueError, match="invalid requirements"):
        audit.judge("", "ERROR:pip_audit._cli:invalid requirements input")

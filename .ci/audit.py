"""Look for known vulnerabilities in the packages of lock files, with pip-audit.

    python .ci/audit.py requirements.txt requirements-build.txt
    python .ci/audit.py --strict requirements.txt    # for releases: what could not be looked up is an error too

A vulnerability is always an error. Without network, or with a package index that knows nothing of vulnerabilities, it says what was
not looked up and passes, so that the checks of a change also run offline. pip-audit must be installed where this runs.
"""

import json
import re
import subprocess
import sys

UNREACHABLE = re.compile(
    r"ConnectionError|ConnectTimeout|ReadTimeout|NameResolutionError|ProxyError|SSLError|ServiceError"
)


def judge(output: str, log: str) -> tuple[list[str], list[str]]:
    """What pip-audit found, and what it could not look up, a line each, from its JSON and its log.

    Raises ValueError, with the log, when it failed for another reason than the network.
    """
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        if UNREACHABLE.search(log):
            return [], ["the vulnerability service cannot be reached"]
        raise ValueError(log) from None
    found = [
        f"{package['name']} {package['version']}: {each['id']}, fixed in {', '.join(each['fix_versions']) or 'no release'}"
        for package in packages
        for each in package.get("vulns", ())
    ]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped and len(skipped) == len(packages):
        return found, ["the vulnerability service knows none of these packages (an index mirror has no such service)"]
    return found, [f"{name} is not known to the vulnerability service" for name in skipped]


def audit(file: str) -> tuple[list[str], list[str]]:
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "-r", file]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return judge(run.stdout, run.stderr)


if __name__ == "__main__":
    strict, failed = "--strict" in sys.argv, False
    for name in sys.argv[1:]:
        if name == "--strict":
            continue
        found, unknown = audit(name)
        failed = failed or bool(found) or (strict and bool(unknown))
        for line in found:
            print(f"{name}: {line}")
        for line in unknown:
            print(f"{name}: not audited: {line}")
        if not found and not unknown:
            print(f"{name}: no known vulnerabilities")
    sys.exit(failed)

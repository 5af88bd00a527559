"""The proxy as real processes, for tests of commands, signals and sudden deaths."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def command(*arguments: str, **environ: str) -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PROXY_", "NARRATIVE_"))}
    return {"args": [sys.executable, "-m", "proxy", *arguments], "env": {**clean, **environ}, "text": True}


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**command(*arguments, **environ), capture_output=True, timeout=60, check=False)


@contextmanager
def running(*arguments: str, **environ: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A started command and the URL that it printed."""
    process = subprocess.Popen(**command(*arguments, **environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout
        found = None
        while not found:
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            found = re.search(r"(?:base URL|sandbox on) +(http://127\.0\.0\.1:\d+)", line)
        yield found[1], process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)

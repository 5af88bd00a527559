"""The proxy as real processes, for tests of commands, signals and sudden deaths."""

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def command(*arguments: str, descriptors: tuple[int, int] | None = None, **environ: str) -> dict[str, Any]:
    """What starts it.

    Args:
        descriptors: soft and hard limit of open files, else those of the tests.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PROXY_", "NARRATIVE_"))}
    started: dict[str, Any] = {
        "args": [sys.executable, "-m", "proxy", *arguments],
        "env": {**clean, **environ},
        "text": True,
    }
    if descriptors is not None:
        started["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)
    return started


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**command(*arguments, **environ), capture_output=True, timeout=60, check=False)


@contextmanager
def running(
    *arguments: str, descriptors: tuple[int, int] | None = None, **environ: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A started command and the URL that it printed."""
    process = subprocess.Popen(
        **command(*arguments, descriptors=descriptors, **environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
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

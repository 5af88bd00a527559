"""The proxy on its sandbox, as a process of its own from the project's environment: the clients live in another one."""

import json
import os
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import pytest
from scenes import SILENCE_S

ROOT = Path(__file__).parents[3]
PYTHON = os.environ.get("PROXY_PYTHON", str(ROOT / ".venv/bin/python"))
HEARTBEAT_S = str(SILENCE_S / 8)
SETTINGS = {
    "PROXY_API_KEYS": "test-key",
    "PROXY_SERVER__LOG_FORMAT": "json",
    "PROXY_SANDBOX__PENDING_S": "0",
    "PROXY_SANDBOX__RUNNING_S": "0",
    "PROXY_CHAT__HEARTBEAT_S": HEARTBEAT_S,
}


class Proxy:
    """A running proxy, or the sandbox alone, which has but its URLs.

    Attributes:
        base_url: what clients are pointed at, with `/v1`.
        url: the same without, for clients of the Messages API.
        key: the one it accepts.
    """

    key = "test-key"

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        assert process.stderr
        self.base_url = _base_url(process.stdout)
        self.url = self.base_url.removesuffix("/v1")
        self._ended: dict[str, dict[str, Any]] = {}
        self._left: set[str] = set()
        self._changed = threading.Condition()
        self._process = process
        self._listener = threading.Thread(target=self._listen, args=[process.stderr], daemon=True)
        self._listener.start()

    def stop(self) -> None:
        self._process.terminate()
        self._listener.join(30)

    def kill(self) -> None:
        """End it at once, in the midst of whatever it does."""
        self._process.kill()
        self._listener.join(30)

    def ended(self, request_id: str) -> dict[str, Any]:
        """The log line of a request, which is written when the proxy is done with it; waits for it."""
        with self._changed:
            assert self._changed.wait_for(lambda: request_id in self._ended, timeout=30), "the proxy still works on it"
            return self._ended[request_id]

    def jobs(self) -> int:
        """How many jobs were submitted so far."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return int(sum(float(line.split()[-1]) for line in lines if line.startswith("proxy_jobs_submitted_total")))

    def left(self, request_id: str) -> None:
        """Wait until the proxy is done with a request whose client left before its end."""
        status = self.ended(request_id)["status"]
        assert status == 499 or request_id in self._left, "its client did not leave"

    def serves(self, request_id: str) -> bool:
        """Whether the proxy is not done with a request yet."""
        return request_id not in self._ended

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            entry = json.loads(line)
            if entry["event"] == "the client left before the end of its answer":
                self._left.add(entry["request"])
            if entry["event"] == "request":
                with self._changed:
                    self._ended[entry["request"]] = entry
                    self._changed.notify_all()


def _base_url(lines: IO[str]) -> str:
    for line in lines:
        if found := re.search(r"(?:base URL|sandbox on)\s+(\S+)", line):
            return found[1]
    raise AssertionError("the proxy did not start")


@contextmanager
def start_proxy(*arguments: str, **settings: str) -> Iterator[Proxy]:
    """One with these environment variables beside those of all tests; by default `serve --sandbox`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PROXY_", "NARRATIVE_"))}
    with subprocess.Popen(
        [PYTHON, "-m", "proxy", *(arguments or ("serve", "--sandbox")), "--port", "0"],
        cwd=ROOT,
        env={**environ, **SETTINGS, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        running = Proxy(process)
        try:
            yield running
        finally:
            running.stop()


@pytest.fixture(scope="session")
def proxy() -> Iterator[Proxy]:
    with start_proxy() as running:
        yield running


@pytest.fixture(scope="session")
def blank_proxy() -> Iterator[Proxy]:
    """One that sends blanks ahead of plain answers that take long, and begins streams before their jobs end."""
    with start_proxy(PROXY_CHAT__KEEPALIVE_JSON_S=HEARTBEAT_S, PROXY_MESSAGES__HOLD_S=HEARTBEAT_S) as running:
        yield running


@pytest.fixture(scope="session")
def pacing_proxy() -> Iterator[Proxy]:
    """One that takes its time between the events of an answer."""
    with start_proxy(PROXY_CHAT__STREAM_PACE_MS="30000") as proxy:
        yield proxy


@pytest.fixture
def request_id() -> str:
    """An id to send as `X-Request-Id`, by which a request is found in the proxy's log."""
    return f"test-{uuid4().hex}"

"""Servers in processes of their own for benchmarks, what they use, and an HTTP client that costs little.

Everything listens on 127.0.0.1. CPU time and memory are read from `/proc`, so benchmarks that show them run on Linux.
"""

import asyncio
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from proxy.sandbox import SANDBOX_DATA_PLANE

_START_S = 30.0


@dataclass(frozen=True)
class Server:
    """A running server."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """User and system time so far, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Resident memory, in MB of 1,000,000 bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serve(command: str, environment: Mapping[str, str] | None = None, ready: str = "/healthz") -> Iterator[Server]:
    """Run a server until the block ends.

    Args:
        command: `{port}` in it stands for the port to listen on.
        ready: a path that the server answers, with any status, once it takes requests.
    """
    port = free_port()
    words = [word.replace("{port}", str(port)) for word in shlex.split(command)]
    process = subprocess.Popen(words, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL)
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}{ready}")
        yield Server(process.pid, port)
    finally:
        process.terminate()
        process.wait(60)


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.01)
    raise RuntimeError(f"no answer from {url}")


def serve_upstream(running_s: float = 0.0) -> AbstractContextManager[Server]:
    """The sandbox, whose jobs take `running_s` seconds unless a request says otherwise."""
    times = {"PROXY_SANDBOX__PENDING_S": "0", "PROXY_SANDBOX__RUNNING_S": str(running_s)}
    command = f"{sys.executable} -m proxy sandbox --port {{port}}"
    return serve(command, {**times, "PROXY_SERVER__LOG_LEVEL": "warning"}, ready="/jobs")


def serve_proxy(upstream: Server, settings: Mapping[str, str] | None = None) -> AbstractContextManager[Server]:
    """The proxy with one worker, on an upstream."""
    environment = {
        "NARRATIVE_ENVIRONMENT": upstream.url,
        "NARRATIVE_API_KEY": "a-key-for-benchmarks",
        "NARRATIVE_DATA_PLANE_ID": SANDBOX_DATA_PLANE,
        "PROXY_SERVER__LOG_LEVEL": "warning",
        **(settings or {}),
    }
    return serve(f"{sys.executable} -m proxy serve --port {{port}}", environment)


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection that sends prepared requests, one after the other, and looks only for where each response ends."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._response: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self._lost: Exception | None = None

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect to a port of this machine."""
        _, protocol = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return protocol

    async def ask(self, request: bytes) -> bytes:
        """Send a request; the whole response, head included.

        Raises:
            ConnectionError: the server closed the connection.
        """
        if self._lost or self._transport is None:
            raise ConnectionError("the connection is closed") from self._lost
        self._buffer.clear()
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._response

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        response = self._response
        if response is not None and not response.done() and self._complete():
            response.set_result(bytes(self._buffer))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc or ConnectionError("the server closed the connection")
        if self._response is not None and not self._response.done():
            self._response.set_exception(ConnectionError("the server closed the connection"))

    def _complete(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[:end]).lower()
        _, named, length = head.partition(b"content-length:")
        if named:
            return len(self._buffer) - end - 4 >= int(length.partition(b"\r\n")[0])
        return self._buffer.endswith(b"0\r\n\r\n")


def post_request(port: int, path: str, body: bytes) -> bytes:
    """The bytes of a `POST` of JSON."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer any\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def chat_request(port: int, body: bytes) -> bytes:
    """The bytes of `POST /v1/chat/completions`."""
    return post_request(port, "/v1/chat/completions", body)

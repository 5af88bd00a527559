"""A Redis for tests: the real server where it is installed, else an imitation in this process, on a socket either way."""

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from fakeredis import TcpFakeServer


@contextmanager
def serve_redis() -> Iterator[str]:
    """Serve an empty Redis; gives its URL."""
    with _real() if shutil.which("redis-server") else _imitation() as port:
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def _real() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        assert any("Ready to accept connections" in line for line in server.stdout), "redis-server did not start"
        drain = threading.Thread(target=server.stdout.read, daemon=True)
        drain.start()
        yield port
    finally:
        server.terminate()
        server.wait(10)
        drain.join(10)
        server.stdout.close()


@contextmanager
def _imitation() -> Iterator[int]:
    server = _Imitation(("127.0.0.1", 0), server_type="redis")
    server.daemon_threads = True
    server.RequestHandlerClass = _steady(server.RequestHandlerClass)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


class _Imitation(TcpFakeServer):
    request_queue_size = 128


def _steady(handler: Any) -> Any:
    """A handler that stays connected after an error reply, as Redis does."""

    class Steady(handler):
        def setup(self) -> None:
            super().setup()
            read = self.current_client.read_response

            def read_or_error(*args: Any, **options: Any) -> Any:
                try:
                    return read(*args, **options)
                except redis.ResponseError as error:
                    return error

            self.current_client.read_response = read_or_error

    return Steady


if __name__ == "__main__":  # for tests that run in another environment: until their end of the pipe is closed
    with serve_redis() as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        sys.stdin.read()

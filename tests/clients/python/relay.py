"""What stands between a client and the proxy when connections break: a TCP relay that cuts some of them."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class Relay:
    """Forwards connections to a server, and ends as many as there are marks, each once it sees the next mark in what the server
    sends. The bytes before the mark are passed on. `on_cut` is called after each.

    Attributes:
        url: its own, in place of the server's.
        cut: how many connections it has reset so far.
        requests: how many requests it has seen with a path that matches.
    """

    def __init__(self, url: str, path: str, marks: list[bytes], on_cut: Callable[[], None]) -> None:
        self.point_to(url)
        self._marks, self._on_cut = marks, on_cut
        self._request = re.compile(rb"POST " + re.escape(path.encode()) + rb"[? ]")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}{urlsplit(url).path}"
        self.cut = self.requests = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def point_to(self, url: str) -> None:
        """Forward new connections to this server."""
        target = urlsplit(url)
        self._target = (target.hostname, target.port)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                threading.Thread(target=self._up, args=[client, server], daemon=True).start()
                threading.Thread(target=self._down, args=[client, server], daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self.requests += len(self._request.findall(data))
                server.sendall(data)
        _end(server)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if self._marks and (at := data.find(self._marks[0])) >= 0:
                    del self._marks[0]
                    self.cut += 1
                    client.sendall(data[:at])
                    _end(server)
                    self._on_cut()
                    break
                client.sendall(data)
        _end(client)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def relayed(url: str, path: str, *marks: bytes, on_cut: Callable[[], None] = lambda: None) -> Iterator[Relay]:
    """A relay to a URL, whose requests to a path are counted."""
    relay = Relay(url, path, list(marks), on_cut)
    try:
        yield relay
    finally:
        relay.close()

"""Runs a sandbox on a real socket inside the caller's event loop."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette

from proxy.sandbox.app import create_sandbox
from proxy.sandbox.faults import Faults
from proxy.sandbox.options import SandboxOptions
from proxy.sandbox.store import JobStore

_GRACE_S = 1


@dataclass(frozen=True)
class RunningSandbox:
    """A sandbox that is serving.

    Attributes:
        url: its base URL, such as `http://127.0.0.1:41234`.
        store: its jobs, for tests in the same process.
        faults: what goes wrong in it, for the same.
        app: the app that is served.
    """

    url: str
    store: JobStore
    faults: Faults
    app: Starlette


class _Server(uvicorn.Server):
    """A server that someone else starts and stops: it leaves the process's signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.ending = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        # The one of the parent wakes ten times a second, and notices the end that much later.
        await self.on_tick(0)
        await self.ending.wait()


@contextlib.asynccontextmanager
async def serve_sandbox(
    options: SandboxOptions | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[RunningSandbox]:
    """Serves a sandbox while the block runs.

    Args:
        options: how it behaves.
        host: where to listen.
        port: 0 takes a free one.

    Raises:
        OSError: the address is taken.
    """
    app = create_sandbox(options)
    with _listen(host, port) as listener:
        server = _Server(_config(app))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await _started(server, serving)
            shown = f"[{host}]" if ":" in host else host
            yield RunningSandbox(f"http://{shown}:{listener.getsockname()[1]}", app.state.store, app.state.faults, app)
        finally:
            app.state.faults.clear()
            server.ending.set()
            await serving


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol left to be guessed, asyncio would not switch Nagle's algorithm off: 40 ms more for every answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACE_S,
        backlog=2048,
    )


async def _started(server: _Server, serving: asyncio.Task[None]) -> None:
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait({ready, serving}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if serving.done():
        serving.result()

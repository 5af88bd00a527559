"""Running an application under uvicorn: one process or several workers, signals, the exit status."""

import gc
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType

import click
import uvicorn
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from proxy.api.http.server import ServerConfig, raise_descriptor_limit
from proxy.logs import configure_logging
from proxy.settings import Settings


def run(app: Callable[[], Starlette], settings: Settings, banner: str) -> None:
    """Serve what `app` makes in each worker, until a signal says to stop. `{url}` in the banner is the address that is listened on."""
    server = settings.server
    descriptors = raise_descriptor_limit() - settings.narrative.max_connections
    most = max(min(server.max_connections, descriptors), 1)
    config = ServerConfig(partial(_logged, app, settings), settings, max_connections=most, factory=True)
    listener = config.bind_socket()
    host = f"[{server.host}]" if ":" in server.host else server.host
    banner = banner.format(url=f"http://{host}:{listener.getsockname()[1]}")
    if server.workers == 1:
        _BannerServer(config, banner).run(sockets=[listener])
        return
    if settings.state.url is None:
        click.echo(
            f"{server.workers} workers without PROXY_STATE__URL (a Redis): each knows only its own requests, so a repeat that "
            "reaches another worker is paid again, limits count per worker, and each worker reads Narrative's jobs for itself.",
            err=True,
        )
    click.echo(banner)
    gc.enable()
    Multiprocess(config, sockets=[listener]).run()


def _logged(app: Callable[[], Starlette], settings: Settings) -> Starlette:
    configure_logging(settings.server.log_format, settings.server.log_level)
    return settled(app)


def settled(app: Callable[[], Starlette]) -> Starlette:
    """Make the application, and spare the garbage collector what was imported and made for it.

    A full collection holds up every thread while it visits each object, among them some 80,000 that stay as long as the process.
    """
    made = app()
    gc.freeze()
    # Python's 700 objects for the youngest generation visit the whole heap again and again while a large request is parsed.
    gc.set_threshold(5000, 10, 200)
    gc.enable()
    return made


class _BannerServer(uvicorn.Server):
    """Prints its banner once it listens, and exits with status 0 when a signal ended it in order."""

    def __init__(self, config: uvicorn.Config, banner: str) -> None:
        super().__init__(config)
        self._banner = banner

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Print the banner, unless the server could not start."""
        await super().startup(sockets)
        if self.started:
            click.echo(self._banner)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop in order."""
        # uvicorn's own also notes the signal and raises it again at the end, which would be the exit status.
        self.should_exit = True

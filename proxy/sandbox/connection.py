"""The connection under an ASGI call: ends it, cleanly or not. Works under uvicorn, whose protocols all keep the transport."""

import asyncio
import socket
import struct
import sys
from typing import Any

from starlette.types import Receive, Send

_FLUSH_TURNS = 1_000
_LINGER_NOT = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class Connection:
    """One call's connection.

    Args:
        receive: the server's own `receive`.
        send: the server's own `send`, not one that a middleware put in its place.

    Raises:
        RuntimeError: this is not uvicorn.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        # ASGI has no word for tearing a connection down. uvicorn's `send` is a method of the object that holds the transport.
        transport: Any = getattr(getattr(send, "__self__", None), "transport", None)
        if not hasattr(transport, "abort"):
            raise RuntimeError("faults of connections need uvicorn, directly around the sandbox")
        self._transport: asyncio.Transport = transport
        self._receive = receive

    async def close(self) -> None:
        """Ends it as a server does that goes away: what was sent arrives, then the end. The request must have been read."""
        self._transport.close()
        await self.left()

    async def reset(self) -> None:
        """Tears it down: the client's next read fails with a reset. What was sent before has left."""
        for _ in range(_FLUSH_TURNS):
            if not self._transport.get_write_buffer_size():
                break
            await asyncio.sleep(0)
        own = self._transport.get_extra_info("socket")
        # Without lingering, closing sends RST. The option is set on a duplicate, because event loops guard the original.
        with socket.fromfd(own.fileno(), own.family, own.type) as duplicate:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._transport.abort()
        await self.left()

    async def left(self) -> None:
        """Waits until the connection is gone. The request must have been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

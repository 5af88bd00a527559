"""An upstream on a real socket that answers byte for byte as a test scripts it: for faults below HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def json(self) -> Any:
        return json.loads(self.body)


Reply = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawUpstream:
    """Answers requests with `replies`, one after the other; the last one stays in force."""

    replies: list[Reply]
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    connected: int = 0
    most_connected: int = 0
    open: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = field(default_factory=dict)
    """Tasks that serve connections: asyncio itself would let the garbage collector take those that wait for ever."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self.open[task] = writer
        self.connected += 1
        self.most_connected = max(self.most_connected, self.connected)
        try:
            while not writer.is_closing():
                request = await _read_request(reader)
                self.seen.append(request)
                reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                await reply(request, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connected -= 1
            del self.open[task]
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.strip().split("\r\n")
    method, target, _ = line.split(" ")
    headers = {name.lower(): value for name, _, value in (item.partition(": ") for item in lines)}
    return Seen(method, target, headers, await reader.readexactly(int(headers.get("content-length", "0"))))


@asynccontextmanager
async def raw_upstream(*replies: Reply) -> AsyncIterator[RawUpstream]:
    upstream = RawUpstream(list(replies))
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        serving = [task for task in upstream.open if task is not None]
        for writer in upstream.open.values():
            writer.transport.abort()
        await asyncio.gather(*serving, return_exceptions=True)


def answer(
    status: int,
    body: bytes | dict[str, Any] = b"",
    *,
    headers: dict[str, str] | None = None,
    cut: int | None = None,
) -> Reply:
    """An HTTP answer. `cut` sends only that many bytes of the body, then resets the connection."""

    async def reply(_: Seen, writer: asyncio.StreamWriter) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n{extra}\r\n".encode())
        writer.write(content[:cut])
        if cut is not None:
            await writer.drain()
            writer.transport.abort()

    return reply


async def hang_up(_: Seen, writer: asyncio.StreamWriter) -> None:
    """Closes the connection without a word."""
    writer.close()


async def reset(_: Seen, writer: asyncio.StreamWriter) -> None:
    """Resets the connection without a word."""
    writer.transport.abort()


async def silence(_: Seen, writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    await writer.wait_closed()


def garbage(content: bytes) -> Reply:
    """Bytes that are no HTTP."""

    async def reply(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()
        writer.close()

    return reply

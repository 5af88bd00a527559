"""Files that clients upload, and files of results: pieces in the store, and what is known of each file, all of it sealed.

    batch-files:<owner>    one field for each file of an owner: its `StoredFile`, sealed
    batch-file:<id>        the pieces, each compressed and sealed, by their number
    batch-uses:<id>        the batches that read the file and have not ended

Names hold digests. Everything is encrypted with a key made of the server's secret, with its name as associated data: unlike a stored
response, a batch goes on without its client, so that the server alone must be able to read it.
"""

import asyncio
import hmac
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from typing import Any, Final, Literal, TypeVar
from uuid import uuid4

import orjson
import structlog

from proxy.errors import BatchConflict, BatchesNeedState, FileNotFound, Overloaded, RequestTooLarge
from proxy.settings import BatchSettings
from proxy.storage import Ledger
from proxy.storage.cipher import Cipher, NoSecret, seal, unseal

T = TypeVar("T")
Purpose = Literal["batch", "batch_output"]
_LARGE_BYTES: Final = 64 * 1024
PIECE_BYTES: Final = 256 * 1024
MOST_FILES: Final = 1_000
"""Files of one owner."""
_MARGIN_S: Final = 3600.0
_MARK: Final = b"\xef\xbb\xbf"
"""The byte order mark, which some programs write in front."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What is known of a file of so many pieces. Its size is in bytes, times are seconds since 1970."""

    id: str
    name: str
    purpose: Purpose
    size: int
    created_at: float
    expires_at: int
    pieces: int


def known_fields(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass of what was stored of it; another version of the proxy may have stored more."""
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in names})


async def computed(size: int, work: Callable[[], T]) -> T:
    """What some work on that many bytes returns, done in a worker thread where they are many."""
    return await asyncio.to_thread(work) if size >= _LARGE_BYTES else work()


class Vault:
    """Seals and opens what is stored of files and batches."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher
        self._key: bytes | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Derive the key, in a thread, unless it is known: that takes a quarter of a second. Raises BatchesNeedState."""
        if self._key is not None:
            return
        async with self._opening:
            try:
                self._key = self._key or await asyncio.to_thread(self._cipher.secret, "batches")
            except NoSecret as error:
                log.error("batches cannot be stored: set PROXY_SECRET_KEY", error=str(error))
                raise BatchesNeedState("Files and batches are not served: the server has no secret key.") from error

    def digest(self, text: str) -> str:
        """The digest that replaces an id or an owner in the names of records."""
        return sha256(b"batches" + text.encode("utf-8", "surrogatepass")).hexdigest()[:40]

    def name(self, kind: str, text: str) -> str:
        """The name of a record of that kind, of an id or an owner."""
        return f"{kind}:{self.digest(text)}"

    def seal(self, name: str, data: bytes) -> str:
        """Compress and seal what is stored under a name."""
        return seal(self._secret(), zlib.compress(data, 1), name.encode())

    def unseal(self, name: str, sealed: str) -> bytes | None:
        """What was stored under that name; None where the server had another secret."""
        packed = unseal(self._secret(), sealed, name.encode())
        return None if packed is None else zlib.decompress(packed)

    def _secret(self) -> bytes:
        if self._key is None:
            raise RuntimeError("the vault has not been opened")
        return self._key

    def derived(self, *parts: str) -> str:
        """32 hexadecimal digits that depend on the parts, and that nobody outside can compute."""
        return hmac.digest(self._secret(), "\0".join(parts).encode("utf-8", "surrogatepass"), "sha256").hex()[:32]


class FileStore:
    """The files. Every call raises StoreUnavailable when they cannot be reached."""

    def __init__(
        self, store: Ledger, vault: Vault, settings: BatchSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._vault, self._settings, self.clock = store, vault, settings, clock
        self._uploads: Counter[str] = Counter()

    # ------------------------------------------------------------ what is known of files

    async def all(self, owner: str) -> list[StoredFile]:
        """An owner's files that have not expired, oldest first."""
        name = self._vault.name("batch-files", owner)
        files = [self._file(name, sealed) for sealed in (await self._store.read(name)).values()]
        now = self.clock()
        return sorted((file for file in files if file and file.expires_at > now), key=lambda f: (f.created_at, f.id))

    async def find(self, owner: str, id_: str) -> StoredFile:
        """Raises FileNotFound."""
        name = self._vault.name("batch-files", owner)
        sealed = await self._store.get(name, self._vault.digest(id_))
        file = None if sealed is None else self._file(name, sealed)
        if file is None or file.expires_at <= self.clock():
            raise FileNotFound(f"No file has the id {id_[:100]!r}.", param="file_id")
        return file

    async def remove(self, owner: str, file: StoredFile) -> None:
        """Delete a file. Raises BatchConflict: a batch reads it."""
        if await self._store.read(self._vault.name("batch-uses", file.id)):
            raise BatchConflict("A batch that has not ended reads this file: cancel it, or wait for its end.")
        await self._store.remove(self._vault.name("batch-files", owner), self._vault.digest(file.id))
        await self._store.remove(self._vault.name("batch-file", file.id))

    async def use(self, file: StoredFile, batch: str, ttl_s: float) -> None:
        """Keep a file's content while a batch reads it, for `ttl_s` at most."""
        uses = self._vault.name("batch-uses", file.id)
        await self._store.put(uses, self._vault.digest(batch), "", ttl_s=ttl_s + _MARGIN_S)
        left_s = file.expires_at - self.clock()
        await self._store.put(self._vault.name("batch-file", file.id), "used", "", ttl_s=max(ttl_s, left_s) + _MARGIN_S)

    async def leave(self, file_id: str, batch: str) -> None:
        """The batch reads the file no more."""
        await self._store.remove(self._vault.name("batch-uses", file_id), self._vault.digest(batch))

    # ------------------------------------------------------------ contents

    @asynccontextmanager
    async def upload(self, owner: str, ttl_s: int) -> AsyncIterator["FileWriter"]:
        """Begin a file for batches, whose pieces are kept for `ttl_s`; it is discarded if it is not finished at the end.

        Raises RequestTooLarge: the owner's files have no room. Raises Overloaded: too many files are being written.
        """
        files = await self.all(owner)
        room = min(self._settings.max_file_bytes, self._settings.max_key_bytes - sum(file.size for file in files))
        if room <= 0 or len(files) >= MOST_FILES:
            raise self._full()
        if self._uploads[owner] >= 4 or self._uploads.total() >= 64:
            raise Overloaded("Too many files are being uploaded; try again later.", retry_after=2.0)
        self._uploads[owner] += 1
        writer = FileWriter(self, owner, f"file-{uuid4().hex}", ttl_s, room)
        try:
            yield writer
        finally:
            self._uploads -= Counter((owner,))  # which also forgets who has none
            if not writer.finished:
                await self._store.remove(self._vault.name("batch-file", writer.id))

    def _full(self) -> RequestTooLarge:
        most = f"{self._settings.max_key_bytes} bytes, or are more than {MOST_FILES}"
        message = f"The files of this key would have more than {most}: delete some."
        return RequestTooLarge(message, param="file", code="file_quota_exceeded")

    async def pieces(self, id_: str, count: int) -> AsyncIterator[bytes]:
        """The content of a file of so many pieces. Raises FileNotFound: it is gone, or was sealed with another secret."""
        name = self._vault.name("batch-file", id_)
        for number in range(count):
            sealed = await self._store.get(name, str(number))
            piece = None if sealed is None else await asyncio.to_thread(self._vault.unseal, name, sealed)
            if piece is None:
                raise FileNotFound("The content of the file is gone.", param="file_id")
            yield piece

    async def lines(self, id_: str, count: int, max_bytes: int) -> AsyncIterator[list[tuple[int, bytes | None]]]:
        """The lines of a file of so many pieces that are not blank, with their numbers from 1 on, some at a time.

        None stands for a line of more than `max_bytes`. Raises as `pieces`.
        """
        number, rest, skipping = 1, b"", False
        async for piece in self.pieces(id_, count):
            *parts, rest = (rest + piece).split(b"\n")
            found: list[tuple[int, bytes | None]] = []
            for part in parts:
                line = part.removeprefix(_MARK) if number == 1 else part
                if skipping or len(line) > max_bytes:
                    found.append((number, None))
                elif line.strip():
                    found.append((number, line))
                number, skipping = number + 1, False
            if skipping or len(rest) > max_bytes + len(_MARK):
                rest, skipping = b"", True
            yield found
        line = rest.removeprefix(_MARK) if number == 1 else rest
        if skipping or line.strip():
            yield [(number, None if skipping or len(line) > max_bytes else line)]

    # ------------------------------------------------------------ for writers

    async def put_piece(self, id_: str, number: int, piece: bytes, ttl_s: int) -> None:
        """Store a piece of a file that is being written."""
        name = self._vault.name("batch-file", id_)
        sealed = await asyncio.to_thread(self._vault.seal, name, piece)
        await self._store.put(name, str(number), sealed, ttl_s=ttl_s + _MARGIN_S)

    async def finish(self, owner: str, file: StoredFile) -> None:
        """Make a file known, and forget those that have expired. Raises RequestTooLarge: others were written meanwhile."""
        index, now = self._vault.name("batch-files", owner), self.clock()
        size, count = file.size, 1
        for key, sealed in (await self._store.read(index)).items():
            known = self._file(index, sealed)
            if known is None or known.expires_at <= now:
                await self._store.remove(index, key)
            else:
                size, count = size + known.size, count + 1
        if file.purpose == "batch" and (size > self._settings.max_key_bytes or count > MOST_FILES):
            raise self._full()
        sealed = self._vault.seal(index, orjson.dumps(asdict(file)))
        longest_s = self._settings.max_file_ttl_s + self._settings.window_s + _MARGIN_S
        await self._store.put(index, self._vault.digest(file.id), sealed, ttl_s=longest_s)

    def _file(self, name: str, sealed: str) -> StoredFile | None:
        text = self._vault.unseal(name, sealed)
        return None if text is None else known_fields(StoredFile, orjson.loads(text))


class FileWriter:
    """Writes one file piece by piece. Files of results are unlimited, and another replica may write the same one again.

    Args:
        ttl_s: seconds its pieces are kept.
        room: bytes that an upload may have; None: it is a file of results.

    Attributes:
        size: bytes so far.
        finished: its owner knows the file.
    """

    def __init__(self, files: FileStore, owner: str, id_: str, ttl_s: int, room: int | None = None) -> None:
        self._files, self._owner, self.id, self._ttl_s, self._room = files, owner, id_, ttl_s, room
        self._buffer = bytearray()
        self.size = self._count = 0
        self.finished = False

    async def write(self, data: bytes) -> None:
        """Append to the content. Raises RequestTooLarge."""
        self.size += len(data)
        if self._room is not None and self.size > self._room:
            raise RequestTooLarge(
                f"The file has more than {self._room} bytes, which is what may be stored.", param="file"
            )
        self._buffer += data
        while len(self._buffer) >= PIECE_BYTES:
            await self._put(bytes(self._buffer[:PIECE_BYTES]))
            del self._buffer[:PIECE_BYTES]

    async def finish(self, name: str, ttl_s: int | None = None) -> StoredFile:
        """Make the file known to its owner, for as long as its pieces are kept, or less."""
        if self._buffer:
            await self._put(bytes(self._buffer))
        now = self._files.clock()
        purpose: Purpose = "batch_output" if self._room is None else "batch"
        expires_at = int(now + (self._ttl_s if ttl_s is None else ttl_s))
        file = StoredFile(self.id, name, purpose, self.size, now, expires_at, self._count)
        self.finished = True  # also if the store does not answer: its owner may know the file then
        try:
            await self._files.finish(self._owner, file)
        except RequestTooLarge:
            self.finished = False
            raise
        return file

    async def _put(self, piece: bytes) -> None:
        await self._files.put_piece(self.id, self._count, piece, self._ttl_s)
        self._count += 1

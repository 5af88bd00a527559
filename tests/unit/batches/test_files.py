"""Files in pieces: lines wherever the pieces end, and contents that only the server's secret opens."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.batches import files as module
from proxy.batches.files import FileStore, StoredFile, Vault
from proxy.errors import FileNotFound, RequestTooLarge
from proxy.settings import BatchSettings
from proxy.storage import MemoryStore
from proxy.storage.cipher import Cipher

OWNER = "caller_1"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


async def opened(tmp_path: Path, store: MemoryStore | None = None, **settings: int) -> tuple[FileStore, Clock]:
    vault, clock = Vault(Cipher(None, tmp_path / "secret.key")), Clock()
    await vault.open()
    return FileStore(MemoryStore() if store is None else store, vault, BatchSettings(**settings), clock), clock  # type: ignore[arg-type]


async def written(files: FileStore, *parts: bytes, ttl_s: int = 3600) -> StoredFile:
    async with files.upload(OWNER, ttl_s) as writer:
        for part in parts:
            await writer.write(part)
        return await writer.finish("a.jsonl")


@given(content=st.text(alphabet="ab\n\r \u2028\ufeff", max_size=60).map(str.encode), piece=st.integers(1, 20))
async def test_lines_are_those_between_newlines_wherever_pieces_end(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, piece: int
) -> None:
    files, _ = await opened(tmp_path_factory.getbasetemp())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_BYTES", piece)
        file = await written(files, content)
    assert b"".join([part async for part in files.pieces(file.id, file.pieces)]) == content
    longest = 12
    found = [line async for lines in files.lines(file.id, file.pieces, longest) for line in lines]
    parts = content.split(b"\n")
    parts[0] = parts[0].removeprefix(b"\xef\xbb\xbf")
    numbered = list(enumerate(parts, 1))
    expected = [(number, part if len(part) <= longest else None) for number, part in numbered]
    assert found == [(number, part) for number, part in expected if part is None or part.strip()]


async def test_a_file_expires_and_its_room_is_free_again(tmp_path: Path) -> None:
    files, clock = await opened(tmp_path, max_key_bytes=10)
    file = await written(files, b"x" * 8, ttl_s=60)
    with pytest.raises(RequestTooLarge):
        await written(files, b"x" * 3)
    clock.now += 61
    with pytest.raises(FileNotFound):
        await files.find(OWNER, file.id)
    assert await files.all(OWNER) == []
    await written(files, b"x" * 10)


async def test_files_that_are_written_at_once_share_their_owners_room(tmp_path: Path) -> None:
    store = MemoryStore()
    files, _ = await opened(tmp_path, store, max_key_bytes=10)
    async with files.upload(OWNER, 60) as one:
        await one.write(b"x" * 8)
        await written(files, b"x" * 8)
        with pytest.raises(RequestTooLarge):
            await one.finish("a.jsonl")
        assert [file.size for file in await files.all(OWNER)] == [8]


async def test_what_was_not_finished_leaves_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    files, _ = await opened(tmp_path, store)
    with suppress(RuntimeError):
        async with files.upload(OWNER, 60) as writer:
            await writer.write(b"x" * 600_000)
            assert len(store) == 1
            raise RuntimeError
    assert len(store) == 0


async def test_another_secret_opens_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    files, _ = await opened(tmp_path / "one", store)
    file = await written(files, b"content")
    others, _ = await opened(tmp_path / "other", store)
    assert await others.all(OWNER) == []
    with pytest.raises(FileNotFound):
        await others.find(OWNER, file.id)
    with pytest.raises(FileNotFound):
        [part async for part in others.pieces(file.id, file.pieces)]
    assert await files.all("caller_2") == []


async def test_pieces_cannot_be_moved_to_another_file(tmp_path: Path) -> None:
    store = MemoryStore()
    files, _ = await opened(tmp_path, store)
    one, other = await written(files, b"one"), await written(files, b"two")
    names = [name for name in store._records if name.startswith("batch-file:")]
    first, second = (store._records[name].fields for name in names)
    first["0"], second["0"] = second["0"], first["0"]
    for file in (one, other):
        with pytest.raises(FileNotFound):
            [part async for part in files.pieces(file.id, file.pieces)]

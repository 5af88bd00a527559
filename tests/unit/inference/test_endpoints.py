"""Named endpoints: what is stored of them. What a request to one becomes is tested with the router."""

import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import InternalError, Overloaded
from proxy.inference.endpoints import Endpoint, Endpoints, TaskDefaults
from proxy.storage import SqliteStore
from proxy.storage.cipher import CannotDecrypt, Cipher, NoSecret

DEFAULTS = TaskDefaults(max_tokens=100, temperature=0.5, top_k=3)
ENDPOINT = Endpoint(id="mine", task_type="completion", service="anthropic", model_id="claude", defaults=DEFAULTS)


@pytest.mark.parametrize("secret", ["a secret", None])
def test_a_cipher_reads_what_one_of_the_same_secret_wrote(tmp_path: Path, secret: str | None) -> None:
    sealed = Cipher(secret, tmp_path / "new" / "key").encrypt("tökén")
    assert "tökén" not in sealed
    assert Cipher(secret, tmp_path / "new" / "key").decrypt(sealed) == "tökén"
    for other in (Cipher("another", tmp_path / "new" / "key"), Cipher(None, tmp_path / "other")):
        with pytest.raises(CannotDecrypt):
            other.decrypt(sealed)


def test_a_generated_secret_is_kept_in_a_file_of_its_owner_and_never_replaced(tmp_path: Path) -> None:
    file = tmp_path / "new" / "key"
    Cipher(None, file).encrypt("x")
    made = file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    Cipher(None, file).encrypt("x")
    assert file.read_bytes() == made
    assert [each.name for each in file.parent.iterdir()] == ["key"]


def test_a_secret_of_the_settings_leaves_no_file(tmp_path: Path) -> None:
    Cipher("a secret", tmp_path / "key").encrypt("x")
    assert not list(tmp_path.iterdir())


def test_every_process_salts_a_passphrase_anew(tmp_path: Path) -> None:
    sealed = [Cipher("a secret", tmp_path / "key").encrypt("x") for _ in range(2)]
    assert len({each.partition(".")[0] for each in sealed}) == 2
    reader = Cipher("a secret", tmp_path / "key")
    assert [reader.decrypt(each) for each in sealed] == ["x", "x"]


@pytest.mark.parametrize("sealed", ["", ".", "x", ".x", "salt.x", "a.b.c"])
@pytest.mark.parametrize("secret", ["a secret", None])
def test_what_no_cipher_wrote_cannot_be_decrypted(tmp_path: Path, secret: str | None, sealed: str) -> None:
    with pytest.raises(CannotDecrypt):
        Cipher(secret, tmp_path / "key").decrypt(sealed)


def test_a_file_that_holds_no_key_is_named_as_the_fault(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    with pytest.raises(NoSecret):
        Cipher(None, tmp_path / "key").encrypt("x")


async def test_a_passphrase_is_derived_beside_the_event_loop(
    records: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a quarter of a second, during which no other request would be served."""
    threads = []

    def derive(*args: Any, **options: Any) -> bytes:
        threads.append(threading.current_thread())
        return b"0" * 32

    monkeypatch.setattr("hashlib.scrypt", derive)
    await Endpoints(records, Cipher("a secret", tmp_path / "key")).add(ENDPOINT, "the-credential")
    other = Endpoints(records, Cipher("a secret", tmp_path / "key"))
    for _ in range(2):
        found = await other.find("mine")
        assert found
        assert await other.api_key(found) == "the-credential"
    assert len(threads) == 2, "once for each process"
    assert threading.main_thread() not in threads


async def test_where_no_secret_can_be_made_the_error_says_what_to_set(records: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    endpoints = Endpoints(records, Cipher(None, tmp_path / "file" / "key"))
    with pytest.raises(Overloaded, match="PROXY_SECRET_KEY"):
        await endpoints.add(ENDPOINT, "the-credential")


async def test_an_endpoint_is_stored_with_its_credential_encrypted(records: SqliteStore, tmp_path: Path) -> None:
    endpoints = Endpoints(records, Cipher("a secret", tmp_path / "key"))
    assert await endpoints.add(ENDPOINT, "the-credential")
    assert not await endpoints.add(ENDPOINT, "another")
    found = await endpoints.find("mine")
    assert found is not None
    assert found.defaults == DEFAULTS
    assert await endpoints.api_key(found) == "the-credential"
    assert await endpoints.api_key(ENDPOINT) is None
    assert "the-credential" not in (await records.read("endpoints"))["mine"]
    assert [each.id for each in await endpoints.all()] == ["mine"]
    with pytest.raises(InternalError, match="PROXY_SECRET_KEY"):
        await Endpoints(records, Cipher("another secret", tmp_path / "key")).api_key(found)
    assert await endpoints.remove("mine")
    assert await endpoints.find("mine") is None

"""The proxy's own keys: made once, shown once, kept only as hashes.

A key is 256 random bits: nobody can guess one, so that a single SHA-256 is enough, and looking up any wrong one takes the same time.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from pathlib import Path

from pydantic import BaseModel, Field

from proxy.access.limits import NO_QUOTA, Quota
from proxy.storage import Records

KEY_PREFIX = "np-"
"""Every key of ours starts with it, so that one that is not known is never taken for somebody else's token."""

KEY_ID_PREFIX = "key_"
_RECORD = "keys"
_ASK_AGAIN_S = 1.0


class Key(BaseModel, frozen=True):
    """What is stored of a key, and what it may do.

    Attributes:
        id: names the key to operators; tells nothing of the key itself.
        name: chosen by the operator; not unique.
        models: names of models and endpoints it may use; None is all of them.
        data_plane_id: where its jobs run, in place of the proxy's own data plane.
        quota: its limits; fields that are None are not limited by the key.
        created_at, expires_at, revoked_at: seconds since 1970 (UTC).
    """

    id: str
    name: str = Field(min_length=1, max_length=200)
    models: tuple[str, ...] | None = None
    data_plane_id: str | None = None
    quota: Quota = NO_QUOTA
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None

    def works_at(self, moment: float) -> bool:
        """Whether it lets anyone in at a moment, in seconds since 1970."""
        return self.revoked_at is None and (self.expires_at is None or moment < self.expires_at)


class Keys:
    """Keys in a store. Every call raises StoreUnavailable when it cannot be reached.

    A file in `folder` records that a key was ever made, so that the loss of the store does not open the server to everyone.
    """

    def __init__(self, records: Records, folder: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._records = records
        self._marker = None if folder is None else folder / "keys-exist"
        self._existed = False
        self._asked_at = -inf
        self._clock = clock

    async def create(
        self,
        name: str,
        *,
        models: tuple[str, ...] | None = None,
        data_plane_id: str | None = None,
        quota: Quota = NO_QUOTA,
        expires_at: int | None = None,
    ) -> tuple[Key, str]:
        """Make a key. Returns what is stored of it, and the key itself, which nobody can read again."""
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        key = Key(
            id=f"{KEY_ID_PREFIX}{secrets.token_hex(6)}",
            name=name,
            models=models,
            data_plane_id=data_plane_id,
            quota=quota,
            created_at=int(self._clock()),
            expires_at=expires_at,
        )
        await self._records.put(_RECORD, _digest(secret), key.model_dump_json())
        self._mark()
        return key, secret

    async def find(self, presented: str) -> Key | None:
        """The working key that was presented; None for one that is unknown, revoked or expired."""
        stored = await self._records.get(_RECORD, _digest(presented))
        key = None if stored is None else Key.model_validate_json(stored)
        return key if key and key.works_at(self._clock()) else None

    async def all(self) -> list[Key]:
        """All keys ever made, oldest first, revoked and expired ones too."""
        keys = [Key.model_validate_json(stored) for stored in (await self._records.read(_RECORD)).values()]
        return sorted(keys, key=lambda key: (key.created_at, key.id))

    async def exist(self) -> bool:
        """Whether a key was ever made. One that another process makes is noticed at once by the file, or within a second by the store."""
        if not self._existed:
            self._existed = self._marker is not None and self._marker.exists()
        if not self._existed and abs(self._clock() - self._asked_at) >= _ASK_AGAIN_S:
            if await self._records.read(_RECORD):
                self._mark()
            self._asked_at = self._clock()
        return self._existed

    def _mark(self) -> None:
        self._existed = True
        if self._marker is not None:
            with suppress(OSError):  # a read-only folder: this process remembers it all the same
                self._marker.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._marker.write_text("Keys were made here: requests without a key are refused.\n", "utf-8")

    async def revoke(self, id_or_name: str) -> list[Key]:
        """Revoke the key of that id, or all of that name, for good. Returns the keys that were revoked by this call."""
        revoked = []
        for digest, stored in (await self._records.read(_RECORD)).items():
            key = Key.model_validate_json(stored)
            if id_or_name in (key.id, key.name) and key.revoked_at is None:
                key = key.model_copy(update={"revoked_at": int(self._clock())})
                await self._records.put(_RECORD, digest, key.model_dump_json())
                revoked.append(key)
        return revoked


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

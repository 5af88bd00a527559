"""Encrypts stored credentials, with a key derived from the settings' passphrase or one that is made at the first use and kept in a file.

Other things that are stored are sealed with secrets that derive from the same key.

What is stored is `<salt>.<token>`: the salt of the passphrase's derivation, empty for the file's key, and Fernet's AES-128 in CBC mode with
an HMAC over it, so that a changed or foreign value is noticed.
"""

import base64
import hashlib
import hmac
import os
import secrets
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES: Final = 12


class NoSecret(Exception):
    """The file with the key can neither be read nor made, or holds something else."""


class CannotDecrypt(Exception):
    """A value was encrypted with another key, or was changed."""


class Cipher:
    """Encrypts and decrypts short texts. Both raise NoSecret, and take a quarter of a second for a salt that is new to the process.

    Args:
        passphrase: any text; None means the content of `file`, which is made when it is first needed.
        file: where a generated key is kept, readable by its owner only.
    """

    def __init__(self, passphrase: str | None, file: Path) -> None:
        self._passphrase = passphrase
        self._file = file
        self._salt = "" if passphrase is None else secrets.token_urlsafe(16)
        self._keys: OrderedDict[str, Fernet] = OrderedDict()

    def encrypt(self, text: str) -> str:
        """`<salt>.<token>`."""
        token = self._key(self._salt).encrypt(text.encode()).decode()
        return f"{self._salt}.{token}"

    def decrypt(self, sealed: str) -> str:
        """Raises CannotDecrypt."""
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 (as in `_key`)

        salt, _, token = sealed.partition(".")
        if bool(salt) != (self._passphrase is not None):
            raise CannotDecrypt
        try:
            return self._key(salt).decrypt(token.encode()).decode()
        except InvalidToken:
            raise CannotDecrypt from None

    def secret(self, purpose: str) -> bytes:
        """32 bytes that depend on the purpose and the key alone, and so are the same in all processes. Raises NoSecret."""
        return hmac.digest(self._derived(f"secret:{purpose}"), purpose.encode(), "sha256")

    def is_quick(self, sealed: str) -> bool:
        """Whether decrypting takes less than a millisecond, since the key of its salt is known."""
        return sealed.partition(".")[0] in self._keys

    def _key(self, salt: str) -> "Fernet":
        from cryptography.fernet import Fernet  # noqa: PLC0415 (seven megabytes that only stored credentials need)

        if salt not in self._keys:
            self._keys[salt] = Fernet(base64.urlsafe_b64encode(self._derived(salt)))
            if len(self._keys) > 1_000:
                self._keys.popitem(last=False)
        return self._keys[salt]

    def _derived(self, salt: str) -> bytes:
        """The key of a salt, 32 bytes. Raises NoSecret."""
        if self._passphrase is not None:
            # As OWASP advises: 32 MiB and a quarter of a second for each salt, since an operator's passphrase may be a mere word.
            passphrase = self._passphrase.encode()
            return hashlib.scrypt(passphrase, salt=salt.encode(), n=2**15, r=8, p=3, maxmem=2**26, dklen=32)
        try:
            key = base64.urlsafe_b64decode(_key_in(self._file))
        except (OSError, ValueError) as error:
            raise NoSecret(str(error)) from error
        if len(key) != 32:
            raise NoSecret(f"{self._file} holds no key of 32 bytes")
        return key


def seal(key: bytes, plain: bytes, context: bytes, nonce: bytes | None = None) -> str:
    """Encrypt what is stored or carried by clients: AES in GCM mode, as base64.

    The key has 32 bytes, as derive from `Cipher.secret`; `context` must be the same when it is opened. No other text may have the
    same `nonce` of 12 bytes under this key; without one it is random.
    """
    nonce = nonce or secrets.token_bytes(NONCE_BYTES)
    return base64.b64encode(nonce + _aes(key).encrypt(nonce, plain, context)).decode()


def unseal(key: bytes, sealed: str, context: bytes) -> bytes | None:
    """What was sealed; None for what was sealed with another key or context, or changed."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 (as in `_aes`)

    try:
        data = base64.b64decode(sealed, validate=True)
        return _aes(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], context)
    except (ValueError, InvalidTag):
        return None


def _aes(key: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 (megabytes that only what is sealed needs)

    return AESGCM(key)


def _key_in(file: Path) -> bytes:
    """The key in a file, which is made if need be. Of several processes that try, one makes it."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(base64.urlsafe_b64encode(os.urandom(32)))
            opened.flush()
            os.fsync(descriptor)
        os.link(fresh, file)  # fails where the file is there already, and never shows half of it
    except FileExistsError:
        pass
    finally:
        fresh.unlink(missing_ok=True)
    return file.read_bytes().strip()

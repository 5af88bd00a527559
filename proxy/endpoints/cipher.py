"""Encrypts stored credentials, with the key of the settings or one that is made at the first use and kept in a file.

What is stored is Fernet's: AES-128 in CBC mode with an HMAC over it, so that a changed or foreign value is noticed.
"""

import base64
import os
from functools import cached_property
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

_SALT = b"narrative-proxy credentials"


class NoSecret(Exception):
    """The file with the secret can neither be read nor made."""


class CannotDecrypt(Exception):
    """A value was encrypted with another key, or was changed."""


class Cipher:
    """Encrypts and decrypts short texts. Both raise NoSecret.

    Args:
        secret: any text; None means the content of `file`, which is made when it is first needed.
        file: where a generated secret is kept, readable by its owner only.
    """

    def __init__(self, secret: str | None, file: Path) -> None:
        self._secret = secret
        self._file = file

    def encrypt(self, text: str) -> str:
        return self._fernet.encrypt(text.encode()).decode()

    def decrypt(self, sealed: str) -> str:
        """Raises CannotDecrypt."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise CannotDecrypt from None

    @cached_property
    def _fernet(self) -> Fernet:
        try:
            secret = self._secret or _secret_in(self._file)
        except OSError as error:
            raise NoSecret(str(error)) from error
        # Slow on purpose, some tens of milliseconds once a process: an operator's secret may be a mere word.
        key = Scrypt(salt=_SALT, length=32, n=2**14, r=8, p=1).derive(secret.encode())
        return Fernet(base64.urlsafe_b64encode(key))


def _secret_in(file: Path) -> str:
    """The secret in a file, which is made if need be. Of several processes that try, one makes it."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(Fernet.generate_key())
            opened.flush()
            os.fsync(descriptor)
        os.link(fresh, file)  # fails where the file is there already, and never shows half of it
    except FileExistsError:
        pass
    finally:
        fresh.unlink(missing_ok=True)
    return file.read_text("ascii").strip()

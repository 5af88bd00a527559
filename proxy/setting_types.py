"""Types of values in the settings; the error of each says what was expected."""

from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_core import PydanticCustomError


def _comma_separated(value: Any) -> Any:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _is_address(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        address = urlsplit(text)
        return address.scheme in schemes and bool(address.netloc or address.scheme == "unix") and address.port != 0
    except ValueError:
        return False


def _web_address(text: str) -> str:
    if not _is_address(text, ("http", "https")):
        raise PydanticCustomError("web_address", "expected an address such as https://example.com")
    return text


def _narrative(text: str) -> str:
    if text not in {"prod", "dev"} and not _is_address(text, ("http", "https")):
        raise PydanticCustomError("narrative", "expected prod, dev or an address such as https://example.com")
    return text


def _redis(secret: SecretStr) -> SecretStr:
    if not _is_address(secret.get_secret_value(), ("redis", "rediss", "unix")):
        raise PydanticCustomError("redis", "expected an address such as redis://example.com:6379/0")
    return secret


def _origin(text: str) -> str:
    if text != "*" and "://" not in text:
        raise PydanticCustomError("origin", "expected * or origins such as https://example.com")
    return text


def _uuid(text: str) -> str:
    if not is_uuid(text):
        raise PydanticCustomError("uuid", "expected a uuid")
    return text


def _sendable(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text.isascii() or not text.isprintable():
        raise PydanticCustomError("sendable", "expected letters, digits and signs that a header can carry")
    return secret


def is_uuid(text: str) -> bool:
    """Whether a text is a UUID, in any of the usual spellings."""
    try:
        UUID(text)
    except ValueError:
        return False
    return True


Uuid = Annotated[str, AfterValidator(_uuid)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
NarrativeAddress = Annotated[str, AfterValidator(_narrative)]
RedisAddress = Annotated[SecretStr, AfterValidator(_redis)]
Key = Annotated[SecretStr, AfterValidator(_sendable)]
Keys = Annotated[tuple[Key, ...], BeforeValidator(_comma_separated)]
Names = Annotated[tuple[str, ...], BeforeValidator(_comma_separated)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], BeforeValidator(_comma_separated)]

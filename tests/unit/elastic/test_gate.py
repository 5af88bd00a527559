"""Keys in every way the official clients send them."""

import base64

import pytest

from proxy.elastic.gate import presented_keys


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "keys"),
    [
        ("ApiKey np-a_b-c", ["np-a_b-c"]),
        ("apikey np-a", ["np-a"]),
        (f"ApiKey {encoded('id:secret')}", [encoded("id:secret"), "secret"]),
        (f"ApiKey {encoded('id:with:colons')}", [encoded("id:with:colons"), "with:colons"]),
        ("Bearer token", ["token"]),
        (f"Basic {encoded('elastic:password')}", ["password"]),
        (f"Basic {encoded('elastic:')}", []),
        (f"Basic {encoded('elastic')}", []),
        ("Basic not base64", []),
        ("Basic /w==", []),
        ("Digest token", []),
        ("ApiKey", []),
        ("", []),
    ],
)
def test_what_is_presented(authorization: str, keys: list[str]) -> None:
    assert presented_keys({"authorization": authorization}) == keys
    assert presented_keys({}) == []

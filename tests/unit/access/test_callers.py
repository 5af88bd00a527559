"""Who is let in, and as whom."""

import pytest

from proxy.access.callers import Caller, PassThrough, SharedToken
from proxy.errors import InvalidApiKey, InvalidRequest

KEYS = SharedToken(("one", "two"), "plane")
OPEN = SharedToken((), "plane")


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("token", ["one", "two"])
def test_a_known_key_runs_on_the_proxys_own_token(token: str) -> None:
    assert KEYS.caller(bearer(token)) == Caller(None, "plane")


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("three"), bearer(""), {"authorization": "one"}, bearer("öne"), {"authorization": "Basic one"}],
)
def test_anything_else_is_a_plain_401(headers: dict) -> None:
    with pytest.raises(InvalidApiKey):
        KEYS.admit(headers)


def test_without_configured_keys_everyone_is_let_in() -> None:
    assert OPEN.caller({}) == Caller(None, "plane")


def test_a_scheme_is_read_in_any_case() -> None:
    assert KEYS.caller({"authorization": "bearer one"}) == Caller(None, "plane")


def test_a_clients_own_token_is_passed_through_with_its_data_plane() -> None:
    door = PassThrough(None)
    assert door.caller({**bearer("mine"), "openai-project": "p"}) == Caller("mine", "p")
    assert PassThrough("set").caller(bearer("mine")) == Caller("mine", "set")
    with pytest.raises(InvalidRequest):
        door.caller(bearer("mine"))
    with pytest.raises(InvalidApiKey):
        door.admit({})

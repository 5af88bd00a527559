"""Who is let in, and as whom."""

import pytest

from proxy.access.callers import Caller, PassThrough, SharedToken, caller_id
from proxy.access.keys import Keys
from proxy.access.limits import Quota
from proxy.errors import InvalidApiKey, InvalidRequest, PermissionDenied
from proxy.storage import SqliteStore


@pytest.fixture
def keys(records: SqliteStore) -> Keys:
    return Keys(records)


@pytest.fixture
def door(keys: Keys) -> SharedToken:
    return SharedToken(("one", "two"), "plane", keys)


PLANE = "fef9904e-d263-4930-85f7-1e28cce40f89"


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("token", ["one", "two"])
async def test_a_known_key_runs_on_the_proxys_own_token(door: SharedToken, token: str) -> None:
    assert await door.admit(bearer(token)) == Caller(None, "plane", id=caller_id(token))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("three"),
        bearer(""),
        bearer("np-unknown"),
        {"authorization": "one"},
        bearer("öne"),
        {"authorization": "Basic one"},
    ],
)
async def test_anything_else_is_a_plain_401(door: SharedToken, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidApiKey):
        await door.admit(headers)


async def test_a_scheme_is_read_in_any_case(door: SharedToken) -> None:
    assert (await door.admit({"authorization": "bearer one"})).data_plane_id == "plane"


async def test_an_open_door_lets_everyone_in_until_the_first_key_is_made(keys: Keys) -> None:
    door = SharedToken((), "plane", keys, open=True)
    assert await door.admit({}) == Caller(None, "plane")
    made, secret = await keys.create("app")
    with pytest.raises(InvalidApiKey):
        await door.admit({})
    assert (await door.admit(bearer(secret))).id == made.id
    await keys.revoke("app")
    with pytest.raises(InvalidApiKey):  # revoking the last key must not open the door again
        await door.admit({})


async def test_without_any_key_a_door_that_is_not_open_is_shut(keys: Keys) -> None:
    with pytest.raises(InvalidApiKey):
        await SharedToken((), "plane", keys).admit(bearer("any"))


async def test_a_key_that_was_made_carries_its_limits(door: SharedToken, keys: Keys) -> None:
    key, secret = await keys.create("app", models=("a", "b"), data_plane_id="own", quota=Quota(requests=5))
    assert await door.admit(bearer(secret)) == Caller(
        None, "own", id=key.id, models=frozenset({"a", "b"}), bound_plane="own", quota=Quota(requests=5)
    )


async def test_a_clients_own_token_is_passed_through_with_its_data_plane(keys: Keys) -> None:
    door = PassThrough(None, keys)
    passed = await door.admit({**bearer("mine"), "openai-project": PLANE})
    assert passed == Caller("mine", PLANE, id=caller_id("mine"), endpoints=False)
    assert (await PassThrough("set", keys).admit(bearer("mine"))).plane() == "set"
    with pytest.raises(InvalidRequest):
        (await door.admit(bearer("mine"))).plane()
    with pytest.raises(InvalidApiKey):
        await door.admit({})


async def test_a_project_of_openai_is_no_data_plane(keys: Keys) -> None:
    headers = {**bearer("mine"), "openai-project": "proj_abc123"}
    assert (await PassThrough("set", keys).admit(headers)).plane() == "set"
    with pytest.raises(InvalidRequest) as caught:
        (await PassThrough(None, keys).admit(headers)).plane()
    assert caught.value.param == "OpenAI-Project"


async def test_a_key_of_ours_is_never_passed_through_to_narrative(keys: Keys) -> None:
    door = PassThrough("set", keys)
    with pytest.raises(InvalidApiKey):
        await door.admit(bearer("np-not-known"))
    _, secret = await keys.create("app")
    assert (await door.admit(bearer(secret))).upstream_key is None


async def test_a_token_that_nobody_checked_opens_no_endpoint_but_on_a_loopback_address(keys: Keys) -> None:
    assert not (await PassThrough("set", keys).admit(bearer("mine"))).may_use_endpoint("a")
    assert (await PassThrough("set", keys, open=True).admit(bearer("mine"))).may_use_endpoint("a")


def test_a_caller_uses_only_the_models_its_key_names() -> None:
    assert Caller(None, "p").may_use({"anything"})
    assert Caller(None, "p", models=frozenset({"a"})).may_use({"a", "alias"})
    assert not Caller(None, "p", models=frozenset({"a"})).may_use({"b"})


def test_a_key_bound_to_a_data_plane_uses_no_other() -> None:
    Caller(None, "p", bound_plane="p").check_plane("p")
    with pytest.raises(PermissionDenied):
        Caller(None, "p", bound_plane="p").check_plane("q")

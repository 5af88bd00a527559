"""Who is admitted, and as whom."""

import asyncio
import base64
from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.access.authentication import (
    AllowedOrigins,
    Authenticator,
    Caller,
    TokenVerifier,
    caller_id,
    presented_keys,
    unauthenticated,
)
from proxy.access.keys import Keys
from proxy.access.limits import Quota
from proxy.errors import InvalidApiKey, InvalidRequest, Overloaded, UpstreamError
from proxy.settings import Settings, load_settings
from proxy.storage import MemoryStore, SqliteStore
from tests.waiting import suspended, until

PLANE = "fef9904e-d263-4930-85f7-1e28cce40f89"


@pytest.fixture
def keys(records: SqliteStore) -> Keys:
    return Keys(records)


@pytest.fixture
def shared(keys: Keys) -> Authenticator:
    return Authenticator(("one", "two"), "plane", keys)


class Narrative:
    """Accepts every token but `bad`, and counts what it is asked; can be away. Answers only while `answers` is set."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.tokens = TokenVerifier(self.check)

    async def check(self, token: str) -> None:
        self.asked.append(token)
        await self.answers.wait()
        if self.away:
            raise UpstreamError("away", code="narrative_unavailable", retry_after=1.0)
        if token.startswith("bad"):
            raise InvalidApiKey("no")


@pytest.fixture
def narrative() -> Narrative:
    return Narrative()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# ---------------------------------------------------------------- what is presented


@pytest.mark.parametrize(
    ("headers", "presented"),
    [
        ({"authorization": "Bearer token"}, ["token"]),
        ({"authorization": "bearer  token "}, ["token"]),
        ({"authorization": "ApiKey np-a_b-c"}, ["np-a_b-c"]),
        ({"authorization": "apikey np-a"}, ["np-a"]),
        ({"authorization": f"ApiKey {encoded('id:secret')}"}, ["secret", encoded("id:secret")]),
        ({"authorization": f"ApiKey {encoded('id:with:colons')}"}, ["with:colons", encoded("id:with:colons")]),
        ({"authorization": f"Basic {encoded('elastic:password')}"}, ["password"]),
        ({"authorization": f"Basic {encoded('elastic:')}"}, []),
        ({"authorization": f"Basic {encoded('elastic')}"}, []),
        ({"authorization": "Basic not base64"}, []),
        ({"authorization": "Basic /w=="}, []),
        ({"authorization": "Digest token"}, []),
        ({"authorization": "ApiKey"}, []),
        ({"authorization": "Basic é"}, []),
        ({"authorization": ""}, []),
        ({"authorization": "Bearer to\x7fken"}, []),
        ({"x-api-key": "one"}, ["one"]),
        ({"api-key": "two"}, ["two"]),
        ({"x-api-key": "one", "api-key": "two"}, ["one"]),
        ({"authorization": "Bearer token", "x-api-key": "one", "api-key": "two"}, ["token"]),
        ({"authorization": "Bearer ", "x-api-key": "one"}, ["one"]),
        ({"x-api-key": " ", "api-key": "ö"}, []),
        ({}, []),
    ],
)
def test_what_is_presented(headers: Mapping[str, str], presented: list[str]) -> None:
    assert presented_keys(headers) == presented


def test_a_key_is_one_identity_however_it_is_presented() -> None:
    ways = [bearer("k"), {"authorization": "bearer k"}, {"x-api-key": "k"}, {"api-key": "k"}]
    assert {caller_id(presented_keys(headers)[0]) for headers in ways} == {caller_id("k")}
    assert caller_id("k") != caller_id("K")
    assert "secret" not in caller_id("secret")


# ---------------------------------------------------------------- the proxy's own token


@pytest.mark.parametrize("token", ["one", "two"])
async def test_a_known_key_runs_on_the_proxys_own_token(shared: Authenticator, token: str) -> None:
    for headers in (bearer(token), {"x-api-key": token}, {"api-key": token}):
        assert await shared.authenticate(headers) == Caller(None, "plane", id=caller_id(token))


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
        {**bearer("three"), "x-api-key": "one"},
    ],
)
async def test_anything_else_is_a_plain_401(shared: Authenticator, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidApiKey):
        await shared.authenticate(headers)


async def test_without_a_key_everyone_is_served_until_the_first_key_is_made(keys: Keys) -> None:
    shared = Authenticator((), "plane", keys, unauthenticated="until_first_key")
    assert await shared.authenticate({}) == Caller(None, "plane")
    assert await shared.authenticate(bearer("whatever")) == Caller(None, "plane")
    made, secret = await keys.create("app")
    with pytest.raises(InvalidApiKey):
        await shared.authenticate({})
    assert (await shared.authenticate(bearer(secret))).id == made.id
    await keys.revoke("app")
    with pytest.raises(InvalidApiKey):  # revoking the last key must not open the server again
        await shared.authenticate({})


async def test_where_everyone_is_always_served_a_key_still_names_its_caller(keys: Keys) -> None:
    shared = Authenticator(("one",), "plane", keys, unauthenticated="always")
    _, secret = await keys.create("app", quota=Quota(requests=5))
    assert await shared.authenticate({}) == Caller(None, "plane")
    assert (await shared.authenticate(bearer("one"))).id == caller_id("one")
    assert (await shared.authenticate(bearer(secret))).quota == Quota(requests=5)
    await keys.revoke("app")
    with pytest.raises(InvalidApiKey):
        await shared.authenticate(bearer(secret))


async def test_without_any_key_nobody_is_served_by_default(keys: Keys) -> None:
    with pytest.raises(InvalidApiKey):
        await Authenticator((), "plane", keys).authenticate(bearer("any"))


async def test_the_loss_of_the_store_does_not_open_the_server(tmp_path: Path) -> None:
    await Keys(MemoryStore(), tmp_path / "new").create("app")
    after_a_restart = Keys(MemoryStore(), tmp_path / "new")
    with pytest.raises(InvalidApiKey):
        await Authenticator((), "plane", after_a_restart, unauthenticated="until_first_key").authenticate({})


async def test_a_running_server_remembers_that_keys_existed(keys: Keys, records: SqliteStore) -> None:
    shared = Authenticator((), "plane", Keys(records), unauthenticated="until_first_key")
    await keys.create("app")
    with pytest.raises(InvalidApiKey):
        await shared.authenticate({})
    await records.remove("keys")
    with pytest.raises(InvalidApiKey):
        await shared.authenticate({})


@pytest.mark.parametrize(
    ("environ", "sandbox", "served"),
    [
        ({}, False, "until_first_key"),
        ({"PROXY_HOST": "0.0.0.0"}, False, "never"),
        ({"PROXY_STATE__URL": "redis://localhost"}, False, "never"),
        ({"PROXY_STATE__URL": "redis://localhost"}, True, "until_first_key"),
        ({"PROXY_HOST": "0.0.0.0"}, True, "until_first_key"),
        ({"PROXY_HOST": "0.0.0.0", "PROXY_SERVER__ALLOW_UNAUTHENTICATED": "always"}, False, "always"),
        ({"PROXY_SERVER__ALLOW_UNAUTHENTICATED": "never"}, True, "never"),
    ],
)
def test_where_requests_without_a_key_are_served(environ: dict[str, str], sandbox: bool, served: str) -> None:
    settings: Settings = load_settings(environ)
    assert unauthenticated(settings, sandbox=sandbox) == served


async def test_a_key_that_was_made_carries_its_limits(shared: Authenticator, keys: Keys) -> None:
    key, secret = await keys.create("app", models=("a", "b"), data_plane_id="own", quota=Quota(requests=5))
    assert await shared.authenticate(bearer(secret)) == Caller(
        None, "own", id=key.id, models=frozenset({"a", "b"}), bound_plane="own", quota=Quota(requests=5)
    )


# ---------------------------------------------------------------- clients' own tokens


async def test_a_clients_own_token_is_passed_through_with_its_data_plane(keys: Keys, narrative: Narrative) -> None:
    passing = Authenticator((), None, keys, narrative.tokens)
    passed = await passing.authenticate({**bearer("mine"), "openai-project": PLANE})
    assert passed == Caller("mine", PLANE, id=caller_id("mine"), endpoints=False)
    assert (await Authenticator((), "set", keys, narrative.tokens).authenticate(bearer("mine"))).plane() == "set"
    with pytest.raises(InvalidRequest):
        (await passing.authenticate(bearer("mine"))).plane()
    with pytest.raises(InvalidApiKey):
        await passing.authenticate({})


async def test_elastics_form_of_a_key_is_understood_where_tokens_are_passed_through(
    keys: Keys, narrative: Narrative
) -> None:
    passing = Authenticator((), None, keys, narrative.tokens)
    caller = await passing.authenticate({"authorization": f"ApiKey {encoded('id:mine')}"})
    assert (caller.upstream_key, caller.id) == ("mine", caller_id("mine"))
    assert (await passing.authenticate({"authorization": "ApiKey mine"})).upstream_key == "mine"
    raw = encoded("bad:bad")  # a token that only looks like it
    assert (await passing.authenticate({"authorization": f"ApiKey {raw}"})).upstream_key == raw


async def test_a_project_of_openai_is_no_data_plane(keys: Keys, narrative: Narrative) -> None:
    headers = {**bearer("mine"), "openai-project": "proj_abc123"}
    passing = Authenticator((), "set", keys, narrative.tokens)
    assert (await passing.authenticate(headers)).plane() == "set"
    with pytest.raises(InvalidRequest) as caught:
        (await Authenticator((), None, keys, narrative.tokens).authenticate(headers)).plane()
    assert caught.value.param == "OpenAI-Project"


async def test_a_key_of_ours_is_never_passed_through_to_narrative(keys: Keys, narrative: Narrative) -> None:
    passing = Authenticator((), "set", keys, narrative.tokens)
    with pytest.raises(InvalidApiKey):
        await passing.authenticate(bearer("np-not-known"))
    _, secret = await keys.create("app")
    assert (await passing.authenticate(bearer(secret))).upstream_key is None
    assert narrative.asked == []


async def test_a_clients_token_opens_no_endpoint_but_on_a_loopback_address(keys: Keys, narrative: Narrative) -> None:
    for loopback in (False, True):
        passing = Authenticator(
            (), "set", keys, narrative.tokens, origins=AllowedOrigins(frozenset()) if loopback else None
        )
        assert (await passing.authenticate(bearer("mine"))).may_use_endpoint("a") is loopback


async def test_a_token_that_narrative_refuses_is_a_401(keys: Keys, narrative: Narrative) -> None:
    with pytest.raises(InvalidApiKey):
        await Authenticator((), "set", keys, narrative.tokens).authenticate(bearer("bad"))


async def test_a_token_is_checked_once_in_a_while() -> None:
    now = 0.0
    narrative = Narrative()
    tokens = TokenVerifier(narrative.check, accepted_s=60, refused_s=10, clock=lambda: now)
    for moment, asked in ((0.0, 1), (59.9, 1), (60.0, 2)):
        now = moment
        assert await tokens.accepts("good")
        assert narrative.asked.count("good") == asked
    for moment, asked in ((100.0, 1), (109.9, 1), (110.0, 2)):
        now = moment
        assert not await tokens.accepts("bad")
        assert narrative.asked.count("bad") == asked


async def test_simultaneous_requests_with_one_token_share_one_check(narrative: Narrative) -> None:
    narrative.answers.clear()
    waiting = [asyncio.create_task(narrative.tokens.accepts("good")) for _ in range(50)]
    await suspended(*waiting)
    narrative.answers.set()
    assert all(await asyncio.gather(*waiting))
    assert narrative.asked == ["good"]


async def test_a_request_that_leaves_does_not_break_the_check_of_the_others(narrative: Narrative) -> None:
    narrative.answers.clear()
    first, second = (asyncio.create_task(narrative.tokens.accepts("good")) for _ in range(2))
    await suspended(first, second)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    narrative.answers.set()
    assert await second
    assert narrative.asked == ["good"]


async def test_while_narrative_cannot_be_asked_the_error_says_so_and_is_not_remembered(narrative: Narrative) -> None:
    assert await narrative.tokens.accepts("known")
    narrative.away = True
    assert await narrative.tokens.accepts("known")
    for _ in range(2):
        with pytest.raises(UpstreamError) as caught:
            await narrative.tokens.accepts("new")
        assert caught.value.retry_after
    narrative.away = False
    assert await narrative.tokens.accepts("new")
    assert narrative.asked == ["known", "new", "new", "new"]


async def test_verdicts_are_bounded_and_bad_tokens_displace_no_good_one() -> None:
    narrative = Narrative()
    tokens = TokenVerifier(narrative.check, max_entries=3)
    assert await tokens.accepts("good")
    for number in range(10):
        assert not await tokens.accepts(f"bad{number}")
    asked = len(narrative.asked)
    assert await tokens.accepts("good")
    assert not await tokens.accepts("bad9")
    assert len(narrative.asked) == asked
    assert not await tokens.accepts("bad0")
    assert len(narrative.asked) == asked + 1


async def test_only_so_many_checks_are_under_way_at_a_time() -> None:
    running, most, go_on = 0, 0, asyncio.Event()

    async def check(token: str) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go_on.wait()
        running -= 1

    tokens = TokenVerifier(check, calls=asyncio.Semaphore(4))
    waiting = [asyncio.create_task(tokens.accepts(str(number))) for number in range(20)]
    await suspended(*waiting)
    await suspended(*tokens._pending.values())
    assert running == 4
    go_on.set()
    await asyncio.gather(*waiting)
    assert most == 4


async def test_a_flood_of_new_tokens_is_refused_before_it_fills_the_memory(narrative: Narrative) -> None:
    tokens = TokenVerifier(narrative.check, max_pending=5)
    assert await tokens.accepts("known")
    narrative.answers.clear()
    checks = [asyncio.create_task(tokens.accepts(str(number))) for number in range(6)]
    await suspended(*checks[:5])
    await until(checks[5].done)
    assert await tokens.accepts("known")
    narrative.answers.set()
    got = await asyncio.gather(*checks, return_exceptions=True)
    assert got[:5] == [True] * 5
    assert isinstance(got[5], Overloaded)
    assert await tokens.accepts("5")


# ---------------------------------------------------------------- callers


def test_a_caller_uses_only_the_models_its_key_names() -> None:
    assert Caller(None, "p").may_use({"anything"})
    assert Caller(None, "p", models=frozenset({"a"})).may_use({"a", "alias"})
    assert not Caller(None, "p", models=frozenset({"a"})).may_use({"b"})

"""Keys and limits over real sockets, with one server and with replicas."""

import asyncio
import base64
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import redis
from click.testing import CliRunner

from proxy.access.authentication import TokenVerifier
from proxy.cli import main
from proxy.sandbox import SANDBOX_DATA_PLANE, Fault
from tests.conftest import Deployment
from tests.redis_server import serve_redis
from tests.scripts import script

PASSING = {"NARRATIVE_API_KEY": "", "PROXY_API_KEYS": "", "NARRATIVE_DATA_PLANE_ID": SANDBOX_DATA_PLANE}
HELLO = {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": "Hello!"}]}


def keys(deployment: Deployment, *arguments: str) -> str:
    """What `narrative-proxy keys …` says on standard output, run beside a server."""
    result = CliRunner().invoke(main, ["keys", *arguments], env=deployment.environ, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def create(deployment: Deployment, *arguments: str) -> str:
    return keys(deployment, "create", "--name", "app", *arguments)


def ask(deployment: Deployment, key: str, **options: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{deployment.url}/v1/chat/completions", headers=headers, json={**HELLO, **options}, timeout=30)


def until(holds: Callable[[], bool]) -> None:
    """Look again until something holds."""
    for _ in range(2_000):
        if holds():
            return
    raise AssertionError("it never held")


@pytest.fixture
def redis_url() -> Iterator[str]:
    with serve_redis() as url:
        yield url


@pytest.fixture
def replicas(make_deployment: Any, redis_url: str) -> tuple[Deployment, Deployment]:
    environ = {"PROXY_STATE__URL": redis_url, "PROXY_ACCESS__WAIT_S": "0"}
    return make_deployment(environ), make_deployment(environ)


def test_a_new_key_works_at_once_and_a_revoked_one_not_any_more(make_deployment: Any) -> None:
    deployment = make_deployment()
    assert ask(deployment, "np-unknown").status_code == 401
    key = create(deployment)
    assert ask(deployment, key).status_code == 200
    keys(deployment, "revoke", "app")
    until(lambda: ask(deployment, key).status_code == 401)
    assert ask(deployment, "test-key").status_code == 200


def test_replicas_on_one_redis_share_keys_and_their_revocation(replicas: tuple[Deployment, Deployment]) -> None:
    one, other = replicas
    key = create(one)
    assert [ask(deployment, key).status_code for deployment in replicas] == [200, 200]
    keys(other, "revoke", "app")
    for deployment in replicas:
        until(lambda deployment=deployment: ask(deployment, key).status_code == 401)


def test_the_refusal_of_a_wrong_a_revoked_and_an_expired_key_is_the_same(
    make_deployment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = make_deployment()
    revoked = create(deployment)
    with monkeypatch.context() as long_ago:
        long_ago.setattr("proxy.cli.keys.time", SimpleNamespace(time=lambda: 0.0))
        expired = create(deployment, "--expires", "2020-01-01")
    keys(deployment, "revoke", "app")
    answers = [ask(deployment, key) for key in ("np-wrong", "wrong", revoked, expired)]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["error"]["code"] == "invalid_api_key"


def test_a_key_uses_and_sees_only_its_models_under_any_of_their_names(make_deployment: Any) -> None:
    deployment = make_deployment()
    key = create(deployment, "--models", "claude-4-5-haiku, some-endpoint")
    assert ask(deployment, key, model="anthropic.claude-haiku-4.5").status_code == 200
    headers = {"authorization": f"Bearer {key}"}
    listed = httpx.get(f"{deployment.url}/v1/models", headers=headers).json()["data"]
    assert [model["id"] for model in listed] == ["claude-4-5-haiku"]
    for name in ("gpt-4.1", "no-such-model"):  # whether it exists stays secret
        refusal = ask(deployment, key, model=name)
        assert refusal.status_code == 403
        assert refusal.json()["error"]["type"] == "permission_error"
        assert httpx.get(f"{deployment.url}/v1/models/{name}", headers=headers).status_code == 403


def test_a_keys_data_plane_is_where_its_jobs_run(make_deployment: Any) -> None:
    deployment = make_deployment()
    plane = "11111111-2222-3333-4444-555555555555"
    ask(deployment, create(deployment, "--data-plane", plane))
    ask(deployment, "test-key")
    planes = [body["data_plane_id"] for body in deployment.submissions()]
    assert planes[0] == plane
    assert planes[1] != plane


def test_a_keys_requests_a_minute_are_counted_and_told(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_ACCESS__WAIT_S": "0"})
    key = create(deployment, "--rpm", "2")
    assert [ask(deployment, key).headers["x-ratelimit-remaining-requests"] for _ in range(2)] == ["1", "0"]
    refusal = ask(deployment, key)
    assert refusal.status_code == 429
    assert refusal.json()["error"]["code"] == "rate_limit_exceeded"
    assert 0 < int(refusal.headers["retry-after"]) <= 60
    assert refusal.headers["x-should-retry"] == "true"
    assert refusal.headers["x-ratelimit-limit-requests"] == "2"
    assert deployment.jobs_submitted() == 2
    assert "x-ratelimit-limit-requests" not in ask(deployment, "test-key").headers


def test_errors_tell_what_is_left_too(make_deployment: Any) -> None:
    deployment = make_deployment()
    key = create(deployment, "--rpm", "9")
    failed = ask(deployment, key, messages=[{"role": "user", "content": script(fail="It broke")}])
    assert failed.status_code == 424
    assert failed.headers["x-ratelimit-remaining-requests"] == "8"


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_settled_by_the_answers_usage_and_a_stream_shows_none_that_was_not_asked_for(
    make_deployment: Any, stream: bool
) -> None:
    deployment = make_deployment()
    key = create(deployment, "--tpm", "100000")
    answer = ask(deployment, key, stream=stream, max_tokens=4000)
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 96_000
    if stream:
        assert b'"usage"' not in answer.content
    left = int(ask(deployment, key, max_tokens=1).headers["x-ratelimit-remaining-tokens"])
    assert 96_000 < left < 100_000


def test_an_answer_of_unknown_usage_costs_its_estimate(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_ACCESS__WAIT_S": "0"})
    key = create(deployment, "--tpm", "2000")
    cut = [{"role": "user", "content": script(fail="Token limit exceeded")}]
    statuses = [ask(deployment, key, max_tokens=1500, messages=cut).status_code for _ in range(2)]
    assert statuses == [200, 429]


def test_a_stream_with_usage_keeps_it_where_tokens_are_limited(make_deployment: Any) -> None:
    deployment = make_deployment()
    answer = ask(deployment, create(deployment, "--tpm", "100000"), stream=True, stream_options={"include_usage": True})
    assert answer.content.count(b'"total_tokens"') == 1


async def test_a_keys_jobs_in_flight_are_bounded(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_ACCESS__WAIT_S": "0"}, running_s=0.5)
    key = await asyncio.to_thread(create, deployment, "--concurrency", "3")
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=30) as http:
        url = f"{deployment.url}/v1/chat/completions"
        answers = await asyncio.gather(*(http.post(url, json=HELLO) for _ in range(8)))
        assert Counter(answer.status_code for answer in answers) == {200: 3, 429: 5}
        assert (await http.post(url, json=HELLO)).status_code == 200


async def test_of_200_callers_at_once_through_two_replicas_50_get_in(replicas: tuple[Deployment, Deployment]) -> None:
    key = await asyncio.to_thread(create, replicas[0], "--rpm", "50")
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=60) as http:
        answers = await asyncio.gather(
            *(http.post(f"{replicas[n % 2].url}/v1/chat/completions", json=HELLO) for n in range(200))
        )
    assert Counter(answer.status_code for answer in answers) == {200: 50, 429: 150}
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"50"}
    assert sum(deployment.jobs_submitted() for deployment in replicas) == 50
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.headers["x-ratelimit-remaining-requests"] for answer in refused} == {"0"}


def test_the_models_own_limit_holds_for_all_keys_together(make_deployment: Any, tmp_path: Any) -> None:
    table = tmp_path / "models.toml"
    table.write_text(
        '[[models]]\nid = "openai.gpt-4.1"\nnames = ["gpt-4.1"]\nmax_tokens = 100\nrequests_per_minute = 2\n', "utf-8"
    )
    deployment = make_deployment({"PROXY_CHAT__MODELS_FILE": str(table), "PROXY_ACCESS__WAIT_S": "0"})
    statuses = [
        ask(deployment, key, model="gpt-4.1").status_code
        for key in (create(deployment), create(deployment), "test-key")
    ]
    assert statuses == [200, 200, 429]


def test_every_caller_has_the_usual_limit_unless_its_key_says_otherwise(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_ACCESS__REQUESTS_PER_MINUTE": "1", "PROXY_ACCESS__WAIT_S": "0"})
    assert [ask(deployment, "test-key").status_code for _ in range(2)] == [200, 429]
    key = create(deployment, "--rpm", "2")
    assert [ask(deployment, key).status_code for _ in range(3)] == [200, 200, 429]


def test_an_address_that_others_reach_needs_a_key_of_either_sort(make_deployment: Any) -> None:
    deployment = make_deployment()
    environ = {**deployment.environ, "PROXY_HOST": "0.0.0.0", "PROXY_API_KEYS": ""}
    refused = CliRunner().invoke(main, ["check"], env=environ)
    assert refused.exit_code == 2
    assert "keys create" in refused.stderr
    create(deployment)
    assert CliRunner().invoke(main, ["check"], env=environ).exit_code == 0


def test_the_list_of_keys_shows_no_key(make_deployment: Any) -> None:
    deployment = make_deployment()
    key = create(deployment, "--rpm", "7", "--models", "gpt-4.1", "--expires", "30d")
    listed = keys(deployment, "list")
    assert "app" in listed
    assert "gpt-4.1" in listed
    assert key not in listed
    assert key.removeprefix("np-")[:8] not in listed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--name", " "], "--name"),
        (["--name", "a", "--models", ","], "--models"),
        (["--name", "a", "--models", ""], "--models"),
        (["--name", "a", "--data-plane", "mine"], "--data-plane"),
        (["--name", "a", "--expires", "2020-01-01"], "--expires"),
        (["--name", "a", "--expires", "0d"], "--expires"),
    ],
)
def test_a_key_that_would_be_of_no_use_or_too_much_is_not_made(
    make_deployment: Any, arguments: list[str], named: str
) -> None:
    deployment = make_deployment()
    result = CliRunner().invoke(main, ["keys", "create", *arguments], env=deployment.environ, catch_exceptions=False)
    assert result.exit_code == 2
    assert named in result.stderr
    assert keys(deployment, "list").count("\n") == 0


def test_revoking_what_is_not_there_fails_and_says_so(make_deployment: Any) -> None:
    result = CliRunner().invoke(main, ["keys", "revoke", "nobody"], env=make_deployment().environ)
    assert result.exit_code != 0
    assert "nobody" in result.output


# ---------------------------------------------------------------- requests without a key


def status(deployment: Deployment, headers: dict[str, str]) -> int:
    return httpx.post(f"{deployment.url}/v1/chat/completions", headers=headers, json=HELLO, timeout=30).status_code


def test_the_loss_of_the_database_does_not_open_the_server(make_deployment: Any, tmp_path: Path) -> None:
    environ = {"PROXY_API_KEYS": "", "PROXY_ACCESS__FOLDER": str(tmp_path)}
    deployment = make_deployment(environ)
    assert status(deployment, {}) == 200
    key = create(deployment)
    assert status(deployment, {}) == 401
    assert ask(deployment, key).status_code == 200
    for file in tmp_path.glob("records.sqlite3*"):
        file.unlink()
    restarted = make_deployment(environ)
    assert status(restarted, {}) == 401
    assert ask(restarted, key).status_code == 401


def test_an_emptied_redis_does_not_open_the_server(make_deployment: Any, redis_url: str) -> None:
    deployment = make_deployment({"PROXY_API_KEYS": "", "PROXY_STATE__URL": redis_url})
    assert status(deployment, {}) == 401
    key = create(deployment)
    assert ask(deployment, key).status_code == 200
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    until(lambda: ask(deployment, key).status_code == 401)
    elsewhere = make_deployment({"PROXY_API_KEYS": "", "PROXY_STATE__URL": redis_url})
    for each in (deployment, elsewhere):
        assert status(each, {}) == 401


@pytest.mark.parametrize(("allowed", "expected"), [("always", 200), ("never", 401)])
def test_whether_requests_without_a_key_are_served_can_be_set(
    make_deployment: Any, allowed: str, expected: int
) -> None:
    deployment = make_deployment({"PROXY_API_KEYS": "", "PROXY_SERVER__ALLOW_UNAUTHENTICATED": allowed})
    create(deployment)
    assert status(deployment, {}) == expected
    assert status(deployment, {"authorization": "Bearer np-unknown"}) == 401


def test_with_a_redis_a_server_without_keys_does_not_start_unless_told_to(make_deployment: Any, redis_url: str) -> None:
    environ = {**make_deployment().environ, "PROXY_API_KEYS": "", "PROXY_STATE__URL": redis_url}
    refused = CliRunner().invoke(main, ["check"], env=environ)
    assert refused.exit_code == 2
    assert "allow_unauthenticated" in refused.stderr
    environ["PROXY_SERVER__ALLOW_UNAUTHENTICATED"] = "always"
    assert CliRunner().invoke(main, ["check"], env=environ).exit_code == 0


# ---------------------------------------------------------------- how a key is presented


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer test-key"},
        {"authorization": "bearer test-key"},
        {"x-api-key": "test-key"},
        {"api-key": "test-key"},
        {"authorization": "Bearer test-key", "x-api-key": "wrong", "api-key": "wrong"},
    ],
)
def test_a_key_is_accepted_in_every_usual_header(deployment: Deployment, headers: dict[str, str]) -> None:
    assert status(deployment, headers) == 200
    assert httpx.get(f"{deployment.url}/v1/models", headers=headers).status_code == 200
    assert httpx.get(f"{deployment.url}/_inference", headers=headers).status_code == 200
    assert httpx.get(f"{deployment.url}/console/api/recent", headers=headers).status_code == 200


def test_of_two_keys_the_bearer_token_counts(deployment: Deployment) -> None:
    assert status(deployment, {"authorization": "Bearer wrong", "x-api-key": "test-key", "api-key": "test-key"}) == 401


def test_one_key_is_one_caller_however_it_is_presented(make_deployment: Any) -> None:
    deployment = make_deployment()
    ways = [
        {"authorization": "Bearer test-key"},
        {"authorization": "bearer test-key"},
        {"x-api-key": "test-key"},
        {"api-key": "test-key"},
    ]
    answers = [
        httpx.post(
            f"{deployment.url}/v1/chat/completions", headers={**way, "idempotency-key": "once"}, json=HELLO, timeout=30
        )
        for way in ways
    ]
    assert len({answer.content for answer in answers}) == 1
    assert deployment.jobs_submitted() == 1


# ---------------------------------------------------------------- clients' own tokens


@pytest.fixture
def passing(make_deployment: Any) -> Deployment:
    """A deployment where clients' tokens are passed through."""
    deployment: Deployment = make_deployment(PASSING)
    return deployment


def test_a_token_is_checked_before_any_work_and_once_for_many_requests(passing: Deployment) -> None:
    calls = passing.sandbox.state.store.calls
    heavy = {**HELLO, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}]}
    for path in ("/v1/chat/completions", "/console/api/plan"):
        url = f"{passing.url}{path}"
        bad = [httpx.post(url, headers={"authorization": "Bearer invalid"}, json=heavy) for _ in range(3)]
        assert [answer.status_code for answer in bad] == [401] * 3, "it is not even looked at"
        good = httpx.post(url, headers={"authorization": "Bearer good"}, json=heavy)
        assert good.status_code == 400
    assert calls["list_jobs"] == 2, "one check a token"
    assert ask(passing, "good").status_code == 200


async def test_simultaneous_first_requests_share_one_check(passing: Deployment) -> None:
    async with httpx.AsyncClient(headers={"authorization": "Bearer good"}, timeout=30) as http:
        answers = await asyncio.gather(*(http.get(f"{passing.url}/v1/models") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert passing.sandbox.state.store.calls["list_jobs"] == 1


def test_while_narrative_is_away_an_unknown_token_is_neither_accepted_nor_refused(make_deployment: Any) -> None:
    deployment = make_deployment(
        {"NARRATIVE_API_KEY": "", "PROXY_API_KEYS": "", "NARRATIVE_ENVIRONMENT": "http://127.0.0.1:1"}
    )
    answer = ask(deployment, "good")
    assert answer.status_code in (502, 503)
    assert answer.headers["x-should-retry"] == "true"


def test_a_replay_checks_a_clients_token_again(make_deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.services.TokenVerifier", partial(TokenVerifier, accepted_s=0.0))
    passing = make_deployment(PASSING)

    def post() -> httpx.Response:
        headers = {"authorization": "Bearer mine", "idempotency-key": "once"}
        return httpx.post(f"{passing.url}/v1/chat/completions", headers=headers, json=HELLO, timeout=30)

    assert [post().status_code for _ in range(2)] == [200, 200]
    assert passing.jobs_submitted() == 1
    passing.sandbox.state.faults.add(
        Fault(kind="status", operation="list_jobs", status=401, body={"error": "Unauthorized"})
    )
    assert post().status_code == 401
    assert passing.jobs_submitted() == 1


def test_elastics_form_of_a_key_is_a_clients_token_too(passing: Deployment) -> None:
    encoded = base64.b64encode(b"id:mine").decode()
    assert status(passing, {"authorization": f"ApiKey {encoded}"}) == 200
    assert httpx.get(f"{passing.url}/_inference", headers={"authorization": f"ApiKey {encoded}"}).status_code == 200


def test_rate_limits_cover_the_consoles_plan(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_ACCESS__WAIT_S": "0"})
    headers = {"authorization": f"Bearer {create(deployment, '--rpm', '3')}"}
    statuses = [
        httpx.post(f"{deployment.url}/console/api/plan", headers=headers, json=HELLO).status_code for _ in range(4)
    ]
    assert statuses == [200, 200, 200, 429]
    assert status(deployment, headers) == 429
    assert deployment.jobs_submitted() == 0


# ---------------------------------------------------------------- keys where they do not belong


def test_a_key_in_a_model_name_a_path_or_an_id_is_not_repeated(make_deployment: Any) -> None:
    """What clients do whose settings are mixed up."""
    deployment = make_deployment(
        {"PROXY_API_KEYS": "test-key,a-key-of-the-settings", "PROXY_ADMIN_KEY": "the key of the admin"}
    )
    own, http = create(deployment), deployment.http
    for key in (own, "a-key-of-the-settings", "the key of the admin", "sk-proj-0123456789abcdef", "narrative-token"):
        for bearer in ("test-key", own):
            http.headers["authorization"] = f"Bearer {bearer}"
            answers = [
                http.post("/v1/chat/completions", json={**HELLO, "model": key}),
                http.get(f"/v1/models/{key}"),
                http.get(f"/nowhere/{key}"),
                http.get(f"/_inference/{key}"),
                http.post(f"/_inference/completion/{key}", json={"input": "hi"}),
                http.post("/console/api/plan", json={**HELLO, "model": key}),
            ]
            for answer in answers:
                assert answer.status_code in (400, 403, 404), answer.text
                assert key not in answer.text
                assert answer.json()["error"]
                assert int(answer.headers["content-length"]) == len(answer.content)
    assert "[redacted]" in answers[0].text


def test_a_key_with_a_quote_is_not_repeated_either(make_deployment: Any) -> None:
    deployment = make_deployment({"PROXY_API_KEYS": 'a"quoted\\key'})
    answer = ask(deployment, 'a"quoted\\key', model='a"quoted\\key')
    assert answer.status_code == 404
    assert "quoted" not in answer.text
    assert "[redacted]" in answer.json()["error"]["message"]


def test_a_name_as_short_as_a_word_stays(deployment: Deployment) -> None:
    answer = ask(deployment, "test-key", model="test-key")
    assert "test-key" in answer.json()["error"]["message"]


# ---------------------------------------------------------------- limits


async def test_of_60_requests_at_once_a_token_quota_of_10_on_redis_admits_10(
    make_deployment: Any, redis_url: str
) -> None:
    """What their answers used is not known, so that each keeps its estimate."""
    environ = {"PROXY_STATE__URL": redis_url, "PROXY_ACCESS__WAIT_S": "0"}
    replicas = [make_deployment(environ) for _ in range(2)]
    body = {**HELLO, "max_tokens": 1000, "messages": [{"role": "user", "content": script(fail="Token limit exceeded")}]}
    key = await asyncio.to_thread(create, replicas[0], "--tpm", "100000")
    url, headers = f"{replicas[0].url}/v1/chat/completions", {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(timeout=60) as http:
        first = await http.post(url, json=body, headers=headers)
        estimate = 100_000 - int(first.headers["x-ratelimit-remaining-tokens"])
        key = await asyncio.to_thread(create, replicas[0], "--tpm", str(10 * estimate))
        headers = {"authorization": f"Bearer {key}"}
        urls = [f"{replicas[number % 2].url}/v1/chat/completions" for number in range(60)]
        answers = await asyncio.gather(*(http.post(url, json=body, headers=headers) for url in urls))
    assert Counter(answer.status_code for answer in answers) == {200: 10, 429: 50}
    assert sum(deployment.jobs_submitted() for deployment in replicas) == 11

"""From a name to what answers: permissions, limits, fallbacks, and what is given back whatever happens."""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from proxy.access.authentication import Caller
from proxy.access.limits import Quota, RateLimits
from proxy.catalog import ModelCard, make_catalog
from proxy.endpoints.cipher import Cipher
from proxy.endpoints.router import Router
from proxy.endpoints.store import Endpoints
from proxy.errors import (
    InvalidApiKey,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    ProxyError,
    RateLimited,
    UpstreamError,
)
from proxy.serving.upstream import DEFAULT_TERMS, Answer, Terms
from proxy.storage import MemoryStore, SqliteStore
from proxy.wire.openai import ChatRequest

DOWN = UpstreamError("down", code="narrative_unavailable", retry_after=1)
CARDS = (
    ModelCard(id="id.first", names=("first",), max_tokens=9, fallback="second"),
    ModelCard(id="id.second", names=("second",), max_tokens=9, requests_per_minute=1, fallback="first"),
)
ME = Caller(None, "plane", id="me")


class StubAnswer:
    headers: Mapping[str, str] = {"x-proxy-model": "id"}

    def __init__(self, error: ProxyError | None) -> None:
        self.error = error

    async def whole(self) -> Any:
        if self.error:
            raise self.error
        return {"model": "id", "usage": {"total_tokens": 40}}

    async def batches(self) -> AsyncIterator[Sequence[Any]]:
        yield [{"model": "id", "choices": [1], "usage": None}]
        if self.error:
            raise self.error
        yield [{"model": "id", "choices": [], "usage": {"total_tokens": 40}}]

    def close(self, *, delivered: bool) -> None: ...


class StubUpstream:
    """Refuses the models in `errors`, and has the answers of those in `later` fail."""

    def __init__(self) -> None:
        self.errors: dict[str, ProxyError] = {}
        self.later: dict[str, ProxyError] = {}
        self.asked: list[ChatRequest] = []

    async def accept(self, request: ChatRequest, caller: Caller, terms: Terms = DEFAULT_TERMS) -> Answer:
        self.asked.append(request)
        if request.model in self.errors:
            raise self.errors[request.model]
        return StubAnswer(self.later.get(request.model))


@pytest.fixture
def upstream() -> StubUpstream:
    return StubUpstream()


@pytest.fixture
def router(upstream: StubUpstream, records: SqliteStore, tmp_path: Path) -> Router:
    endpoints = Endpoints(records, Cipher("secret", tmp_path / "key"))
    services = {"narrative": upstream, "anthropic": upstream}
    return Router(
        make_catalog(CARDS), endpoints, services, RateLimits(MemoryStore(), wait_s=0), usual=Quota(), own_token=True
    )


def asking(model: str, **fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": model, "messages": [{"role": "user", "content": "hi"}], **fields})


async def test_the_answer_has_the_name_that_was_asked_for(router: Router) -> None:
    answer = await router.accept(asking("id.first"), ME)
    assert "x-proxy-served-by" not in answer.headers
    assert (await answer.whole())["model"] == "id.first"


async def test_while_an_upstream_is_down_the_fallback_answers(router: Router, upstream: StubUpstream) -> None:
    upstream.errors["first"] = DOWN
    answer = await router.accept(asking("first"), ME)
    assert answer.headers["x-proxy-served-by"] == "second"
    assert (await answer.whole())["model"] == "first"


@pytest.mark.parametrize(
    "error",
    [
        ModelNotFound("no"),
        InvalidApiKey("no"),
        RateLimited("no", retry_after=1),
        UpstreamError("a job may exist", code="narrative_submit_unknown"),
        UpstreamError("failed", code="narrative_job_failed"),
        Overloaded("too much here", retry_after=1),
    ],
)
async def test_nothing_else_is_a_reason_to_fall_back(router: Router, upstream: StubUpstream, error: ProxyError) -> None:
    upstream.errors["first"] = error
    with pytest.raises(type(error)):
        await router.accept(asking("first"), ME)
    assert len(upstream.asked) == 1


async def test_fallbacks_in_a_circle_end_with_the_upstreams_error(router: Router, upstream: StubUpstream) -> None:
    upstream.errors = {"first": DOWN, "second": DOWN}
    with pytest.raises(UpstreamError):
        await router.accept(asking("first"), ME)
    assert [request.model for request in upstream.asked] == ["first", "second"]


async def test_a_fallback_counts_against_its_own_limit(router: Router, upstream: StubUpstream) -> None:
    upstream.errors["first"] = DOWN
    await router.accept(asking("first"), ME)
    with pytest.raises(RateLimited):
        await router.accept(asking("first"), ME)


async def test_a_fallback_is_not_used_for_a_key_that_may_not_use_it(router: Router, upstream: StubUpstream) -> None:
    upstream.errors["first"] = DOWN
    with pytest.raises(UpstreamError):
        await router.accept(asking("first"), Caller(None, "plane", models=frozenset({"first"})))


async def test_a_key_learns_nothing_of_models_it_may_not_use(router: Router) -> None:
    caller = Caller(None, "plane", models=frozenset({"first"}))
    for name in ("second", "no-such-model"):
        with pytest.raises(PermissionDenied):
            await router.accept(asking(name), caller)
    with pytest.raises(ModelNotFound):
        await router.accept(asking("no-such-model"), ME)


ONE_JOB = Caller(None, "plane", id="one", quota=Quota(jobs=1, tokens=10_000))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fails", ["never", "at once", "later"])
async def test_places_are_given_back_however_an_answer_ends(
    router: Router, upstream: StubUpstream, fails: str, stream: bool
) -> None:
    error = UpstreamError("broken", code="narrative_job_failed")
    upstream.errors = {"first": error} if fails == "at once" else {}
    upstream.later = {"first": error} if fails == "later" else {}
    told: list[Mapping[str, str]] = []
    for _ in range(3):
        try:
            answer = await router.accept(asking("first", stream=stream), ONE_JOB)
            with pytest.raises(RateLimited):
                await router.accept(asking("first"), ONE_JOB)
            if stream:
                chunks = [chunk async for batch in answer.batches() for chunk in batch]
                assert all("usage" not in chunk and chunk["model"] == "first" for chunk in chunks)
                assert all(chunk["choices"] for chunk in chunks)
            else:
                await answer.whole()
        except UpstreamError as caught:
            assert fails != "never"
            told.append(caught.headers)
    assert len(told) == (0 if fails == "never" else 3)
    if not (stream and fails == "later"):
        assert all("x-ratelimit-limit-tokens" in headers for headers in told)


async def test_a_stream_asks_for_usage_where_tokens_are_limited_and_shows_it_to_whoever_asked(
    router: Router, upstream: StubUpstream
) -> None:
    answer = await router.accept(asking("first", stream=True, stream_options={"include_usage": True}), ONE_JOB)
    chunks = [chunk async for batch in answer.batches() for chunk in batch]
    assert chunks[-1]["usage"] == {"total_tokens": 40}
    assert upstream.asked[0].stream_options
    await router.accept(asking("first", stream=True), ME)
    assert upstream.asked[1].stream_options is None


async def test_holders_of_our_keys_cannot_spend_a_token_the_proxy_does_not_have(
    records: SqliteStore, tmp_path: Path
) -> None:
    endpoints = Endpoints(records, Cipher("secret", tmp_path / "key"))
    services = {"narrative": StubUpstream()}
    router = Router(make_catalog(CARDS), endpoints, services, RateLimits(MemoryStore()), usual=Quota(), own_token=False)
    with pytest.raises(PermissionDenied):
        await router.accept(asking("first"), ME)
    await router.accept(asking("first"), Caller("a token", "plane"))

"""What headers say about a request: whether it is a repeat, and how long its client waits."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.http.requests import credentials_digest, terms_of
from proxy.errors import InvalidRequest


@pytest.mark.parametrize(
    ("headers", "patience"),
    [
        ({}, math.inf),
        ({"x-stainless-read-timeout": "20"}, 20),
        ({"x-stainless-timeout": "7"}, 7),
        ({"x-request-timeout": "1.5"}, 1.5),
        ({"x-request-timeout": "9s"}, 9),
        ({"x-stainless-read-timeout": "20", "x-request-timeout": "30", "x-stainless-timeout": "25"}, 20),
        ({"x-request-timeout": "soon"}, math.inf),
        ({"x-request-timeout": "0"}, math.inf),
        ({"x-request-timeout": "-3"}, math.inf),
        ({"x-request-timeout": "nan"}, math.inf),
    ],
)
def test_the_shortest_timeout_counts(headers: dict[str, str], patience: float) -> None:
    assert terms_of(headers, 0)[0].timeout_s == patience


@pytest.mark.parametrize(("heartbeat", "patience"), [(10, math.inf), (20, math.inf), (30, math.inf), (0, 20)])
def test_heartbeats_that_come_sooner_keep_an_sdks_timeout_from_ending_a_stream(
    heartbeat: float, patience: float
) -> None:
    headers = {"x-stainless-read-timeout": "20"}
    assert terms_of(headers, heartbeat)[0].timeout_s == patience
    assert terms_of({"x-request-timeout": "5"}, 1)[0].timeout_s == 5


@pytest.mark.parametrize(
    ("count", "retry"), [("0", False), ("1", True), ("12", True), ("", False), ("x", False), ("-1", False)]
)
def test_a_retry_says_so(count: str, retry: bool) -> None:
    assert terms_of({"x-stainless-retry-count": count}, 0)[0].is_retry is retry


def test_clients_are_told_apart_by_their_credentials_which_cannot_be_read_from_it() -> None:
    names = {
        credentials_digest(headers)
        for headers in ({}, {"authorization": "Bearer a"}, {"authorization": "Bearer b"}, {"x-api-key": "a"})
    }
    assert len(names) == 3, "a key is the same client in whatever header"
    assert all("Bearer" not in name for name in names)


def test_a_key_that_is_too_long_is_refused() -> None:
    assert terms_of({"idempotency-key": "k" * 255}, 0)[0].key
    with pytest.raises(InvalidRequest):
        terms_of({"idempotency-key": "k" * 256}, 0)


@given(st.dictionaries(st.sampled_from(["x-stainless-retry-count", "x-request-timeout", "authorization"]), st.text()))
def test_any_text_in_a_header_is_survived(headers: dict[str, str]) -> None:
    assert terms_of(headers, 0)[0].timeout_s > 0


@pytest.mark.parametrize(
    ("headers", "setting", "interval"),
    [
        ({}, 10, 10),
        ({"x-stainless-read-timeout": "600"}, 10, 10),
        ({"x-stainless-read-timeout": "20"}, 10, 10),
        ({"x-stainless-read-timeout": "19"}, 10, 9.5),
        ({"x-stainless-timeout": "3"}, 10, 1.5),
        ({"x-stainless-timeout": "3"}, 0, 0),
        ({"x-stainless-read-timeout": "0.001"}, 10, 0.25),
        ({"x-request-timeout": "3"}, 10, 10),
    ],
)
def test_heartbeats_come_at_half_of_the_silence_that_a_client_bears(
    headers: dict[str, str], setting: float, interval: float
) -> None:
    assert terms_of(headers, setting)[1] == interval


def test_credentials_cannot_be_read_from_their_digest() -> None:
    one, other = (credentials_digest({"authorization": f"Bearer {key}"}) for key in ("secret-1", "secret-2"))
    assert one != other
    assert "secret" not in one + other

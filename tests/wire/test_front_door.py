"""Health, models and browsers: what is asked for before any chat."""

from typing import Any

import httpx
import pytest

from tests.conftest import House


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_routes_need_no_key_and_call_nobody(house: House, path: str) -> None:
    before = sum(house.sandbox.state.store.calls.values())
    answer = httpx.get(house.url + path)
    assert answer.status_code == 200
    assert answer.json()["status"]
    assert sum(house.sandbox.state.store.calls.values()) == before


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models/", "/models/"])
def test_the_model_list_is_well_formed(house: House, path: str) -> None:
    listed = house.http.get(path).json()
    assert listed["object"] == "list"
    assert len(listed["data"]) == 8
    assert all(model.keys() == {"id", "object", "created", "owned_by"} for model in listed["data"])


@pytest.mark.parametrize("name", ["claude-4-5-haiku", "anthropic.claude-haiku-4.5", "openai/gpt-4.1"])
def test_one_model_is_shown_under_the_name_that_was_asked_for(house: House, name: str) -> None:
    assert house.http.get(f"/v1/models/{name}").json()["id"] == name


def test_a_browser_may_send_any_header_of_any_sdk(house: House) -> None:
    wanted = "authorization,content-type,x-stainless-os,x-stainless-retry-count"
    answer = httpx.options(
        f"{house.url}/v1/chat/completions",
        headers={
            "origin": "https://app.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": wanted,
        },
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert set(wanted.split(",")) <= {
        name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")
    }


def test_a_browser_may_read_our_headers_even_of_errors(house: House) -> None:
    answer = httpx.post(f"{house.url}/v1/chat/completions", headers={"origin": "https://app.example"})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_origins_can_be_limited(make_house: Any) -> None:
    house = make_house({"PROXY_SERVER__CORS_ORIGINS": "https://good.example"})
    for origin, allowed in (("https://good.example", True), ("https://bad.example", False)):
        answer = house.http.get("/v1/models", headers={"origin": origin})
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed

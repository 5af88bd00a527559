"""A client of the Messages API for tests, as plain HTTP."""

from typing import Any

import httpx

HEADERS = {"x-api-key": "test-key", "anthropic-version": "2023-06-01"}
SESSION = "x-claude-code-session-id"


def asking(text: Any, **fields: Any) -> dict[str, Any]:
    """A request whose last turn is this text, or these blocks."""
    return {
        "model": "claude-4-5-haiku",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": text}],
        **fields,
    }


def post(url: str, body: dict[str, Any], path: str = "/v1/messages?beta=true", **headers: str) -> httpx.Response:
    """The answer to a body."""
    return httpx.post(f"{url}{path}", json=body, headers={**HEADERS, **headers}, timeout=30)


def get(url: str, path: str, **headers: str) -> httpx.Response:
    """The answer to a GET."""
    return httpx.get(f"{url}{path}", headers={**HEADERS, **headers}, timeout=30)

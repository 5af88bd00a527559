"""What the tests of batches share: files of requests, and waiting for the end of a batch."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import httpx

from tests.waiting import until_sync

CHAT = "/v1/chat/completions"
ENDED = {"failed", "completed", "cancelled", "expired"}


def chat(content: str = "Hello!", **fields: Any) -> dict[str, Any]:
    return {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": content}], **fields}


def line(custom_id: str, body: Mapping[str, Any] | None = None, url: str = CHAT, **fields: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body or chat(), **fields})


def upload(http: httpx.Client, lines: Iterable[str] | bytes, **fields: str) -> httpx.Response:
    content = lines if isinstance(lines, bytes) else "\n".join(lines).encode()
    return http.post("/v1/files", files={"file": ("requests.jsonl", content)}, data={"purpose": "batch", **fields})


def start(http: httpx.Client, lines: Iterable[str] | bytes, endpoint: str = CHAT, **fields: Any) -> dict[str, Any]:
    """The batch of an uploaded file."""
    file = upload(http, lines)
    assert file.status_code == 200, file.text
    body = {"input_file_id": file.json()["id"], "endpoint": endpoint, "completion_window": "24h", **fields}
    made = http.post("/v1/batches", json=body)
    assert made.status_code == 200, made.text
    batch: dict[str, Any] = made.json()
    return batch


def ended(http: httpx.Client, id_: str, path: str = "/v1/batches") -> dict[str, Any]:
    """The batch once it has ended."""

    def found() -> dict[str, Any] | None:
        batch: dict[str, Any] = http.get(f"{path}/{id_}").json()
        has_ended = batch.get("status") in ENDED or batch.get("processing_status") == "ended"
        return batch if has_ended else None

    return until_sync(found)


def rows(http: httpx.Client, file_id: str | None) -> dict[str, dict[str, Any]]:
    """The rows of a result file by their custom_id, none of which may be there twice."""
    if file_id is None:
        return {}
    content = http.get(f"/v1/files/{file_id}/content")
    assert content.status_code == 200, content.text
    found = [json.loads(text) for text in content.text.splitlines()]
    by_id = {row["custom_id"]: row for row in found}
    assert len(by_id) == len(found)
    return by_id

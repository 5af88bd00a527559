"""Files over the wire: uploads, limits, lists, contents, deletion. Source: contract `openai-batches.md`, Files."""

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.batching import ENDED, ended, line, start, upload
from tests.conftest import Deployment
from tests.redis_server import serve_redis
from tests.scripts import script


def other(deployment: Deployment) -> httpx.Client:
    return httpx.Client(base_url=deployment.url, headers={"authorization": "Bearer other-key"}, timeout=30)


def test_a_file_is_stored_and_read_back(deployment: Deployment) -> None:
    content = "\n".join(line(f"c{number}", chat_of(4_000)) for number in range(150)).encode()  # more than two pieces
    answer = upload(deployment.http, content)
    assert answer.status_code == 200, answer.text
    file = answer.json()
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(content),
        "created_at": pytest.approx(time.time(), abs=60),
        "expires_at": file["created_at"] + 86_400,
        "filename": "requests.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    assert file["id"].startswith("file-")
    assert deployment.http.get(f"/v1/files/{file['id']}").json() == file
    read = deployment.http.get(f"/v1/files/{file['id']}/content")
    assert (read.status_code, read.headers["content-type"]) == (200, "application/octet-stream")
    assert read.content == content
    assert deployment.http.delete(f"/v1/files/{file['id']}").json() == {
        "id": file["id"],
        "object": "file",
        "deleted": True,
    }
    for path in ("", "/content"):
        assert deployment.http.get(f"/v1/files/{file['id']}{path}").status_code == 404


def chat_of(size: int) -> dict[str, Any]:
    return {"model": "claude-4-5-haiku", "messages": [{"role": "user", "content": "x" * size}]}


def test_files_are_listed_in_pages(make_deployment: Any) -> None:
    http = make_deployment().http
    assert http.get("/v1/files").json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    ids = [upload(http, [line("a")]).json()["id"] for _ in range(4)]
    assert [file["id"] for file in http.get("/v1/files").json()["data"]] == ids[::-1]
    page = http.get("/v1/files", params={"limit": 2, "order": "asc", "after": ids[0], "purpose": "batch"}).json()
    assert [file["id"] for file in page["data"]] == ids[1:3]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[1], ids[2], True)
    assert http.get("/v1/files", params={"purpose": "batch_output"}).json()["data"] == []


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "10001"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "file-none"}, "after"),
    ],
)
def test_a_list_says_what_is_wrong_with_its_query(deployment: Deployment, params: Any, param: str) -> None:
    answer = deployment.http.get("/v1/files", params=params)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("seconds", "kept"), [("3600", 3_600), ("172800", 172_800), ("2592000", 604_800)], ids=["less", "more", "capped"]
)
def test_a_client_names_how_long_its_file_is_kept(deployment: Deployment, seconds: str, kept: int) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": seconds}
    file = upload(deployment.http, [line("a")], **fields).json()
    assert file["expires_at"] - file["created_at"] in (kept, kept + 1)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": "batch", "expires_after[anchor]": "now"}, "expires_after[anchor]"),
        ({"purpose": "batch", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        (
            {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"},
            "expires_after[seconds]",
        ),
        (
            {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "9" * 400},
            "expires_after[seconds]",
        ),
    ],
)
def test_a_form_that_is_wrong(deployment: Deployment, fields: dict[str, str], param: str) -> None:
    answer = deployment.http.post("/v1/files", files={"file": ("a.jsonl", b"{}")}, data=fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def form(*parts: bytes, boundary: bytes = b"x", end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + end


FILE = b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{}'
PURPOSE = b'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch'


@pytest.mark.parametrize(
    ("body", "content_type", "param"),
    [
        (b"{}", "application/json", "Content-Type"),
        (b"{}", "multipart/form-data", "Content-Type"),
        (b"{}", f"multipart/form-data; boundary={'x' * 400}", "Content-Type"),
        (b"no boundary", "multipart/form-data; boundary=x", None),
        (form(FILE, PURPOSE, end=b""), "multipart/form-data; boundary=x", None),
        (form(PURPOSE), "multipart/form-data; boundary=x", "file"),
        (form(PURPOSE, FILE, FILE), "multipart/form-data; boundary=x", "file"),
        (form(PURPOSE, FILE.replace(b"a.jsonl", b"a.csv")), "multipart/form-data; boundary=x", "file"),
        (form(PURPOSE, FILE.replace(b"a.jsonl", b"a" * 300 + b".jsonl")), "multipart/form-data; boundary=x", "file"),
        (form(PURPOSE, FILE.replace(b'"file"', b'"other"')), "multipart/form-data; boundary=x", "file"),
        (form(PURPOSE + b"x" * 2_000, FILE), "multipart/form-data; boundary=x", "purpose"),
        (form(b"A: " + b"b" * 10_000 + b"\r\n\r\n", FILE), "multipart/form-data; boundary=x", None),
        (form(*(PURPOSE.replace(b"purpose", b"p%d" % n) for n in range(20))), "multipart/form-data; boundary=x", None),
    ],
)
def test_hostile_forms_are_refused(deployment: Deployment, body: bytes, content_type: str, param: str | None) -> None:
    answer = deployment.http.post("/v1/files", content=body, headers={"content-type": content_type})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_a_compressed_form_is_refused(deployment: Deployment) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x", "content-encoding": "gzip"}
    answer = deployment.http.post("/v1/files", content=form(PURPOSE, FILE), headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Content-Encoding")


def test_the_fields_may_come_in_any_order(deployment: Deployment) -> None:
    headers = {"content-type": 'multipart/form-data; boundary="x"'}
    for body in (form(FILE, PURPOSE), form(PURPOSE, FILE)):
        answer = deployment.http.post("/v1/files", content=body, headers=headers)
        assert (answer.status_code, answer.json().get("bytes")) == (200, 2)


def test_files_are_bounded_in_size_and_all_together(make_deployment: Any) -> None:
    limits = {"PROXY_BATCHES__MAX_FILE_BYTES": "400000", "PROXY_BATCHES__MAX_KEY_BYTES": "1000000"}
    deployment: Deployment = make_deployment(limits)
    answer = upload(deployment.http, b"x" * 400_001)
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, "file")
    assert deployment.http.get("/v1/files").json()["data"] == []
    for size, status in ((400_000, 200), (400_000, 200), (200_001, 413), (200_000, 200), (1, 413)):
        assert upload(deployment.http, b"x" * size).status_code == status, size
    newest = deployment.http.get("/v1/files", params={"limit": 1}).json()["data"][0]
    deployment.http.delete(f"/v1/files/{newest['id']}")
    assert upload(deployment.http, b"x").status_code == 200


def test_other_keys_see_no_file_and_no_batch(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment({"PROXY_API_KEYS": "test-key,other-key"})
    batch = start(deployment.http, [line("a")])
    with other(deployment) as http:
        assert http.get("/v1/files").json()["data"] == []
        assert http.get("/v1/batches").json()["data"] == []
        for path in (f"/v1/files/{batch['input_file_id']}", f"/v1/batches/{batch['id']}"):
            assert http.get(path).status_code == 404
        assert http.get(f"/v1/files/{batch['input_file_id']}/content").status_code == 404
        assert http.delete(f"/v1/files/{batch['input_file_id']}").status_code == 404
        assert http.post(f"/v1/batches/{batch['id']}/cancel").status_code == 404
        body = {"input_file_id": batch["input_file_id"], "endpoint": batch["endpoint"], "completion_window": "24h"}
        assert http.post("/v1/batches", json=body).status_code == 400
    assert httpx.get(f"{deployment.url}/v1/files").status_code == 401
    ended(deployment.http, batch["id"])


def test_a_file_that_a_batch_reads_cannot_be_deleted(make_deployment: Any) -> None:
    deployment: Deployment = make_deployment()
    batch = start(deployment.http, [line("a", {**chat_of(1), "messages": running_for(0.5)})])
    answer = deployment.http.delete(f"/v1/files/{batch['input_file_id']}")
    assert (answer.status_code, answer.json()["error"]["type"]) == (409, "invalid_request_error")
    assert ended(deployment.http, batch["id"])["status"] in ENDED
    assert deployment.http.delete(f"/v1/files/{batch['input_file_id']}").status_code == 200


def running_for(seconds: float) -> list[dict[str, str]]:
    return [{"role": "user", "content": script(delay=seconds)}]


@pytest.mark.parametrize("where", ["file", "redis"])
def test_nothing_that_is_stored_shows_what_a_client_sent(make_deployment: Any, tmp_path: Path, where: str) -> None:
    def stored(environ: dict[str, str], contents: Any) -> None:
        deployment: Deployment = make_deployment({"PROXY_ACCESS__FOLDER": str(tmp_path), **environ})
        secret = "the-answer-is-fortytwo"
        batch = start(deployment.http, [line(secret, chat_of(1) | {"user": secret})], metadata={"note": secret})
        assert ended(deployment.http, batch["id"])["request_counts"]["completed"] == 1
        found = contents()
        assert len(found) > 1_000
        assert secret not in found
        assert batch["id"] not in found

    if where == "file":
        stored({}, lambda: "".join(map(str, sqlite3.connect(tmp_path / "batches.sqlite3").execute(ALL).fetchall())))
        return
    with serve_redis() as url:
        import redis

        client = redis.Redis.from_url(url, decode_responses=True)

        def contents() -> str:
            hashes = list(client.scan_iter("*batch*"))
            return json.dumps([[key, client.hgetall(key)] for key in hashes])

        stored({"PROXY_STATE__URL": url, "PROXY_SECRET_KEY": "a long passphrase"}, contents)
        client.close()


ALL = "SELECT * FROM fields"


def test_without_a_secret_batches_say_that_they_need_one(make_deployment: Any, tmp_path: Path) -> None:
    folder = tmp_path / "a-file"
    folder.write_text("")
    deployment: Deployment = make_deployment({"PROXY_ACCESS__FOLDER": str(folder)})
    for answer in (upload(deployment.http, [line("a")]), deployment.http.get("/v1/batches")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (501, "batches_need_state")

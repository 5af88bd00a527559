"""Files and batches with the official `openai` library."""

import asyncio
import json
from typing import Any

import openai
import pytest
from conftest import Proxy
from openai import AsyncOpenAI, OpenAI
from scenes import MARKDOWN, MODEL, SAYS_MARKDOWN

from tests.waiting import until

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "cancelled", "expired")


def lines(url: str, *bodies: dict[str, Any]) -> bytes:
    rows = [{"custom_id": f"c{n}", "method": "POST", "url": url, "body": body} for n, body in enumerate(bodies)]
    return "\n".join(map(json.dumps, rows)).encode()


def chat(content: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


def ended(client: OpenAI, batch: Any) -> Any:
    asyncio.run(until(lambda: client.batches.retrieve(batch.id).status in ENDED))
    return client.batches.retrieve(batch.id)


@pytest.fixture
def client(proxy: Proxy) -> OpenAI:
    return OpenAI(base_url=proxy.base_url, api_key=proxy.key)


def test_a_file_becomes_rows(client: OpenAI) -> None:
    content = lines(CHAT, chat(SAYS_MARKDOWN), chat("Hello!", model="nobody"))
    file = client.files.create(
        file=("requests.jsonl", content),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 7200},
    )
    assert (file.bytes, file.purpose, file.expires_at) == (len(content), "batch", file.created_at + 7200)
    assert client.files.wait_for_processing(file.id).status == "processed"
    batch = client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"run": "nightly"}
    )
    assert batch.metadata == {"run": "nightly"}
    batch = ended(client, batch)
    assert (batch.status, batch.request_counts.total, batch.request_counts.completed) == ("completed", 2, 1)
    row = json.loads(client.files.content(batch.output_file_id).text)
    assert row["response"]["body"]["choices"][0]["message"]["content"] == MARKDOWN
    with client.files.with_streaming_response.content(batch.error_file_id) as answer:
        [error] = [json.loads(text) for text in answer.iter_lines()]
    assert (error["custom_id"], error["response"]["status_code"]) == ("c1", 404)
    assert batch.id in [each.id for each in client.batches.list(limit=5)]
    assert file.id in [each.id for each in client.files.list(purpose="batch")]
    assert client.files.delete(file.id).deleted


def test_a_batch_of_responses(client: OpenAI) -> None:
    url = "/v1/responses"
    file = client.files.create(file=("r.jsonl", lines(url, {"model": MODEL, "input": SAYS_MARKDOWN})), purpose="batch")
    batch = ended(client, client.batches.create(input_file_id=file.id, endpoint=url, completion_window="24h"))
    row = json.loads(client.files.content(batch.output_file_id).text)
    stored = client.responses.retrieve(row["response"]["body"]["id"])
    assert stored.output_text == MARKDOWN
    assert stored.usage is not None
    assert batch.usage.total_tokens == stored.usage.total_tokens


def test_errors_by_line_and_by_field(client: OpenAI) -> None:
    file = client.files.create(file=("r.jsonl", lines(CHAT, chat("a")) * 2 + b"\n{"), purpose="batch")
    batch = ended(client, client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h"))
    assert batch.status == "failed"
    assert {(error.line, error.code) for error in batch.errors.data} == {
        (1, "invalid_json_line"),
        (2, "invalid_json_line"),
    }
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("requests.csv", b"a"), purpose="batch")
    assert caught.value.param == "file"
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


def test_async(proxy: Proxy) -> None:
    async def work() -> None:
        async with AsyncOpenAI(base_url=proxy.base_url, api_key=proxy.key) as client:
            content = lines(CHAT, *(chat(f"Hello {number}") for number in range(10)))
            file = await client.files.create(file=("requests.jsonl", content), purpose="batch")
            batch = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")

            async def completed() -> bool:
                return (await client.batches.retrieve(batch.id)).status == "completed"

            await until(completed)
            batch = await client.batches.retrieve(batch.id)
            assert batch.output_file_id is not None
            rows = (await client.files.content(batch.output_file_id)).text.splitlines()
            assert {json.loads(row)["custom_id"] for row in rows} == {f"c{number}" for number in range(10)}

    asyncio.run(work())

"""Message batches with the official `anthropic` library."""

import asyncio
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from conftest import Proxy
from scenes import MARKDOWN, MODEL, SAYS_MARKDOWN

from tests.waiting import until


@pytest.fixture
def client(proxy: Proxy) -> Anthropic:
    return Anthropic(base_url=proxy.url, api_key=proxy.key)


def asked(custom_id: str, content: str, **fields: Any) -> Any:
    params = {"model": MODEL, "max_tokens": 500, "messages": [{"role": "user", "content": content}], **fields}
    return {"custom_id": custom_id, "params": params}


def test_a_batch_is_made_awaited_read_and_deleted(client: Anthropic) -> None:
    batch = client.messages.batches.create(
        requests=[asked("good", SAYS_MARKDOWN), asked("bad", "Hello!", model="nobody")]
    )
    assert batch.request_counts.processing == 2
    asyncio.run(until(lambda: client.messages.batches.retrieve(batch.id).processing_status == "ended"))
    results = {row.custom_id: row.result for row in client.messages.batches.results(batch.id)}
    good, bad = results["good"], results["bad"]
    assert good.type == "succeeded"
    assert good.message.content[0].type == "text"
    assert good.message.content[0].text == MARKDOWN
    assert bad.type == "errored"
    assert bad.error.error.type == "not_found_error"
    assert batch.id in [each.id for each in client.messages.batches.list(limit=1)]
    assert client.messages.batches.delete(batch.id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(batch.id)


def test_a_batch_is_cancelled(client: Anthropic) -> None:
    batch = client.messages.batches.create(
        requests=[asked(f"c{number}", '[[sandbox {"delay": 2}]]') for number in range(500)]
    )
    assert client.messages.batches.cancel(batch.id).processing_status in ("canceling", "ended")


def test_a_body_that_is_wrong(client: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"requests\.1\.custom_id"):
        client.messages.batches.create(requests=[asked("a", "x"), asked("a", "x")])

"""The official `openai` library where it waits long; the rest of it is tested by `make test`."""

from typing import Any

import pytest
from conftest import Proxy
from openai import OpenAI
from scenes import ENDS_LATE, MARKDOWN, MODEL


def ask(proxy: Proxy, **options: Any) -> Any:
    client = OpenAI(base_url=proxy.base_url, api_key=proxy.key)
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": ENDS_LATE}], **options)


@pytest.mark.parametrize("deployment", ["proxy", "blank_proxy"])
def test_a_silent_job_is_waited_for(deployment: str, request: pytest.FixtureRequest) -> None:
    assert ask(request.getfixturevalue(deployment)).choices[0].message.content == MARKDOWN


def test_a_silent_job_is_waited_for_in_a_stream(proxy: Proxy) -> None:
    assert "".join(chunk.choices[0].delta.content or "" for chunk in ask(proxy, stream=True)) == MARKDOWN

"""The examples of docs/client.md run as they stand."""

import ast
import re
from pathlib import Path
from types import CodeType
from typing import Any

from proxy.sandbox import SANDBOX_DATA_PLANE, SandboxOptions, serve_sandbox

PAGE = Path(__file__).parents[2] / "docs" / "client.md"


def examples() -> list[CodeType]:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return [
        compile(
            block, f"{PAGE.name}, example {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )
        for number, block in enumerate(blocks, 1)
    ]


async def test_the_examples_run_one_after_the_other() -> None:
    async with serve_sandbox(SandboxOptions(pending_s=0, running_s=0.05)) as sandbox:
        names: dict[str, Any] = {
            "__name__": "examples",
            "api_key": "key",
            "environment": sandbox.url,
            "data_plane_id": SANDBOX_DATA_PLANE,
            "webhook_url": "http://127.0.0.1:9/",
            "print": lambda *_: None,
        }
        for example in examples():
            running = eval(example, names)
            if running is not None:
                await running
        assert isinstance(names["weather"].degrees, int)
        assert len(names["answers"]) == 20
        assert sandbox.store.enqueued == 21


def test_every_public_call_has_an_example() -> None:
    from proxy.backends.narrative.client import NarrativeClient

    page = PAGE.read_text("utf-8")
    own = {"account", "base_url", "clock_ahead", "without_retries", "enqueue", "redact"}
    calls = {name for name in vars(NarrativeClient) if not name.startswith("_")} - own
    assert not {name for name in calls if f"{name}(" not in page}

"""What every client is put through, as messages and types: see docs/sandbox.md for the directives."""

import os
from typing import Literal
from uuid import uuid4

from pydantic import BaseModel

from tests.scripts import script

MODEL = "claude-4-5-haiku"
MARKDOWN = "Some **Markdown**:\n\n```python\n    x = 1\n```\n\nand an emoji: 👩🏽‍🚀, done."
SAYS_MARKDOWN = script(text=MARKDOWN)
ASKS_FOR_WEATHER = "What is the weather in Paris?"
WEATHER = "18 degrees and sunny"
CALLS_TWICE = script(
    calls=[
        {"name": "get_weather", "arguments": {"city": "Rome"}},
        {"name": "get_weather", "arguments": {"city": "Oslo"}},
    ]
)
TOO_LONG = script(fail="prompt is too long: 210000 tokens > 200000 maximum")
ENDLESS = script(state="running")
SILENCE_S = float(os.environ.get("CLIENTS_SILENCE_S", "0.4"))
"""How long the job that ends late is silent; heartbeats come eight times in it."""
ENDS_LATE = script(delay=SILENCE_S, text=MARKDOWN)
BREAKS = script(fail="The GPU melted")


class City(BaseModel):
    """A city."""

    name: str
    population: int
    climate: Literal["mild", "harsh"]
    districts: list[str]


def fails_once() -> str:
    """A message whose job fails at first; a repeat would be answered, and paid."""
    return script(key=uuid4().hex, attempts=[{"fail": "The GPU melted"}, {"text": "Answered to a repeat."}])

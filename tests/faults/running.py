"""What the tests of running jobs share."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.backends.narrative.client import ClientOptions, NarrativeClient
from proxy.backends.narrative.events import Event, JobsOptions
from proxy.backends.narrative.jobs import Jobs
from proxy.backends.narrative.types import InferenceConfig, RunMessage, RunRequest, TextBlock
from proxy.sandbox import SANDBOX_DATA_PLANE
from proxy.storage import Store

MODEL = "anthropic.claude-haiku-4.5"
CLIENT = ClientOptions(read_timeout=2.0, total_timeout=3.0, first_backoff=0.01, max_backoff=0.1)
OPTIONS = JobsOptions(
    lookups=(0.05, 0.1, 0.2),
    reads_per_second=50,
    lost_after=0.5,
    closing_grace=0.1,
)
PATIENCE = 60.0
"""Far longer than any test takes."""


def request(seconds: float = 0.0) -> RunRequest:
    """A job that the sandbox runs for `seconds`, after the time it is pending."""
    text = f'hello [[sandbox {{"delay": {seconds}}}]]'
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    return RunRequest(
        data_plane_id=SANDBOX_DATA_PLANE,
        model=MODEL,
        messages=(RunMessage(role="user", content=(TextBlock(text=text),)),),
        inference_config=InferenceConfig(output_format_schema=schema),
        tags=(f"rid:{uuid.uuid4()}",),
    )


def in_time(seconds: float = PATIENCE) -> float:
    return asyncio.get_running_loop().time() + seconds


class Engine:
    """A client, its jobs, and what they reported."""

    def __init__(self, client: NarrativeClient, jobs: Jobs, events: list[Event]) -> None:
        self.client = client
        self.jobs = jobs
        self.events = events

    async def run(self, seconds: float = 0.0) -> str:
        """Runs a job; returns the text of its output."""
        job = await self.jobs.run(request(seconds), self.client, deadline=in_time())
        assert job.state == "completed"
        assert job.result is not None
        return str(job.result.structured_output["text"])

    def count(self, kind: type[Event]) -> int:  # type: ignore[valid-type]
        return sum(isinstance(event, kind) for event in self.events)


@asynccontextmanager
async def engine(
    url: str,
    options: JobsOptions = OPTIONS,
    client_options: ClientOptions = CLIENT,
    *,
    store: Store | None = None,
    kind: type[NarrativeClient] = NarrativeClient,
) -> AsyncIterator[Engine]:
    events: list[Event] = []
    async with (
        kind("key", environment=url, options=client_options, observe=events.append) as client,
        Jobs(options, observe=events.append, store=store) as jobs,
    ):
        yield Engine(client, jobs, events)

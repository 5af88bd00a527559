"""Looking for a job by its tag ends, whatever happens."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.lookup import TagLookup
from proxy.errors import UpstreamError


class Broken:
    clock_ahead = 0.0

    async def list_jobs(self, **_: Any) -> Any:
        raise LookupError("a fault of ours")


async def test_a_fault_of_ours_leaves_nobody_waiting() -> None:
    lookup = TagLookup(cast(NarrativeClient, Broken()), "plane", ())
    with pytest.raises(UpstreamError) as caught:
        await lookup.scan(datetime.now(UTC), asyncio.get_running_loop().time() + 60)
    assert caught.value.code == "narrative_unavailable"

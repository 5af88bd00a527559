"""Looking for a job by its tag ends, whatever happens."""

import asyncio
import time
from typing import Any, cast

import pytest

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.submit import TagLookup


class Broken:
    clock_ahead = 0.0

    async def list_jobs(self, **_: Any) -> Any:
        raise LookupError("a fault of ours")


async def test_a_fault_of_ours_leaves_nobody_waiting() -> None:
    lookup = TagLookup(cast(NarrativeClient, Broken()), "plane", ())
    with pytest.raises(LookupError, match="a fault of ours"):
        await lookup.scan(time.time(), asyncio.get_running_loop().time() + 60)

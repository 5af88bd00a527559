"""The application's own threads."""

import asyncio
import threading
import time

from proxy.app import create_app
from proxy.settings import Settings


async def test_what_takes_long_to_compute_runs_one_after_the_other() -> None:
    def work() -> int:
        time.sleep(0.02)  # long enough that another thread would be started for the next
        return threading.get_ident()

    app = create_app(Settings(), sandbox=True)
    async with app.router.lifespan_context(app):
        used = await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)))
    assert len(set(used)) == 1
    assert used[0] != threading.get_ident()

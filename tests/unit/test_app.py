"""The application's own threads, and what it loads."""

import asyncio
import subprocess
import sys
import threading

from proxy.app import create_app
from proxy.settings import Settings
from tests.waiting import PATIENCE_S, suspended


async def test_what_takes_long_to_compute_runs_one_after_the_other() -> None:
    all_submitted = threading.Event()

    def work() -> int:
        assert all_submitted.wait(PATIENCE_S)  # busy, so that another thread would be started for the next
        return threading.get_ident()

    app = create_app(Settings(), sandbox=True)
    async with app.router.lifespan_context(app):
        tasks = [asyncio.create_task(asyncio.to_thread(work)) for _ in range(4)]
        await suspended(*tasks)
        all_submitted.set()
        used = await asyncio.gather(*tasks)
    assert len(set(used)) == 1
    assert used[0] != threading.get_ident()


def test_the_app_imports_only_what_its_settings_need() -> None:
    rarely = ("anthropic", "cryptography", "jsonschema", "jsonschema_specifications", "proxy.sandbox", "redis", "rstr")
    program = f"import sys, proxy.cli, proxy.app; print(*(set({rarely}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout.strip() == b""


def test_the_commands_load_the_server_only_to_serve() -> None:
    program = "import sys, proxy.cli; print(*({'proxy.app', 'aiohttp', 'starlette'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout.strip() == b""

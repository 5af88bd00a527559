"""Fixtures for tests over real sockets: a sandbox and a proxy in front of it, each a server of its own."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from proxy.app import create_app
from proxy.logs import configure_logging
from proxy.sandbox import SANDBOX_DATA_PLANE, SandboxOptions, create_sandbox
from proxy.settings import load_settings
from tests.serving import serve

hypothesis_settings.register_profile(
    "default",
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.getenv("CI")),
)
hypothesis_settings.load_profile("default")


configure_logging("json", "error")

# These have environments of their own, with what the others do not need: `make test-browser`, `test-deploy`, `test-package`.
collect_ignore = ["browser", "deploy", "package"]


class Deployment:
    """A proxy and the sandbox it runs on.

    Attributes:
        url: the proxy's base URL, without `/v1`.
        sandbox: the sandbox's app; `sandbox.state.store` holds its jobs.
        environ: the environment that the proxy was set up with.
    """

    def __init__(self, stack: ExitStack, environ: dict[str, str], options: dict[str, Any]) -> None:
        self.sandbox = create_sandbox(SandboxOptions(**{"pending_s": 0.0, "running_s": 0.0, **options}))
        self.sandbox_url = stack.enter_context(serve(self.sandbox))
        self.environ = {
            "NARRATIVE_ENVIRONMENT": self.sandbox_url,
            "NARRATIVE_API_KEY": "narrative-token",
            "NARRATIVE_DATA_PLANE_ID": SANDBOX_DATA_PLANE,
            "PROXY_API_KEYS": "test-key",
            "PROXY_ACCESS__FOLDER": stack.enter_context(TemporaryDirectory()),
            **environ,
        }
        settings = load_settings(self.environ)
        self.app = create_app(settings)
        self.url = stack.enter_context(serve(self.app, settings))
        self.http = stack.enter_context(
            httpx.Client(base_url=self.url, headers={"authorization": "Bearer test-key"}, timeout=30)
        )

    def jobs_submitted(self) -> int:
        return int(self.sandbox.state.store.enqueued)

    def in_flight(self) -> int:
        """Jobs that the proxy waits for."""
        return int(self.app.state.metrics.registry.get_sample_value("proxy_jobs_in_flight"))

    def submissions(self) -> list[dict[str, Any]]:
        """The bodies of all jobs the sandbox holds, oldest first."""
        return [job.body for job in self.sandbox.state.store.jobs()]

    def chat(self, body: dict[str, Any], **kwargs: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json={"model": "claude-4-5-haiku", **body}, **kwargs)


@pytest.fixture(scope="session")
def deployment() -> Iterator[Deployment]:
    """One for all tests that do not mind company."""
    with ExitStack() as stack:
        yield Deployment(stack, {}, {})


@pytest.fixture
def unbounded(tmp_path: Path) -> dict[str, str]:
    """Settings under which `claude-4-5-haiku` has no largest output."""
    models = tmp_path / "models.toml"
    models.write_text(
        '[[models]]\nid = "anthropic.claude-haiku-4.5"\nnames = ["claude-4-5-haiku"]\nmax_tokens = 4096\n'
    )
    return {"PROXY_CHAT__MODELS_FILE": str(models)}


@pytest.fixture
def make_deployment() -> Iterator[Any]:
    """Starts deployments with settings of their own: `make_deployment({"PROXY_…": …}, running_s=…)`."""
    with ExitStack() as stack:
        yield lambda environ=None, **options: Deployment(stack, environ or {}, options)

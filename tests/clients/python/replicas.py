"""Two replicas of the proxy on one Redis and one sandbox, one of which is killed while it answers."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import uuid4

from conftest import PYTHON, ROOT, Proxy, start_proxy
from relay import relayed


class Replicas:
    """What clients see of them.

    Attributes:
        url: of a relay in front, without `/v1`: to the first replica, and once that is killed to the second.
        killed: whether the first one was killed.
    """

    def __init__(self, sandbox: Proxy) -> None:
        self.url = ""
        self.killed = False
        self._sandbox = sandbox

    def jobs(self) -> int:
        """How many jobs were submitted so far, by any replica."""
        asked = urllib.request.Request(f"{self._sandbox.url}/jobs", headers={"authorization": "Bearer any"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return int(json.load(answer)["total_records"])


@contextmanager
def _redis() -> Iterator[str]:
    command = [PYTHON, "-m", "tests.redis_server"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        yield server.stdout.readline().strip()


@contextmanager
def killed_at(path: str, mark: bytes, running_s: float) -> Iterator[Replicas]:
    """Replicas of which the first is killed once its answer to a request for `path` has the mark.

    Args:
        running_s: how long each job takes.
    """
    with ExitStack() as stack:
        sandbox = stack.enter_context(start_proxy("sandbox", PROXY_SANDBOX__RUNNING_S=str(running_s)))
        settings = {
            "NARRATIVE_ENVIRONMENT": sandbox.url,
            "NARRATIVE_API_KEY": "any",
            "NARRATIVE_DATA_PLANE_ID": str(uuid4()),
            "PROXY_SECRET_KEY": uuid4().hex,
            "PROXY_STATE__URL": stack.enter_context(_redis()),
            "PROXY_MESSAGES__HOLD_S": str(running_s / 4),
        }
        first, second = (stack.enter_context(start_proxy("serve", **settings)) for _ in range(2))
        replicas = Replicas(sandbox)

        def kill() -> None:
            first.kill()
            relay.point_to(second.url)
            replicas.killed = True

        relay = stack.enter_context(relayed(first.url, path, mark, on_cut=kill))
        replicas.url = relay.url
        yield replicas

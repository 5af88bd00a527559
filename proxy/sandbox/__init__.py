"""An embedded Narrative: the same HTTP API on a real socket, for first runs, development and tests.

It receives only what Narrative would receive; docs/sandbox.md describes it.
"""

from proxy.sandbox.app import RunningSandbox, create_sandbox, serve_sandbox
from proxy.sandbox.faults import Fault, Faults
from proxy.sandbox.http import SANDBOX_DATA_PLANE, SandboxOptions
from proxy.sandbox.jobs import JobStore

__all__ = [
    "SANDBOX_DATA_PLANE",
    "Fault",
    "Faults",
    "JobStore",
    "RunningSandbox",
    "SandboxOptions",
    "create_sandbox",
    "serve_sandbox",
]

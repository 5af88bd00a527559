"""An embedded Narrative: the same wire on a real socket, for the first run, development and tests.

It sees only what Narrative would see. See docs/sandbox.md.
"""

from proxy.sandbox.app import create_sandbox
from proxy.sandbox.faults import Fault, Faults
from proxy.sandbox.jobs import Job
from proxy.sandbox.options import SANDBOX_DATA_PLANE, SandboxOptions
from proxy.sandbox.server import RunningSandbox, serve_sandbox
from proxy.sandbox.store import JobStore, Refused

__all__ = [
    "SANDBOX_DATA_PLANE",
    "Fault",
    "Faults",
    "Job",
    "JobStore",
    "Refused",
    "RunningSandbox",
    "SandboxOptions",
    "create_sandbox",
    "serve_sandbox",
]

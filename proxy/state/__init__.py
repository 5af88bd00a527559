"""What outlives a request: small records of submissions, kept in memory or shared between replicas."""

from proxy.state.memory import MemoryStore
from proxy.state.store import Store

__all__ = ["MemoryStore", "Store"]

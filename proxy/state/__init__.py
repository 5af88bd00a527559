"""What outlives a request: small records of submissions, kept in memory or shared between replicas."""

from proxy.state.memory import MemoryStore
from proxy.state.store import BY_ITSELF, Standing, Store

__all__ = ["BY_ITSELF", "MemoryStore", "Standing", "Store"]

"""Narrative's inference jobs: a typed client, and the engine that runs jobs to their end."""

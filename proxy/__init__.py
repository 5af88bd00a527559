"""OpenAI Chat Completions on top of Narrative model inference jobs."""

__version__ = "0.1.0"

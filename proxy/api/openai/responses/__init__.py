"""The Responses API: what Codex, openai-agents and the AI SDK speak by default."""

"""Anthropic's Messages API as an upstream: requests and events translated, tokens streamed as they come."""

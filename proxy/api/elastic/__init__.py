"""Elastic's inference API: named endpoints as the official `elasticsearch` clients call them. Its chat completions are OpenAI's."""

"""OpenAI's Chat Completions API, as Heroku extends it: request types, decoding, encoding, routes."""

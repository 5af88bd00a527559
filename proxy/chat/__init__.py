"""The OpenAI face: routes, bytes and errors as Chat Completions clients expect them."""

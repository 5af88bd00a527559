"""What every API needs of HTTP: the server's connections, middleware, request bodies and headers, JSON, streams."""

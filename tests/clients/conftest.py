"""The clients in these folders live in environments of their own: `make test-clients`."""

collect_ignore = ["python", "node"]

"""The neutral model between APIs and backends, and what every request passes on its way: history repair, routing, idempotency."""

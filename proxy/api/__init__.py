"""The APIs that clients speak, and what they share of HTTP."""

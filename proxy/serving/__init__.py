"""The protocol to what answers chat requests."""

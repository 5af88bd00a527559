"""Measurements. Never part of the test run."""

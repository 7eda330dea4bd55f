"""Requests: traces, length distributions and arrival processes."""

"""Measuring step latencies on live devices."""

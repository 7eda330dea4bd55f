"""Step latencies and where they come from."""

"""What an LLM costs to run: shapes, memory, communication and latency."""

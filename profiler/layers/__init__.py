"""The layers under test: one shard of a decoder, with a real KV cache."""

"""Replicas whose pipeline stages are on unlike GPUs."""

"""Pipelines across unlike machines: who holds which layers, and what flows through."""

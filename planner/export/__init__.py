"""Exporters: pure functions from a Plan to `{filename: text}`."""

"""Placement search methods, one file each."""

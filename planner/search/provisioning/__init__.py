"""Provisioning: a mathematical programme over replica configurations."""

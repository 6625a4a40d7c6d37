"""Tier 2: everything that knows Redis."""

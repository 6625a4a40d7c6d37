"""Backends and adapters for frameworks; each module needs its framework."""

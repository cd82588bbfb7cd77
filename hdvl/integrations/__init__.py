"""Connections to other systems. Each module is imported by that system, or by name from a config."""

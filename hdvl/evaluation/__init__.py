"""Benchmarks: what a model answered, scored as the official scorers score it."""
